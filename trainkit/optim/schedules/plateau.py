"""The schedule that depends on a metric. It maps its state and a new value of the metric to the next state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal


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
