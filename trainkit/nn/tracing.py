"""Looking into a pass: every module's `fwd` and `bwd` reports what it was given and gave, while all is as usual otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .module import Module, Value, eval_mode, fwd_value


@dataclass(frozen=True)
class Call:
    """One call of a module in a pass. `phase` is fwd, bwd or bwd_params; `given` and `gave` are x and y, dy and dx, or dy and None.
    A module without a `bwd_params` of its own calls `bwd` in it, which is seen too."""

    path: str
    module: Module
    phase: str
    given: Value
    gave: Value

    @property
    def place(self) -> str:
        return place(self.path, self.module)


def place(path: str, module: Module) -> str:
    """`2.Linear`, or `Linear` for a net of one module."""
    return f"{path}.{type(module).__name__}" if path else type(module).__name__


@contextmanager
def traced(net: Module, see: Callable[[Call], None]) -> Iterator[None]:
    """Call `see` after each module's fwd, bwd and bwd_params."""
    watched = []
    for path, module in net.modules():
        watched.append(module)
        for phase in ("fwd", "bwd", "bwd_params"):
            setattr(module, phase, _reporting(path, module, phase, see))
    try:
        yield
    finally:
        for module in watched:
            for name in ("fwd", "bwd", "bwd_params"):
                module.__dict__.pop(name, None)


def _reporting(path: str, module: Module, phase: str, see: Callable[[Call], None]) -> Callable[..., Any]:
    call = getattr(module, phase)

    def reporting(*args: Any) -> Any:
        result = call(*args)
        see(Call(path, module, phase, args[-1], result[0] if phase == "fwd" else result))
        return result

    return reporting


def trace(net: Module, x: Value) -> list[Call]:
    """The forward calls of one evaluation of `net` on `x`, in order, containers after their parts."""
    calls: list[Call] = []
    with eval_mode(net), traced(net, calls.append), torch.no_grad():
        fwd_value(net, x)
    return calls
