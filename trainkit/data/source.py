"""What a source of data is: a function that returns a Dataset, which notes its name and arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import ParamSpec

from trainkit.core.errors import UserError
from trainkit.core.recorded import plain

from .dataset import Dataset

P = ParamSpec("P")


def source(read: Callable[P, Dataset]) -> Callable[P, Dataset]:
    """Decorate a function that reads or makes data: `Dataset.source` is then its name and arguments.

    Where an argument is something that a configuration cannot hold, the data counts as given in Python.
    """

    @wraps(read)
    def noting(*args: P.args, **kwargs: P.kwargs) -> Dataset:
        data = read(*args, **kwargs)
        try:
            given = inspect.signature(read).bind(*args, **kwargs).arguments
            noted = {name: plain(value, name) for name, value in given.items() if name != "schema"}
        except UserError:
            return data
        return replace(data, source={"name": read.__name__, **noted})

    return noting


def memory() -> Dataset:
    """Data that was given in Python: there is nothing to read. Raises UserError that says what to do."""
    raise UserError("data: was given in Python; give it again: trainkit.load(RUN).test(data), or a configuration with data")
