"""Losses for independent binary targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainkit.core.cpp import numbers
from trainkit.core.errors import UserError
from trainkit.nn import kernels

from .base import Loss, Reduction, constant


class BCELoss(Loss):
    """value = -Σ weight (t log y + (1 - t) log(1 - y)) / elements, y and t in [0, 1].

    Saves y, t: dy = weight (y - t) / (y (1 - y)) / elements.

    As in torch, log is at least -100 and y (1 - y) at least 1e-12, so that value and dy are finite at y = 0 and y = 1.
    """

    from_probabilities = independent = True

    def __init__(self, reduction: Reduction = "mean", weight: Sequence[float] | None = None) -> None:
        super().__init__(reduction)
        self.element_weight = constant(weight)

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Any]:
        e = -(t * torch.log(y).clamp_(min=-100) + (1 - t) * torch.log1p(-y).clamp_(min=-100))
        return self.reduce(self._weighted(e), weight), (y, t, weight)

    def bwd(self, saved: Any) -> Tensor:
        y, t, weight = saved
        return self._weighted((y - t) / (y * (1 - y)).clamp_(min=1e-12) * self.reduction_factor(y, weight))

    def native(self, outputs: int, t: Tensor) -> str | None:
        weight = _numbers(self.element_weight, outputs)
        return None if weight is None else self.native_elements(outputs, f"BinaryError<{outputs}>", weight)

    def check(self, y: Tensor, t: Tensor) -> None:
        self._check_weights(y, t)
        if y.numel() and not (float(y.min()) >= 0 and float(y.max()) <= 1):
            raise UserError("BCELoss: y is outside [0, 1]; end the net with a Sigmoid, or use BCEWithLogitsLoss")

    def _check_weights(self, y: Tensor, t: Tensor) -> None:
        """Check y and t, and that the weights have y's shape or fewer elements: others would silently enlarge the loss."""
        super().check(y, t)
        for name, weights in (("weight", self.element_weight), ("pos_weight", getattr(self, "pos_weight", None))):
            sizes = () if weights is None else tuple(weights.shape)
            if len(sizes) > y.dim() or any(k not in (1, n) for k, n in zip(sizes[::-1], y.shape[::-1], strict=False)):
                outputs = y.shape[-1] if y.dim() > 1 + self.replica_dims else 1
                raise UserError(
                    f"{type(self).__name__}: {name} has {weights.numel()} numbers, y has {outputs} outputs;"  # type: ignore[union-attr]
                    " give one number per output"
                )

    def _weighted(self, e: Tensor) -> Tensor:
        return e if self.element_weight is None else e * self.cast("element_weight", e)


class BCEWithLogitsLoss(BCELoss):
    """value = Σ weight ((1 - t) y + l log(1 + e⁻ʸ)) / elements, l = 1 + (pos_weight - 1) t.

    This is BCELoss of σ(y), with class 1 weighted by pos_weight, in a form that does not overflow.

    Saves y, t: dy = weight ((1 - t) - l σ(-y)) / elements; without pos_weight that is σ(y) - t.
    """

    from_logits = True

    def __init__(
        self,
        reduction: Reduction = "mean",
        weight: Sequence[float] | None = None,
        pos_weight: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__(reduction, weight)
        self.pos_weight = constant(pos_weight)

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Any]:
        softplus = kernels.log1pexp(-y)  # log(1 + e⁻ʸ)
        if self.pos_weight is not None:
            softplus = softplus * self._l(t)
        return self.reduce(self._weighted((1 - t) * y + softplus), weight), (y, t, weight)

    def bwd(self, saved: Any) -> Tensor:
        y, t, weight = saved
        d = torch.sigmoid(y) - t if self.pos_weight is None else (1 - t) - self._l(t) * torch.sigmoid(-y)
        return self._weighted(d * self.reduction_factor(y, weight))

    def native(self, outputs: int, t: Tensor) -> str | None:
        weight, positive = _numbers(self.element_weight, outputs), _numbers(self.pos_weight, outputs)
        if weight is None or positive is None:
            return None
        return self.native_elements(outputs, f"BinaryErrorOfLogits<{outputs}>", weight, positive)

    def check(self, y: Tensor, t: Tensor) -> None:
        self._check_weights(y, t)  # not BCELoss.check: y may be any number

    def _l(self, t: Tensor) -> Tensor:
        """Return l, as in the formula."""
        return 1 + (self.cast("pos_weight", t) - 1) * t


def _numbers(weights: Tensor | None, outputs: int) -> str | None:
    """Return a weight per output as a C++ array; None for weights of more than one axis."""
    values = torch.ones(outputs, dtype=torch.float64) if weights is None else weights.double()
    if values.dim() > 1:
        return None
    return numbers(values.expand(outputs).tolist())
