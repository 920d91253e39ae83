"""The choice of `trainer.engine: auto`: compiled steps where timed eager steps show that they finish first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainkit.core.terminal import print_stderr
from trainkit.core.timing import seconds
from trainkit.data.loader import aligned
from trainkit.trainer.replay import undoing

from .step import Step

if TYPE_CHECKING:
    from trainkit.trainer.session import Session

# `auto` compiles where SAVED * (dispatch of the steps left) > COMPILE. These constants are measured: docs/decisions.md.
COMPILE = 10.0  # seconds to compile a net of a few layers that is not in the cache
SAVED = 0.7  # the share of a step's dispatch that compiling saves
DOMINANT = 0.5  # the least share of dispatch in a step: where products dominate, compiled steps may be slower
SMALLEST = 2  # samples of half a batch: the time of fewer does not measure its arithmetic


def is_compiling_worthwhile(session: Session, step: Step) -> bool:
    """Return whether compiling and compiled steps take less time than eager ones, by estimate; print the choice."""
    left = session.steps_left
    saved = seconds_saved(session, step, left)
    if saved <= COMPILE:
        choice = f"eager; compiling takes about {COMPILE:.0f} s and would save {saved:.1f} s in {left:,} steps"
    else:
        choice = f"compile; it takes about {COMPILE:.0f} s and saves about {saved:.0f} s in {left:,} steps"
    print_stderr(f"trainer.engine auto: {choice}")
    return saved > COMPILE


def seconds_saved(session: Session, step: Step, left: int) -> float:
    """Return the seconds that compiling would save over `left` steps, or 0 where arithmetic dominates a step.

    Times eager steps, and undoes them. A step of n samples takes a + b n. `a` is Python and the dispatch of kernels, of
    which compiling saves the share SAVED. b n is the arithmetic of products and convolutions, the same if compiled.
    a = 2 time(n / 2) - time(n).
    """
    size = session.step_size
    x, t = next(session.batches(0))  # weights are refused before (`check_supported`)
    replica_dims, half = session.net.replica_dims, size // 2
    undo = undoing(session.net, session.optimizer)
    try:
        whole = a = seconds(lambda: step(x, t).tolist())  # tolist waits for a CUDA device
        if half >= SMALLEST and SAVED * left * whole > COMPILE:  # else compiling cannot pay
            xs, ts = aligned(x.narrow(replica_dims, 0, half)), aligned(t.narrow(replica_dims, 0, half))
            a = min(whole, 2 * seconds(lambda: step(xs, ts).tolist()) - whole)
    finally:
        undo()
    return SAVED * left * a if a >= DOMINANT * whole else 0.0
