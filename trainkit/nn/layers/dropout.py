"""Dropout: the one module here that draws random numbers in a pass."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import Module


class Dropout(Module):
    """In training y = x m / (1 - p), each m 1 with probability 1 - p, else 0; in evaluation y = x. Saves the scaled mask:
    dx = dy m / (1 - p).

    The mask comes from `generators`: one, or one for each replica, which then draws what it would draw alone. None is torch's
    global generator; one alone draws for all replicas. The trainer sets them and saves their state. In compiled code `mask`
    is called from outside of the graph (see `trainer/engines/compiled.py`).
    Errors: UserError for p outside [0, 1].
    Source: Srivastava et al. 2014, in the inverted form of torch.nn.Dropout.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"Dropout: p={p}; needs a probability from 0 to 1")
        self.p = p
        self.generators: tuple[torch.Generator | None, ...] = (None,)

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.training or self.p == 0:
            return x, None
        mask = self.mask(x)
        return x * mask, mask

    def mask(self, x: Tensor) -> Tensor:
        """The next scaled mask, for x."""
        mask = torch.empty_like(x)
        if len(self.generators) > 1:
            for m, g in zip(mask, self.generators, strict=True):
                m.bernoulli_(1 - self.p, generator=g)
        else:
            mask.bernoulli_(1 - self.p, generator=self.generators[0])
        return mask.div_(1 - self.p) if self.p < 1 else mask

    def bwd(self, mask: Tensor | None, dy: Tensor) -> Tensor:
        return dy if mask is None else dy * mask

    def extra_repr(self) -> str:
        return f"p={self.p}"
