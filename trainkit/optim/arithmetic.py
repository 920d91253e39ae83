"""Tensor arithmetic in which a factor is one number, or a tensor with one per element where replicas differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError

Rate = float | Sequence[float]  # a hyperparameter: one number, or one per replica
Number = float | Tensor  # the same as it is computed with; a tensor where replicas differ, and while a step is compiled
Scalars = Mapping[str, Any]  # what an update computes with, by name: `Number`s, `t` and `frozen` (see `Optimizer`)
RATE_LIMIT = 1e38  # what a float32 holds: rates and other hyperparameters are below it


def add_scaled(t: Tensor, d: Tensor, a: Number, out: Tensor | None = None) -> Tensor:
    """t + a d, in `out`, which may be one of the two."""
    return torch.addcmul(t, d, a, out=out) if isinstance(a, Tensor) else torch.add(t, d, alpha=a, out=out)


def add_scaled_(t: Tensor, d: Tensor, a: Number) -> None:
    """t += a d."""
    if isinstance(a, Tensor):
        t.addcmul_(d, a)
    else:
        t.add_(d, alpha=a)


def lerp_(t: Tensor, d: Tensor, a: Number) -> None:
    """t += a (d - t)."""
    t.lerp_(d, a.to(t.dtype) if isinstance(a, Tensor) else a)


def addcmul_(t: Tensor, d: Tensor, e: Tensor, a: Number) -> None:
    """t += a d e."""
    if isinstance(a, Tensor):
        t.addcmul_(d * e, a)
    else:
        t.addcmul_(d, e, value=a)


def addcdiv_(t: Tensor, d: Tensor, e: Tensor, a: Number) -> None:
    """t += a d / e."""
    if isinstance(a, Tensor):
        t.addcmul_(d / e, a)
    else:
        t.addcdiv_(d, e, value=a)


def max_of(value: Rate) -> float:
    """The largest of one number, or of one for each replica."""
    return max(value) if isinstance(value, Sequence) else value


def min_of(value: Rate) -> float:
    """The smallest of one number, or of one for each replica."""
    return min(value) if isinstance(value, Sequence) else value


def check_range(name: str, low: float, high: float = RATE_LIMIT, **values: Rate) -> None:
    """Refuse a hyper-parameter outside [low, high), or one of several."""
    for key, value in ((k, v) for k, vs in values.items() for v in (vs if isinstance(vs, Sequence) else (vs,))):
        if not low <= value < high:
            bounds = f"at least {low:g}, and below {high:g}" if high == RATE_LIMIT else f"{low:g} up to, not with, {high:g}"
            raise UserError(f"{name}: {key}={value}; needs {bounds}")
