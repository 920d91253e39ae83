"""A moment of `fit` and what to do at it, deterministically: the places of the trainer that are patched, and their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from trainkit.app.cli import commands
from trainkit.checkpoint import file as checkpoint
from trainkit.nn.layers.linear import Linear
from trainkit.trainer import run_folder, setup, trainer

Act = Callable[[], object]

PLACES: dict[str, tuple[Any, str]] = {  # what is called at it
    "reading the configuration": (commands, "compose"),
    "building": (commands, "build"),
    "taking the folder": (run_folder.Run, "begin"),
    "loading data": (commands, "_data"),
    "setup": (trainer, "prepare"),
    "scaling": (setup, "_scaled"),
    "a step's forward": (Linear, "fwd"),
    "a step's backward": (Linear, "bwd"),
    "between steps": (trainer.Trainer, "note"),
    "an evaluation's batch": (trainer.Trainer, "_pause"),
    "an evaluation": (trainer.Trainer, "evaluate"),
    "an epoch's end": (trainer.Trainer, "_end_epoch"),
    "a hook": (trainer.Trainer, "call"),
    "a snapshot": (trainer.Trainer, "snapshot"),
    "a save": (checkpoint, "write"),
    "a save's fsync": (os, "fsync"),
    "a save's rename": (os, "replace"),
    "the final evaluation": (trainer.Trainer, "_finish"),
    "the summary": (trainer, "summarize"),
    "closing": (run_folder.Run, "close"),
    "the last words": (commands, "_print_metrics"),
}


@contextmanager
def at(place: str, n: int, act: Act, after: bool = False) -> Iterator[list[int]]:
    """`act` before, or `after`, the n-th call at `place`; how many calls there were, in the list given."""
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
