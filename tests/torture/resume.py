"""`verify-resume` on typical configurations, eager and native; and a similar test of Lightning."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from shutil import rmtree
from threading import Lock
from unittest.mock import patch

from trainkit.app.config.files import compose, resolve
from trainkit.app.verify_resume import verify
from trainkit.core.errors import UserError

from .tally import Tally, inside

ROOT = Path(__file__).parents[2]
EXPECTED = "each point is an interruption in one process and `fit --resume` in another; no bit of the run's files differs"
SAMPLES = "tests/torture/samples.yaml"
FASHION, CANCER = "conf/fashion_mnist.yaml", "conf/breast_cancer.yaml"
DATA = {
    FASHION: ("root", ".data/fashion_mnist"),
    CANCER: ("path", ".data/breast_cancer.csv"),
}  # the key, and the path that make creates
CONFIGS: dict[str, tuple[list[str], str]] = {  # overrides, and their description
    "conf/mlp.yaml": ([], ""),
    FASHION: (["trainer.max_epochs=2"], " of 2 epochs"),
    CANCER: ([], " (batches of 3,600 bytes)"),
    "tests/torture/resume.yaml": ([], " (Dropout, Adam, ReduceLROnPlateau, accumulation, replicas)"),
    SAMPLES: ([], " (a map-style dataset, two workers, augmentation)"),
}
IMPORTS = {SAMPLES: ["tests/torture/changing_samples.py"]}
NEVER_NATIVE = (SAMPLES,)
ENGINES = ("eager", "native")
STEPS = 5  # random ones, besides a validation, a save and an epoch's end


PHASES = {
    "step": "at {} random steps",
    "validation": "in a validation",
    "save": "killed in a save",
    "epoch": "at an epoch's end",
}


def trials(
    folder: Path,
    configs: Collection[str] = tuple(CONFIGS),
    engines: Collection[str] = ENGINES,
    steps: int = STEPS,
    phases: Collection[str] = tuple(PHASES),
) -> list[Tally]:
    """Return a row per configuration and engine: an uninterrupted run, and runs interrupted at each kind of point."""
    with inside(folder), forks() as process, patch.object(verify, "process", process), ThreadPoolExecutor(2) as pool:
        keys = [
            (name, engine)
            for engine in reversed(ENGINES)
            for name in configs
            if engine in engines and not (engine == "native" and name in NEVER_NATIVE)
        ]
        whole = {(name, engine): pool.submit(Whole, name, engine, steps, phases) for name, engine in keys}
        runs = {key: run.result() for key, run in whole.items()}
        tried = {key: [pool.submit(run.trial, i) for i in range(len(run.points))] for key, run in runs.items()}
        for key, results in tried.items():
            for result in results:
                runs[key].tally.count(result.result())
    return [runs[name, engine].tally for name in configs for engine in ENGINES if (name, engine) in runs]


class Whole:
    """An uninterrupted run and the points at which to interrupt others. If it is skipped, the tally's case gives the reason."""

    def __init__(self, name: str, engine: str, steps: int, phases: Collection[str]) -> None:
        overrides, words = CONFIGS[name]
        self.tally = Tally(f"{name}{words}, {engine}", EXPECTED)
        self.points: list[verify.Point] = []
        self.folder = Path.cwd() / f"{Path(name).stem}-{engine}"
        overrides = [*overrides, f"trainer.engine={engine}", "callbacks.progress_bar=null"]
        if name in DATA:
            key, data = DATA[name]
            overrides.append(f"data.{key}={ROOT / data}")
            if not (ROOT / data).exists():
                self.tally.case += f": skipped, {data} is not there (see the Makefile)"
                return
        self.fit = {
            "paths": [str(ROOT / name)],
            "overrides": overrides,
            "imports": [str(ROOT / path) for path in IMPORTS.get(name, ())],
        }
        config = resolve(compose([ROOT / name], overrides))
        self.kinds = verify.callback_kinds(config)
        try:
            self.run = verify.uninterrupted(self.fit, self.folder / "whole")
        except UserError as error:
            self.tally.count(str(error))
            return
        if self.run.engine != engine:
            self.tally.case += (
                ": skipped, it has no native steps here; `trainkit fit` with trainer.engine=native prints the reason"
            )
            return
        self.points = [p for p in verify.points(self.run, steps, config.get("seed", 0)) if p.phase in phases]
        there = [p.phase for p in self.points]
        self.tally.case += f": interrupted {', '.join(PHASES[p].format(there.count(p)) for p in dict.fromkeys(there))}"

    def trial(self, i: int) -> str | None:
        """Return what differs at point number i."""
        own = self.folder / f"point{i + 1}"
        resumed_from, found = verify.trial(self.points[i], self.fit, own, self.run, self.kinds)
        if not found:
            rmtree(own, ignore_errors=True)
        return f"{self.points[i]}, resumed from {resumed_from}: {'; '.join(found[:3])}" if found else None


# -- processes -------------------------------------------------------------------------------------------------------------

LOADED = ["trainkit.app.verify_resume.verify", "trainkit.trainer.trainer", "trainkit.callbacks.tensorboard"]
Process = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def forks() -> Iterator[Process]:
    """Run `verify.process` in a fork of an idle process that has loaded its modules, which saves most of a start.

    Each has one thread, since two run at a time.
    """
    context, numbers, lock = get_context("forkserver"), count(), Lock()
    context.set_forkserver_preload(LOADED)

    def process(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        log = Path(f"log{next(numbers)}").resolve()
        child = context.Process(target=act, args=(module, words, str(log)))
        with lock:  # a start waits for all children, and only one call may receive an exit code
            child.start()
        wait([child.sentinel])
        with lock:
            child.join()
        assert child.exitcode is not None
        return subprocess.CompletedProcess(words, child.exitcode, "", log.read_text(errors="replace"))

    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}):
        yield process


def act(module: str, words: Sequence[str], log: str) -> None:
    """Run `python -m module words`, with its stderr in a file."""
    for handle, name in ((1, os.devnull), (2, log)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644), handle)
    sys.exit(import_module("trainkit.app.cli.main" if module == "trainkit" else module).main(list(words)))


# -- Lightning -------------------------------------------------------------------------------------------------------------


def beside(folder: Path, seed: int = 0) -> list[Tally]:
    """Run the test of benchmarks/resume.py at more points. Return a row for trainkit, and Lightning's result as a note."""
    if find_spec("lightning") is None:
        return [Tally("The comparison with Lightning: skipped, lightning is not installed (extra bench)", EXPECTED)]
    from resume import EACH, EPOCHS
    from resume import trial as both

    draw = random.Random(seed)
    ends = [EACH * epoch for epoch in range(1, EPOCHS)]
    steps = sorted(draw.sample([s for s in range(1, EACH * EPOCHS) if s % EACH], STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved, again, resumed = both(folder, [*steps, *ends])
    stops = f"{STEPS} steps inside an epoch and {len(ends)} epochs' ends"
    ours = Tally(f"the net of benchmarks/resume.py, from Python: resumed at {stops}", EXPECTED_IN_PYTHON)
    for step, (_, gap) in resumed.items():
        ours.count(f"step {step}: a parameter differs by {gap:.2g}" if gap or again[1] else None)
    apart = {step: theirs for step, (theirs, _) in resumed.items() if theirs}
    words = f"Lightning {version('lightning')}, which does not promise this, at the same points of the same task"
    words += f" (`fit(ckpt_path=...)`, a new trainer, torch's DataLoader): {len(apart)} of {len(resumed)} runs ended with other"
    words += " parameters"
    if apart:
        words += f", the largest difference of each {min(apart.values()):.2g} to {max(apart.values()):.2g}"
        words += f" where training changes a parameter by up to {moved[0]:.2g}"
    words += "; two runs that were not interrupted are " + ("equal" if not again[0] else f"different by {again[0]:.2g}")
    return [ours, Tally(words, EXPECTED_IN_PYTHON)]


EXPECTED_IN_PYTHON = "from Python the parameters are compared"
