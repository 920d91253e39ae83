"""SIGINT and SIGTERM as a wish to stop: the first is noted, a second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Raised inside an evaluation to leave it; the run stops where it is and can be resumed there."""


@contextmanager
def noting(note: Callable[[int], None]) -> Iterator[None]:
    """Call `note` with the first signal's number; a second one has its usual effect.

    Off the main thread nothing changes, and a signal that is ignored stays so: a shell starts background jobs with SIGINT
    ignored, so that Ctrl-C does not reach them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    before = {s: h for s, h in handlers.items() if h not in (signal.SIG_IGN, None)}  # None: a handler that is not Python's

    noted = False

    def restore(upto: int = signal.SIGTERM) -> None:
        for s, handler in before.items():
            if s <= upto:
                signal.signal(s, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        second, noted = noted, True
        restore(number)  # Python hears pending signals in ascending order, and loses one whose handler goes meanwhile
        usual = before[signal.Signals(number)]
        if not second:
            note(number)
        elif callable(usual):
            usual(number, frame)
        elif usual == signal.SIG_DFL:
            os.kill(os.getpid(), number)

    for s in before:
        signal.signal(s, handle)
    try:
        yield
    finally:
        restore()


def exit_code(number: int) -> int:
    """The shell's convention: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


def name(number: int) -> str:
    return signal.Signals(number).name
