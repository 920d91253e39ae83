"""Split and merge branches: one tensor to several, several to one."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import Module, Tensors


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

    def flops(self, x: Tensors) -> int:
        return 0  # no arithmetic

    def extra_repr(self) -> str:
        return str(self.copies)


class Add(Module):
    """y = x₁ + ... + xₖ, all of one shape; each dx = dy. Saves k. Raises UserError for another shape or a single tensor."""

    accepts_tuple = True

    def fwd(self, x: tuple[Tensor, ...]) -> tuple[Tensor, int]:
        x = _required_tuple(self, x)
        if any(xi.shape != x[0].shape for xi in x):
            raise UserError(f"Add: x are {', '.join(str(tuple(xi.shape)) for xi in x)}; all need the same shape")
        y = x[0]
        for xi in x[1:]:
            y = y + xi
        return y, len(x)

    def bwd(self, k: int, dy: Tensor) -> tuple[Tensor, ...]:
        return (dy,) * k

    def flops(self, x: Tensors) -> int:
        """Return the number of additions."""
        return x[0].numel() * (len(x) - 1)

    def expected_input(self) -> str:
        return "a tuple of tensors of one shape"


class Concat(Module):
    """y = (x₁, ..., xₖ) concatenated along `dim`; dx are the slices of dy. Saves their lengths.

    `dim` counts axes as torch does; the replica axis is not counted. Raises UserError for a single tensor.
    """

    accepts_tuple = True

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def fwd(self, x: tuple[Tensor, ...]) -> tuple[Tensor, list[int]]:
        x = _required_tuple(self, x)
        axis = self._axis()
        return torch.cat(x, axis), [xi.shape[axis] for xi in x]

    def bwd(self, lengths: list[int], dy: Tensor) -> tuple[Tensor, ...]:
        return torch.split(dy, lengths, self._axis())

    def _axis(self) -> int:
        return self.dim if self.dim < 0 else self.dim + self.replica_dims

    def expected_input(self) -> str:
        return f"a tuple of tensors that differ along axis {self.dim} only"

    def flops(self, x: Tensors) -> int:
        return 0  # no arithmetic

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def _required_tuple(module: Module, x: Tensors) -> tuple[Tensor, ...]:
    """Return x. Raises UserError if it is not a tuple."""
    if type(x) is not tuple:
        raise UserError(f"{type(module).__name__}: x is one tensor, needs a tuple; put FanOut before it")
    return x
