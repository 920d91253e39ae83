"""Losses: a pure pair too, `value, saved = fwd(y, t)` and `dy = bwd(saved)`; y what the net says, t the target.

`reduction` is mean or sum over everything but the replica axis; value is a scalar, or (r,) with replicas.
Names and conventions are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError, near

Reduction = Literal["mean", "sum"]


class Loss:
    """What every loss shares: the reduction, and the stateful pair `forward(y, t)`, `backward()`.

    A subclass computes with `self.reduction`, by `reduce` and `weight` or by itself: with sum, value and dy are those of the
    mean times `count(t)`. Evaluation, and batches in parts, add up sums and counts.
    """

    lead = 0  # replica axes of y, t and value, as in Module
    logits = False  # True where y > 0, not y > 1/2, answers class 1
    kinks: tuple[float, ...] = ()  # values of y - t at which the derivative jumps

    def __init__(self, reduction: Reduction = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise UserError(f"{type(self).__name__}: no reduction {reduction!r}{near(str(reduction), ('mean', 'sum'))}")
        self.reduction = reduction
        self._casts: dict[Any, Tensor] = {}

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        raise NotImplementedError(f"{type(self).__name__} has no fwd")

    def bwd(self, saved: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no bwd")

    def check(self, y: Tensor, t: Tensor) -> None:
        """Refuse a target that would be broadcast or cast in silence. Not called in the hot path."""
        if y.shape != t.shape:
            raise UserError(f"{type(self).__name__}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; both need one shape")
        if not t.is_floating_point():
            raise UserError(
                f"{type(self).__name__}: t is {t.dtype}; needs floating numbers like y's (data.targets: onehot, binary or real)"
            )

    def count(self, t: Tensor) -> int | Tensor:
        """What a mean over t divides by, a number or one per replica.

        The mean over several batches is the sum of their sums over the sum of their counts.
        """
        return t.numel() // (t.shape[0] if self.lead else 1)

    def summed(self) -> Self:
        """This loss with reduction sum."""
        loss = copy(self)
        loss.reduction = "sum"
        return loss

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        self.check(y, t)
        value, self._saved = self.fwd(y, t)
        return value

    def backward(self) -> Tensor:
        """dy of the last `forward`, once."""
        if "_saved" not in self.__dict__:
            raise UserError(f"{type(self).__name__}.backward: nothing is saved; call forward first")
        return self.bwd(self.__dict__.pop("_saved"))

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        self.check(y, t)
        return self.fwd(y, t)[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reduction={self.reduction!r})"

    def reduce(self, e: Tensor) -> Tensor:
        """Elements to the value, a replica each."""
        if self.lead:
            e = e.reshape(e.shape[0], -1)
            return e.mean(1) if self.reduction == "mean" else e.sum(1)
        return e.mean() if self.reduction == "mean" else e.sum()

    def weight(self, y: Tensor) -> float:
        """d value / d element: 1/elements, or 1."""
        if self.reduction == "sum":
            return 1.0
        return (y.shape[0] if self.lead else 1) / max(y.numel(), 1)

    def cast(self, name: str, y: Tensor) -> Tensor:
        """The constant `name` in y's dtype, on its device. Kept: a copy to a device in each pass would wait for it."""
        key = (name, y.dtype, y.device)
        if key not in self._casts:
            self._casts[key] = getattr(self, name).to(y)
        return self._casts[key]


class MSELoss(Loss):
    """value = Σ (y - t)² / elements. Saves d = y - t, since dy = 2 d / elements. With reduction sum there is no division."""

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        d = y - t
        return self.reduce(d * d), d

    def bwd(self, d: Tensor) -> Tensor:
        return d * (2 * self.weight(d))


class L1Loss(Loss):
    """value = Σ |y - t| / elements. Saves d = y - t, since dy = sign d / elements (0 at 0, as torch has it)."""

    kinks = (0.0,)

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        d = y - t
        return self.reduce(d.abs()), d

    def bwd(self, d: Tensor) -> Tensor:
        return torch.sign(d).mul_(self.weight(d))


class HuberLoss(Loss):
    """value = Σ h(y - t) / elements, h(d) = d²/2 where |d| <= δ, else δ (|d| - δ/2). Saves d, since h'(d) = d clamped to ±δ.

    Source: Huber 1964. `delta` is δ > 0.
    """

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        if not delta > 0:
            raise UserError(f"HuberLoss: delta={delta}; needs a number above 0")
        self.delta = delta

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        d = y - t
        a = d.abs()
        return self.reduce(torch.where(a <= self.delta, 0.5 * d * d, self.delta * (a - 0.5 * self.delta))), d

    def bwd(self, d: Tensor) -> Tensor:
        return d.clamp(-self.delta, self.delta).mul_(self.weight(d))


class NLLLoss(Loss):
    """value = -Σ q y / norm, y log-probabilities (n, c, ...), q the wanted weight of each class. Saves q, norm: dy = -q / norm.

    t holds class indices (n, ...), and q = weight[t] at the class t; an index equal to `ignore_index` counts nothing.
    norm is 1 for reduction sum, and for mean Σ weight[t], torch's convention.
    """

    def __init__(
        self, reduction: Reduction = "mean", weight: Sequence[float] | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction)
        self.class_weight = _constant(weight)
        if self.class_weight is not None and not (self.class_weight.isfinite().all() and self.class_weight.any()):
            raise UserError(f"{type(self).__name__}: weight={weight}; needs finite numbers, not all of them 0")
        self.ignore_index = ignore_index

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        if self._plain(y, t):
            value, saved = self._fwd_indexed(y, t)
            return value, (saved, None)
        q, norm, index = self.wanted(y, t, 0.0)
        return self._total(q, y, norm, index), (q, norm)

    def bwd(self, saved: Any) -> Tensor:
        q, norm = saved
        return -self._divide(q, norm) if norm is not None else self._bwd_indexed(q)

    def _plain(self, y: Tensor, t: Tensor) -> bool:
        """Whether torch's kernel does it: indices for rows of classes. The formulas below do all else, and are its witness."""
        return y.dim() == 2 and not self.lead and not t.is_floating_point()

    def _fwd_indexed(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        weight = None if self.class_weight is None else self.cast("class_weight", y)
        rule = (weight, 1 if self.reduction == "mean" else 2, -100 if self.ignore_index is None else self.ignore_index)
        value, norm = kernels.nll(y, t, *rule)
        return value, (y, t, rule, norm)

    def _bwd_indexed(self, saved: Any) -> Tensor:
        y, t, rule, norm = saved
        return kernels.nll_backward(kernels.ones(norm, None), y, t, *rule, norm)

    def wanted(self, y: Tensor, t: Tensor, smoothing: float) -> tuple[Tensor, float | Tensor, Tensor | None]:
        """q like y; norm: a number, or one a replica; and where q is 0 but at one class, that class's index."""
        axis = self.axis(y)
        if t.is_floating_point():
            q = t if smoothing == 0 else t * (1 - smoothing) + smoothing / y.shape[axis]
            n = t.numel() // max(t.shape[axis], 1) // (t.shape[0] if self.lead else 1)
            return (q if self.class_weight is None else q * self._column(y)), (n if self.reduction == "mean" else 1.0), None
        counted = None if self.ignore_index is None else t != self.ignore_index
        index = (t if counted is None else t * counted).unsqueeze(axis)
        q = torch.zeros_like(y).scatter_(axis, index, 1.0)
        if counted is not None:
            q.mul_(counted.unsqueeze(axis))
        norm: float | Tensor = 1.0
        if self.reduction == "mean" and counted is None and self.class_weight is None:
            norm = t.numel() / (t.shape[0] if self.lead else 1)
        elif self.reduction == "mean":
            weighted = q if self.class_weight is None else q * self._column(y)
            norm = weighted.flatten(1).sum(1) if self.lead else weighted.sum()
        if smoothing:
            q.mul_(1 - smoothing).add_(smoothing / y.shape[axis])
            if counted is not None:
                q.mul_(counted.unsqueeze(axis))
        return (q if self.class_weight is None else q * self._column(y)), norm, (None if smoothing else index)

    def count(self, t: Tensor) -> int | Tensor:
        """Σ weight[t] over what is not ignored; of probabilities, how many rows of them there are."""
        if t.is_floating_point():
            return super().count(t) // max(t.shape[self.axis(t)], 1)
        if self.class_weight is None and self.ignore_index is None:
            return super().count(t)
        counted = torch.ones_like(t, dtype=torch.bool) if self.ignore_index is None else t != self.ignore_index
        weight = counted.double()
        if self.class_weight is not None:
            weight *= self.cast("class_weight", weight)[t * counted]
        return weight.flatten(self.lead).sum(-1)

    def axis(self, y: Tensor) -> int:
        """The classes stand on axis 1, or 0 where there is no batch; the replica axis is not counted."""
        return self.lead + (1 if y.dim() > 1 + self.lead else 0)

    def check(self, y: Tensor, t: Tensor) -> None:
        name, axis = type(self).__name__, self.axis(y)
        if t.is_floating_point():
            raise UserError(f"{name}: t is {t.dtype}; needs class indices of type int64 (data.targets: index)")
        self._check_indices(name, y, t, axis)

    def _check_indices(self, name: str, y: Tensor, t: Tensor, axis: int) -> None:
        classes = y.shape[axis] if y.dim() > self.lead else 0
        wanted = y.shape[:axis] + y.shape[axis + 1 :]
        if t.shape != wanted:
            raise UserError(f"{name}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; needs indices of shape {tuple(wanted)}")
        if t.dtype != torch.int64:
            raise UserError(f"{name}: t is {t.dtype}; needs class indices of type int64 (data.targets: index)")
        seen = t if self.ignore_index is None else t[t != self.ignore_index]
        if seen.numel() and (int(seen.min()) < 0 or int(seen.max()) >= classes):
            worst = int(seen.max() if seen.max() >= classes else seen.min())
            raise UserError(f"{name}: class index {worst}; y has classes 0 to {classes - 1}")
        self._check_weight(name, classes)

    def _check_weight(self, name: str, classes: int) -> None:
        if self.class_weight is not None and self.class_weight.shape != (classes,):
            raise UserError(
                f"{name}.weight: {tuple(self.class_weight.shape)}; needs a number for each of the {classes} classes"
            )

    def _column(self, y: Tensor) -> Tensor:
        """The class weights along y's class axis."""
        shape = [1] * y.dim()
        shape[self.axis(y)] = -1
        return self.cast("class_weight", y).view(shape)

    def _total(self, q: Tensor, y: Tensor, norm: float | Tensor, index: Tensor | None) -> Tensor:
        """-Σ q y / norm. The classes with q = 0 are left out, not multiplied: y may be -∞ there."""
        plain = self.class_weight is None and self.ignore_index is None
        if index is not None:
            axis = self.axis(y)
            y, q = y.gather(axis, index), (q if plain else q.gather(axis, index))
        if self.ignore_index is not None:
            y = torch.where(q == 0, 0, y)
        e = y if plain and index is not None else q * y  # plain: q = 1 at the index
        return (e.flatten(1).sum(1) if self.lead else e.sum()).div_(norm).neg_()

    def _divide(self, q: Tensor, norm: float | Tensor) -> Tensor:
        if self.ignore_index is not None and isinstance(norm, Tensor):
            norm = torch.where(norm == 0, 1, norm)  # all is ignored: the value is nan, the gradient 0, as torch has it
        if self.lead and isinstance(norm, Tensor):
            norm = norm.view(-1, *[1] * (q.dim() - 1))
        return q / norm


class CrossEntropyLoss(NLLLoss):
    """value = -Σ q log p / norm, p = softmax y: NLLLoss over a LogSoftmax. Saves log p, q, norm: dy = (p Σq - q) / norm.

    t holds class indices (n, ...), or probabilities of y's shape (one-hot among them); then norm is n.
    `label_smoothing` ε takes q to (1 - ε) q + ε/c. Source: torch.nn.CrossEntropyLoss; smoothing from Szegedy et al. 2016.
    """

    logits = True

    def __init__(
        self,
        reduction: Reduction = "mean",
        weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, weight, ignore_index)
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"CrossEntropyLoss: label_smoothing={label_smoothing}; needs 0 to 1")
        self.label_smoothing = label_smoothing

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        logp = torch.log_softmax(y, self.axis(y))
        if self.label_smoothing == 0 and self._plain(y, t):
            value, saved = self._fwd_indexed(logp, t)
            return value, (logp, saved, None, False)
        q, norm, index = self.wanted(logp, t, self.label_smoothing)
        return self._total(q, logp, norm, index), (logp, q, norm, t.is_floating_point())

    def bwd(self, saved: Any) -> Tensor:
        logp, q, norm, soft = saved
        if norm is None:  # through NLLLoss, then LogSoftmax
            return kernels.log_softmax_backward(self._bwd_indexed(q), logp, 1, logp.dtype)
        p = torch.exp(logp)
        if soft or self.class_weight is not None or self.ignore_index is not None:  # else Σq = 1
            p.mul_(q.sum(self.axis(q), keepdim=True))
        return self._divide(p.sub_(q), norm)

    def check(self, y: Tensor, t: Tensor) -> None:
        name, axis = type(self).__name__, self.axis(y)
        if not t.is_floating_point():
            self._check_indices(name, y, t, axis)
        elif t.shape != y.shape:
            raise UserError(f"{name}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; probabilities need y's shape")
        elif y.shape[axis] == 1:
            raise UserError(f"{name}: y has one class, whose probability is always 1; use BCEWithLogitsLoss")
        else:
            self._check_weight(name, y.shape[axis])


class BCELoss(Loss):
    """value = -Σ weight (t log y + (1 - t) log(1 - y)) / elements, y and t in [0, 1].

    Saves y, t: dy = weight (y - t) / (y (1 - y)) / elements.

    As in torch, log is cut off at -100 and y (1 - y) at 1e-12, so that y = 0 and y = 1 stay finite.
    """

    def __init__(self, reduction: Reduction = "mean", weight: Sequence[float] | None = None) -> None:
        super().__init__(reduction)
        self.element_weight = _constant(weight)

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        e = -(t * torch.log(y).clamp_(min=-100) + (1 - t) * torch.log1p(-y).clamp_(min=-100))
        return self.reduce(self._weigh(e)), (y, t)

    def bwd(self, saved: Any) -> Tensor:
        y, t = saved
        return self._weigh((y - t) / (y * (1 - y)).clamp_(min=1e-12) * self.weight(y))

    def check(self, y: Tensor, t: Tensor) -> None:
        super().check(y, t)
        if y.numel() and not (float(y.min()) >= 0 and float(y.max()) <= 1):
            raise UserError("BCELoss: y leaves [0, 1]; end the net in a Sigmoid, or use BCEWithLogitsLoss")

    def _weigh(self, e: Tensor) -> Tensor:
        return e if self.element_weight is None else e * self.cast("element_weight", e)


class BCEWithLogitsLoss(BCELoss):
    """BCELoss of σ(y), in the form that does not overflow.

    value = Σ weight ((1 - t) y + l log(1 + e⁻ʸ)) / elements, l = 1 + (pos_weight - 1) t.

    Saves y, t: dy = weight ((1 - t) - l σ(-y)) / elements; without pos_weight that is σ(y) - t.
    """

    logits = True

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
        return self.reduce(self._weigh((1 - t) * y + softplus)), (y, t)

    def bwd(self, saved: Any) -> Tensor:
        y, t = saved
        d = torch.sigmoid(y) - t if self.pos_weight is None else (1 - t) - self._l(t) * torch.sigmoid(-y)
        return self._weigh(d * self.weight(y))

    def check(self, y: Tensor, t: Tensor) -> None:
        Loss.check(self, y, t)

    def _l(self, t: Tensor) -> Tensor:
        return 1 + (self.cast("pos_weight", t) - 1) * t


def _constant(value: Sequence[float] | float | None) -> Tensor | None:
    """Numbers given to a loss, in all their digits whatever dtype y has later."""
    return None if value is None else torch.as_tensor(value, dtype=torch.float64)
