"""Columns of a Hugging Face dataset as tensors. Its tables are Arrow's, so columns of numbers are read without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainkit.core.errors import UserError, suggest

from .tensors import as_tensor

TARGETS = ("label", "labels", "target", "targets", "class", "y", "t")  # names of a column of targets, by habit


def is_hugging_face(value: Any) -> bool:
    """Return whether a value is a `datasets.Dataset`. Raises UserError for a DatasetDict and for an IterableDataset."""
    if type(value).__module__.partition(".")[0] != "datasets":
        return False
    if isinstance(value, dict):
        raise UserError(
            f"data: is a DatasetDict of {', '.join(value)}; give one split, data['train'], or samples(train, val, test)"
        )
    if not hasattr(value, "__getitem__") or not hasattr(value, "features"):
        raise UserError(f"data: is a {type(value).__name__} of datasets; give a map-style one, streaming=False")
    return True


def chosen(data: Any, x: str | Sequence[str] | None, t: str | None) -> tuple[list[str], str]:
    """Return the columns of x, and that of t. Without names: the one with a target's name or classes is t, the other is x.

    Raises UserError for an unknown column, and where it is not clear which column is which.
    """
    names = list(data.column_names)
    if t is None:
        found = [n for n in names if type(data.features[n]).__name__ == "ClassLabel" or n.lower() in TARGETS]
        if len(found) != 1 or (x is None and len(names) != 2):
            raise UserError(f"data: has the columns {', '.join(names)}; name those to use: samples(data, x='...', t='...')")
        t = found[0]
    columns = [x] if isinstance(x, str) else [n for n in names if n != t] if x is None else list(x)
    for name in (*columns, t):
        if name not in names:
            raise UserError(f"data: no column {name!r}{suggest(name, names)}")
    return columns, t


def label_names(data: Any, t: str) -> list[str] | None:
    """Return the names of the classes of a ClassLabel column, None for any other."""
    return list(data.features[t].names) if type(data.features[t]).__name__ == "ClassLabel" else None


def is_numeric(data: Any, name: str) -> bool:
    """Return whether a column holds numbers, or lists or arrays of numbers."""
    feature = data.features[name]
    while type(feature).__name__ in ("List", "LargeList", "Sequence"):
        feature = feature.feature
    kind = str(getattr(feature, "dtype", ""))
    return type(feature).__name__ == "ClassLabel" or kind.startswith(("int", "uint", "float", "bool"))


def stacked(data: Any, names: Sequence[str]) -> Tensor:
    """Return columns as one tensor: (n,) or (n, ...) for one, (n, k) for several, joined from left to right."""
    table = data.with_format("arrow")[:]
    found = [_column(table.column(name), name) for name in names]
    if len(found) == 1:
        return found[0]
    dtype = torch.result_type(found[0], found[-1]) if len({f.dtype for f in found}) < 3 else torch.float64
    return torch.cat([f.reshape(len(f), -1).to(dtype) for f in found], 1)


def _column(column: Any, name: str) -> Tensor:
    values, shape = column.combine_chunks(), []
    values = getattr(values, "storage", values)
    n = len(values)
    while hasattr(values, "flatten") and values.type.num_fields == 1:
        if values.null_count:
            raise UserError(f"data: column {name!r} misses values in {values.null_count} rows; fill them, or remove the rows")
        inner = values.flatten()
        sizes = (
            np.asarray(values.value_lengths())
            if hasattr(values, "value_lengths")
            else np.array([len(inner) // max(1, len(values))])
        )
        if len(values) and sizes.min() != sizes.max():
            raise UserError(
                f"data: column {name!r} has lists of {sizes.min()} to {sizes.max()} values; give all rows one length"
            )
        shape.append(len(inner) // max(1, len(values)))
        values = inner
    if values.null_count:
        raise UserError(f"data: column {name!r} misses {values.null_count} values; fill them, or remove the rows")
    found: Tensor = as_tensor(np.asarray(values.to_numpy(zero_copy_only=False)))
    return found.reshape(n, *shape)
