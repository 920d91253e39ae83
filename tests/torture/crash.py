"""Each call that a run's files need fails, or is the last one before a kill: open, write, fsync, rename, unlink, one by one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trainkit.app.cli.main import main
from trainkit.checkpoint import file as checkpoint
from trainkit.checkpoint.digest import digest as digest_of
from trainkit.core.errors import UserError
from trainkit.core.files import TEMPORARY

from .tally import Tally, ended, fork, inside, shot

CONF = """\
data: {name: disk, train: 30, test: 10}
model: [{Linear: [2, 4]}, ReLU, {Dropout: 0.1}, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1, momentum: 0.9}}
trainer: {max_epochs: 3, batch_size: 10, log_every_n_steps: 1}
callbacks:
  validation_split: {every_n_steps: 1}
  early_stopping: {patience: 99, restore_best: true}
  checkpoint: {monitor: val/loss, save_top_k: 2, every_n_steps: 2}
  csv_logger: {}
"""

MODES = ("ENOSPC once", "EIO from then on", "SIGKILL")


class Calls:
    """Counts the calls, and strikes at number `at`; `done` lists the checkpoints that are in place: call, name, step."""

    def __init__(self, at: int = 0, mode: str = "") -> None:
        self.at, self.mode, self.n = at, mode, 0
        self.done: list[tuple[int, str, int]] = []

    def strike(self, half: Callable[[], object] = lambda: None) -> None:
        """One more call; `half` is what is done of it before it fails."""
        self.n += 1
        if self.at and (self.n == self.at or (self.n > self.at and self.mode == "EIO from then on")):
            half()
            if self.mode == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            number = errno.ENOSPC if self.mode == "ENOSPC once" else errno.EIO
            raise OSError(number, os.strerror(number))


class Struck:
    """A file whose writes count: one that fails has written half."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self.file, self.calls = file, calls

    def __enter__(self) -> Struck:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.calls.strike(lambda: os.write(self.file.fileno(), data[: len(data) // 2]))
        self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def sabotaged(calls: Calls) -> Iterator[None]:
    """os, with `calls` between."""
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "unlink", "fdopen")}

    def made(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kw: Any) -> Any:
            calls.strike()
            step = None
            if name == "replace" and not calls.at and str(args[1]).endswith(".pt"):
                step = checkpoint.load(Path(args[0]))["state"]["step"]
            result = real[name](*args, **kw)
            if step is not None:
                calls.done.append((calls.n, Path(args[1]).name, step))
            return result

        return call

    def fdopen(*args: Any, **kw: Any) -> Struck:
        return Struck(real["fdopen"](*args, **kw), calls)

    with (
        patch.object(os, "open", made("open")),
        patch.object(os, "fsync", made("fsync")),
        patch.object(os, "replace", made("replace")),
        patch.object(os, "unlink", made("unlink")),
        patch.object(os, "fdopen", fdopen),
    ):
        yield


def sweep(folder: Path, every: int = 1, modes: tuple[str, ...] = MODES) -> list[Tally]:
    """Every `every`-th call of a run, in each mode."""
    with inside(folder):
        return [_sweep(mode, every) for mode in modes]


def _sweep(mode: str, every: int) -> Tally:
    what = "killed (SIGKILL) at" if mode == "SIGKILL" else f"{mode} in"
    tally = Tally(f"{what} the n-th open, write, fsync, rename or unlink of a run, n = 1, 2, ...", KEPT)
    Path("conf.yaml").write_text(CONF)
    shutil.rmtree("whole", ignore_errors=True)
    dry = Calls()
    with sabotaged(dry):
        whole = shot("fit", "conf.yaml", "--run-dir", "whole")
    assert whole.code == 0, whole.said
    for n in range(1, dry.n + 1, every):
        shutil.rmtree("run", ignore_errors=True)
        there = [(name, step) for at, name, step in dry.done if at < n]
        completed = [step for name, step in there if name == "last.pt"] or [step for _, step in there]
        tally.count(_one(n, mode, max(completed, default=None)))
    return tally


KEPT = (
    "the error names file and cause; every checkpoint is whole; the run stands at the last completed save; the resumed one"
    " ends with the bits and the files of an undisturbed one; no temporary is left"
)


def _one(n: int, mode: str, step: int | None) -> str | None:
    calls = Calls(n, mode)

    def act() -> int:
        with sabotaged(calls):
            return main(["fit", "conf.yaml", "--run-dir", "run"])

    if mode == "SIGKILL":
        struck = ended(fork(act, Path("log")), Path("log"))
        if struck.code != -signal.SIGKILL:
            return f"call {n}: was not killed: {struck.code} {struck.said[-200:]}"
    else:
        with sabotaged(calls):
            struck = shot("fit", "conf.yaml", "--run-dir", "run")
        if wrong := struck.wrong(2):
            return f"call {n}: {wrong}"
        name = "ENOSPC" if mode == "ENOSPC once" else "EIO"
        if "run" not in struck.said or (name not in struck.said and os.strerror(getattr(errno, name)) not in struck.said):
            return f"call {n}: the error names no path and cause: {struck.said}"
    return after(f"call {n}", step)


def after(where: str, step: int | None) -> str | None:
    """What is wrong with `run` after a failure and its resume, `step` being the last that was saved; None where nothing is."""
    files = checkpoint.list_checkpoints(Path("run/checkpoints"))
    for file in files:
        try:
            checkpoint.load(file)
        except UserError as error:
            return f"{where}: unreadable: {error}"
    if files:
        stands = checkpoint.load_latest(Path("run/checkpoints"))[1]["state"]["step"]
        if step is not None and stands != step:
            return f"{where}: stands at step {stands}, the last save was of {step}"
        again = shot("fit", "--resume", "run")
    elif step is not None:
        return f"{where}: nothing is left, the last save was of step {step}"
    else:
        again = shot("fit", "conf.yaml", "--run-dir", "run")
    if wrong := again.wrong(0):
        return f"{where}: resume: {wrong}"
    if digest("run") != digest("whole"):
        return f"{where}: the resumed run ends otherwise"
    if stale := [str(p) for p in Path("run").rglob(f"{TEMPORARY}*")]:
        return f"{where}: left over: {stale}"
    mine, theirs = stand("run"), stand("whole")
    return None if mine == theirs else f"{where}: the checkpoints are {mine}, of the undisturbed run {theirs}"


def stand(run: str) -> dict[str, tuple[int, str]]:
    """What the checkpoints of a run hold: step and parameters."""
    contents = {p.name: checkpoint.load(p) for p in checkpoint.list_checkpoints(Path(run, "checkpoints"))}
    return {name: (c["state"]["step"], digest_of(c["model"].items())[:8]) for name, c in contents.items()}


def digest(run: str) -> Any:
    return json.loads(Path(run, "summary.json").read_text())["params_sha256"]
