"""The reference implementation: torch.nn with autograd and torch.optim, from the same weights over the same batches.

This is the loop that an experienced user of PyTorch writes by hand, with torch.optim's fastest form of each optimizer. It
writes no logs and no files; between two steps there are only the validations that trainkit's run had too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainkit.core.counters import EpochDraws
from trainkit.core.errors import UserError
from trainkit.data.dataset import Split
from trainkit.data.loader import batches, epoch_permutation
from trainkit.metrics.metric_set import MetricSet

from .torch_nn import Criterion, criterion, load, module, optimizer

if TYPE_CHECKING:
    from trainkit.trainer.session import Session


@dataclass(frozen=True)
class ReferenceResult:
    """The result of the reference implementation: the seconds of all steps and validations, the metrics in evaluation mode
    (`val/loss`, ...), and the parameters under trainkit's names."""

    seconds: float
    metrics: dict[str, float]
    state: dict[str, Tensor]


def fit(
    session: Session,
    start: Mapping[str, Tensor],
    rates: Sequence[float],
    momenta: Sequence[Mapping[str, Any]],
) -> ReferenceResult:
    """Repeat the training of `session`, which has one replica, from the parameters `start`: the same number of steps over the
    same batches, with the same validations.

    rates: the learning rate of each step. momenta: {"momentum": 0.9} or {"betas": (0.9, 0.999)} of each step, or {} for the
    configured one. Dropout draws other masks, from the run's seed.
    Raises UserError for a layer, loss or optimizer that torch does not have, and for weights of samples.
    """
    if any(split.weight is not None for split in session.data.parts().values()):
        raise UserError("compare --against torch: torch's losses take no weights of samples; run without --against")
    devices = [session.device] if session.device.type == "cuda" else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(session.seeds[0])
        net = module(session.net)
        load(net, start)
        loss = criterion(session.loss).to(session.device, session.dtype)
        update = optimizer(session.optimizer, net.parameters())
        settings = [{"lr": lr, **momentum} for lr, momentum in zip(rates, momenta, strict=True)]
        if settings:
            update.param_groups[0].update(settings[0])
        changing = iter(settings) if any(s != settings[0] for s in settings) else None
        stream, plan = endless_batches(session), list(validation_plan(session))

        began = synchronized_time(session.device)
        for steps, validate in plan:
            train(
                net,
                loss,
                update,
                islice(stream, steps),
                settings=changing,
                accumulate=session.settings.accumulate,
                clip_norm=session.settings.clip_norm,
                clip_value=session.settings.clip_value,
            )
            if validate:
                assert session.data.val is not None
                evaluate(net, loss, session, session.data.val)
        seconds = synchronized_time(session.device) - began

        metrics = {
            f"{name}/{metric}": value
            for name, split in session.data.parts().items()
            for metric, value in evaluate(net, loss, session, split).items()
        }
        state = {name: p.detach().clone() for name, p in net.named_parameters()}
        return ReferenceResult(seconds, metrics, state)


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
    """Train one step per batch. settings: the optimizer's settings at each step, if a schedule changes them."""
    parameters = list(net.parameters())
    for x, t in batches:
        if settings is not None:
            optimizer.param_groups[0].update(next(settings))
        optimizer.zero_grad(set_to_none=True)
        if accumulate == 1:
            criterion(net(x), t).backward()
        else:
            size, whole = -(-len(x) // accumulate), batch_weight(criterion, t)
            for xi, ti in zip(x.split(size), t.split(size), strict=True):
                value = criterion(net(xi), ti)
                (value * (batch_weight(criterion, ti) / whole) if criterion.reduction == "mean" else value).backward()
        if clip_value is not None:
            nn.utils.clip_grad_value_(parameters, clip_value)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()


def evaluate(net: nn.Module, criterion: Criterion, session: Session, split: Split) -> dict[str, float]:
    """Return loss and metrics of a split in evaluation mode, as trainkit's `evaluate` defines them, in batches of its size."""
    size = session.evaluation_size(split)
    total, weight = torch.zeros(2, dtype=torch.float64, device=split.x.device)
    others: MetricSet | None = None
    net.eval()
    with torch.inference_mode():
        for i in range(0, len(split), size):
            x, t = split.x[i : i + size], split.t[i : i + size]
            y = net(x)
            value, n = criterion(y, t), batch_weight(criterion, t)
            if isinstance(n, Tensor):
                value = torch.where(n == 0, 0, value)  # the value is 0 / 0 if all targets are ignored
            total += value * n if criterion.reduction == "mean" else value
            weight += n if criterion.reduction == "mean" else len(x)
            others = others or session.metric_set(y[None])
            raw, label = (None if v is None else v[i : i + size] for v in (split.raw, split.label))
            y = y if raw is None else session.normalizer.unscale(y.to(torch.promote_types(y.dtype, raw.dtype)))
            others.update(y[None], t if raw is None else raw, label)
    net.train()
    values = {} if others is None else others.values()
    return {"loss": float(total / weight), **{name: value for name, (value,) in values.items()}}


def batch_weight(criterion: Criterion, t: Tensor) -> int | Tensor:
    """Return the divisor of a mean: the number of samples, or the sum of the weights of the classes that count."""
    if t.is_floating_point() or (criterion.weight is None and criterion.ignore_index == -100):
        return len(t)
    counts = t != criterion.ignore_index
    return (counts if criterion.weight is None else criterion.weight[t[counts]]).sum(dtype=torch.float64)


def endless_batches(session: Session) -> Iterator[tuple[Tensor, Tensor]]:
    """Return an iterator over the batches of epoch after epoch, in the run's order."""
    split, seed = session.data.train, session.seeds[0]

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        order = epoch_permutation(seed, epoch, len(split)).to(session.device)
        return batches(split, order, session.step_size, 0, EpochDraws((seed,), epoch), session.augment)

    return ((x, t) for x, t in chain.from_iterable(map(epoch_batches, count())))


def validation_plan(session: Session) -> Iterator[tuple[int, bool]]:
    """Yield the run as pairs: a number of steps, and whether a validation follows them."""
    done, validates = 0, session.data.val is not None
    epochs, inside = session.steps_per_epoch * session.validate_every_n_epochs, session.validate_every_n_steps
    for step in range(1, session.progress.step + 1):
        if validates and (step % epochs == 0 or (inside and step % inside == 0)):
            yield step - done, True
            done = step
    yield session.progress.step - done, False


def synchronized_time(device: torch.device) -> float:
    """Return the time after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
