"""The bases of schedules, and the arithmetic that their formulas share."""

from __future__ import annotations

import math


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
