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

EXPECTED = (
    "exit 2; one line or two that name ENOSPC or EFBIG; the earlier checkpoints are complete; with space again the run"
    " resumes to the bits of an uninterrupted one"
)
LOGS = CONF.replace("csv_logger: {}", "csv_logger: {}\n  tensorboard: {}").replace("max_epochs: 3", "max_epochs: 20")
LIMITED = CONF.replace("csv_logger: {}", "csv_logger: {}\n  tensorboard: {}")


def limits(folder: Path, n: int, seed: int = 0) -> list[Tally]:
    """Set RLIMIT_FSIZE to n sizes, from 1,000 bytes (the messages go into a file too) to the largest file."""
    tally = Tally("a limit of the file size (RLIMIT_FSIZE)", EXPECTED)
    with inside(folder):
        prepare(LIMITED)
        largest = max(p.stat().st_size for p in Path("whole").rglob("*") if p.is_file())
        draw = random.Random(seed)
        for size in sorted(draw.randrange(1000, largest) for _ in range(n)):
            shutil.rmtree("run", ignore_errors=True)

            def act(size: int = size) -> int:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
                return main(["fit", "conf.yaml", "--run-dir", "run"])

            tally.count(outcome(f"{size} bytes", act, ("EFBIG", "File too large")))
    return [tally]


def devices(folder: Path, every: int = 1) -> list[Tally]:
    """Replace each file of a run in turn, or every second, third, ... one, by /dev/full."""
    tally = Tally("each new file in turn is /dev/full", EXPECTED)
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
        for n in range(1, made + 1, every):
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

            tally.count(outcome(f"file {n}", act, ("ENOSPC", "No space left")))
    return [tally]


def mounts(folder: Path, n: int) -> list[Tally]:
    """Train on a tmpfs of n sizes, where mounting is allowed."""
    tally = Tally("a small file system (tmpfs) that fills up", EXPECTED)
    with inside(folder):
        Path("disk").mkdir(exist_ok=True)
        if not mount("size=1m"):
            tally.case += ": skipped, mounting is not allowed here"
            return [tally]
        subprocess.run(["umount", "disk"], check=True)
        prepare(LOGS)
        held = sum(-(-p.stat().st_size // 4096) for p in Path("whole").rglob("*") if p.is_file())
        for pages in sorted({1 + held * i // n for i in range(1, n + 1)}):
            shutil.rmtree("run", ignore_errors=True)
            assert mount(f"size={pages * 4}k")
            try:
                full = outcome(
                    f"{pages * 4} kB", lambda: main(["fit", "conf.yaml", "--run-dir", "disk/run"]), SPACE, "disk/run"
                )
            finally:
                subprocess.run(["umount", "disk"], check=True)
            if full != "had space":
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
    assert whole.code == 0, whole.err


def outcome(where: str, act: Callable[[], int], names: tuple[str, ...], run: str = "run") -> str | None:
    """Return what is wrong with how `act` fails without space, and with the resume after it."""
    end = ended(fork(act, Path("log")), Path("log"))
    if end.code == 0:
        return None if run == "run" else "had space"
    if wrong := end.wrong(2):
        return f"{where}: {wrong}"
    messages = [line for line in end.err.splitlines() if line.startswith("error: ")]
    if not any(name in end.err for name in names) or not 1 <= len(messages) <= 2:
        return f"{where}: {end.err[-300:]}"
    if run != "run" and Path(run).exists():
        shutil.copytree(run, "run", dirs_exist_ok=True)  # where there is space
    return after(where, None)
