"""Check plain values against patterns (the content of checkpoints) and type hints (the values of configurations)."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor

from .errors import UserErrors, suggest

COUNTER = range(1 << 53)  # the whole numbers that a float holds exactly; a run's counters are below this limit
MAX_CHARACTERS = 60  # characters of a value in a message
MAX_LINES = 10  # error lines about one value


class OneOf:
    """A pattern that matches what any of `patterns` matches."""

    def __init__(self, *patterns: Any) -> None:
        self.patterns = patterns


def require(value: Any, pattern: Any, place: str) -> None:
    """Raise UserErrors unless `value` matches `pattern`. A callback's `load_state_dict` begins with it."""
    if wrong := mismatches(value, pattern, place):
        more = [f"{place}: and {len(wrong) - MAX_LINES:,} more values"] if len(wrong) > MAX_LINES else []
        raise UserErrors([*wrong[:MAX_LINES], *more])


def mismatches(value: Any, pattern: Any, place: str) -> list[str]:
    """Return how `value` differs from `pattern`, one line per difference; [] if it matches.

    Patterns: Any; str, bool, int, float (an int matches too), Tensor or a dtype: a value of that type; a range: an int in it;
    another constant: that value; [P]: a list of P; (P, Q): a list or tuple of exactly these; {str: P}: a mapping with any
    keys of that type; {"a": P, "b": Q}: a mapping with exactly these keys; OneOf(P, Q).
    """
    if pattern is Any:
        return []
    if isinstance(pattern, OneOf):
        return [] if any(not mismatches(value, p, place) for p in pattern.patterns) else [_line(value, pattern, place)]
    if isinstance(pattern, dict) and isinstance(value, dict):
        if pattern and isinstance(next(iter(pattern)), type):
            ((key_type, item),) = pattern.items()
            lines = [
                f"{place}: key {short_repr(k)}; needs {describe_pattern(key_type)}" for k in value if type(k) is not key_type
            ]
            return lines + [line for k, v in value.items() for line in mismatches(v, item, f"{place}.{short_repr(k, '')}")]
        lines = [f"{place}: has no {k}" for k in pattern if k not in value]
        lines += [f"{place}: {short_repr(k, '')} is not known" for k in value if k not in pattern]
        return lines + [line for k, p in pattern.items() if k in value for line in mismatches(value[k], p, f"{place}.{k}")]
    if isinstance(pattern, list) and isinstance(value, list):
        return [line for i, v in enumerate(value) for line in mismatches(v, pattern[0], f"{place}[{i}]")]
    if isinstance(pattern, tuple) and isinstance(value, (list, tuple)) and len(value) == len(pattern):
        return [line for i, (v, p) in enumerate(zip(value, pattern, strict=True)) for line in mismatches(v, p, f"{place}[{i}]")]
    return [] if _is_like(value, pattern) else [_line(value, pattern, place)]


def _is_like(value: Any, pattern: Any) -> bool:
    if isinstance(pattern, range):
        return type(value) is int and value in pattern
    if isinstance(pattern, torch.dtype):
        return isinstance(value, Tensor) and value.dtype == pattern
    if pattern is float:
        return type(value) in (int, float)
    if isinstance(pattern, type):
        return type(value) is pattern
    return type(value) is type(pattern) and not isinstance(value, (dict, list, tuple)) and bool(value == pattern)


def _line(value: Any, pattern: Any, place: str) -> str:
    return f"{place}: {short_repr(value)}; needs {describe_pattern(pattern)}"


def describe_pattern(pattern: Any) -> str:
    """Return a pattern in words."""
    if isinstance(pattern, OneOf):
        return " or ".join(map(describe_pattern, pattern.patterns))
    if isinstance(pattern, range):
        return f"a whole number from {pattern.start} to {pattern.stop - 1}"
    if isinstance(pattern, dict):
        return "a mapping"
    if isinstance(pattern, list):
        return "a list"
    if isinstance(pattern, tuple):
        return f"a list of {len(pattern)}"
    if isinstance(pattern, torch.dtype):
        return f"a tensor of {str(pattern).removeprefix('torch.')}"
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Tensor: "a tensor"}
    return named.get(pattern, repr(pattern)) if isinstance(pattern, type) else repr(pattern)


def short_repr(value: Any, quote: str = "'") -> str:
    """Return a value for a message: short, and without control characters."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value) if not isinstance(value, str) or quote else repr(value)[1:-1]
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def check_value(value: Any, hint: Any, place: str) -> list[str]:
    """Return [] if `value` is of the type `hint`, else one line."""
    for n in numbers_in(value):
        if n != n:
            return [f"{place}: {short_repr(n)}; needs a number"]
        if isinstance(n, int) and abs(n) >= COUNTER.stop:
            return [f"{place}: {short_repr(n)}; needs a number nearer to 0 than {COUNTER.stop}"]
    if matches_hint(value, hint):
        return []
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if choices and isinstance(value, str):
        return [f"{place}: {short_repr(value)}{suggest(value, map(str, choices))}"]
    found = "" if isinstance(value, float) or value is None else f", not {yaml_type(value)}"
    return [f"{place}: {yaml_repr(value)}; needs {describe_type(hint)}{found}{yaml_advice(value, hint)}"]


def numbers_in(value: Any) -> list[float]:
    """Return the numbers in a value and in its lists."""
    if isinstance(value, list):
        return [n for v in value for n in numbers_in(v)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def yaml_repr(value: Any) -> str:
    """Return a value as YAML writes it, shortened as `short_repr` does."""
    if isinstance(value, (list, dict)) and len(repr(value)) <= MAX_CHARACTERS:
        return repr(value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else short_repr(value)


def matches_hint(value: Any, hint: Any) -> bool:
    """Return whether a plain value is of a type. An int is also a float, a bool is neither, a list is also a tuple."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return True
    if origin in (Union, types.UnionType):
        return any(matches_hint(value, a) for a in args)
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
        return isinstance(value, list) and (not args or all(matches_hint(v, args[0]) for v in value))
    if origin in (dict, Mapping) or hint is dict:
        return isinstance(value, dict)
    return False  # tensors, modules and functions are not values of a configuration


def describe_type(hint: Any) -> str:
    """Return a type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (list, tuple, Sequence):
        several = {int: " of whole numbers", float: " of numbers", str: " of texts"}
        return f"a list{several.get(args[0], '')}" if args else "a list"
    if origin in (dict, Mapping) or hint is dict:
        return "a mapping"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return plain.get(hint, "something only Python can give")


def yaml_type(value: Any) -> str:
    """Return the type of a value of YAML in words."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(type(value), "null")


def yaml_advice(value: Any, hint: Any) -> str:
    """Return a hint about quotes and exponents in YAML that probably explains the value, or the empty string."""
    if isinstance(value, bool) and not matches_hint(True, hint):
        return " (YAML reads yes, no, on and off as true and false: put words in quotes)"
    if isinstance(value, float) and value.is_integer() and matches_hint(1, hint):
        return f" (write {int(value)})"
    if isinstance(value, str) and matches_hint(1.0, hint):
        try:
            float(value)
        except ValueError:
            return ""
        return f" (without quotes; with an exponent write {float(value)!r})"
    return ""
