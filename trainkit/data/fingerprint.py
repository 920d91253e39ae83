"""A hash of each split of the data, by which a resumed run detects that its data has changed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .dataset import Dataset
from .mapped import MappedRows

BYTES = 1 << 24  # of the numbers that are hashed, as float64: 16 MB are read and hashed in about 20 ms


def fingerprints(data: Dataset) -> dict[str, str]:
    """Return the fingerprints of `train.x`, `train.t`, `val.x`, ... of all splits with samples; of weights if there are any."""
    splits = {name: split for name, split in data.parts().items() if len(split)}
    tensors = {f"{name}.{key}": getattr(split, key) for name, split in splits.items() for key in ("x", "t", "weight")}
    return {key: fingerprint(v) for key, v in tensors.items() if v is not None}


def fingerprint(v: Tensor | MappedRows) -> str:
    """Return the SHA-256 over the shape of v (n, ...), whether it holds integers, and its rows in order as float64 or int64.

    It is the same in memory and in a file, on every device, and in float32 and float64 if these hold the same numbers. If v has
    more than BYTES, only evenly spaced rows that fit into BYTES are hashed, including the first and the last. This detects
    another order, other rows or a new row, but not always one changed row in millions.
    """
    n, max_rows = len(v), max(2, BYTES // (8 * max(1, v.shape[1:].numel())))
    real = v.dtype.is_floating_point
    h = hashlib.sha256(f"{tuple(v.shape)} {'real' if real else 'integer'}\n".encode())
    at = torch.arange(n) if n <= max_rows else torch.arange(max_rows) * (n - 1) // (max_rows - 1)
    for chunk in at.split(max(1, max_rows // 16)):
        whole = slice(int(chunk[0]), int(chunk[-1]) + 1) if n <= max_rows else None
        x = v[whole] if whole is not None else v[chunk.to(v.device)]
        h.update(x.detach().to("cpu", torch.float64 if real else torch.int64).contiguous().numpy().tobytes())
    return h.hexdigest()
