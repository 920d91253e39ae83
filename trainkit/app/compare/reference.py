"""Replicas trained alone, then by a rival from the same weights over the same batches; how far apart they end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainkit import interop
from trainkit.app.config.build import build
from trainkit.data.dataset import Dataset
from trainkit.optim.optimizer import momentum_of
from trainkit.trainer import threads
from trainkit.trainer.evaluation import Metrics
from trainkit.trainer.session import Session

from .timed_fit import Clock, TimedFit, measured, outcome, train


class Settings(Clock):
    """A clock that notes what a schedule gave the optimizer at each step of a single model, for a rival to repeat."""

    def on_fit_start(self, session: Session) -> None:
        self.rates: list[float] = []
        self.momenta: list[dict[str, Any]] = []
        super().on_fit_start(session)

    def on_train_batch_end(self, session: Session) -> None:
        self.rates.append(session.progress.lr[0])
        self.momenta.append(momentum_of(session.optimizer))


def pair(rival: str, config: dict[str, Any], data: Dataset) -> tuple[Session, Clock, Any]:
    """One replica trained alone, its clock, and what the rival made of the same weights over the same batches."""
    fit = interop.find(rival).fit
    parts, clock = build(config), Settings()
    start = parts.net.state_dict()
    one = train(parts, data, clock, quiet=True)
    with threads.restored():
        threads.use(threads.chosen(one, None))
        return one, clock, fit(one, start, clock.rates, clock.momenta)


def rehearse(rival: str, config: dict[str, Any], seed: int, data: Dataset) -> None:
    """A few steps of each, uncounted; and what the rival has not is told before anything is trained."""
    few = of_replica(config, 0, seed)
    few["trainer"]["max_steps"] = 3
    pair(rival, few, data)


def compare_with_reference(
    rival: str, config: dict[str, Any], data: Dataset, session: Session, together: TimedFit
) -> list[TimedFit]:
    """`together`, then each replica trained alone, then by the rival from the same weights over the same batches.

    The two take turns, so that a machine whose speed drifts is fair to both.
    """
    whole = session.net.state_dict()
    ours: list[Metrics] = []
    theirs: list[Metrics] = []
    steps, seconds = 0, [0.0, 0.0]
    apart_whole: list[float] = []
    apart_rival: list[float] = []
    for r in range(session.replicas):
        one, clock, other = pair(rival, of_replica(config, r, session.seeds[r]), data)
        ours.append(measured(one))
        theirs.append({name: [value] for name, value in other.metrics.items()})
        steps += one.progress.step
        seconds = [seconds[0] + clock.seconds, seconds[1] + other.seconds]
        state = one.net.state_dict()
        apart_rival.append(apart(state, other.state))
        apart_whole.append(apart(state, whole if session.replicas == 1 else {n: p[r] for n, p in whole.items()}))
    draws = any(getattr(m, "p", 0) for _, m in session.net.modules() if hasattr(m, "generators"))
    comparable = not session.params_replaced and not draws  # the rival draws other masks, and keeps no best weights
    each = steps / session.replicas
    by = f"{interop.TITLES[rival]}, one by one"
    return [
        replace(together, difference=largest(apart_whole) if session.replicas > 1 else None),
        outcome("trainkit, one by one", joined(ours), each, seconds[0], session),
        outcome(by, joined(theirs), each, seconds[1], session, largest(apart_rival) if comparable else None),
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
