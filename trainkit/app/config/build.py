"""From a resolved configuration to net, loss, data and callbacks. All errors are reported at once, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainkit.core.errors import UserError, UserErrors, suggest
from trainkit.core.rng import generator, seed_globals
from trainkit.core.validation import check_value, yaml_repr
from trainkit.data.dataset import Dataset
from trainkit.data.sizes import Sizes
from trainkit.data.transforms.augment import augmentations_of
from trainkit.metrics.table import make
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.callback import Callback, bad_name
from trainkit.trainer.settings import Settings
from trainkit.trainer.trainer import Trainer

from . import registry
from .construct import NOT_CONFIGURED, attempt, build_one, call, find_class
from .model import NetBuilder
from .signature import check_arguments, signature

KEYS = ("seed", "data", "model", "loss", "optimizer", "metrics", "trainer", "callbacks")
REQUIRED = ("data", "model", "loss", "optimizer")


@dataclass(frozen=True)
class Parts:
    """The objects of a configuration. `data` reads the data when called; `optimizer` needs the net, with its replicas.

    sizes: those of the data, if a layer's sizes are `auto`.
    """

    seed: int
    net: Module
    loss: Loss
    callbacks: Mapping[str, Callback]
    data: Callable[..., Dataset]
    optimizer: Callable[[Module], Optimizer]
    settings: Settings
    sizes: Sizes | None = None

    def trainer(self, callbacks: Mapping[str, Callback] | None = None, **extra: Any) -> Trainer:
        """Return a trainer with these settings. callbacks: in place of the configuration's. extra: `run_dir`, `config`."""
        return Trainer(**self.settings.as_dict(), callbacks=self.callbacks if callbacks is None else callbacks, **extra)


def build(config: dict[str, Any], net: Module | None = None, loss: Loss | None = None, sizes: Sizes | None = None) -> Parts:
    """Check everything against tables and signatures, then build it. Raises UserErrors with every error found.

    net, loss: used as they are, in place of the configuration's. sizes: those of the data, for layers whose sizes are `auto`;
    if there are such layers and it is None, the data is read here, and `Parts.data` returns it without reading it again.
    """
    errors = [f"{key}: no such key{suggest(key, KEYS)}" for key in config if key not in KEYS]
    passed = {"model": net, "loss": loss}
    if missing := [key for key in REQUIRED if config.get(key) is None and passed.get(key) is None]:
        errors.append(f"{', '.join(missing)}: missing; a configuration has {', '.join(REQUIRED)}")
    seed = config.get("seed", 0)
    if wrong_seed := check_value(seed, int, "seed"):
        errors += wrong_seed
        seed = 0  # the rest is checked with another
    present = {key: config[key] for key in REQUIRED if config.get(key) is not None}
    data = _data(present["data"], errors) if "data" in present else None
    is_new, builder = net is None, NetBuilder(errors)
    if net is None and "model" in present:
        net = builder.net(present["model"])
    if loss is None and "loss" in present:
        loss = _loss(present["loss"], errors)
    optimizer = _optimizer(present["optimizer"], errors) if "optimizer" in present else None
    metrics = _metrics([] if config.get("metrics") is None else config["metrics"], errors)
    settings = _settings({} if config.get("trainer") is None else config["trainer"], seed, metrics, errors)
    callbacks = _callbacks({} if config.get("callbacks") is None else config["callbacks"], errors)
    if errors:
        raise UserErrors(errors)
    assert data is not None
    if builder.uses_auto:
        if sizes is None:
            seed_globals(seed)  # as before any reading of the data: a user's own source may draw
            read = data()
            data, sizes = _ReadAhead(data, read), Sizes.of(read)
            del read  # it is large, and `data` gives it away
        net = attempt(lambda: NetBuilder(errors, sizes).net(present["model"]), "", errors)
        if errors:
            raise UserErrors(errors)
    assert net is not None
    assert loss is not None
    assert optimizer is not None
    assert settings is not None
    seeds = settings.replica_seeds()
    if is_new and len(seeds) > 1:
        attempt(lambda: net.replicate(seeds), "", errors)
    elif is_new:
        attempt(lambda: net.initialize(generator(seeds[0], "init")), "", errors)
    attempt(lambda: optimizer(net).check_replicas(len(seeds)), "optimizer.", errors)
    if errors:
        raise UserErrors(errors)
    return Parts(seed, net, loss, callbacks, data, optimizer, settings, sizes if builder.uses_auto else None)


class _ReadAhead:
    """The function `data`, which has returned `read`: the first call without a schema returns that, and forgets it."""

    def __init__(self, data: Callable[..., Dataset], read: Dataset) -> None:
        self.data, self.waiting = data, [read]

    def __call__(self, schema: dict[str, object] | None = None) -> Dataset:
        return self.waiting.pop() if self.waiting and not schema else self.data(schema)


def _loss(value: Any, errors: list[str]) -> Loss | None:
    found = find_class("loss", value, "loss", errors)
    if found is None:
        return None
    loss: Loss | None = build_one(*found, "loss", errors)
    return loss


def _optimizer(value: Any, errors: list[str]) -> Callable[[Module], Optimizer] | None:
    found = find_class("optimizer", value, "optimizer", errors)
    if found is None:
        return None
    cls, name, arguments = found
    wrong = check_arguments(cls, arguments, f"optimizer.{name}", NOT_CONFIGURED)
    errors += wrong
    if not wrong:
        stand_in = torch.zeros(1)  # checks the values before there is a net
        attempt(lambda: call(cls, arguments, [(stand_in, stand_in.clone())]), "optimizer.", errors)
    return lambda net: call(cls, arguments, net.param())


def _metrics(value: Any, errors: list[str]) -> list[Any]:
    """Return metrics as `Settings.metrics` takes them; the name of a user's class is replaced by the class."""
    if not isinstance(value, list):
        errors.append(f"metrics: {yaml_repr(value)}; needs a list: [accuracy, f1, {{top_k: {{k: 5}}}}]")
        return []
    own = registry.names("metric")
    specs = [registry.find("metric", v) if isinstance(v, str) and v in own else v for v in value]
    return [spec for spec in specs if attempt(lambda spec=spec: make(spec), "", errors) is not None]  # type: ignore[misc]


def _settings(value: Any, seed: int, metrics: list[Any], errors: list[str]) -> Settings | None:
    if not isinstance(value, dict):
        errors.append(f"trainer: {yaml_repr(value)}; needs a mapping, {{max_epochs: 5}}")
        return None
    if "mode" in value:
        now = {"compile": "native"}.get(value["mode"], value["mode"])
        errors.append(f"trainer.mode: was renamed; write trainer.engine={yaml_repr(now)}")
        return None
    elsewhere = (*NOT_CONFIGURED, "seed", "metrics", "callbacks", "run_dir", "config")
    wrong = {key: check_arguments(Trainer, {key: v}, "trainer", elsewhere) for key, v in value.items()}
    errors += [line for lines in wrong.values() for line in lines]
    related = ("accumulate", "seeds") if any(wrong.values()) else ()  # checked against others, which may be left out here
    valid = {key: v for key, v in value.items() if not wrong[key] and key not in related}
    settings: Settings | None = attempt(lambda: Settings(**valid, seed=seed, metrics=metrics), "", errors)
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
    attempt(lambda: augmentations_of(augment), "", errors)

    def data(schema: dict[str, object] | None = None) -> Dataset:
        takes_schema = "schema" in signature(read)[0]
        dataset: Dataset = read(**arguments, schema=schema) if takes_schema and schema else read(**arguments)
        if schema:
            _check_schema(value["name"], dataset, schema, takes_schema)
        return dataset.augmented(*augment) if augment else dataset

    return data


def _check_schema(name: str, data: Dataset, schema: Mapping[str, object], takes_schema: bool) -> None:
    """Raise UserError unless the data was read by `schema`, that of a checkpoint, or by an equal one of its own."""
    if not data.schema:
        raise UserError(f"data: the checkpoint's data was a table, but {name} returns none; use the original data")
    if not takes_schema and data.schema != dict(schema):
        keys = ", ".join(sorted(key for key in {*schema, *data.schema} if schema.get(key) != data.schema.get(key)))
        raise UserError(
            f"data: {name} returns a table with another schema than the checkpoint's ({keys} differ);"
            f" return the original table, or let {name} take an argument schema=None and pass it to the function that reads it"
        )


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
            cb = attempt(lambda cls=cls, arguments=arguments: cls(**arguments), f"{place}: ", errors)  # type: ignore[misc]
            if cb is not None:
                built[name] = cb
    return built
