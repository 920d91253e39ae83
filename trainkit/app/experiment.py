"""An experiment: the objects that a configuration describes and, for an existing run, its trained net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainkit.callbacks import ValidationSplit
from trainkit.checkpoint import load as load_checkpoint
from trainkit.checkpoint.file import FINAL, LAST
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.files import path_of
from trainkit.core.rng import seed_globals
from trainkit.data.dataset import Dataset, Split
from trainkit.data.sizes import Sizes
from trainkit.data.tables.options import KEPT
from trainkit.data.tables.schema import Schema
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.trainer import capture, signals
from trainkit.trainer.callback import Callback, without_folder
from trainkit.trainer.predictor import Predictor
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session
from trainkit.trainer.setup import prepare_data, prepare_evaluation, prepare_net
from trainkit.trainer.trainer import Trainer

from .checkpoints import checkpoint_file, own_config, run_of
from .config import registry
from .config.build import Parts, build
from .config.files import diff, override, parse, resolve, to_yaml

if TYPE_CHECKING:
    from omegaconf import DictConfig

NOT_FINITE = 3  # the exit code of a run that terminate_on_nan has stopped


def load(
    run: str | Path,
    *overrides: str,
    checkpoint: str | None = None,
    net: Module | None = None,
    loss: Loss | None = None,
    classes: Sequence[type] = (),
    imports: Sequence[str | Path] = (),
) -> Experiment:
    """Return the trained model of a run's folder or of a checkpoint file, with its normalization.

        model = trainkit.load("logs/mlp/2026-01-31_12-00-00")
        model.predict_proba("new.csv")            # (n, classes), in the order of model.classes
        model.predict(x)                          # the net's outputs; x in the data's own units
        model.test(), model.validate()            # {"test/loss": ..., "test/error": ...}
        model.fit(max_epochs=200)                 # continues the run, bit for bit as if it had not stopped
        model.net                                 # the trained module

    overrides: `key=value` changes of its configuration. checkpoint: best, last, or another file of the run; by default the
    parameters at the end of the run. net, loss: in place of those of the configuration, for a module that it cannot describe
    (your own, outside a Sequential). classes: your own classes that the configuration names. imports: files with such classes,
    which are executed.
    Nothing in a checkpoint is executed. Raises UserError if there is no valid checkpoint, or if its configuration uses an
    unknown name.
    """
    for path in imports:
        registry.import_file(path_of(path))
    for cls in classes:
        registry.allow(cls)
    file = checkpoint_file(path_of(run), checkpoint)
    content = load_checkpoint(file)
    composed = own_config(content, file, overrides)
    return Experiment(composed, content, file, net, loss)


class Experiment(Predictor):
    """The objects that a configuration describes; with `content`, they have the state of a run. `trainkit.load` returns one."""

    def __init__(
        self,
        composed: DictConfig,
        content: dict[str, Any] | None = None,
        file: Path | None = None,
        net: Module | None = None,
        loss: Loss | None = None,
        extra_callbacks: Mapping[str, Callback] | None = None,
    ) -> None:
        self.composed, self.config = composed, resolve(composed)
        self.content, self.file = content, file
        self._sessions: dict[str | None, Session] = {}  # those that `session` has prepared
        # Evaluation needs only the callback that splits the data, so a user's own callbacks may be missing.
        sizes = None if content is None else Sizes.saved(content["data"].get("sizes"))
        parts = build(self.config if file is None else _only_split(self.config), net, loss, sizes)
        self.parts: Parts = replace(parts, callbacks={**parts.callbacks, **(extra_callbacks or {})})
        if content is not None and file is not None:
            settings = self.parts.settings
            self.net.to(settings.device if settings.device != "auto" else None, getattr(torch, settings.dtype))
            self.net.load_state_dict(content["model"])
            self.net.eval()

    @property
    def net(self) -> Module:
        """The net, with the parameters of the checkpoint. `net(x)` takes scaled inputs; `predict` scales them itself."""
        return self.parts.net

    @property
    def loss(self) -> Loss:
        return self.parts.loss

    def data(self) -> Dataset:
        """Return the data of the configuration, read as for the checkpoint: the same columns, categories and classes."""
        schema = self.content["data"]["schema"] if self.content is not None else None
        return self.parts.data(schema=schema) if schema else self.parts.data()

    def fitted(self) -> Session:
        """Return the session of the net, without its data."""
        return self.session()

    def session_with(self, name: str | None) -> Session:
        return self.session(name)

    def fit(
        self,
        data: Any = None,
        run_dir: str | Path | None = None,
        callbacks: Mapping[str, Callback] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Continue training from the checkpoint, in the run's folder if it is in one, and return the summary.

        data: in place of the configuration's; required if the data was given in Python. run_dir: another folder for the run.
        callbacks: additional ones, by name. settings: of the trainer, `max_epochs=200`.
        This also changes the parameters of `net`.
        """
        run, file = None, self.file
        if file is not None and file.name == FINAL and (last := file.with_name(LAST)).exists():
            self.content = load_checkpoint(last)  # restore_best may have replaced the parameters of the last step
        if run_dir is not None:
            run = RunFolder(path_of(run_dir), new=True, from_python=True)
        elif self.file is not None and (own := RunFolder(run_of(self.file), from_python=True)).marked:
            run = own
        for key, value in settings.items():
            override(self.composed, f"trainer.{key}={'null' if value is None else value}")
        self.config = resolve(self.composed)
        parts = build(self.config, self.net, self.loss)
        self.parts = replace(parts, callbacks={**parts.callbacks, **(callbacks or {})})
        with nullcontext() if run is None else run.opened(going_on=self.content is not None):
            _, summary = self.train(run, data)
        if self.file is not None and run is not None and (last := run.checkpoints / LAST).exists():
            self.file, self.content = last, load_checkpoint(last)
        return summary

    def train(self, run: RunFolder | None, data: Any = None) -> tuple[Trainer, dict[str, Any]]:
        """Fit, from the checkpoint if there is one. Return trainer and summary.

        run: the run's folder, which the caller has opened (`RunFolder.opened`); None writes no files.
        """
        parts, content = self.parts, self.content
        callbacks = parts.callbacks
        if run is None:
            callbacks, left_out = without_folder(callbacks)
            if left_out:
                terminal.print_stderr(f"fit: without a run folder, callbacks are left out: {', '.join(left_out)}; give run_dir")
        trainer = parts.trainer(callbacks, config=to_yaml(self.composed))
        seed_globals(parts.seed)
        if content is not None:
            self._print_differences(content)
        data = self.data() if data is None else data
        self._sessions = {}
        summary = trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data, resume=content, run=run)
        self._sessions = dict.fromkeys(("train", "val", "test", None), trainer.fitted())
        return trainer, summary

    def session(self, name: str | None = None) -> Session:
        """Return the session that evaluates the split `name` of the run's data; None: one without data, which is not read.

        It is prepared once; after a fit it is that of the fit. For a test the training data is not split.
        """
        if name in self._sessions:
            return self._sessions[name]
        content = self._trained()
        if name is None:
            session = self._session(self._without_source(Split(torch.zeros(0), torch.zeros(0))))
            session.normalizer = capture.normalizer(content)
            session.table_options = self._table_options()
            prepare_net(session)
        else:
            splits = {key: cb for key, cb in self.parts.callbacks.items() if isinstance(cb, ValidationSplit) and name != "test"}
            session = self._session(self.data(), splits)
            prepare_evaluation(session, content)
        self._sessions[name] = session
        return session

    def session_for_rows(self, rows: str | Path) -> tuple[Session, bool]:
        """Return a session whose test split is the rows of a file, and whether their targets are known.

        The training data is not read.
        """
        from trainkit.data.tables import absent_ids, ignored_columns, read_rows, refuse_infinite

        content = self._trained()
        schema = content["data"]["schema"]
        if not schema:
            fix = "give no file, to predict its own test split"
            if (self.config.get("data") or {}).get("name") == "memory":
                fix = "predict from Python: trainkit.load(RUN).predict(x)"
            raise UserError(f"{rows}: the run was not trained on a table; {fix}")
        read = read_rows(rows, schema, to_predict=True, **self._table_options())
        if read.problem:
            terminal.print_stderr(f"{read.problem}; predicted without the truth")
        terminal.print_stderr(*ignored_columns(str(rows), read.ignored), *absent_ids(str(rows), read.absent_ids))
        known = read.t is not None
        t = read.t if read.t is not None else torch.zeros(len(read.x), len(Schema.of(schema).target_names))
        session = self._session(self._without_source(Split(read.x, t, read.label, ids=read.ids)))
        prepare_data(session, content, names=())
        refuse_infinite(str(rows), schema, read.x, session.data.train.x)
        session.data = session.data.with_parts(test=session.data.train)
        return session, known

    def _session(self, data: Dataset, callbacks: Mapping[str, Callback] | None = None) -> Session:
        return Session(self.parts.settings, self.net, self.loss, None, data, callbacks)

    def _without_source(self, train: Split) -> Dataset:
        """Return a dataset of `train` with what the checkpoint holds of its data, without reading the run's data."""
        known = self._trained()["data"]
        schema = Schema.of(known["schema"]) if known["schema"] else None
        return Dataset(
            train,
            features=() if schema is None else schema.features(),
            categories=() if schema is None else schema.categories(),
            classes=tuple(known["classes"] or ()) or None,
            threshold=known["threshold"],
            positive=known.get("positive"),
            multilabel=known.get("multilabel", False),
            schema=known["schema"],
        )

    def _table_options(self) -> dict[str, Any]:
        """Return the options by which rows are read, without those of a user's own source: its arguments mean other things."""
        data = self.config.get("data") or {}
        return data if data.get("name") in registry.DATA else {}

    def _trained(self) -> dict[str, Any]:
        if self.content is None:
            raise UserError("experiment: nothing is trained yet; call fit first, or load a run: trainkit.load(RUN)")
        return self.content

    def _print_differences(self, content: dict[str, Any]) -> None:
        """Print where the configuration differs from the checkpoint's, and which of the two is used."""
        if not content["config"]:
            return  # started from Python
        kept_keys = {f"data.{key}" for key in KEPT}  # a trained net needs the inputs and targets that it was trained on
        for line in diff(resolve(parse(content["config"], "the checkpoint's configuration")), self.config):
            kept = "; the checkpoint's is kept" if line.partition(":")[0].partition("[")[0] in kept_keys else ""
            terminal.print_stdout(f"changed since the checkpoint: {line}{kept}")

    def __repr__(self) -> str:
        return f"Experiment({self.file or 'untrained'}: {self.net!r})"


def exit_code(trainer: Trainer, summary: Mapping[str, Any]) -> int:
    """Return the exit code of a fit: 0, 128 + the signal that stopped it, or NOT_FINITE."""
    if (signal := trainer.fitted().signal) is not None:
        return signals.exit_code(signal)
    return NOT_FINITE if summary["stop_reason"] == "nan" else 0


def _only_split(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with only the callback that splits off validation data.

    A user's own source of data that is not found here counts as data given in Python: a prediction does not need it.
    """
    data, callbacks = config.get("data"), config.get("callbacks")
    if isinstance(data, dict) and data.get("name") not in registry.names("data"):
        config = {**config, "data": {"name": "memory"}}
    if not isinstance(callbacks, dict):
        return config
    return {
        **config,
        "callbacks": {name: v for name, v in callbacks.items() if registry.callback_entry(name, v)[0] == "ValidationSplit"},
    }
