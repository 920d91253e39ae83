"""Dropout, the only layer that draws random numbers in a pass."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import Module


class Dropout(Module):
    """y = x m / (1 - p) in training, each m 1 with probability 1 - p, else 0; y = x in evaluation. dx = dy m / (1 - p).

    Saves the scaled mask m / (1 - p). It is drawn from `generators`: one for all replicas, or one per replica, so that each
    replica draws the same as in a run of its own; None is torch's global generator. The trainer sets them and saves their
    states. Native steps take masks that `draw_mask` has drawn (see `trainer/engines/native/engine.py`).
    Raises UserError for p outside [0, 1]. Source: Srivastava et al. 2014, in the inverted form of torch.nn.Dropout.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"Dropout: p={p}; needs a probability from 0 to 1")
        self.p = p
        self.generators: tuple[torch.Generator | None, ...] = (None,)

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.training or self.p == 0:
            return x, None
        mask = self.draw_mask(x)
        return x * mask, mask

    def draw_mask(self, x: Tensor) -> Tensor:
        """Return the next scaled mask, in the shape of x."""
        mask = torch.empty_like(x)
        if len(self.generators) > 1:
            for m, g in zip(mask, self.generators, strict=True):
                m.bernoulli_(1 - self.p, generator=g)
        else:
            mask.bernoulli_(1 - self.p, generator=self.generators[0])
        return mask.div_(1 - self.p) if self.p < 1 else mask

    def bwd(self, mask: Tensor | None, dy: Tensor) -> Tensor:
        return dy if mask is None else dy * mask

    def native(self, features: int) -> tuple[str, int, bool]:
        return f"Dropout<N, {features}> @;", features, True

    def flops(self, x: Tensor) -> int:
        """Return the operations in training: one per element."""
        return x.numel()

    def extra_repr(self) -> str:
        return f"p={self.p}"
