"""What an attack is measured by: the command line run in this process or in a fork of it, its words, its time, its memory."""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from trainkit.app.cli.main import main

SECONDS, MEGABYTES = 2.0, 200.0  # of CPU time and of memory, that a stranger's file may take
LONGEST = 60.0  # seconds by the clock after which a shot is given up
MOST = 40  # failures told of an attack


@dataclass
class Tally:
    """An attack, how often it was tried, and each time that something gave."""

    attack: str
    holds: str
    tried: int = 0
    gave: list[str] = field(default_factory=list)
    slowest: float = 0.0
    largest: float = 0.0

    def count(self, wrong: str | None) -> None:
        self.tried += 1
        if wrong:
            self.gave.append(wrong)

    def measure(self, seconds: float, megabytes: float) -> str | None:
        """What is wrong with that much CPU time and memory."""
        self.slowest, self.largest = max(self.slowest, seconds), max(self.largest, megabytes)
        if seconds > SECONDS:
            return f"took {seconds:.1f} s of CPU time"
        return f"took {megabytes:.0f} MB" if megabytes > MEGABYTES else None


class TooLong(BaseException):
    """A shot that does not come back."""


@dataclass
class Shot:
    """What `trainkit words` gave: its exit code (None where an exception escaped), stderr, CPU seconds, megabytes at most."""

    code: int | None
    said: str
    seconds: float
    megabytes: float
    out: str = ""

    def wrong(self, *codes: int) -> str | None:
        """Why this is no clean answer, or None."""
        if self.code is None:
            return f"escaped: {self.said.strip().splitlines()[-1][:300]}"
        if "Traceback" in self.said or "fault in the code" in self.said:
            return f"a fault: {self.said.strip()[:300]}"
        if codes and self.code not in codes:
            return f"exit {self.code}: {self.said.strip()[:300]}"
        if self.code == 2 and not self.said.strip():
            return "exit 2 without a word"
        return None


@contextmanager
def watched(limit: float = LONGEST) -> Iterator[list[float]]:
    """The seconds of CPU time and the megabytes that the body takes, in the list given; TooLong after `limit` seconds.

    Not the seconds by the clock: on a busy machine those are other people's. One that waits instead of working meets `limit`.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    took: list[float] = []
    before = signal.signal(signal.SIGALRM, stop)
    held = lowest_mark()
    began = cpu_seconds()
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield took
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        took += [cpu_seconds() - began, max(0.0, status("VmHWM") - held)]
        signal.signal(signal.SIGALRM, before)


def shot(*words: object) -> Shot:
    """`trainkit words` in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", how, write_through=True) for how in ("strict", "backslashreplace"))
    code = None
    with watched() as took:
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = main([str(w) for w in words])
        except TooLong:
            err.write("\ndoes not come back")
        except BaseException:
            err.write(traceback.format_exc())
    said, printed = (file.buffer.getvalue().decode("utf-8", "replace") for file in (err, out))  # type: ignore[attr-defined]
    return Shot(code, said, *took, printed)


def cpu_seconds() -> float:
    """What this process and those of its children that have ended have taken of the processor, all threads together."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def lowest_mark() -> float:
    """Forget the highest memory so far; the memory now, in megabytes."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> float:
    """A line of /proc/self/status in megabytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), 0.0)


def fork(act: Callable[[], int], log: Path) -> int:
    """A process that does `act` with its words in `log` and ends with its code; the id. Nothing of this process's is closed."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons: there are threads, which do not touch this
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, which a child inherits
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 (until the exit)
        code = act()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(child: int, log: Path) -> Shot:
    """What a fork has said and how it ended; a signal is a negative code."""
    status = os.waitpid(child, 0)[1]
    return Shot(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), 0.0, 0.0)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The current folder, for what a configuration names by relative paths."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
