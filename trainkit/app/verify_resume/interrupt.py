"""A fit that interrupts itself at a point, for `verify-resume`.

    python -m trainkit.app.verify_resume.interrupt '{"phase": "step", "step": 7, "saved": 0, "engine": "eager", "paths": [...],
                                                     "overrides": [...], "imports": [...], "run_dir": "..."}'

It is `trainkit fit` with one private callback, which sends its own process a signal: SIGTERM, or SIGKILL during a save. The
resumed run is a plain `trainkit fit --resume`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trainkit.app.config import registry
from trainkit.app.config.files import compose
from trainkit.app.experiment import Experiment, exit_code
from trainkit.callbacks import Checkpoint
from trainkit.core.terminal import report_error
from trainkit.trainer.callback import Callback
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session
from trainkit.trainer.settings import Engine

NEVER = {"phase": "step", "step": 0, "saved": 0}  # a point that no run reaches
NAME = "trainkit.interrupt"  # of the callback, in the interrupted run's checkpoints; a user is unlikely to choose it


class SignalAtPoint(Callback):
    """Sends a signal at `step`, in a run with the engine of the uninterrupted one."""

    def __init__(self, step: int, saved: int, engine: Engine) -> None:
        self.step, self.saved, self.engine = step, saved, engine

    def setup(self, session: Session) -> None:
        session.settings.engine = self.engine

    def next_step(self, step: int) -> int | None:
        return min((s for s in (self.saved, self.step) if s > step), default=None)


class AtStep(SignalAtPoint):
    """Sends the signal after the step, where a signal inside the step is handled too."""

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            signal.raise_signal(signal.SIGTERM)


class AtEpochEnd(SignalAtPoint):
    """Sends the signal between an epoch's validation and its checkpoint."""

    def on_train_epoch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            signal.raise_signal(signal.SIGTERM)


class InValidation(SignalAtPoint):
    """Sends the signal inside a validation, which then has no result."""

    def on_fit_start(self, session: Session) -> None:
        check = session.check_interrupt

        def send_and_check() -> None:
            if session.progress.step == self.step and session.signal is None and not session.loop_ended:
                signal.raise_signal(signal.SIGTERM)
            check()

        session.check_interrupt = send_and_check  # type: ignore[method-assign]  # called before each batch of an evaluation


class InSave(SignalAtPoint):
    """Saves after the step `saved`; kills the process in a save after `step`, when the temporary file is not yet renamed."""

    def on_checkpoint(self, session: Session) -> None:
        saver: Any = next(cb for cb in session.callbacks.values() if isinstance(cb, Checkpoint))
        step = session.progress.step
        if step == self.saved and session.progress.batch:
            saver.save(session)
        if step == self.step:
            with patch.object(os, "replace", kill):
                saver.save(session)


def kill(*_: object) -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


PHASES: dict[str, type[SignalAtPoint]] = {"step": AtStep, "epoch": AtEpochEnd, "validation": InValidation, "save": InSave}


def main(argv: list[str]) -> int:
    """Run the fit that the JSON text in `argv` describes, and return its exit code."""
    point = json.loads(argv[0])
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:  # inherited; the signal would be ignored
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        for path in point["imports"]:
            registry.import_file(Path(path))
        callback = PHASES[point["phase"]](point["step"], point["saved"], point["engine"])
        composed = compose([Path(path) for path in point["paths"]], point["overrides"])
        with RunFolder(Path(point["run_dir"]), new=True).opened() as run:
            trainer, summary = Experiment(composed, extra_callbacks={NAME: callback}).train(run)
        return exit_code(trainer, summary)
    except Exception as error:
        return report_error(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
