"""Schedules that are a formula of k: first decays, then cycles."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .base import Decay, Scaled, Schedule, between, power


@dataclass(eq=False)
class StepLR(Decay):
    """lr_k = base gamma^⌊k / step_size⌋."""

    step_size: int
    gamma: float = 0.1

    def count(self, k: int) -> int:
        return k // self.step_size

    def turns(self) -> list[int]:
        return [self.step_size]


@dataclass(eq=False)
class MultiStepLR(Decay):
    """lr_k = base gamma^(number of milestones ≤ k). `milestones` ascend; one that occurs twice counts twice."""

    milestones: list[int]
    gamma: float = 0.1

    def count(self, k: int) -> int:
        return bisect_right(self.milestones, k)

    def turns(self) -> list[int]:
        return self.milestones


@dataclass(eq=False)
class ExponentialLR(Decay):
    """lr_k = base gamma^k."""

    gamma: float

    def count(self, k: int) -> int:
        return k


@dataclass(eq=False)
class ConstantLR(Scaled):
    """lr_k = base factor for k < total_iters, then base. The factor may be 0, by which torch divides."""

    factor: float = 1.0 / 3
    total_iters: int = 5

    def share(self, k: int) -> float:
        return self.factor if k < self.total_iters else 1.0

    def turns(self) -> list[int]:
        return [self.total_iters]


@dataclass(eq=False)
class LinearLR(Scaled):
    """lr_k = base ((1 - s) start_factor + s end_factor) with s = min(k / total_iters, 1)."""

    start_factor: float = 1.0 / 3
    end_factor: float = 1.0
    total_iters: int = 5

    def share(self, k: int) -> float:
        return between(self.start_factor, self.end_factor, min(k / self.total_iters, 1.0))

    def turns(self) -> list[int]:
        return [self.total_iters]


@dataclass(eq=False)
class PolynomialLR(Scaled):
    """lr_k = base (1 - min(k / total_iters, 1))^power."""

    total_iters: int = 5
    power: float = 1.0

    def share(self, k: int) -> float:
        return float((1.0 - min(k / self.total_iters, 1.0)) ** self.power)

    def turns(self) -> list[int]:
        return [self.total_iters]


@dataclass(eq=False)
class LambdaLR(Schedule):
    """lr_k = base lr_lambda(k). Not Scaled: in a ChainedScheduler it sets the rate, as in torch."""

    lr_lambda: Callable[[int], float]

    def rate(self, k: int, base: float) -> float:
        return float(base * self.lr_lambda(k))


@dataclass(eq=False)
class MultiplicativeLR(Scaled):
    """lr_k = base lr_lambda(1) lr_lambda(2) ... lr_lambda(k).

    The last product is cached, so that the next k costs one call.
    """

    lr_lambda: Callable[[int], float]
    _last: tuple[int, float] = field(default=(0, 1.0), init=False, repr=False)

    def share(self, k: int) -> float:
        done, product = self._last if self._last[0] <= k else (0, 1.0)
        for i in range(done + 1, k + 1):
            product = float(product * self.lr_lambda(i))
        self._last = (k, product)
        return product

    def follow(self, k: int, base: float, lr: float) -> float:
        return float(lr * self.lr_lambda(k)) if k else lr

    @property
    def is_recursive(self) -> bool:
        return True


@dataclass(eq=False)
class CosineAnnealingLR(Schedule):
    """lr_k = eta_min + (base - eta_min) (1 + cos(π k / T_max)) / 2, with the period 2 T_max: it rises again after T_max.

    SGDR without restarts (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983).
    """

    T_max: int
    eta_min: float = 0.0

    def rate(self, k: int, base: float) -> float:
        return between(self.eta_min, base, self._twice(k) / 2)

    def _twice(self, k: int) -> float:
        """Return 1 + cos(π k / T_max), which is exactly 0 at the minima for every k."""
        return 1 + math.cos(math.pi * (k % (2 * self.T_max)) / self.T_max)

    def follow(self, k: int, base: float, lr: float) -> float:
        """Return the rate with its distance from eta_min scaled as in `rate`; after a minimum, where it is 0, add its rise."""
        if k == 0:
            return lr
        before = self._twice(k - 1)
        if before == 0:
            return lr + (base - self.eta_min) * self._twice(k) / 2
        return self._twice(k) / before * (lr - self.eta_min) + self.eta_min

    def turns(self) -> list[int]:
        return [self.T_max, 2 * self.T_max]


@dataclass(eq=False)
class CosineAnnealingWarmRestarts(Schedule):
    """lr_k = eta_min + (base - eta_min) (1 + cos(π c / T)) / 2, c updates after the last restart.

    The first period T has T_0 updates, each later one T_mult times as many as the one before. SGDR (Loshchilov and Hutter,
    https://arxiv.org/abs/1608.03983).
    """

    T_0: int
    T_mult: int = 1
    eta_min: float = 0.0

    def rate(self, k: int, base: float) -> float:
        period = self.T_0
        if self.T_mult == 1:
            k %= period
        while k >= period:
            k, period = k - period, period * self.T_mult
        return between(self.eta_min, base, (1 + math.cos(math.pi * k / period)) / 2)

    def turns(self) -> list[int]:
        return [self.T_0]


@dataclass(eq=False)
class CyclicLR(Schedule):
    """lr_k = base_lr + (max_lr - base_lr) h(k) scale, for every configured rate.

    h rises from 0 to 1 in step_size_up updates and falls back to 0 in step_size_down (if None, the same number). `scale` in
    cycle c = 1, 2, ... is 1 (triangular), 2^(1-c) (triangular2) or gamma^k (exp_range). scale_fn replaces it, as a function
    of c or, with scale_mode iterations, of k.
    With cycle_momentum the momentum is max_momentum - (max_momentum - base_momentum) h scale.

    Smith, https://arxiv.org/abs/1506.01186.
    """

    base_lr: float
    max_lr: float
    step_size_up: int = 2000
    step_size_down: int | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: float = 1.0
    scale_fn: Callable[[float], float] | None = None
    scale_mode: Literal["cycle", "iterations"] = "cycle"
    cycle_momentum: bool = True
    base_momentum: float = 0.8
    max_momentum: float = 0.9

    def height(self, k: int) -> float:
        """Return h(k) scale: where the rate is between base_lr, at 0, and max_lr, at 1."""
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        cycle, position = divmod(k, up + down)
        h = position / up if position <= up else (up + down - position) / down
        if self.scale_fn is not None:
            return float(h * self.scale_fn(cycle + 1 if self.scale_mode == "cycle" else k))
        return h * {"triangular": 1.0, "triangular2": power(0.5, cycle), "exp_range": power(self.gamma, k)}[self.mode]

    def rate(self, k: int, base: float) -> float:
        return between(self.base_lr, self.max_lr, self.height(k))

    def momentum(self, k: int) -> float | None:
        return between(self.max_momentum, self.base_momentum, self.height(k)) if self.cycle_momentum else None

    def turns(self) -> list[int]:
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        return [up, up + down, 2 * up + down]


@dataclass(eq=False)
class OneCycleLR(Schedule):
    """lr_k = a + (b - a) (1 - cos(π s)) / 2 (cos) or a + (b - a) s (linear) in a phase from a to b, after a share s of it.

    The rate rises from max_lr / div_factor to max_lr, and falls to max_lr / (div_factor final_div_factor), for every configured
    rate. The cycle has n = total_steps updates, or n = epochs · steps_per_epoch. The peak is after pct_start n - 1 updates, and
    the end after n - 1; with three_phase the first rate is reached again after 2 pct_start n - 2. A phase of length 0 is at its
    end; after the last phase the rate is constant. With cycle_momentum the momentum goes from max_momentum to base_momentum
    and back.

    Smith and Topin, https://arxiv.org/abs/1708.07120, in the variant of fastai.
    """

    max_lr: float
    total_steps: int | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    @property
    def length(self) -> int:
        """The number of updates of the cycle; 0 if neither total_steps nor both epochs and steps_per_epoch are given."""
        return self.total_steps or (self.epochs or 0) * (self.steps_per_epoch or 0)

    def phases(self) -> list[tuple[float, float, float]]:
        """Return for each phase the number of updates at its end, and the rate and the momentum there."""
        n, first = self.length, self.max_lr / self.div_factor
        peak = (self.pct_start * n - 1, self.max_lr, self.base_momentum)
        back = [(2 * self.pct_start * n - 2, first, self.max_momentum)] if self.three_phase else []
        return [peak, *back, (n - 1.0, first / self.final_div_factor, self.max_momentum)]

    def at(self, k: int) -> tuple[float, float]:
        """Return the rate and the momentum after k updates."""
        phases = self.phases()
        i = next((i for i, (end, _, _) in enumerate(phases) if k <= end), len(phases) - 1)
        start, lr, momentum = phases[i - 1] if i else (0.0, self.max_lr / self.div_factor, self.max_momentum)
        end, to_lr, to_momentum = phases[i]
        s = min((k - start) / (end - start), 1.0) if end > start else 1.0
        if self.anneal_strategy == "cos":
            s = (1 - math.cos(math.pi * s)) / 2
        return between(lr, to_lr, s), between(momentum, to_momentum, s)

    def rate(self, k: int, base: float) -> float:
        return self.at(k)[0]

    def momentum(self, k: int) -> float | None:
        return self.at(k)[1] if self.cycle_momentum else None

    def turns(self) -> list[int]:
        return [max(0, math.floor(end)) for end, _, _ in self.phases()]
