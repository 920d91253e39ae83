"""Train a configuration once, timed; its metrics, and which of its models failed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from trainkit.app.config.build import Parts
from trainkit.callbacks import ProgressBar
from trainkit.data.dataset import Dataset, Split
from trainkit.trainer import signals, threads
from trainkit.trainer.callback import Callback, without_folder
from trainkit.trainer.evaluation import Metrics
from trainkit.trainer.session import Session


@dataclass(frozen=True)
class TimedFit:
    """The result of training some models: the implementation (`by`), metrics (one value per model), steps and seconds.

    seeds: one per model. threads: torch's. failed: the indices of the models that learned nothing (see `failures`).
    difference: the largest difference of a parameter to the same model trained alone, or None.
    """

    by: str
    metrics: Metrics
    steps: float  # per model, the mean: early stopping may end some earlier
    seconds: float  # of all models
    seeds: list[int]
    failed: list[int] = field(default_factory=list)
    difference: float | None = None
    threads: int = 1

    @property
    def models(self) -> int:
        return len(self.seeds)

    @property
    def us_per_step(self) -> float:
        """Microseconds per step and model."""
        return self.seconds / max(1, self.steps * self.models) * 1e6


class Clock(Callback):
    """Measures the seconds of the steps, validations and callbacks of a run."""

    def on_fit_start(self, session: Session) -> None:
        self.excluded_seconds = 0.0  # not part of the training, such as the recording of curves
        self.began = time.perf_counter()

    def on_train_end(self, session: Session) -> None:
        self.seconds = time.perf_counter() - self.began - self.excluded_seconds


def train(parts: Parts, data: Dataset, clock: Clock, quiet: bool = False) -> Session:
    """Fit without the callbacks that write into a run's folder. quiet: without the progress bar too.

    Raises signals.Interrupted if a signal ended the training.
    """
    others = {k: cb for k, cb in without_folder(parts.callbacks)[0].items() if not (quiet and isinstance(cb, ProgressBar))}
    # The clock is first, so that it reads the learning rate before a schedule changes it.
    trainer = parts.trainer({"(clock)": clock, **others})
    trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data)
    session = trainer.fitted()
    if session.signal is not None:
        raise signals.Interrupted(session.signal)
    return session


def measured(session: Session) -> Metrics:
    """Evaluate the current net on every split; return `train/loss` and so on. Raises Interrupted after a signal."""
    return {
        f"{name}/{metric}": values
        for name, split in session.data.parts().items()
        for metric, values in session.evaluate(split, interruptible=True).items()
    }


def outcome(
    by: str, metrics: Metrics, steps: float, seconds: float, session: Session, difference: float | None = None
) -> TimedFit:
    """Return the TimedFit of the models of the session's seeds, with those that failed."""
    failed = [r for r, bad in enumerate(failures(metrics, session.data.train)) if bad]
    return TimedFit(by, metrics, steps, seconds, session.seeds, failed, difference, threads.chosen(session, None))


def failures(metrics: Metrics, train: Split) -> list[bool]:
    """Return which models learned nothing.

    These have a non-finite loss, or a training error that is not below that of the best constant prediction, the most frequent
    class.
    """
    losses = [values for name, values in metrics.items() if name.endswith("/loss")]  # other metrics may be undefined
    finite = [all(map(math.isfinite, values)) for values in zip(*losses, strict=True)]
    majority = train.majority()
    if majority is None or "train/error" not in metrics:
        return [not ok for ok in finite]
    constant = 1 - majority - 1e-9  # up to rounding
    return [not ok or error >= constant for ok, error in zip(finite, metrics["train/error"], strict=True)]
