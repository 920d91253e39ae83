"""A disk that fills up: a file size limit, a small file system, a device that is always full."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from trainkit.app.cli.main import main

from .crash import CONF, after
from .tally import Tally, ended, fork, inside, shot

HOLDS = (
    "exit 2; one line or two that name ENOSPC or EFBIG; the checkpoints that were there are whole; with room again the run"
    " resumes to the bits of an undisturbed one"
)
LOGS = CONF.replace("csv_logger: {}", "csv_logger: {}\n  tensorboard: {}").replace("max_epochs: 3", "max_epochs: 20")
LIMITED = CONF.replace("csv_logger: {}", "csv_logger: {}\n  tensorboard: {}")


def limits(folder: Path, n: int, seed: int = 0) -> list[Tally]:
    """RLIMIT_FSIZE at n sizes, from 1,000 bytes (the words go into a file too) to the largest file."""
    tally = Tally("a limit to the size of files (RLIMIT_FSIZE)", HOLDS)
    with inside(folder):
        prepare(LIMITED)
        largest = max(p.stat().st_size for p in Path("whole").rglob("*") if p.is_file())
        draw = random.Random(seed)
        for size in sorted(draw.randrange(1000, largest) for _ in range(n)):
            shutil.rmtree("run", ignore_errors=True)

            def act(size: int = size) -> int:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
                return main(["fit", "conf.yaml", "--run-dir", "run"])

            tally.count(judge(f"{size} bytes", act, ("EFBIG", "File too large")))
    return [tally]


def devices(folder: Path) -> list[Tally]:
    """Each file of a run in turn is /dev/full."""
    tally = Tally("each file that is made is /dev/full", HOLDS)
    if not Path("/dev/full").exists():
        return [tally]
    real = os.open
    with inside(folder):
        prepare(CONF)
        made = 0

        def count(path: object, flags: int, *rest: int, **kw: int) -> int:
            nonlocal made
            made += bool(flags & os.O_EXCL)
            return real(path, flags, *rest, **kw)  # type: ignore[call-overload]

        with patch.object(os, "open", count):
            shutil.rmtree("run", ignore_errors=True)
            assert shot("fit", "conf.yaml", "--run-dir", "run").code == 0
        for n in range(1, made + 1):
            shutil.rmtree("run", ignore_errors=True)

            def act(n: int = n) -> int:
                seen = 0

                def full(path: object, flags: int, *rest: int, **kw: int) -> int:
                    nonlocal seen
                    seen += bool(flags & os.O_EXCL)
                    if flags & os.O_EXCL and seen == n:
                        return real("/dev/full", os.O_WRONLY)
                    return real(path, flags, *rest, **kw)  # type: ignore[call-overload]

                with patch.object(os, "open", full):
                    return main(["fit", "conf.yaml", "--run-dir", "run"])

            tally.count(judge(f"file {n}", act, ("ENOSPC", "No space left")))
    return [tally]


def mounts(folder: Path, n: int) -> list[Tally]:
    """A tmpfs of n sizes, where mounting is allowed."""
    tally = Tally("a small file system (tmpfs) that fills up", HOLDS)
    with inside(folder):
        Path("disk").mkdir(exist_ok=True)
        if not mount("size=1m"):
            tally.attack += ": not tried, mounting is not allowed here"
            return [tally]
        subprocess.run(["umount", "disk"], check=True)
        prepare(LOGS)
        held = sum(-(-p.stat().st_size // 4096) for p in Path("whole").rglob("*") if p.is_file())
        for pages in sorted({1 + held * i // n for i in range(1, n + 1)}):
            shutil.rmtree("run", ignore_errors=True)
            assert mount(f"size={pages * 4}k")
            try:
                full = judge(f"{pages * 4} kB", lambda: main(["fit", "conf.yaml", "--run-dir", "disk/run"]), SPACE, "disk/run")
            finally:
                subprocess.run(["umount", "disk"], check=True)
            if full != "had room":
                tally.count(full)
    return [tally]


SPACE = ("ENOSPC", "No space left")


def mount(options: str) -> bool:
    try:
        return not subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "disk"], capture_output=True).returncode
    except OSError:
        return False


def prepare(text: str) -> None:
    Path("conf.yaml").write_text(text)
    shutil.rmtree("whole", ignore_errors=True)
    whole = shot("fit", "conf.yaml", "--run-dir", "whole")
    assert whole.code == 0, whole.said


def judge(where: str, act: Callable[[], int], names: tuple[str, ...], run: str = "run") -> str | None:
    """What is wrong with how `act` fails for want of room, and with what comes after."""
    struck = ended(fork(act, Path("log")), Path("log"))
    if struck.code == 0:
        return None if run == "run" else "had room"
    if wrong := struck.wrong(2):
        return f"{where}: {wrong}"
    told = [line for line in struck.said.splitlines() if line.startswith("error: ")]
    if not any(name in struck.said for name in names) or not 1 <= len(told) <= 2:
        return f"{where}: {struck.said[-300:]}"
    if run != "run" and Path(run).exists():
        shutil.copytree(run, "run", dirs_exist_ok=True)  # to where there is room
    return after(where, None)
