"""The standard streams. One that is closed, broken or full, or cannot encode a character, does not end a run."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO

from .errors import UserError, escape_control, memory_error_message, os_error_message


def prepare() -> None:
    """Open /dev/null for each closed stream, and escape characters that stdout cannot encode.

    Otherwise the next file opened would get the number of a closed stream, and receive its output.
    """
    for handle, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `handle`
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open until the process ends)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.encoding.lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(errors="backslashreplace")


def print_stdout(*texts: str) -> None:
    """Print texts on stdout with control characters escaped, since they may contain names from files."""
    for text in texts:
        print(*map(escape_control, text.split("\n")), sep="\n", flush=True)


def print_stderr(*texts: str) -> None:
    """Print texts on stderr in the same way. A closed pipe or a full disk is not an error."""
    with suppress(OSError):
        for text in texts:
            print(*map(escape_control, text.split("\n")), sep="\n", file=sys.stderr)


def silence(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to /dev/null, so that the interpreter's flush at exit raises nothing."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def report_error(error: Exception) -> int:
    """Print an error on stderr, without a traceback, and return the exit code."""
    if isinstance(error, UserError):
        lines, code = [f"error: {line}" for line in str(error).split("\n")], error.code
    elif (short := memory_error_message(error)) is not None:
        lines, code = [f"error: {short}: the net, the data, the batch or the replicas"], UserError.code
    elif (why := os_error_message(error)) is not None:
        lines, code = [f"error: {why}"], UserError.code
    else:
        kind = "" if type(error).__name__ == "CallbackError" else f"{type(error).__name__}: "
        lines = [f"error: {kind}{str(error).split(chr(10))[0]}"]
        lines += ["this is a fault in the code, not in your input; --debug shows the traceback"]
        code = 1
    print_stderr(*lines)
    return code
