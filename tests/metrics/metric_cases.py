"""Random batches for the metrics, and how they are evaluated: at once, in batches, merged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import make
from trainkit.metrics.task import Task


@dataclass(frozen=True)
class Case:
    """A split of n samples with the outputs of r models."""

    y: Tensor
    t: Tensor
    label: Tensor | None
    weight: Tensor | None
    task: Task

    def rows(self, index: Any) -> Case:
        label, weight = (None if v is None else v[index] for v in (self.label, self.weight))
        return Case(self.y[:, index], self.t[index], label, weight, self.task)

    def sample_weight(self) -> Any:
        return None if self.weight is None else self.weight.numpy()


def class_case(seed: int, replicas: int = 1, *, one_output: bool = False, max_classes: int = 20) -> Case:
    """Classes of which some may be absent, ties, one sample, weights, float32 and float64, logits and probabilities."""
    g = np.random.default_rng(seed)
    k = 2 if one_output else int(g.integers(2, max_classes + 1))
    n = 1 if g.random() < 0.05 else int(g.integers(2, 60))
    label = torch.from_numpy(g.choice(g.choice(k, size=int(g.integers(1, k + 1)), replace=False), size=n))
    y = torch.from_numpy(g.normal(size=(replicas, n, 1 if one_output else k)) * 2)
    if g.random() < 0.4:
        y = y.round()  # ties
    if g.random() < 0.5:
        y = y.float()
    from_logits = bool(g.random() < 0.5)
    if not from_logits:
        y = torch.sigmoid(y.double()) if one_output else torch.softmax(y.double(), 2)
    weight = torch.from_numpy(g.random(n) + 0.1) if g.random() < 0.4 else None
    task = Task(tuple(f"c{i}" for i in range(k)), y.shape[2], from_logits, 0.0 if from_logits else 0.5, int(g.integers(2)))
    if one_output and g.random() < 0.5:
        y = y[..., 0]
    return Case(y, label, label, weight, task)


def empty(case: Case, metrics: Sequence[Any]) -> MetricSet:
    return MetricSet([make(m) for m in metrics], case.task, case.y.shape[0])


def filled(case: Case, metrics: Sequence[Any], parts: Sequence[Any] = (slice(None),)) -> MetricSet:
    """The metrics of the case, in one batch per part."""
    made = empty(case, metrics)
    for part in parts:
        rows = case.rows(part)
        made.update(rows.y, rows.t, rows.label, rows.weight)
    return made


def quiet(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The value of scikit-learn's function, which warns where ours is NaN with a reason."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*args, **options)


def assert_close(value: float, expected: float, name: object = "") -> None:
    """Equal to 1e-12, relative to numbers above 1; NaN equals NaN."""
    if expected != expected:
        assert value != value, f"{name}: {value}, expected NaN"
    else:
        assert abs(value - expected) <= 1e-12 * max(1, abs(expected)), f"{name}: {value}, expected {expected}"
