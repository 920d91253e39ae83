"""Modules made of modules: chains, residual blocks, branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import FORWARD_ERRORS, MappedSaved, Module, Tensors, bwd_value, fwd_value, located


class Container(Module):
    """Base of containers: modules in a list, named 0, 1, ... as in torch. A module may occur twice; its gradients add up."""

    accepts_tuple = True

    def __init__(self, *modules: Module) -> None:
        self.layers: list[Module] = []
        self.add(*modules)

    def add(self, *modules: Module) -> Self:
        """Append modules and return the container."""
        for i, m in enumerate(modules):
            if not isinstance(m, Module):
                raise UserError(f"{type(self).__name__}.add: not a Module (got {m!r}) at {i}; {_advice(m)}")
        self.layers.extend(modules)
        # `bwd_params` stops at the first module with parameters. An inner container counts, since it may get some later.
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


def _advice(value: Any) -> str:
    """Return what to write in place of something that is not a module."""
    if isinstance(value, type):
        return f"give an object of the class, {value.__name__}()"
    if type(value).__module__.startswith("torch."):
        return f"it is torch's: give trainkit.{type(value).__name__}(...) if there is one, or write a Module"
    return "give instances of trainkit.Module"


class Sequential(Container):
    """y = fₖ(... f₁(x)), dx = f₁'(... fₖ'(dy)). Saves what each module saves.

    A module that takes one tensor is mapped over a tuple.
    """

    def fwd(self, x: Tensors) -> tuple[Tensors, list[Any]]:
        saved: list[Any] = []
        try:
            for m in self.layers:
                x, s = m.fwd(x) if type(x) is not tuple else fwd_value(m, x)
                saved.append(s)
        except FORWARD_ERRORS as error:
            raise located(self, self.layers[len(saved)], x, error) from error
        return x, saved

    def bwd(self, saved: list[Any], dy: Tensors) -> Tensors:
        for m, s in zip(reversed(self.layers), reversed(saved), strict=True):
            dy = m.bwd(s, dy) if type(s) is not MappedSaved else bwd_value(m, s, dy)
        return dy

    def bwd_params(self, saved: list[Any], dy: Tensors) -> None:
        """Add to the parameters' gradients only. Empties `saved` from its end, so that used activations are freed at once."""
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
    """y = fₖ(... f₁(x)). Saves x only; the backward pass repeats the forward pass. This saves memory and costs time.

    Known as activation checkpointing, torch.utils.checkpoint. The second pass draws the same random numbers as the first.
    With `recomputes` False it is a Sequential. An engine sets that on a copy of the net, for a captured step that draws random
    numbers.
    Source: Chen, Xu, Zhang, Guestrin 2016.
    """

    recomputes = True

    def fwd(self, x: Tensors) -> tuple[Tensors, Any]:
        if not self.recomputes:
            return super().fwd(x)
        states = [(g, g.get_state()) for g in active_generators(self)]
        return super().fwd(x)[0], (x, states)

    def bwd(self, saved: Any, dy: Tensors) -> Tensors:
        return super().bwd(self._recomputed(saved), dy)

    def bwd_params(self, saved: Any, dy: Tensors) -> None:
        super().bwd_params(self._recomputed(saved), dy)

    def _recomputed(self, saved: Any) -> list[Any]:
        """Return what `Sequential` saves in the same pass."""
        if not self.recomputes:
            saved_once: list[Any] = saved
            return saved_once
        x, states = saved
        now = [g.get_state() for g, _ in states]
        for g, state in states:
            g.set_state(state)
        recomputed = super().fwd(x)[1]
        for (g, _), state in zip(states, now, strict=True):
            g.set_state(state)
        return recomputed


def active_generators(net: Module) -> list[torch.Generator]:
    """Return the generators that a training pass draws from, each once, with torch's global generator in place of None."""
    found = {id(g): g for _, m in net.modules() for g in getattr(m, "generators", ()) if m.training}
    return [torch.default_generator if g is None else g for g in found.values()]


class Residual(Sequential):
    """y = x + f(x), f the chain of the modules; dx = dy + f'(dy). Saves what the chain saves.

    Raises UserError if f(x) does not have x's shape. Source: He et al. 2016.
    """

    accepts_tuple = False

    def fwd(self, x: Tensor) -> tuple[Tensor, list[Any]]:
        y, saved = super().fwd(x)
        if y.shape != x.shape:
            raise UserError(f"Residual: x is {tuple(x.shape)}, f(x) is {tuple(y.shape)}; both need the same shape")
        return x + y, saved

    def bwd(self, saved: list[Any], dy: Tensor) -> Tensor:
        return dy + super().bwd(saved, dy)


class Parallel(Container):
    """(y₁, ..., yₖ) = (f₁(x₁), ..., fₖ(xₖ)): one module per tensor of a tuple. Saves what each module saves.

    Raises UserError if x is not a tuple of k.
    """

    def fwd(self, x: Tensors) -> tuple[Tensors, list[Any]]:
        if type(x) is not tuple or len(x) != len(self.layers):
            got = f"a tuple of {len(x)}" if type(x) is tuple else "one tensor"
            raise UserError(
                f"Parallel: x is {got}, needs a tuple of {len(self.layers)}; put FanOut({len(self.layers)}) before it"
            )
        pairs: list[tuple[Tensors, Any]] = []
        try:
            for m, xi in zip(self.layers, x, strict=True):
                pairs.append(fwd_value(m, xi))
        except FORWARD_ERRORS as error:
            i = len(pairs)
            raise located(self, self.layers[i], x[i], error) from error
        return tuple(y for y, _ in pairs), [saved for _, saved in pairs]

    def bwd(self, saved: list[Any], dy: Tensors) -> Tensors:
        return tuple(bwd_value(m, s, d) for m, s, d in zip(self.layers, saved, dy, strict=True))
