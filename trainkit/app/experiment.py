"""An experiment: what a configuration describes, made; and, of a run that is there, its trained net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.callbacks import ValidationSplit
from trainkit.checkpoint import list_checkpoints as list_checkpoints
from trainkit.checkpoint import load as load_checkpoint
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.files import plain_name
from trainkit.core.rng import seed_globals
from trainkit.data.dataset import Dataset, Split
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.trainer import capture, signals
from trainkit.trainer.callback import Callback, check_files
from trainkit.trainer.evaluation import predict_rows
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session
from trainkit.trainer.setup import prepare_to_evaluate
from trainkit.trainer.trainer import Metrics, Trainer, plain_metrics

from .config import registry
from .config.build import Parts, build
from .config.files import diff, override, parse, resolve, to_yaml

if TYPE_CHECKING:
    from omegaconf import DictConfig

NOT_FINITE = 3  # the exit code of a run that terminate_on_nan has ended
KEPT = ("data.normalize", "data.task", "data.categorical", "data.drop")  # a trained net needs its inputs as they were


def load(
    run: str | Path,
    *overrides: str,
    checkpoint: str | None = None,
    net: Module | None = None,
    loss: Loss | None = None,
    classes: Sequence[type] = (),
    imports: Sequence[str | Path] = (),
) -> Experiment:
    """The trained model of a run's folder or of a checkpoint file, with its normalization.

        model = trainkit.load("logs/mlp/2026-01-31_12-00-00")
        y = model.predict(x)                      # x in the data's own units
        model.test(), model.validate()            # {"test/loss": ..., "test/error": ...}
        model.fit(max_epochs=200)                 # continues the run, to the bits of one that was never stopped
        model.net                                 # the trained module

    overrides: `key=value` changes of its configuration. checkpoint: best, last, or another file of the run; by default the
    parameters that the run ended with. net, loss: in place of those that the configuration describes, where it cannot (a module
    of your own that is not in a Sequential). classes: your own classes that the configuration names. imports: files with such
    classes, which are run.
    Nothing in a checkpoint runs code. Raises UserError where there is no valid checkpoint, or where its configuration names
    something that is not known here.
    """
    for path in imports:
        registry.import_file(Path(path))
    for cls in classes:
        registry.allow(cls)
    file = checkpoint_file(Path(run), checkpoint)
    content = load_checkpoint(file)
    composed = own_config(content, file, overrides)
    return Experiment(composed, content, file, net, loss)


class Experiment:
    """What a configuration describes; with `content`, the state of a run of it. `trainkit.load` makes one of a run."""

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
        # What evaluates a run needs none of its callbacks but the split: those of a user's own need not be there.
        self.parts: Parts = build(self.config if file is None else _only_split(self.config), net, loss)
        self.parts.callbacks.update(extra_callbacks or {})
        if content is not None and file is not None:
            settings = self.parts.trainer().settings()
            self.net.to(settings.device if settings.device != "auto" else None, getattr(torch, settings.dtype))
            self.net.load_state_dict(content["model"])
            self.net.eval()

    @property
    def net(self) -> Module:
        """The net, with the parameters of the checkpoint. `net(x)` takes inputs that are scaled already; `predict` scales."""
        return self.parts.net

    @property
    def loss(self) -> Loss:
        return self.parts.loss

    def data(self) -> Dataset:
        """The data that the configuration names, read as the checkpoint's was: the same columns, categories and classes."""
        schema = self.content["data"]["schema"] if self.content is not None else None
        return self.parts.data(schema=schema) if schema else self.parts.data()

    def predict(self, x: Any) -> Tensor:
        """Return the net's outputs for inputs in the data's own units: x (n, ...) gives (n, ...), with replicas (r, n, ...).

        The numbers are those of `Trainer.predict` after the fit. Raises UserError for inputs of other features.
        """
        content = self._trained()
        settings = self.parts.trainer().settings()
        normalizer = capture.normalizer(content)
        return predict_rows(self.net, normalizer, x, None, getattr(torch, settings.dtype), settings.replicas)

    def validate(self, data: Dataset | None = None) -> Metrics:
        """Return `val/loss` and `val/error`, on the run's own validation data or on that of `data`."""
        return self.evaluate("val", data)

    def test(self, data: Dataset | None = None) -> Metrics:
        """Return `test/loss` and `test/error`, on the run's own test data or on that of `data`, which is not scaled."""
        return self.evaluate("test", data)

    def evaluate(self, name: str, data: Dataset | None = None) -> Metrics:
        """Loss and error of the val or test split."""
        session = self.session(split=name == "val", data=data)
        return plain_metrics(name, session.evaluate_split(name))

    def fit(
        self,
        data: Dataset | None = None,
        run_dir: str | Path | None = None,
        callbacks: Mapping[str, Callback] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Train from the checkpoint on and return the summary. Of a run's folder it continues in that folder.

        data: in place of that of the configuration; needed where it was given in Python. run_dir: another folder for the run.
        callbacks: more of them, by name. settings: of the trainer, `max_epochs=200`.
        The parameters of `net` move on too.
        """
        run = None
        if run_dir is not None:
            run = RunFolder(Path(run_dir), new=True)
        elif self.file is not None and (own := RunFolder(run_of(self.file))).marked:
            run = own
        for key, value in settings.items():
            override(self.composed, f"trainer.{key}={'null' if value is None else value}")
        self.config = resolve(self.composed)
        self.parts = build(self.config, self.net, self.loss)
        self.parts.callbacks.update(callbacks or {})
        _, summary = self.train(run, data)
        if self.file is not None and run is not None and (last := run.checkpoints / "last.pt").exists():
            self.file, self.content = last, load_checkpoint(last)
        return summary

    def train(self, run: RunFolder | None, data: Dataset | None = None) -> tuple[Trainer, dict[str, Any]]:
        """Fit in a run's folder, or leave no files; from the checkpoint, if there is one. Return trainer and summary."""
        parts, content = self.parts, self.content
        trainer = parts.trainer(config=to_yaml(self.composed))
        if run is None:
            trainer.callbacks = {name: cb for name, cb in parts.callbacks.items() if not cb.needs_run_folder}
        else:
            run.open(check_files(parts.callbacks), going_on=content is not None)
        seed_globals(parts.seed)
        if content is not None:
            self._tell_differences(content)
        data = self.data() if data is None else data
        return trainer, trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data, resume=content, run=run)

    def session(
        self, split: bool = False, data: Dataset | None = None, callbacks: Mapping[str, Callback] | None = None
    ) -> Session:
        """A session with the net as it is and the data, scaled; with its validation split if `split`."""
        parts = self.parts
        if callbacks is None:
            callbacks = {name: cb for name, cb in parts.callbacks.items() if split and isinstance(cb, ValidationSplit)}
        raw = self.data() if data is None else data
        settings = parts.trainer().settings()
        session = Session(settings, parts.net, parts.loss, parts.optimizer(parts.net), raw, callbacks)
        prepare_to_evaluate(session, self.content)
        return session

    def session_for_table(self, table: Path) -> Session:
        """The same with the rows of a CSV file as its test split. The data that the net was trained on need not be there."""
        from trainkit.data.sources.csv import read_rows, refuse_infinite

        content = self._trained()
        known = content["data"]
        if not known["schema"]:
            raise UserError(f"{table}: the run was not trained on a CSV file; predict its own test part, without a file")
        x = read_rows(str(table), known["schema"]).x  # the targets, if the file has them, are not asked for
        raw = Dataset(
            train=Split(x, torch.zeros(len(x))), classes=tuple(known["classes"] or ()) or None, threshold=known["threshold"]
        )
        parts = self.parts
        session = Session(parts.trainer().settings(), parts.net, parts.loss, parts.optimizer(parts.net), raw)
        session.normalizer = capture.normalizer(content, raw)
        scaled = session.normalizer.apply(raw.train, session.dtype)
        refuse_infinite(str(table), known["schema"], x, scaled.x)
        rows = scaled.to(session.device, session.dtype)
        session.net.to(session.device, session.dtype)
        session.data = raw.with_parts(train=rows, test=rows)
        return session

    def _trained(self) -> dict[str, Any]:
        if self.content is None:
            raise UserError("experiment: nothing is trained yet; call fit first, or load a run: trainkit.load(RUN)")
        return self.content

    def _tell_differences(self, content: dict[str, Any]) -> None:
        """Print where the configuration differs from the checkpoint's, and which of the two is used."""
        if not content["config"]:
            return  # it was trained from Python
        for line in diff(resolve(parse(content["config"], "the checkpoint's configuration")), self.config):
            kept = "; the checkpoint's is kept" if line.partition(":")[0].partition("[")[0] in KEPT else ""
            terminal.print_stdout(f"changed since the checkpoint: {line}{kept}")

    def __repr__(self) -> str:
        return f"Experiment({self.file or 'untrained'}: {self.net!r})"


def exit_code(trainer: Trainer, summary: Mapping[str, Any]) -> int:
    """The exit code of a fit: 0, 128 + the signal that ended it, or NOT_FINITE."""
    if (signal := trainer.fitted().signal) is not None:
        return signals.exit_code(signal)
    return NOT_FINITE if summary["stop_reason"] == "nan" else 0


def _only_split(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the callback that makes validation data, and no other."""
    callbacks = config.get("callbacks")
    if not isinstance(callbacks, dict):
        return config
    return {**config, "callbacks": {name: v for name, v in callbacks.items() if _splits(name, v)}}


def _splits(name: str, arguments: Any) -> bool:
    """Whether a callback of the configuration makes validation data."""
    key = name if name in registry.TABLE or not isinstance(arguments, dict) else next(iter(arguments), "")
    return key in ("validation_split", "ValidationSplit")


def own_config(content: dict[str, Any], origin: Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a checkpoint carries."""
    if not content["config"]:
        raise UserError(f"{origin}: carries no configuration, it was trained from Python; load it from there")
    composed = parse(content["config"], f"{origin}, its configuration")
    for text in overrides:
        override(composed, text)
    return composed


def checkpoint_file(run: Path, name: str | None = None) -> Path:
    """The checkpoint that a path means: a .pt file, or of a run's folder the one of that name, or the final parameters."""
    example = "name a run's folder or a checkpoint, logs/mlp/2026-01-31_12-00-00"
    if run.suffix == ".pt":
        return run
    if not run.is_dir():
        what = "a file, and not a .pt" if run.is_file() else "no such run"
        raise UserError(f"{run}: {what}; {example}")
    wanted = name or ("final" if (run / "checkpoints" / "final.pt").exists() else "last")
    file = run / "checkpoints" / plain_name(wanted if wanted.endswith(".pt") else f"{wanted}.pt")
    if file.is_symlink():
        raise UserError(f"{file}: is a link and could lead elsewhere; name its target")
    if not file.exists():
        there = ", ".join(sorted(p.name for p in list_checkpoints(run / "checkpoints"))) or "none"
        raise UserError(f"{file}: no such checkpoint; there are {there}")
    return file


def run_of(file: Path) -> Path:
    """The folder of the run that a checkpoint belongs to by its place, or the folder that it lies in."""
    folder = file.parent
    if folder.absolute().name != "checkpoints":
        return folder
    return folder.parent if folder.name else Path("..")
