"""Optimizers that scale each element by the history of its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from . import kernels
from .arithmetic import Number, Rate, add_product, lerp, most, within
from .optimizer import Optimizer


class Adam(Optimizer):
    """m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;  p ← p - lr m̂ / (√v̂ + eps),  m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).

    g ← ∇ + weight_decay p. `betas` are (β₁, β₂). With amsgrad v̂ is made of the largest v so far (Reddi et al. 2018).
    Source: Kingma, Ba 2015, algorithm 1; eps stands outside the root, as there and in torch.
    """

    numbers = ("lr", "weight_decay", "beta1", "beta2", "correction1", "correction2")
    m: Tensor
    v: Tensor
    v_max: Tensor
    weight_decay: Number
    beta1: Number
    beta2: Number
    decoupled = False

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        name = type(self).__name__
        if len(betas) != 2:
            raise UserError(f"{name}: betas={list(betas)}; needs two numbers")
        within(name, 0, 1, **{"betas[0]": betas[0], "betas[1]": betas[1]})
        within(name, 0, eps=eps, weight_decay=weight_decay)
        self.betas, self.eps, self.amsgrad, self.decays = (betas[0], betas[1]), eps, amsgrad, most(weight_decay) > 0
        self.slots = ("m", "v", "v_max") if amsgrad else ("m", "v")
        self.correction1 = self.correction2 = 1.0
        super().__init__(params, lr, maximize, weight_decay=weight_decay)

    @property
    def betas(self) -> tuple[float, float]:
        """(β₁, β₂); a schedule may move them."""
        return self._betas

    @betas.setter
    def betas(self, betas: tuple[float, float]) -> None:
        self._betas = self.beta1, self.beta2 = float(betas[0]), float(betas[1])

    def count(self) -> None:
        self.t += 1
        beta1, beta2 = self._betas
        self.correction1, self.correction2 = 1 - beta1**self.t, math.sqrt(1 - beta2**self.t)

    def apply(self) -> None:
        if isinstance(self.lr, float) and isinstance(self.weight_decay, float):
            self._apply_at_once()
        else:
            self._apply_by_lines()

    def _apply_at_once(self) -> None:
        """Torch's kernel of the same formula, which passes once over the buffers: twice as fast for a small net, six times for
        a large one. It knows no numbers for each replica, and compiled code fuses the lines by itself; they are its witness."""
        kernel = kernels.adamw if self.decoupled else kernels.adam
        largest = [self.v_max] if self.amsgrad else []
        kernel(
            [self.p],
            [self.g],
            [self.m],
            [self.v],
            largest,
            [self.p.new_tensor(self.t, dtype=torch.float32)],
            lr=self.lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=self.amsgrad,
            maximize=self.maximize,
        )

    def _apply_by_lines(self) -> None:
        if self.decoupled and self.decays:
            self.descend(self.p, self.weight_decay)  # p -= lr weight_decay p
        g = self.gradient(self.weight_decay if self.decays and not self.decoupled else None)
        lerp(self.m, g, 1 - self.beta1)
        add_product(self.v.mul_(self.beta2), g, g, 1 - self.beta2)
        v = torch.maximum(self.v_max, self.v, out=self.v_max) if self.amsgrad else self.v
        root = v.sqrt().div_(self.correction2).add_(self.eps)
        self.descend_ratio(self.m, root, 1 / self.correction1)


class AdamW(Adam):
    """Adam with the decay outside the gradient: first p ← p - lr weight_decay p, then Adam's update of ∇ alone.

    Source: Loshchilov, Hutter 2019.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Rate = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize)


class RMSprop(Optimizer):
    """v ← α v + (1 - α) g²;  p ← p - lr g / (√v + eps).  g ← ∇ + weight_decay p.

    centered: √(v - a²) instead, a ← α a + (1 - α) g. momentum: m ← momentum m + g / (√v + eps);  p ← p - lr m.
    Source: Tieleman, Hinton 2012, lecture 6.5; torch's variant, eps outside the root.
    """

    numbers = ("lr", "weight_decay", "momentum")
    v: Tensor
    a: Tensor
    m: Tensor
    momentum: Number
    weight_decay: Number

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        momentum: Rate = 0.0,
        centered: bool = False,
        maximize: bool = False,
    ) -> None:
        within("RMSprop", 0, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        self.alpha, self.eps, self.centered, self.decays = alpha, eps, centered, most(weight_decay) > 0
        self.slots = ("v", *(("a",) if centered else ()), *(("m",) if most(momentum) > 0 else ()))
        super().__init__(params, lr, maximize, momentum=momentum, weight_decay=weight_decay)

    def apply(self) -> None:
        g = self.gradient(self.weight_decay if self.decays else None)
        self.v.mul_(self.alpha).addcmul_(g, g, value=1 - self.alpha)
        if self.centered:
            self.a.lerp_(g, 1 - self.alpha)
            root = self.v.addcmul(self.a, self.a, value=-1).sqrt_().add_(self.eps)
        else:
            root = self.v.sqrt().add_(self.eps)
        if "m" in self.slots:
            self.descend(self.m.mul_(self.momentum).addcdiv_(g, root))
        else:
            self.descend_ratio(g, root)


class Adagrad(Optimizer):
    """v ← v + g²;  p ← p - lr / (1 + t lr_decay) g / (√v + eps), t counting from 0.  g ← ∇ + weight_decay p.

    v begins at initial_accumulator_value. Source: Duchi, Hazan, Singer 2011; torch's variant.
    """

    slots = ("v",)
    numbers = ("lr", "weight_decay", "decline")
    v: Tensor
    weight_decay: Number

    def __init__(
        self,
        params: Iterable[tuple[Tensor, Tensor]],
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: Rate = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        maximize: bool = False,
    ) -> None:
        within(
            "Adagrad",
            0,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        self.lr_decay, self.start, self.eps, self.decays = lr_decay, initial_accumulator_value, eps, most(weight_decay) > 0
        self.decline = 1.0
        super().__init__(params, lr, maximize, weight_decay=weight_decay)

    def bind(self) -> None:
        super().bind()
        if self.t == 0:
            self.v.fill_(self.start)

    def count(self) -> None:
        self.decline = 1 / (1 + self.t * self.lr_decay)
        self.t += 1

    def apply(self) -> None:
        g = self.gradient(self.weight_decay if self.decays else None)
        self.v.addcmul_(g, g)
        self.descend_ratio(g, self.v.sqrt().add_(self.eps), self.decline)
