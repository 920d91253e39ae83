"""Looking into a pass: every module's `fwd` and `bwd` reports what it was given and gave, while all is as usual otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .module import Module, Value, evaluating, fwd_value


@dataclass(frozen=True)
class Call:
    """One call of a module in a pass. `phase` is fwd, bwd or grad; `given` and `gave` are x and y, dy and dx, or dy and None.
    A module without a `grad` of its own calls `bwd` in it, which is seen too."""

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
def watching(
    net: Module, see: Callable[[Call], None], failed: Callable[[str, Module, Value], None] | None = None
) -> Iterator[None]:
    """Call `see` after each module's fwd, bwd and grad; `failed` with the innermost module that raises, once."""
    done: list[str] = []
    watched = []
    for path, module in net.modules():
        watched.append(module)
        for phase in ("fwd", "bwd", "grad"):
            setattr(module, phase, _reporting(path, module, phase, see, failed, done))
    try:
        yield
    finally:
        for module in watched:
            for name in ("fwd", "bwd", "grad"):
                module.__dict__.pop(name, None)


def _reporting(
    path: str,
    module: Module,
    phase: str,
    see: Callable[[Call], None],
    failed: Callable[[str, Module, Value], None] | None,
    done: list[str],
) -> Callable[..., Any]:
    call = getattr(module, phase)

    def reporting(*args: Any) -> Any:
        given = args[-1]
        try:
            result = call(*args)
        except Exception:
            if failed is not None and not done:
                done.append(path)
                failed(path, module, given)
            raise
        see(Call(path, module, phase, given, result[0] if phase == "fwd" else result))
        return result

    return reporting


def shape(x: Value) -> str:
    """`(50, 25)`, or `((50, 25), (50, 3))` for a tuple."""
    return f"({', '.join(shape(v) for v in x)})" if type(x) is tuple else str(tuple(getattr(x, "shape", ())))


def explain(net: Module, x: Value, error: Exception) -> UserError:
    """`error`, raised by the forward pass of `net` on `x`, as an error that names the innermost module and what it needs."""
    found: list[str] = []

    def failed(path: str, module: Module, given: Value) -> None:
        if isinstance(error, UserError):
            found.append(f"{path}.{error}" if path else str(error))
        elif _fits(module, given):
            found.append(f"{place(path, module)}: {_first_line(error)}")
        else:
            found.append(f"{place(path, module)}: x is {shape(given)}, needs {module.needs()}")

    if all(p.device == v.device for p, _ in net.param() for v in _tensors(x)):
        try:
            with watching(net, lambda call: None, failed):
                fwd_value(net, x)
        except Exception:
            pass
    return UserError(found[0] if found else f"{type(net).__name__}: {_first_line(error)}")


def _fits(module: Module, x: Value) -> bool:
    """Whether the shape is what a Linear-like module needs, so that the fault lies elsewhere (the dtype, say)."""
    features = getattr(module, "in_features", None)
    return features is None or (isinstance(x, Tensor) and x.dim() > 0 and x.shape[-1] == features)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _tensors(x: Value) -> Iterator[Tensor]:
    if type(x) is tuple:
        for v in x:
            yield from _tensors(v)
    elif isinstance(x, Tensor):
        yield x


def trace(net: Module, x: Value) -> list[Call]:
    """The forward calls of one evaluation of `net` on `x`, in order, containers after their parts."""
    calls: list[Call] = []
    with evaluating(net), watching(net, calls.append), torch.no_grad():
        fwd_value(net, x)
    return calls
