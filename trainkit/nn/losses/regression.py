"""Losses of the elementwise difference d = y - t."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.core.cpp import number
from trainkit.core.errors import UserError

from .base import Loss, Reduction

Saved = tuple[Tensor, Tensor | None]  # d = y - t, and the sample weights


class MSELoss(Loss):
    """value = Σ (y - t)² / elements. Saves d = y - t, since dy = 2 d / elements. With reduction sum there is no division."""

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Saved]:
        d = y - t
        return self.reduce(d * d, weight), (d, weight)

    def bwd(self, saved: Saved) -> Tensor:
        d, weight = saved
        return d * (2 * self.reduction_factor(d, weight))

    def native(self, outputs: int, t: Tensor) -> str | None:
        return self.native_elements(outputs, "SquaredError")


class L1Loss(Loss):
    """value = Σ |y - t| / elements. Saves d = y - t, since dy = sign d / elements (0 at 0, as in torch)."""

    nonsmooth_at = (0.0,)

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Saved]:
        d = y - t
        return self.reduce(d.abs(), weight), (d, weight)

    def bwd(self, saved: Saved) -> Tensor:
        d, weight = saved
        return torch.sign(d).mul_(self.reduction_factor(d, weight))

    def native(self, outputs: int, t: Tensor) -> str | None:
        return self.native_elements(outputs, "AbsoluteError")


class HuberLoss(Loss):
    """value = Σ h(y - t) / elements, h(d) = d²/2 where |d| <= δ, else δ (|d| - δ/2). Saves d, since h'(d) = d clamped to ±δ.

    Source: Huber 1964. `delta` is δ. Raises UserError unless δ > 0.
    """

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        if not delta > 0:
            raise UserError(f"HuberLoss: delta={delta}; needs a number above 0")
        self.delta = delta

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Saved]:
        d = y - t
        a = d.abs()
        e = torch.where(a <= self.delta, 0.5 * d * d, self.delta * (a - 0.5 * self.delta))
        return self.reduce(e, weight), (d, weight)

    def bwd(self, saved: Saved) -> Tensor:
        d, weight = saved
        return d.clamp(-self.delta, self.delta).mul_(self.reduction_factor(d, weight))

    def native(self, outputs: int, t: Tensor) -> str | None:
        return self.native_elements(outputs, "HuberError", number(self.delta))
