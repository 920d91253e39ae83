"""Moments of `fit` at which to act, deterministically: the places of the trainer that are patched, and their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from trainkit.app import experiment
from trainkit.app.cli import commands, runs
from trainkit.checkpoint import file as checkpoint
from trainkit.nn.layers.linear import Linear
from trainkit.trainer import loop, setup, trainer
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session

Act = Callable[[], object]

PLACES: dict[str, tuple[Any, str]] = {  # the function that is called there
    "reading the configuration": (runs, "compose"),
    "building": (experiment, "build"),
    "taking the folder": (RunFolder, "begin"),
    "loading data": (experiment.Experiment, "data"),
    "setup": (setup, "prepare_training"),
    "scaling": (setup, "_scaled"),
    "a step's forward": (Linear, "fwd"),
    "a step's backward": (Linear, "bwd"),
    "between steps": (Session, "record_steps"),
    "an evaluation's batch": (Session, "check_interrupt"),
    "an evaluation": (Session, "evaluate"),
    "an epoch's end": (loop, "_end_epoch"),
    "a hook": (Session, "call"),
    "a snapshot": (Session, "snapshot"),
    "a save": (checkpoint, "write"),
    "a save's fsync": (os, "fsync"),
    "a save's rename": (os, "replace"),
    "the final evaluation": (loop, "finish"),
    "the summary": (trainer, "summarize"),
    "closing": (RunFolder, "close"),
    "the final output": (commands, "print_metrics"),
}


@contextmanager
def at(place: str, n: int, act: Act, after: bool = False) -> Iterator[list[int]]:
    """Call `act` before, or `after`, the n-th call at `place`. The list given holds the number of calls."""
    home, name = PLACES[place]
    real = getattr(home, name)
    calls = [0]

    def call(*args: Any, **kw: Any) -> Any:
        calls[0] += 1
        mine = calls[0] == n
        if mine and not after:
            act()
        result = real(*args, **kw)
        if mine and after:
            act()
        return result

    with ExitStack() as stack:
        stack.enter_context(patch.object(home, name, call))
        yield calls
