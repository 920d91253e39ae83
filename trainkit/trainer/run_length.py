"""How long a run is: the samples of a step, the steps of an epoch, and how many of them are left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .progress import Progress
from .settings import Settings

DEFAULT_EPOCHS = 100  # of a run without max_epochs and max_steps


class RunLength(NamedTuple):
    """The length of a run over `samples` training samples."""

    samples: int
    settings: Settings

    @property
    def step_size(self) -> int:
        """The samples of one step."""
        settings = self.settings
        return self.samples if settings.batch_size is None else min(self.samples, settings.batch_size * settings.accumulate)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.step_size)

    @property
    def max_epochs(self) -> int:
        """The epochs of the whole run: the setting, or else as many as max_steps need, or else DEFAULT_EPOCHS."""
        settings = self.settings
        if settings.max_epochs is not None:
            return settings.max_epochs
        return DEFAULT_EPOCHS if settings.max_steps is None else -(-settings.max_steps // self.steps_per_epoch)

    def epochs_done(self, progress: Progress) -> int:
        """Return the epochs whose steps are all taken, including the one that is just ending."""
        return progress.epoch + (progress.batch == self.steps_per_epoch)

    def steps_left(self, progress: Progress) -> int:
        """Return the steps up to max_epochs or max_steps."""
        left = max(0, (self.max_epochs - progress.epoch) * self.steps_per_epoch - progress.batch)
        limit = self.settings.max_steps
        return left if limit is None else max(0, min(left, limit - progress.step))

    def validation_is_due(self, progress: Progress, each: int, inside: int | None) -> bool:
        """Return whether a validation comes before the planned end: at the end of each `each`-th epoch, or `inside`-th step."""
        size, left = self.steps_per_epoch, self.steps_left(progress)
        last = progress.step + left
        epochs = progress.epoch + (progress.batch + left) // size
        return epochs // each > progress.epoch // each or (inside is not None and last // inside > progress.step // inside)

    def steps_until_next_event(
        self, step: int, every: Iterable[int | None], next_steps: Iterable[Callable[[int], int | None]]
    ) -> int:
        """Return the steps from `step` to the next event: a multiple of one of `every`, max_steps, or one of `next_steps`."""
        ends = [step - step % n + n for n in every if n]
        ends += [e for e in (self.settings.max_steps, *(next_step(step) for next_step in next_steps)) if e is not None]
        return max(1, min(ends, default=step + self.steps_per_epoch) - step)
