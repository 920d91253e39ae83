"""The time before the steps: complete processes, and the first step of each contender. `python benchmarks/start.py`"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

from contest import KERAS, Contender, alone, environment, installed, missing, options, ratio, show, spread
from page import ROOT
from step import TASK
from task import load

FIT = ("-m", "trainkit", "fit", "conf/mlp.yaml", "callbacks.early_stopping=null")
LIGHTNING = "from contest import Contender; from step import TASK; Contender('', 'lightning:full')(TASK, 100)"
ONE_BATCH = replace(TASK, samples=TASK.batch)

Process = tuple[str, str, tuple[str, ...], dict[str, str]]  # name, package, arguments of Python, environment


def importing(package: str, words: str = "", env: dict[str, str] | None = None, after: str = "") -> Process:
    words = words or f"import {package}"
    return f'python -c "{words}"{after}', package, ("-c", words), env or {}


PROCESSES: tuple[Process, ...] = (
    importing("torch"),
    importing("trainkit"),
    importing("trainkit", "from trainkit import Trainer"),
    importing("jax"),
    importing("skorch"),
    importing("keras", env=KERAS["torch"], after=", on torch"),
    importing("keras", env=KERAS["jax"], after=", on JAX"),
    importing("lightning"),
    ("python -m trainkit --help", "trainkit", ("-m", "trainkit", "--help"), {}),
    ("trainkit fit conf/mlp.yaml, no step", "trainkit", (*FIT, "trainer.max_epochs=0"), {}),
    ("trainkit fit conf/mlp.yaml, 1800 steps", "trainkit", FIT, {}),
    ("Lightning, the same net and 1800 steps", "lightning", ("-c", LIGHTNING), {}),
)
CONTENDERS = (
    Contender("bare PyTorch loop (autograd, optim.SGD)", "loops:bare"),
    Contender("trainkit, no callbacks", "ours:fit"),
    Contender("the bare loop with torch.compile on the model", "loops:compiled"),
    Contender("Lightning {}, bare", "lightning:bare", "lightning"),
    Contender("Keras {} on torch, bare", "keras:bare", "keras", env=KERAS["torch"]),
    Contender("JAX {}: jit of a step", "jax:step", "jax"),
)


def seconds(arguments: tuple[str, ...], env: dict[str, str]) -> float:
    """Return the seconds of a Python process, run from the top of the repository with one thread."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    with tempfile.TemporaryDirectory() as folder:
        if "fit" in arguments:
            arguments = (*arguments, "--run-dir", f"{folder}/run")
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **env},
        )
        return time.perf_counter() - began


def first_step(c: Contender) -> float:
    """Return the seconds from imported packages and loaded data to the first trained batch."""
    load(ONE_BATCH)
    began = time.perf_counter()
    c(ONE_BATCH, 1)
    return time.perf_counter() - began


def main() -> None:
    rounds, page = options(__doc__, rounds=3)
    every = [p for p in PROCESSES if not missing(p[1], p[0])]
    chosen = installed(CONTENDERS)
    processes: list[list[float]] = [[] for _ in every]
    steps: list[list[float]] = [[] for _ in chosen]
    for _ in range(rounds):
        for (_, _, arguments, env), times in zip(every, processes, strict=True):
            times.append(seconds(arguments, env))
        for c, times in zip(chosen.values(), steps, strict=True):
            times.append(1e3 * alone(c, 1, first_step))
    header = ("process", "seconds, median (min to max)", "ratio to importing torch")
    rows = [[p[0], spread(t, 2), ratio(t, processes[0])] for p, t in zip(every, processes, strict=True)]
    show("start", header, rows, f"{rounds} rounds in turn. {environment(1)}", page)
    header = ("contender", "ms to the first step, median (min to max)", "ratio to the bare loop")
    rows = [[name, spread(t), ratio(t, steps[0])] for name, t in zip(chosen, steps, strict=True)]
    note = (
        "The time to build the net and train one batch, in a new process with the packages imported and the data loaded."
        " torch.optim imports torch's compiler when first used; Lightning and Keras import it earlier. Compilers that keep a"
        f" cache reuse that of an earlier process. {rounds} rounds. {environment(1)}"
    )
    show("first", header, rows, note, page)


if __name__ == "__main__":
    main()
