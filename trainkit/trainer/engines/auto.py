"""The choice of `trainer.engine: auto`: many steps per call where timed steps show that the run ends earlier with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr
from trainkit.core.timing import seconds
from trainkit.trainer.replay import undoing

from .native.engine import is_compiled, session_source
from .step import Step

if TYPE_CHECKING:
    from trainkit.trainer.session import Session

    from .multi_step import MultiStepEngine

# These constants are measured: docs/decisions.md.
FEWEST = 100  # steps: a run of fewer is eager without a trial
LARGEST = 1 << 20  # parameters of a model: in a larger one matrix products dominate, and they are torch's in any engine
SAVED = 0.8  # the share of a small net's eager steps that an engine of many steps saves
COMPILE = 1.2  # seconds to compile the C++ of a net that is not in the cache
LOAD = 0.03  # seconds to load and check what is in the cache
CAPTURE = 0.3  # seconds to capture a graph


def faster(
    session: Session, step: Step, build: Callable[[Literal["native", "graph"]], MultiStepEngine]
) -> MultiStepEngine | None:
    """Return the engine that finishes the run before eager steps would, or None; print the choice in a line.

    A run too short to save a time that anyone would notice is eager without a line. The steps that are timed are undone.
    Raises UserError where the steps of this session can only be taken eagerly.
    """
    left, name = session.steps_left, "graph" if session.device.type == "cuda" else "native"
    if (parameters := session.optimizer.p.numel() // session.replicas) > LARGEST:
        print_choice(f"eager; matrix products dominate the steps of {parameters:,} parameters")
        return None
    if name == "graph":
        check_own(session)
    else:
        source = session_source(session)
    batch = next(session.batches(0))
    undo = undoing(session.net, session.optimizer)
    try:
        eager = seconds(lambda: step(*batch).tolist())  # tolist waits for a CUDA device
    finally:
        undo()
    saved = SAVED * left * eager
    if saved < LOAD:
        return None
    start = CAPTURE if name == "graph" else LOAD if is_compiled(source) else COMPILE
    if saved < start:
        what = "capturing" if name == "graph" else "compiling"
        print_choice(f"eager; {what} takes about {start} s and would save {saved:.1f} s in {left:,} steps")
        return None
    engine = build(name)  # type: ignore[arg-type]
    share = seconds_per_step(session, engine) / eager
    if share < 1:
        print_choice(f"{name}; a step takes {share:.2g} of an eager step's time")
        return engine
    print_choice(f"eager; a {engine.adjective} step takes {share:.2g} times as long")
    return None


def check_own(session: Session) -> None:
    """Raise UserError if a module, the loss or the optimizer is not trainkit's: a replay would not run its Python code."""
    for part in (*(m for _, m in session.net.modules()), session.loss, session.optimizer):
        if not type(part).__module__.startswith("trainkit."):
            raise UserError(f"a captured graph does not run the Python code of {type(part).__name__}; engine graph captures it")


def seconds_per_step(session: Session, engine: MultiStepEngine) -> float:
    """Return the duration of a step in a call of several. Undoes them."""
    count = max(1, min(8, len(session.data.train) // session.step_size))
    order = session.order(0)
    undo = undoing(session.net, session.optimizer)
    try:
        return seconds(lambda: engine(order, 0, count).tolist()) / count
    finally:
        undo()


def print_choice(line: str) -> None:
    print_stderr(f"trainer.engine auto: {line}")
