"""Where a run stands, and why it ended: plain values that a checkpoint and a summary hold."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class State:
    """Where a run stands: what a checkpoint continues."""

    epoch: int = 0  # epochs done
    batch: int = 0  # steps done in this epoch
    step: int = 0  # steps done
    samples: list[int] = field(default_factory=list)  # samples of this epoch in loss_sum, a replica each
    loss_sum: list[float] = field(default_factory=list)  # of this epoch, a replica each
    lr: list[float] = field(default_factory=list)  # the rates of the last step, a replica each
    pending: bool = False  # a validation inside the epoch is due and not done
    active: list[bool] = field(default_factory=list)  # replicas that still train
    first_nonfinite_epoch: int | None = None  # the first epoch whose train/loss was not finite


@dataclass(frozen=True)
class Stop:
    """Why a run ended: `reason` for programs (max_epochs, early_stopping, SIGTERM, ...), `words` for people."""

    reason: str
    words: str
