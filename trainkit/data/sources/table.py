"""Tables given in Python: frames of pandas or polars, Arrow tables, dicts."""

from __future__ import annotations

from typing import Any, Unpack

from trainkit.data.dataset import Dataset
from trainkit.data.tables.dataset import dataset
from trainkit.data.tables.memory import ArrowTable
from trainkit.data.tables.options import TableOptions, checked


def table(
    rows: Any,
    target: str | list[str],
    test: Any = 0.2,
    *,
    schema: dict[str, object] | None = None,
    **options: Unpack[TableOptions],
) -> Dataset:
    """Return the dataset of rows with named columns, of which `target` is to be predicted. The arguments are those of `csv`.

    rows: a pandas or polars frame, a pyarrow.Table, a list of dicts, or a dict of columns (lists, arrays, tensors).
    test: the share held out, or other rows.
    None, a null or NaN is missing; texts such as NA are texts, unless `missing_values` lists them. A categorical column of
    pandas is a category, also of numbers. The index of a frame is not a column.
    Raises UserError with column and row (the first is row 0) for rows or a value that does not fit.
    """
    options = checked(options, TableOptions)
    held = test if isinstance(test, (int, float)) else ArrowTable(test, "data.test")
    return dataset(ArrowTable(rows), target, held, options, schema)
