"""The base of all losses: the reduction, the check of a target, and the stateful pair made from the pure one."""

from __future__ import annotations

from copy import copy
from typing import Any, Literal, Self

from torch import Tensor

from trainkit.core.errors import UserError, suggest
from trainkit.core.recorded import Recorded

Reduction = Literal["mean", "sum"]


class Loss(Recorded):
    """A loss with a hand-written derivative: `value, saved = fwd(y, t)`, `dy = bwd(saved)`.

    A subclass applies `self.reduction`, with `reduce` and `reduction_factor` or in its own way. With sum, value and dy are
    those of mean times `batch_weight(t)`: evaluation and gradient accumulation add up sums and batch weights.
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

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        """Return the value, and what `bwd` needs. Changes nothing on `self`."""
        raise NotImplementedError(f"{type(self).__name__} has no fwd")

    def bwd(self, saved: Any) -> Tensor:
        """Return dy = d value / dy. With replicas, each value is differentiated by its own y."""
        raise NotImplementedError(f"{type(self).__name__} has no bwd")

    def check(self, y: Tensor, t: Tensor) -> None:
        """Raise UserError for a target that would silently be broadcast or cast. Not called in the hot path."""
        if y.shape != t.shape:
            raise UserError(f"{type(self).__name__}: y is {tuple(y.shape)}, t is {tuple(t.shape)}; both need the same shape")
        if not t.is_floating_point():
            raise UserError(
                f"{type(self).__name__}: t is {t.dtype}; needs floating numbers like y's (data.targets: onehot, binary or real)"
            )

    def batch_weight(self, t: Tensor) -> int | Tensor:
        """Return the divisor of a mean over t: a number, or one per replica.

        The mean over several batches is the sum of their sums over the sum of their batch weights.
        """
        return t.numel() // (t.shape[0] if self.replica_dims else 1)

    def summed(self) -> Self:
        """Return this loss with reduction sum."""
        loss = copy(self)
        loss.reduction = "sum"
        return loss

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        """Return the value, and keep what `backward` needs of this pass. Raises UserError as `check` does."""
        self.check(y, t)
        value, self._saved = self.fwd(y, t)
        return value

    def backward(self) -> Tensor:
        """Return dy of the last `forward`, once. Raises UserError without one."""
        if "_saved" not in self.__dict__:
            raise UserError(f"{type(self).__name__}.backward: nothing is saved; call forward first")
        return self.bwd(self.__dict__.pop("_saved"))

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        """Return the value, and keep nothing for `backward`. Raises UserError as `check` does."""
        self.check(y, t)
        return self.fwd(y, t)[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reduction={self.reduction!r})"

    def reduce(self, e: Tensor) -> Tensor:
        """Return the mean or the sum of the elements e, one per replica."""
        if self.replica_dims:
            e = e.reshape(e.shape[0], -1)
            return e.mean(1) if self.reduction == "mean" else e.sum(1)
        return e.mean() if self.reduction == "mean" else e.sum()

    def reduction_factor(self, y: Tensor) -> float:
        """Return d value / d element: 1/elements for the mean, 1 for the sum."""
        if self.reduction == "sum":
            return 1.0
        return (y.shape[0] if self.replica_dims else 1) / max(y.numel(), 1)

    def cast(self, name: str, y: Tensor) -> Tensor:
        """Return the constant `name` in y's dtype, on its device. Cached: a copy in each pass would wait for the device."""
        key = (name, y.dtype, y.device)
        if key not in self._casts:
            self._casts[key] = getattr(self, name).to(y)
        return self._casts[key]
