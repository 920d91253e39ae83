"""Modules made of modules, and the plumbing between them: chains, sums, branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import FORWARD_ERRORS, MappedSaved, Module, Value, bwd_value, fwd_value, located


class Container(Module):
    """Modules in a list, named 0, 1, ... as torch names them. One module may stand in it twice: its gradients add."""

    accepts_tuple = True

    def __init__(self, *modules: Module) -> None:
        self.layers: list[Module] = []
        self.add(*modules)

    def add(self, *modules: Module) -> Self:
        """Append modules; returns the container."""
        for m in modules:
            if not isinstance(m, Module):
                raise UserError(f"{type(self).__name__}.add: {m!r} is no Module")
        self.layers.extend(modules)
        # Below the first module with parameters nothing is to be differentiated; an inner container may get some later.
        trainable = (i for i, m in enumerate(self.layers) if isinstance(m, Container) or m.param())
        self._first = next(trainable, len(self.layers))
        return self

    def children(self) -> Iterator[tuple[str, Module]]:
        return ((str(i), m) for i, m in enumerate(self.layers))

    def __getitem__(self, i: int) -> Module:
        return self.layers[i]

    def __len__(self) -> int:
        return len(self.layers)

    def extra_repr(self) -> str:
        return ", ".join(map(repr, self.layers))


class Sequential(Container):
    """y = fₖ(... f₁(x)). Saves what each module saves; the chain rule runs it backwards.

    A module that takes one tensor and is given a tuple maps over it.
    """

    def fwd(self, x: Value) -> tuple[Value, list[Any]]:
        saved: list[Any] = []
        try:
            for m in self.layers:
                x, s = m.fwd(x) if type(x) is not tuple else fwd_value(m, x)
                saved.append(s)
        except FORWARD_ERRORS as error:
            raise located(self, self.layers[len(saved)], x, error) from error
        return x, saved

    def bwd(self, saved: list[Any], dy: Value) -> Value:
        for m, s in zip(reversed(self.layers), reversed(saved), strict=True):
            dy = m.bwd(s, dy) if type(s) is not MappedSaved else bwd_value(m, s, dy)
        return dy

    def bwd_params(self, saved: list[Any], dy: Value) -> None:
        """Empties `saved` from its end: an activation's memory is free when the module that saved it has used it."""
        for i in range(len(saved) - 1, self._first, -1):
            m, s = self.layers[i], saved.pop()
            dy = m.bwd(s, dy) if type(s) is not MappedSaved else bwd_value(m, s, dy)
        if self._first < len(saved):
            m, s = self.layers[self._first], saved.pop()
            if type(s) is MappedSaved:
                bwd_value(m, s, dy)
            else:
                m.bwd_params(s, dy)


class Recompute(Sequential):
    """y = fₖ(... f₁(x)), saving x alone: the backward pass computes the rest again. Memory for a second forward pass.

    Known as activation checkpointing, torch.utils.checkpoint. The second pass draws the random numbers of the first.
    With `recomputes` False it is a Sequential. Engines set that on a copy of the net: for compiled code, where the compiler
    chooses what is kept, and for a captured step that draws.
    Source: Chen, Xu, Zhang, Guestrin 2016.
    """

    recomputes = True

    def fwd(self, x: Value) -> tuple[Value, Any]:
        if not self.recomputes:
            return super().fwd(x)
        drawn = [(g, g.get_state()) for g in active_generators(self)]
        return super().fwd(x)[0], (x, drawn)

    def bwd(self, saved: Any, dy: Value) -> Value:
        return super().bwd(self._again(saved), dy)

    def bwd_params(self, saved: Any, dy: Value) -> None:
        super().bwd_params(self._again(saved), dy)

    def _again(self, saved: Any) -> list[Any]:
        """What `Sequential` would have saved."""
        if not self.recomputes:
            saved_once: list[Any] = saved
            return saved_once
        x, drawn = saved
        now = [g.get_state() for g, _ in drawn]
        for g, state in drawn:
            g.set_state(state)
        again = super().fwd(x)[1]
        for (g, _), state in zip(drawn, now, strict=True):
            g.set_state(state)
        return again


def active_generators(net: Module) -> list[torch.Generator]:
    """The generators that a pass in training draws from, each once; torch's global one stands for None."""
    found = {id(g): g for _, m in net.modules() for g in getattr(m, "generators", ()) if m.training}
    return [torch.default_generator if g is None else g for g in found.values()]


class Residual(Sequential):
    """y = x + f(x), f the chain of the modules; dx = dy + f'(dy). Source: He et al. 2016."""

    accepts_tuple = False

    def fwd(self, x: Tensor) -> tuple[Tensor, list[Any]]:
        y, saved = super().fwd(x)
        if y.shape != x.shape:
            raise UserError(f"Residual: x is {tuple(x.shape)}, f(x) is {tuple(y.shape)}; both need one shape")
        return x + y, saved

    def bwd(self, saved: list[Any], dy: Tensor) -> Tensor:
        return dy + super().bwd(saved, dy)


class Parallel(Container):
    """(y₁, ..., yₖ) = (f₁(x₁), ..., fₖ(xₖ)): a module for each tensor of a tuple."""

    def fwd(self, x: Value) -> tuple[Value, list[Any]]:
        if type(x) is not tuple or len(x) != len(self.layers):
            got = f"a tuple of {len(x)}" if type(x) is tuple else "one tensor"
            raise UserError(
                f"Parallel: x is {got}, needs a tuple of {len(self.layers)}; put FanOut({len(self.layers)}) before it"
            )
        pairs: list[tuple[Value, Any]] = []
        try:
            for m, xi in zip(self.layers, x, strict=True):
                pairs.append(fwd_value(m, xi))
        except FORWARD_ERRORS as error:
            i = len(pairs)
            raise located(self, self.layers[i], x[i], error) from error
        return tuple(y for y, _ in pairs), [saved for _, saved in pairs]

    def bwd(self, saved: list[Any], dy: Value) -> Value:
        return tuple(bwd_value(m, s, d) for m, s, d in zip(self.layers, saved, dy, strict=True))
