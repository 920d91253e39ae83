"""The rival: the same net in torch.nn with autograd and torch.optim, from the same weights over the same batches.

It is the loop that a good user of PyTorch writes by hand, in the fastest form that torch.optim has: no logs, no files, nothing
between two steps but the validations that the other run had too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

import trainkit
from trainkit.core.errors import UserError
from trainkit.data.dataset import Split
from trainkit.data.loader import batches, epoch_permutation
from trainkit.metrics.classification import predicted_classes
from trainkit.nn.losses import Loss
from trainkit.nn.module import Value
from trainkit.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from trainkit.trainer.session import Session

Criterion = Any  # a loss of torch.nn: a module whose `reduction`, `weight` and `ignore_index` are looked at
Made = TypeVar("Made")

# -- what torch.nn has not -----------------------------------------------------------------------------------------------------


class Chain(nn.Sequential):
    """nn.Sequential for nets with branches: a module that takes one tensor and is given a tuple maps over it."""

    def forward(self, x: Value) -> Value:
        for m in self:
            x = mapped(m, x)
        return x


class Residual(Chain):
    """y = x + f(x), f the chain of the modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Parallel(nn.Sequential):
    """A module for each tensor of a tuple."""

    def forward(self, x: tuple[Value, ...]) -> tuple[Value, ...]:
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


def mapped(m: nn.Module, x: Value) -> Value:
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


@dataclass(frozen=True)
class Rival:
    """What came out: seconds of the steps and validations, steps, `val/loss` and the like in evaluation mode, and the
    parameters under trainkit's names."""

    seconds: float
    steps: int
    metrics: dict[str, float]
    state: dict[str, Tensor]


def fit(
    session: Session,
    start: Mapping[str, Tensor],
    rates: Sequence[float] | None = None,
    momenta: Sequence[Mapping[str, Any]] | None = None,
) -> Rival:
    """Train again what `trainer`, one replica, has trained from the parameters `start`: as many steps, over the same batches,
    with a validation wherever it had one.

    rates: the learning rate of each step; None is the configured one. momenta: {"momentum": 0.9} or {"betas": (0.9, 0.999)}
    of each step, where the schedule is one that moves them. Dropout draws masks of its own, from the run's seed.
    Raises UserError for what torch has not.
    """
    devices = [session.device] if session.device.type == "cuda" else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(session.seeds[0])
        net = module(session.net)
        load(net, start)
        loss = criterion(session.loss).to(session.device, session.dtype)
        update = optimizer(session.optimizer, net.parameters())
        settings = each_step(session, rates, momenta)
        if settings:
            update.param_groups[0].update(settings[0])
        moving = iter(settings) if any(s != settings[0] for s in settings) else None
        stream, plan = endless(session), list(stretches(session))

        began = now(session.device)
        for stretch, validate in plan:
            train(
                net,
                loss,
                update,
                islice(stream, stretch),
                settings=moving,
                accumulate=session.settings.accumulate,
                clip_norm=session.settings.clip_norm,
                clip_value=session.settings.clip_value,
            )
            if validate:
                assert session.data.val is not None
                evaluate(net, loss, session, session.data.val)
        seconds = now(session.device) - began

        metrics = {
            f"{name}/{metric}": value
            for name, part in session.data.parts().items()
            for metric, value in evaluate(net, loss, session, part).items()
        }
        return Rival(seconds, session.progress.step, metrics, {name: p.detach().clone() for name, p in net.named_parameters()})


def train(
    net: nn.Module,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    settings: Iterator[dict[str, Any]] | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> None:
    """The bare loop, a step a batch. settings: the optimizer's at each step, where a schedule moves them."""
    parameters = list(net.parameters())
    for x, t in batches:
        if settings is not None:
            optimizer.param_groups[0].update(next(settings))
        optimizer.zero_grad(set_to_none=True)
        if accumulate == 1:
            criterion(net(x), t).backward()
        else:
            size, whole = -(-len(x) // accumulate), counted(criterion, t)
            for xi, ti in zip(x.split(size), t.split(size), strict=True):
                value = criterion(net(xi), ti)
                (value * (counted(criterion, ti) / whole) if criterion.reduction == "mean" else value).backward()
        if clip_value is not None:
            nn.utils.clip_grad_value_(parameters, clip_value)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()


def evaluate(net: nn.Module, criterion: Criterion, session: Session, part: Split) -> dict[str, float]:
    """Loss and error of a part in evaluation mode, as trainkit's `evaluate` defines them, in batches of the same size."""
    data, size = session.data, max(session.settings.batch_size or len(part), 1024)
    total, seen, wrong = torch.zeros(3, dtype=torch.float64, device=part.x.device)
    net.eval()
    with torch.inference_mode():
        for i in range(0, len(part), size):
            x, t = part.x[i : i + size], part.t[i : i + size]
            y = net(x)
            value, n = criterion(y, t), counted(criterion, t)
            if isinstance(n, Tensor):
                value = torch.where(n == 0, 0, value)  # all is ignored: 0 / 0
            total += value * n if criterion.reduction == "mean" else value
            seen += n if criterion.reduction == "mean" else len(x)
            if data.classes is not None and part.label is not None:
                wrong += (predicted_classes(y, session.loss, data) != part.label[i : i + size]).sum()
    net.train()
    metrics = {"loss": float(total / seen)}
    if data.classes is not None and part.label is not None:
        metrics["error"] = float(wrong / len(part))
    return metrics


def counted(criterion: Criterion, t: Tensor) -> int | Tensor:
    """What a mean divides by: the samples, or the weights of those classes that are not ignored."""
    if t.is_floating_point() or (criterion.weight is None and criterion.ignore_index == -100):
        return len(t)
    kept = t != criterion.ignore_index
    return (kept if criterion.weight is None else criterion.weight[t[kept]]).sum(dtype=torch.float64)


def each_step(
    session: Session, rates: Sequence[float] | None, momenta: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """The optimizer's settings for each step: {"lr": 0.1, "momentum": 0.9}."""
    steps = session.progress.step
    rates = [session.optimizer.configured[0]] * steps if rates is None else rates
    momenta = [{}] * steps if momenta is None else momenta
    return [{"lr": lr, **momentum} for lr, momentum in zip(rates, momenta, strict=True)]


def endless(session: Session) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of every epoch in the run's order."""
    part, seed = session.data.train, session.seeds[0]
    orders = (epoch_permutation(seed, epoch, len(part)).to(session.device) for epoch in count())
    return chain.from_iterable(batches(part, at, session.step_size) for at in orders)


def stretches(session: Session) -> Iterator[tuple[int, bool]]:
    """The run as (steps, whether a validation follows them)."""
    done, validates = 0, session.data.val is not None
    epochs, inside = session.steps_per_epoch * session.validate_every_n_epochs, session.validate_every_n_steps
    for step in range(1, session.progress.step + 1):
        if validates and (step % epochs == 0 or (inside and step % inside == 0)):
            yield step - done, True
            done = step
    yield session.progress.step - done, False


def now(device: torch.device) -> float:
    """The time, when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
