"""Check values against a function's signature: names, types, choices. Errors give path, value and fix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from trainkit.core.errors import suggest
from trainkit.core.validation import check_value


def check_arguments(function: Callable[..., Any], values: Any, place: str, exclude: Sequence[str] = ()) -> list[str]:
    """Return the errors of calling `function` with `values` (a mapping, a list, or one value), one line each.

    exclude: parameters that a configuration cannot set.
    """
    parameters, hints = signature(function, exclude)
    given = bound(parameters, values)
    if given is None:
        fixed = _fixed(parameters)
        return [f"{place}: {len(values)} values; takes at most {len(fixed)} ({', '.join(fixed)})"]
    errors = []
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for key, value in given.items():
        if key in named:
            errors += check_value(value, hints.get(key, Any), f"{place}.{key}")
        elif not accepts_any:
            errors.append(f"{place}: no argument {key!r}{suggest(str(key), named)}")
    missing = [n for n in named if n not in given and parameters[n].default is inspect.Parameter.empty]
    if missing:
        errors.append(f"{place}: needs {', '.join(missing)} ({', '.join(named)})")
    return errors


def bound(parameters: Mapping[str, inspect.Parameter], values: Any) -> dict[str, Any] | None:
    """Return `values` (a mapping, a list, one value, or None) by parameter; None for a list that is too long."""
    if isinstance(values, list):
        fixed = _fixed(parameters)
        return dict(zip(fixed, values, strict=False)) if len(values) <= len(fixed) else None
    if isinstance(values, dict):
        return dict(values)
    return {} if values is None else {next(iter(parameters), "value"): values}


def _fixed(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [n for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL]


def signature(function: Callable[..., Any], exclude: Sequence[str] = ()) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Return the parameters by name, without self and `exclude`, and their resolved types.

    The keys of `**options: Unpack[SomeTypedDict]` are parameters too.
    """
    target = function.__init__ if inspect.isclass(function) else function
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n not in exclude}
    try:
        hints = get_type_hints(function if is_dataclass(function) else target)
    except NameError:
        hints = {}
    return _with_options(parameters, hints), hints


def _with_options(parameters: dict[str, inspect.Parameter], hints: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters with each key of `**options: Unpack[SomeTypedDict]` as a parameter, whose type enters `hints`."""
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and get_origin(hints.get(name)) is Unpack:
            keys = get_type_hints(get_args(hints[name])[0])
            hints.update(keys)
            found.update({key: inspect.Parameter(key, parameter.KEYWORD_ONLY, default=None) for key in keys})
        else:
            found[name] = parameter
    return found
