"""Where a number is no longer finite: the step and the place are named, and the run ends with the bits of the step before."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainkit import (
    SGD,
    Adam,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLog,
    Dataset,
    Dropout,
    EarlyStopping,
    L1Loss,
    Linear,
    Loss,
    LRScheduler,
    Module,
    MSELoss,
    NLLLoss,
    Optimizer,
    Recompute,
    ReLU,
    Sequential,
    Softmax,
    Tanh,
    TensorBoard,
    TerminateOnNaN,
    Trainer,
    ValidationSplit,
    checkpoint,
    compiled,
    npy,
    tensors,
)
from trainkit.callbacks import terminate_on_nan
from trainkit.cli import main
from trainkit.rng import order
from trainkit.step import batches, training_step

N, BATCH, MARKED = 20, 4, 11  # samples, samples a step, the sample that is odd
STEPS = N // BATCH


def step_of(sample: int, epoch: int, seed: int = 0) -> int:
    """The step that sees a sample in an epoch, counted from 1."""
    return epoch * STEPS + int((order(seed, epoch, N) == sample).nonzero()) // BATCH + 1


def data(x: float | None = None, t: float | None = None, scale: float = 1.0) -> Dataset:
    """A plane to regress on; the marked sample's second feature, or its target, is another."""
    xs = scale * torch.linspace(-1, 1, 2 * N).view(N, 2)
    ts = xs.sum(1, keepdim=True)
    if x is not None:
        xs[MARKED, 1] = x
    if t is not None:
        ts[MARKED, 0] = t
    return tensors(xs, ts)


def net() -> Sequential:
    return Sequential(Linear(2, 3), Tanh(), Linear(3, 3), ReLU(), Linear(3, 1))


def ramps() -> Sequential:
    return Sequential(Linear(2, 3), ReLU(), Linear(3, 1))


class At(Callback):
    """Does something after a step."""

    def __init__(self, step: int, act: Callable[[Trainer], None]) -> None:
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            self.act(trainer)


def fit(
    *callbacks: Callback,
    made: Callable[[], Sequential] = net,
    loss: Callable[[], Loss] = MSELoss,
    rule: Callable[[Any], Optimizer] = lambda p: SGD(p, 0.05, momentum=0.9),
    on: Dataset | None = None,
    resume: dict[str, Any] | None = None,
    **how: Any,
) -> Trainer:
    trainer = Trainer(**{"max_epochs": 6, "batch_size": BATCH, "device": "cpu", "callbacks": callbacks} | how)
    own = made().draw(torch.Generator().manual_seed(0))
    if trainer.replicas > 1:
        own.replicate(trainer.seeds)
    trainer.fit(own, loss(), rule(own.param()), on or data(), resume)
    return trainer


def state(trainer: Trainer) -> list[Tensor]:
    p, _, *slots = trainer.optimizer.state()
    return [p, *slots]


def same(a: Trainer, b: Trainer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(state(a), state(b), strict=True)) and a.optimizer.t == b.optimizer.t


# -- the step and the place ------------------------------------------------------------------------------------------------


class Cracked(Module):
    """y = x, and dx = dy, but infinite where x > 6."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return torch.where(x > 6, math.inf, dy)


def huge(layer: int, value: float = 3e38) -> Callable[[], Callback]:
    return lambda: At(12, lambda trainer: trainer.net.layers[layer].w.fill_(value))  # type: ignore[attr-defined]


def first(x: float | None = None, t: float | None = None) -> dict[str, Any]:
    return {"on": (x, t), "step": step_of(MARKED, 0)}


def L1() -> Loss:
    return L1Loss("sum")


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "inf in the data": (first(x=math.inf), r"data: sample 11 of the training part has inf in feature 1$"),
    "nan in a target": (first(t=math.nan), r"data: the target of sample 11 of the training part has nan in feature 0$"),
    "weights of layer 0": (
        {"act": huge(0), "step": 13, "on": (None, None, 5.0), "made": ramps, "loss": L1, "lr": 1e-4},
        r"0.Linear forward: .*; its input reaches [\d.]+, its weight 3e\+38, its bias",
    ),
    "weights of layer 2": ({"act": huge(2), "step": 13, "w": 99.0}, r"2.Linear forward: \d+ of 12 numbers are not finite, the first -?inf at"),
    "weights of layer 4": ({"act": huge(4), "step": 13, "made": lambda: Sequential(*net().layers[:3], Times(4.0), Linear(3, 1))},
        r"4.Linear forward: .*; its input reaches .*, its weight 3e\+38"),
    "a nan weight": ({"act": huge(2, math.nan), "step": 12}, r"numbers are not finite after the step: made so by a callback \(at\)"),
    "weights before the run": (
        {"made": lambda: Sequential(Linear(2, 1, bias=False), Poison()), "step": 1},
        r"before the step, 1.weight: inf$",
    ),
    "a backward": ({"made": lambda: Sequential(Linear(2, 1), Cracked(), Linear(1, 1)), **first(x=1e4), "w": 1.0}, "1.Cracked backward: "),
    "a weight's gradient": (
        {**first(x=3e38), "loss": L1, "w": 1e-20, "lr": 1e-30, "made": lambda: Sequential(Linear(2, 1), Times(100.0))},
        r"0.Linear backward: .* in the gradient of its weight; dy reaches [\d.]+$",
    ),
    "the loss": (first(t=1e30), r"MSELoss: inf; the net's output reaches"),
    "the loss's backward": (
        {"made": lambda: Sequential(Linear(2, 1), Times(0.0)), "loss": lambda: Root(), "step": 1},
        r"Root backward: 4 of 4 numbers are not finite, the first inf at \(0, 0\)$",
    ),
    "the rate": (
        {"act": lambda: At(7, lambda t: t.set_lr([9e37])), "loss": lambda: MSELoss("sum"), "step": 8, "on": (None, 50.0)},
        r"SGD update of \d.\w+: .*; the gradient reached [\d.]+, lr 9e\+37",
    ),
    "a slot": (
        {**first(x=1e25), "loss": L1, "rule": lambda p: Adam(p, 0.01), "made": lambda: Sequential(Linear(2, 1))},
        r"Adam update of v of 0.weight: 1 of 2 numbers is not finite, the first inf at \(0, 1\); the gradient reached 1e\+25, lr 0.01",
    ),
    "clipped": ({**first(x=math.inf), "clip_norm": 1.0, "clip_value": 0.5}, r"data: sample 11"),
    "in parts": ({**first(x=math.inf), "batch_size": 2, "accumulate": 2}, r"data: sample 11"),
    "in parts, a weight": ({"act": huge(2), "step": 13, "w": 99.0, "batch_size": 2, "accumulate": 2}, r"2.Linear forward: \d of 6 "),
    "recomputed": (
        {"made": lambda: Sequential(Recompute(Linear(2, 3), Times(9.0), Linear(3, 1))), "step": 13, "lr": 1e-3,
         "act": lambda: At(12, lambda t: t.net.layers[0].layers[2].w.fill_(3e38))},  # type: ignore[attr-defined]
        r"0.2.Linear forward",
    ),
}  # fmt: skip


class Poison(Module):
    """y = x, with an infinite weight beside it."""

    def __init__(self) -> None:
        self.w, self.dw = self.parameter("weight", (1,))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self.w.fill_(math.inf)

    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return dy


class Times(Module):
    """y = k x."""

    def __init__(self, k: float) -> None:
        self.k = k

    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        return self.k * x, None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return self.k * dy


class Root(Loss):
    """The mean of √|y|, whose derivative at 0 is infinite."""

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return y.abs().sqrt().mean(), y

    def bwd(self, y: Tensor) -> Tensor:
        return 0.5 / y.abs().sqrt() / y.numel()


@pytest.mark.parametrize("every", [1, 3, 50])
@pytest.mark.parametrize("name", CASES)
def test_the_first_number_that_is_not_finite_is_found_at_its_step_and_place(name: str, every: int) -> None:
    case, place = CASES[name][0].copy(), CASES[name][1]
    step, act, w = case.pop("step"), case.pop("act", None), case.pop("w", None)
    if lr := case.pop("lr", None):
        case["rule"] = lambda p: SGD(p, lr)
    on = data(*case.pop("on", (None, None)))

    def run(nan: bool, **how: Any) -> Trainer:
        callbacks = [act()] if act else []
        callbacks += [Start(w)] if w is not None else []
        return fit(*callbacks, *([TerminateOnNaN()] if nan else []), on=on, log_every_n_steps=every, **case, **how)

    trainer = run(True)
    words = trainer.summary["stop_words"]
    assert trainer.summary["stop_reason"] == "nan"
    assert words.startswith(f"step {step:,}, epoch {(step - 1) // STEPS + 1}: "), words
    assert re.search(place, words), words
    assert (trainer.state.step, trainer.summary["step"]) == (step - 1, step - 1)
    if name != "weights before the run":
        assert all(s.isfinite().all() for s in state(trainer))
    assert same(trainer, run(False, max_steps=step - 1)) or name == "weights before the run"


class Start(Callback):
    """All weights of the first layer are w at the beginning."""

    def __init__(self, w: float) -> None:
        self.w = w

    def on_fit_start(self, trainer: Trainer) -> None:
        trainer.net.layers[0].w.fill_(self.w)  # type: ignore[attr-defined]
