"""Batches: the one place where rows of a part become what a net is given, in training, replay, evaluation and prediction.

Every batch is contiguous and begins at a multiple of ALIGN bytes. A matrix product rounds by where its operands lie in memory
(MKL takes other paths for rows that are not aligned), so without this the bits of a step would depend on where in an epoch the
run was resumed, and on whether the data is in memory or streamed from a file.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from trainkit.core.rng import generator

from .dataset import Split
from .mapped import MappedRows, prefetch

ALIGN = 64  # bytes: a cache line, the widest vector register, and what torch aligns each allocation to
GATHER_BYTES = (
    1 << 22
)  # bytes of input gathered at once: a small epoch in one call, a large one in pieces that stay in the cache


def epoch_permutation(seed: int, epoch: int, n: int) -> Tensor:
    """The order of the n samples in `epoch`: a seek away from any step, whatever was drawn before."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def batches(part: Split, order: Tensor, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """(x, t) of each batch of `size` samples in `order` (n,) or (r, n), from batch `first` on; the last may be shorter."""
    n = order.shape[-1]
    replicas = order.shape[0] if order.dim() == 2 else 1
    whole, rest = divmod(n, size)
    padded = _padded(part, replicas * size)
    count = max(1, GATHER_BYTES // max(1, padded * _row_bytes(part.x)))  # batches in a block
    blocks = [order[..., i * size : min(i + count, whole) * size] for i in range(first, whole, count)]
    sizes = [size] * len(blocks)
    if rest and first <= whole:
        blocks.append(order[..., whole * size :])
        sizes.append(rest)

    def read_block(key: tuple[Tensor, int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        index = _index(*key, _padded(part, replicas * key[1]))
        shape = (replicas, key[1]) if order.dim() == 2 else (key[1],)
        return _cut(gather(part.x, index), shape), _cut(gather(part.t, index), shape)

    keys = zip(blocks, sizes, strict=True)
    for x, t in prefetch(read_block, keys) if isinstance(part.x, MappedRows) else map(read_block, keys):
        yield from zip(x, t, strict=True)


def iter_batches(x: Tensor | MappedRows, size: int) -> Generator[Tensor, None, None]:
    """`x` in its own order, `size` samples at a time; from a file, read ahead."""
    cuts = (slice(i, i + size) for i in range(0, len(x), size))
    yield from (aligned(x[cut]) for cut in cuts) if isinstance(x, Tensor) else prefetch(x.__getitem__, cuts)


def aligned(x: Tensor) -> Tensor:
    """`x` itself where it is contiguous and aligned, else a copy that is."""
    return x if x.is_contiguous() and x.data_ptr() % ALIGN == 0 else x.clone(memory_format=torch.contiguous_format)


def gather(x: Tensor | MappedRows, index: Tensor) -> Tensor:
    """x[index] for positions of any shape. In memory by index_select: up to five times as fast."""
    if isinstance(x, MappedRows):
        return x[index]
    return x.index_select(0, index.reshape(-1)).view(*index.shape, *x.shape[1:])


def _index(block: Tensor, size: int, padded: int) -> Tensor:
    """The positions of a block's batches, (batches, padded): of each the replicas one after the other, then position 0."""
    index = block.reshape(*block.shape[:-1], -1, size)
    if index.dim() == 3:
        index = index.transpose(0, 1).flatten(1)
    pad = padded - index.shape[1]
    return torch.constant_pad_nd(index, (0, pad)) if pad else index


def _cut(rows: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Each batch of a gathered block, in its shape and without its padding: a view that begins at a multiple of ALIGN."""
    return rows[:, : math.prod(shape)].unflatten(1, shape).unbind(0)


def _padded(part: Split, rows: int) -> int:
    """The next number of rows that is a whole number of ALIGN bytes, of x and of t."""
    step = max(ALIGN // math.gcd(ALIGN, _row_bytes(v)) for v in (part.x, part.t))
    return -(-rows // step) * step


def _row_bytes(x: Tensor | MappedRows) -> int:
    return x.shape[1:].numel() * x.element_size()
