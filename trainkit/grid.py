"""A grid over a configuration: each point is a trial; points that differ in the learning rate alone share one training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from . import trial
from .build import entry
from .config import compose, override, resolve
from .errors import UserError
from .schema import written
from .trial import Curves, Trial


@dataclass(frozen=True)
class Axis:
    """One key of a grid and its values, as texts."""

    key: str
    values: list[str]


@dataclass(frozen=True)
class Plan:
    """One training: a resolved configuration, and the points of the grid that its replicas stand for, by name."""

    name: str
    config: dict[str, Any]
    points: list[str]

    def run(self, against: str | None) -> list[Trial]:
        whole = trial.run(self.name, self.config, against)
        return [whole] if len(self.points) == 1 else parts_of(whole, self.points)


def axis(text: str) -> Axis:
    """`optimizer.SGD.lr=0.1,0.01` as a key and its values; commas inside brackets do not part."""
    key, equals, rest = text.partition("=")
    values, depth = [""], 0
    for c in rest:
        depth += (c in "[{(") - (c in "]})")
        if c == "," and depth == 0:
            values.append("")
        else:
            values[-1] += c
    if not equals or not key or not all(v.strip() for v in values):
        raise UserError(f"--grid {text}: no axis; write key=value,value, optimizer.SGD.lr=0.1,0.01")
    if len(set(values)) < len(values):
        raise UserError(f"--grid {text}: a value stands there twice")
    return Axis(key, values)


def planned(path: Path, overrides: Sequence[str], axes: Sequence[Axis], several: bool) -> list[Plan]:
    """The trainings that a configuration and a grid ask for. Learning rates become replicas of one training."""
    name = path.stem
    if not axes:
        return [Plan(name, resolve(compose([path], overrides)), [name])]
    rates = next((a for a in axes if a.key.startswith("optimizer.") and a.key.endswith(".lr")), None)
    rest = [a for a in axes if a is not rates]
    plans = []
    for values in itertools.product(*(a.values for a in rest)):
        composed = compose([path], overrides)
        for a, value in zip(rest, values, strict=True):
            override(composed, f"{a.key}={value}")
        words = [f"{a.key.rpartition('.')[2]}={v}" for a, v in zip(rest, values, strict=True)]
        head = [name] if several else []
        if rates is None:
            plans.append(Plan(" ".join([*head, *words]), resolve(composed), [" ".join([*head, *words])]))
            continue
        points = [" ".join([*head, f"lr={v}", *words]) for v in rates.values]
        plans.append(Plan(" ".join([*head, f"lr={','.join(rates.values)}", *words]), with_rates(composed, rates), points))
    return plans


def with_rates(composed: DictConfig, rates: Axis) -> dict[str, Any]:
    """The configuration with every replica once for each rate: one training, the same seeds for each rate."""
    for value in rates.values:  # each is judged as if it stood alone
        override(composed, f"{rates.key}={value}")
    config = resolve(composed)
    settings = config.get("trainer") or {}
    if not isinstance(settings, dict) or not isinstance(settings.get("replicas", 1), int):
        return config  # the trainer's own errors are told when it is built
    replicas, seed = settings.get("replicas", 1), config.get("seed", 0)
    seeds = settings.get("seeds") or [seed + r for r in range(replicas)]
    named = entry("optimizer", config["optimizer"], "optimizer", [])
    arguments = dict(named[1]) if named is not None and isinstance(named[1], dict) else {}
    if named is None or rates.key.split(".")[1] != named[0]:
        raise UserError(f"--grid {rates.key}: the optimizer is {written(config['optimizer'])}; name its rate")
    values = [number(v, rates.key) for v in rates.values]
    count = len(values)
    config["optimizer"] = {named[0]: {**arguments, "lr": [v for v in values for _ in range(replicas)]}}
    config["trainer"] = {**settings, "replicas": count * replicas, "seeds": list(seeds) * count}
    return config


def number(text: str, key: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--grid {key}: {text}; a learning rate is a number") from None


def parts_of(whole: Trial, points: Sequence[str]) -> list[Trial]:
    """The trials that one training's replicas stand for, in equal stretches."""
    together = whole.outcomes[0]
    size = together.models // len(points)
    trials = []
    for k, name in enumerate(points):
        part = slice(k * size, (k + 1) * size)
        own = replace(
            together,
            metrics={m: values[part] for m, values in together.metrics.items()},
            seconds=together.seconds / len(points),
            seeds=together.seeds[part],
            failed=[r - k * size for r in together.failed if r // size == k],
        )
        curves = Curves(whole.curves.epochs, {m: [row[part] for row in rows] for m, rows in whole.curves.values.items()})
        trials.append(Trial(name, whole.loss, [own], curves, None))
    return trials
