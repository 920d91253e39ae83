"""Layers that change the shape and keep the elements."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.nn.module import Module, Tensors


class Flatten(Module):
    """y = x with the axes from `start_dim` to `end_dim` merged into one; dx = dy in x's shape. Saves the shape.

    The arguments count axes as torch does; the replica axis is not counted.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def fwd(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        start, end = (d if d < 0 else d + self.replica_dims for d in (self.start_dim, self.end_dim))
        return x.flatten(start, end), x.shape

    def bwd(self, shape: torch.Size, dy: Tensor) -> Tensor:
        return dy.reshape(shape)

    def flops(self, x: Tensors) -> int:
        return 0  # no arithmetic

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
