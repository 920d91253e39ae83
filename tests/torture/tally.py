"""How a case is measured: the command line run in this process or in a fork, its output, its time, its memory."""

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

SECONDS, MEGABYTES = 2.0, 200.0  # the CPU time and the memory that a foreign file may take
LONGEST = 60.0  # seconds of wall time after which a shot is stopped
MAX_PRINTED = 40  # failures printed per case


@dataclass
class Tally:
    """A case, what is expected of it, the number of runs, and the failures."""

    case: str
    expected: str
    runs: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    largest: float = 0.0

    def count(self, wrong: str | None) -> None:
        """Count a run, and the failure if there is one."""
        self.runs += 1
        if wrong:
            self.failures.append(wrong)

    def measure(self, seconds: float, megabytes: float) -> str | None:
        """Record the CPU time and the memory of a run; return what is wrong if they are too large."""
        self.slowest, self.largest = max(self.slowest, seconds), max(self.largest, megabytes)
        if seconds > SECONDS:
            return f"took {seconds:.1f} s of CPU time"
        return f"took {megabytes:.0f} MB" if megabytes > MEGABYTES else None


class TooLong(BaseException):
    """A shot that does not end."""


@dataclass
class Shot:
    """The result of `trainkit words`: exit code (None if an exception escaped), stderr, CPU seconds, peak megabytes, stdout."""

    code: int | None
    err: str
    seconds: float
    megabytes: float
    out: str = ""

    def wrong(self, *codes: int) -> str | None:
        """Return what is wrong with the exit code or the messages, or None."""
        if self.code is None:
            return f"escaped: {self.err.strip().splitlines()[-1][:300]}"
        if "Traceback" in self.err or "fault in the code" in self.err:
            return f"a fault: {self.err.strip()[:300]}"
        if codes and self.code not in codes:
            return f"exit {self.code}: {self.err.strip()[:300]}"
        if self.code == 2 and not self.err.strip():
            return "exit 2 without a message"
        return None


@contextmanager
def watched(limit: float = LONGEST) -> Iterator[list[float]]:
    """Measure the CPU seconds and the megabytes of the body, into the list given; raise TooLong after `limit` seconds.

    Wall time would depend on other processes of a busy machine. A body that waits instead of working meets `limit`.
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
    """Run `trainkit words` in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", how, write_through=True) for how in ("strict", "backslashreplace"))
    code = None
    with watched() as took:
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = main([str(w) for w in words])
        except TooLong:
            err.write("\ndoes not end")
        except BaseException:
            err.write(traceback.format_exc())
    errors, printed = (file.buffer.getvalue().decode("utf-8", "replace") for file in (err, out))  # type: ignore[attr-defined]
    return Shot(code, errors, *took, printed)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended, over all threads."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def lowest_mark() -> float:
    """Reset the peak of this process's memory; return the memory now, in megabytes."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> float:
    """Return a line of /proc/self/status in megabytes, or 0 if there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), 0.0)


def fork(act: Callable[[], int], log: Path) -> int:
    """Call `act` in a fork that writes into `log` and exits with its result; return the process id. No file is closed."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads, which do not matter here
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, which a child inherits
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
    """Wait for a fork; return its output and its exit code, which is negative for a signal."""
    status = os.waitpid(child, 0)[1]
    return Shot(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), 0.0, 0.0)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make `folder` the current one, since configurations name files by relative paths."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
