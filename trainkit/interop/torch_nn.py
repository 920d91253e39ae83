"""A net, a loss and an optimizer of trainkit as those of torch.nn and torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import trainkit
from trainkit.core.errors import UserError
from trainkit.nn.losses import Loss
from trainkit.nn.module import Tensors
from trainkit.optim.optimizer import Optimizer

Criterion = Any  # a loss of torch.nn: a module whose `reduction`, `weight` and `ignore_index` are looked at
Made = TypeVar("Made")

# -- what torch.nn has not -----------------------------------------------------------------------------------------------------


class Chain(nn.Sequential):
    """nn.Sequential for nets with branches: a module that takes one tensor and is given a tuple maps over it."""

    def forward(self, x: Tensors) -> Tensors:
        for m in self:
            x = mapped(m, x)
        return x


class Residual(Chain):
    """y = x + f(x), f the chain of the modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Parallel(nn.Sequential):
    """A module for each tensor of a tuple."""

    def forward(self, x: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        return tuple(mapped(m, xi) for m, xi in zip(self, x, strict=True))


class FanOut(nn.Module):
    """The same tensor several times."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.copies = copies

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * self.copies


class Add(nn.Module):
    """y = x₁ + ... + xₖ."""

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        y = x[0]
        for xi in x[1:]:
            y = y + xi
        return y


class Concat(nn.Module):
    """The x joined along `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return torch.cat(x, self.dim)


TAKES_TUPLE = {Chain, Parallel, Add, Concat}


def mapped(m: nn.Module, x: Tensors) -> Tensors:
    """m(x), over each tensor of a tuple where m takes one."""
    return m(x) if type(x) is not tuple or type(m) in TAKES_TUPLE else tuple(m(xi) for xi in x)


# -- the same net, loss and optimizer ------------------------------------------------------------------------------------------


def linear(ours: trainkit.Linear) -> nn.Module:
    """The layer with its weights copied; none are drawn, so that no random stream moves."""
    size = {"in_features": ours.in_features, "out_features": ours.out_features, "bias": ours.bias}
    theirs = nn.utils.skip_init(nn.Linear, **size, device=ours.w.device, dtype=ours.w.dtype)
    load(theirs, ours.state_dict())
    return theirs


LAYERS: dict[type[trainkit.Module], Callable[[Any], nn.Module]] = {
    trainkit.Linear: linear,
    trainkit.Identity: lambda m: nn.Identity(),
    trainkit.ReLU: lambda m: nn.ReLU(),
    trainkit.LeakyReLU: lambda m: nn.LeakyReLU(m.a),
    trainkit.Tanh: lambda m: nn.Tanh(),
    trainkit.Sigmoid: lambda m: nn.Sigmoid(),
    trainkit.ELU: lambda m: nn.ELU(m.a),
    trainkit.GELU: lambda m: nn.GELU(m.approximate),
    trainkit.SiLU: lambda m: nn.SiLU(),
    trainkit.Softplus: lambda m: nn.Softplus(m.beta, m.threshold),
    trainkit.Softmax: lambda m: nn.Softmax(m.dim),
    trainkit.LogSoftmax: lambda m: nn.LogSoftmax(m.dim),
    trainkit.Dropout: lambda m: nn.Dropout(m.p),
    trainkit.Flatten: lambda m: nn.Flatten(m.start_dim, m.end_dim),
    trainkit.FanOut: lambda m: FanOut(m.copies),
    trainkit.Add: lambda m: Add(),
    trainkit.Concat: lambda m: Concat(m.dim),
}
CONTAINERS = {
    trainkit.Sequential: Chain,
    trainkit.Recompute: Chain,
    trainkit.Residual: Residual,
    trainkit.Parallel: Parallel,
}

LOSSES: dict[type[Loss], Callable[[Any], Criterion]] = {
    trainkit.MSELoss: lambda m: nn.MSELoss(reduction=m.reduction),
    trainkit.L1Loss: lambda m: nn.L1Loss(reduction=m.reduction),
    trainkit.HuberLoss: lambda m: nn.HuberLoss(m.reduction, m.delta),
    trainkit.NLLLoss: lambda m: nn.NLLLoss(**of_classes(m)),
    trainkit.CrossEntropyLoss: lambda m: nn.CrossEntropyLoss(**of_classes(m), label_smoothing=m.label_smoothing),
    trainkit.BCELoss: lambda m: nn.BCELoss(own(m.element_weight), reduction=m.reduction),
    trainkit.BCEWithLogitsLoss: lambda m: nn.BCEWithLogitsLoss(
        own(m.element_weight), reduction=m.reduction, pos_weight=own(m.pos_weight)
    ),
}

# One kernel updates all parameters where torch has it (fused), else one does each line of the formula (foreach).
OPTIMIZERS: dict[type[Optimizer], Callable[[Any, Iterable[Tensor]], torch.optim.Optimizer]] = {
    trainkit.SGD: lambda o, params: torch.optim.SGD(
        params, **every(o), momentum=o.per_replica["momentum"][0], dampening=o.dampening, nesterov=o.nesterov, fused=True
    ),
    trainkit.Adam: lambda o, params: torch.optim.Adam(
        params, **every(o), betas=o.betas, eps=o.eps, amsgrad=o.amsgrad, fused=True
    ),
    trainkit.AdamW: lambda o, params: torch.optim.AdamW(
        params, **every(o), betas=o.betas, eps=o.eps, amsgrad=o.amsgrad, fused=True
    ),
    trainkit.RMSprop: lambda o, params: torch.optim.RMSprop(
        params, **every(o), alpha=o.alpha, eps=o.eps, momentum=o.per_replica["momentum"][0], centered=o.centered, foreach=True
    ),
    trainkit.Adagrad: lambda o, params: torch.optim.Adagrad(
        params, **every(o), lr_decay=o.lr_decay, eps=o.eps, initial_accumulator_value=o.start, fused=True
    ),
}


def of_classes(ours: trainkit.NLLLoss) -> dict[str, Any]:
    ignored = -100 if ours.ignore_index is None else ours.ignore_index
    return {"weight": own(ours.class_weight), "ignore_index": ignored, "reduction": ours.reduction}


def own(constant: Tensor | None) -> Tensor | None:
    """A copy: autograd refuses to save a tensor that was made in inference mode."""
    return None if constant is None else constant.clone()


def every(ours: Any) -> dict[str, Any]:
    """The settings of every optimizer. The rate is the configured one: a schedule or a stop may have moved the present one."""
    return {"lr": ours.configured[0], "weight_decay": ours.per_replica["weight_decay"][0], "maximize": ours.maximize}


def entry(table: Mapping[type, Made], kind: str, place: str, ours: object) -> Made:
    """The entry for exactly this class: a class derived from one of trainkit's may compute something else."""
    if type(ours) not in table:
        raise UserError(
            f"compare --against torch: {place} {type(ours).__name__}: torch has no such {kind}; leave --against out"
        )
    return table[type(ours)]


def module(ours: trainkit.Module) -> nn.Module:
    """The same net with the same weights under the same names. A module that stands in it twice does so here too.

    Raises UserError for a layer that torch has not: a user's own.
    """
    made: dict[int, nn.Module] = {}
    branches = any(type(m) is trainkit.FanOut for _, m in ours.modules())

    def mirror(m: trainkit.Module, path: str) -> nn.Module:
        if id(m) not in made:
            make = entry(LAYERS | CONTAINERS, "layer", f"model {path}".rstrip(), m)
            if type(m) in CONTAINERS:
                parts = [mirror(part, f"{path}.{name}" if path else name) for name, part in m.children()]
                made[id(m)] = make(*parts) if branches or make is not Chain else nn.Sequential(*parts)
            else:
                made[id(m)] = make(m)
        return made[id(m)]

    return mirror(ours, "")


def load(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy trainkit's state in. (`load_state_dict` would ask for a shared weight under each of its names.)"""
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(state[name])


def criterion(ours: Loss) -> Criterion:
    """The same loss with the same settings. Raises UserError for a user's own."""
    return entry(LOSSES, "loss", "loss", ours)(ours)


def optimizer(ours: Optimizer, params: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The same optimizer with the same settings, at the configured rate. Raises UserError for SignSGD and a user's own."""
    return entry(OPTIMIZERS, "optimizer", "optimizer", ours)(ours, params)


# -- the run -------------------------------------------------------------------------------------------------------------------
