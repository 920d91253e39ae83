"""SIGINT, SIGTERM, both, twice, and SIGHUP in every phase of `fit`; the resumed run ends like an uninterrupted one."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainkit.app.cli.main import main
from trainkit.checkpoint import file as checkpoint

from .crash import CONF as SAVING
from .crash import after, digest
from .moments import PLACES, at
from .tally import Shot, Tally, ended, fork, inside, shot
from .terminals import variables_of

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
ONE = {"SIGINT": (INT,), "SIGTERM": (TERM,)}
TWO = {
    "SIGINT twice": (INT, INT),
    "SIGTERM twice": (TERM, TERM),
    "SIGINT, then SIGTERM": (INT, TERM),
    "SIGTERM, then SIGINT": (TERM, INT),
}
CODES = {INT: 130, TERM: 143}
RESUMED = (
    "no traceback, every checkpoint complete; `fit --resume` ends with the bits and files of an uninterrupted run, without"
    " temporary files"
)
CONF = SAVING.replace("  csv_logger: {}", "  csv_logger: {}\n  tensorboard: {}\n  terminate_on_nan: {}\n  progress_bar: {}")
EARLY = ("reading the configuration", "building", "taking the folder", "loading data")
LATE = ("the summary", "closing", "the final output")


def prepare(text: str, code: int = 0) -> None:
    Path("conf.yaml").write_text(text)
    shutil.rmtree("whole", ignore_errors=True)
    alone = fork(lambda: main(["fit", "conf.yaml", "--run-dir", "whole"]), Path("log"))
    whole = ended(alone, Path("log"))  # not a shot: compiling may exceed its time limit
    assert whole.code == code, whole.err


def usual(act: Callable[[], int]) -> int:
    """Call `act` with the signal handlers of a new process."""
    signal.signal(INT, signal.default_int_handler)
    signal.signal(TERM, signal.SIG_DFL)
    return act()


def interrupted(place: str, n: int, behind: bool, numbers: tuple[int, ...], words: tuple[str, ...]) -> Shot:
    """Run `trainkit words` in a fork that sends itself these signals, one after the other, at the place."""

    def send() -> None:
        for number in numbers:
            signal.raise_signal(number)

    def act() -> int:
        with at(place, n, send, behind):
            return main(list(words))

    return ended(fork(lambda: usual(act), Path("log")), Path("log"))


def calls() -> dict[str, int]:
    """Return how often a complete run reaches each place."""
    found = {}
    for place in PLACES:
        shutil.rmtree("run", ignore_errors=True)
        with at(place, 0, lambda: None) as counted:
            whole = shot("fit", "conf.yaml", "--run-dir", "run")
        assert whole.code == 0, whole.err
        found[place] = counted[0]
    return found


MAX_MOMENTS = 12  # per place


def moments(every: int) -> list[tuple[str, int, bool]]:
    """Return place, number of the call, and whether after it: up to MAX_MOMENTS calls of each, spread over the run."""
    chosen = []
    for place, n in calls().items():
        if n:
            picked = sorted({1 + i * (n - 1) // max(1, min(n, MAX_MOMENTS) - 1) for i in range(min(n, MAX_MOMENTS))})
            chosen += [(place, k, behind) for k in picked for behind in (False, True)]
    return chosen[::every]


def once(folder: Path, every: int = 1) -> list[Tally]:
    """Send one signal at each of `moments`."""
    tallies = []
    with inside(folder):
        prepare(CONF)
        chosen = moments(every)
        for name, numbers in ONE.items():
            tally = Tally(
                f"one {name} in every phase, from reading the configuration to the final output",
                f"ends after the step, exit {CODES[numbers[0]]}, with all trained steps saved; {RESUMED}",
            )
            for place, n, behind in chosen:
                where = f"{'after' if behind else 'before'} {place} {n}, {name}"
                shutil.rmtree("run", ignore_errors=True)
                end = interrupted(place, n, behind, numbers, ("fit", "conf.yaml", "--run-dir", "run"))
                tally.count(
                    stopped(where, end, numbers[0], saved=place not in (*EARLY, *LATE, "setup", "scaling"))
                    or after(where, None)
                )
            tallies.append(tally)
    return tallies


def stopped(where: str, end: Shot, number: int, saved: bool) -> str | None:
    """Return what is wrong with how one signal ended the run."""
    if end.code not in (CODES[number], -number) or (end.code == -number and saved):
        return f"{where}: exit {end.code}: {end.err[-300:]}"
    if re.search("Traceback|fault in the code", end.err):
        return f"{where}: {end.err[-300:]}"
    if saved and not checkpoint.list_checkpoints(Path("run/checkpoints")):
        return f"{where}: no checkpoint"
    return None


def twice(folder: Path, every: int = 1) -> list[Tally]:
    """Send two signals at once at each of `moments`, and SIGHUP, which trainkit does not handle."""
    tallies = []
    with inside(folder):
        prepare(CONF)
        chosen = moments(every)
        for name, numbers in {**TWO, "SIGHUP": (HUP,)}.items():
            tally = Tally(f"{name} in every phase", f"ends at once, by the signal or with its exit code; {RESUMED}")
            for place, n, behind in chosen:
                where = f"{'after' if behind else 'before'} {place} {n}, {name}"
                shutil.rmtree("run", ignore_errors=True)
                end = interrupted(place, n, behind, numbers, ("fit", "conf.yaml", "--run-dir", "run"))
                codes = {-number for number in numbers} | {CODES[k] for k in numbers if k in CODES}
                wrong = None if end.code in codes else f"exit {end.code}: {end.err[-300:]}"
                wrong = wrong or (end.err[-300:] if re.search("Traceback|fault in the code", end.err) else None)
                tally.count(f"{where}: {wrong}" if wrong else after(where, None))
            tallies.append(tally)
    return tallies


DIVERGING = CONF.replace("SGD: {lr: 0.1, momentum: 0.9}", "SGD: {lr: 1.0e+10}").replace(
    "log_every_n_steps: 1", "log_every_n_steps: 4"
)
DIVERGING = DIVERGING.replace("  early_stopping: {patience: 99, restore_best: true}\n", "").replace("{every_n_steps: 1}", "{}")
DIVERGING = DIVERGING.replace("train: 30", "train: 80")


def rewinding(folder: Path, every: int = 1) -> list[Tally]:
    """Send a signal in each step that terminate_on_nan repeats to find the one that failed, and in the saves after it."""
    tally = Tally(
        "a signal in the rewind of terminate_on_nan",
        "exit 3, 130 or 143, no traceback; every checkpoint complete; the resumed run ends with the bits and the exit code"
        " of an uninterrupted one",
    )
    with inside(folder):
        prepare(DIVERGING, 3)
        for place, n, behind in rewinds()[::every]:
            for name, numbers in {**ONE, **TWO}.items():
                where = f"{'after' if behind else 'before'} {place} {n}, {name}"
                shutil.rmtree("run", ignore_errors=True)
                end = interrupted(place, n, behind, numbers, ("fit", "conf.yaml", "--run-dir", "run"))
                wrong = None if end.code in (3, 130, 143, -INT, -TERM) else f"exit {end.code}: {end.err[-300:]}"
                wrong = wrong or (end.err[-300:] if re.search("Traceback|fault in the code", end.err) else None)
                saved = bool(checkpoint.list_checkpoints(Path("run/checkpoints")))
                words = ("--resume", "run") if saved else ("conf.yaml", "--run-dir", "run")
                again = shot("fit", *words)
                wrong = wrong or again.wrong(3) or (None if digest("run") == digest("whole") else "ends with other bits")
                tally.count(f"{where}: {wrong}" if wrong else None)
    return [tally]


def rewinds() -> list[tuple[str, int, bool]]:
    places = ("between steps", "a step's backward", "a save", "a save's rename", "a hook")
    found = []
    for place in places:
        shutil.rmtree("run", ignore_errors=True)
        with at(place, 0, lambda: None) as counted:
            shot("fit", "conf.yaml", "--run-dir", "run")
        found += [(place, k, behind) for k in range(1, counted[0] + 1, 2) for behind in (False, True)]
    return found


def compiling(folder: Path) -> list[Tally]:
    """Send a signal while the steps are compiled."""
    tally = Tally("a signal before, in and after the compilation of engine=native", f"exit 130 or 143; {RESUMED}")
    with inside(folder):
        prepare(CONF.replace("max_epochs: 3", "max_epochs: 3, engine: native"))
        for seconds in (0.3, 1.0):
            for name, numbers in ONE.items():
                shutil.rmtree("run", ignore_errors=True)
                tally.count(_sent(f"{name} after {seconds} s", numbers, seconds, ("fit", "conf.yaml", "--run-dir", "run")))
    return [tally]


def _sent(where: str, numbers: tuple[int, ...], seconds: float, words: tuple[str, ...]) -> str | None:
    """Send signals to a run after `seconds`, and resume it."""
    child = fork(lambda: usual(lambda: main(list(words))), Path("log"))
    time.sleep(seconds)
    for number in numbers:
        os.kill(child, number)
    end = ended(child, Path("log"))
    if end.code not in (0, 130, 143, *(-number for number in numbers)):
        return f"{where}: exit {end.code}: {end.err[-300:]}"
    if re.search("Traceback|Exception ignored|fault in the code", end.err):
        return f"{where}: {end.err[-300:]}"
    return after(where, None)


def anywhen(folder: Path, forks: int, starts: int, seed: int = 0) -> list[Tally]:
    """Send signals at random moments to forks in `fit`, and to new processes from their first instruction on."""
    running = Tally(
        "a signal, or two, at random moments of `fit` and `fit --resume`", f"exit 130, 143 or by the signal; {RESUMED}"
    )
    starting = Tally(
        "a signal at random moments of `python -m trainkit fit`, from the import of trainkit to the exit",
        f"exit 130, 143 or by the signal; {RESUMED}",
    )
    draw, kinds = random.Random(seed), {**ONE, **TWO, "SIGHUP": (HUP,)}
    with inside(folder):
        prepare(CONF.replace("max_epochs: 3", "max_epochs: 20"))
        began = time.monotonic()
        ended(fork(lambda: main(["fit", "conf.yaml", "--run-dir", "timed"]), Path("log")), Path("log"))
        duration = time.monotonic() - began
        for i in range(forks):
            name = draw.choice(list(kinds))
            shutil.rmtree("run", ignore_errors=True)
            running.count(
                _sent(f"{i}, {name}", kinds[name], draw.uniform(0, duration), ("fit", "conf.yaml", "--run-dir", "run"))
            )
        began = time.monotonic()
        shutil.rmtree("run", ignore_errors=True)
        words = [sys.executable, "-m", "trainkit", "fit", "conf.yaml", "--run-dir", "run"]
        subprocess.run(words, env=variables_of({}), capture_output=True, check=True)
        duration = time.monotonic() - began
        while starting.runs < starts:
            name = draw.choice(list(ONE))
            shutil.rmtree("run", ignore_errors=True)
            moment = draw.uniform(0.05, duration)
            child = subprocess.Popen(words, env=variables_of({}), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(moment)
            child.send_signal(ONE[name][0])
            errors = child.communicate()[1].decode()
            if "Traceback" in errors and "trainkit" not in errors:
                continue  # the start of Python, before trainkit was imported
            where = f"{name} after {moment:.2f} of {duration:.2f} s"
            wrong = None if child.returncode in (0, 130, 143, -INT, -TERM) else f"exit {child.returncode}"
            wrong = (
                f"{wrong or ''} {errors[-400:]}" if wrong or "Traceback" in errors or "Exception ignored" in errors else None
            )
            starting.count(f"{where}: {wrong}" if wrong else after(where, None))
    return [running, starting]
