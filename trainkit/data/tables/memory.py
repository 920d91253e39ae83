"""A table given in Python, and a Parquet file, whose columns are read one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainkit.core.errors import UserError

from .base import Kind, Table
from .csv_file import CsvTable, require_pyarrow

TAKEN = "a pandas or polars frame, a pyarrow.Table, a list of dicts, or a dict of columns"
PARQUET = (".parquet", ".pq")


class ArrowTable(Table):
    """Rows given in Python: a pandas or polars frame, a pyarrow.Table, a list of dicts, a dict of columns, a dict of one row.

    Raises UserError if `rows` is something else, or if a column has values of several types.
    """

    is_file = False

    def __init__(self, rows: Any, name: str = "rows") -> None:
        require_pyarrow()
        self.name = name
        self.table = _arrow(rows, name)
        self.names = list(self.table.column_names)

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    def load(self, kinds: Mapping[str, Kind | None], missing_values: Sequence[str]) -> None:
        if self.rows == 0:
            raise UserError(f"{self.name}: no rows; needs at least one")

    def column(self, name: str) -> Any:
        return self.table.column(name)

    def place(self, row: int) -> str:
        return f"row {row}"


class ParquetTable(Table):
    """The rows of a Parquet file. A column is in memory only while it is used, so that the file may be large."""

    def __init__(self, path: str) -> None:
        require_pyarrow()
        import pyarrow as pa
        from pyarrow import parquet

        if not Path(path).is_file():
            raise UserError(f"data: no file {path!r}; give the path of a Parquet file, absolute or relative to {Path.cwd()}")
        self.name = path
        try:
            types = parquet.read_schema(path)
            texts = [f.name for f in types if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
            self.file = parquet.ParquetFile(path, memory_map=True, read_dictionary=texts)
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: cannot be read as Parquet: {error}") from error
        self.names = list(types.names)

    @property
    def rows(self) -> int:
        return int(self.file.metadata.num_rows)

    def load(self, kinds: Mapping[str, Kind | None], missing_values: Sequence[str]) -> None:
        if self.rows == 0:
            raise UserError(f"{self.name}: no rows; needs at least one")

    def column(self, name: str) -> Any:
        try:
            return self.file.read(columns=[name]).column(name)
        except (ValueError, OSError, KeyError) as error:
            raise UserError(f"{self.name}: column {name!r} cannot be read: {error}") from error

    def place(self, row: int) -> str:
        return f"row {row}"


def opened(rows: Any, dialect: Mapping[str, Any]) -> Table:
    """Return the table of a path, CSV or (.parquet, .pq) Parquet, or of rows given in Python."""
    if isinstance(rows, (str, Path)):
        return ParquetTable(str(rows)) if Path(rows).suffix.lower() in PARQUET else CsvTable(str(rows), dialect)
    return ArrowTable(rows)


def _arrow(rows: Any, name: str) -> Any:
    """Return rows as a pyarrow.Table. NaN in a pandas column is missing."""
    import pyarrow as pa

    try:
        if isinstance(rows, pa.Table):
            return rows
        if isinstance(rows, Mapping):
            if rows and not any(map(_is_column, rows.values())):
                rows = {key: [value] for key, value in rows.items()}
            return _columns({str(key): _plain(value) for key, value in rows.items()}, name)
        if type(rows).__module__.partition(".")[0] == "pandas":
            if not hasattr(rows, "columns"):  # a Series: one row of a frame
                return _arrow(rows.to_dict(), name)
            rows = rows.rename(columns=str)
            return pa.Table.from_pandas(rows, preserve_index=False)
        if hasattr(rows, "__arrow_c_stream__"):
            return pa.table(rows)
        if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)) and all(isinstance(r, Mapping) for r in rows):
            names = dict.fromkeys(str(key) for row in rows for key in row)
            return _columns({key: _plain([row.get(key) for row in rows]) for key in names}, name)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: cannot be read as a table: {error}; give each column values of one type") from error
    raise UserError(f"{name}: is a {type(rows).__name__}; give {TAKEN}")


def _columns(columns: Mapping[str, Any], name: str) -> Any:
    import pyarrow as pa

    arrays = {}
    for key, values in columns.items():
        try:
            arrays[key] = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as error:
            raise UserError(f"{name}: column {key!r}: {error}; give it values of one type") from error
    return pa.table(arrays)


def _plain(values: Any) -> Any:
    """Return a tensor as an array of NumPy, and scalars of NumPy and torch in a list as Python's; anything else as it is."""
    if isinstance(values, list):
        return [value.item() if isinstance(value, np.generic) or hasattr(value, "detach") else value for value in values]
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _is_column(value: Any) -> bool:
    """Return whether the value of a dict holds many values, not one: a list, an array, a tensor, a Series."""
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) and getattr(value, "ndim", 1) > 0
