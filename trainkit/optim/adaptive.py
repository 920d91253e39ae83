"""Optimizers that scale the update of each element by the history of its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from . import kernels
from .arithmetic import Rate, Scalars, addcmul_, check_range, lerp_, max_of
from .optimizer import Optimizer


class Adam(Optimizer):
    """m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;  p ← p - lr m̂ / (√v̂ + eps),  m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).

    g ← ∇ + weight_decay p. `betas` are (β₁, β₂). With amsgrad, v̂ is computed from the largest v so far (Reddi et al. 2018).
    Source: Kingma, Ba 2015, algorithm 1; eps is outside the root, as there and in torch.
    """

    scalar_names = ("lr", "weight_decay", "beta1", "beta2", "correction1", "correction2")
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
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise UserError(f"{name}: betas={betas}; needs two numbers")
        check_range(name, 0, 1, **{"betas[0]": betas[0], "betas[1]": betas[1]})
        check_range(name, 0, eps=eps, weight_decay=weight_decay)
        self.eps, self.amsgrad, self.decays = eps, amsgrad, max_of(weight_decay) > 0
        self.slot_names = ("m", "v", "v_max") if amsgrad else ("m", "v")
        super().__init__(params, lr, maximize, weight_decay=weight_decay)
        self.betas = betas[0], betas[1]
        self.scalars["correction1"] = self.scalars["correction2"] = 1.0

    @property
    def betas(self) -> tuple[float, float]:
        """(β₁, β₂). A schedule may change them."""
        return self._betas

    @betas.setter
    def betas(self, betas: tuple[float, float]) -> None:
        self._betas = self.scalars["beta1"], self.scalars["beta2"] = float(betas[0]), float(betas[1])

    def advance(self) -> None:
        super().advance()
        beta1, beta2 = self._betas
        self.scalars["correction1"], self.scalars["correction2"] = 1 - beta1**self.t, math.sqrt(1 - beta2**self.t)

    def apply_update(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        if isinstance(scalars["lr"], float) and isinstance(scalars["weight_decay"], float):
            self._apply_kernel(p, g, slots, scalars)
        else:
            self._apply_formula(p, g, slots, scalars)

    def native(self) -> str | None:
        flags = self.amsgrad, self.decoupled, self.decays, self.maximize
        return self.native_update("Adam", flags, self.eps) if keeps_zeros(self) else None

    def _apply_kernel(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        """Update with torch's kernel, which reads the buffers once: twice as fast for a small net, six times for a large one.

        It does not take one number per replica. The formula does, and tests the kernel.
        """
        kernel = kernels.adamw if self.decoupled else kernels.adam
        kernel(
            [p],
            [g],
            [slots["m"]],
            [slots["v"]],
            [slots["v_max"]] if self.amsgrad else [],
            [p.new_tensor(scalars["t"], dtype=torch.float32)],
            lr=scalars["lr"],
            beta1=scalars["beta1"],
            beta2=scalars["beta2"],
            weight_decay=scalars["weight_decay"],
            eps=self.eps,
            amsgrad=self.amsgrad,
            maximize=self.maximize,
        )

    def _apply_formula(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        """Update with plain tensor operations."""
        m, v, beta1, beta2 = slots["m"], slots["v"], scalars["beta1"], scalars["beta2"]
        if self.decoupled and self.decays:
            self.descend(p, p, scalars, scalars["weight_decay"])  # p -= lr weight_decay p
        g = self.gradient(p, g, scalars["weight_decay"] if self.decays and not self.decoupled else None)
        lerp_(m, g, 1 - beta1)
        addcmul_(v.mul_(beta2), g, g, 1 - beta2)
        if self.amsgrad:
            v = torch.maximum(slots["v_max"], v, out=slots["v_max"])
        root = v.sqrt().div_(scalars["correction2"]).add_(self.eps)
        self.descend_ratio(p, m, root, scalars, 1 / scalars["correction1"])


class AdamW(Adam):
    """p ← p - lr weight_decay p, then Adam's update with g ← ∇: the decay is not part of the gradient.

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

    centered: √(v - a²) in place of √v, a ← α a + (1 - α) g. momentum: m ← momentum m + g / (√v + eps);  p ← p - lr m.
    Source: Tieleman, Hinton 2012, lecture 6.5, in torch's variant: eps is outside the root.
    """

    scalar_names = ("lr", "weight_decay", "momentum")

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
        check_range("RMSprop", 0, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        self.alpha, self.eps, self.centered, self.decays = alpha, eps, centered, max_of(weight_decay) > 0
        self.slot_names = ("v", *(("a",) if centered else ()), *(("m",) if max_of(momentum) > 0 else ()))
        super().__init__(params, lr, maximize, momentum=momentum, weight_decay=weight_decay)

    def apply_update(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        g = self.gradient(p, g, scalars["weight_decay"] if self.decays else None)
        v = slots["v"]
        v.mul_(self.alpha).addcmul_(g, g, value=1 - self.alpha)
        if self.centered:
            a = slots["a"]
            a.lerp_(g, 1 - self.alpha)
            root = v.addcmul(a, a, value=-1).sqrt_().add_(self.eps)
        else:
            root = v.sqrt().add_(self.eps)
        if "m" in slots:
            self.descend(p, slots["m"].mul_(scalars["momentum"]).addcdiv_(g, root), scalars)
        else:
            self.descend_ratio(p, g, root, scalars)

    def native(self) -> str | None:
        flags = self.centered, "m" in self.slots, self.decays, self.maximize
        return self.native_update("RMSprop", flags, self.alpha, 1 - self.alpha, self.eps) if keeps_zeros(self) else None


class Adagrad(Optimizer):
    """v ← v + g²;  p ← p - lr / (1 + t lr_decay) g / (√v + eps), t counting from 0.  g ← ∇ + weight_decay p.

    v starts at initial_accumulator_value. Source: Duchi, Hazan, Singer 2011, in torch's variant.
    """

    slot_names = ("v",)
    scalar_names = ("lr", "weight_decay", "decline")

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
        check_range(
            "Adagrad",
            0,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        self.lr_decay, self.start, self.eps, self.decays = lr_decay, initial_accumulator_value, eps, max_of(weight_decay) > 0
        super().__init__(params, lr, maximize, weight_decay=weight_decay)
        self.scalars["decline"] = 1.0

    def bind(self) -> None:
        super().bind()
        if self.t == 0:
            self.slots["v"].fill_(self.start)

    def advance(self) -> None:
        self.scalars["decline"] = 1 / (1 + self.t * self.lr_decay)
        super().advance()

    def apply_update(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        g = self.gradient(p, g, scalars["weight_decay"] if self.decays else None)
        v = slots["v"].addcmul_(g, g)
        self.descend_ratio(p, g, v.sqrt().add_(self.eps), scalars, scalars["decline"])

    def native(self) -> str | None:
        return self.native_update("Adagrad", (self.decays, self.maximize), self.eps) if keeps_zeros(self) else None


def keeps_zeros(optimizer: Adam | RMSprop | Adagrad) -> bool:
    """Return whether 0 / (√0 + eps) is 0 in the optimizer's dtype, so that the zeros that fill up C++ rows stay 0."""
    return bool(optimizer.p.new_tensor(optimizer.eps) > 0)
