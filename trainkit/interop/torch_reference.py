"""The reference implementation: torch.nn with autograd and torch.optim, from the same weights over the same batches.

It is the loop that a good user of PyTorch writes by hand, in the fastest form that torch.optim has: no logs, no files, nothing
between two steps but the validations that the other run had too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainkit.data.dataset import Split
from trainkit.data.loader import batches, epoch_permutation
from trainkit.metrics.classification import predicted_classes

from .torch_nn import Criterion, criterion, load, module, optimizer

if TYPE_CHECKING:
    from trainkit.trainer.session import Session


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
