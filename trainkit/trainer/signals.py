"""SIGINT and SIGTERM: the first signal is noted and ends the run after the current step, a second one stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Raised to leave an evaluation or a command after the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def noting(note: Callable[[int], None]) -> Iterator[None]:
    """Call `note` with the number of the first signal; a second one has its usual effect.

    Outside the main thread no handler is set. A signal that is ignored remains ignored: a shell starts
    background jobs with SIGINT ignored, so that Ctrl-C does not reach them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    before = {s: h for s, h in handlers.items() if h not in (signal.SIG_IGN, None)}  # None: a handler that is not Python's

    noted = False

    def restore(highest: int = signal.SIGTERM) -> None:
        for s, handler in before.items():
            if s <= highest:
                signal.signal(s, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        second, noted = noted, True
        restore(number)  # Python runs pending handlers in ascending order: one removed before its turn loses its signal
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
    """Return the exit code by the shell's convention: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


def name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    return signal.Signals(number).name
