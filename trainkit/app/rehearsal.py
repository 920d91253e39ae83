"""The rehearsal of `check`: begin the run of a configuration as `fit` does, then train two steps on trial."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from trainkit.checkpoint.file import LAST
from trainkit.core.errors import UserError
from trainkit.core.rng import seed_globals
from trainkit.data.dataset import Dataset, Split
from trainkit.data.sizes import Sizes
from trainkit.trainer import signals, threads
from trainkit.trainer.callback import Callback, CallbackError, check_files
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session
from trainkit.trainer.setup import begin

from .config.build import Parts, build

ROWS = 64  # of the splits that are evaluated, and of a step on all samples


class Shortened(Callback):
    """Replaces the data by `data` at the end of all setups, and validates every epoch."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def setup(self, session: Session) -> None:
        session.data, session.validate_every_n_epochs = self.data, 1


def begun(parts: Parts, data: Dataset) -> Session:
    """Return a session before the first step of the configured run. Raises the UserErrors of a fit up to this point."""
    with TemporaryDirectory(prefix="trainkit-") as folder:
        seed_globals(parts.seed)
        settings = replace(parts.settings, engine="eager")  # the other engines have no errors of their own
        run = RunFolder(Path(folder))
        check_files(parts.callbacks)
        optimizer = parts.optimizer(parts.net)
        session = Session(settings, parts.net, parts.loss, optimizer, data, parts.callbacks, run)
        with run.opened():
            try:
                begin(session, None)
            finally:
                session.call("on_fit_end")
    return session


def rehearse(config: dict[str, Any], text: str, data: Dataset, planned: Session) -> str:
    """Build the configuration again and train two steps, without output, in a temporary folder. Return what was done.

    The data is that of `planned`, split and scaled, cut to two batches and a few rows to evaluate. Non-finite numbers are not
    an error. Raises UserError for errors of callbacks, and Interrupted after a signal.
    """
    settings = {**(config.get("trainer") or {}), "min_epochs": 0, "max_steps": 2, "engine": "eager"}
    size = planned.step_size if planned.settings.batch_size is not None else min(planned.step_size, ROWS)
    short = shortened(planned.data, 2 * size if planned.settings.batch_size is not None else size)
    settings["max_epochs"] = 1 if len(short.train) > size else 2
    parts = build({**config, "trainer": settings}, sizes=Sizes.of(data))
    with TemporaryDirectory(prefix="trainkit-") as folder:
        seed_globals(parts.seed)
        trainer = parts.trainer({**parts.callbacks, "rehearsal": Shortened(short)}, run_dir=folder, config=text)
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data)
        except (CallbackError, UserError) as error:
            lines = str(error).split("\n") if isinstance(error, UserError) else [str(error).split("\n")[0]]
            raise UserError("\n".join(f"rehearsal of two steps: {line}" for line in lines)) from error
        saved = (Path(folder) / "checkpoints" / LAST).exists()
    session = trainer.fitted()
    if session.signal is not None:
        raise signals.Interrupted(session.signal)
    done = ["two steps" if session.progress.step > 1 else "a step"]
    done += ["a validation"] * (session.data.val is not None) + ["a save"] * saved
    return f"{', '.join(done[:-1])}{' and ' * (len(done) > 1)}{done[-1]}: ok"


def shortened(data: Dataset, rows: int) -> Dataset:
    """Return the first rows of each split of scaled data, `rows` of the training split."""
    cut = data.with_parts(**{k: head(split, rows if k == "train" else ROWS) for k, split in data.parts().items()})
    return replace(cut, normalize="none", normalize_target=False, fill=None)  # all are done already


def head(split: Split, rows: int) -> Split:
    """Return the first rows of a split. If they are in a file, no other rows are read."""
    return split.subset(torch.arange(min(rows, len(split)), device=split.t.device))


@contextmanager
def untouched() -> Iterator[None]:
    """Restore Python's and torch's random states, and torch's threads, at the end."""
    before = random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices), threads.restored():
            yield
    finally:
        random.setstate(before)
