"""Schedules made of others: one after another, or all at once."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from .base import Scaled, Schedule
from .formulas import MultiplicativeLR


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
