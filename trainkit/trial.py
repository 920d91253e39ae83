"""A trial: one configuration trained, and looked at while it trains. What `compare` tells and draws of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import rivals, signals
from .build import Parts, build
from .callback import Callback
from .callbacks import ProgressBar
from .data.dataset import Dataset, Part
from .evaluate import Metrics, answers, predict
from .optim.optimizer import momentum_of
from .trainer import Trainer

LOOKS = 60  # how often a run is looked at: enough for a smooth curve
GRID = 201  # points along each side of the plane


@dataclass(frozen=True)
class Curves:
    """Loss and error of each part over the run, in evaluation mode.

    `values["val/loss"][i][r]` is replica r's after `epochs[i]` epochs; epoch 0 is the untrained net. A run that ended inside an
    epoch has a fraction of one last.
    """

    epochs: list[float] = field(default_factory=list)
    values: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plane:
    """What nets of two inputs say about the plane, in the data's own units, before scaling.

    train, test: the samples, x (n, 2). classes: their names. boundary: (k, 2), the closed line between the classes, where the
    data knows it. x, y: the grid's axes; votes: (c, len(y), len(x)), the share of the replicas that answer each class there.
    shown: the replica whose test error is the median; answer: (n,), its answers on the test samples.
    """

    train: Part
    test: Part
    classes: tuple[str, ...]
    boundary: Tensor | None
    x: Tensor
    y: Tensor
    votes: Tensor
    shown: int
    answer: Tensor


@dataclass(frozen=True)
class Outcome:
    """What came out of training some models: `by` whom, metrics (a value a model), steps and seconds of the training alone.

    seeds: of the models. failed: the places in these lists of those that learned nothing (see `failures`).
    difference: the largest difference of a parameter to the same model trained alone, or None.
    """

    by: str
    metrics: Metrics
    steps: float  # of one model, the mean: early stopping may end one sooner
    seconds: float  # of all models
    seeds: list[int]
    failed: list[int] = field(default_factory=list)
    difference: float | None = None

    @property
    def models(self) -> int:
        return len(self.seeds)

    @property
    def us_a_step(self) -> float:
        """Microseconds a step and model."""
        return self.seconds / max(1, self.steps * self.models) * 1e6


@dataclass(frozen=True)
class Trial:
    """One configuration: its name, its loss, who trained it with what outcome (all replicas at once first), the curves of that
    training, and the plane if it has one."""

    name: str
    loss: str
    outcomes: list[Outcome]
    curves: Curves
    plane: Plane | None = None


class Clock(Callback):
    """Seconds of the steps, validations and callbacks of a run."""

    def on_fit_start(self, trainer: Trainer) -> None:
        self.aside = 0.0  # seconds spent on something else
        self.began = time.perf_counter()

    def on_train_end(self, trainer: Trainer) -> None:
        self.seconds = time.perf_counter() - self.began - self.aside


class Settings(Clock):
    """A clock that notes what a schedule gave the optimizer at each step of a single model, for a rival to repeat."""

    def on_fit_start(self, trainer: Trainer) -> None:
        self.rates: list[float] = []
        self.momenta: list[dict[str, Any]] = []
        super().on_fit_start(trainer)

    def on_train_batch_end(self, trainer: Trainer) -> None:
        self.rates.append(trainer.state.lr[0])
        self.momenta.append(momentum_of(trainer.optimizer))


class Looks(Clock):
    """A clock that evaluates all parts some sixty times over the run, first before its first step. Looking is not counted."""

    def on_fit_start(self, trainer: Trainer) -> None:
        self.curves = Curves()
        last = trainer.max_epochs
        if trainer.max_steps is not None:
            last = min(last, -(-trainer.max_steps // trainer.steps_per_epoch))
        self.due = {round(i * last / LOOKS) for i in range(LOOKS + 1)} if last > LOOKS else set(range(last + 1))
        self._look(trainer, 0)
        super().on_fit_start(trainer)

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        if trainer.epochs_done in self.due:
            began = time.perf_counter()
            self._look(trainer, trainer.epochs_done)
            self.aside += time.perf_counter() - began

    def on_train_end(self, trainer: Trainer) -> None:
        super().on_train_end(trainer)
        ended = trainer.state.step / trainer.steps_per_epoch
        if ended != self.curves.epochs[-1]:  # inside an epoch, or at one where no look was due
            self._look(trainer, ended)

    def _look(self, trainer: Trainer, epoch: float) -> None:
        try:
            metrics = measured(trainer)
        except signals.Interrupted:  # the trainer has noted it, and ends
            return
        self.curves.epochs.append(epoch)
        for name, values in metrics.items():
            self.curves.values.setdefault(name, []).append(values)


def measured(trainer: Trainer) -> Metrics:
    """Loss and error of every part as the net is now: `train/loss`, `val/error`."""
    parts = {"train": trainer.data.train, "val": trainer.data.val, "test": trainer.data.test}
    return {
        f"{name}/{metric}": values
        for name, part in parts.items()
        if part is not None
        for metric, values in trainer.evaluate(part).items()
    }


def run(
    name: str, config: dict[str, Any], against: str | None = None, keep: Callable[[Trial], None] = lambda trial: None
) -> Trial:
    """Train a resolved configuration, all replicas at once, without the callbacks that write.

    against: the name of a rival (see `rivals/`); each replica is then trained alone too, and by the rival, in turn. `keep` is
    given the trial before that, so that it is not lost where they break off.
    Raises UserError for what the configuration or its data has wrong, signals.Interrupted where a signal ended the training.
    """
    parts = build(config)
    raw = parts.data()
    if against is not None:  # a few steps of each, uncounted; and what the rival has not is told before anything is trained
        few = of_replica(config, 0, parts.trainer().seeds[0])
        few["trainer"]["max_steps"] = 3
        pair(against, few, raw)
    looks = Looks()
    trainer = train(parts, raw, looks)
    metrics, by = measured(trainer), "trainkit" if trainer.replicas == 1 else f"trainkit, {trainer.replicas} at once"
    plane = plane_of(trainer, raw, metrics)
    together = outcome(by, metrics, trainer.state.step, looks.seconds, trainer)
    whole = Trial(name, repr(parts.loss), [together], looks.curves, plane)
    if against is None:
        return whole
    keep(whole)
    return replace(whole, outcomes=held_against(against, config, raw, trainer, together))


def train(parts: Parts, data: Dataset, clock: Clock, quiet: bool = False) -> Trainer:
    """Fit without the callbacks that write into a run's folder; quiet: without the progress bar too."""
    others = {k: cb for k, cb in parts.callbacks.items() if not (cb.writes or (quiet and isinstance(cb, ProgressBar)))}
    parts.callbacks.clear()
    parts.callbacks.update({"(clock)": clock, **others})  # first: it sees a step before a schedule moves on
    trainer = parts.trainer()
    trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data)
    if trainer.signal is not None:
        raise signals.Interrupted(trainer.signal)
    return trainer


def outcome(
    by: str, metrics: Metrics, steps: float, seconds: float, trainer: Trainer, difference: float | None = None
) -> Outcome:
    """The outcome of the models of `trainer`'s seeds, with those that failed named."""
    failed = [r for r, bad in enumerate(failures(metrics, trainer.data.train)) if bad]
    return Outcome(by, metrics, steps, seconds, trainer.seeds, failed, difference)


def failures(metrics: Metrics, part: Part) -> list[bool]:
    """Which models learned nothing: a value is not finite, or the training error is more than half of that of the best
    constant answer, the commonest class."""
    finite = [all(map(math.isfinite, values)) for values in zip(*metrics.values(), strict=True)]
    if part.label is None or "train/error" not in metrics:
        return [not ok for ok in finite]
    constant = 1 - int(part.label.bincount().max()) / len(part)
    return [not ok or error > constant / 2 for ok, error in zip(finite, metrics["train/error"], strict=True)]


def pair(rival: str, config: dict[str, Any], data: Dataset) -> tuple[Trainer, Clock, Any]:
    """One replica trained alone, its clock, and what the rival made of the same weights over the same batches."""
    fit = rivals.find(rival).fit
    parts, clock = build(config), Settings()
    start = parts.net.state_dict()
    one = train(parts, data, clock, quiet=True)
    return one, clock, fit(one, start, clock.rates, clock.momenta)


def held_against(rival: str, config: dict[str, Any], data: Dataset, trainer: Trainer, together: Outcome) -> list[Outcome]:
    """`together`, then each replica trained alone, then by the rival from the same weights over the same batches.

    The two take turns, so that a machine whose speed drifts is fair to both.
    """
    whole = trainer.net.state_dict()
    ours: list[Metrics] = []
    theirs: list[Metrics] = []
    steps, seconds = 0, [0.0, 0.0]
    apart_whole: list[float] = []
    apart_rival: list[float] = []
    for r in range(trainer.replicas):
        one, clock, other = pair(rival, of_replica(config, r, trainer.seeds[r]), data)
        ours.append(measured(one))
        theirs.append({name: [value] for name, value in other.metrics.items()})
        steps += one.state.step
        seconds = [seconds[0] + clock.seconds, seconds[1] + other.seconds]
        state = one.net.state_dict()
        apart_rival.append(apart(state, other.state))
        apart_whole.append(apart(state, whole if trainer.replicas == 1 else {n: p[r] for n, p in whole.items()}))
    draws = any(getattr(m, "p", 0) for _, m in trainer.net.modules() if hasattr(m, "generators"))
    comparable = not trainer.restored and not draws  # the rival draws other masks, and keeps no best weights
    each = steps / trainer.replicas
    by = f"{rivals.TITLES[rival]}, one by one"
    return [
        replace(together, difference=largest(apart_whole) if trainer.replicas > 1 else None),
        outcome("trainkit, one by one", joined(ours), each, seconds[0], trainer),
        outcome(by, joined(theirs), each, seconds[1], trainer, largest(apart_rival) if comparable else None),
    ]


def of_replica(config: dict[str, Any], r: int, seed: int) -> dict[str, Any]:
    """The configuration of replica r alone."""
    alone = {**config, "seed": seed, "trainer": {**(config.get("trainer") or {}), "replicas": 1, "seeds": None}}
    name, arguments = next(iter(config["optimizer"].items())) if isinstance(config["optimizer"], dict) else ("", None)
    if isinstance(arguments, dict):
        own = {key: arguments[key][r] for key in ("lr", "momentum", "weight_decay") if isinstance(arguments.get(key), list)}
        alone["optimizer"] = {name: {**arguments, **own}}
    return alone


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of an element; NaN where one is."""
    return largest([float((a[name] - b[name].to(a[name])).abs().max()) for name in a if a[name].numel()])


def largest(values: Sequence[float]) -> float:
    """NaN where one is, which `max` would pass over."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


def joined(metrics: Sequence[Metrics]) -> Metrics:
    """The metrics of single models as those of several."""
    return {name: [m[name][0] for m in metrics] for name in metrics[0]}


def plane_of(trainer: Trainer, raw: Dataset, metrics: Metrics) -> Plane | None:
    """What the nets say over the plane of the data, where a sample is two numbers and has a class."""
    if raw.classes is None or raw.train.x.shape[1:] != (2,):
        return None
    train = Part(raw.train.x[:], raw.train.t, raw.train.label)  # two numbers a sample: out of the file, if they are in one
    test = train if raw.test is None else Part(raw.test.x[:], raw.test.t, raw.test.label)
    error = metrics["test/error" if raw.test is not None else "train/error"]
    shown = sorted(range(trainer.replicas), key=lambda r: error[r])[trainer.replicas // 2]

    def said(x: Tensor) -> Tensor:
        """Answers (r, n) to points in the data's own units."""
        part = trainer.normalizer.apply(Part(x, torch.zeros(len(x)))).to(trainer.device, trainer.dtype)
        y = predict(trainer.net, part.x, 1024, trainer.replicas)
        return answers(y, trainer.loss, trainer.data, trainer.net.lead).reshape(trainer.replicas, -1).cpu()

    points = torch.cat([train.x[:], test.x[:]])
    points = points[points.isfinite().all(1)]  # a missing number is NaN
    low, high = points.amin(0), points.amax(0)
    xs, ys = (torch.linspace(float(low[i]), float(high[i]), GRID, dtype=points.dtype) for i in (0, 1))
    grid = torch.cartesian_prod(ys, xs).flip(1)  # row by row: y in the outer loop
    said_there = said(grid)
    votes = torch.stack([(said_there == c).double().mean(0).view(GRID, GRID) for c in range(len(raw.classes))])
    return Plane(train, test, raw.classes, raw.boundary, xs, ys, votes, shown, said(test.x[:])[shown])
