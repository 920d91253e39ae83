"""A training process is killed at random moments, resumed, killed again, and ends with the bits of an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from trainkit.app.cli.main import main
from trainkit.checkpoint import file as checkpoint
from trainkit.core.errors import UserError

from .crash import digest
from .tally import Tally, ended, fork, inside, shot

ROOT = Path(__file__).parents[2]
EXPECTED = "every checkpoint can be read after each kill; every resumed run ends with the bits of the uninterrupted one"


def kills(folder: Path, wanted: int, per_run: int = 10, seed: int = 0) -> list[Tally]:
    """Kill runs of conf/mlp.yaml, which save every 5 steps, at least `wanted` times, and each up to `per_run` times."""
    tally = Tally("killed (SIGKILL) at random moments", EXPECTED)
    epochs = max(6, 6 * per_run)
    words = [str(ROOT / "conf/mlp.yaml"), "callbacks.checkpoint.every_n_steps=5", f"trainer.max_epochs={epochs}"]
    words += ["callbacks.early_stopping=null", "callbacks.checkpoint.save_top_k=2"]
    draw = random.Random(seed)
    runs = 0
    with inside(folder):
        began = time.monotonic()
        whole = shot("fit", *words, "--run-dir", "whole")
        assert whole.code == 0, whole.err
        interval = (time.monotonic() - began) / per_run
        while tally.runs < wanted:
            runs += 1
            shutil.rmtree("run", ignore_errors=True)
            killed = 0
            while True:
                moment = draw.uniform(0, 2 * interval) if killed < per_run and tally.runs < wanted else None
                wrong, over = once(words, moment)
                if moment is not None and not over:
                    tally.count(wrong)
                    killed += 1
                elif wrong:
                    tally.failures.append(wrong)
                if wrong or over:
                    break
            if over and not wrong and digest("run") != digest("whole"):
                tally.failures.append(f"run {runs} ends with other bits after {killed} kills")
    tally.case += f" of {runs} runs of conf/mlp.yaml that save every 5 steps"
    return [tally]


def once(words: list[str], moment: float | None) -> tuple[str | None, bool]:
    """Start or resume a run, and kill it after `moment` seconds. Return what is wrong, and whether the run has ended."""
    saved = bool(checkpoint.list_checkpoints(Path("run/checkpoints")))
    command = ["fit", "--resume", "run"] if saved else ["fit", *words, "--run-dir", "run"]
    child = fork(lambda: main(command), Path("log"))
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    end = ended(child, Path("log"))
    if end.code not in (0, -signal.SIGKILL):
        return f"exit {end.code}: {end.err[-300:]}", False
    for file in checkpoint.list_checkpoints(Path("run/checkpoints")):
        try:
            checkpoint.load(file)
        except UserError as error:
            return f"unreadable: {error}", False
    if "skipped" in end.err:
        return f"a checkpoint was skipped: {end.err[-300:]}", False
    return None, end.code == 0
