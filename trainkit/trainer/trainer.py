"""The trainer: settings, and the methods fit and save."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from trainkit.checkpoint.file import load_run, save
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.files import path_of
from trainkit.data.sources.adopt import as_dataset
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

from . import loop, signals, threads
from .arguments import check_objects
from .callback import Callback, check_files, named, without_folder
from .description import configuration
from .predictor import Predictor
from .run_folder import RunFolder
from .session import Session
from .settings import Settings
from .setup import begin
from .summary import summarize

LEFT_OUT = "config.yaml: {}; it is left out, so give it to trainkit.load"


@dataclass(repr=False)
class Trainer(Settings, Predictor):
    """A trainer of nets.

        trainer = Trainer(max_epochs=20, callbacks=[ValidationSplit(0.2), EarlyStopping("val/loss")])
        summary = trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), tensors(x, t, normalize="feature"))
        trainer.history[-1]["val/loss"], trainer.test(), trainer.predict_proba(x)

    max_epochs, max_steps: the length of the run, the shorter of the two; 100 epochs if both are None. min_epochs: no callback
    stops the run earlier.
    batch_size: samples of one pass, or None for all of them (gradient descent). accumulate: passes of one step, whose batch is
    then batch_size * accumulate samples. clip_norm, clip_value: limits of the gradient (see `engines/step.py`).
    replicas: models trained at once; replica r equals the run of seed + r, or of seeds[r]. A list gives each a learning rate,
        momentum or weight decay of its own: SGD(net.param(), lr=[0.1, 0.2, 0.05]). seed: determines the order of the
    data, Dropout's masks, and the replicas' weights.
    device: auto (cuda where there is one), cpu, cuda, cuda:1. dtype: of parameters and data.
    precision: that of the passes: full is dtype; bf16 is bfloat16 over parameters of `dtype` (see `engines/bf16.py`).
    engine: eager, step by step; native, many steps per call of C++ that is generated for the net; graph, replays of a step
        captured on a CUDA device; auto, the one that finishes first, by timed steps (see `engines/engine.py`).
    threads: torch's number of threads in a fit; None is one if all products are small, else all (see `threads.py`).
    metrics: what an evaluation measures besides the loss, and with classes error and accuracy: names, names with options, and
        classes or functions of your own: ["f1", {"top_k": {"k": 5}}, my_metric] (see `trainkit.metrics`).
    log_every_n_steps: how often losses are copied from the device. callbacks: a mapping by name, or a list.
    run_dir: the run's folder; None leaves no files. config: the configuration as text, saved with every checkpoint; by default
        it is written from the objects that `fit` receives.
    Errors: UserError that names the setting.

    After a fit `history` has a row per epoch, `summary` is the content of summary.json, and `session` holds the trained
    net with its data, scaled. A fitted trainer can be pickled.
    """

    callbacks: Mapping[str, Callback] | Iterable[Callback] = ()
    run_dir: str | Path | None = None
    config: str = ""
    session: Session | None = field(init=False)
    summary: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.session, self.summary = None, {}
        self.callbacks = named(self.callbacks)
        if self.run_dir is not None and not isinstance(self.run_dir, (str, Path)):
            raise UserError(f"trainer.run_dir: {self.run_dir!r}; needs the path of a folder, a str or a Path")

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row per epoch of the last fit: epoch, step, and each new metric: a number, or a list with one per replica.

        `pandas.DataFrame(trainer.history)` is a table. A resumed fit has the epochs since its checkpoint; metrics.csv has all.
        """
        return [] if self.session is None else self.session.history

    def fit(
        self,
        net: Module,
        loss: Loss,
        optimizer: Optimizer,
        data: Any = None,
        resume: str | Path | dict[str, Any] | None = None,
        run: RunFolder | None = None,
    ) -> dict[str, Any]:
        """Train `net` in place and return the summary (see `summary.py`).

            prepare data, net and optimizer; restore `resume`        setup
            refuse monitors of metrics that will not exist
                                                                     on_fit_start (may refuse; nothing is written yet)
            make the run's folder
                                                                     on_train_start
            for each epoch:                                          on_train_epoch_start
                for each batch:
                    step: zero, forward, loss, backward, clip, update
                                                                     on_train_batch_end, on_losses, on_step_log
                    validate, if it is due inside the epoch          on_validation_end, on_metrics, on_log
                                                                     on_checkpoint (on_save_end after each save)
                validate, if it is due                               on_validation_end, on_train_epoch_end
                                                                     on_metrics, on_log, on_checkpoint
                                                                     on_checkpoint, on_train_end
            evaluate the training and test splits                    on_test_end, on_fit_end

        data: a Dataset; arrays (x, t) or (x, t, weight); a map-style dataset of torch or Hugging Face; or a DataLoader of a
        map-style dataset, whose samples are then read by trainkit in batches of its batch_size (see
        `data/sources/adopt.py`).
        resume: a run's folder, a checkpoint file, or the content of one; the run continues from there to the same bits.
        run: the run's folder, in place of `run_dir`, which the caller has opened and closes (`RunFolder.opened`).
        SIGINT and SIGTERM end the fit after the current step with everything saved; `fit` then returns as usual.
        Raises UserError where an argument has the wrong type, or where the folder holds another run or files that are not a
        run's. A fit that fails before its first step removes the folder that it created.
        """
        settings = self.settings()
        check_objects(net, loss, optimizer)
        data, batch_size = as_dataset(data)
        if batch_size not in (None, settings.batch_size):
            terminal.print_stderr(
                f"trainer.batch_size: {batch_size}, that of the DataLoader, in place of {settings.batch_size}"
            )
            settings = replace(settings, batch_size=batch_size)
        if data.loader_batch_size not in (None, settings.batch_size):
            terminal.print_stderr(
                f"data: the batch_size {data.loader_batch_size} of the DataLoader is not used;"
                f" trainer.batch_size is {settings.batch_size}"
            )
        content = resume if resume is None or isinstance(resume, dict) else _loaded(resume)
        own = RunFolder(path_of(self.run_dir), from_python=True) if run is None and self.run_dir is not None else None
        run = own if run is None else run
        callbacks = named(self.callbacks)
        if run is None and (writers := without_folder(callbacks)[1]):
            raise UserError(f"callbacks.{writers[0]}: needs a run folder to write in; give the trainer a run_dir")
        files = check_files(callbacks)
        if own is not None and not any(cb.saves_checkpoints for cb in callbacks.values()):
            terminal.print_stderr(
                f"run folder {own.path}: no callback saves the model there; add Checkpoint() to the callbacks"
            )
        config = self.config
        left_out: list[str] = []
        if run is not None and not config:
            config, left_out = configuration(settings, net, loss, optimizer, data.source, data.augment, callbacks)
        session = self.session = Session(settings, net, loss, optimizer, data, callbacks, run, config)
        began = time.perf_counter()
        with nullcontext() if own is None else own.opened(going_on=content is not None):
            if run is not None:
                run.reserve(files)
            _train(session, content, left_out)
            self.summary = summarize(session, time.perf_counter() - began)
            if run is not None:
                run.write_text("summary.json", json.dumps(self.summary, indent=2) + "\n")
        return self.summary

    def save(self, path: str | Path) -> None:
        """Write the fitted net, its normalization and the state of the run into one checkpoint file, for `trainkit.load`.

        Raises UserError with path and cause where it cannot be written.
        """
        session = self.fitted()
        if not session.config:
            parts = session.net, session.loss, session.optimizer, session.source, session.data.augment, session.callbacks
            session.config, left_out = configuration(session.settings, *parts)
            terminal.print_stderr(*(LEFT_OUT.format(line) for line in left_out))
        save(session.snapshot(), path_of(path))

    def fitted(self) -> Session:
        """Return the session of the last fit. Raises UserError before a fit."""
        if self.session is None:
            raise UserError("trainer: not fitted yet; call fit(net, loss, optimizer, data) first, or trainkit.load(RUN)")
        return self.session

    def __repr__(self) -> str:
        shown = self.changed() | {k: v for k in ("callbacks", "run_dir") if (v := getattr(self, k))}
        return f"Trainer({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _train(session: Session, content: dict[str, Any] | None, left_out: list[str]) -> None:
    """Take all steps of a fit and evaluate the result. left_out: what config.yaml cannot hold, to be printed."""
    run, first_step = session.run, 0
    with session.data.opened(), signals.noting(session.note_signal), threads.restored():
        try:
            begin(session, content)
            first_step = session.progress.step
            if run is not None:
                run.begin()
                terminal.print_stderr(*(LEFT_OUT.format(line) for line in left_out))
                if not session.last_is_ahead:
                    session.write_config()
            session.call("on_train_start")
            with torch.inference_mode():
                loop.train(session)
                session.fetch_losses(log=False)  # a signal ends the loop with losses not yet fetched
            session.loop_ended = True
            session.call("on_checkpoint")
            if session.failed is not None:
                raise session.failed
            loop.finish(session)
        except BaseException as error:
            session.call("on_exception", error)
            raise
        finally:
            if run is not None and session.progress.step != first_step:
                run.keep()
            session.call("on_fit_end")


def _loaded(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, or of the newest checkpoint in a run's folder."""
    if not isinstance(path, (str, Path)):
        raise UserError(f"resume: not a path (got {path!r}); give a run's folder, a checkpoint file, or its content")
    _, content, skipped = load_run(path_of(path))
    terminal.print_stderr(*(f"skipped: {line}" for text in skipped for line in text.split("\n")))
    return content
