"""NumPy arrays as tensors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainkit.core.errors import UserError

KINDS = {"O": "objects", "U": "texts", "S": "texts", "M": "dates", "m": "durations", "V": "records"}


def from_numpy(value: np.ndarray[Any, Any]) -> Tensor:
    """Return an array of any strides and byte order as a tensor, on its own memory where torch can read that.

    Unsigned integers of 16 bits or more become int64, longer floats than float64 become float64. trainkit never writes to data
    that it was given, so the array may be read-only. Raises UserError for texts, objects and dates.
    """
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind not in "biufc":
        raise UserError(f"is an array of {KINDS.get(kind, 'no numbers')} ({value.dtype}); give numbers")
    wide = {"u": "i8" if size > 1 else None, "f": "f8" if size > 8 else None}.get(kind)
    native = np.ascontiguousarray(value, dtype=wide or value.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of memory that is read-only
        return torch.from_numpy(native).view(value.shape)
