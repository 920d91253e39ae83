"""A folder that cannot be written: from the beginning, between two runs, and from a step on."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trainkit.app.cli.main import main

from .crash import after
from .full import mount
from .load import prepare
from .moments import at
from .tally import Tally, ended, fork, inside, shot

EXPECTED = (
    "exit 2, no traceback, one line or two that name the folder and the cause; the earlier checkpoints are unchanged; once the"
    " folder is writable again, the run resumes to the bits of an uninterrupted one"
)
COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {  # on a file system that cannot be written, with the run `disk/run`
    "a new run": (("fit", "conf.yaml", "--run-dir", "disk/new"), 2),
    "a new run, deep": (("fit", "conf.yaml", "--run-dir", "disk/a/b/c"), 2),
    "resume": (("fit", "--resume", "disk/run"), 2),
    "resume a checkpoint": (("fit", "--resume", "disk/run/checkpoints/last.pt"), 2),
    "resume elsewhere": (("fit", "--resume", "disk/run", "--run-dir", "elsewhere"), 0),
    "predict": (("predict", "disk/run"), 2),
    "predict elsewhere": (("predict", "disk/run", "--out", "answers.csv"), 0),
    "validate": (("validate", "disk/run"), 0),
    "test": (("test", "disk/run"), 0),
    "compare": (("compare", "conf.yaml", "--out", "disk/compared"), 2),
    "checkpoint show": (("checkpoint", "show", "disk/run/checkpoints/last.pt"), 0),
    "checkpoint verify": (("checkpoint", "verify", "disk/run/checkpoints/last.pt"), 0),
}


def mounted(folder: Path) -> list[Tally]:
    """Run each of COMMANDS on a file system that is mounted read-only after half a run."""
    tally = Tally(
        "a file system that is mounted read-only: fit, resume, predict, compare, and the commands that only read", EXPECTED
    )
    with inside(folder):
        Path("disk").mkdir(exist_ok=True)
        if not mount("size=8m"):
            tally.case += ": skipped, mounting is not allowed here"
            return [tally]
        try:
            prepare()
            half = shot("fit", "conf.yaml", "--run-dir", "disk/run", "trainer.max_epochs=2")
            assert half.code == 0, half.err
            subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
            before = held("disk")
            for name, (words, code) in COMMANDS.items():
                seen = shot(*words)
                wrong = seen.wrong(code)
                if not wrong and code == 2 and ("disk" not in seen.err or "ead-only" not in seen.err):
                    wrong = f"does not name place and cause: {seen.err}"
                tally.count(f"{name}: {wrong}" if wrong else f"{name}: files differ" if held("disk") != before else None)
            subprocess.run(["mount", "-o", "remount,rw", "disk"], check=True)
            shutil.copytree("disk/run", "run")
            shutil.copy("conf.yaml", "run/config.yaml")  # all four epochs
            tally.count(after("written again", None))
        finally:
            subprocess.run(["umount", "disk"], check=True)
    return [tally]


def held(folder: str) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@contextmanager
def frozen(there: Path) -> Iterator[None]:
    """Let every write below `there` fail with EROFS."""
    opened, moved, removed, written = os.open, os.replace, os.unlink, builtins.open

    def check(path: Any) -> None:
        if not isinstance(path, int) and Path(os.fspath(path)).absolute().is_relative_to(there):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    def os_open(path: Any, flags: int, *rest: Any, **kw: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            check(path)
        return opened(path, flags, *rest, **kw)

    def replace(a: Any, b: Any) -> None:
        check(b)
        moved(a, b)

    def unlink(path: Any, **kw: Any) -> None:
        check(path)
        removed(path, **kw)

    def py_open(file: Any, mode: str = "r", *rest: Any, **kw: Any) -> Any:
        if set(mode) & set("wax+"):
            check(file)
        return written(file, mode, *rest, **kw)

    with (
        patch.object(os, "open", os_open),
        patch.object(os, "replace", replace),
        patch.object(os, "unlink", unlink),
        patch.object(builtins, "open", py_open),
    ):
        yield


MOMENTS = [*(("between steps", n) for n in range(1, 13)), *(("a save", n) for n in range(1, 16, 2))]
MOMENTS += [("setup", 1), ("an epoch's end", 2), ("the final evaluation", 1), ("the summary", 1)]


def midway(folder: Path, every: int = 1) -> list[Tally]:
    """Make the run's folder read-only at each of MOMENTS."""
    tally = Tally("the run's folder becomes read-only at a step, a save, an epoch's end, the summary", EXPECTED)
    with inside(folder):
        prepare()
        for place, n in MOMENTS[::every]:
            shutil.rmtree("run", ignore_errors=True)

            def act(place: str = place, n: int = n) -> int:
                lock = frozen(Path("run").absolute())
                with at(place, n, lock.__enter__):
                    return main(["fit", "conf.yaml", "--run-dir", "run"])

            end = ended(fork(act, Path("log")), Path("log"))
            wrong = end.wrong(2)
            if not wrong and ("run" not in end.err or "ead-only" not in end.err):
                wrong = f"does not name place and cause: {end.err[-300:]}"
            tally.count(f"{place} {n}: {wrong}" if wrong else after(f"{place} {n}", None))
    return [tally]
