"""Train each replica alone and by a reference implementation, from the same weights and batches; compare the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainkit import interop
from trainkit.app.config.build import build
from trainkit.data.dataset import Dataset
from trainkit.data.sizes import Sizes
from trainkit.optim.optimizer import momentum_of
from trainkit.trainer import threads
from trainkit.trainer.evaluation import Metrics
from trainkit.trainer.session import Session

from .timed_fit import Clock, TimedFit, measured, outcome, train


class ScheduleRecorder(Clock):
    """A clock that records the first parameters of a single model, and the learning rate and momentum of each of its steps, for
    the reference to repeat."""

    def on_fit_start(self, session: Session) -> None:
        self.rates: list[float] = []
        self.momenta: list[dict[str, Any]] = []
        self.start = session.net.state_dict()
        super().on_fit_start(session)

    def on_train_batch_end(self, session: Session) -> None:
        self.rates.append(session.progress.lr[0])
        self.momenta.append(momentum_of(session.optimizer))


def pair(reference: str, config: dict[str, Any], data: Dataset) -> tuple[Session, Clock, Any]:
    """Train one replica alone, then by the reference, from the same weights and batches.

    Return the session, its clock, and the result of the reference.
    """
    fit = interop.find(reference).fit
    parts, clock = build(config, sizes=Sizes.of(data)), ScheduleRecorder()
    one = train(parts, data, clock, quiet=True)
    with threads.restored():
        threads.use(threads.chosen(one, None))
        return one, clock, fit(one, clock.start, clock.rates, clock.momenta)


def rehearse(reference: str, config: dict[str, Any], seed: int, data: Dataset) -> None:
    """Train three steps with each implementation, untimed.

    Raises UserError for what the reference lacks, before the real training.
    """
    few = of_replica(config, 0, seed)
    few["trainer"]["max_steps"] = 3
    pair(reference, few, data)


def compare_with_reference(
    reference: str, config: dict[str, Any], data: Dataset, session: Session, together: TimedFit
) -> list[TimedFit]:
    """Return three results: `together`, the replicas trained one by one, and the same trained by the reference.

    The last two have the same weights and batches, and take turns, so that a drift of the machine's speed affects both.
    """
    trained = session.net.state_dict()
    ours: list[Metrics] = []
    theirs: list[Metrics] = []
    steps, seconds = 0, [0.0, 0.0]
    to_replica: list[float] = []
    to_reference: list[float] = []
    for r in range(session.replicas):
        one, clock, other = pair(reference, of_replica(config, r, session.seeds[r]), data)
        ours.append(measured(one))
        theirs.append({name: [value] for name, value in other.metrics.items()})
        steps += one.progress.step
        seconds = [seconds[0] + clock.seconds, seconds[1] + other.seconds]
        state = one.net.state_dict()
        to_reference.append(max_difference(state, other.state))
        to_replica.append(max_difference(state, trained if session.replicas == 1 else {n: p[r] for n, p in trained.items()}))
    draws = any(getattr(m, "p", 0) for _, m in session.net.modules() if hasattr(m, "generators"))
    comparable = (
        not session.params_replaced and not draws
    )  # the reference draws other masks, and does not keep the best weights
    mean_steps = steps / session.replicas
    by = f"{interop.TITLES[reference]}, one by one"
    return [
        replace(together, difference=max_or_nan(to_replica) if session.replicas > 1 else None),
        outcome("trainkit, one by one", joined(ours), mean_steps, seconds[0], session),
        outcome(by, joined(theirs), mean_steps, seconds[1], session, max_or_nan(to_reference) if comparable else None),
    ]


def of_replica(config: dict[str, Any], r: int, seed: int) -> dict[str, Any]:
    """Return the configuration of replica r alone."""
    alone = {**config, "seed": seed, "trainer": {**(config.get("trainer") or {}), "replicas": 1, "seeds": None}}
    name, arguments = next(iter(config["optimizer"].items())) if isinstance(config["optimizer"], dict) else ("", None)
    if isinstance(arguments, dict):
        own = {key: arguments[key][r] for key in ("lr", "momentum", "weight_decay") if isinstance(arguments.get(key), list)}
        alone["optimizer"] = {name: {**arguments, **own}}
    return alone


def max_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of an element, or NaN if any is NaN."""
    return max_or_nan([float((a[name] - b[name].to(a[name])).abs().max()) for name in a if a[name].numel()])


def max_or_nan(values: Sequence[float]) -> float:
    """Return the maximum, or NaN if any value is NaN, which `max` may ignore."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


def joined(metrics: Sequence[Metrics]) -> Metrics:
    """Return the metrics of several single models as those of one run with replicas."""
    return {name: [m[name][0] for m in metrics] for name in metrics[0]}
