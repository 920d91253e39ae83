"""`python -m trainkit.data.fetch breast-cancer DEST`: a CSV file with a header, from the data that scikit-learn ships."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from ..errors import UserError


def breast_cancer(dest: str) -> int:
    """Writes 569 rows of 30 measurements and `diagnosis` (malignant or benign) to `dest`; returns the number of rows.

    The numbers are copied as text. Source: Wolberg, Street, Mangasarian 1995, Breast Cancer Wisconsin (Diagnostic).
    """
    try:
        datasets = import_module("sklearn.datasets")
    except ImportError as error:
        raise UserError(
            f"fetch: {sys.executable} has no scikit-learn, which ships the data; pip install scikit-learn"
        ) from error
    source = Path(str(datasets.__file__)).with_name("data") / "breast_cancer.csv"
    first, *rows = source.read_text(encoding="utf-8").split()
    _, features, *classes = first.split(",")  # 569,30,malignant,benign
    header = [*datasets.load_breast_cancer().feature_names, "diagnosis"]
    if len(header) != int(features) + 1:
        raise UserError(
            f"fetch: {source} has {features} features, scikit-learn names {len(header) - 1}; reinstall scikit-learn"
        )
    lines = [",".join(header)]
    for row in rows:
        numbers, _, label = row.rpartition(",")
        lines.append(f"{numbers},{classes[int(label)]}")
    target = Path(dest)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, target)  # all of it or none
    return len(rows)


def main(argv: list[str]) -> int:
    match argv:
        case ["breast-cancer", dest]:
            try:
                print(f"{dest}: {breast_cancer(dest)} rows")
            except (UserError, OSError) as error:
                print(error, file=sys.stderr)
                return UserError.code
            return 0
        case _:
            print("usage: python -m trainkit.data.fetch breast-cancer DEST", file=sys.stderr)
            return UserError.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
