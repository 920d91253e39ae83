"""Values against the signature of what they are for: names, types, choices. Errors carry path, value and cure."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trainkit.core.errors import near
from trainkit.core.validation import COUNT, shown


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
            errors.append(f"{place}: no argument {key!r}{near(str(key), named)}")
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


def check_value(value: Any, hint: Any, place: str) -> list[str]:
    """[] if `value` is of the type `hint`, else one line."""
    if odd := [n for n in numbers(value) if n != n or (isinstance(n, int) and abs(n) >= COUNT.stop)]:
        return [f"{place}: {shown(odd[0])}; needs a number{'' if odd[0] != odd[0] else f' nearer to 0 than {COUNT.stop}'}"]
    if fits(value, hint):
        return []
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if choices and isinstance(value, str):
        return [f"{place}: {shown(value)}{near(value, map(str, choices))}"]
    found = "" if isinstance(value, float) or value is None else f", not {kind(value)}"
    return [f"{place}: {written(value)}; needs {describe(hint)}{found}{hint_of_yaml(value, hint)}"]


def numbers(value: Any) -> list[float]:
    """The numbers in a value and its lists."""
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def written(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, (list, dict)) and len(repr(value)) <= 60:
        return repr(value)
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else shown(value)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type: an int is a float, a bool is neither, a list may be a sequence or tuple."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin is Literal:
        return value in args and type(value) in {type(a) for a in args}
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and (not args or all(fits(v, args[0]) for v in value))
    if origin in (dict, Mapping) or hint is dict:
        return isinstance(value, dict)
    return False  # tensors, modules, functions: never a configuration's


def describe(hint: Any) -> str:
    """A type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (list, tuple, Sequence):
        several = {int: " of whole numbers", float: " of numbers", str: " of texts"}
        return f"a list{several.get(args[0], '')}" if args else "a list"
    if origin in (dict, Mapping) or hint is dict:
        return "a mapping"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return plain.get(hint, "something only Python can give")


def kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(type(value), "null")


def hint_of_yaml(value: Any, hint: Any) -> str:
    """A word about YAML's traps, where one was probably stepped into."""
    if isinstance(value, bool) and not fits(True, hint):
        return " (YAML reads yes, no, on and off as true and false: put words in quotes)"
    if isinstance(value, float) and value.is_integer() and fits(1, hint):
        return f" (write {int(value)})"
    if isinstance(value, str) and fits(1.0, hint):
        try:
            float(value)
        except ValueError:
            return ""
        return f" (without quotes; with an exponent write {float(value)!r})"
    return ""
