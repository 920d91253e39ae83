"""The number of threads of a fit: for small products a second thread costs more than it saves (docs/decisions.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .session import Session

LARGE = 1.5e6  # operations of a product; from this size on, all threads are used


@contextmanager
def restored() -> Iterator[None]:
    """Restore torch's number of threads at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        use(before)


def use(n: int) -> None:
    """Set torch's number of threads."""
    if n != torch.get_num_threads():
        torch.set_num_threads(n)


def chosen(session: Session, resume: dict[str, Any] | None) -> int:
    """Return the trainer's number; else the checkpoint's, for the same bits; else 1 if all products are small, or torch's.

    Torch's number (the cores, or OMP_NUM_THREADS) is the maximum unless the trainer sets one.
    """
    maximum = torch.get_num_threads()
    if session.settings.threads is not None:
        return session.settings.threads
    if resume is not None:
        return max(1, min(maximum, resume["environment"]["threads"]))
    return maximum if session.device.type != "cpu" or largest_product(session) >= LARGE else 1


def largest_product(session: Session) -> int:
    """Return the operations of a pass with its largest parameter, over all replicas: 2 per weight and sample."""
    return 2 * (session.step_size // session.settings.accumulate) * max((p.numel() for p, _ in session.net.param()), default=0)
