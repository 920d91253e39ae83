"""Losses for class indices, for class probabilities, and for independent binary targets.

NLLLoss and CrossEntropyLoss compute one formula in two ways. torch's kernel computes the usual case, y (n, c) with class
indices. Plain tensor operations compute all other cases (replicas, more axes, probabilities, label smoothing), and are tested
against the kernel. `fwd` chooses; the type of `saved` shows `bwd` which way was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn import kernels

from .base import Loss, Reduction

# Saved by a pass through `kernels.nll`: y (n, c), t (n,), weight (c,), reduction, ignored, norm, the arguments of
# `nll_backward`. A plain tuple, since making a named one takes a measurable part of a small net's step.
KernelPass = tuple[Tensor, Tensor, Tensor | None, int, int, Tensor]


class FormulaPass(NamedTuple):
    """Saved by a pass through the formula -Σ q y / norm."""

    y: Tensor  # log-probabilities
    q: Tensor  # of y's shape
    norm: float | Tensor  # one number, or one per replica
    class_index: Tensor | None  # the class indices along y's class axis; None if t holds probabilities


class NLLLoss(Loss):
    """value = -Σ q y / norm, y log-probabilities (n, c, ...), q the target weight of each class. Saves q, norm: dy = -q / norm.

    t holds class indices (n, ...): q = weight[t] at the class t, else 0. A target equal to `ignore_index` has q = 0 everywhere.
    norm is Σ weight[t] for reduction mean, as in torch, and 1 for sum.
    Raises UserError if a weight is not finite, or all are 0.
    """

    label_smoothing = 0.0  # an argument of CrossEntropyLoss

    from_logits = True

    def __init__(
        self, reduction: Reduction = "mean", weight: Sequence[float] | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction)
        self.class_weight = _constant(weight)
        if self.class_weight is not None and not (self.class_weight.isfinite().all() and self.class_weight.any()):
            raise UserError(f"{type(self).__name__}: weight={weight}; needs finite numbers, not all of them 0")
        self.ignore_index = ignore_index

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, KernelPass | FormulaPass]:
        if self._suits_kernel(y, t):
            weight = None if self.class_weight is None else self.cast("class_weight", y)
            rule = (weight, 1 if self.reduction == "mean" else 2, -100 if self.ignore_index is None else self.ignore_index)
            value, norm = kernels.nll(y, t, *rule)
            return value, (y, t, *rule, norm)
        q, norm, index = self.target_weights(y, t)
        return self._value(y, q, norm, index), FormulaPass(y, q, norm, index)

    def bwd(self, saved: Any) -> Tensor:
        if type(saved) is FormulaPass:
            return -self._over_norm(saved.q, saved.norm)
        return kernels.nll_backward(kernels.ones(saved[-1], None), *saved)

    def _suits_kernel(self, y: Tensor, t: Tensor) -> bool:
        return not (self.replica_dims or self.label_smoothing or t.is_floating_point()) and y.dim() == 2

    # -- the formula -----------------------------------------------------------------------------------------------------

    def target_weights(self, y: Tensor, t: Tensor) -> tuple[Tensor, float | Tensor, Tensor | None]:
        """Return q, norm and class_index, as in `FormulaPass`."""
        if t.is_floating_point():
            norm = self.batch_weight(t) if self.reduction == "mean" else 1.0
            return self._class_weighted(self._smoothed(t)), norm, None
        axis = self.axis(y)
        index, counted = t.unsqueeze(axis), None
        if self.ignore_index is not None:
            counted = index != self.ignore_index
            index = index * counted  # class 0 in place of an ignored index, which may be out of range
        q = torch.zeros_like(y).scatter_(axis, index, 1.0)
        if counted is not None:
            q.mul_(counted)
        norm = self._index_norm(q, t)
        q = self._smoothed(q)
        if counted is not None and self.label_smoothing:
            q.mul_(counted)
        return self._class_weighted(q), norm, index

    def _index_norm(self, q: Tensor, t: Tensor) -> float | Tensor:
        """Return Σ weight[t] over the targets that count, or 1 for reduction sum. q is 1 at each class t that counts."""
        if self.reduction == "sum":
            return 1.0
        if self._unweighted():
            return super().batch_weight(t)
        return self._sum(self._class_weighted(q))

    def _smoothed(self, q: Tensor) -> Tensor:
        """Return (1 - ε) q + ε / c."""
        smoothing = self.label_smoothing
        return q if smoothing == 0 else q * (1 - smoothing) + smoothing / q.shape[self.axis(q)]

    def _class_weighted(self, q: Tensor) -> Tensor:
        """Return q times the class weights along its class axis."""
        if self.class_weight is None:
            return q
        return q * self.cast("class_weight", q).view([-1 if a == self.axis(q) else 1 for a in range(q.dim())])

    def _value(self, y: Tensor, q: Tensor, norm: float | Tensor, index: Tensor | None) -> Tensor:
        """Return -Σ q y / norm. Classes other than the target's are left out, not multiplied by 0, since y may be -∞ there."""
        if index is None or self.label_smoothing:
            e = self._counted(q, y)
        else:
            axis = self.axis(y)
            y = y.gather(axis, index)
            e = y if self._unweighted() else self._counted(q.gather(axis, index), y)  # unweighted: q = 1
        return self._sum(e).div_(norm).neg_()

    def _counted(self, q: Tensor, y: Tensor) -> Tensor:
        """Return q y, and 0 at an ignored target, even if y is -∞ there."""
        return q * (y if self.ignore_index is None else torch.where(q == 0, 0, y))

    def _over_norm(self, q: Tensor, norm: float | Tensor) -> Tensor:
        """Return q / norm."""
        if self.ignore_index is not None and isinstance(norm, Tensor):
            norm = torch.where(norm == 0, 1, norm)  # if all are ignored, the value is NaN and the gradient 0, as in torch
        if self.replica_dims and isinstance(norm, Tensor):
            norm = norm.view(-1, *[1] * (q.dim() - 1))
        return q / norm

    def _sum(self, e: Tensor) -> Tensor:
        """Return the sum of all elements, one per replica."""
        return e.flatten(1).sum(1) if self.replica_dims else e.sum()

    def _unweighted(self) -> bool:
        """Return whether each target has weight 1."""
        return self.class_weight is None and self.ignore_index is None

    # -- targets ---------------------------------------------------------------------------------------------------------

    def axis(self, y: Tensor) -> int:
        """Return the class axis of y: the one after the batch axis, or the first if y has no batch axis."""
        return self.replica_dims + (1 if y.dim() > 1 + self.replica_dims else 0)

    def batch_weight(self, t: Tensor) -> int | Tensor:
        """Return Σ weight[t] over the targets that count; for probabilities, the number of their rows."""
        if t.is_floating_point():
            return super().batch_weight(t) // max(t.shape[self.axis(t)], 1)
        if self._unweighted():
            return super().batch_weight(t)
        counted = torch.ones_like(t, dtype=torch.bool) if self.ignore_index is None else t != self.ignore_index
        weight = counted.double()
        if self.class_weight is not None:
            weight *= self.cast("class_weight", weight)[t * counted]
        return weight.flatten(self.replica_dims).sum(-1)

    def check(self, y: Tensor, t: Tensor) -> None:
        if t.is_floating_point():
            raise UserError(f"{type(self).__name__}: t is {t.dtype}; needs class indices of type int64 (data.targets: index)")
        self._check_indices(y, t)

    def _check_indices(self, y: Tensor, t: Tensor) -> None:
        name, axis = type(self).__name__, self.axis(y)
        classes = y.shape[axis] if y.dim() > self.replica_dims else 0
        needed = y.shape[:axis] + y.shape[axis + 1 :]
        if t.shape != needed:
            raise UserError(f"{name}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; needs indices of shape {tuple(needed)}")
        if t.dtype != torch.int64:
            raise UserError(f"{name}: t is {t.dtype}; needs class indices of type int64 (data.targets: index)")
        seen = t if self.ignore_index is None else t[t != self.ignore_index]
        if seen.numel() and (int(seen.min()) < 0 or int(seen.max()) >= classes):
            worst = int(seen.max() if seen.max() >= classes else seen.min())
            raise UserError(f"{name}: class index {worst}; y has classes 0 to {classes - 1}")
        self._check_weight(classes)

    def _check_weight(self, classes: int) -> None:
        if self.class_weight is not None and self.class_weight.shape != (classes,):
            raise UserError(
                f"{type(self).__name__}.weight: {tuple(self.class_weight.shape)}; needs a number for each of the"
                f" {classes} classes"
            )


class CrossEntropyLoss(NLLLoss):
    """value = -Σ q log p / norm, p = softmax y: NLLLoss after LogSoftmax. Saves log p, q, norm: dy = (p Σq - q) / norm.

    t holds class indices (n, ...), or probabilities of y's shape (one-hot among them); then norm is n.
    `label_smoothing` ε takes q to (1 - ε) q + ε/c. Source: torch.nn.CrossEntropyLoss; smoothing from Szegedy et al. 2016.
    Raises UserError as NLLLoss does, and for ε outside [0, 1].
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"CrossEntropyLoss: label_smoothing={label_smoothing}; needs a number from 0 to 1")
        self.label_smoothing = label_smoothing

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, KernelPass | FormulaPass]:
        return super().fwd(torch.log_softmax(y, self.axis(y)), t)

    def bwd(self, saved: Any) -> Tensor:
        logp = saved[0]
        if type(saved) is not FormulaPass:  # the derivative of NLLLoss, then of LogSoftmax
            return kernels.log_softmax_backward(super().bwd(saved), logp, 1, logp.dtype)
        _, q, norm, index = saved
        p = torch.exp(logp)
        if index is None or not self._unweighted():  # else Σq = 1
            p.mul_(q.sum(self.axis(q), keepdim=True))
        return self._over_norm(p.sub_(q), norm)

    def check(self, y: Tensor, t: Tensor) -> None:
        name, axis = type(self).__name__, self.axis(y)
        if not t.is_floating_point():
            self._check_indices(y, t)
        elif t.shape != y.shape:
            raise UserError(f"{name}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; probabilities need y's shape")
        elif y.shape[axis] == 1:
            raise UserError(f"{name}: y has one class, whose probability is always 1; use BCEWithLogitsLoss")
        else:
            self._check_weight(y.shape[axis])


class BCELoss(Loss):
    """value = -Σ weight (t log y + (1 - t) log(1 - y)) / elements, y and t in [0, 1].

    Saves y, t: dy = weight (y - t) / (y (1 - y)) / elements.

    As in torch, log is at least -100 and y (1 - y) at least 1e-12, so that value and dy are finite at y = 0 and y = 1.
    """

    from_probabilities = independent = True

    def __init__(self, reduction: Reduction = "mean", weight: Sequence[float] | None = None) -> None:
        super().__init__(reduction)
        self.element_weight = _constant(weight)

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        e = -(t * torch.log(y).clamp_(min=-100) + (1 - t) * torch.log1p(-y).clamp_(min=-100))
        return self.reduce(self._weighted(e)), (y, t)

    def bwd(self, saved: Any) -> Tensor:
        y, t = saved
        return self._weighted((y - t) / (y * (1 - y)).clamp_(min=1e-12) * self.reduction_factor(y))

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
        self.pos_weight = _constant(pos_weight)

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        softplus = kernels.log1pexp(-y)  # log(1 + e⁻ʸ)
        if self.pos_weight is not None:
            softplus = softplus * self._l(t)
        return self.reduce(self._weighted((1 - t) * y + softplus)), (y, t)

    def bwd(self, saved: Any) -> Tensor:
        y, t = saved
        d = torch.sigmoid(y) - t if self.pos_weight is None else (1 - t) - self._l(t) * torch.sigmoid(-y)
        return self._weighted(d * self.reduction_factor(y))

    def check(self, y: Tensor, t: Tensor) -> None:
        self._check_weights(y, t)  # not BCELoss.check: y may be any number

    def _l(self, t: Tensor) -> Tensor:
        """Return l, as in the formula."""
        return 1 + (self.cast("pos_weight", t) - 1) * t


def _constant(value: Sequence[float] | float | None) -> Tensor | None:
    """Return the numbers as float64, which keeps all their digits; `cast` converts them to y's dtype."""
    return None if value is None else torch.as_tensor(value, dtype=torch.float64)
