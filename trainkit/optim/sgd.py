"""Gradient descent, and its form with the sign of the gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .arithmetic import Rate, Scalars, add_scaled, add_scaled_, check_range, lerp_, max_of, min_of
from .flat_buffer import flatten
from .optimizer import Optimizer


class SGD(Optimizer):
    """g ← ∇ + weight_decay p;  m ← momentum m + (1 - dampening) g  (m ← g at the first update);  p ← p - lr m.

    With nesterov p ← p - lr (g + momentum m). Without momentum p ← p - lr g. With one batch of all samples this is gradient
    descent. Source: torch.optim.SGD, in which the rate is not part of m; Nesterov's form from Sutskever et al. 2013.

    accumulate_into_momentum: m ← momentum m + weight_decay p before the backward pass, which then adds ∇ directly to m. This
    saves the gradient buffer and a pass over it, which makes wide nets faster. The gradients of `net.param()` then hold m, so
    that they cannot be clipped or logged. In a training loop of your own, call `optimizer.zero_grad()`, not `net.zero_grad()`.
    Raises UserError without a momentum above 0, or with dampening, nesterov or maximize.
    """

    scalar_names = ("lr", "momentum", "weight_decay")

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        momentum: Rate = 0.0,
        dampening: float = 0.0,
        weight_decay: Rate = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        accumulate_into_momentum: bool = False,
    ) -> None:
        check_range("SGD", 0, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
        if accumulate_into_momentum and (not min_of(momentum) > 0 or dampening or nesterov or maximize):
            raise UserError(
                "SGD: accumulate_into_momentum needs a momentum above 0, and neither dampening, nesterov nor maximize"
            )
        self.has_grad_buffer = not accumulate_into_momentum
        if nesterov and (not min_of(momentum) > 0 or dampening != 0):
            raise UserError(
                f"SGD: nesterov with momentum={momentum}, dampening={dampening}; needs a momentum above 0 and dampening 0"
            )
        if dampening and min_of(momentum) == 0 < max_of(momentum):
            raise UserError(
                f"SGD: dampening={dampening} with momentum={momentum}; a replica without momentum needs dampening 0"
            )
        self.dampening, self.nesterov, self.decays = dampening, nesterov, max_of(weight_decay) > 0
        self.slot_names = ("m",) if max_of(momentum) > 0 else ()
        super().__init__(params, lr, maximize, momentum=momentum, weight_decay=weight_decay)

    def bind(self) -> None:
        if not self.has_grad_buffer:
            self.slots = {
                "m": flatten([g for _, g in self.pairs])
            }  # g and m share a buffer; `Optimizer.bind` keeps an existing slot
        super().bind()

    def prepare_grad(self) -> None:
        if self.has_grad_buffer or self.t == 0:
            self.g.zero_()
        else:
            self.g.mul_(self.scalars["momentum"])
        if self.decays and not self.has_grad_buffer:
            add_scaled_(self.g, self.p, self.scalars["weight_decay"])

    def apply_update(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        if not self.has_grad_buffer:
            self.descend(p, slots["m"], scalars)
            return
        g = self.gradient(p, g, scalars["weight_decay"] if self.decays else None)
        if slots:
            m, momentum = slots["m"], scalars["momentum"]
            if scalars["t"] == 1:
                m.copy_(g)
            elif self.dampening:
                m.mul_(momentum).add_(g, alpha=1 - self.dampening)
            else:
                add_scaled(g, m, momentum, out=m)
            g = add_scaled(g, m, momentum) if self.nesterov else m
        self.descend(p, g, scalars)

    def native(self) -> str | None:
        if not self.has_grad_buffer:
            return None
        return self.native_update("SGD", (self.slots, self.nesterov, self.decays, self.maximize), self.dampening)


class SignSGD(Optimizer):
    """p ← p - lr sign g. With momentum (Signum): m ← momentum m + (1 - momentum) g;  p ← p - lr sign m. g ← ∇ + weight_decay p.

    Source: Bernstein et al. 2018, algorithms 1 and 2.
    """

    scalar_names = ("lr", "momentum", "weight_decay")

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        momentum: Rate = 0.0,
        weight_decay: Rate = 0.0,
        maximize: bool = False,
    ) -> None:
        check_range("SignSGD", 0, 1, momentum=momentum)
        check_range("SignSGD", 0, weight_decay=weight_decay)
        self.decays = max_of(weight_decay) > 0
        self.slot_names = ("m",) if max_of(momentum) > 0 else ()
        super().__init__(params, lr, maximize, momentum=momentum, weight_decay=weight_decay)

    def apply_update(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        g = self.gradient(p, g, scalars["weight_decay"] if self.decays else None)
        if slots:
            lerp_(slots["m"], g, 1 - scalars["momentum"])
            g = slots["m"]
        self.descend(p, torch.sign(g), scalars)

    def native(self) -> str:
        return self.native_update("SignSGD", (self.slots, self.decays, self.maximize))
