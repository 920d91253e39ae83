"""Each system call on a run's files fails in turn, or is the last before a kill: open, write, fsync, rename, unlink."""

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
    """Counts the calls, and lets call number `at` fail. `done` lists the finished checkpoints: call, name, step."""

    def __init__(self, at: int = 0, mode: str = "") -> None:
        self.at, self.mode, self.n = at, mode, 0
        self.done: list[tuple[int, str, int]] = []

    def count(self, half: Callable[[], object] = lambda: None) -> None:
        """Count a call. If it fails, `half` is called first, which does a part of it."""
        self.n += 1
        if self.at and (self.n == self.at or (self.n > self.at and self.mode == "EIO from then on")):
            half()
            if self.mode == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            number = errno.ENOSPC if self.mode == "ENOSPC once" else errno.EIO
            raise OSError(number, os.strerror(number))


class CountedFile:
    """A file whose writes are counted. A write that fails has written half of its data."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self.file, self.calls = file, calls

    def __enter__(self) -> CountedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.calls.count(lambda: os.write(self.file.fileno(), data[: len(data) // 2]))
        self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def sabotaged(calls: Calls) -> Iterator[None]:
    """Patch the functions of os so that `calls` counts them."""
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "unlink", "fdopen")}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kw: Any) -> Any:
            calls.count()
            step = None
            if name == "replace" and not calls.at and str(args[1]).endswith(".pt"):
                step = checkpoint.load(Path(args[0]))["state"]["step"]
            result = real[name](*args, **kw)
            if step is not None:
                calls.done.append((calls.n, Path(args[1]).name, step))
            return result

        return call

    def fdopen(*args: Any, **kw: Any) -> CountedFile:
        return CountedFile(real["fdopen"](*args, **kw), calls)

    with (
        patch.object(os, "open", counted("open")),
        patch.object(os, "fsync", counted("fsync")),
        patch.object(os, "replace", counted("replace")),
        patch.object(os, "unlink", counted("unlink")),
        patch.object(os, "fdopen", fdopen),
    ):
        yield


def sweep(folder: Path, every: int = 1, modes: tuple[str, ...] = MODES) -> list[Tally]:
    """Let every `every`-th call of a run fail, in each mode."""
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
    assert whole.code == 0, whole.err
    for n in range(1, dry.n + 1, every):
        shutil.rmtree("run", ignore_errors=True)
        there = [(name, step) for at, name, step in dry.done if at < n]
        completed = [step for name, step in there if name == "last.pt"] or [step for _, step in there]
        tally.count(_one(n, mode, max(completed, default=None)))
    return tally


KEPT = (
    "the error names file and cause; every checkpoint is complete; the newest one is the last completed save; the resumed run"
    " ends with the bits and files of an uninterrupted one; no temporary file remains"
)


def _one(n: int, mode: str, step: int | None) -> str | None:
    calls = Calls(n, mode)

    def act() -> int:
        with sabotaged(calls):
            return main(["fit", "conf.yaml", "--run-dir", "run"])

    if mode == "SIGKILL":
        end = ended(fork(act, Path("log")), Path("log"))
        if end.code != -signal.SIGKILL:
            return f"call {n}: was not killed: {end.code} {end.err[-200:]}"
    else:
        with sabotaged(calls):
            end = shot("fit", "conf.yaml", "--run-dir", "run")
        if wrong := end.wrong(2):
            return f"call {n}: {wrong}"
        name = "ENOSPC" if mode == "ENOSPC once" else "EIO"
        if "run" not in end.err or (name not in end.err and os.strerror(getattr(errno, name)) not in end.err):
            return f"call {n}: the error names no path and cause: {end.err}"
    return after(f"call {n}", step)


def after(where: str, step: int | None) -> str | None:
    """Return what is wrong with `run` after a failure and a resume, or None. `step` is the last one that was saved."""
    files = checkpoint.list_checkpoints(Path("run/checkpoints"))
    for file in files:
        try:
            checkpoint.load(file)
        except UserError as error:
            return f"{where}: unreadable: {error}"
    if files:
        newest = checkpoint.load_latest(Path("run/checkpoints"))[1]["state"]["step"]
        if step is not None and newest != step:
            return f"{where}: the newest checkpoint is of step {newest}, the last save was of step {step}"
        again = shot("fit", "--resume", "run")
    elif step is not None:
        return f"{where}: no checkpoint, the last save was of step {step}"
    else:
        again = shot("fit", "conf.yaml", "--run-dir", "run")
    if wrong := again.wrong(0):
        return f"{where}: resume: {wrong}"
    if digest("run") != digest("whole"):
        return f"{where}: the resumed run ends with other bits"
    if stale := [str(p) for p in Path("run").rglob(f"{TEMPORARY}*")]:
        return f"{where}: temporary files remain: {stale}"
    mine, theirs = checkpoints_of("run"), checkpoints_of("whole")
    return None if mine == theirs else f"{where}: the checkpoints are {mine}, of the uninterrupted run {theirs}"


def checkpoints_of(run: str) -> dict[str, tuple[int, str]]:
    """Return step and parameter hash of each checkpoint of a run."""
    contents = {p.name: checkpoint.load(p) for p in checkpoint.list_checkpoints(Path(run, "checkpoints"))}
    return {name: (c["state"]["step"], digest_of(c["model"].items())[:8]) for name, c in contents.items()}


def digest(run: str) -> Any:
    """Return the hash of a run's final parameters."""
    return json.loads(Path(run, "summary.json").read_text())["params_sha256"]
