"""Non-finite numbers: the replicas that have them, and the place of the first one in a step that is taken again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.nn.losses import Loss
from trainkit.nn.tracing import Call, traced
from trainkit.optim.flat_buffer import unflatten

from .engines.step import clipping, loss_and_grad
from .replay import carried_buffers

if TYPE_CHECKING:
    from .session import Session


def nonfinite_replicas(session: Session, losses: Sequence[float]) -> list[int]:
    """Return the active replicas whose loss, parameters or slots are not all finite. (Waits for the device.)"""
    tensors = carried_buffers(session)
    finite = all(math.isfinite(s.sum().item()) for s in tensors)  # a non-finite element makes the sum non-finite
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
    """Return the largest magnitude of the elements; NaN where one is NaN."""
    return float(torch.linalg.vector_norm(v.detach(), math.inf)) if v.numel() else 0.0


class Found(Exception):
    """Raised at the first non-finite number; the message is its place."""


def locate(session: Session, r: int) -> str | None:
    """Return where the first non-finite number of replica r arises in the next step; None if all stay finite.

    Takes the step eagerly and checks every tensor in it. The caller must restore the state afterwards.
    """
    try:
        _take_checked_step(session, r)
    except Found as found:
        return str(found)
    return None


def _take_checked_step(session: Session, r: int) -> None:
    net, loss, o, state = session.net, session.loss, session.optimizer, session.progress
    own = [p for p, _ in o.pairs]

    def of(v: Tensor) -> Tensor:
        return v[r] if net.replica_dims else v

    def check(where: str, v: Any, context: str = "") -> None:
        for each in map(of, _tensors(v)):
            if each.is_floating_point() and not each.isfinite().all():
                raise Found(f"{where}: {describe_nonfinite(each)}{context}")

    def check_call(call: Call) -> None:
        own_params = vars(call.module).get("_parameters", {})
        if call.phase == "fwd":
            sizes = "".join(f", its {name} {max_magnitude(of(p)):.3g}" for name, (p, _) in own_params.items())
            check(f"{call.place} forward", call.gave, f"; its input reaches {magnitude_of(call.given)}{sizes}")
            return
        for name, (_, g) in own_params.items():
            check(f"{call.place} backward", g, f" in the gradient of its {name}; dy reaches {magnitude_of(call.given)}")
        check(f"{call.place} backward", call.gave, f"; dy reaches {magnitude_of(call.given)}")

    def magnitude_of(v: Any) -> str:
        return f"{max((max_magnitude(of(t)) for t in _tensors(v)), default=0.0):.3g}"

    for name, v in _named(session):
        check(f"before the step, {name}", v)
    order = session.order(state.epoch)
    batch = x, t, *weight = next(session.batches(state.epoch, state.batch))
    index = order.narrow(net.replica_dims, state.batch * session.step_size, x.shape[net.replica_dims])
    for what, v in (("", x), ("the target of ", t)):
        if v.is_floating_point() and not of(v).isfinite().all():
            raise Found(f"data: {what}{_sample(of(v), of(index))}")
    o.prepare_grad()
    with traced(net, check_call):
        value = loss_and_grad(net, _checked(loss, check, magnitude_of), session.settings.accumulate)(*batch)
    if not weight or of(weight[0]).any():  # else the loss, 0 / 0, does not count
        check(type(loss).__name__, value, "; no target of the batch counts")
    if (clip := clipping(net.replica_dims, session.settings.clip_norm, session.settings.clip_value)) is not None:
        clip(o.g, [g for _, g in o.pairs])
        for (name, _, _), g in zip(net.named_param(), unflatten(o.g, own), strict=True):
            check(f"clipping, the gradient of {name}", g)
    gradients = [max_magnitude(of(g)) for g in unflatten(o.g, own)]
    o.update()
    for i, (name, v) in enumerate(_named(session)):
        size = gradients[i % len(gradients)]
        check(f"{type(o).__name__} update of {name}", v, f"; the gradient reached {size:.3g}, lr {session.lr[r]:.3g}")


def _named(session: Session) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter, then each slot of each parameter, by name: `2.weight`, `m of 2.weight`."""
    o, names = session.optimizer, [name for name, _, _ in session.net.named_param()]
    for what, flat in zip(("", *(f"{slot} of " for slot in o.slots)), carried_buffers(session), strict=True):
        for name, v in zip(names, unflatten(flat, [p for p, _ in o.pairs]), strict=True):
            yield what + name, v


def _checked(loss: Loss, check: Any, magnitude_of: Any) -> Loss:
    """Return a copy of the loss that checks the results of its fwd and bwd, and of its `summed` form's."""
    checked, name = copy(loss), type(loss).__name__

    def fwd(y: Tensor, *targets: Tensor) -> tuple[Tensor, Any]:
        value, saved = loss.fwd(y, *targets)
        if (
            loss.reduction == "sum" or torch.as_tensor(loss.batch_weight(*targets)).all()
        ):  # else the mean of that replica is 0 / 0, as intended
            check(name, value, f"; the net's output reaches {magnitude_of(y)}")
        return value, saved

    def bwd(saved: Any) -> Tensor:
        dy = loss.bwd(saved)
        check(f"{name} backward", dy)
        return dy

    vars(checked).update(fwd=fwd, bwd=bwd, summed=lambda: _checked(loss.summed(), check, magnitude_of))
    return checked


def describe_nonfinite(v: Tensor) -> str:
    """Return `3 of 1,250 numbers are not finite, the first inf at (4, 17)`, or `inf` for a single number."""
    wrong = (~v.isfinite()).nonzero()
    at = tuple(wrong[0].tolist())
    if v.numel() == 1:
        return f"{float(v[at]):g}"
    s = "s" if len(wrong) > 1 else ""
    return f"{len(wrong):,} of {v.numel():,} numbers {'are' if s else 'is'} not finite, the first {float(v[at]):g} at {at}"


def _sample(v: Tensor, index: Tensor) -> str:
    """Return `sample 7 of the training split has inf in feature 3`."""
    i, *rest = (~v.isfinite()).nonzero()[0].tolist()
    where = f" in feature {rest[0]}" if len(rest) == 1 else f" at {tuple(rest)}" if rest else ""
    return f"sample {int(index[i])} of the training split has {float(v[(i, *rest)]):g}{where}"


def _tensors(v: Any) -> Iterator[Tensor]:
    if isinstance(v, (tuple, list)):
        for each in v:
            yield from _tensors(each)
    elif isinstance(v, Tensor):
        yield v
