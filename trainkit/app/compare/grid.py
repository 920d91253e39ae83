"""A grid over a configuration. Each point is a trial; points that differ only in the learning rate share one training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.app.config import registry
from trainkit.app.config.build import Parts
from trainkit.app.config.construct import name_and_arguments
from trainkit.app.config.files import compose, override, resolve, unresolved
from trainkit.core.errors import UserError
from trainkit.core.validation import yaml_repr

from . import trial
from .shared_data import SharedData
from .trial import Curves, Trial

if TYPE_CHECKING:
    from omegaconf import DictConfig

OWN_RATES = {"OneCycleLR", "CyclicLR"}  # schedules that ignore the optimizer's learning rate


@dataclass(frozen=True)
class Axis:
    """One key of a grid and its values, as texts."""

    key: str
    values: list[str]


@dataclass(frozen=True)
class Plan:
    """One training: a resolved configuration, the names of the grid's points that its replicas represent, and the data."""

    name: str
    config: dict[str, Any]
    points: list[str]
    shared: SharedData

    def run(self, against: str | None, keep: Callable[[Trial], None] = lambda trial: None) -> list[Trial]:
        """Train, and return a trial per point. `keep`: see `trial.run`."""
        together = trial.run(self.name, self.config, against, keep, self.shared)
        return [together] if len(self.points) == 1 else split_trial(together, self.points)


def axis(text: str) -> Axis:
    """Parse `optimizer.SGD.lr=0.1,0.01` as a key and its values. Commas inside brackets do not separate values."""
    key, equals, rest = text.partition("=")
    values, depth = [""], 0
    for c in rest:
        depth += (c in "[{(") - (c in "]})")
        if c == "," and depth == 0:
            values.append("")
        else:
            values[-1] += c
    if not equals or not key or not all(v.strip() for v in values):
        raise UserError(f"--grid {text}: not a key with values; write key=value,value, for example optimizer.SGD.lr=0.1,0.01")
    if len(set(values)) < len(values):
        raise UserError(f"--grid {text}: a value is given twice")
    return Axis(key, values)


def planned(
    path: Path,
    overrides: Sequence[str],
    axes: Sequence[Axis],
    several: bool,
    name: str = "",
    shared: SharedData | None = None,
) -> list[Plan]:
    """Return the trainings of a configuration and a grid. Each is built once, to find its errors before any training.

    Learning rates become replicas of one training, if the net can be replicated. name: the row's name, by default the file's.
    shared: the data of these trainings and others, by default of these alone.
    """
    shared = shared or SharedData()
    name = name or path.stem
    if not axes:
        return [single_fit(name, compose([path], overrides), shared)[0]]
    head = [name] if several else []
    labels = axis_labels(axes)
    rates = next((a for a in axes if a.key.startswith("optimizer.") and a.key.endswith(".lr")), None)
    rest = [a for a in axes if a is not rates]
    plans: list[Plan] = []
    for values in itertools.product(*(a.values for a in rest)):
        composed = compose([path], overrides)
        for a, value in zip(rest, values, strict=True):
            override(composed, f"{a.key}={value}")
        words = [f"{labels[a.key]}={v}" for a, v in zip(rest, values, strict=True)]
        if rates is None:
            plans.append(single_fit(" ".join([*head, *words]), composed, shared)[0])
            continue
        check_rates(rates, composed)
        points = [" ".join([*head, f"{labels[rates.key]}={v}", *words]) for v in rates.values]
        single = []
        for point, value in zip(points, rates.values, strict=True):
            override(composed, f"{rates.key}={value}")
            single.append(single_fit(point, composed, shared))
        first, parts = single[0]
        if len(points) > 1 and can_replicate(parts):
            joint = " ".join([*head, f"{labels[rates.key]}={','.join(rates.values)}", *words])
            plans.append(Plan(joint, with_rates(first.config, rates, parts.settings.replica_seeds()), points, shared))
        else:
            plans += [plan for plan, _ in single]
    return plans


def single_fit(point: str, composed: DictConfig, shared: SharedData) -> tuple[Plan, Parts]:
    """Return the training of one point, and its parts. Raises UserError for errors of its configuration."""
    config = resolve(composed)
    return Plan(point, config, [point], shared), shared.build(config)


def axis_labels(axes: Sequence[Axis]) -> dict[str, str]:
    """Return the last word of each key, or the whole key if two end alike."""
    last = [a.key.rpartition(".")[2] for a in axes]
    return {a.key: word if last.count(word) == 1 else a.key for a, word in zip(axes, last, strict=True)}


def axes_of(texts: Sequence[str]) -> list[Axis]:
    """Parse each `--grid` as an axis. Raises UserError if two have the same key."""
    axes = [axis(text) for text in texts]
    keys = [a.key for a in axes]
    twice = next((k for k in keys if keys.count(k) > 1), None)
    if twice is not None:
        raise UserError(f"--grid {twice}: the key is given twice; write all its values in one option, {twice}=value,value")
    return axes


def check_rates(rates: Axis, composed: DictConfig) -> None:
    """Raise UserError unless the values are numbers for the configured optimizer, and its schedule uses them."""
    for value in rates.values:
        number(value, rates.key)
    plain = unresolved(composed)
    optimizer, callbacks = plain.get("optimizer"), plain.get("callbacks")
    for name, value in callbacks.items() if isinstance(callbacks, dict) else ():
        class_name, arguments = registry.callback_entry(name, value)
        for schedule in OWN_RATES & set(arguments if isinstance(arguments, dict) else ()):
            place = f"callbacks.{name}" if arguments is value else f"callbacks.{name}.{class_name}"
            key = f"{place}.{schedule}.max_lr"
            raise UserError(f"--grid {rates.key}: {schedule} sets the rate itself, so all points would be equal; try {key}")
    named = name_and_arguments("optimizer", optimizer, "optimizer", [])
    if named is None or rates.key.split(".")[1] != named[0]:
        raise UserError(f"--grid {rates.key}: the optimizer is {yaml_repr(optimizer)}; give its learning rate")
    if named[1] is not None and not isinstance(named[1], dict):
        found = f"optimizer.{named[0]} is {yaml_repr(named[1])}"
        raise UserError(f"--grid {rates.key}: {found}; give its arguments, for example {{lr: 0.1}}")


def can_replicate(parts: Parts) -> bool:
    """Return whether every module of the net can be replicated."""
    return all(m.can_replicate for _, m in parts.net.modules())


def with_rates(config: dict[str, Any], rates: Axis, seeds: list[int]) -> dict[str, Any]:
    """Return the configuration of one training that has every replica once per learning rate, each time with these seeds."""
    values = [number(v, rates.key) for v in rates.values]
    name, arguments = next(iter(config["optimizer"].items()))
    settings = {**(config.get("trainer") or {}), "replicas": len(values) * len(seeds), "seeds": seeds * len(values)}
    return {
        **config,
        "optimizer": {name: {**arguments, "lr": [v for v in values for _ in seeds]}},
        "trainer": settings,
    }


def number(text: str, key: str) -> float:
    """Return a learning rate as a float. Raises UserError if it is not a number."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--grid {key}: {text}; a learning rate is a number") from None


def split_trial(together: Trial, points: Sequence[str]) -> list[Trial]:
    """Split one training into a trial per point. Each has an equal number of consecutive replicas."""
    fit = together.outcomes[0]
    size = fit.models // len(points)
    trials = []
    for k, name in enumerate(points):
        stretch = slice(k * size, (k + 1) * size)
        own = replace(
            fit,
            metrics={m: values[stretch] for m, values in fit.metrics.items()},
            seconds=fit.seconds / len(points),
            seeds=fit.seeds[stretch],
            failed=[r - k * size for r in fit.failed if r // size == k],
        )
        curves = Curves(
            together.curves.epochs, {m: [row[stretch] for row in rows] for m, rows in together.curves.values.items()}
        )
        trials.append(Trial(name, together.loss, [own], curves, None))
    return trials
