"""An object from `name` or `{name: arguments}` in a configuration. What is wrong is added to a list of errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainkit.core.errors import UserError, memory_error_message
from trainkit.core.validation import yaml_repr
from trainkit.core.yaml_text import inline

from . import registry
from .signature import check_arguments

NOT_CONFIGURED = ("self", "params", "schema")  # parameters that only code sets


def attempt(make: Callable[[], Any], prefix: str, errors: list[str]) -> Any:
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


def find_class(kind: str, value: Any, place: str, errors: list[str]) -> tuple[Any, str, Any] | None:
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


def build_one(cls: Callable[..., Any], name: str, arguments: Any, place: str, errors: list[str]) -> Any:
    """Return cls(arguments), or None with what is wrong added to `errors`."""
    wrong = check_arguments(cls, arguments, f"{place}.{name}", NOT_CONFIGURED)
    errors += wrong
    return None if wrong else attempt(lambda: call(cls, arguments), f"{place}.", errors)
