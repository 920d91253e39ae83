"""The names a configuration may use: a closed table. A name refers to a class of trainkit or of the user's own files.

A configuration can therefore train, but never import or run anything. The user can add files in two ways only: in the folders
`callbacks/` and `data/` where the command is run, one callback or one source of data per file, named after its file; and by
`--import FILE` on the command line.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import trainkit
from trainkit import optim
from trainkit.callbacks import TABLE as TABLE
from trainkit.core.errors import UserError, suggest
from trainkit.data import sources
from trainkit.data.dataset import Dataset
from trainkit.data.sources.adopt import as_dataset
from trainkit.metrics.own import is_own_class
from trainkit.nn import layers, losses
from trainkit.nn.layers import Container
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.callback import Callback


def _classes(package: ModuleType, base: type) -> tuple[str, ...]:
    """Return the names of the classes that a package of trainkit offers, except the base class."""
    return tuple(name for name, value in vars(package).items() if isinstance(value, type) and value is not base)


LAYERS, LOSSES, OPTIMIZERS = _classes(layers, Container), _classes(losses, Loss), _classes(optim, Optimizer)
DATA = ("disk", "idx", "npy", "csv", "parquet", "image_folder", "memory")

_imported: dict[str, type] = {}  # by class name, from --import
_functions: dict[str, Callable[..., Any]] = {}  # by name, from --import: sources of data


def names(kind: str) -> list[str]:
    """Return the names allowed for a layer, loss, optimizer, data or callback."""
    own = [n for n, cls in _imported.items() if kind in _KINDS and _KINDS[kind](cls)]
    if kind == "callback":
        return [*TABLE, *own, *_own_files("callbacks", TABLE)]
    if kind == "data":
        return [*DATA, *_functions, *_own_files("data", DATA)]
    return [*{"layer": LAYERS, "loss": LOSSES, "optimizer": OPTIMIZERS, "metric": ()}[kind], *own]


_BASES = {"layer": Module, "loss": Loss, "optimizer": Optimizer, "callback": Callback}
_KINDS = {**{kind: base.__subclasscheck__ for kind, base in _BASES.items()}, "metric": is_own_class}


def find(kind: str, name: str) -> Callable[..., Any]:
    """Return the class (for data, the function) of that name. Raises UserError with the nearest name."""
    if name in _imported and kind in _KINDS and _KINDS[kind](_imported[name]):
        return _imported[name]
    if kind == "callback":
        if name in TABLE:
            return getattr(trainkit, TABLE[name])
        if name in TABLE.values():
            return getattr(trainkit, name)
        if name in _own_files("callbacks", TABLE):
            return own_callback(Path("callbacks") / f"{name}.py")
    elif kind == "data":
        if name in DATA:
            return getattr(sources, name)
        if name in _functions:
            return own_source(name, _functions[name])
        if name in _own_files("data", DATA):
            return own_source(name, source_in(Path("data") / f"{name}.py"))
    elif name in names(kind):
        return getattr(trainkit, name)
    raise UserError(f"no {kind} {name!r}{suggest(name, names(kind))}")


def callback_entry(name: str, value: Any) -> tuple[str, Any]:
    """Return the class, as `find` takes it, and the arguments of an entry under `callbacks`.

    `early_stopping: {patience: 3}` and `EarlyStopping: {...}` name the class; `mine: {EarlyStopping: {...}}` renames it.
    A class of trainkit is returned as `EarlyStopping`. `find` refuses an unknown class. That of
    `early_stoping: {patience: 3}` is the outer name: the value of an inner one would be a mapping of arguments or null.
    """
    known = {*names("callback"), *TABLE.values()}
    if name not in known and isinstance(value, dict) and len(value) == 1:
        inner, arguments = next(iter(value.items()))
        if inner in known or arguments is None or isinstance(arguments, dict):
            name, value = inner, arguments
    return TABLE.get(name, name), value


def check_callback(name: str, place: str, inner: str = "") -> None:
    """Raise UserError at `place` unless there is a callback `name`, or a class `inner` that it renames. Runs no user's file."""
    known = names("callback")
    if not {name, inner} & {*known, *TABLE.values()}:
        raise UserError(f"{place}: no callback {name!r}{suggest(name, known)}")


def _own_files(folder: str, known: Collection[str]) -> list[str]:
    """Return the names of the files of `callbacks/` or `data/` in the current folder that are not trainkit's own."""
    if not Path(folder).is_dir():
        return []
    return sorted(p.stem for p in Path(folder).glob("*.py") if re.fullmatch(r"[a-z]\w*", p.stem) and p.stem not in known)


def source_in(path: Path) -> Callable[..., Any]:
    """Return the function of a user's file that reads data: the one of the file's name, or the only one that is not private.

    Raises UserError where it is not clear which function that is.
    """
    found = functions_of(_run(path))
    if path.stem not in found and len(found) != 1:
        listed = ", ".join(found) or "none"
        raise UserError(f"{path}: defines the functions {listed}; name the one that returns the data {path.stem!r}")
    return found.get(path.stem) or next(iter(found.values()))


def own_source(name: str, function: Callable[..., Any]) -> Callable[..., Dataset]:
    """Return a user's function as a source of data. It may return a Dataset, or whatever `Trainer.fit` takes as data.

    Raises UserError that names the function if it raises anything else.
    """

    @wraps(function)
    def read(*args: Any, **kwargs: Any) -> Dataset:
        try:
            data, batch_size = as_dataset(function(*args, **kwargs))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"data.name: {name} raised {type(error).__name__}: {error}; --debug prints where") from error
        if batch_size is not None:
            data = replace(data, loader_batch_size=batch_size)
        return replace(data, source={"name": name, **{key: value for key, value in kwargs.items() if key != "schema"}})

    return read


def own_callback(path: Path) -> type[Callback]:
    """Return the Callback that a user's file defines. Raises UserError unless it defines exactly one."""
    found = [c for c in classes_of(_run(path)) if issubclass(c, Callback)]
    if len(found) != 1:
        listed = ", ".join(c.__name__ for c in found) or "none"
        raise UserError(f"{path}: defines {listed}; a file in callbacks/ defines exactly one subclass of trainkit.Callback")
    return found[0]


def import_file(path: Path) -> None:
    """Run a user's file and allow its layers, losses, optimizers, metrics, callbacks and sources of data by name (--import)."""
    module = _run(path)
    for cls in classes_of(module):
        _imported[cls.__name__] = cls
    _functions.update(functions_of(module))


def allow(cls: type) -> None:
    """Allow a user's class by its name, as `import_file` does. Raises UserError for a class of any other kind."""
    if not (isinstance(cls, type) and any(is_of(cls) for is_of in _KINDS.values())):
        raise UserError(f"classes: {cls!r} is not a layer, loss, optimizer, metric or callback class")
    _imported[cls.__name__] = cls


def classes_of(module: ModuleType) -> list[type]:
    """Return the layers, losses, optimizers, metrics and callbacks that are defined in `module` itself."""
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    return [c for c in own if any(is_of(c) for is_of in _KINDS.values())]


def functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the functions that are defined in `module` itself and are not private, by name."""
    own = {name: f for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    return {name: f for name, f in own.items() if not name.startswith("_")}


def _run(path: Path) -> ModuleType:
    """Import a user's file by its path. User code is imported nowhere else."""
    name = f"trainkit_user_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path.resolve()):
        return known
    if not path.is_file():
        raise UserError(f"--import {path}: no such file")
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: cannot be imported; needs a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return module
