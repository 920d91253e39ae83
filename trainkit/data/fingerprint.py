"""A hash of each part of the data: a resumed run notices that its data have changed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .dataset import Dataset
from .mapped import MappedRows

BYTES = 1 << 24  # of the numbers that are looked at, as float64: 16 MB are read and hashed in some 20 ms


def fingerprints(data: Dataset) -> dict[str, str]:
    """`train.x`, `train.t`, `val.x`, ... to the fingerprint of these numbers, of the parts that there are."""
    parts = {name: part for name, part in data.parts().items() if len(part)}
    return {f"{name}.{key}": fingerprint(getattr(part, key)) for name, part in parts.items() for key in ("x", "t")}


def fingerprint(v: Tensor | MappedRows) -> str:
    """SHA-256 over the shape of v (n, ...), whether it is of integers, and its rows in order as float64.

    So it is the same in memory and in a file, on each device, and in float32 and float64 where these hold the same numbers. Of
    a part of more than BYTES only evenly spaced rows count, as many as fit into BYTES, including the first and the last:
    another order, other rows or a new row is noticed, one changed row in millions may not be.
    """
    n, most = len(v), max(2, BYTES // (8 * max(1, v.shape[1:].numel())))
    real = v.dtype.is_floating_point
    h = hashlib.sha256(f"{tuple(v.shape)} {'real' if real else 'integer'}\n".encode())
    at = torch.arange(n) if n <= most else torch.arange(most) * (n - 1) // (most - 1)
    for chunk in at.split(max(1, most // 16)):
        whole = slice(int(chunk[0]), int(chunk[-1]) + 1) if n <= most else None
        x = v[whole] if whole is not None else v[chunk.to(v.device)]
        h.update(x.detach().to("cpu", torch.float64 if real else torch.int64).contiguous().numpy().tobytes())
    return h.hexdigest()
