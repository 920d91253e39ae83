"""Inputs that are not in memory: rows are read when they are indexed, blocks ahead of the step that needs them."""

from __future__ import annotations

import math
import mmap
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from trainkit.core.counters import EpochDraws
from trainkit.core.errors import UserError

Transform = Callable[[Tensor], Tensor]  # rows (k, ...) -> rows, each independent of the others
Pending = Callable[[], tuple[Tensor, Tensor | None]]  # waits for rows: their x, and their t if it was read with them
Key = TypeVar("Key")
Begun = TypeVar("Begun")
Value = TypeVar("Value")


class RowSource(Protocol):
    """Where rows are: a file (`Rows`), or a map-style dataset (`map_style.py`).

    name: for messages. by_batch: read rows batch by batch, without padding, since each costs more than the copy of its bytes.
    may_miss: whether a number that was read can be NaN or infinite. is_plain: whether float64 computes the statistics of its
    numbers without a shift (see `statistics.Frame`).
    """

    name: str
    shape: torch.Size
    by_batch: bool

    @property
    def may_miss(self) -> bool: ...

    @property
    def is_plain(self) -> bool: ...

    def __len__(self) -> int: ...

    def start(self, index: slice | Tensor, draws: EpochDraws | None, replica: Tensor | None) -> Pending:
        """Begin to read the rows `index` (k,). draws: the random numbers of a training step; None in an evaluation."""

    def ahead(
        self, begin: Callable[[Key], Begun], finish: Callable[[Begun], Value], keys: Iterable[Key]
    ) -> Generator[Value, None, None]:
        """Yield finish(begin(key)) for each key, in order, where `begin` starts reads ahead of the block in use."""

    def opened(self) -> AbstractContextManager[None]:
        """Keep what reads need, such as worker processes, until the end of the `with` block."""


class Rows:
    """The array (n, ...) of `dtype` that begins at byte `offset` of a file, mapped: only rows that are read enter memory.

    swap: the array's byte order is not this machine's. The file is held open, so it remains readable if it is deleted or
    replaced under its name. Its size and modification time are checked before each read; UserError if they have changed.
    There is no protection against a file that is truncated while a block is being read, which ends the process (SIGBUS). A
    failing disk may end it in the same way.
    """

    by_batch = False

    def __init__(self, path: Path, dtype: torch.dtype, shape: tuple[int, ...], offset: int, swap: bool) -> None:
        needed = math.prod(shape) * dtype.itemsize
        try:
            self.fd = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self.fd)
            memory = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: the file has become empty
            raise UserError(f"{path}: cannot be mapped, {error}; copy it to a disk of this machine") from error
        self.stamp = self._stamp()
        if len(memory) < offset + needed:
            raise UserError(f"{path}: {len(memory):,} bytes, was longer before; wait until it is written completely")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the memory is read-only; trainkit never writes to it
            self.bytes = torch.frombuffer(memory, dtype=torch.uint8, count=needed, offset=offset).view(shape[0], -1)
        self.path, self.name, self.dtype, self.shape, self.swap = path, str(path), dtype, torch.Size(shape), swap

    @property
    def may_miss(self) -> bool:
        """Whether a number can be NaN or infinite; an integer cannot."""
        return self.dtype.is_floating_point

    @property
    def is_plain(self) -> bool:
        """Whether its numbers are integers of 16 bits or fewer, whose statistics float64 computes without overflow."""
        return not self.may_miss and self.dtype.itemsize <= 2

    def __len__(self) -> int:
        return self.shape[0]

    def _stamp(self) -> tuple[int, int]:
        found = os.fstat(self.fd)
        return found.st_size, found.st_mtime_ns

    def read(self, index: slice | Tensor) -> Tensor:
        """Return a copy of the rows at `index` (k,), in its order, as the file holds them: (k, ...) of `dtype`."""
        if self._stamp() != self.stamp:
            raise UserError(f"{self.path}: changed while it was being read; train on a file that no other program writes")
        if isinstance(index, slice):
            raw = self.bytes[index].clone()
        else:
            raw = self.bytes.index_select(0, index)  # ten times as fast as bytes[index]
        if self.swap:
            raw = raw.view(-1, self.dtype.itemsize).flip(1)
        return raw.view(-1).view(self.dtype).view(-1, *self.shape[1:])

    def start(self, index: slice | Tensor, draws: EpochDraws | None, replica: Tensor | None) -> Pending:
        """Return a function that reads the rows. They are those of the file, in every epoch."""
        return lambda: (self.read(index), None)

    def ahead(
        self, begin: Callable[[Key], Begun], finish: Callable[[Begun], Value], keys: Iterable[Key]
    ) -> Generator[Value, None, None]:
        """Yield finish(begin(key)) for each key, computed by a thread (see `prefetch`)."""
        yield from prefetch(lambda key: finish(begin(key)), keys)

    def opened(self) -> AbstractContextManager[None]:
        return nullcontext()


class MappedRows:
    """A split's `x` that is not in memory: the rows at `index` (n,) of a source, or all, transformed when they are read.

    Indexing by a slice or by positions of any shape gives tensors: `x[i:j]` (j - i, ...), `x[order]` (*order.shape, ...).
    transforms: the functions that turn the source's numbers into the net's input, first to last. Each is applied to every row
    independently, so that the bits do not depend on the size of the blocks. of_targets: those of targets that are read with x.
    """

    def __init__(
        self,
        rows: RowSource,
        index: Tensor | None = None,
        transforms: tuple[Transform, ...] = (),
        of_targets: tuple[Transform, ...] = (),
    ) -> None:
        self.rows, self.index, self.transforms, self.of_targets = rows, index, transforms, of_targets
        first = self[:1]
        self.shape = torch.Size([len(rows) if index is None else len(index), *first.shape[1:]])
        self.dtype, self.device = first.dtype, first.device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: slice | Tensor) -> Tensor:
        x = self.start(at.reshape(-1) if isinstance(at, Tensor) else at)()[0]
        return x.view(*at.shape, *x.shape[1:]) if isinstance(at, Tensor) else x

    def start(self, at: slice | Tensor, draws: EpochDraws | None = None, replica: Tensor | None = None) -> Pending:
        """Begin to read rows, at a slice or at positions (k,), and return a function that waits for them."""
        at = at.cpu() if isinstance(at, Tensor) else at
        replica = None if replica is None else replica.cpu()
        pending = self.rows.start(at if self.index is None else self.index[at], draws, replica)

        def finish() -> tuple[Tensor, Tensor | None]:
            x, t = pending()
            for f in self.transforms:
                x = f(x)
            if t is not None:
                for f in self.of_targets:
                    t = f(t)
            return x, t

        return finish

    def each(self, cuts: Iterable[slice]) -> Generator[Tensor, None, None]:
        """Yield the rows of each slice, read ahead."""
        yield from self.rows.ahead(self.start, lambda pending: pending()[0], cuts)

    def dim(self) -> int:
        return len(self.shape)

    def element_size(self) -> int:
        """Return the bytes per number, once transformed."""
        return self.dtype.itemsize

    def first(self, n: int) -> MappedRows:
        return self if n == len(self) else self.subset(torch.arange(n))

    def subset(self, index: Tensor) -> MappedRows:
        """Return the rows at `index` (k,), still not in memory."""
        at = index if self.index is None else self.index[index]
        return MappedRows(self.rows, at, self.transforms, self.of_targets)

    def then(self, f: Transform, of_targets: Transform | None = None) -> MappedRows:
        """Return the same rows, with `f` applied last to each block that is read, and `of_targets` to targets read with it."""
        changed = self.of_targets if of_targets is None else (*self.of_targets, of_targets)
        return MappedRows(self.rows, self.index, (*self.transforms, f), changed)

    def to(self, device: torch.device, dtype: torch.dtype) -> MappedRows:
        return self.then(partial(_to, device=device, dtype=dtype))


def _to(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return x.to(device, dtype)


BLOCKS_AHEAD = 2  # blocks read while one is in use: the second hides a block that takes longer than its steps


def prefetch(make: Callable[[Key], Value], keys: Iterable[Key]) -> Generator[Value, None, None]:
    """Yield make(key) for each key, in order, computed by a thread at most BLOCKS_AHEAD blocks ahead of the one in use.

    An error of `make` is raised at its block. When the generator ends or is closed, the thread has ended too.
    """
    pool = ThreadPoolExecutor(1, "trainkit-prefetch")
    waiting: deque[Future[Value]] = deque()
    try:
        for key in keys:
            waiting.append(pool.submit(make, key))
            if len(waiting) > BLOCKS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
