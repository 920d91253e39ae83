"""A configuration trained once, against the clock, and what came out of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from trainkit.app.config.build import Parts
from trainkit.callbacks import ProgressBar
from trainkit.data.dataset import Dataset, Split
from trainkit.trainer import signals, threads
from trainkit.trainer.callback import Callback
from trainkit.trainer.evaluation import Metrics
from trainkit.trainer.session import Session


@dataclass(frozen=True)
class TimedFit:
    """What came out of training some models: `by` whom, metrics (a value a model), steps and seconds of the training alone.

    seeds: of the models. threads: torch's. failed: the places in these lists of those that learned nothing (see `failures`).
    difference: the largest difference of a parameter to the same model trained alone, or None.
    """

    by: str
    metrics: Metrics
    steps: float  # of one model, the mean: early stopping may end one sooner
    seconds: float  # of all models
    seeds: list[int]
    failed: list[int] = field(default_factory=list)
    difference: float | None = None
    threads: int = 1

    @property
    def models(self) -> int:
        return len(self.seeds)

    @property
    def us_a_step(self) -> float:
        """Microseconds a step and model."""
        return self.seconds / max(1, self.steps * self.models) * 1e6


class Clock(Callback):
    """Seconds of the steps, validations and callbacks of a run."""

    def on_fit_start(self, session: Session) -> None:
        self.excluded_seconds = 0.0  # seconds spent on something else
        self.began = time.perf_counter()

    def on_train_end(self, session: Session) -> None:
        self.seconds = time.perf_counter() - self.began - self.excluded_seconds


def train(parts: Parts, data: Dataset, clock: Clock, quiet: bool = False) -> Session:
    """Fit without the callbacks that write into a run's folder; quiet: without the progress bar too."""
    others = {
        k: cb for k, cb in parts.callbacks.items() if not (cb.needs_run_folder or (quiet and isinstance(cb, ProgressBar)))
    }
    parts.callbacks.clear()
    parts.callbacks.update({"(clock)": clock, **others})  # first: it sees a step before a schedule moves on
    trainer = parts.trainer()
    trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data)
    session = trainer.fitted()
    if session.signal is not None:
        raise signals.Interrupted(session.signal)
    return session


def measured(session: Session) -> Metrics:
    """Loss and error of every part as the net is now: `train/loss`, `val/error`."""
    return {
        f"{name}/{metric}": values
        for name, part in session.data.parts().items()
        for metric, values in session.evaluate(part).items()
    }


def outcome(
    by: str, metrics: Metrics, steps: float, seconds: float, session: Session, difference: float | None = None
) -> TimedFit:
    """The outcome of the models of the session's seeds, with those that failed named."""
    failed = [r for r, bad in enumerate(failures(metrics, session.data.train)) if bad]
    return TimedFit(by, metrics, steps, seconds, session.seeds, failed, difference, threads.chosen(session, None))


def failures(metrics: Metrics, part: Split) -> list[bool]:
    """Which models learned nothing: a value is not finite, or the training error is more than half of that of the best
    constant answer, the commonest class."""
    finite = [all(map(math.isfinite, values)) for values in zip(*metrics.values(), strict=True)]
    if part.label is None or "train/error" not in metrics:
        return [not ok for ok in finite]
    constant = 1 - int(part.label.bincount().max()) / len(part)
    return [not ok or error > constant / 2 for ok, error in zip(finite, metrics["train/error"], strict=True)]
