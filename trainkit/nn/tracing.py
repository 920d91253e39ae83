"""Trace a pass: every call of a module's `fwd`, `bwd` and `bwd_params` is reported with its input and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .module import Module, Tensors, eval_mode, fwd_value


@dataclass(frozen=True)
class Call:
    """One call of a module in a pass. `phase` is fwd, bwd or bwd_params; `given` and `gave` are x and y, dy and dx, or dy and
    None. A module without a `bwd_params` of its own calls `bwd` in it; that call is reported too."""

    path: str
    module: Module
    phase: str
    given: Tensors
    gave: Tensors

    @property
    def place(self) -> str:
        return place(self.path, self.module)


def place(path: str, module: Module) -> str:
    """Return the place of a module for messages: `2.Linear`, or `Linear` for a net of one module."""
    return f"{path}.{type(module).__name__}" if path else type(module).__name__


@contextmanager
def traced(net: Module, on_call: Callable[[Call], None]) -> Iterator[None]:
    """Call `on_call` after each module's fwd, bwd and bwd_params inside the context."""
    wrapped = []
    for path, module in net.modules():
        wrapped.append(module)
        for phase in ("fwd", "bwd", "bwd_params"):
            setattr(module, phase, _reporting(path, module, phase, on_call))
    try:
        yield
    finally:
        for module in wrapped:
            for name in ("fwd", "bwd", "bwd_params"):
                module.__dict__.pop(name, None)


def _reporting(path: str, module: Module, phase: str, on_call: Callable[[Call], None]) -> Callable[..., Any]:
    """Return the module's method `phase`, which reports its calls."""
    call = getattr(module, phase)

    def reporting(*args: Any) -> Any:
        result = call(*args)
        on_call(Call(path, module, phase, args[-1], result[0] if phase == "fwd" else result))
        return result

    return reporting


def trace(net: Module, x: Tensors) -> list[Call]:
    """Return the forward calls of one evaluation of `net` on `x`, in order, a container's call after those of its modules."""
    calls: list[Call] = []
    with eval_mode(net), traced(net, calls.append), torch.no_grad():
        fwd_value(net, x)
    return calls
