"""A training process is killed at random moments, resumed, killed again, and ends with the bits of one that was left alone."""

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
HOLDS = "every checkpoint can be read after each kill; every resumed run ends with the bits of the uninterrupted one"


def kills(folder: Path, wanted: int, per_run: int = 10, seed: int = 0) -> list[Tally]:
    """At least `wanted` kills of conf/mlp.yaml, which saves every 5 steps; up to `per_run` of a run."""
    tally = Tally("killed (SIGKILL) at random moments", HOLDS)
    epochs = max(6, 6 * per_run)
    words = [str(ROOT / "conf/mlp.yaml"), "callbacks.checkpoint.every_n_steps=5", f"trainer.max_epochs={epochs}"]
    words += ["callbacks.early_stopping=null", "callbacks.checkpoint.save_top_k=2"]
    draw = random.Random(seed)
    runs = 0
    with inside(folder):
        began = time.monotonic()
        whole = shot("fit", *words, "--run-dir", "whole")
        assert whole.code == 0, whole.said
        each = (time.monotonic() - began) / per_run
        while tally.tried < wanted:
            runs += 1
            shutil.rmtree("run", ignore_errors=True)
            struck = 0
            while True:
                moment = draw.uniform(0, 2 * each) if struck < per_run and tally.tried < wanted else None
                wrong, over = once(words, moment)
                if moment is not None and not over:
                    tally.count(wrong)
                    struck += 1
                elif wrong:
                    tally.gave.append(wrong)
                if wrong or over:
                    break
            if over and not wrong and digest("run") != digest("whole"):
                tally.gave.append(f"run {runs} ends otherwise after {struck} kills")
    tally.attack += f" of {runs} runs of conf/mlp.yaml, a save every 5 steps"
    return [tally]


def once(words: list[str], moment: float | None) -> tuple[str | None, bool]:
    """Start or resume, and kill after so many seconds; what is wrong, and whether the run has come to its end."""
    begun = bool(checkpoint.list_checkpoints(Path("run/checkpoints")))
    command = ["fit", "--resume", "run"] if begun else ["fit", *words, "--run-dir", "run"]
    child = fork(lambda: main(command), Path("log"))
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    end = ended(child, Path("log"))
    if end.code not in (0, -signal.SIGKILL):
        return f"exit {end.code}: {end.said[-300:]}", False
    for file in checkpoint.list_checkpoints(Path("run/checkpoints")):
        try:
            checkpoint.load(file)
        except UserError as error:
            return f"unreadable: {error}", False
    if "skipped" in end.said:
        return f"a checkpoint was skipped: {end.said[-300:]}", False
    return None, end.code == 0
