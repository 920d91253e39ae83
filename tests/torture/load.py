"""Long runs, shared folders and clocks that jump: no resource grows, no run is damaged, no duration uses the wall clock."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from trainkit.app.cli.main import main
from trainkit.checkpoint import file as checkpoint
from trainkit.core.errors import UserError
from trainkit.core.files import TEMPORARY
from trainkit.trainer.session import Session

from .crash import after, digest
from .moments import at
from .tally import Shot, Tally, ended, fork, inside, shot, status

LONG = """\
data: {name: disk, train: 1000, test: 100, normalize: feature}
model: [{Linear: [2, 4]}, ReLU, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.001, momentum: 0.9}}
trainer: {max_epochs: 1000000, max_steps: STEPS, batch_size: 1, log_every_n_steps: 10}
callbacks:
  validation_split: {fraction: 0.1}
  terminate_on_nan: {}
  checkpoint: {monitor: val/loss, save_top_k: 3, every_n_epochs: 2}
  lr_scheduler: {CosineAnnealingLR: {T_max: 1200}}
  tensorboard: {}
  csv_logger: {}
  progress_bar: {}
"""
PARTS = 20


def long(folder: Path, steps: int = 1_000_000) -> list[Tally]:
    """Measure memory, descriptors, threads and files at every 5 % of one long run, after its first 10 %."""
    held = Tally(
        "",
        "at every 5 % of the run the memory is within 1 % of the minimum; constant descriptors and threads; at most 12 files",
    )
    grown = Tally("", "the sizes of a row of metrics.csv, a TensorBoard record and a checkpoint are constant to 10 %")
    with inside(folder):
        Path("conf.yaml").write_text(LONG.replace("STEPS", str(steps)))
        began = time.monotonic()
        # Not a fork, whose memory depends on what its parent has freed.
        words = [sys.executable, "-c", f"import sys, {__name__} as load; sys.exit(load.watched_run({steps}))"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        if wrong := Shot(done.returncode, done.stderr, 0.0, 0.0).wrong(0):
            held.count(wrong)
            return [held]
        seen: list[dict[str, float]] = json.loads(Path("seen.json").read_text())
    least, most = (f(s["memory"] for s in seen) for f in (min, max))
    for s in seen:
        counts = {k: (s[k], seen[0][k]) for k in ("descriptors", "threads") if s[k] != seen[0][k]}
        counts |= {"files": (s["files"], 12)} if s["files"] > 12 else {}
        heavy = f"{s['memory']:.1f} MB, at least {least:.1f}" if s["memory"] > 1.01 * least else ""
        held.count(f"step {s['step']:.0f}: {heavy} {counts or ''}" if heavy or counts else None)
    pieces = [(b["step"], {k: b[k] - a[k] for k in b}, b["checkpoint"]) for a, b in pairwise(seen)]
    costs = [(step, d["csv"] / d["epoch"], d["events"] / d["step"], size) for step, d, size in pieces]
    for step, *cost in costs:
        more = [(c, first) for c, first in zip(cost, costs[0][1:], strict=True) if not 0.9 * first < c < 1.1 * first]
        grown.count(f"step {step:.0f}: bytes and those of the first piece {more}" if more else None)
    held.case = f"a run of {steps:,} steps, measured every 5 %: {least:.1f} to {most:.1f} MB, {took:.0f} s"
    grown.case = f"the same run's files: {costs[-1][1]:.0f} bytes per row, {costs[-1][2] * 10:.0f} bytes per record"
    return [held, grown]


def watched_run(steps: int) -> int:
    """Run `fit`, and write what the process holds at every 5 % after the first 10 % into seen.json."""
    seen: list[dict[str, float]] = []
    real = Session.record_steps

    def record_steps(session: Session, *args: Any) -> None:
        real(session, *args)
        step = session.progress.step
        if step % (steps // PARTS) == 0 and step > steps // PARTS:
            writer: Any = session.callbacks["tensorboard"]
            writer.writer.flush()
            files = [p for p in Path("run").rglob("*") if p.is_file() and not p.name.startswith(TEMPORARY)]
            point = {"step": step, "epoch": session.progress.epoch, "memory": status("VmRSS"), "files": len(files)}
            point |= {"descriptors": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}
            point["csv"] = Path("run/metrics.csv").stat().st_size
            point["events"] = sum(p.stat().st_size for p in files if "tfevents" in p.name)
            point["checkpoint"] = Path("run/checkpoints/last.pt").stat().st_size
            seen.append(point)

    with patch.object(Session, "record_steps", record_steps):
        code = main(["fit", "conf.yaml", "--run-dir", "run"])
    Path("seen.json").write_text(json.dumps(seen))
    return code


CONF = """\
data: {name: disk, train: 30, test: 10}
model: [{Linear: [2, 4]}, ReLU, {Dropout: 0.1}, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1, momentum: 0.9}}
trainer: {max_epochs: 4, batch_size: 10, log_every_n_steps: 1}
callbacks:
  validation_split: {every_n_steps: 2}
  checkpoint: {monitor: val/loss, save_top_k: 2, every_n_steps: 2}
  csv_logger: {}
  tensorboard: {}
  timer: {max_time: "01:00:00"}
  progress_bar: {}
"""
WHEN = [
    *(("between steps", n) for n in (1, 2, 3, 6)),
    ("a step's backward", 3),
    ("an evaluation", 2),
    ("a save's rename", 9),
    ("a save's fsync", 12),
    ("an epoch's end", 2),
    ("the final evaluation", 1),
    ("the summary", 1),
]


def prepare() -> None:
    Path("conf.yaml").write_text(CONF)
    shutil.rmtree("whole", ignore_errors=True)
    whole = shot("fit", "conf.yaml", "--run-dir", "whole")
    assert whole.code == 0, whole.err


def shared(folder: Path, every: int = 1) -> list[Tally]:
    """Start a second trainer in a run's folder at each of WHEN; then kill the first one there, and resume the run."""
    refused = Tally(
        "a second trainer in a run's folder, from the same process and from another, new and resumed",
        "refused, exit 2, by one line that names the other trainer; the first ends with its bits and files",
    )
    killed = Tally(
        "the first trainer is killed (SIGKILL), and the folder is used again",
        "the run continues, or begins again if nothing was saved, and ends with the bits of an uninterrupted one",
    )
    with inside(folder):
        prepare()
        for place, n in WHEN[::every]:
            shutil.rmtree("run", ignore_errors=True)

            def visited(place: str = place, n: int = n) -> int:
                with at(place, n, lambda: Path("visits.json").write_text(json.dumps(visits()))) as calls:
                    code = main(["fit", "conf.yaml", "--run-dir", "run"])
                assert calls[0] >= n, f"{place} was reached {calls[0]} times"
                return code

            first = ended(fork(visited, Path("log")), Path("log"))
            wrong = first.wrong(0) or unlike_whole()
            for visitor, refusal in json.loads(Path("visits.json").read_text()).items():
                where = f"{place} {n}, {visitor}: "
                refused.count(where + (refusal or f"the first: {wrong}") if refusal or wrong else None)
            shutil.rmtree("run", ignore_errors=True)

            def die(place: str = place, n: int = n) -> int:
                with at(place, n, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                    return main(["fit", "conf.yaml", "--run-dir", "run"])

            end = ended(fork(die, Path("log")), Path("log"))
            killed.count(f"{place} {n}: exit {end.code}" if end.code != -signal.SIGKILL else after(f"{place} {n}", None))
    return [refused, killed]


def visits() -> dict[str, str | None]:
    """Return what is wrong with how each second trainer is refused at this moment."""
    new, more = ("fit", "conf.yaml", "--run-dir", "run"), ("fit", "--resume", "run")
    words = {"new": new} | ({"resumed": more} if checkpoint.list_checkpoints(Path("run/checkpoints")) else {})
    found: dict[str, str | None] = {}
    for name, command in words.items():
        second = shot(*command)
        found[f"{name}, same process"] = received(second.wrong(2), second.err)
        child = ended(fork(lambda command=command: main(list(command)), Path("visitor")), Path("visitor"))  # type: ignore[misc]
        found[f"{name}, another process"] = received(child.wrong(2), child.err)
    try:
        from trainkit.trainer.run_folder import RunFolder

        RunFolder(Path("run")).lock()
        found["in code"] = "was not refused"
    except UserError as error:
        found["in code"] = None if "in use by another trainer" in str(error) else str(error)
    return found


def received(wrong: str | None, errors: str) -> str | None:
    """Return what is wrong with a refusal."""
    return wrong or (None if re.search("in use by another trainer|holds a run already", errors) else errors)


def unlike_whole() -> str | None:
    """Return how `run` differs from the uninterrupted one."""
    if digest("run") != digest("whole"):
        return "ends with other bits"
    mine, theirs = (Path(run, "metrics.csv").read_text() for run in ("run", "whole"))
    if mine != theirs:
        return "other metrics.csv"
    steps, wanted = (curve(Path(run)) for run in ("run", "whole"))
    return None if steps == wanted else f"other curves: {set(steps) ^ set(wanted)}"


def curve(run: Path) -> list[tuple[int, str, float]]:
    """Return TensorBoard's points."""
    files = sorted(str(p) for p in run.glob("events.out.tfevents.*"))
    events = (event for file in files for event in LegacyEventFileLoader(file).Load())
    return [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value if v.HasField("simple_value")]


HOUR, DAY = 3600.0, 86400.0
JUMPS: dict[str, Callable[[int], float]] = {  # the error of the clock in seconds, by the number of steps
    "an hour back": lambda step: -HOUR,
    "ten hours back": lambda step: -10 * HOUR,
    "a day forward": lambda step: DAY,
    "thirty days forward": lambda step: 30 * DAY,
    "to 1970": lambda step: -time.time_ns() / 1e9 + 1,
    "to 2100": lambda step: 74 * 365 * DAY,
    "back and forth": lambda step: DAY * (-1) ** step,
    "back at each step": lambda step: -HOUR * step,
}


def clocks(folder: Path, every: int = 1) -> list[Tally]:
    """Let the wall clock jump after several steps, by each of JUMPS, also while a timer has to end the run."""
    tally = Tally(
        "the wall clock jumps in a run, back by hours or forward by days",
        "exit 0, no traceback; bits, metrics.csv and TensorBoard's points of an uninterrupted run; durations of seconds; a"
        " resumed run's event file is read last; timer and saves by time use a monotonic clock",
    )
    cases = [(name, step) for name in JUMPS for step in (1, 4, 7)]
    with inside(folder):
        prepare()
        for name, step in cases[::every]:
            shutil.rmtree("run", ignore_errors=True)
            tally.count(jumped(name, step))
        for name in list(JUMPS)[::every]:
            shutil.rmtree("run", ignore_errors=True)
            tally.count(timed(name))
    return [tally]


def wrong_clock(name: str, step: int, words: list[str]) -> int:
    """Run `trainkit words` with a wall clock that jumps after `step` steps."""
    real, real_ns, record_steps = time.time, time.time_ns, Session.record_steps
    off, taken = 0.0, 0

    def recorded(session: Session, *args: Any) -> None:
        nonlocal off, taken
        record_steps(session, *args)
        taken += 1
        off = JUMPS[name](taken) if taken >= step else 0.0

    with (
        patch.object(Session, "record_steps", recorded),
        patch.object(time, "time", lambda: real() + off),
        patch.object(time, "time_ns", lambda: real_ns() + int(off * 1e9)),
    ):
        return main(words)


def jumped(name: str, step: int) -> str | None:
    """Train under the jump; then in two halves, the second one resumed under it."""
    end = ended(fork(lambda: wrong_clock(name, step, ["fit", "conf.yaml", "--run-dir", "run"]), Path("log")), Path("log"))
    if wrong := end.wrong(0) or unlike_whole():
        return f"{name} after step {step}: {wrong}"
    seconds = json.loads(Path("run/summary.json").read_text())["wall_s"]
    if not 0 <= seconds < 60:
        return f"{name} after step {step}: wall_s is {seconds}"
    shutil.rmtree("run")
    half = ["fit", "conf.yaml", "--run-dir", "run", "trainer.max_steps=5"]
    ended(fork(lambda: wrong_clock(name, 2, half), Path("log")), Path("log"))
    rest = ["fit", "conf.yaml", "--resume", "run"]
    end = ended(fork(lambda: wrong_clock(name, 1, rest), Path("log")), Path("log"))
    wrong = end.wrong(0) or (None if digest("run") == digest("whole") else "the resumed run ends with other bits")
    return f"{name}: {wrong}" if wrong else None


def timed(name: str) -> str | None:
    """Train under the jump with a timer of 0.3 s and a save every 0.1 s."""
    words = ["fit", "conf.yaml", "--run-dir", "run", "trainer.max_epochs=1000000", "callbacks.timer.max_time=0.3"]
    words += ["callbacks.checkpoint={every_seconds: 0.1}"]
    end = ended(fork(lambda: wrong_clock(name, 2, words), Path("log")), Path("log"))
    if wrong := end.wrong(0):
        return f"{name}, timed: {wrong}"
    summary = json.loads(Path("run/summary.json").read_text())
    return None if summary["stop_reason"] == "max_time" else f"{name}, timed: ended by {summary['stop_reason']}"
