"""Samples of a map-style dataset: `dataset[i]`, read when a step needs it, by worker processes if there are some.

Random numbers that the dataset draws, from the global generators of torch, NumPy and Python, are seeded for each sample by
(seed, epoch, index) in a training step, and by the index alone in an evaluation. So a sample is the same in every process.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainkit.core.counters import EpochDraws
from trainkit.core.errors import UserError, suggest

from .arrays import from_numpy
from .dataset import floating
from .mapped import Pending
from .workers import Workers

BATCHES_AHEAD = 2  # batches that workers read while one is in use
IN_EVALUATION = EpochDraws((0,), 0)
Key = TypeVar("Key")
Begun = TypeVar("Begun")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Reader:
    """How a sample is read: `dataset[i]` is a pair (x, t), a mapping with the keys x and t, or x alone where `has_t` is false.

    x: a key, or several whose numbers are joined. transform: applied to x in training steps only.
    """

    dataset: Any
    x: str | Sequence[str] | None = None
    t: str | None = None
    has_t: bool = True
    transform: Callable[[Any], Any] | None = None

    @property
    def name(self) -> str:
        return type(self.dataset).__name__

    def __call__(self, index: int, seed: int, training: bool) -> list[Tensor]:
        """Return x, and t if it is read. Changes the global generators. Raises UserError that names the sample."""
        seed_generators(seed)
        try:
            x, t = self._parts(self.dataset[index])
            if training and self.transform is not None:
                x = self.transform(x)
            found = [sample_tensor(x)] if t is None else [sample_tensor(x), sample_tensor(t)]
        except UserError as error:
            raise UserError(f"data: sample {index} of {self.name}: {error}") from error
        except Exception as error:
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            raise UserError(f"data: sample {index} of {self.name} raised {what}; correct it, or leave it out") from error
        return found

    def _parts(self, sample: Any) -> tuple[Any, Any]:
        if type(sample) is tuple and len(sample) == 2 and self.has_t:
            return sample
        if not self.has_t and not isinstance(sample, Mapping):
            return sample, None
        if isinstance(sample, Mapping):
            if self.x is None or (self.has_t and self.t is None):
                raise UserError(
                    f"is a mapping of {', '.join(map(str, sample))}; name its keys: samples(data, x='...', t='...')"
                )
            keys = [self.x] if isinstance(self.x, str) else [*self.x]
            for key in [*keys, *([self.t] if self.has_t else [])]:
                if key not in sample:
                    raise UserError(f"has no {key!r}{suggest(str(key), map(str, sample))}")
            x = sample[keys[0]] if isinstance(self.x, str) else torch.cat([sample_tensor(sample[k]).reshape(-1) for k in keys])
            return x, sample[self.t] if self.has_t else None
        if isinstance(sample, (tuple, list)) and len(sample) == 2:
            return sample[0], sample[1]
        what = f"a {type(sample).__name__}" + (f" of {len(sample)}" if isinstance(sample, (tuple, list)) else "")
        raise UserError(f"is {what}; return a pair (x, t), or a mapping whose keys you name")


def read_samples(
    readers: Sequence[Reader], note: Callable[[int], None], which: int, index: Any, seeds: Any, training: bool
) -> list[Tensor]:
    """Return the samples `index` of the dataset number `which`, stacked: x (k, ...), and t (k, ...) if it is read."""
    found: list[list[Tensor]] = []
    for i, seed in zip(index.tolist(), seeds.tolist(), strict=True):
        note(i)
        sample = readers[which](i, seed, training)
        for name, v, first in zip("xt", sample, found[0] if found else sample, strict=False):
            if v.shape != first.shape:
                shapes = f"{name} is {tuple(v.shape)}, that of sample {int(index[0])} is {tuple(first.shape)}"
                raise UserError(f"data: sample {i} of {readers[which].name}: {shapes}; give all samples one shape")
        found.append(sample)
    stacked = [torch.stack(same) for same in zip(*found, strict=True)]
    for name, v in zip("xt", stacked, strict=False):
        if v.is_floating_point() and not v.isfinite().all():
            k, *at = (~v.isfinite()).nonzero()[0].tolist()
            what = f"{name} has {float(v[(k, *at)]):g} at {tuple(at)}"
            raise UserError(f"data: sample {int(index[k])} of {readers[which].name}: {what}; correct it, or leave it out")
    return stacked


def sample_tensor(value: Any) -> Tensor:
    """Return a sample's x or t as a tensor: a tensor, an array, numbers; an image of Pillow as (c, h, w) from 0 to 1."""
    if isinstance(value, Tensor):
        found = value.detach().cpu()
    elif type(value) in (int, bool):  # the usual class
        return torch.tensor(value)
    elif type(value).__module__.partition(".")[0] == "PIL":
        return pixels(value)
    else:
        try:
            found = from_numpy(np.asarray(value))
        except UserError as error:
            raise UserError(f"is a {type(value).__name__}, needs numbers ({str(error).removeprefix('is ')})") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"is a {type(value).__name__}, needs numbers ({error})") from error
    if found.is_complex():
        raise UserError("is complex; give real numbers")
    return found


def pixels(image: Any) -> Tensor:
    """Return an image of Pillow as numbers from 0 to 1: (1, h, w) in grayscale, else (3, h, w). Transparency is dropped."""
    gray = image.mode in ("1", "L", "LA", "I;16", "I", "F")
    array = np.asarray(image if image.mode in ("I;16", "I", "F") else image.convert("L" if gray else "RGB"))
    scale = {"I;16": 65535.0, "I": 65535.0, "F": 1.0}.get(image.mode, 255.0)
    x = torch.from_numpy(array.astype("f8") / scale).to(torch.get_default_dtype())
    return x[None] if gray else x.permute(2, 0, 1).contiguous()


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (on the CPU) by 64 bits."""
    seed &= (1 << 64) - 1
    random.seed(seed)
    np.random.seed(seed >> 32)  # noqa: NPY002  # by more bits it takes eight times as long
    torch.default_generator.manual_seed(seed >> 1)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the states of the global generators at the end."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])


class Samples:
    """The samples of the dataset number `which` of `readers`, as the rows of a split (a `RowSource`).

    Its numbers are checked when they are read. as_targets: makes the targets of the loss from those of the dataset; None
    if they are the same.
    """

    by_batch, may_miss, is_plain = True, False, True

    def __init__(self, readers: Sequence[Reader], which: int, workers: Workers) -> None:
        self.readers, self.which, self.workers = readers, which, workers
        self.name = readers[which].name
        self.length = len(readers[which].dataset)
        if not self.length:
            raise UserError(f"data: {self.name} has no sample; give one or more")
        self.as_targets: Callable[[Tensor], Tensor] | None = None
        self.first = self._read(
            torch.zeros(1, dtype=torch.int64), IN_EVALUATION.of(torch.zeros(1, dtype=torch.int64), None).streams
        )
        self.dtype, self.shape = self.first[0].dtype, torch.Size([self.length, *self.first[0].shape[1:]])

    def __len__(self) -> int:
        return self.length

    def start(self, index: slice | Tensor, draws: EpochDraws | None, replica: Tensor | None) -> Pending:
        """Begin to read samples. Without processes they are read when the result is asked for."""
        at = torch.arange(len(self))[index] if isinstance(index, slice) else index
        streams = (draws or IN_EVALUATION).of(at, replica, *(["sample"] if draws else [])).streams
        training = draws is not None
        if self.workers.ready:
            numbers = at.numpy(), streams.numpy()
            block = self.workers.submit(len(at), lambda cut: (self.which, numbers[0][cut], numbers[1][cut], training))
            return lambda: self._checked(self.workers.collect(block), at)
        if not training and at.tolist() == [0]:
            return lambda: self._checked(self.first, at)
        return lambda: self._checked(self._read(at, streams, training), at)

    def ahead(
        self, begin: Callable[[Key], Begun], finish: Callable[[Begun], Value], keys: Iterable[Key]
    ) -> Generator[Value, None, None]:
        """Yield finish(begin(key)) for each key; workers read BATCHES_AHEAD keys further."""
        with self.opened():
            waiting: deque[Begun] = deque()
            for key in keys:
                waiting.append(begin(key))
                if len(waiting) > BATCHES_AHEAD * self.workers.ready:
                    yield finish(waiting.popleft())
            while waiting:
                yield finish(waiting.popleft())

    def opened(self) -> AbstractContextManager[None]:
        return self.workers.opened()

    def _read(self, at: Tensor, streams: Tensor, training: bool = False) -> list[Tensor]:
        """Read samples in this process."""
        with kept_generators():
            return read_samples(self.readers, lambda index: None, self.which, at, streams, training)

    def _checked(self, found: list[Tensor], at: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return x, floating, and t as the loss takes it. Raises UserError for another shape than that of sample 0."""
        for name, v, first in zip("xt", found, self.first, strict=False):
            if v.shape[1:] != first.shape[1:]:
                shapes = f"{name} is {tuple(v.shape[1:])}, that of sample 0 is {tuple(first.shape[1:])}"
                raise UserError(f"data: sample {int(at[0])} of {self.name}: {shapes}; give all samples one shape")
        x = found[0] if found[0].is_floating_point() else found[0].to(floating(found[0].dtype))
        t = found[1] if len(found) > 1 else None
        return x, t if t is None or self.as_targets is None else self.as_targets(t)
