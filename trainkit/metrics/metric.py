"""The two halves of a metric: a state that batches add to and that merges, and a value that is read from it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .task import Batch, Task


class State:
    """What is kept of the batches so far. States of one class with equal `options` are one: metrics share it.

    The order of batches and merges does not matter: counts have the same bits, other values agree to about 1e-12.
    """

    options: Hashable = ()

    def __init__(self, task: Task, replicas: int, device: torch.device) -> None:
        self.task, self.replicas, self.device = task, replicas, device

    def update(self, batch: Batch) -> None:
        """Add the samples of a batch, without waiting for the device."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def merge(self, other: Self) -> None:
        """Add what another state has seen; it is not changed."""
        raise NotImplementedError(f"{type(self).__name__} has no merge")

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)


class SumState(State):
    """A state of tensors that only add up; `sums` names them."""

    sums: ClassVar[tuple[str, ...]]

    def merge(self, other: Self) -> None:
        for name in self.sums:
            getattr(self, name).add_(getattr(other, name).to(self.device))


class Metric:
    """A value of a split, one per model. Subclasses are frozen dataclasses: their fields are the options in a configuration.

    key: the name in a configuration. maximize: True if larger is better, None if unknown. takes_weights: False if all samples
    count alike, whatever their weights.
    """

    key: ClassVar[str]
    maximize: bool | None
    takes_weights: bool = True

    @property
    def name(self) -> str:
        """The name of the value; options that change the value are part of it."""
        return self.key

    def problem(self, task: Task) -> str:
        """Return why the metric does not fit the task; '' if it does."""
        return ""

    def parts(self, task: Task) -> tuple[str, ...]:
        """Return the names of the values, if there is one per class or target: `f1/a`, `f1/b`; () for a single value."""
        return ()

    def new_state(self, task: Task, replicas: int, device: torch.device) -> State:
        """Return an empty state of the kind that `value` reads."""
        raise NotImplementedError(f"{type(self).__name__} has no new_state")

    def value(self, state: Any) -> Tensor:
        """Return the value, float64: (r,), or (r, parts). NaN where it is undefined."""
        raise NotImplementedError(f"{type(self).__name__} has no value")

    def undefined(self, state: Any, part: int | None = None) -> str:
        """Return why the value, or that of `part`, is NaN for a model. Called only if it is; waits for the device."""
        raise NotImplementedError(f"{type(self).__name__} has no undefined")


NO_SAMPLES = "there are no samples"
NOT_FINITE = "outputs or targets are not finite"
NOT_PROBABILITIES = "outputs are not probabilities: NaN, outside [0, 1], or not adding up to 1"
NEEDS_CLASSES = "needs classes"
NEEDS_ONE_CLASS = "needs one class per sample"


def class_problem(task: Task, multilabel: bool = False) -> str:
    """Return why a metric of classes does not fit the task. multilabel: whether several labels per sample fit too."""
    if task.classes is None:
        return f"{NEEDS_CLASSES}; the data has none"
    return f"{NEEDS_ONE_CLASS}; the task has several labels" if task.multilabel and not multilabel else ""


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, NaN where the denominator is 0."""
    return torch.where(denominator == 0, torch.nan, numerator / denominator)


def mean_where_defined(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the (weighted) mean over the last dimension of the values that are not NaN: (r, k) gives (r,)."""
    weight = torch.ones_like(values) if weight is None else weight.expand_as(values)
    weight = torch.where(values.isnan(), 0.0, weight)
    return divided((values.nan_to_num(0.0) * weight).sum(-1), weight.sum(-1))


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names for a message: `'a', 'b' and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
