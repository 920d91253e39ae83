"""Where a run is, and why it stopped: the plain values that a checkpoint and a summary hold."""

from __future__ import annotations

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


@dataclass(frozen=True)
class StopReason:
    """Why a run ended: `reason` for programs (max_epochs, early_stopping, SIGTERM, ...), `message` for people."""

    reason: str
    message: str
