"""Gradient descent and its signed form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .arithmetic import Number, Rate, add, least, lerp, most, plus, within
from .flat_buffer import flatten
from .optimizer import Optimizer


class SGD(Optimizer):
    """g ← ∇ + weight_decay p;  m ← momentum m + (1 - dampening) g  (m ← g at the first update);  p ← p - lr m.

    With nesterov p ← p - lr (g + momentum m). Without momentum p ← p - lr g. A batch of all samples makes it gradient descent.
    Torch's variant: the rate stands outside m. Nesterov's form from Sutskever et al. 2013.

    into_momentum: m ← momentum m + weight_decay p before the backward pass, which then adds ∇ straight to m: no buffer for the
    gradient and no pass over it, which a wide net notices. The gradients of `net.param()` then hold m, so there is none to clip
    or to look at, and by hand `optimizer.zero_grad()` begins a step, never `net.zero_grad()`. Needs a momentum above 0, and
    neither dampening, nesterov nor maximize.
    """

    numbers = ("lr", "momentum", "weight_decay")
    m: Tensor
    momentum: Number
    weight_decay: Number

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        momentum: Rate = 0.0,
        dampening: float = 0.0,
        weight_decay: Rate = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        into_momentum: bool = False,
    ) -> None:
        within("SGD", 0, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
        if into_momentum and (not least(momentum) > 0 or dampening or nesterov or maximize):
            raise UserError("SGD: into_momentum needs a momentum above 0, and neither dampening, nesterov nor maximize")
        self.holds_gradient = not into_momentum
        if nesterov and (not least(momentum) > 0 or dampening != 0):
            raise UserError(
                f"SGD: nesterov with momentum={momentum}, dampening={dampening}; needs a momentum above 0 and dampening 0"
            )
        if dampening and least(momentum) == 0 < most(momentum):
            raise UserError(f"SGD: dampening={dampening} with momentum={momentum}; without momentum there is no dampening")
        self.dampening, self.nesterov, self.decays = dampening, nesterov, most(weight_decay) > 0
        self.slots = ("m",) if most(momentum) > 0 else ()
        super().__init__(params, lr, maximize, momentum=momentum, weight_decay=weight_decay)

    def bind(self) -> None:
        if not self.holds_gradient:
            self.m = flatten([g for _, g in self.pairs])  # one buffer; `Optimizer.bind` keeps a slot that is there
        super().bind()

    def begin(self) -> None:
        if self.holds_gradient or self.t == 0:
            self.g.zero_()
        else:
            self.g.mul_(self.momentum)
        if self.decays and not self.holds_gradient:
            add(self.g, self.p, self.weight_decay)

    def apply(self) -> None:
        if not self.holds_gradient:
            self.descend(self.g)
            return
        g = self.gradient(self.weight_decay if self.decays else None)
        if self.slots:
            if self.t == 1:
                self.m.copy_(g)
            elif self.dampening:
                self.m.mul_(self.momentum).add_(g, alpha=1 - self.dampening)
            else:
                plus(g, self.m, self.momentum, out=self.m)
            g = plus(g, self.m, self.momentum) if self.nesterov else self.m
        self.descend(g)


class SignSGD(Optimizer):
    """p ← p - lr sign g. With momentum (Signum): m ← momentum m + (1 - momentum) g;  p ← p - lr sign m. g ← ∇ + weight_decay p.

    Source: Bernstein et al. 2018, algorithms 1 and 2.
    """

    numbers = ("lr", "momentum", "weight_decay")
    m: Tensor
    momentum: Number
    weight_decay: Number

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        momentum: Rate = 0.0,
        weight_decay: Rate = 0.0,
        maximize: bool = False,
    ) -> None:
        within("SignSGD", 0, 1, momentum=momentum)
        within("SignSGD", 0, weight_decay=weight_decay)
        self.decays = most(weight_decay) > 0
        self.slots = ("m",) if most(momentum) > 0 else ()
        super().__init__(params, lr, maximize, momentum=momentum, weight_decay=weight_decay)

    def apply(self) -> None:
        g = self.gradient(self.weight_decay if self.decays else None)
        if self.slots:
            lerp(self.m, g, 1 - self.momentum)
            g = self.m
        self.descend(torch.sign(g))
