"""Batches: the one place where rows of a split become inputs of a net, in training, replay, evaluation and prediction.

Every batch is contiguous and begins at a multiple of ALIGN bytes. The rounding of a matrix product depends on the alignment of
its operands in memory (MKL has other code paths for unaligned rows). Without alignment the bits of a step would depend on where
in an epoch the run was resumed, and on whether the data is in memory or streamed from a file.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from trainkit.core.rng import generator

from .dataset import Split
from .mapped import MappedRows, prefetch

ALIGN = 64  # bytes: a cache line, the widest vector register, and the alignment of torch's allocations
GATHER_BYTES = 1 << 22  # gathered at once: a small epoch in one call, a large one in pieces that stay in the cache


def epoch_permutation(seed: int, epoch: int, n: int) -> Tensor:
    """Return the order of the n samples in `epoch`. It depends on nothing drawn before, so any step can be resumed."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def batches(split: Split, order: Tensor, size: int, first: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Yield (x, t) per batch of `size` samples in `order` (n,) or (r, n), from batch `first` on. The last may be smaller.

    Of samples with weights, yield (x, t, weight).
    """
    parts = (split.x, split.t) if split.weight is None else (split.x, split.t, split.weight)
    n = order.shape[-1]
    replicas = order.shape[0] if order.dim() == 2 else 1
    whole, rest = divmod(n, size)
    padded = _padded(parts, replicas * size)
    count = max(1, GATHER_BYTES // max(1, padded * _row_bytes(split.x)))  # batches per block
    blocks = [order[..., i * size : min(i + count, whole) * size] for i in range(first, whole, count)]
    sizes = [size] * len(blocks)
    if rest and first <= whole:
        blocks.append(order[..., whole * size :])
        sizes.append(rest)

    def read_block(key: tuple[Tensor, int]) -> list[tuple[Tensor, ...]]:
        index = _index(*key, _padded(parts, replicas * key[1]))
        shape = (replicas, key[1]) if order.dim() == 2 else (key[1],)
        return [_cut(gather(v, index), shape) for v in parts]

    keys = zip(blocks, sizes, strict=True)
    for block in prefetch(read_block, keys) if isinstance(split.x, MappedRows) else map(read_block, keys):
        yield from zip(*block, strict=True)


def iter_batches(x: Tensor | MappedRows, size: int) -> Generator[Tensor, None, None]:
    """Yield `x` in its own order, `size` samples at a time. Rows of a file are prefetched."""
    cuts = (slice(i, i + size) for i in range(0, len(x), size))
    yield from (aligned(x[cut]) for cut in cuts) if isinstance(x, Tensor) else prefetch(x.__getitem__, cuts)


def aligned(x: Tensor) -> Tensor:
    """Return `x` itself if it is contiguous and aligned, else a copy that is."""
    return x if x.is_contiguous() and x.data_ptr() % ALIGN == 0 else x.clone(memory_format=torch.contiguous_format)


def gather(x: Tensor | MappedRows, index: Tensor) -> Tensor:
    """Return x[index] for positions of any shape. In memory by index_select, which is up to five times as fast."""
    if isinstance(x, MappedRows):
        return x[index]
    return x.index_select(0, index.reshape(-1)).view(*index.shape, *x.shape[1:])


def _index(block: Tensor, size: int, padded: int) -> Tensor:
    """Return the positions of a block's batches, (batches, padded): replica after replica, then position 0 as padding."""
    index = block.reshape(*block.shape[:-1], -1, size)
    if index.dim() == 3:
        index = index.transpose(0, 1).flatten(1)
    pad = padded - index.shape[1]
    return torch.constant_pad_nd(index, (0, pad)) if pad else index


def _cut(rows: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return each batch of a gathered block, in its shape and unpadded: views that begin at multiples of ALIGN."""
    return rows[:, : math.prod(shape)].unflatten(1, shape).unbind(0)


def _padded(parts: Sequence[Tensor | MappedRows], rows: int) -> int:
    """Return the next number of rows of which each of the parts fills a multiple of ALIGN bytes."""
    step = max(ALIGN // math.gcd(ALIGN, _row_bytes(v)) for v in parts)
    return -(-rows // step) * step


def _row_bytes(x: Tensor | MappedRows) -> int:
    return x.shape[1:].numel() * x.element_size()
