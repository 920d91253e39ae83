"""How many threads a fit computes with: on small products a second one costs more than it takes off (docs/decisions.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .session import Session

LARGE = 1.5e6  # operations of a product from which on all threads share it


@contextmanager
def restored() -> Iterator[None]:
    """Torch's number of threads is at the end what it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        use(before)


def use(n: int) -> None:
    if n != torch.get_num_threads():
        torch.set_num_threads(n)


def chosen(session: Session, resume: dict[str, Any] | None) -> int:
    """The trainer's number; else the checkpoint's, for the same bits; else 1 if all products are small, or torch's own.

    Torch's own number, the cores or OMP_NUM_THREADS, is the most that is chosen.
    """
    most = torch.get_num_threads()
    if session.settings.threads is not None:
        return session.settings.threads
    if resume is not None:
        return max(1, min(most, resume["environment"]["threads"]))
    return most if session.device.type != "cpu" or largest_product(session) >= LARGE else 1


def largest_product(session: Session) -> int:
    """Operations of a pass in its largest parameter, of all replicas: 2 a weight and sample."""
    return 2 * (session.step_size // session.settings.accumulate) * max((p.numel() for p, _ in session.net.param()), default=0)
