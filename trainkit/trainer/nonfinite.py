"""Where numbers are not finite: which replicas', and in a step taken again under watch, the place of the first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.data.loader import batches
from trainkit.nn.losses import Loss
from trainkit.nn.tracing import Call, traced
from trainkit.optim.flat_buffer import unflatten

from .engines.step import clipping, loss_and_grad
from .replay import changed

if TYPE_CHECKING:
    from .session import Session


def nonfinite_replicas(session: Session, losses: Sequence[float]) -> list[int]:
    """The replicas that train and whose loss, parameters or slots are not all finite. (Waits for the device.)"""
    tensors = changed(session)
    finite = all(math.isfinite(s.sum().item()) for s in tensors)  # a sum in which none can hide
    if finite and all(map(math.isfinite, losses)):
        return []
    wrong = [not math.isfinite(value) for value in losses]
    if not finite:
        own = [p for p, _ in session.optimizer.pairs]
        for v in (v for s in tensors for v in unflatten(s, own)):
            rows = v.flatten(1) if session.net.replica_dims else v.reshape(1, -1)
            wrong = [w or not f for w, f in zip(wrong, rows.isfinite().all(1).tolist(), strict=True)]
    return [r for r, active in enumerate(session.progress.active) if active and wrong[r]]


def max_magnitude(v: Tensor) -> float:
    """The largest magnitude; NaN where there is one."""
    return float(torch.linalg.vector_norm(v.detach(), math.inf)) if v.numel() else 0.0


class Found(Exception):
    """The first place, in words."""


def locate(session: Session, r: int) -> str | None:
    """Where the next step's first number of replica r that is not finite comes up; None if all stay finite.

    Takes the step, eagerly, every number looked at: put the state back afterwards.
    """
    try:
        _watched(session, r)
    except Found as found:
        return str(found)
    return None


def _watched(session: Session, r: int) -> None:
    net, loss, o, state = session.net, session.loss, session.optimizer, session.progress
    own = [p for p, _ in o.pairs]

    def of(v: Tensor) -> Tensor:
        return v[r] if net.replica_dims else v

    def check(where: str, v: Any, more: str = "") -> None:
        for each in map(of, _tensors(v)):
            if each.is_floating_point() and not each.isfinite().all():
                raise Found(f"{where}: {describe_nonfinite(each)}{more}")

    def see(call: Call) -> None:
        mine = vars(call.module).get("_parameters", {})
        if call.phase == "fwd":
            reaching = "".join(f", its {name} {max_magnitude(of(p)):.3g}" for name, (p, _) in mine.items())
            check(f"{call.place} forward", call.gave, f"; its input reaches {magnitude_of(call.given)}{reaching}")
            return
        for name, (_, g) in mine.items():
            check(f"{call.place} backward", g, f" in the gradient of its {name}; dy reaches {magnitude_of(call.given)}")
        check(f"{call.place} backward", call.gave, f"; dy reaches {magnitude_of(call.given)}")

    def magnitude_of(v: Any) -> str:
        return f"{max((max_magnitude(of(t)) for t in _tensors(v)), default=0.0):.3g}"

    for name, v in _named(session):
        check(f"before the step, {name}", v)
    order = session.order(state.epoch)
    x, t = next(batches(session.data.train, order, session.step_size, state.batch))
    index = order.narrow(net.replica_dims, state.batch * session.step_size, x.shape[net.replica_dims])
    for what, v in (("", x), ("the target of ", t)):
        if v.is_floating_point() and not of(v).isfinite().all():
            raise Found(f"data: {what}{_sample(of(v), of(index))}")
    o.prepare_grad()
    with traced(net, see):
        value = loss_and_grad(net, _checked(loss, check, magnitude_of), session.settings.accumulate)(x, t)
    check(type(loss).__name__, value, "; no target of the batch counts")
    if (clip := clipping(net.replica_dims, session.settings.clip_norm, session.settings.clip_value)) is not None:
        clip(o.g, [g for _, g in o.pairs])
        for (name, _, _), g in zip(net.named_param(), unflatten(o.g, own), strict=True):
            check(f"clipping, the gradient of {name}", g)
    gradients = [max_magnitude(of(g)) for g in unflatten(o.g, own)]
    o.update()
    for i, (name, v) in enumerate(_named(session)):
        reached = gradients[i % len(gradients)]
        check(f"{type(o).__name__} update of {name}", v, f"; the gradient reached {reached:.3g}, lr {session.lr[r]:.3g}")


def _named(session: Session) -> Iterator[tuple[str, Tensor]]:
    """Each parameter, then each slot of each: `2.weight`, `m of 2.weight`."""
    o, names = session.optimizer, [name for name, _, _ in session.net.named_param()]
    for what, flat in zip(("", *(f"{slot} of " for slot in o.slots)), changed(session), strict=True):
        for name, v in zip(names, unflatten(flat, [p for p, _ in o.pairs]), strict=True):
            yield what + name, v


def _checked(loss: Loss, check: Any, magnitude_of: Any) -> Loss:
    """The loss, with what its fwd and bwd give checked; that of a batch's parts too."""
    checked, name = copy(loss), type(loss).__name__

    def fwd(y: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        value, saved = loss.fwd(y, t)
        if loss.reduction == "sum" or torch.as_tensor(loss.batch_weight(t)).all():  # else there is no mean
            check(name, value, f"; the net's output reaches {magnitude_of(y)}")
        return value, saved

    def bwd(saved: Any) -> Tensor:
        dy = loss.bwd(saved)
        check(f"{name} backward", dy)
        return dy

    vars(checked).update(fwd=fwd, bwd=bwd, summed=lambda: _checked(loss.summed(), check, magnitude_of))
    return checked


def describe_nonfinite(v: Tensor) -> str:
    """`3 of 1,250 numbers are not finite, the first inf at (4, 17)`, or `inf` of a single number."""
    wrong = (~v.isfinite()).nonzero()
    at = tuple(wrong[0].tolist())
    if v.numel() == 1:
        return f"{float(v[at]):g}"
    s = "s" if len(wrong) > 1 else ""
    return f"{len(wrong):,} of {v.numel():,} numbers {'are' if s else 'is'} not finite, the first {float(v[at]):g} at {at}"


def _sample(v: Tensor, index: Tensor) -> str:
    """`sample 7 of the training part has inf in feature 3`."""
    i, *rest = (~v.isfinite()).nonzero()[0].tolist()
    where = f" in feature {rest[0]}" if len(rest) == 1 else f" at {tuple(rest)}" if rest else ""
    return f"sample {int(index[i])} of the training part has {float(v[(i, *rest)]):g}{where}"


def _tensors(v: Any) -> Iterator[Tensor]:
    if isinstance(v, (tuple, list)):
        for each in v:
            yield from _tensors(each)
    elif isinstance(v, Tensor):
        yield v
