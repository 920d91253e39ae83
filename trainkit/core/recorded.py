"""Objects that record their constructor arguments, so that a run from Python can be saved as a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Self

from .errors import UserError, suggest

PLAIN = (str, int, float, bool, type(None))


class Recorded:
    """Base of modules, losses, optimizers and callbacks: `_given` holds the arguments of the constructor."""

    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        check_keywords(cls, kwargs)
        made = super().__new__(cls)
        made._given = (args, kwargs)
        return made


def check_keywords(cls: type, given: Mapping[str, Any]) -> None:
    """Raise TypeError with the nearest name where the constructor has no argument of a name that is given."""
    if not given:
        return
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            raise TypeError(f"{cls.__name__}: no argument {name!r}{suggest(name, parameters)}")


def arguments(made: Recorded, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of an object that differ from the defaults, by name, as plain values.

    without: names to leave out. Raises UserError for an argument that a file cannot hold: a function, a tensor, an object.
    """
    args, kwargs = made._given
    bound = inspect.signature(type(made)).bind(*args, **kwargs)
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= value
        elif name not in without and not _same(value, parameter.default):
            found[name] = value
    return {name: yaml_value(value, f"{type(made).__name__}.{name}") for name, value in found.items()}


def described(made: Recorded) -> str:
    """Return the class and its arguments as given: `EarlyStopping(patience=5)`."""
    args, kwargs = made._given
    return f"{type(made).__name__}({', '.join([*map(repr, args), *(f'{k}={v!r}' for k, v in kwargs.items())])})"


def yaml_value(value: Any, place: str) -> Any:
    """Return the value as lists, dicts, numbers and strings. Raises UserError for any other type."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Mapping):
        return {str(k): yaml_value(v, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [yaml_value(v, f"{place}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, PLAIN):  # a subclass: an enumeration, or numpy's float64
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    raise UserError(f"{place} is a {type(value).__name__}, which a file cannot hold")


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and type(value) in PLAIN and bool(value == default)
