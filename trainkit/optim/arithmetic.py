"""Tensor arithmetic in which a factor is one number, or a tensor with one per element where replicas differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainkit.core.errors import UserError

Rate = float | Sequence[float]  # a hyperparameter: one number, or one per replica
Number = float | Tensor  # the same as it is computed with; a tensor where replicas differ, and while a step is compiled
RATE_LIMIT = 1e38  # what a float32 holds: rates and other hyperparameters are below it


def plus(t: Tensor, d: Tensor, a: Number, out: Tensor | None = None) -> Tensor:
    """t + a d, in `out`, which may be one of the two."""
    return torch.addcmul(t, d, a, out=out) if isinstance(a, Tensor) else torch.add(t, d, alpha=a, out=out)


def add(t: Tensor, d: Tensor, a: Number) -> None:
    """t += a d."""
    if isinstance(a, Tensor):
        t.addcmul_(d, a)
    else:
        t.add_(d, alpha=a)


def lerp(t: Tensor, d: Tensor, a: Number) -> None:
    """t += a (d - t)."""
    t.lerp_(d, a.to(t.dtype) if isinstance(a, Tensor) else a)


def add_product(t: Tensor, d: Tensor, e: Tensor, a: Number) -> None:
    """t += a d e."""
    if isinstance(a, Tensor):
        t.addcmul_(d * e, a)
    else:
        t.addcmul_(d, e, value=a)


def add_ratio(t: Tensor, d: Tensor, e: Tensor, a: Number) -> None:
    """t += a d / e."""
    if isinstance(a, Tensor):
        t.addcmul_(d / e, a)
    else:
        t.addcdiv_(d, e, value=a)


def most(value: Rate) -> float:
    """The largest of one number, or of one for each replica."""
    return max(value) if isinstance(value, Sequence) else value


def least(value: Rate) -> float:
    return min(value) if isinstance(value, Sequence) else value


def within(name: str, low: float, high: float = RATE_LIMIT, **values: Rate) -> None:
    """Refuse a hyper-parameter outside [low, high), or one of several."""
    for key, value in ((k, v) for k, vs in values.items() for v in (vs if isinstance(vs, Sequence) else (vs,))):
        if not low <= value < high:
            bounds = f"at least {low:g}, and below {high:g}" if high == RATE_LIMIT else f"{low:g} up to, not with, {high:g}"
            raise UserError(f"{name}: {key}={value}; needs {bounds}")
