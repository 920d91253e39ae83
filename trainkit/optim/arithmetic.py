"""Tensor arithmetic in which a factor is one number, or a tensor with one number per element where replicas differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr

Rate = float | Sequence[float]  # a hyperparameter: one number, or one per replica
Number = float | Tensor  # a `Rate` in a computation: a tensor where replicas differ, and in a captured step
Scalars = Mapping[str, Any]  # the scalars of an update by name: `Number`s, `t` and `frozen` (see `Optimizer`)
RATE_LIMIT = 1e38  # rates and other hyperparameters are below it, so that float32 holds them


def add_scaled(t: Tensor, d: Tensor, a: Number, out: Tensor | None = None) -> Tensor:
    """Return t + a d, in `out` if given, which may be t or d."""
    return torch.addcmul(t, d, a, out=out) if isinstance(a, Tensor) else torch.add(t, d, alpha=a, out=out)


def add_scaled_(t: Tensor, d: Tensor, a: Number) -> None:
    """Compute t += a d."""
    if isinstance(a, Tensor):
        t.addcmul_(d, a)
    else:
        t.add_(d, alpha=a)


def lerp_(t: Tensor, d: Tensor, a: Number) -> None:
    """Compute t += a (d - t)."""
    t.lerp_(d, a.to(t.dtype) if isinstance(a, Tensor) else a)


def addcmul_(t: Tensor, d: Tensor, e: Tensor, a: Number) -> None:
    """Compute t += a d e."""
    if isinstance(a, Tensor):
        t.addcmul_(d * e, a)
    else:
        t.addcmul_(d, e, value=a)


def addcdiv_(t: Tensor, d: Tensor, e: Tensor, a: Number) -> None:
    """Compute t += a d / e."""
    if isinstance(a, Tensor):
        t.addcmul_(d / e, a)
    else:
        t.addcdiv_(d, e, value=a)


def max_of(value: Rate) -> float:
    """Return the number, or the largest of one per replica."""
    return max(value) if isinstance(value, Sequence) else value


def min_of(value: Rate) -> float:
    """Return the number, or the smallest of one per replica."""
    return min(value) if isinstance(value, Sequence) else value


def values_of(name: str, key: str, value: Rate) -> list[float]:
    """Return the values of the hyperparameter `key`: one, or one per replica. Raises UserError for anything but numbers."""
    values: list[Any] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise UserError(f"{name}: 0 values of {key}; needs one number, or one per replica (trainer.replicas)")
    if wrong := [v for v in values if not isinstance(v, Real)]:
        raise UserError(f"{name}: {key} is {short_repr(wrong[0])}; needs a number, or a list with a number per replica")
    return values


def check_range(name: str, low: float, high: float = RATE_LIMIT, **values: Rate) -> None:
    """Raise UserError if a hyperparameter, or its value for one replica, is outside [low, high)."""
    for key, value in ((k, v) for k, given in values.items() for v in values_of(name, k, given)):
        if not low <= value < high:
            raise UserError(f"{name}: {key}={value}; needs a number of at least {low:g} and below {high:g}")
