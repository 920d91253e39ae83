"""Metrics of regression, per target and their mean over targets, from sums and moments in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .metric import NO_SAMPLES, NOT_FINITE, Metric, State, divided, listed, mean_where_defined
from .task import Batch, Task


class Moments(State):
    """Of e = y - t with d targets: squared, absolute, relative (r, d), the weighted sums of e², |e| and |e| / |t|.

    Of t: n, the summed weight of all samples; zero (d,), that of the samples where t is 0; mean (d,), that of t - shift; m2
    (d,), the weighted sum of (t - shift - mean)²; low and high (d,), its range. shift (d,) is the first t: the mean of targets
    far from 0 would be rounded by more than two states may differ. They merge by the formula of Chan, Golub & LeVeque 1979.
    """

    def __init__(self, task: Task, replicas: int, device: torch.device) -> None:
        super().__init__(task, replicas, device)
        d = task.outputs
        self.n, (self.shift, self.mean, self.m2, self.zero) = self.zeros(1), (self.zeros(d) for _ in range(4))
        self.low, self.high = self.zeros(d) + math.inf, self.zeros(d) - math.inf
        self.squared, self.absolute, self.relative = (self.zeros(replicas, d) for _ in range(3))

    def update(self, batch: Batch) -> None:
        y, t = batch.outputs.double(), batch.targets.double()
        if y.shape[1:] != t.shape:
            raise UserError(f"metrics: outputs {tuple(y.shape[1:])}, targets {tuple(t.shape)}; a regression needs one shape")
        e = (y - t).abs()
        self.squared += batch.total(e.square())
        self.absolute += batch.total(e)
        self.relative += batch.total(e / t.abs())
        self.zero += batch.total((t == 0)[None])[0]
        n = batch.weights.sum().view(1)
        self.shift = torch.where(self.n > 0, self.shift, torch.where(t[0].isfinite(), t[0], 0))
        centered = t - self.shift
        mean = batch.total(centered[None])[0] / n.clamp(min=torch.finfo(n.dtype).tiny)
        counted = (batch.weights > 0)[:, None]
        self._add_moments(n, mean, batch.total((centered - mean).square()[None])[0])
        self.low = torch.minimum(self.low, torch.where(counted, t, math.inf).amin(0))
        self.high = torch.maximum(self.high, torch.where(counted, t, -math.inf).amax(0))

    def _add_moments(self, n: Tensor, mean: Tensor, m2: Tensor) -> None:
        total = (self.n + n).clamp(min=torch.finfo(n.dtype).tiny)
        delta = mean - self.mean
        self.m2 += m2 + delta.square() * (self.n * n / total)  # M2 = M2a + M2b + δ² na nb / n
        self.mean += delta * (n / total)
        self.n += n

    def merge(self, other: Self) -> None:
        for name in ("squared", "absolute", "relative", "zero"):
            getattr(self, name).add_(getattr(other, name).to(self.device))
        n, shift, mean, m2 = (v.to(self.device) for v in (other.n, other.shift, other.mean, other.m2))
        self.shift = torch.where(self.n > 0, self.shift, shift)
        self._add_moments(n, mean + (shift - self.shift), m2)
        self.low = torch.minimum(self.low, other.low.to(self.device))
        self.high = torch.maximum(self.high, other.high.to(self.device))


@dataclass(frozen=True)
class RegressionMetric(Metric):
    """Base of the metrics of regression.

    average: mean is the mean over the targets for which the value is defined; none gives a value per target, `mse/NAME`.
    """

    average: Literal["mean", "none"] = "mean"
    maximize = False
    requires: ClassVar[str] = ""  # what a target needs for its value to be defined

    def parts(self, task: Task) -> tuple[str, ...]:
        return _target_names(task) if self.average == "none" else ()

    def problem(self, task: Task) -> str:
        return "needs targets that are numbers, and these are class indices; leave it out" if task.indices else ""

    def new_state(self, task: Task, replicas: int, device: torch.device) -> Moments:
        return Moments(task, replicas, device)

    def per_target(self, state: Moments) -> Tensor:
        """Return the value of each target, (r, d)."""
        raise NotImplementedError(f"{type(self).__name__} has no per_target")

    def undefined_targets(self, state: Moments) -> Tensor:
        """Return (d,) bool: for which targets the values themselves leave the metric undefined."""
        return torch.zeros_like(state.mean, dtype=torch.bool)

    def value(self, state: Moments) -> Tensor:
        values = self.per_target(state)
        if self.average == "none":
            return values
        # A model whose outputs are NaN has no mean, not that of its other targets.
        broken = (values.isnan() & ~self.undefined_targets(state)).any(1)
        return torch.where(broken, torch.nan, mean_where_defined(values))

    def undefined(self, state: Moments, part: int | None = None) -> str:
        if float(state.n) == 0:
            return NO_SAMPLES
        undefined, names = self.undefined_targets(state).tolist(), _target_names(state.task)
        if all(undefined) if part is None else undefined[part]:
            return f"{self.requires} {listed(names) if part is None else repr(names[part])}"
        return NOT_FINITE


def _target_names(task: Task) -> tuple[str, ...]:
    return task.targets or tuple(str(i) for i in range(task.outputs))


@dataclass(frozen=True)
class MSE(RegressionMetric):
    """Σ w (y - t)² / Σ w per target. Undefined without samples. Source: sklearn.metrics.mean_squared_error."""

    key = "mse"

    def per_target(self, state: Moments) -> Tensor:
        return divided(state.squared, state.n)


@dataclass(frozen=True)
class RMSE(RegressionMetric):
    """√MSE per target; the mean is that of the roots. Undefined without samples. Source: sklearn's root_mean_squared_error."""

    key = "rmse"

    def per_target(self, state: Moments) -> Tensor:
        return divided(state.squared, state.n).sqrt()


@dataclass(frozen=True)
class MAE(RegressionMetric):
    """Σ w |y - t| / Σ w per target. Undefined without samples. Source: sklearn.metrics.mean_absolute_error."""

    key = "mae"

    def per_target(self, state: Moments) -> Tensor:
        return divided(state.absolute, state.n)


@dataclass(frozen=True)
class R2(RegressionMetric):
    """1 - Σ w (y - t)² / Σ w (t - t̄)² per target, t̄ the weighted mean of t.

    Undefined (scikit-learn: 0 or 1) for a target with fewer than two different values. Source: sklearn.metrics.r2_score.
    """

    key, maximize, requires = "r2", True, "all values are equal in target"

    def per_target(self, state: Moments) -> Tensor:
        return torch.where(self.undefined_targets(state), torch.nan, 1 - state.squared / state.m2)

    def undefined_targets(self, state: Moments) -> Tensor:
        return state.low >= state.high


@dataclass(frozen=True)
class MAPE(RegressionMetric):
    """Σ w |y - t| / |t| / Σ w per target, a share and not percent.

    Undefined (scikit-learn: about 10¹⁵) for a target that is 0 in a sample. Source: sklearn's mean_absolute_percentage_error.
    """

    key, requires = "mape", "a value is 0 in target"

    def per_target(self, state: Moments) -> Tensor:
        return torch.where(self.undefined_targets(state), torch.nan, divided(state.relative, state.n))

    def undefined_targets(self, state: Moments) -> Tensor:
        return state.zero > 0
