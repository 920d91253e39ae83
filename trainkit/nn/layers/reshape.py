"""Other axes, the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.nn.module import Module, Value


class Flatten(Module):
    """y = x with the axes from `start_dim` to `end_dim` made one. Saves the shape."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def fwd(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        start, end = (d if d < 0 else d + self.replica_dims for d in (self.start_dim, self.end_dim))
        return x.flatten(start, end), x.shape

    def bwd(self, shape: torch.Size, dy: Tensor) -> Tensor:
        return dy.reshape(shape)

    def flops(self, x: Value) -> int:
        return 0  # no arithmetic

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
