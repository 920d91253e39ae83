"""The configuration of a fit that was set up in Python, from which `trainkit.load` builds the run again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trainkit.core.errors import UserError
from trainkit.core.recorded import Recorded, arguments
from trainkit.core.yaml_text import inline, to_yaml
from trainkit.data.transforms.augment import augmentation_spec
from trainkit.metrics.table import spec
from trainkit.nn.layers.container import Container, Sequential
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

from .callback import Callback, snake
from .settings import Settings

if TYPE_CHECKING:
    from .session import Session

Scalar = bool | int | float | str


def configuration(
    settings: Settings,
    net: Module,
    loss: Loss,
    optimizer: Optimizer,
    source: Mapping[str, object],
    augment: Sequence[Any],
    callbacks: Mapping[str, Callback],
) -> tuple[str, list[str]]:
    """Return the configuration as text, and a line for each object that a file cannot hold, which is left out."""
    described, left_out = _described(settings.changed(), net, loss, optimizer, source, augment, callbacks)
    return to_yaml(described), left_out


def hyperparameters(session: Session) -> dict[str, Scalar]:
    """Return every number, word and truth value of the run's configuration by its key, for TensorBoard's HPARAMS.

    First optimizer, lr, batch_size and seed, by which runs of different optimizers are compared, then the others by their key:
    `optimizer.Adam.weight_decay`, `callbacks.early_stopping.patience`, and all settings of the trainer.
    """
    s = session
    described, _ = _described(s.settings.as_dict(), s.net, s.loss, s.optimizer, s.source, s.data.augment, s.callbacks)
    name = type(s.optimizer).__name__
    first: dict[str, Scalar] = {
        "optimizer": name,
        "lr": s.optimizer.initial_lrs[0],
        "batch_size": s.settings.batch_size or len(s.data.train),
        "seed": s.settings.seed,
    }
    same = ("seed", "optimizer", "trainer.batch_size", *([] if len(s.optimizer.initial_lrs) > 1 else [f"optimizer.{name}.lr"]))
    return first | {key: value for key, value in _flattened(described) if key not in same}


def _flattened(value: Any, key: str = "") -> Iterator[tuple[str, Scalar]]:
    """Yield the scalars of nested mappings by their keys joined with points, and lists of scalars as text."""
    if isinstance(value, Mapping):
        for k, v in value.items():
            yield from _flattened(v, f"{key}.{k}" if key else k)
    elif isinstance(value, (bool, int, float, str)):
        yield key, value
    elif isinstance(value, (list, tuple)) and value and all(isinstance(v, (bool, int, float, str)) for v in value):
        yield key, inline(value)


def _described(
    settings: dict[str, Any],
    net: Module,
    loss: Loss,
    optimizer: Optimizer,
    source: Mapping[str, object],
    augment: Sequence[Any],
    callbacks: Mapping[str, Callback],
) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration as plain values, and the lines of `configuration`. settings: those of the trainer, by name."""
    left_out: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except UserError as error:
            left_out.append(str(error))
            return None

    augmentations = [made for a in augment if (made := attempt(partial(augmentation_spec, a))) is not None]
    described: dict[str, Any] = {
        "seed": settings.pop("seed", 0),
        "data": {**source, "augment": augmentations} if augmentations else dict(source),
        "model": attempt(lambda: _layers(net)),
        "loss": attempt(lambda: _named(loss)),
        "optimizer": attempt(lambda: _optimizer(optimizer)),
        "metrics": [made for m in settings.pop("metrics", ()) if (made := attempt(partial(spec, m))) is not None] or None,
        "trainer": settings,
        "callbacks": {
            name: made if name == snake(type(cb).__name__) else {type(cb).__name__: made}
            for name, cb in callbacks.items()
            if (made := attempt(partial(arguments, cb))) is not None
        },
    }
    return {key: value for key, value in described.items() if value is not None}, left_out


def _layers(net: Module) -> list[Any]:
    if type(net) is not Sequential:
        raise UserError(f"net is a {type(net).__name__}, but a configuration can only hold a Sequential of layers")
    return [_named(m) for m in net.layers]


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer with the rates of its last `set_lr`."""
    lrs = optimizer.initial_lrs
    lr = {"lr": lrs if len(lrs) > 1 else lrs[0]} if "lr" in inspect.signature(type(optimizer)).parameters else {}
    return {type(optimizer).__name__: arguments(optimizer, ("params",)) | lr}


def _named(value: Recorded) -> Any:
    """Return `ReLU`, or `{Linear: {in_features: 2, out_features: 25}}`; a container's modules are a list."""
    name = type(value).__name__
    if isinstance(value, Container):
        return {name: [_named(m) for m in value.layers]}
    given = arguments(value)
    return {name: given} if given else name
