"""Losses for class indices and for class probabilities.

NLLLoss and CrossEntropyLoss compute one formula in two ways. torch's kernel computes the usual case, y (n, c) with class
indices. Plain tensor operations compute all other cases (replicas, more axes, probabilities, label smoothing), and are tested
against the kernel. `fwd` chooses; the type of `saved` shows `bwd` which way was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainkit.core.cpp import flag, number, numbers
from trainkit.core.errors import UserError
from trainkit.nn import kernels

from .base import Loss, Reduction, constant, per_sample

# Saved by a pass through `kernels.nll`: y (n, c), t (n,), weight (c,), reduction, ignored, norm, the arguments of
# `nll_backward`. A plain tuple, since making a named one takes a measurable part of a small net's step.
KernelPass = tuple[Tensor, Tensor, Tensor | None, int, int, Tensor]


class FormulaPass(NamedTuple):
    """Saved by a pass through the formula -Σ q y / norm."""

    y: Tensor  # log-probabilities
    q: Tensor  # of y's shape
    norm: float | Tensor  # one number, or one per replica
    class_index: Tensor | None  # the class indices along y's class axis; None if t holds probabilities
    weight: Tensor | None  # the sample weights


class NLLLoss(Loss):
    """value = -Σ q y / norm, y log-probabilities (n, c, ...), q the target weight of each class. Saves q, norm: dy = -q / norm.

    t holds class indices (n, ...): q = weight[t] at the class t, else 0. A target equal to `ignore_index` has q = 0 everywhere.
    norm is Σ weight[t] for reduction mean, as in torch, and 1 for sum. Sample weights multiply weight[t] in both.
    Raises UserError if a weight is not finite, or all are 0.
    """

    label_smoothing = 0.0  # an argument of CrossEntropyLoss

    from_logits = True

    def __init__(
        self, reduction: Reduction = "mean", weight: Sequence[float] | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction)
        self.class_weight = constant(weight)
        if self.class_weight is not None and not (self.class_weight.isfinite().all() and self.class_weight.any()):
            raise UserError(f"{type(self).__name__}: weight={weight}; needs finite numbers, not all of them 0")
        self.ignore_index = ignore_index

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, KernelPass | FormulaPass]:
        if weight is None and self._suits_kernel(y, t):
            of_class = None if self.class_weight is None else self.cast("class_weight", y)
            rule = (of_class, 1 if self.reduction == "mean" else 2, -100 if self.ignore_index is None else self.ignore_index)
            value, norm = kernels.nll(y, t, *rule)
            return value, (y, t, *rule, norm)
        q, norm, index = self.target_weights(y, t, weight)
        return self._value(y, q, norm, index, weight), FormulaPass(y, q, norm, index, weight)

    def bwd(self, saved: Any) -> Tensor:
        if type(saved) is FormulaPass:
            return -self._over_norm(saved.q, saved.norm, saved.weight)
        return kernels.nll_backward(kernels.ones(saved[-1], None), *saved)

    def _suits_kernel(self, y: Tensor, t: Tensor) -> bool:
        return not (self.replica_dims or self.label_smoothing or t.is_floating_point()) and y.dim() == 2

    def native(self, outputs: int, t: Tensor) -> str:
        weights = [1.0] * outputs if self.class_weight is None else self.class_weight.tolist()
        flags = ", ".join(map(flag, (self.reduction == "mean", isinstance(self, CrossEntropyLoss), not t.is_floating_point())))
        ignored = f"{flag(self.ignore_index is not None)}, {int(self.ignore_index or 0)}"
        arguments = f"{numbers(weights)}, {number(self.label_smoothing)}, {ignored}"
        return f"ClassLoss<N, {outputs}, {flags}> @{{{arguments}}};"

    # -- the formula -----------------------------------------------------------------------------------------------------

    def target_weights(
        self, y: Tensor, t: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, float | Tensor, Tensor | None]:
        """Return q, norm and class_index, as in `FormulaPass`. weight: that of each sample."""
        if t.is_floating_point():
            norm = 1.0 if self.reduction == "sum" else self.batch_weight(t) if weight is None else self.batch_weight(t, weight)
            return _sample_weighted(self._class_weighted(self._smoothed(t)), weight), norm, None
        axis = self.axis(y)
        index, counted = t.unsqueeze(axis), None
        if self.ignore_index is not None:
            counted = index != self.ignore_index
            index = index * counted  # class 0 in place of an ignored index, which may be out of range
        q = torch.zeros_like(y).scatter_(axis, index, 1.0)
        if counted is not None:
            q.mul_(counted)
        norm = self._index_norm(q, t, weight)
        q = self._smoothed(q)
        if counted is not None and self.label_smoothing:
            q.mul_(counted)
        return _sample_weighted(self._class_weighted(q), weight), norm, index

    def _index_norm(self, q: Tensor, t: Tensor, weight: Tensor | None) -> float | Tensor:
        """Return Σ weight[t] over the targets that count, or 1 for reduction sum. q is 1 at each class t that counts."""
        if self.reduction == "sum":
            return 1.0
        if self._unweighted():
            return super().batch_weight(t, weight)
        return self._sum(_sample_weighted(self._class_weighted(q), weight))

    def _smoothed(self, q: Tensor) -> Tensor:
        """Return (1 - ε) q + ε / c."""
        smoothing = self.label_smoothing
        return q if smoothing == 0 else q * (1 - smoothing) + smoothing / q.shape[self.axis(q)]

    def _class_weighted(self, q: Tensor) -> Tensor:
        """Return q times the class weights along its class axis."""
        if self.class_weight is None:
            return q
        return q * self.cast("class_weight", q).view([-1 if a == self.axis(q) else 1 for a in range(q.dim())])

    def _value(self, y: Tensor, q: Tensor, norm: float | Tensor, index: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Return -Σ q y / norm. Classes other than the target's are left out, not multiplied by 0, since y may be -∞ there."""
        if index is None or self.label_smoothing:
            e = self._counted(q, y, weight)
        else:
            axis = self.axis(y)
            y = y.gather(axis, index)
            e = y if self._unweighted(weight) else self._counted(q.gather(axis, index), y, weight)  # unweighted: q = 1
        return self._sum(e).div_(norm).neg_()

    def _counted(self, q: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        """Return q y, and 0 at an ignored target and at a sample of weight 0, even if y is -∞ there."""
        return q * (y if self.ignore_index is None and weight is None else torch.where(q == 0, 0, y))

    def _over_norm(self, q: Tensor, norm: float | Tensor, weight: Tensor | None) -> Tensor:
        """Return q / norm."""
        if isinstance(norm, Tensor) and (self.ignore_index is not None or weight is not None):
            norm = torch.where(norm == 0, 1, norm)  # if all are ignored, the value is NaN and the gradient 0, as in torch
        if self.replica_dims and isinstance(norm, Tensor):
            norm = norm.view(-1, *[1] * (q.dim() - 1))
        return q / (norm if weight is None else torch.as_tensor(norm).to(q.dtype))

    def _sum(self, e: Tensor) -> Tensor:
        """Return the sum of all elements, one per replica."""
        return e.flatten(1).sum(1) if self.replica_dims else e.sum()

    def _unweighted(self, weight: Tensor | None = None) -> bool:
        """Return whether each target has weight 1."""
        return weight is None and self.class_weight is None and self.ignore_index is None

    # -- targets ---------------------------------------------------------------------------------------------------------

    def axis(self, y: Tensor) -> int:
        """Return the class axis of y: the one after the batch axis, or the first if y has no batch axis."""
        return self.replica_dims + (1 if y.dim() > 1 + self.replica_dims else 0)

    def batch_weight(self, t: Tensor, weight: Tensor | None = None) -> int | Tensor:
        """Return Σ weight[t] over the targets that count; for probabilities, the number of their rows, or its weighted sum."""
        if t.is_floating_point():
            elements, classes = super().batch_weight(t, weight), max(t.shape[self.axis(t)], 1)
            return elements // classes if isinstance(elements, int) else elements / classes
        if self._unweighted():
            return super().batch_weight(t, weight)
        counted = torch.ones_like(t, dtype=torch.bool) if self.ignore_index is None else t != self.ignore_index
        norm = counted.double()
        if self.class_weight is not None:
            norm *= self.cast("class_weight", norm)[t * counted]
        return _sample_weighted(norm, weight).flatten(self.replica_dims).sum(-1)

    def check(self, y: Tensor, t: Tensor) -> None:
        if t.is_floating_point():
            name, fix = type(self).__name__, _advice(t, y.shape[self.axis(y)])
            raise UserError(f"{name}: t is {t.dtype}; needs class indices of type int64 (data.targets: index); {fix}")
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

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, KernelPass | FormulaPass]:
        return super().fwd(torch.log_softmax(y, self.axis(y)), t, weight)

    def bwd(self, saved: Any) -> Tensor:
        logp = saved[0]
        if type(saved) is not FormulaPass:  # the derivative of NLLLoss, then of LogSoftmax
            return kernels.log_softmax_backward(super().bwd(saved), logp, 1, logp.dtype)
        _, q, norm, index, weight = saved
        p = torch.exp(logp)
        if index is None or not self._unweighted(weight):  # else Σq = 1
            p.mul_(q.sum(self.axis(q), keepdim=True))
        return self._over_norm(p.sub_(q), norm, weight)

    def check(self, y: Tensor, t: Tensor) -> None:
        name, axis = type(self).__name__, self.axis(y)
        if not t.is_floating_point():
            self._check_indices(y, t)
        elif t.shape != y.shape:
            shapes = f"{name}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; probabilities need y's shape"
            raise UserError(f"{shapes}; {_advice(t, y.shape[axis])}")
        elif y.shape[axis] == 1:
            binary = bool(((t >= 0) & (t <= 1)).all())
            fix = "use BCEWithLogitsLoss" if binary else "for a regression use MSELoss"
            raise UserError(f"{name}: y has one class, whose probability is always 1; {fix}")
        else:
            self._check_weight(y.shape[axis])


def _advice(t: Tensor, classes: int) -> str:
    """Return what to do with floating targets that are not probabilities: they are class indices, or numbers to predict."""
    indices = bool(((t == t.round()) & (t >= 0) & (t < max(classes, 2))).all())
    return "for class indices give t.long(), of shape (n,)" if indices else "for a regression use MSELoss"


def _sample_weighted(q: Tensor, weight: Tensor | None) -> Tensor:
    """Return q (n, ...), or (r, n, ...), times the sample weights."""
    return q if weight is None else q * per_sample(weight, q)
