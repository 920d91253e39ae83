"""`python -m trainkit` with standard streams that are closed, full, without a reader, narrow, wide, or in ASCII."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from unicodedata import combining, east_asian_width

import trainkit
from trainkit.app.cli.main import main

from .crash import digest
from .load import CONF
from .tally import Tally, ended, fork, inside, shot

HOME = Path(trainkit.__file__).parents[1]
COMMANDS: dict[str, tuple[str, ...]] = {
    "fit": ("fit", "conf.yaml", "--run-dir", "run", "trainer.replicas=2"),
    "--help": ("--help",),
    "show": ("show", "conf.yaml", "trainer.replicas=2"),
    "an error": ("fti", "conf.yaml"),
}
SHELL: dict[str, tuple[str, Mapping[str, str]]] = {  # the shell's redirections and variables
    "to files": (">out 2>err", {}),
    "to /dev/null": (">/dev/null 2>/dev/null", {}),
    "to /dev/full": (">/dev/full 2>err", {}),
    "errors to /dev/full": (">out 2>/dev/full", {}),
    "stdin closed": ("<&- >out 2>err", {}),
    "stdout closed": (">&- 2>err", {}),
    "stderr closed": (">out 2>&-", {}),
    "stdout and stderr closed": (">&- 2>&-", {}),
    "all three closed": ("<&- >&- 2>&-", {}),
    "TERM=dumb": (">out 2>err", {"TERM": "dumb"}),
    "no TERM": (">out 2>err", {"TERM": ""}),
    "NO_COLOR": (">out 2>err", {"NO_COLOR": "1"}),
    "PYTHONIOENCODING=ascii": (">out 2>err", {"PYTHONIOENCODING": "ascii"}),
    "LANG=C": (">out 2>err", {"LC_ALL": "C", "LANG": "C"}),
    "LANG=C, not coerced": (">out 2>err", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    "COLUMNS=20": (">out 2>err", {"COLUMNS": "20"}),
    "COLUMNS=1": (">out 2>err", {"COLUMNS": "1"}),
    "unbuffered": (">out 2>err", {"PYTHONUNBUFFERED": "1"}),
}
PIPES = {"stdout": (0, 1), "stderr": (0, 1), "both": (0, 1)}  # the reader closes after this number of lines
NARROW = (0, 1, 2, 5, 10, 20, 40, 80, 200, 10_000)


def streams(folder: Path, every: int = 1) -> list[Tally]:
    """Run each of COMMANDS with each of SHELL and PIPES."""
    tally = Tally(
        "fit and the commands that print, with streams that are closed, full, without a reader, in ASCII",
        "no traceback; fit trains to the end, to the same bits, exit 0 (2 if its final output meets a full disk); the others"
        " end without a message, exit 0, or 1 without a reader",
    )
    with inside(folder):
        ready()
        cases = [(c, how) for c in COMMANDS for how in [*SHELL, *((pipe, n) for pipe in PIPES for n in PIPES[pipe])]]
        for command, how in cases[::every]:
            shutil.rmtree("run", ignore_errors=True)
            tally.count(outcome(command, how))
    return [tally]


def ready() -> None:
    Path("conf.yaml").write_text(CONF)
    for run, more in (("whole", ()), ("both", ("trainer.replicas=2",))):
        shutil.rmtree(run, ignore_errors=True)
        made = shot("fit", "conf.yaml", "--run-dir", run, *more)
        assert made.code == 0, made.err


def outcome(command: str, how: str | tuple[str, int]) -> str | None:
    """Run a command with these streams; return what is wrong."""
    for name in ("out", "err"):
        Path(name).write_text("")
    words = [sys.executable, "-m", "trainkit", *COMMANDS[command]]
    if isinstance(how, str):
        redirections, variables = SHELL[how]
        code = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *words], env=variables_of(variables), timeout=120, check=False
        ).returncode
    else:
        code = piped(words, *how)
    errors = Path("err").read_text(errors="replace")
    wanted = {2} if command == "an error" else {0}
    if how == "to /dev/full":
        wanted = {2}
    elif isinstance(how, tuple) and command not in ("fit", "an error"):
        wanted = {0, 1}
    where = f"{command}, {how}: "
    if code not in wanted:
        return f"{where}exit {code}: {errors[-300:]}"
    if re.search("Traceback|Exception ignored|fault in the code", errors):
        return f"{where}{errors[-300:]}"
    if command == "fit" and digest("run") != digest("both"):
        return f"{where}the run ends with other bits"
    return None


def variables_of(more: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "PYTHONIOENCODING")}
    return {**kept, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1", **more}


def piped(words: list[str], which: str, lines: int) -> int:
    """Run a command into a pipe that is closed after `lines` lines; return the exit code."""
    with open("out", "wb") as out, open("err", "wb") as err:
        pipe = {"stdout": {"stdout": subprocess.PIPE, "stderr": err}, "stderr": {"stdout": out, "stderr": subprocess.PIPE}}
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(words, env=variables_of({}), **(both if which == "both" else pipe[which]))  # type: ignore[call-overload]
        reader = child.stderr if which == "stderr" else child.stdout
        for _ in range(lines):
            reader.readline()
        reader.close()
        return int(child.wait(120))


def columns(folder: Path, widths: tuple[int, ...] = NARROW) -> list[Tally]:
    """Run `fit` with its progress bar on terminals of these widths."""
    tally = Tally(
        "fit on a terminal of 0 (unknown width) to 10,000 columns",
        "exit 0, no traceback, the same bits; every state of the bar fits on one line, and the last one is printed",
    )
    with inside(folder):
        ready()
        for width in widths:
            shutil.rmtree("run", ignore_errors=True)
            tally.count(drawn(width))
    return [tally]


def drawn(width: int) -> str | None:
    """Return what is wrong with the progress bar on a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))

    def act() -> int:
        os.dup2(theirs, 2)
        os.close(ours)
        os.close(theirs)
        return main(list(COMMANDS["fit"]))

    child = fork(act, Path("out"))
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 1 << 16):
            seen += data
    except OSError:
        pass  # the other end is closed
    finally:
        os.close(ours)
    code, text = ended(child, Path("out")).code, seen.decode()
    states = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text))
    widest = max(sum(not combining(c) and 1 + (east_asian_width(c) in "WF") for c in state) for state in states)
    if code or "Traceback" in text:
        return f"{width} columns: exit {code}: {text[-300:]}"
    if width and widest > width:
        return f"{width} columns: {widest} are drawn"
    if not any(state.startswith("epoch 4/4"[: max(1, width - 1)] if width else "epoch 4/4 100%") for state in states):
        return f"{width} columns: no last state: {states[-3:]}"
    return None if digest("run") == digest("both") else f"{width} columns: the run ends with other bits"
