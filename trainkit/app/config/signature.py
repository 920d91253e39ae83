"""Values against the signature of what they are for: names, types, choices. Errors carry path, value and cure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from trainkit.core.errors import suggest
from trainkit.core.validation import check_value


def check_arguments(function: Callable[..., Any], given: Any, place: str, hidden: Sequence[str] = ()) -> list[str]:
    """What is wrong with calling `function` with `given` (a mapping, a list, or one value), a line each; [] if nothing.

    `hidden` names parameters that are not the configuration's to set.
    """
    parameters, hints = signature(function, hidden)
    if isinstance(given, list):
        fixed = [n for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL]
        if len(given) > len(fixed):
            return [f"{place}: {len(given)} values; takes at most {len(fixed)} ({', '.join(fixed)})"]
        given = dict(zip(fixed, given, strict=False))
    elif not isinstance(given, dict):
        given = {} if given is None else {next(iter(parameters), "value"): given}
    errors = []
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for key, value in given.items():
        if key in named:
            errors += check_value(value, hints.get(key, Any), f"{place}.{key}")
        elif not open_ended:
            errors.append(f"{place}: no argument {key!r}{suggest(str(key), named)}")
    missing = [n for n in named if n not in given and parameters[n].default is inspect.Parameter.empty]
    if missing:
        errors.append(f"{place}: needs {', '.join(missing)} ({', '.join(named)})")
    return errors


def signature(function: Callable[..., Any], hidden: Sequence[str] = ()) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters by name without self and the hidden ones, and their resolved types."""
    target = function.__init__ if inspect.isclass(function) else function
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n not in hidden}
    try:
        hints = get_type_hints(function if is_dataclass(function) else target)
    except NameError:
        hints = {}
    return parameters, hints
