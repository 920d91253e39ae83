"""The task of the contenders, a net of linear layers and ReLUs with cross entropy, and its result.

A contender is a function (task, epochs, options) -> Result in `peers/`, which has one file per package.
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
    """`with Stopwatch() as watch:` measures the seconds and the peak memory of its body."""

    seconds, peak = 0.0, 0

    def __enter__(self) -> Stopwatch:
        forget_peak()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds, self.peak = time.perf_counter() - self.began, resident("VmHWM")


@dataclass(frozen=True)
class Task:
    sizes: tuple[int, ...]
    batch: int
    rule: Literal["sgd", "adam"]
    lr: float
    data: Literal["disk", "fashion_mnist", "random"]
    samples: int  # the first ones of the training split

    def train(self) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of the training split."""
        split = load(self).train
        return split.x, split.t

    def net(self) -> torch.nn.Sequential:
        """Return the net with the initial weights of all contenders."""
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
        """Return the result. answer: a function from inputs (n, in) to scores (n, classes) or to classes (n,)."""
        test, accuracy = load(self).test, None
        if test is not None and answer is not None:
            with torch.no_grad():
                y = torch.as_tensor(answer(test.x))
            accuracy = float(((y.argmax(1) if y.dim() == 2 else y) == test.t).float().mean())
        return Result(watch.seconds, epochs * -(-self.samples // self.batch) * models, accuracy, watch.peak)


@cache
def load(task: Task) -> Dataset:
    """Return the scaled data in float32, with images as rows."""
    if task.data == "random":
        g = torch.Generator().manual_seed(0)
        x = torch.randn(task.samples, task.sizes[0], generator=g)
        return tensors(x, torch.randint(task.sizes[-1], (task.samples,), generator=g), classes=task.sizes[-1])
    data = disk(train=task.samples) if task.data == "disk" else idx(str(ROOT / ".data" / task.data), train=task.samples)
    scale = Normalizer.fit(data)

    def scaled(split: Split) -> Split:
        return Split(scale.apply(split).x.flatten(1), split.t, split.label)

    test = scaled(data.test) if task.data == "fashion_mnist" and data.test is not None else None
    return data.with_parts(train=scaled(data.train), test=test)


def resident(kind: Literal["VmRSS", "VmHWM"]) -> int:
    """Return resident bytes of this process: now (VmRSS), or at most since `forget_peak` (VmHWM); 0 if there is no /proc.

    The ru_maxrss of getrusage would include the parent's memory.
    """
    if not os.path.exists("/proc/self/status"):
        return 0
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(kind))


def forget_peak() -> None:
    """Reset VmHWM to VmRSS (man 5 proc, clear_refs)."""
    if os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
