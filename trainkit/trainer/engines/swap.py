"""Attributes that hold other values for a while: how a step is taken on tensors that are not the net's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import Module

Home = tuple[dict[str, Any], str]  # the attributes of an object, and the name of one


@contextmanager
def lent(values: Sequence[tuple[Home, Any]]) -> Iterator[None]:
    """Each home holds its value inside, and after that what it held before, or nothing."""
    before = [home.get(name, ...) for (home, name), _ in values]
    try:
        for (home, name), value in values:
            home[name] = value
        yield
    finally:
        for ((home, name), _), value in zip(values, before, strict=True):
            if value is ...:
                del home[name]
            else:
                home[name] = value


def homes(net: Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Home, Home]]:
    """The attributes that hold each parameter and each gradient. Raises UserError where one is no attribute."""
    found = {id(v): (vars(m), name) for _, m in net.modules() for name, v in vars(m).items() if isinstance(v, Tensor)}
    missing = [name for name, *pair in net.named_param() if any(id(v) not in found for v in pair)]
    if missing:
        raise UserError(f"{missing[0]} is no attribute of its module; write self.w, self.dw = self.parameter(...)")
    return [(found[id(p)], found[id(g)]) for p, g in pairs]
