"""Does a resumed run end with the bits of the uninterrupted one? Tried on a configuration, in processes of their own.

One run is left alone. Others are interrupted, each at a point of its own (see `interrupt.py`), and resumed by
`trainkit fit --resume` in a new process; then the folders are compared. On a difference the uninterrupted run is made once
more, to tell a resume that is not exact from a run that never repeats. A run that `terminate_on_nan` ends (exit code 3) is a
run too: the resumed one must end so, with the same files.
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
from trainkit.app.config.files import compose, resolve
from trainkit.app.experiment import NOT_FINITE
from trainkit.core.diff import by_size, differences, same
from trainkit.core.errors import UserError
from trainkit.core.rng import stream
from trainkit.core.terminal import print_stdout
from trainkit.trainer.environment import engine_of

from . import interrupt

if TYPE_CHECKING:
    import argparse

MAX_DIFFERENCES = 4  # differences told of a run
ENDED = (0, NOT_FINITE)  # exit codes of a run that came to its own end

# What is not compared, and why, by its place in a checkpoint or in summary.json. <Timer> is every callback of that class.
IGNORED = {
    ("environment",): "versions, threads and device; `fit --resume` tells where they differ",
    ("callbacks", interrupt.NAME): "this trial's own instrument, in files that the interrupted run wrote",
    ("callbacks", "<Timer>", "elapsed"): "the clock",
    ("callbacks", "<Checkpoint>", "gone"): "files to delete at the next save; when it saves may depend on the clock",
    ("wall_s",): "the clock, in summary.json",
    ("versions",): "the environment, in summary.json",
}  # and of TensorBoard everything but the scalars' tags, steps and values: the times of events, the names and number of files


@dataclass(frozen=True)
class Point:
    """Where to interrupt: at `step`, in a phase of `interrupt.PHASES`; a save has another before it, after the step `saved`."""

    phase: str
    step: int
    saved: int = 0

    def __str__(self) -> str:
        words = {"step": "", "validation": ", in a validation", "save": ", killed in a save", "epoch": ", at an epoch's end"}
        return f"step {self.step}{words[self.phase]}"


def verify_resume(args: argparse.Namespace) -> int:
    """Print a row for each point and a sentence. 0 if every resumed run ends alike, however the run itself does; else 1."""
    if not args.paths:
        raise UserError("verify-resume: no CONF; name a YAML file, verify-resume conf/mlp.yaml trainer.max_epochs=5")
    n = args.points
    if n < 0:
        raise UserError(f"--points: {n}; needs at least 0")
    config = resolve(compose(args.paths, args.overrides))
    kinds = callback_kinds(config)
    if "Checkpoint" not in kinds.values():
        raise UserError(
            "verify-resume: there is nothing to resume from without callbacks.checkpoint; add callbacks.checkpoint={}"
        )
    fit = {
        "paths": [str(path) for path in args.paths],
        "overrides": args.overrides,
        "imports": [str(path) for path in args.imports],
    }
    with scratch(args.keep) as folder:
        whole = uninterrupted(fit, folder / "whole")
        chosen = points(whole, n, config.get("seed", 0))
        epochs, steps, seconds = (whole.summary[k] for k in ("epoch", "step", "wall_s"))
        nan = f"ended by terminate_on_nan (exit code {NOT_FINITE}), " if whole.code == NOT_FINITE else ""
        took = f"{seconds:.1f} s and a start"
        print_stdout(f"uninterrupted: {steps} steps, {epochs} epochs, {nan}{took}; now {len(chosen)} times the same")
        width = max(len("interrupted"), *(len(str(p)) for p in chosen))
        print_stdout(f"{'interrupted':<{width}}  {'resumed from':<14}verdict")
        wrong = 0
        for i, point in enumerate(chosen):
            own = folder / f"point{i + 1}"
            resumed_from, verdict = trial(point, fit, own, whole, kinds)
            first, *rest = verdict or ["exact"]
            more = [f"and {len(rest) - MAX_DIFFERENCES} more"] if len(rest) > MAX_DIFFERENCES else []
            print_stdout(
                f"{point!s:<{width}}  {resumed_from:<14}{first}", *(f"  {line}" for line in rest[:MAX_DIFFERENCES] + more)
            )
            wrong += bool(verdict)
            if not args.keep:
                rmtree(own, ignore_errors=True)
        if not wrong:
            print_stdout(f"{len(chosen)} of {len(chosen)} resumed runs end with the bits of the uninterrupted one.")
            return 0
        again = compare(whole, uninterrupted(fit, folder / "again", whole.engine), kinds)
    if again:
        print_stdout(f"Two uninterrupted runs differ too, so this run never repeats, resumed or not: {'; '.join(again[:2])}.")
    else:
        print_stdout(
            f"{wrong} of {len(chosen)} resumed runs end otherwise, while two uninterrupted ones are equal: it is the resume."
        )
    return 1


@contextmanager
def scratch(keep: bool) -> Iterator[Path]:
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
    """What a run has left in its folder, and the exit code it ended with."""

    def __init__(self, folder: Path, code: int = 0) -> None:
        self.code = code
        self.summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        log = folder / "metrics.csv"
        self.rows = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines())) if log.exists() else []
        self.scalars = scalars(folder)
        files = [
            *checkpoint.list_checkpoints(folder / "checkpoints"),
            *checkpoint.list_checkpoints(folder),
        ]  # before_nan.pt stands beside them
        self.files = {path.relative_to(folder).as_posix(): checkpoint.load(path) for path in files}

    @property
    def last(self) -> dict[str, Any]:
        return self.files["checkpoints/last.pt"]

    @property
    def engine(self) -> str:
        """eager, compile or graph: `trainer.engine: auto` chooses by the clock, and would not choose alike each time."""
        return str(engine_of(self.last))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag to (step, value), as TensorBoard shows them: without what a resumed run has purged."""
    files = [path for path in folder.glob("events.out.tfevents.*") if stat.S_ISREG(path.lstat().st_mode)]
    if not files:
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TemporaryDirectory(prefix="trainkit-events-") as links:  # of files alone: TensorBoard would wait for a pipe
        for path in files:
            Path(links, path.name).symlink_to(path.absolute())
        events, said = EventAccumulator(links, size_guidance={"scalars": 0}), logging.getLogger("tensorboard")
        before = said.level
        said.setLevel(logging.ERROR)  # each purge is a warning
        try:
            events.Reload()
        finally:
            said.setLevel(before)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def uninterrupted(fit: dict[str, list[str]], folder: Path, engine: str | None = None) -> Ended:
    """The run left alone, with an engine that may be given."""
    if engine is None:
        imports = [f"--import={path}" for path in fit["imports"]]
        done = process("trainkit", "fit", *fit["paths"], *fit["overrides"], *imports, f"--run-dir={folder}")
    else:
        done = interrupted(fit, folder, engine, interrupt.NEVER)
    if done.returncode not in ENDED:
        raise UserError("the uninterrupted run failed\n" + "\n".join(stderr_tail(done, 10)))
    ended = Ended(folder, done.returncode)
    if ended.summary["stop_reason"] == "max_time":
        raise UserError("verify-resume: the clock ended the run (max_time), so no other ends alike; end it by steps or epochs")
    if not ended.summary["step"]:
        raise UserError("verify-resume: the run has no step, so nothing can be interrupted")
    return ended


def trial(point: Point, fit: dict[str, list[str]], folder: Path, whole: Ended, kinds: dict[str, str]) -> tuple[str, list[str]]:
    """Interrupt, resume, compare: what was resumed from, and what differs."""
    ended = interrupted(fit, folder, whole.engine, vars(point))
    if ended.returncode != (-signal.SIGKILL if point.phase == "save" else 128 + signal.SIGTERM):
        ending = "ended before that point" if ended.returncode in ENDED else "failed"
        return "-", [f"the run that was to be interrupted {ending}", *stderr_tail(ended, MAX_DIFFERENCES)]
    state = checkpoint.load_latest(folder / "checkpoints")[1]["state"]
    resumed = process("trainkit", "fit", f"--resume={folder}", *(f"--import={path}" for path in fit["imports"]))
    resumed_from = f"step {state['step']}"
    if resumed.returncode not in ENDED:
        return resumed_from, ["the resumed run failed", *stderr_tail(resumed, MAX_DIFFERENCES)]
    return resumed_from, compare(whole, Ended(folder, resumed.returncode), kinds)


def interrupted(
    fit: dict[str, list[str]], folder: Path, engine: str, point: Mapping[str, Any]
) -> subprocess.CompletedProcess[str]:
    """A fit in a process of its own that is sent a signal at `point`."""
    return process(interrupt.__name__, json.dumps({**fit, **point, "engine": engine, "run_dir": str(folder)}))


def process(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m module words`, with this very trainkit."""
    root, env = Path(__file__).parents[3], dict(os.environ)
    if "site-packages" not in root.parts:  # a checkout, which the child might not find
        env["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [env.get("PYTHONPATH")])])
    return subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, errors="replace", env=env)


def stderr_tail(done: subprocess.CompletedProcess[str], n: int) -> list[str]:
    return [line.removeprefix("error: ") for line in done.stderr.splitlines()[-n:]] or [f"exit code {done.returncode}"]


# -- points ----------------------------------------------------------------------------------------------------------------


def points(whole: Ended, n: int, seed: int) -> list[Point]:
    """n random steps before the last; a validation, a save and an epoch's end where the run has them. A function of the run."""
    draw = random.Random(stream(seed, "verify-resume"))
    total, data = whole.summary["step"], whole.last["data"]
    each = -(-data["train"] // data["batch"])
    inside = range(1, max(total, 2))
    chosen = [Point("step", s) for s in sorted(draw.sample(inside, min(n, len(inside))))]
    if validated := validations(whole):
        chosen.append(Point("validation", draw.choice(validated)))
    if total > 1:
        step = draw.randrange(2, total + 1)
        chosen.append(Point("save", step, draw.randrange(1, step)))
    if ends := list(range(each, total, each)) or list(range(each, total + 1, each)):
        chosen.append(Point("epoch", draw.choice(ends)))
    return chosen or [Point("step", 1)]


def validations(whole: Ended) -> list[int]:
    """The steps at which the run validated, by its records."""
    rows = {int(row["step"]) for row in whole.rows if row.get("val/loss")}
    return sorted(rows or {step for step, _ in whole.scalars.get("val/loss", [])})


# -- comparison ------------------------------------------------------------------------------------------------------------


def compare(a: Ended, b: Ended, kinds: dict[str, str]) -> list[str]:
    """What differs between two runs, a line each: the first step whose records do, then the files, the largest first."""
    first = sorted(filter(None, [first_row(a.rows, b.rows), first_scalar(a.scalars, b.scalars)]))
    lines = [f"differs from step {step} on: {words}" for step, words in first]
    found = [("exit code", f"{a.code} and {b.code}")] if a.code != b.code else []
    found += [(path, "only in one of the two runs") for path in sorted(a.files.keys() ^ b.files.keys())]
    for path in sorted(a.files.keys() & b.files.keys(), key=lambda path: Path(path).name not in ("final.pt", "last.pt")):
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
    """`value` without what LEFT_OUT names. A place is a tuple of keys, since a callback's name may contain a dot."""
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
    """The class of each callback that is left out in part or needed, by its name in the configuration."""
    classes = {"timer": "Timer", "checkpoint": "Checkpoint"}
    found = {}
    callbacks = config.get("callbacks")
    for name, arguments in callbacks.items() if isinstance(callbacks, dict) else ():
        if arguments is None:
            continue
        key = name if name in classes or not isinstance(arguments, dict) else next(iter(arguments), "")
        key = classes.get(key, key)
        if key in classes.values():
            found[name] = key
    return found


def first_row(a: list[dict[str, str]], b: list[dict[str, str]]) -> tuple[int, str] | None:
    """The first row of metrics.csv that differs: its step, and how."""
    for x, y in zip(a, b, strict=False):
        for column in dict.fromkeys([*x, *y]):
            if x.get(column) != y.get(column):
                return int(x["step"]), f"metrics.csv has {column} {x.get(column)} and {y.get(column)}"
    if len(a) != len(b):
        return int(max(a, b, key=len)[min(len(a), len(b))]["step"]), f"metrics.csv has {len(a)} and {len(b)} rows"
    return None


def first_scalar(a: dict[str, list[tuple[int, float]]], b: dict[str, list[tuple[int, float]]]) -> tuple[int, str] | None:
    """The first scalar of TensorBoard that differs: its step, and how."""
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
