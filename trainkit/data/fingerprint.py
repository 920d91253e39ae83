"""A hash of each split of the data, by which a resumed run detects that its data has changed, and one of each row."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trainkit.core.counters import GAMMA, mix, shift

from .dataset import Dataset, Split
from .mapped import MappedRows
from .statistics import blocks

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


def row_fingerprints(split: Split) -> Tensor:
    """Return a hash of the inputs and of the class or the targets of each row, (n,) int64.

    It is the same at every place in the data, in memory and in a file, and in float32 and float64 if these hold the same
    numbers. A row of numbers with the bits b (float64) has mix(Σ mix(j GAMMA) (b_j ^ b_j >> 32)), j from 1, with `mix` of
    `core.counters`: a linear hash with a random multiplier per column, of which 64 bits are kept.
    """
    t = split.t if split.label is None else split.label
    return mix(_sums(split.x, 1) + _sums(t, 1 + split.x.shape[1:].numel()))


def keyed(rows: Tensor, key: Tensor | None) -> Tensor:
    """Return the hashes (n,) of rows together with the key (n,) by which they were drawn; without a key, those of the rows."""
    return rows if key is None else mix(rows + _sums(key, 1))


def _sums(v: Tensor | MappedRows, column: int) -> Tensor:
    """Return (n,): the sum over each row's numbers, of which the first is in column `column`."""
    factors = mix(torch.arange(column, column + v.shape[1:].numel()) * GAMMA)
    sums = [torch.empty(0, dtype=torch.int64)]
    for block in blocks(v):
        x = block.detach().to("cpu", torch.float64).reshape(len(block), -1) + 0.0  # so that -0 becomes 0
        if x.isnan().any():
            x = torch.where(x.isnan(), torch.nan, x)
        bits = x.view(torch.int64)
        sums.append((bits ^ shift(bits, 32)).mul_(factors).sum(1))
    return torch.cat(sums)
