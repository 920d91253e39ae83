"""Batches: the one place where rows of a split become inputs of a net, in training, replay, evaluation and prediction.

Every batch is contiguous and begins at a multiple of ALIGN bytes. The rounding of a matrix product depends on the alignment of
its operands in memory (MKL has other code paths for unaligned rows). Without alignment the bits of a step would depend on where
in an epoch the run was resumed, and on whether the data is in memory or streamed from a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainkit.core.counters import EpochDraws
from trainkit.core.rng import generator

from .dataset import Split
from .mapped import MappedRows

ALIGN = 64  # bytes: a cache line, the widest vector register, and the alignment of torch's allocations
GATHER_BYTES = 1 << 22  # gathered at once: a small epoch in one call, a large one in pieces that stay in the cache


def epoch_permutation(seed: int, epoch: int, n: int) -> Tensor:
    """Return the order of the n samples in `epoch`. It depends on nothing drawn before, so any step can be resumed."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


class Augment(Protocol):
    """Changes samples that were read for a training step: see `transforms/augment.py`."""

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        index: Tensor,
        replica: Tensor | None,
        draws: EpochDraws,
        read: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]: ...


def batches(
    split: Split,
    order: Tensor,
    size: int,
    first: int = 0,
    draws: EpochDraws | None = None,
    augment: Augment | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (x, t) per batch of `size` samples in `order` (n,) or (r, n), from batch `first` on. The last may be smaller.

    Of samples with weights, yield (x, t, weight).
    draws: the random numbers of the epoch, if the batches are for training steps: for samples that change when they are read,
    and for `augment`. None in an evaluation.
    """
    n = order.shape[-1]
    replicas = order.shape[0] if order.dim() == 2 else 1
    read = (split.x, split.t) if split.weight is None else (split.x, split.t, split.weight)
    source = split.x.rows if isinstance(split.x, MappedRows) else None
    by_batch = source is not None and source.by_batch

    def padded(size: int) -> int:
        return replicas * size if by_batch else _padded(read, replicas * size)

    whole, rest = divmod(n, size)
    count = 1 if by_batch else max(1, GATHER_BYTES // max(1, padded(size) * _row_bytes(split.x)))  # batches per block
    blocks = [order[..., i * size : min(i + count, whole) * size] for i in range(first, whole, count)]
    sizes = [size] * len(blocks)
    if rest and first <= whole:
        blocks.append(order[..., whole * size :])
        sizes.append(rest)

    def begin(key: tuple[Tensor, int]) -> tuple[Tensor, int, Tensor | None, Callable[[], tuple[Tensor, Tensor]]]:
        block, size = key
        index, replica = _index(block, size, padded(size)), None
        if draws is not None and replicas > 1:
            own = torch.arange(replicas, device=order.device).repeat_interleave(size)
            replica = torch.constant_pad_nd(own, (0, index.shape[1] - len(own))).repeat(len(index))
        return index, size, replica, _start(split, index.reshape(-1), replica, draws)

    def finish(
        begun: tuple[Tensor, int, Tensor | None, Callable[[], tuple[Tensor, Tensor]]],
    ) -> list[tuple[Tensor, ...]]:
        index, size, replica, pending = begun
        x, t = pending()
        if augment is not None and draws is not None:
            x, t = augment(x, t, index.reshape(-1), replica, draws, lambda i, r: _start(split, i, r, draws)())
        parts = (x, t) if split.weight is None else (x, t, gather(split.weight, index.reshape(-1)))
        shape = (replicas, size) if order.dim() == 2 else (size,)
        return [_cut(v.unflatten(0, index.shape), shape) for v in parts]

    keys = zip(blocks, sizes, strict=True)
    for block in source.ahead(begin, finish, keys) if source is not None else map(finish, map(begin, keys)):
        yield from zip(*block, strict=True)


def _start(
    split: Split, index: Tensor, replica: Tensor | None, draws: EpochDraws | None
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Begin to read the samples `index` (k,) of a split. Return a function that returns their x and t."""
    if isinstance(split.x, Tensor):
        return lambda: (gather(split.x, index), gather(split.t, index))
    pending = split.x.start(index, draws, replica)

    def finish() -> tuple[Tensor, Tensor]:
        x, t = pending()
        return x, gather(split.t, index) if t is None else t.to(split.t)

    return finish


def iter_batches(x: Tensor | MappedRows, size: int) -> Generator[Tensor, None, None]:
    """Yield `x` in its own order, `size` samples at a time. Rows that are not in memory are read ahead."""
    cuts = (slice(i, i + size) for i in range(0, len(x), size))
    yield from (aligned(x[cut]) for cut in cuts) if isinstance(x, Tensor) else x.each(cuts)


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
