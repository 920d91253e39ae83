"""A net's outputs as CSV, computed block by block while they are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import cache
from tempfile import TemporaryFile

import torch
from torch import Tensor

from trainkit.data.dataset import Dataset
from trainkit.data.mapped import MappedRows
from trainkit.metrics.classification import predicted_classes
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module

from .evaluation import PASS, outputs

NUMBERS = 1 << 18  # numbers that are turned into text at a time: 8 MB as Python floats


def as_csv(
    net: Module,
    loss: Loss,
    data: Dataset,
    x: Tensor | MappedRows,
    replicas: int = 1,
    unscale: Callable[[Tensor], Tensor] = lambda y: y,
) -> Generator[bytes, None, None]:
    """Yield the lines of `sample,y0,y1,...,answer`, the answer only where there are classes.

    With replicas the first column is `replica`, and each replica's lines follow those of the one before.
    unscale: turns outputs into the targets' own units (`Normalizer.unscale`).
    Numbers are written in full, as `repr` does, and class names as the csv module does.
    """
    blocks = _outputs(net, x, replicas)
    if replicas > 1:
        blocks = _by_replica(blocks, replicas, len(x))
    for r, first, y in ((r, first, unscale(y)) for r, first, y in blocks):
        if r == first == 0:
            header = [*(["replica"] if replicas > 1 else []), "sample", *(f"y{i}" for i in range(y[0].numel()))]
            yield ",".join([*header, *(["answer"] if data.classes is not None else [])]).encode() + b"\n"
        for i, chunk in zip(range(0, len(y), step := max(1, NUMBERS // y[0].numel())), y.split(step), strict=True):
            yield _lines(chunk, f"{r}," if replicas > 1 else "", first + i, loss, data).encode()


def _lines(y: Tensor, begin: str, first: int, loss: Loss, data: Dataset) -> str:
    values = (repr(row)[1:-1].replace(", ", ",") for row in y.reshape(len(y), -1).tolist())  # takes half the time of csv.writer
    ends = ["\n"] * len(y)
    if data.classes is not None:
        ends = [f",{_field(_class(data.classes, k))}\n" for k in predicted_classes(y, loss, data).tolist()]
    return "".join(f"{begin}{i},{v}{end}" for i, (v, end) in enumerate(zip(values, ends, strict=True), first))


def _class(classes: tuple[str, ...], k: int) -> str:
    """Return the name of class k, or k itself: a net may have more outputs than there are names."""
    return classes[k] if k < len(classes) else str(k)


@cache
def _field(text: str) -> str:
    """Return `text` as a field of a line, in quotes where it needs them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([0, text])
    return line.getvalue()[2:-1]


def _outputs(net: Module, x: Tensor | MappedRows, replicas: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the replica, the first sample and y (b, ...) for each block of samples, and in it for each replica."""
    with closing(outputs(net, x, PASS, replicas)) as batches:
        for first, y in batches:
            y = y.cpu()
            for r in range(replicas):
                yield r, first, y[r] if net.replica_dims else y


def _by_replica(blocks: Iterator[tuple[int, int, Tensor]], replicas: int, n: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the same blocks ordered by replica. A temporary file holds them in between."""
    with TemporaryFile() as file:
        for r, first, y in blocks:
            like = y[:1].clone()
            size = like.numel() * like.element_size()
            file.seek((r * n + first) * size)
            file.write(y.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        file.seek(0)
        for r in range(replicas):
            for first in range(0, n, PASS):
                raw = bytearray(file.read(min(PASS, n - first) * size))
                yield r, first, torch.frombuffer(raw, dtype=like.dtype).view(-1, *like.shape[1:])
