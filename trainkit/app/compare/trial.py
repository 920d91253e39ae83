"""A trial: one configuration, trained and evaluated while it trains; what `compare` prints and draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from trainkit.trainer import signals
from trainkit.trainer.session import Session

from .decision_regions import DecisionRegions, decision_regions
from .reference import compare_with_reference, rehearse
from .shared_data import SharedData
from .timed_fit import Clock, TimedFit, measured, outcome, train

CURVE_POINTS = 60  # evaluations over a run: enough for a smooth curve


@dataclass(frozen=True)
class Curves:
    """Loss and error of each split over the run, in evaluation mode.

    `values["val/loss"][i][r]` is replica r's after `epochs[i]` epochs; epoch 0 is the untrained net. The last entry is a
    fraction if the run ended inside an epoch.
    """

    epochs: list[float] = field(default_factory=list)
    values: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One configuration: its name, its loss, a TimedFit per implementation (first all replicas at once), the curves of the
    first one, and its decision regions, if the data is a plane."""

    name: str
    loss: str
    outcomes: list[TimedFit]
    curves: Curves
    plane: DecisionRegions | None = None


class CurveRecorder(Clock):
    """A clock that evaluates all splits about sixty times over the run, also before the first step. It excludes that time."""

    def on_fit_start(self, session: Session) -> None:
        self.curves = Curves()
        last = session.max_epochs
        if session.settings.max_steps is not None:
            last = min(last, -(-session.settings.max_steps // session.steps_per_epoch))
        self.due = (
            {round(i * last / CURVE_POINTS) for i in range(CURVE_POINTS + 1)} if last > CURVE_POINTS else set(range(last + 1))
        )
        self._record(session, 0)
        super().on_fit_start(session)

    def on_train_epoch_end(self, session: Session) -> None:
        if session.epochs_done in self.due:
            began = time.perf_counter()
            self._record(session, session.epochs_done)
            self.excluded_seconds += time.perf_counter() - began

    def on_train_end(self, session: Session) -> None:
        super().on_train_end(session)
        ended = session.progress.step / session.steps_per_epoch
        if ended != self.curves.epochs[-1]:  # inside an epoch, or at one without an evaluation
            self._record(session, ended)

    def _record(self, session: Session, epoch: float) -> None:
        try:
            metrics = measured(session)
        except signals.Interrupted:  # the session has recorded the signal, and ends
            return
        self.curves.epochs.append(epoch)
        for name, values in metrics.items():
            self.curves.values.setdefault(name, []).append(values)


def run(
    name: str,
    config: dict[str, Any],
    against: str | None = None,
    keep: Callable[[Trial], None] = lambda trial: None,
    shared: SharedData | None = None,
) -> Trial:
    """Train a resolved configuration, all replicas at once, without the callbacks that write.

    against: the name of a reference implementation (see `trainkit.interop`). Each replica is then trained alone, and by the
    reference, in turn. `keep` is called with the trial before that, so that it is not lost if those end early.
    shared: the data of several trials, by default of this one alone.
    Raises UserError for an error of the configuration or its data, signals.Interrupted if a signal ended the training.
    """
    shared = shared or SharedData()
    parts = shared.build(config)
    raw = shared.read(config, parts)
    if against is not None:
        rehearse(against, config, parts.settings.replica_seeds()[0], raw)
    recorder = CurveRecorder()
    session = train(parts, raw, recorder)
    metrics, by = measured(session), "trainkit" if session.replicas == 1 else f"trainkit, {session.replicas} at once"
    plane = decision_regions(session, raw, metrics)
    together = outcome(by, metrics, session.progress.step, recorder.seconds, session)
    done = Trial(name, repr(parts.loss), [together], recorder.curves, plane)
    if against is None:
        return done
    keep(done)
    return replace(done, outcomes=compare_with_reference(against, config, raw, session, together))
