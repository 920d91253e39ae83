"""Convert a net, a loss and an optimizer of trainkit to those of torch.nn and torch.optim."""

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

Criterion = Any  # a loss of torch.nn, a module with `reduction`; some have `weight` and `ignore_index`
Entry = TypeVar("Entry")

# -- layers that torch.nn does not have ----------------------------------------------------------------------------------------


class Chain(nn.Sequential):
    """nn.Sequential for nets with branches: a module that takes one tensor is mapped over a tuple."""

    def forward(self, x: Tensors) -> Tensors:
        for m in self:
            x = call_mapped(m, x)
        return x


class Residual(Chain):
    """y = x + f(x), f the chain of the modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Parallel(nn.Sequential):
    """(y₁, ..., yₖ) = (f₁(x₁), ..., fₖ(xₖ)): one module per tensor of a tuple."""

    def forward(self, x: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        return tuple(call_mapped(m, xi) for m, xi in zip(self, x, strict=True))


class FanOut(nn.Module):
    """(y₁, ..., yₖ) = (x, ..., x)."""

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
    """y = (x₁, ..., xₖ) concatenated along `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return torch.cat(x, self.dim)


class EmbedColumns(nn.Module):
    """Numbers pass, and each code column is looked up in its rows of one table."""

    def __init__(self, ours: trainkit.EmbedColumns) -> None:
        super().__init__()
        self.codes = len(ours.categories)
        self.first = torch.tensor([0, *ours.categories[:-1]]).cumsum(0)
        self.weight = nn.Parameter(ours.w.clone())

    def forward(self, x: Tensor) -> Tensor:
        numbers, codes = x[..., : -self.codes], x[..., -self.codes :]
        vectors = nn.functional.embedding(codes.long() + self.first.to(x.device), self.weight)
        return torch.cat([numbers, vectors.flatten(-2)], -1)


ACCEPT_TUPLE = {Chain, Parallel, Add, Concat}


def call_mapped(m: nn.Module, x: Tensors) -> Tensors:
    """Return m(x), mapped over a tuple if m takes one tensor."""
    return m(x) if type(x) is not tuple or type(m) in ACCEPT_TUPLE else tuple(m(xi) for xi in x)


# -- the same net, loss and optimizer ------------------------------------------------------------------------------------------


def linear(ours: trainkit.Linear) -> nn.Module:
    """Return the layer with its weights copied. None are drawn, so that no random stream advances."""
    size = {"in_features": ours.in_features, "out_features": ours.out_features, "bias": ours.bias}
    theirs = nn.utils.skip_init(nn.Linear, **size, device=ours.w.device, dtype=ours.w.dtype)
    load(theirs, ours.state_dict())
    return theirs


LAYERS: dict[type[trainkit.Module], Callable[[Any], nn.Module]] = {
    trainkit.Linear: linear,
    trainkit.EmbedColumns: EmbedColumns,
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
    trainkit.NLLLoss: lambda m: nn.NLLLoss(**class_loss_arguments(m)),
    trainkit.CrossEntropyLoss: lambda m: nn.CrossEntropyLoss(**class_loss_arguments(m), label_smoothing=m.label_smoothing),
    trainkit.BCELoss: lambda m: nn.BCELoss(cloned(m.element_weight), reduction=m.reduction),
    trainkit.BCEWithLogitsLoss: lambda m: nn.BCEWithLogitsLoss(
        cloned(m.element_weight), reduction=m.reduction, pos_weight=cloned(m.pos_weight)
    ),
}

# The fastest form in torch: one kernel for the whole update (fused), or else one per line of the formula (foreach).
OPTIMIZERS: dict[type[Optimizer], Callable[[Any, Iterable[Tensor]], torch.optim.Optimizer]] = {
    trainkit.SGD: lambda o, params: torch.optim.SGD(
        params,
        **common_arguments(o),
        momentum=o.per_replica["momentum"][0],
        dampening=o.dampening,
        nesterov=o.nesterov,
        fused=True,
    ),
    trainkit.Adam: lambda o, params: torch.optim.Adam(
        params, **common_arguments(o), betas=o.betas, eps=o.eps, amsgrad=o.amsgrad, fused=True
    ),
    trainkit.AdamW: lambda o, params: torch.optim.AdamW(
        params, **common_arguments(o), betas=o.betas, eps=o.eps, amsgrad=o.amsgrad, fused=True
    ),
    trainkit.RMSprop: lambda o, params: torch.optim.RMSprop(
        params,
        **common_arguments(o),
        alpha=o.alpha,
        eps=o.eps,
        momentum=o.per_replica["momentum"][0],
        centered=o.centered,
        foreach=True,
    ),
    trainkit.Adagrad: lambda o, params: torch.optim.Adagrad(
        params, **common_arguments(o), lr_decay=o.lr_decay, eps=o.eps, initial_accumulator_value=o.start, fused=True
    ),
}


def class_loss_arguments(ours: trainkit.NLLLoss) -> dict[str, Any]:
    """Return the arguments that NLLLoss and CrossEntropyLoss share."""
    ignored = -100 if ours.ignore_index is None else ours.ignore_index
    return {"weight": cloned(ours.class_weight), "ignore_index": ignored, "reduction": ours.reduction}


def cloned(constant: Tensor | None) -> Tensor | None:
    """Return a copy, since autograd cannot save a tensor that was made in inference mode."""
    return None if constant is None else constant.clone()


def common_arguments(ours: Any) -> dict[str, Any]:
    """Return the arguments that all optimizers share. The rate is the configured one, which no schedule has changed."""
    return {"lr": ours.initial_lrs[0], "weight_decay": ours.per_replica["weight_decay"][0], "maximize": ours.maximize}


def entry_for(table: Mapping[type, Entry], kind: str, place: str, ours: object) -> Entry:
    """Return the entry for exactly this class, since a subclass may compute something else. Raises UserError without one."""
    if type(ours) not in table:
        raise UserError(
            f"compare --against torch: {place} {type(ours).__name__}: torch has no such {kind}; run without --against"
        )
    return table[type(ours)]


def module(ours: trainkit.Module) -> nn.Module:
    """Return the same net with the same weights under the same names. A module that occurs twice is shared there too.

    Raises UserError for a layer that torch does not have, such as a user's own.
    """
    converted: dict[int, nn.Module] = {}
    branches = any(type(m) is trainkit.FanOut for _, m in ours.modules())

    def convert(m: trainkit.Module, path: str) -> nn.Module:
        if id(m) not in converted:
            build = entry_for(LAYERS | CONTAINERS, "layer", f"model {path}".rstrip(), m)
            if type(m) in CONTAINERS:
                children = [convert(child, f"{path}.{name}" if path else name) for name, child in m.children()]
                converted[id(m)] = build(*children) if branches or build is not Chain else nn.Sequential(*children)
            else:
                converted[id(m)] = build(m)
        return converted[id(m)]

    return convert(ours, "")


def load(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy trainkit's state in. (`load_state_dict` needs a shared weight under each of its names.)"""
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(state[name])


def criterion(ours: Loss) -> Criterion:
    """Return the same loss with the same settings. Raises UserError for a user's own."""
    return entry_for(LOSSES, "loss", "loss", ours)(ours)


def optimizer(ours: Optimizer, params: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Return the same optimizer at the configured rate. Raises UserError for SignSGD and for a user's own."""
    return entry_for(OPTIMIZERS, "optimizer", "optimizer", ours)(ours, params)
