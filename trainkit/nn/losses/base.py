"""The base of all losses: the reduction, the check of a target, and the stateful pair made from the pure one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor

from trainkit.core.cpp import flag
from trainkit.core.errors import UserError, suggest
from trainkit.core.recorded import Recorded

Reduction = Literal["mean", "sum"]


class Loss(Recorded):
    """A loss with a hand-written derivative: `value, saved = fwd(y, t)`, `dy = bwd(saved)`.

    A subclass applies `self.reduction`, with `reduce` and `reduction_factor` or in its own way. With sum, value and dy are
    those of mean times `batch_weight(t)`: evaluation and gradient accumulation add up sums and batch weights.

    Sample weights w (n,), with replicas (r, n), are the third argument of `fwd` and `batch_weight`, only where the data has
    them. mean is Σ w l / Σ w and sum is Σ w l m, with l the mean of a sample's own m elements, so that a sample of weight 2
    counts as two equal rows, and one of weight 0 as none. A class weight multiplies the sample's. If Σ w is 0, the mean is NaN
    and dy is 0.
    Raises UserError for a reduction other than mean and sum.
    """

    replica_dims = 0  # replica axes of y, t and value, as in Module
    from_logits = False  # True if y holds logits or log-probabilities; then one output y > 0 predicts class 1, else y > 1/2
    from_probabilities = False  # True if y itself holds probabilities; if from_logits is False too, y holds other scores
    independent = False  # True if each of several outputs is a class of its own: the probabilities need not add up to 1
    nonsmooth_at: tuple[float, ...] = ()  # values of y - t at which the derivative jumps

    def __init__(self, reduction: Reduction = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise UserError(f"{type(self).__name__}: no reduction {reduction!r}{suggest(str(reduction), ('mean', 'sum'))}")
        self.reduction = reduction
        self._casts: dict[Any, Tensor] = {}

    def fwd(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return the value, and what `bwd` needs. Changes nothing on `self`. weight: that of each sample."""
        raise NotImplementedError(f"{type(self).__name__} has no fwd")

    def bwd(self, saved: Any) -> Tensor:
        """Return dy = d value / dy. With replicas, each value is differentiated by its own y."""
        raise NotImplementedError(f"{type(self).__name__} has no bwd")

    def native(self, outputs: int, t: Tensor) -> str | None:
        """Return the C++ pair for rows of `outputs` numbers and targets like t, as the declaration of a member `@`.

        None if it has none.
        """
        return None

    def native_elements(self, outputs: int, function: str, *arguments: str) -> str:
        """Return the declaration of a loss of single elements, see `elements.h`."""
        mean = flag(self.reduction == "mean")
        return f"Elements<N, {outputs}, {mean}, {function}> @{{{{{', '.join(arguments)}}}}};"

    def check(self, y: Tensor, t: Tensor) -> None:
        """Raise UserError for a target that would silently be broadcast or cast. Not called in the hot path."""
        if y.shape != t.shape:
            shapes = f"{type(self).__name__}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; both need the same shape"
            raise UserError(f"{shapes}{_advice(y, t)}")
        if not t.is_floating_point():
            raise UserError(
                f"{type(self).__name__}: t is {t.dtype}; needs floating numbers like y's (data.targets: onehot, binary or real)"
            )

    def check_weight(self, y: Tensor, weight: Tensor | None) -> None:
        """Raise UserError for sample weights that are not one floating number for each sample of y."""
        if weight is None:
            return
        needed = tuple(y.shape[: self.replica_dims + 1])
        if tuple(weight.shape) != needed or not weight.is_floating_point():
            raise UserError(
                f"{type(self).__name__}: the sample weights are {tuple(weight.shape)} {weight.dtype}, y is {tuple(y.shape)};"
                f" needs floating numbers of shape {needed}, one for each sample"
            )

    def batch_weight(self, t: Tensor, weight: Tensor | None = None) -> int | Tensor:
        """Return the divisor of a mean over t: a number, or one per replica. weight: that of each sample.

        The mean over several batches is the sum of their sums over the sum of their batch weights.
        """
        if weight is not None:
            return weight.double().sum(-1) * t.shape[self.replica_dims + 1 :].numel()
        return t.numel() // (t.shape[0] if self.replica_dims else 1)

    def summed(self) -> Self:
        """Return this loss with reduction sum."""
        loss = copy(self)
        loss.reduction = "sum"
        return loss

    def forward(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the value, and keep what `backward` needs of this pass. weight: that of each sample.

        The value is a tensor without a graph, which has no `backward` itself: write `net.backward(loss.backward())`.
        Raises UserError as `check` and `check_weight` do.
        """
        self.check(y, t)
        self.check_weight(y, weight)
        value, self._saved = self.fwd(y, t) if weight is None else self.fwd(y, t, weight)
        return value

    def backward(self) -> Tensor:
        """Return dy of the last `forward`, once. Raises UserError without one."""
        if "_saved" not in self.__dict__:
            raise UserError(f"{type(self).__name__}.backward: nothing is saved; call forward first")
        return self.bwd(self.__dict__.pop("_saved"))

    def __call__(self, y: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the value, and keep nothing for `backward`. Raises UserError as `forward` does."""
        self.check(y, t)
        self.check_weight(y, weight)
        return self.fwd(y, t)[0] if weight is None else self.fwd(y, t, weight)[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reduction={self.reduction!r})"

    def reduce(self, e: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean or the sum of the elements e, one per replica. weight: that of each sample."""
        if weight is not None:
            w = per_sample(weight, e)
            total = torch.where(w > 0, w * e, 0).flatten(self.replica_dims).sum(-1)  # also if e is not finite at weight 0
            return total if self.reduction == "sum" else total / torch.as_tensor(Loss.batch_weight(self, e, weight)).to(e)
        if self.replica_dims:
            e = e.reshape(e.shape[0], -1)
            return e.mean(1) if self.reduction == "mean" else e.sum(1)
        return e.mean() if self.reduction == "mean" else e.sum()

    def reduction_factor(self, y: Tensor, weight: Tensor | None = None) -> float | Tensor:
        """Return d value / d element: 1/elements for the mean, 1 for the sum; with sample weights, a tensor as large as y or
        broadcast to it."""
        if weight is not None:
            if self.reduction == "mean":
                norm = torch.as_tensor(Loss.batch_weight(self, y, weight))
                weight = (weight / torch.where(norm == 0, 1, norm).unsqueeze(-1)).to(y.dtype)
            return per_sample(weight, y)
        if self.reduction == "sum":
            return 1.0
        return (y.shape[0] if self.replica_dims else 1) / max(y.numel(), 1)

    def cast(self, name: str, y: Tensor) -> Tensor:
        """Return the constant `name` in y's dtype, on its device. Cached: a copy in each pass would wait for the device."""
        key = (name, y.dtype, y.device)
        if key not in self._casts:
            self._casts[key] = getattr(self, name).to(y)
        return self._casts[key]


def _advice(y: Tensor, t: Tensor) -> str:
    """Return how targets of another shape than y's can be used: `; ...`, or '' if that is not clear."""
    outputs = y.shape[-1] if y.dim() else 0
    if t.shape == y.shape[:-1] and not t.is_floating_point():
        way = "set data.targets=binary" if outputs == 1 else "use CrossEntropyLoss, or set data.targets=onehot"
        return f"; t holds class indices: {way}"
    if t.shape == y.shape[:-1]:
        return "; give t.unsqueeze(-1)" if outputs == 1 else "; end the net in one output, and give t.unsqueeze(-1)"
    if t.dim() and t.shape[:-1] == y.shape[:-1]:
        return (
            f"; the net has {outputs} outputs for {t.shape[-1]} {'target' if t.shape[-1] == 1 else 'targets'}: make them equal"
        )
    return ""


def per_sample(weight: Tensor, e: Tensor) -> Tensor:
    """Return the weights of the samples in a shape that broadcasts to the elements e (n, ...), or (r, n, ...)."""
    return weight.view(*weight.shape, *[1] * (e.dim() - weight.dim()))


def constant(value: Sequence[float] | float | None) -> Tensor | None:
    """Return the numbers as float64, which keeps all their digits; `cast` converts them to y's dtype."""
    return None if value is None else torch.as_tensor(value, dtype=torch.float64)
