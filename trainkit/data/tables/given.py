"""Rows that are given to a trained model: numbers by position, or columns by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr

from .encode import read_rows


def as_numbers(rows: Any, schema: Mapping[str, object], options: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return rows as the numbers (n, width) that a net takes, before scaling, and the names of columns that are ignored.

    rows: with a `schema`, anything with named columns that `read_rows` takes. Anything else is returned as it is, so is a
    frame without a schema. options: those of `read_rows`.
    Raises UserError for columns that do not fit the schema, and for named columns without a schema.
    """
    if not has_names(rows) or (not schema and hasattr(rows, "to_numpy")):
        return rows, ()
    if schema:
        read = read_rows(rows, schema, inputs_only=True, **options)
        return read.x, read.ignored
    what = short_repr(str(rows)) if isinstance(rows, (str, Path)) else f"a {type(rows).__name__} with named columns"
    raise UserError(f"predict: x is {what}, but the model was not trained on a table; give numbers, one row per sample")


def has_names(rows: Any) -> bool:
    """Return whether rows have named columns: a frame, a dict of columns, a list of dicts, or a file."""
    if isinstance(rows, (str, Path, Mapping)):
        return True
    if isinstance(rows, Sequence):
        return len(rows) > 0 and isinstance(rows[0], Mapping)
    return hasattr(rows, "columns") or hasattr(rows, "__arrow_c_stream__")
