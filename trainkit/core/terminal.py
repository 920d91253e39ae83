"""The standard streams: one that is closed, broken, full or too narrow for a letter ends no run."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO

from .errors import UserError, escape_control, memory_error_message, os_error_message


def prepare() -> None:
    """Give closed streams /dev/null, or the first files opened would be taken for them; escape what stdout cannot spell."""
    for handle, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open for the process's length)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.encoding.lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(errors="backslashreplace")


def print_stdout(*texts: str) -> None:
    """Print texts on stdout, a line or several each, with control characters escaped: they may contain names from files."""
    for text in texts:
        print(*map(escape_control, text.split("\n")), sep="\n", flush=True)


def print_stderr(*texts: str) -> None:
    """The same on stderr. A closed pipe or a full disk does not stop the work."""
    with suppress(OSError):
        for text in texts:
            print(*map(escape_control, text.split("\n")), sep="\n", file=sys.stderr)


def silence(stream: TextIO) -> None:
    """Send what is left of a stream that cannot be written to /dev/null, so that the interpreter's own flush is quiet."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def report_error(error: Exception) -> int:
    """Print an error on stderr, in one or a few lines, and return the exit code."""
    if isinstance(error, UserError):
        lines, code = [f"error: {line}" for line in str(error).split("\n")], error.code
    elif (short := memory_error_message(error)) is not None:
        lines, code = [f"error: {short}: the net, the data, the batch or the replicas"], UserError.code
    elif (why := os_error_message(error)) is not None:
        lines, code = [f"error: {why}"], UserError.code
    else:
        kind = "" if type(error).__name__ == "CallbackError" else f"{type(error).__name__}: "
        lines = [f"error: {kind}{str(error).split(chr(10))[0]}"]
        lines += ["this is a fault in the code, not in what you gave; --debug shows the traceback"]
        code = 1
    print_stderr(*lines)
    return code
