"""Modules made of modules, and the plumbing between them: chains, sums, branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import Each, Module, Value, bwd_value, fwd_value


class Container(Module):
    """Modules in a list, named 0, 1, ... as torch names them. One module may stand in it twice: its gradients add."""

    takes_tuple = True

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

    def extra(self) -> str:
        return ", ".join(map(repr, self.layers))


class Sequential(Container):
    """y = fₖ(... f₁(x)). Saves what each module saves; the chain rule runs it backwards.

    A module that takes one tensor and is given a tuple maps over it.
    """

    def fwd(self, x: Value) -> tuple[Value, list[Any]]:
        saved = []
        for m in self.layers:
            x, s = m.fwd(x) if type(x) is not tuple else fwd_value(m, x)
            saved.append(s)
        return x, saved

    def bwd(self, saved: list[Any], dy: Value) -> Value:
        for m, s in zip(reversed(self.layers), reversed(saved), strict=True):
            dy = m.bwd(s, dy) if type(s) is not Each else bwd_value(m, s, dy)
        return dy

    def grad(self, saved: list[Any], dy: Value) -> None:
        """Empties `saved` from its end: an activation's memory is free when the module that saved it has used it."""
        for i in range(len(saved) - 1, self._first, -1):
            m, s = self.layers[i], saved.pop()
            dy = m.bwd(s, dy) if type(s) is not Each else bwd_value(m, s, dy)
        if self._first < len(saved):
            m, s = self.layers[self._first], saved.pop()
            if type(s) is Each:
                bwd_value(m, s, dy)
            else:
                m.grad(s, dy)


class Recompute(Sequential):
    """y = fₖ(... f₁(x)), saving x alone: the backward pass computes the rest again. Memory for a second forward pass.

    Known as activation checkpointing, torch.utils.checkpoint. The second pass draws the random numbers of the first.
    In compiled code it is a Sequential, and the compiler chooses what is kept; in a captured step too, if it draws.
    Source: Chen, Xu, Zhang, Guestrin 2016.
    """

    def fwd(self, x: Value) -> tuple[Value, Any]:
        drawn = [(g, g.get_state()) for g in drawn_from(self)]
        return super().fwd(x)[0], (x, drawn)

    def bwd(self, saved: Any, dy: Value) -> Value:
        return super().bwd(self._again(saved), dy)

    def grad(self, saved: Any, dy: Value) -> None:
        super().grad(self._again(saved), dy)

    def _again(self, saved: Any) -> list[Any]:
        """What `Sequential` would have saved."""
        x, drawn = saved
        now = [g.get_state() for g, _ in drawn]
        for g, state in drawn:
            g.set_state(state)
        again = super().fwd(x)[1]
        for (g, _), state in zip(drawn, now, strict=True):
            g.set_state(state)
        return again


def drawn_from(net: Module) -> list[torch.Generator]:
    """The generators that a pass in training draws from, each once; torch's global one stands for None."""
    found = {id(g): g for _, m in net.modules() for g in getattr(m, "generators", ()) if m.training}
    return [torch.default_generator if g is None else g for g in found.values()]


class Residual(Sequential):
    """y = x + f(x), f the chain of the modules; dx = dy + f'(dy). Source: He et al. 2016."""

    takes_tuple = False

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
        pairs = [fwd_value(m, xi) for m, xi in zip(self.layers, x, strict=True)]
        return tuple(y for y, _ in pairs), [saved for _, saved in pairs]

    def bwd(self, saved: list[Any], dy: Value) -> Value:
        return tuple(bwd_value(m, s, d) for m, s, d in zip(self.layers, saved, dy, strict=True))


class FanOut(Module):
    """(y₁, ..., yₖ) = (x, ..., x); dx = dy₁ + ... + dyₖ. Saves nothing."""

    def __init__(self, copies: int = 2) -> None:
        if copies < 2:
            raise UserError(f"FanOut: copies={copies}; needs at least 2")
        self.copies = copies

    def fwd(self, x: Tensor) -> tuple[tuple[Tensor, ...], None]:
        return (x,) * self.copies, None

    def bwd(self, saved: None, dy: tuple[Tensor, ...]) -> Tensor:
        dx = dy[0]
        for d in dy[1:]:
            dx = dx + d
        return dx

    def flops(self, x: Value) -> int:
        return 0  # no arithmetic

    def extra(self) -> str:
        return str(self.copies)


class Add(Module):
    """y = x₁ + ... + xₖ of one shape; each dx = dy. Saves k."""

    takes_tuple = True

    def fwd(self, x: tuple[Tensor, ...]) -> tuple[Tensor, int]:
        x = _several(self, x)
        if any(xi.shape != x[0].shape for xi in x):
            raise UserError(f"Add: x are {', '.join(str(tuple(xi.shape)) for xi in x)}; all need one shape")
        y = x[0]
        for xi in x[1:]:
            y = y + xi
        return y, len(x)

    def bwd(self, k: int, dy: Tensor) -> tuple[Tensor, ...]:
        return (dy,) * k

    def needs(self) -> str:
        return "a tuple of tensors of one shape"


class Concat(Module):
    """y = the x joined along `dim`; each dx is its stretch of dy. Saves the lengths."""

    takes_tuple = True

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def fwd(self, x: tuple[Tensor, ...]) -> tuple[Tensor, list[int]]:
        x = _several(self, x)
        axis = self._axis()
        return torch.cat(x, axis), [xi.shape[axis] for xi in x]

    def bwd(self, lengths: list[int], dy: Tensor) -> tuple[Tensor, ...]:
        return torch.split(dy, lengths, self._axis())

    def _axis(self) -> int:
        return self.dim if self.dim < 0 else self.dim + self.lead

    def needs(self) -> str:
        return f"a tuple of tensors that differ along axis {self.dim} only"

    def flops(self, x: Value) -> int:
        return 0  # no arithmetic

    def extra(self) -> str:
        return f"dim={self.dim}"


class Flatten(Module):
    """y = x with the axes from `start_dim` to `end_dim` made one. Saves the shape."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def fwd(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        start, end = (d if d < 0 else d + self.lead for d in (self.start_dim, self.end_dim))
        return x.flatten(start, end), x.shape

    def bwd(self, shape: torch.Size, dy: Tensor) -> Tensor:
        return dy.reshape(shape)

    def flops(self, x: Value) -> int:
        return 0  # no arithmetic

    def extra(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


def _several(module: Module, x: Value) -> tuple[Tensor, ...]:
    if type(x) is not tuple:
        raise UserError(f"{type(module).__name__}: x is one tensor, needs a tuple; put FanOut before it")
    return x
