"""What the contenders train, a net of linear layers and ReLUs on cross entropy, and what a run of it gives.

A contender is a function (task, epochs, options) -> Result in `peers/`, a file for each package.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from page import ROOT
from torch import Tensor

from trainkit import disk, idx, tensors
from trainkit.data.dataset import Dataset, Split
from trainkit.data.transforms.normalize import Normalizer

MOMENTUM = 0.9


class Result(NamedTuple):
    """Seconds in the loop, steps done (of all models), test accuracy, resident bytes at the peak."""

    seconds: float
    steps: int
    accuracy: float | None
    peak: int


class Stopwatch:
    """`with Stopwatch() as watch:` holds the seconds, and the most memory of the process inside."""

    seconds, peak = 0.0, 0

    def __enter__(self) -> Stopwatch:
        forget_peak()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds, self.peak = time.perf_counter() - self.began, resident("VmHWM")


@dataclass(frozen=True)
class Task:
    sizes: tuple[int, ...]
    batch: int
    rule: Literal["sgd", "adam"]
    lr: float
    data: Literal["disk", "fashion_mnist", "random"]
    samples: int  # of the training part; the first so many

    def train(self) -> tuple[Tensor, Tensor]:
        part = load(self).train
        return part.x, part.t

    def net(self) -> torch.nn.Sequential:
        """The net with the weights that everybody starts from."""
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for n, m in zip(self.sizes, self.sizes[1:], strict=False):
            layers += [torch.nn.Linear(n, m), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    def optimizer(self, parameters: Any, fused: bool | None = None) -> torch.optim.Optimizer:
        if self.rule == "adam":
            return torch.optim.Adam(parameters, lr=self.lr, fused=fused)
        return torch.optim.SGD(parameters, lr=self.lr, momentum=MOMENTUM, fused=fused)

    def result(self, watch: Stopwatch, epochs: int, answer: Callable[[Tensor], Any] | None = None, models: int = 1) -> Result:
        """`answer`: the scores (n, classes), or the classes (n,), of inputs (n, in)."""
        test, accuracy = load(self).test, None
        if test is not None and answer is not None:
            with torch.no_grad():
                y = torch.as_tensor(answer(test.x))
            accuracy = float(((y.argmax(1) if y.dim() == 2 else y) == test.t).float().mean())
        return Result(watch.seconds, epochs * -(-self.samples // self.batch) * models, accuracy, watch.peak)


@cache
def load(task: Task) -> Dataset:
    """The data, scaled; float32, an image as a row."""
    if task.data == "random":
        g = torch.Generator().manual_seed(0)
        x = torch.randn(task.samples, task.sizes[0], generator=g)
        return tensors(x, torch.randint(task.sizes[-1], (task.samples,), generator=g), classes=task.sizes[-1])
    data = disk(train=task.samples) if task.data == "disk" else idx(str(ROOT / ".data" / task.data), train=task.samples)
    scale = Normalizer.fit(data)

    def part(p: Split) -> Split:
        return Split(scale.apply(p).x.flatten(1), p.t, p.label)

    test = part(data.test) if task.data == "fashion_mnist" and data.test is not None else None
    return data.with_parts(train=part(data.train), test=test)


def resident(kind: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident bytes of this process: now (VmRSS), or the most since `forget_peak` (VmHWM); 0 where there is no /proc.

    Not getrusage: its ru_maxrss begins with what the parent held.
    """
    if not os.path.exists("/proc/self/status"):
        return 0
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(kind))


def forget_peak() -> None:
    """VmHWM starts again from VmRSS (man 5 proc, clear_refs)."""
    if os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
