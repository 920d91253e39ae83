"""Test whether resumed runs of a configuration end with the bits of the uninterrupted one. Each run is a process.

One run is not interrupted. Others are interrupted, each at a different point (see `interrupt.py`), and resumed by
`trainkit fit --resume` in a new process; then the folders are compared. If they differ, the uninterrupted run is repeated, to
distinguish an inexact resume from a run that is not reproducible. A run that `terminate_on_nan` ends (exit code 3) counts too:
the resumed one must end with the same code and files.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any

from trainkit import checkpoint
from trainkit.app.config import registry
from trainkit.app.config.files import compose, resolve
from trainkit.app.experiment import NOT_FINITE
from trainkit.checkpoint.file import FINAL, LAST
from trainkit.core.diff import by_size, differences, same
from trainkit.core.errors import UserError
from trainkit.core.rng import stream
from trainkit.core.terminal import print_stdout
from trainkit.metrics.event_file import EVENTS
from trainkit.trainer.environment import engine_of

from . import interrupt

if TYPE_CHECKING:
    import argparse

MAX_DIFFERENCES = 4  # differences printed per run
ENDED = (0, NOT_FINITE)  # exit codes of a run that was not interrupted

# What is not compared, and why, by its place in a checkpoint or in summary.json. <Timer> is every callback of that class.
IGNORED = {
    ("environment",): "versions, threads and device; `fit --resume` prints where they differ",
    ("callbacks", interrupt.NAME): "this test's own callback, in files of the interrupted run",
    ("callbacks", "<Timer>", "elapsed"): "the clock",
    ("callbacks", "<Checkpoint>", "gone"): "files to delete at the next save; when it saves may depend on the clock",
    ("wall_s",): "the clock, in summary.json",
    ("versions",): "the environment, in summary.json",
}  # and of TensorBoard all but the scalars' tags, steps and values: the times of events, the names and number of files


@dataclass(frozen=True)
class Point:
    """Where to interrupt: at `step`, in a phase of `interrupt.PHASES`. `saved`: the step of an earlier save, for that phase."""

    phase: str
    step: int
    saved: int = 0

    def __str__(self) -> str:
        words = {"step": "", "validation": ", in a validation", "save": ", killed in a save", "epoch": ", at an epoch's end"}
        return f"step {self.step}{words[self.phase]}"


def verify_resume(args: argparse.Namespace) -> int:
    """Print a row per point and a conclusion. Return 0 if every resumed run ends like the uninterrupted one, else 1."""
    if not args.paths:
        raise UserError(
            "verify-resume: no CONF; give a YAML file, for example verify-resume conf/mlp.yaml trainer.max_epochs=5"
        )
    n = args.points
    if n < 0:
        raise UserError(f"--points: {n}; needs at least 0")
    config = resolve(compose(args.paths, args.overrides))
    kinds = callback_kinds(config)
    if "Checkpoint" not in kinds.values():
        raise UserError("verify-resume: no callbacks.checkpoint, so no run can be resumed; add callbacks.checkpoint={}")
    fit = {
        "paths": [str(path) for path in args.paths],
        "overrides": args.overrides,
        "imports": [str(path) for path in args.imports],
    }
    with scratch(args.keep) as folder:
        expected = uninterrupted(fit, folder / "whole")
        chosen = points(expected, n, config.get("seed", 0))
        epochs, steps, seconds = (expected.summary[k] for k in ("epoch", "step", "wall_s"))
        nan = f"ended by terminate_on_nan (exit code {NOT_FINITE}), " if expected.code == NOT_FINITE else ""
        print_stdout(f"uninterrupted: {steps} steps, {epochs} epochs, {nan}{seconds:.1f} s; now {len(chosen)} interrupted runs")
        width = max(len("interrupted"), *(len(str(p)) for p in chosen))
        print_stdout(f"{'interrupted':<{width}}  {'resumed from':<14}result")
        wrong = 0
        for i, point in enumerate(chosen):
            own = folder / f"point{i + 1}"
            resumed_from, found = trial(point, fit, own, expected, kinds)
            first, *rest = found or ["exact"]
            more = [f"and {len(rest) - MAX_DIFFERENCES} more"] if len(rest) > MAX_DIFFERENCES else []
            print_stdout(
                f"{point!s:<{width}}  {resumed_from:<14}{first}", *(f"  {line}" for line in rest[:MAX_DIFFERENCES] + more)
            )
            wrong += bool(found)
            if not args.keep:
                rmtree(own, ignore_errors=True)
        if not wrong:
            print_stdout(f"{len(chosen)} of {len(chosen)} resumed runs are bit-identical to the uninterrupted run.")
            return 0
        again = compare(expected, uninterrupted(fit, folder / "again", expected.engine), kinds)
    if again:
        print_stdout(
            f"Two uninterrupted runs differ too, so this run is not reproducible, resumed or not: {'; '.join(again[:2])}."
        )
    else:
        print_stdout(
            f"{wrong} of {len(chosen)} resumed runs end differently, while two uninterrupted ones are equal:"
            " the resume is not exact."
        )
    return 1


@contextmanager
def scratch(keep: bool) -> Iterator[Path]:
    """Make a temporary folder; remove it at the end, unless `keep`."""
    folder = Path(mkdtemp(prefix="trainkit-verify-"))
    try:
        yield folder
    finally:
        if keep:
            print_stdout(f"kept: {folder}")
        else:
            rmtree(folder, ignore_errors=True)


# -- runs ------------------------------------------------------------------------------------------------------------------


class Ended:
    """A run that has ended: its exit code, and the content of its folder."""

    def __init__(self, folder: Path, code: int = 0) -> None:
        self.code = code
        self.summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        log = folder / "metrics.csv"
        self.rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines())) if log.exists() else []
        self.scalars = scalars(folder)
        files = [
            *checkpoint.list_checkpoints(folder / "checkpoints"),
            *checkpoint.list_checkpoints(folder),
        ]  # such as BEFORE_NAN
        self.files = {path.relative_to(folder).as_posix(): checkpoint.load(path) for path in files}

    @property
    def last(self) -> dict[str, Any]:
        return self.files[f"checkpoints/{LAST}"]

    @property
    def engine(self) -> str:
        """eager, native or graph. It is fixed, since `trainer.engine: auto` chooses by time and may choose differently."""
        return str(engine_of(self.last))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) by tag, as TensorBoard shows them: without what a resumed run has purged."""
    files = [path for path in folder.glob(EVENTS) if stat.S_ISREG(path.lstat().st_mode)]
    if not files:
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TemporaryDirectory(prefix="trainkit-events-") as links:  # of regular files only: TensorBoard would wait for a pipe
        for path in files:
            Path(links, path.name).symlink_to(path.absolute())
        events, logger = EventAccumulator(links, size_guidance={"scalars": 0}), logging.getLogger("tensorboard")
        before = logger.level
        logger.setLevel(logging.ERROR)  # each purge is a warning
        try:
            events.Reload()
        finally:
            logger.setLevel(before)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def uninterrupted(fit: dict[str, list[str]], folder: Path, engine: str | None = None) -> Ended:
    """Train without an interruption, with the configured engine or with `engine`."""
    if engine is None:
        imports = [f"--import={path}" for path in fit["imports"]]
        done = process("trainkit", "fit", *fit["paths"], *fit["overrides"], *imports, f"--run-dir={folder}")
    else:
        done = interrupted(fit, folder, engine, interrupt.NEVER)
    if done.returncode not in ENDED:
        raise UserError("the uninterrupted run failed\n" + "\n".join(stderr_tail(done, 10)))
    ended = Ended(folder, done.returncode)
    if ended.summary["stop_reason"] == "max_time":
        raise UserError("verify-resume: max_time ended the run, so others may end at other steps; limit steps or epochs")
    if not ended.summary["step"]:
        raise UserError("verify-resume: the run has no step to interrupt; set trainer.max_epochs")
    return ended


def trial(
    point: Point, fit: dict[str, list[str]], folder: Path, expected: Ended, kinds: dict[str, str]
) -> tuple[str, list[str]]:
    """Interrupt a run, resume it, compare it. Return the step it was resumed from, and what differs."""
    ended = interrupted(fit, folder, expected.engine, vars(point))
    if ended.returncode != (-signal.SIGKILL if point.phase == "save" else 128 + signal.SIGTERM):
        ending = "ended before that point" if ended.returncode in ENDED else "failed"
        return "-", [f"the run to interrupt {ending}", *stderr_tail(ended, MAX_DIFFERENCES)]
    state = checkpoint.load_latest(folder / "checkpoints")[1]["state"]
    resumed = process("trainkit", "fit", f"--resume={folder}", *(f"--import={path}" for path in fit["imports"]))
    resumed_from = f"step {state['step']}"
    if resumed.returncode not in ENDED:
        return resumed_from, ["the resumed run failed", *stderr_tail(resumed, MAX_DIFFERENCES)]
    return resumed_from, compare(expected, Ended(folder, resumed.returncode), kinds)


def interrupted(
    fit: dict[str, list[str]], folder: Path, engine: str, point: Mapping[str, Any]
) -> subprocess.CompletedProcess[str]:
    """Run a fit in a new process, which sends itself a signal at `point`."""
    return process(interrupt.__name__, json.dumps({**fit, **point, "engine": engine, "run_dir": str(folder)}))


def process(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module words` with this copy of trainkit."""
    root, env = Path(__file__).parents[3], dict(os.environ)
    if "site-packages" not in root.parts:  # a checkout, which the new process may not find
        env["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [env.get("PYTHONPATH")])])
    return subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, errors="replace", env=env)


def stderr_tail(done: subprocess.CompletedProcess[str], n: int) -> list[str]:
    """Return the last n lines of stderr, or the exit code if there are none."""
    return [line.removeprefix("error: ") for line in done.stderr.splitlines()[-n:]] or [f"exit code {done.returncode}"]


# -- points ----------------------------------------------------------------------------------------------------------------


def points(run: Ended, n: int, seed: int) -> list[Point]:
    """Return n random steps before the last, and a validation, a save and an epoch's end if the run has them.

    Equal runs and seeds give equal points.
    """
    draw = random.Random(stream(seed, "verify-resume"))
    total, data = run.summary["step"], run.last["data"]
    epoch = -(-data["train"] // data["batch"])  # its steps
    inside = range(1, max(total, 2))
    chosen = [Point("step", s) for s in sorted(draw.sample(inside, min(n, len(inside))))]
    if validated := validations(run):
        chosen.append(Point("validation", draw.choice(validated)))
    if total > 1:
        step = draw.randrange(2, total + 1)
        chosen.append(Point("save", step, draw.randrange(1, step)))
    if ends := list(range(epoch, total, epoch)) or list(range(epoch, total + 1, epoch)):
        chosen.append(Point("epoch", draw.choice(ends)))
    return chosen or [Point("step", 1)]


def validations(run: Ended) -> list[int]:
    """Return the steps at which the run validated, from its metrics.csv or its scalars."""
    rows = {int(row["step"]) for row in run.rows if row.get("val/loss")}
    return sorted(rows or {step for step, _ in run.scalars.get("val/loss", [])})


# -- comparison ------------------------------------------------------------------------------------------------------------


def compare(a: Ended, b: Ended, kinds: dict[str, str]) -> list[str]:
    """Return what differs between two runs, one per line: the first step with other records, then files, the largest first."""
    first = sorted(filter(None, [first_row(a.rows, b.rows), first_scalar(a.scalars, b.scalars)]))
    lines = [f"differs from step {step} on: {words}" for step, words in first]
    found = [("exit code", f"{a.code} and {b.code}")] if a.code != b.code else []
    found += [(path, "only in one of the two runs") for path in sorted(a.files.keys() ^ b.files.keys())]
    for path in sorted(a.files.keys() & b.files.keys(), key=lambda path: Path(path).name not in (FINAL, LAST)):
        of_file = by_size(differences(compared(a.files[path], kinds), compared(b.files[path], kinds)))
        found += [(f"{Path(path).name} {gap.place}", gap.words) for gap in of_file]
    found += [
        (f"summary.json {gap.place}", gap.words) for gap in differences(compared(a.summary, kinds), compared(b.summary, kinds))
    ]
    model_first = sorted(found, key=lambda pair: " model." not in pair[0])
    if model_first and not lines:
        lines.append("differs at the end")
    return lines[:1] + [f"{place}: {words}" for place, words in model_first] + lines[1:]


def compared(value: Any, kinds: dict[str, str], *place: str) -> Any:
    """Return `value` without what IGNORED names. A place is a tuple of keys, since a callback's name may contain a dot."""
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        here = (*place, key)
        by_kind = (*here[:1], f"<{kinds.get(here[1])}>", *here[2:]) if len(here) > 1 else here
        if here not in IGNORED and by_kind not in IGNORED:
            kept[key] = compared(inner, kinds, *here)
    return kept


def callback_kinds(config: dict[str, Any]) -> dict[str, str]:
    """Return the class, Timer or Checkpoint, of these callbacks by their names in the configuration."""
    callbacks = config.get("callbacks")
    entries = callbacks.items() if isinstance(callbacks, dict) else ()
    kinds = {name: registry.callback_entry(name, value)[0] for name, value in entries if value is not None}
    return {name: kind for name, kind in kinds.items() if kind in ("Timer", "Checkpoint")}


def first_row(a: list[dict[str, str]], b: list[dict[str, str]]) -> tuple[int, str] | None:
    """Return the first row of metrics.csv that differs: its step, and how it differs."""
    for x, y in zip(a, b, strict=False):
        for column in dict.fromkeys([*x, *y]):
            if x.get(column) != y.get(column):
                return int(x["step"]), f"metrics.csv has {column} {x.get(column)} and {y.get(column)}"
    if len(a) != len(b):
        return int(max(a, b, key=len)[min(len(a), len(b))]["step"]), f"metrics.csv has {len(a)} and {len(b)} rows"
    return None


def first_scalar(a: dict[str, list[tuple[int, float]]], b: dict[str, list[tuple[int, float]]]) -> tuple[int, str] | None:
    """Return the first scalar of TensorBoard that differs: its step, and how it differs."""
    found = []
    for tag in dict.fromkeys([*a, *b]):
        x, y = a.get(tag, []), b.get(tag, [])
        pair = next((p for p in zip(x, y, strict=False) if p[0][0] != p[1][0] or not same(p[0][1], p[1][1])), None)
        if pair is not None:
            (s, v), (r, w) = pair
            words = f"{v:.9g} and {w:.9g}" if s == r else f"points at steps {s} and {r}"
            found.append((min(s, r), f"TensorBoard has {tag} {words}"))
        elif len(x) != len(y):
            found.append((max(x, y, key=len)[min(len(x), len(y))][0], f"TensorBoard has {len(x)} and {len(y)} points of {tag}"))
    return min(found, default=None)
