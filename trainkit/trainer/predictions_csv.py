"""Predictions as CSV: a line per sample, computed block by block while they are written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from tempfile import TemporaryFile
from typing import Literal

import torch
from torch import Tensor

from trainkit.core import terminal
from trainkit.data.dataset import Dataset, Split
from trainkit.data.mapped import MappedRows
from trainkit.metrics.interpretation import Interpretation
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module

from .evaluation import PASS, outputs

NUMBERS = 1 << 18  # numbers that are turned into text at a time: 8 MB as Python floats
EARLIER = re.compile(rb"(replica,)?sample,y0(,y\d+)*(,answer)?\r?\n")
END = re.compile(r"answer|(truth|std)(_.*)?", re.DOTALL)  # the columns after the values
VALUE = re.compile(r"(p|score|y)_|y\d+$")
Which = int | Literal["all"] | None  # of several replicas: the ensemble (None), one of them, or each


@dataclass(frozen=True)
class Columns:
    """The columns of predictions, in their order; each is left out where it has no meaning.

    replica: with which "all". row: the number of the sample, from 0, in the data or the file that it was taken from. Then the
    ids of the data; the values (see `Interpretation.names`); answer, the predicted class; std, the sample standard deviation
    over the replicas of an ensemble, of the value of the answer, or in regression of each target; truth, where it is known.
    """

    interpretation: Interpretation
    split: Split
    outputs: int
    replicas: int = 1
    which: Which = None
    raw: bool = False
    with_truth: bool = True

    @property
    def is_ensemble(self) -> bool:
        return self.replicas > 1 and self.which is None

    @property
    def has_answer(self) -> bool:
        return self.interpretation.classes is not None and not self.interpretation.multilabel

    @property
    def has_truth(self) -> bool:
        """Whether the targets are known and can be written: a class, or a number for each output."""
        split = self.split
        return self.with_truth and (split.label is not None if self.has_answer else split.t[:1].numel() == self.outputs)

    @property
    def values(self) -> list[str]:
        return self.interpretation.names(self.outputs, self.raw)

    @property
    def before(self) -> list[str]:
        """The names of the columns before the ids."""
        return [*(["replica"] if self.which == "all" else []), "row"]

    @property
    def after(self) -> list[str]:
        """The names of the columns after the ids."""
        values, names = self.values, self.interpretation.columns(self.outputs)
        one = self.has_answer or len(values) == 1
        end = [*values, *(["answer"] if self.has_answer else [])]
        end += ["std"] if self.is_ensemble and one else [f"std_{name}" for name in names] if self.is_ensemble else []
        if self.has_truth:
            end += ["truth"] if one else [f"truth_{name}" for name in names]
        return end

    @property
    def ids(self) -> dict[str, str]:
        """The column of each id, by its name in the data: the same, or id_<name> where another column has that name."""
        taken, columns = {*self.before, *self.after}, {}
        for name in self.split.ids:
            columns[name] = name
            while columns[name] in taken:
                columns[name] = f"id_{columns[name]}"
        return columns

    @property
    def header(self) -> list[str]:
        return [*self.before, *self.ids.values(), *self.after]

    def lines(self, y: Tensor, first: int, replica: int) -> str:
        """Return the lines of the samples from `first` on, y (r, b, outputs): r models whose predictions are averaged."""
        meaning, at = self.interpretation, range(first, first + y.shape[1])
        each = meaning.values(y, self.raw)
        values = each[0] if len(y) == 1 else each.double().mean(0)
        fields: list[Sequence[str]] = [[str(replica)] * len(at)] if self.which == "all" else []
        fields.append(list(map(str, at if self.split.rows is None else self.split.rows[first : at.stop].tolist())))
        fields += [[_field(text) for text in column[first : at.stop]] for column in self.split.ids.values()]
        fields.append([repr(row)[1:-1].replace(", ", ",") for row in values.tolist()])  # half the time of csv.writer
        answer = meaning.predicted(y) if self.has_answer else None
        if answer is not None:
            fields.append([_field(meaning.class_name(k)) for k in answer.tolist()])
        if self.is_ensemble:
            fields.append(self._spreads(torch.std(each.double(), 0), answer))
        if self.has_truth:
            fields.append(self._truths(first, at.stop))
        return "".join(",".join(line) + "\n" for line in zip(*fields, strict=True))

    def _spreads(self, std: Tensor, answer: Tensor | None) -> list[str]:
        """Return the fields of std (b, k): that of the answer, or all."""
        if answer is not None:
            std = std.gather(1, answer[:, None].clamp(max=std.shape[1] - 1))
        return [repr(row)[1:-1].replace(", ", ",") for row in std.tolist()]

    def _truths(self, first: int, stop: int) -> list[str]:
        label = self.split.label
        if self.has_answer and label is not None:
            return [_field(self.interpretation.class_name(k)) for k in label[first:stop].tolist()]
        t = (self.split.t if self.split.raw is None else self.split.raw)[first:stop].cpu()
        t = t.long() if self.interpretation.multilabel else t
        return [",".join(row) for row in t.reshape(len(t), -1).numpy().astype(str)]  # the shortest texts that are these numbers


def as_csv(
    net: Module,
    loss: Loss,
    data: Dataset,
    split: Split,
    replicas: int = 1,
    which: Which = None,
    raw: bool = False,
    with_truth: bool = True,
    unscale: Callable[[Tensor], Tensor] = lambda y: y,
) -> Generator[bytes, None, None]:
    """Yield the header and the lines of `Columns` for the samples of `split`, which is scaled and on the device.

    which: of several replicas the ensemble (None: the mean of their probabilities, or of their outputs where there are none),
    one, or all, one after the other. raw: the net's outputs in place of probabilities. with_truth: whether the targets of the
    split are known. unscale: turns outputs into those in the targets' own units (`Normalizer.unscale`). Numbers are written in
    full, as `repr` does, and texts as the csv module does.
    """
    blocks = _outputs(net, split.x, replicas)
    if which == "all":
        blocks = _by_replica(blocks, replicas, len(split))
    columns = None
    for r, first, y in blocks:
        y = unscale(y)
        y = y.flatten(2) if y.dim() > 2 else y[..., None]
        if columns is None:
            columns = Columns(Interpretation.of(loss, data), split, y.shape[2], replicas, which, raw, with_truth)
            yield ",".join(map(_field, columns.header)).encode() + b"\n"
            for name, own in columns.ids.items():
                if own != name:
                    terminal.print_stderr(
                        f"predictions: the id column {name!r} is named {own!r}, since {name!r} is another column"
                    )
        if isinstance(which, int):
            y = y[which : which + 1]
        step = max(1, NUMBERS // (y.shape[0] * y.shape[2]))
        for i, chunk in zip(range(0, y.shape[1], step), y.split(step, 1), strict=True):
            yield columns.lines(chunk, first + i, r).encode()


def is_header(line: bytes, targets: Sequence[str]) -> bool:
    """Return whether `line` is the first line of a file of predictions, or of one of an earlier version.

    targets: the names of the targets of a regression, whose columns have no prefix.
    """
    if not line.endswith(b"\n"):
        return False
    names = next(csv.reader([line.decode(errors="replace").rstrip("\r\n")]), [])
    if EARLIER.fullmatch(line):
        return True
    names = names[1:] if names[:1] == ["replica"] else names
    if names[:1] != ["row"]:
        return False
    while names and END.fullmatch(names[-1]):
        names = names[:-1]
    return len(names) > 1 and (VALUE.match(names[-1]) is not None or names[-1] in targets)


@lru_cache(1 << 12)
def _field(text: str) -> str:
    """Return `text` as a field of a line, in quotes where it needs them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([0, text])
    return line.getvalue()[2:-1]


def _outputs(net: Module, x: Tensor | MappedRows, replicas: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield 0, the first sample and y (r, b, ...) for each block of samples."""
    with closing(outputs(net, x, PASS, replicas)) as batches:
        for first, y in batches:
            yield 0, first, y.cpu() if net.replica_dims else y.cpu()[None]


def _by_replica(blocks: Iterator[tuple[int, int, Tensor]], replicas: int, n: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the replica, the first sample and y (1, b, ...), ordered by replica. A temporary file holds y in between."""
    with TemporaryFile() as file:
        for _, first, y in blocks:
            like = y[0, :1].clone()
            size = like.numel() * like.element_size()
            for r in range(replicas):
                file.seek((r * n + first) * size)
                file.write(y[r].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        file.seek(0)
        for r in range(replicas):
            for first in range(0, n, PASS):
                raw = bytearray(file.read(min(PASS, n - first) * size))
                yield r, first, torch.frombuffer(raw, dtype=like.dtype).view(1, -1, *like.shape[1:])
