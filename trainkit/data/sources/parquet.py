"""Parquet files: tables with types, which may be larger than a CSV file can be."""

from __future__ import annotations

from typing import Unpack

from trainkit.data.dataset import Dataset
from trainkit.data.tables.dataset import dataset
from trainkit.data.tables.memory import ParquetTable
from trainkit.data.tables.options import TableOptions, checked

from .recorded import source


@source
def parquet(
    path: str,
    target: str | list[str],
    test: float | str = 0.2,
    *,
    schema: dict[str, object] | None = None,
    **options: Unpack[TableOptions],
) -> Dataset:
    """Read the Parquet file `path`, whose column `target` is to be predicted. The arguments are those of `csv`.

    One column is read at a time: beside x (n, width), float64, memory holds one column of the file.
    A null or NaN is missing; texts such as NA are texts, unless `missing_values` lists them.
    Raises UserError with file, column and row (the first is row 0) for a file or a value that does not fit.
    """
    options = checked(options, TableOptions)
    held = ParquetTable(test) if isinstance(test, str) else test
    return dataset(ParquetTable(path), target, held, options, schema)
