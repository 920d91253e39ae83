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

from trainkit import checkpoint
from trainkit.cli import main
from trainkit.errors import UserError

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
  csv_log: {}
"""

MODES = ("ENOSPC once", "EIO from then on", "SIGKILL")


class Calls:
    """Counts the calls, and strikes at number `at`; `done` lists the checkpoints that were renamed into place, by call."""

    def __init__(self, at: int = 0, mode: str = "") -> None:
        self.at, self.mode, self.n = at, mode, 0
        self.done: list[tuple[int, int]] = []

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
                calls.done.append((calls.n, step))
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
        tally.count(_one(n, mode, [step for at, step in dry.done if at < n]))
    return tally


KEPT = (
    "the error names file and cause; every checkpoint is whole; the newest is of the last completed save; the resumed run ends"
    " with the bits of an undisturbed one; no temporary is left"
)


def _one(n: int, mode: str, done: list[int]) -> str | None:
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
    return after(f"call {n}", max(done, default=None))


def after(where: str, step: int | None) -> str | None:
    """What is wrong with `run` after a failure and its resume, `step` being the last that was saved; None where nothing is."""
    files = checkpoint.saved(Path("run/checkpoints"))
    for file in files:
        try:
            checkpoint.load(file)
        except UserError as error:
            return f"{where}: unreadable: {error}"
    if files:
        stands = checkpoint.newest(Path("run/checkpoints"))[1]["state"]["step"]
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
    if stale := [str(p) for p in Path("run").rglob(f"{checkpoint.TEMPORARY}*")]:
        return f"{where}: left over: {stale}"
    kept = [sorted(p.name for p in checkpoint.saved(Path(run, "checkpoints"))) for run in ("run", "whole")]
    return None if kept[0] == kept[1] else f"{where}: checkpoints {kept[0]}, undisturbed {kept[1]}"


def digest(run: str) -> Any:
    return json.loads(Path(run, "summary.json").read_text())["params_sha256"]
