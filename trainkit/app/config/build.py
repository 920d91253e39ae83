"""From a resolved configuration to net, loss, data and callbacks. All errors are reported at once, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainkit.core.errors import UserError, UserErrors, memory_error_message, suggest
from trainkit.core.rng import generator
from trainkit.core.validation import check_value, yaml_repr
from trainkit.core.yaml_text import inline
from trainkit.data.dataset import Dataset
from trainkit.data.transforms.augment import make as augmentations
from trainkit.metrics.table import make
from trainkit.nn.layers.container import Container, Sequential
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.callback import Callback, bad_name
from trainkit.trainer.settings import Settings
from trainkit.trainer.trainer import Trainer

from . import registry
from .signature import check_arguments, signature

KEYS = ("seed", "data", "model", "loss", "optimizer", "metrics", "trainer", "callbacks")
REQUIRED = ("data", "model", "loss", "optimizer")
NOT_CONFIGURED = ("self", "params", "schema")  # parameters that only code sets


@dataclass(frozen=True)
class Parts:
    """The objects of a configuration. `data` reads the data when called; `optimizer` needs the net, with its replicas."""

    seed: int
    net: Module
    loss: Loss
    callbacks: Mapping[str, Callback]
    data: Callable[..., Dataset]
    optimizer: Callable[[Module], Optimizer]
    settings: Settings

    def trainer(self, callbacks: Mapping[str, Callback] | None = None, **extra: Any) -> Trainer:
        """Return a trainer with these settings. callbacks: in place of the configuration's. extra: `run_dir`, `config`."""
        return Trainer(**self.settings.as_dict(), callbacks=self.callbacks if callbacks is None else callbacks, **extra)


def build(config: dict[str, Any], net: Module | None = None, loss: Loss | None = None) -> Parts:
    """Check everything against tables and signatures, then build it. Raises UserErrors with every error found.

    net, loss: used as they are, in place of the configuration's.
    """
    errors = [f"{key}: no such key{suggest(key, KEYS)}" for key in config if key not in KEYS]
    passed = {"model": net, "loss": loss}
    if missing := [key for key in REQUIRED if config.get(key) is None and passed.get(key) is None]:
        errors.append(f"{', '.join(missing)}: missing; a configuration has {', '.join(REQUIRED)}")
    seed = config.get("seed", 0)
    errors += check_value(seed, int, "seed")
    present = {key: config[key] for key in REQUIRED if config.get(key) is not None}
    data = _data(present["data"], errors) if "data" in present else None
    is_new = net is None
    if net is None and "model" in present:
        net = _net(present["model"], errors)
    if loss is None and "loss" in present:
        loss = _build_one("loss", present["loss"], "loss", errors)
    optimizer = _optimizer(present["optimizer"], errors) if "optimizer" in present else None
    metrics = _metrics([] if config.get("metrics") is None else config["metrics"], errors)
    settings = _settings({} if config.get("trainer") is None else config["trainer"], seed, metrics, errors)
    callbacks = _callbacks({} if config.get("callbacks") is None else config["callbacks"], errors)
    if errors:
        raise UserErrors(errors)
    assert data is not None
    assert net is not None
    assert loss is not None
    assert optimizer is not None
    assert settings is not None
    seeds = settings.replica_seeds()
    if is_new and len(seeds) > 1:
        _attempt(lambda: net.replicate(seeds), "", errors)
    elif is_new:
        _attempt(lambda: net.initialize(generator(seeds[0], "init")), "", errors)
    _attempt(lambda: optimizer(net), "optimizer.", errors)
    if errors:
        raise UserErrors(errors)
    return Parts(seed, net, loss, callbacks, data, optimizer, settings)


def _attempt(make: Callable[[], Any], prefix: str, errors: list[str]) -> Any:
    """Return make(), or None with its error added to `errors`."""
    try:
        return make()
    except UserError as error:
        errors += [f"{prefix}{line}" for line in str(error).split("\n")]
    except (ValueError, TypeError, RuntimeError, MemoryError, OverflowError) as error:  # raised for sizes that are too large
        errors.append(f"{prefix.rstrip('.: ') or 'model'}: {memory_error_message(error) or str(error).splitlines()[0]}")
    return None


EXAMPLES = {"layer": "{Linear: [2, 25]}", "loss": "{HuberLoss: {delta: 2}}", "optimizer": "{SGD: {lr: 0.1}}"}


def name_and_arguments(kind: str, value: Any, place: str, errors: list[str]) -> tuple[str, Any] | None:
    """Return name and arguments of `ReLU` or `{Linear: [2, 25]}`; None, with an error added, for any other value."""
    if isinstance(value, str):
        return value, None
    if isinstance(value, dict):
        # As an override, optimizer.SGD=null removes a name that another one replaces.
        named = {k: v for k, v in value.items() if v is not None} if len(value) > 1 else value
        if len(named) == 1:
            return next(iter(named.items()))
        if len(named) > 1:
            last = next(reversed(named.items()))
            fix = f"to replace it, write {place}={{{last[0]}: {inline(last[1])}}}"
            errors.append(f"{place}: has {len(named)} names, {', '.join(map(str, named))}; {fix}")
            return None
    errors.append(f"{place}: {yaml_repr(value)}; write a name, or one name with its arguments, {EXAMPLES[kind]}")
    return None


def call(function: Callable[..., Any], arguments: Any, *first: Any) -> Any:
    """Return function(*first, arguments), where arguments is a mapping, a list, one value, or None."""
    if isinstance(arguments, dict):
        return function(*first, **arguments)
    if isinstance(arguments, list):
        return function(*first, *arguments)
    return function(*first) if arguments is None else function(*first, arguments)


def _find_class(kind: str, value: Any, place: str, errors: list[str]) -> tuple[Any, str, Any] | None:
    """Return the class of `name` or `{name: arguments}`, the name, and the arguments."""
    named = name_and_arguments(kind, value, place, errors)
    if named is None:
        return None
    name, arguments = named
    try:
        return registry.find(kind, name), name, arguments
    except UserError as error:
        errors.append(f"{place}: {error}")
        return None


def _build_one(kind: str, value: Any, place: str, errors: list[str]) -> Any:
    """Return the object that `name` or `{name: arguments}` describes."""
    found = _find_class(kind, value, place, errors)
    if found is None:
        return None
    cls, name, arguments = found
    wrong = check_arguments(cls, arguments, f"{place}.{name}", NOT_CONFIGURED)
    errors += wrong
    return None if wrong else _attempt(lambda: call(cls, arguments), f"{place}.", errors)


def _net(value: Any, errors: list[str]) -> Sequential | None:
    if not isinstance(value, list) or not value:
        errors.append(f"model: {yaml_repr(value)}; needs a list of layers: [{{Linear: [2, 25]}}, ReLU]")
        return None
    layers = [_layer(v, f"model[{i}]", errors) for i, v in enumerate(value)]
    return None if any(m is None for m in layers) else Sequential(*layers)


def _layer(value: Any, place: str, errors: list[str]) -> Any:
    """Return a layer. A container's arguments are layers themselves."""
    found = _find_class("layer", value, place, errors)
    if found is None:
        return None
    cls, name, arguments = found
    if not (isinstance(cls, type) and issubclass(cls, Container)):
        return _build_one("layer", value, place, errors)
    if not isinstance(arguments, list) or not arguments:
        errors.append(f"{place}.{name}: {yaml_repr(arguments)}; needs a list of layers, [{{Linear: [2, 25]}}, ReLU]")
        return None
    inner = [_layer(v, f"{place}.{name}[{i}]", errors) for i, v in enumerate(arguments)]
    return None if any(m is None for m in inner) else cls(*inner)


def _optimizer(value: Any, errors: list[str]) -> Callable[[Module], Optimizer] | None:
    found = _find_class("optimizer", value, "optimizer", errors)
    if found is None:
        return None
    cls, name, arguments = found
    wrong = check_arguments(cls, arguments, f"optimizer.{name}", NOT_CONFIGURED)
    errors += wrong
    if not wrong:
        settings = arguments if isinstance(arguments, dict) else {}
        replicas = max(
            (len(v) for v in map(settings.get, ("lr", "momentum", "weight_decay")) if isinstance(v, list)), default=1
        )
        stand_in = torch.zeros(max(replicas, 1), 1)  # checks the values before the net is replicated
        _attempt(lambda: call(cls, arguments, [(stand_in, stand_in.clone())]), "optimizer.", errors)
    return lambda net: call(cls, arguments, net.param())


def _metrics(value: Any, errors: list[str]) -> list[Any]:
    """Return metrics as `Settings.metrics` takes them; the name of a user's class is replaced by the class."""
    if not isinstance(value, list):
        errors.append(f"metrics: {yaml_repr(value)}; needs a list: [accuracy, f1, {{top_k: {{k: 5}}}}]")
        return []
    own = registry.names("metric")
    specs = [registry.find("metric", v) if isinstance(v, str) and v in own else v for v in value]
    return [spec for spec in specs if _attempt(lambda spec=spec: make(spec), "", errors) is not None]  # type: ignore[misc]


def _settings(value: Any, seed: int, metrics: list[Any], errors: list[str]) -> Settings | None:
    if not isinstance(value, dict):
        errors.append(f"trainer: {yaml_repr(value)}; needs a mapping, {{max_epochs: 5}}")
        return None
    if "mode" in value:
        errors.append(f"trainer.mode: was renamed; write trainer.engine={yaml_repr(value['mode'])}")
        return None
    wrong = check_arguments(Trainer, value, "trainer", (*NOT_CONFIGURED, "seed", "metrics", "callbacks", "run_dir", "config"))
    errors += wrong
    settings: Settings | None = None if wrong else _attempt(lambda: Settings(**value, seed=seed, metrics=metrics), "", errors)
    return settings


def _data(value: Any, errors: list[str]) -> Callable[..., Dataset] | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        errors.append(f"data: {yaml_repr(value)}; needs a name and its arguments: {{name: disk, train: 1000}}")
        return None
    augment = value.get("augment") or ()
    arguments = {k: v for k, v in value.items() if k not in ("name", "augment")}
    try:
        read = registry.find("data", value["name"])
    except UserError as error:
        errors.append(f"data.name: {error}")
        return None
    errors += check_arguments(read, arguments, "data", NOT_CONFIGURED)
    _attempt(lambda: augmentations(augment), "", errors)

    def data(**extra: Any) -> Dataset:
        if "schema" in extra and "schema" not in signature(read)[0]:
            raise UserError(f"data: the checkpoint's data was a table, but {value['name']} is not; use the original data")
        dataset: Dataset = read(**arguments, **extra)
        return dataset.augmented(*augment) if augment else dataset

    return data


def _callbacks(value: Any, errors: list[str]) -> dict[str, Callback]:
    """Return callbacks by their name in the configuration. `name: {Class: {...}}` gives another name; null leaves it out."""
    if not isinstance(value, dict):
        errors.append(f"callbacks: {yaml_repr(value)}; needs a mapping: {{early_stopping: {{patience: 5}}}}")
        return {}
    built: dict[str, Callback] = {}
    for name, arguments in value.items():
        place = f"callbacks.{name}"
        if arguments is None:
            continue
        if wrong_name := bad_name(name):
            errors.append(f"callbacks: {wrong_name}")
            continue
        class_name, arguments = registry.callback_entry(name, arguments)
        try:
            cls = registry.find("callback", class_name)
        except UserError as error:
            errors.append(f"{place}: {error}")
            continue
        if not isinstance(arguments, dict):
            errors.append(f"{place}: {yaml_repr(arguments)}; needs its arguments as a mapping, {{}} for none")
            continue
        wrong = check_arguments(cls, arguments, place, NOT_CONFIGURED)
        errors += wrong
        if not wrong:
            cb = _attempt(lambda cls=cls, arguments=arguments: cls(**arguments), f"{place}: ", errors)  # type: ignore[misc]
            if cb is not None:
                built[name] = cb
    return built
