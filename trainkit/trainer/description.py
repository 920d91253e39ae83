"""The configuration of a fit that was set up in Python, from which `trainkit.load` builds the run again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trainkit.core.errors import UserError
from trainkit.core.recorded import Recorded, arguments
from trainkit.core.yaml_text import to_yaml
from trainkit.data.transforms.augment import spec as augmentation
from trainkit.metrics.table import spec
from trainkit.nn.layers.container import Container, Sequential
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

from .callback import Callback, snake
from .settings import Settings


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
    left_out: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except UserError as error:
            left_out.append(str(error))
            return None

    changed = settings.changed()
    augmentations = [made for a in augment if (made := attempt(partial(augmentation, a))) is not None]
    described: dict[str, Any] = {
        "seed": changed.pop("seed", 0),
        "data": {**source, "augment": augmentations} if augmentations else dict(source),
        "model": attempt(lambda: _layers(net)),
        "loss": attempt(lambda: _named(loss)),
        "optimizer": attempt(lambda: _optimizer(optimizer)),
        "metrics": [made for m in changed.pop("metrics", ()) if (made := attempt(partial(spec, m))) is not None] or None,
        "trainer": changed,
        "callbacks": {
            name: made if name == snake(type(cb).__name__) else {type(cb).__name__: made}
            for name, cb in callbacks.items()
            if (made := attempt(partial(arguments, cb))) is not None
        },
    }
    return to_yaml({key: value for key, value in described.items() if value is not None}), left_out


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
