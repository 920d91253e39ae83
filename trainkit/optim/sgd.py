"""Gradient descent and its signed form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import UserError
from .optimizer import Optimizer, Rate, within


class SGD(Optimizer):
    """g ← ∇ + weight_decay p;  m ← momentum m + (1 - dampening) g  (m ← g at the first update);  p ← p - lr m.

    With nesterov p ← p - lr (g + momentum m). Without momentum p ← p - lr g. A batch of all samples makes it gradient descent.
    Torch's variant: the rate stands outside m. Nesterov's form from Sutskever et al. 2013.
    """

    m: Tensor

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        within("SGD", 0, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise UserError(
                f"SGD: nesterov with momentum={momentum}, dampening={dampening}; needs a momentum above 0 and dampening 0"
            )
        self.momentum, self.dampening, self.weight_decay, self.nesterov = momentum, dampening, weight_decay, nesterov
        self.slots = ("m",) if momentum else ()
        super().__init__(params, lr, maximize)

    def update(self) -> None:
        g = self.gradient(self.weight_decay)
        if self.momentum:
            if self.t == 0:
                self.m.copy_(g)
            else:
                self.m.mul_(self.momentum).add_(g, alpha=1 - self.dampening)
            g = g.add(self.m, alpha=self.momentum) if self.nesterov else self.m
        self.descend(g)
        self.t += 1


class SignSGD(Optimizer):
    """p ← p - lr sign g. With momentum (Signum): m ← momentum m + (1 - momentum) g;  p ← p - lr sign m. g ← ∇ + weight_decay p.

    Source: Bernstein et al. 2018, algorithms 1 and 2.
    """

    m: Tensor

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        within("SignSGD", 0, 1, momentum=momentum)
        within("SignSGD", 0, weight_decay=weight_decay)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.slots = ("m",) if momentum else ()
        super().__init__(params, lr, maximize)

    def update(self) -> None:
        g = self.gradient(self.weight_decay)
        if self.momentum:
            g = self.m.lerp_(g, 1 - self.momentum)
        self.descend(torch.sign(g))
        self.t += 1
