"""A source of data is a function that returns a Dataset, which records the function's name and arguments."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec

from trainkit.core.errors import UserError
from trainkit.core.recorded import yaml_value
from trainkit.data.dataset import Dataset

P = ParamSpec("P")


def source(read: Callable[P, Dataset]) -> Callable[P, Dataset]:
    """Decorate a function that reads or generates data: `Dataset.source` is then its name and arguments.

    An argument that begins with ~/ is a path in the home directory.
    If a configuration cannot hold one of the arguments, the data counts as given in Python.
    """

    @wraps(read)
    def recording(*args: P.args, **kwargs: P.kwargs) -> Dataset:
        given: Any = [*map(expanded, args)], {name: expanded(value) for name, value in kwargs.items()}
        data = read(*given[0], **given[1])
        try:
            bound = inspect.signature(read).bind(*args, **kwargs)
            flat = {**bound.arguments, **bound.arguments.get("options", {})}  # **options are arguments like the others
            recorded = {name: yaml_value(value, name) for name, value in flat.items() if name not in ("schema", "options")}
        except UserError:
            return data
        return replace(data, source={"name": read.__name__, **recorded})

    return recording


def expanded(value: Any) -> Any:
    """Return the path ~/name in the home directory, any other value as it is."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def memory() -> Dataset:
    """Raise UserError: data that was given in Python cannot be read again."""
    advice = "trainkit.load(RUN) and test(data), predict(x) or fit(data), or a configuration with data"
    raise UserError(f"data: was given in Python; give it again: {advice}")
