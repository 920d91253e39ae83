"""Where a run is, and why it stopped: the plain values that a checkpoint and a summary hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Where a run is. A resumed run continues from these values."""

    epoch: int = 0  # epochs that are complete
    batch: int = 0  # steps taken in this epoch
    step: int = 0  # steps taken in the run
    samples: list[int] = field(default_factory=list)  # samples of this epoch in loss_sum, per replica
    loss_sum: list[float] = field(default_factory=list)  # of this epoch, per replica
    weight: list[float] | None = None  # the summed weights of these samples, per replica, if they have any
    lr: list[float] = field(default_factory=list)  # the learning rates of the last step, per replica
    validation_pending: bool = False  # a validation inside the epoch is due and has not been made
    active: list[bool] = field(default_factory=list)  # whether each replica still trains
    first_nonfinite_epoch: int | None = None  # the first epoch whose train/loss was not finite

    @classmethod
    def start(cls, lr: list[float]) -> Progress:
        """Return the progress before the first step, with a learning rate per replica."""
        n = len(lr)
        return cls(samples=[0] * n, loss_sum=[0.0] * n, lr=lr, active=[True] * n)

    def begin_epoch(self, replicas: int, is_weighted: bool) -> None:
        """Clear the epoch's sums. is_weighted: whether the samples have weights."""
        self.loss_sum, self.samples = [0.0] * replicas, [0] * replicas
        self.weight = [0.0] * replicas if is_weighted else None

    def add_losses(self, rows: list[list[float]], samples: list[int], weights: list[list[float]] | None) -> None:
        """Add the losses of steps to the epoch's sums: a step counts by its samples, or by their summed weights."""
        active = [r for r, is_active in enumerate(self.active) if is_active]
        if weights is not None and self.weight is None:  # the run is resumed inside an epoch that began without weights
            self.weight = [float(n) for n in self.samples]
        if weights is None and self.weight is not None:  # or that began with weights
            weights = [[float(n)] * len(self.samples) for n in samples]
        for row, n in zip(rows, samples, strict=True):
            for r in active:
                self.samples[r] += n
                if weights is None:
                    self.loss_sum[r] += row[r] * n
        if weights is None or self.weight is None:
            return
        for row, weight in zip(rows, weights, strict=True):
            for r in active:
                if weight[r]:  # else the mean of the step is 0 / 0
                    self.weight[r] += weight[r]
                    self.loss_sum[r] += row[r] * weight[r]

    def restore_sums(self, replica: int, earlier: Progress) -> None:
        """Set this epoch's sums of a replica to those of `earlier`, the progress before a step of the same epoch."""
        self.samples[replica], self.loss_sum[replica] = earlier.samples[replica], earlier.loss_sum[replica]
        if self.weight is not None:  # `earlier` has none if the epoch began without weights
            self.weight[replica] = float(self.samples[replica]) if earlier.weight is None else earlier.weight[replica]

    def mean_loss(self) -> list[float]:
        """Return the mean loss of this epoch's samples, per replica; NaN for a replica that stopped before it."""
        totals: Sequence[float] = self.samples if self.weight is None else self.weight
        return [s / n if n else float("nan") for s, n in zip(self.loss_sum, totals, strict=True)]


@dataclass(frozen=True)
class StopReason:
    """Why a run ended: `reason` for programs (max_epochs, early_stopping, SIGTERM, ...), `message` for people."""

    reason: str
    message: str
