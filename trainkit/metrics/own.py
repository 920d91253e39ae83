"""Metrics that users write: a class with update, merge and value, or a function of all outputs and targets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .metric import Metric, State
from .task import Batch, Task

METHODS = ("update", "merge", "value")
SIGNATURES = "update(y, t), merge(other), value()"
NAN_RETURNED = "it returned NaN"


class OwnState(Protocol):
    """What a user's class needs. One object per model; y (n, ...) and t (n, ...) are its outputs and the targets of a batch.

    With a third argument named weight, `update` also receives the weights of the samples: (n,), or None if all count alike.
    Optional attributes: `name`, and `maximize`, True if larger is better.
    """

    def update(self, y: Tensor, t: Tensor) -> None:
        """Add a batch."""

    def merge(self, other: Self) -> None:
        """Add what another object has seen."""

    def value(self) -> float | Tensor:
        """Return the value of all batches so far; NaN if it is undefined."""


class Copies(State):
    """A copy of the user's object per model."""

    def __init__(self, task: Task, replicas: int, device: torch.device, metric: OwnMetric) -> None:
        super().__init__(task, replicas, device)
        self.options = self.name = metric.name
        self.objects = [deepcopy(metric.prototype) for _ in range(replicas)]
        self.takes_weights = metric.takes_weights

    def update(self, batch: Batch) -> None:
        weight = {"weight": batch.weight} if self.takes_weights else {}
        for own, y in zip(self.objects, batch.y, strict=True):
            with _errors_named(self.name, "update"):
                own.update(y, batch.t, **weight)

    def merge(self, other: Self) -> None:
        for own, others in zip(self.objects, other.objects, strict=True):
            with _errors_named(self.name, "merge"):
                own.merge(others)

    def values(self) -> list[Any]:
        """Return what the objects return, one per model."""
        with _errors_named(self.name, "value"):
            return [own.value() for own in self.objects]


class Collected(State):
    """All outputs (r, n, ...), targets (n, ...) and weights (n,) on the CPU, in the order of updates and merges."""

    def __init__(self, task: Task, replicas: int, device: torch.device, metric: OwnFunction) -> None:
        super().__init__(task, replicas, device)
        self.y: list[Tensor] = []
        self.t: list[Tensor] = []
        self.weight: list[Tensor] = []  # empty if all samples count alike

    def update(self, batch: Batch) -> None:  # waits for the device
        self.y.append(batch.y.detach().to("cpu", copy=True))
        self.t.append(batch.t.detach().to("cpu", copy=True))
        if batch.weight is not None:
            self.weight.append(batch.weight.detach().to("cpu", copy=True))

    def merge(self, other: Self) -> None:
        self.y += other.y
        self.t += other.t
        self.weight += other.weight


@dataclass(frozen=True)
class OwnMetric(Metric):
    """A user's class with `update(y, t)`, `merge(other)` and `value()`; see `OwnState`."""

    prototype: Any
    key: str  # type: ignore[misc]
    maximize: bool | None = None
    takes_weights: bool = False

    def new_state(self, task: Task, replicas: int, device: torch.device) -> Copies:
        return Copies(task, replicas, device, self)

    def value(self, state: Copies) -> Tensor:
        return torch.tensor([number(v, self.name) for v in state.values()], dtype=torch.float64)

    def undefined(self, state: Copies, part: int | None = None) -> str:
        return NAN_RETURNED


@dataclass(frozen=True)
class OwnFunction(Metric):
    """A user's function of y (n, ...) and t (n, ...), the outputs of one model and the targets of the whole split on the CPU.

    Undefined without samples; there the function is not called. An attribute `maximize` of the function says whether larger is
    better. With a third argument named weight, it also receives the weights of the samples: (n,), or None if all count alike.
    """

    function: Callable[..., Any]
    key: str  # type: ignore[misc]
    maximize: bool | None = None
    takes_weights: bool = False

    def new_state(self, task: Task, replicas: int, device: torch.device) -> Collected:
        return Collected(task, replicas, device, self)

    def value(self, state: Collected) -> Tensor:
        if not sum(map(len, state.t)):
            return torch.full((state.replicas,), torch.nan, dtype=torch.float64)
        t = torch.cat(state.t)
        weight = {"weight": torch.cat(state.weight) if state.weight else None} if self.takes_weights else {}
        with _errors_named(self.name, "the function"):
            values = [self.function(y, t, **weight) for y in torch.cat(state.y, 1)]
        return torch.tensor([number(v, self.name) for v in values], dtype=torch.float64)

    def undefined(self, state: Collected, part: int | None = None) -> str:
        return NAN_RETURNED if state.t else "there are no samples"


@contextmanager
def _errors_named(name: str, what: str) -> Iterator[None]:
    """Raise what a user's metric raises as a UserError that names the metric; `__cause__` is the original error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"metrics.{name}: {what} raised {type(error).__name__}: {error}; correct it") from error


def number(value: Any, name: str) -> float:
    """Return what a user's metric returned as a float. Raises UserError unless it is one number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if not hasattr(value, "__float__") or isinstance(value, Tensor):
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise UserError(f"metrics.{name}: returned a {type(value).__name__}{shape}; needs one number")
    return float(value)


def is_own(given: Any) -> bool:
    """Return whether something is a user's metric: a class or an object with update, merge and value, or a function."""
    return callable(given) or any(callable(getattr(given, m, None)) for m in METHODS)


def is_own_class(cls: type) -> bool:
    """Return whether a class has the methods of a user's metric."""
    return all(callable(getattr(cls, m, None)) for m in METHODS)


def own(given: Any) -> Metric:
    """Return the metric of a user's class, object or function; named by its attribute `name`, else as the class or function.

    `MedianError` is named median_error. Raises UserError for a class without the methods or that needs arguments, and for a
    function without a name or of other than two arguments.
    """
    maximize = getattr(given, "maximize", None)
    if inspect.isclass(given) or not callable(given):
        cls = given if inspect.isclass(given) else type(given)
        missing = [m for m in METHODS if not callable(getattr(cls, m, None))]
        if missing:
            raise UserError(f"metrics: class {cls.__name__} has no {', '.join(missing)}; needs {SIGNATURES}")
        if inspect.isclass(given):
            _check_call(given, 0, f"metrics: class {cls.__name__} needs arguments; give an object, {cls.__name__}(...)")
            given = given()
        name = _name(given, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower())
        return OwnMetric(given, name, maximize, _takes_weight(given.update))
    name = _name(given, getattr(given, "__name__", ""))
    if not name.isidentifier():
        raise UserError(f"metrics: a function without a name (got {given!r}); write it with def")
    if not _takes_weight(given):
        _check_call(given, 2, f"metrics: function {name} needs the arguments (y, t)")
    return OwnFunction(given, name, maximize, _takes_weight(given))


def _name(given: Any, default: str) -> str:
    name = getattr(given, "name", default)
    return name if isinstance(name, str) else default


def _takes_weight(function: Any) -> bool:
    """Return whether `function` takes the arguments (y, t, weight)."""
    try:
        signature = inspect.signature(function)
        signature.bind(None, None, weight=None)
    except (TypeError, ValueError):
        return False
    return "weight" in signature.parameters


def _check_call(function: Any, arguments: int, message: str) -> None:
    """Raise UserError unless `function` can be called with this number of positional arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions without a signature
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        raise UserError(message) from error
