"""Learning-rate schedules as pure functions of k, the number of updates of the schedule so far.

`schedule.rate(k, base)` is the rate after k updates in a run whose configured rate is `base`. Updates are epochs or steps, as
the caller counts them. A resumed run needs only its k, so that nothing is stored or repeated.
Only ReduceLROnPlateau depends on a metric: it maps its state and a new value of the metric to the next state.

Names, arguments, defaults and values are those of torch.optim.lr_scheduler (2.13). In the formulas, lr_k is the rate after k
updates. A rate that is too large for a float is infinite, which the caller reports as an error.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal


class Schedule:
    """Base: an author writes `rate`, and overrides the other methods if needed."""

    def rate(self, k: int, base: float) -> float:
        """Return the rate after k updates."""
        raise NotImplementedError(f"{type(self).__name__} has no rate")

    def momentum(self, k: int) -> float | None:
        """Return the momentum (Adam's beta1) after k updates, or None if the schedule does not change it."""
        return None

    def follow(self, k: int, base: float, lr: float) -> float:
        """Return the rate after k updates in a ChainedScheduler, whose rate before this schedule is applied is `lr`.

        A schedule that sets the rate, which is the default, ignores `lr`; one that scales the rate multiplies `lr`.
        """
        return self.rate(k, base)

    def turns(self) -> list[int]:
        """Return the updates after which the rate may change direction, for a search for extreme rates."""
        return []

    @property
    def is_recursive(self) -> bool:
        """Whether `rate(k)` takes time in proportion to k, unless it was last called for a slightly smaller k."""
        return False


class Scaled(Schedule):
    """lr_k = base F(k). Base: an author writes `share`, which is F."""

    def share(self, k: int) -> float:
        """Return F(k)."""
        raise NotImplementedError(f"{type(self).__name__} has no share")

    def rate(self, k: int, base: float) -> float:
        return base * self.share(k)

    def follow(self, k: int, base: float, lr: float) -> float:
        """Return lr F(k) / F(k - 1), or lr if F(k - 1) is 0, since the factor 0 was applied then."""
        before = self.share(k - 1) if k else 1.0
        return lr * (self.share(k) / before) if before else lr


class Decay(Scaled):
    """F(k) = gamma^n(k). Base: an author writes `count`, which is n and never decreases."""

    gamma: float

    def count(self, k: int) -> int:
        """Return n(k)."""
        raise NotImplementedError(f"{type(self).__name__} has no count")

    def share(self, k: int) -> float:
        return power(self.gamma, self.count(k))

    def follow(self, k: int, base: float, lr: float) -> float:
        """Return lr gamma^(n(k) - n(k - 1)), which is defined for gamma = 0 too."""
        return lr * power(self.gamma, self.count(k) - (self.count(k - 1) if k else 0))


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


@dataclass(eq=False)
class SequentialLR(Schedule):
    """One schedule after another: schedule i counts its updates from milestones[i - 1] and starts from the configured rate.

    MultiplicativeLR has no start rate: after another schedule it continues from that one's last rate, times lr_lambda(0).
    While a schedule that does not change the momentum is in use, the momentum keeps the last value that an earlier schedule
    set. Before the first schedule that changes it, it has that schedule's first value.

    Two of torch's side effects are left out. There, CyclicLR and OneCycleLR in the list change the rate that others start
    from, and schedules inside a ChainedScheduler or SequentialLR in the list count one update too many.
    """

    schedulers: list[Schedule]
    milestones: list[int]

    def phase(self, k: int) -> tuple[int, int]:
        """Return the index of the schedule in use after k updates, and the number of updates at its start."""
        i = bisect_right(self.milestones, k)
        return i, self.milestones[i - 1] if i else 0

    def rate(self, k: int, base: float) -> float:
        i, start = self.phase(k)
        schedule = self.schedulers[i]
        if start and isinstance(schedule, MultiplicativeLR):
            base = schedule.lr_lambda(0) * self.rate(start - 1, base)
        return float(schedule.rate(k - start, base))

    def follow(self, k: int, base: float, lr: float) -> float:
        i, start = self.phase(k)
        schedule = self.schedulers[i]
        if k > start:
            return schedule.follow(k - start, base, lr)
        if start and isinstance(schedule, MultiplicativeLR):
            return float(lr * schedule.lr_lambda(0))
        return schedule.rate(0, base)  # the first update of a schedule sets the rate, even if later ones scale it

    def momentum(self, k: int) -> float | None:
        return next((m for m in self._momenta(k) if m is not None), None)

    def _momenta(self, k: int) -> Iterator[float | None]:
        """Yield the momentum of the schedule in use, of those before it at their ends, of those after it at their starts."""
        i, start = self.phase(k)
        yield self.schedulers[i].momentum(k - start)
        begins = [0, *self.milestones]
        for j in range(i - 1, -1, -1):
            if begins[j + 1] > begins[j]:
                yield self.schedulers[j].momentum(begins[j + 1] - 1 - begins[j])
        for schedule in self.schedulers[i + 1 :]:
            yield schedule.momentum(0)

    def turns(self) -> list[int]:
        begins = [0, *self.milestones]
        return begins + [start + k for start, s in zip(begins, self.schedulers, strict=True) for k in s.turns()]

    @property
    def is_recursive(self) -> bool:
        return any(s.is_recursive for s in self.schedulers)


@dataclass(eq=False)
class ChainedScheduler(Schedule):
    """All schedules at once, applied in order at each update: lr_k = f_n(... f_1(lr_(k-1))).

    If all of them scale the rate, this is lr_k = base F_1(k) F_2(k) ... Else the recursion is computed, and its last value is
    cached for each base.
    """

    schedulers: list[Schedule]
    _last: dict[float, tuple[int, float]] = field(default_factory=dict, init=False, repr=False)

    def rate(self, k: int, base: float) -> float:
        scaled = [s for s in self.schedulers if isinstance(s, Scaled)]
        if len(scaled) == len(self.schedulers):
            return base * math.prod(s.share(k) for s in scaled)
        done, lr = self._last.get(base, (-1, base))
        if done > k:
            done, lr = -1, base
        for i in range(done + 1, k + 1):
            lr = self.follow(i, base, lr)
        self._last[base] = (k, lr)
        return lr

    def follow(self, k: int, base: float, lr: float) -> float:
        for schedule in self.schedulers:
            lr = schedule.follow(k, base, lr)
        return lr

    def momentum(self, k: int) -> float | None:
        """Return the momentum of the last schedule that changes it."""
        return next((m for s in reversed(self.schedulers) if (m := s.momentum(k)) is not None), None)

    def turns(self) -> list[int]:
        return [k for s in self.schedulers for k in s.turns()]

    @property
    def is_recursive(self) -> bool:
        return any(s.is_recursive or not isinstance(s, Scaled) for s in self.schedulers)


@dataclass(frozen=True)
class Plateau:
    """The state of a ReduceLROnPlateau: the rate, the configured rate from which it started, and the metric's best value."""

    rate: float
    base: float
    best: float
    bad_epochs: int = 0  # values since the best one
    cooldown: int = 0  # the number of next values that are not counted

    def rebased(self, base: float) -> Plateau:
        """Return the state for another configured rate: the rate is scaled with it."""
        rate = base if self.base == 0 else self.rate if self.base == base else self.rate * (base / self.base)
        return replace(self, rate=rate, base=base)


@dataclass(eq=False)
class ReduceLROnPlateau:
    """lr ← max(lr factor, min_lr) after more than `patience` values of a metric in a row without an improvement.

    For mode min, a value v is better than the best b if v < b (1 - threshold) with threshold_mode rel, or if
    v < b - threshold with abs. For mode max, it is better if v > b (1 + threshold), or if v > b + threshold.
    After a reduction the next `cooldown` values are not counted. A reduction by eps or less is not made.
    """

    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8

    def start(self, base: float) -> Plateau:
        """Return the state before the first value. Every finite value is better than its best."""
        return Plateau(base, base, math.inf if self.mode == "min" else -math.inf)

    def after(self, state: Plateau, value: float) -> Plateau:
        """Return the state after one more value of the metric. NaN is never better."""
        better = self._is_better(value, state.best)
        best, bad = (value, 0) if better else (state.best, state.bad_epochs + 1)
        cooldown, rate = state.cooldown, state.rate
        if cooldown > 0:
            cooldown, bad = cooldown - 1, 0
        if bad > self.patience:
            lower = max(rate * self.factor, self.min_lr)
            rate = lower if rate - lower > self.eps else rate
            cooldown, bad = self.cooldown, 0
        return Plateau(rate, state.base, best, bad, cooldown)

    def _is_better(self, value: float, best: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "rel":
            return sign * value < sign * (best * (1 - sign * self.threshold))
        return sign * value < sign * (best - sign * self.threshold)


def warm_up(step: int, steps: int) -> float:
    """Return the warm-up's factor of the rate for step number `step`, from 0: (step + 1) / steps, at most 1."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def between(a: float, b: float, s: float) -> float:
    """Return a + (b - a) s, exactly a for s = 0 and b for s = 1, so that an end of 0 is not rounded to a negative rate."""
    return (1 - s) * a + s * b


def power(x: float, n: int) -> float:
    """Return x^n for x ≥ 0; infinity where Python's ** raises OverflowError."""
    try:
        return float(x**n)
    except OverflowError:
        return math.inf


SCHEDULES: dict[str, type[Any]] = {
    c.__name__: c
    for c in (
        StepLR,
        MultiStepLR,
        ConstantLR,
        LinearLR,
        ExponentialLR,
        PolynomialLR,
        CosineAnnealingLR,
        CosineAnnealingWarmRestarts,
        CyclicLR,
        OneCycleLR,
        ReduceLROnPlateau,
        SequentialLR,
        ChainedScheduler,
        LambdaLR,
        MultiplicativeLR,
    )
}
SCHEDULERS = tuple(SCHEDULES)
