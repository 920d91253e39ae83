"""One training step: a plain function of tensors that never waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.losses import Loss
from trainkit.nn.module import Tensors
from trainkit.optim.optimizer import Optimizer


class Differentiable(Protocol):
    """What a step needs of a net."""

    replica_dims: int

    def fwd(self, x: Tensors) -> tuple[Tensors, Any]: ...

    def bwd_params(self, saved: Any, dy: Tensors) -> None: ...


Step = Callable[..., Tensor]  # of x, t, and of the samples' weights where they have any
Gradient = Callable[..., Tensor]
Clip = Callable[[Tensor, Sequence[Tensor]], None]


def training_step(
    net: Differentiable,
    loss: Loss,
    optimizer: Optimizer,
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> Step:
    """Return step(x, t) -> loss: zero, forward, loss, backward, clip, update. x (n, ...), or (r, n, ...) with replicas.

    step(x, t, weight) takes the samples' weights: (n,), or (r, n).

    accumulate: the number of parts into which the batch is divided; their gradients add up to that of the whole batch. If no
    target of a batch counts (all ignored, or of weight 0), it adds 0. The mean of an undivided one is 0 / 0, as in torch.
    clip_norm: scale the gradient (each replica's) to at most this Euclidean norm; clip_value: clamp its elements to ±this.
    """
    if not optimizer.has_grad_buffer and (clip_norm is not None or clip_value is not None):
        raise UserError(
            "trainer: SGD with accumulate_into_momentum has no gradient to clip; remove clip_norm and clip_value,"
            " or set accumulate_into_momentum to false"
        )
    gradient, clip = loss_and_grad(net, loss, accumulate), clipping(net.replica_dims, clip_norm, clip_value)

    gradients = [g for _, g in optimizer.pairs]

    def step(x: Tensor, t: Tensor, *weight: Tensor) -> Tensor:
        optimizer.prepare_grad()
        value = gradient(x, t, *weight)
        if clip is not None:
            clip(optimizer.g, gradients)
        optimizer.update()
        return value

    return step


def loss_and_grad(net: Differentiable, loss: Loss, accumulate: int = 1) -> Gradient:
    """Return gradient(x, t) -> loss, which adds to the gradients of the net's parameters: forward, loss, backward.

    gradient(x, t, weight) takes the samples' weights.
    """

    def differentiate(x: Tensor, t: Tensor, *weight: Tensor) -> Tensor:
        y, saved = net.fwd(x)
        value, s = loss.fwd(y, t, *weight)
        net.bwd_params(saved, loss.bwd(s))
        return value

    summed = loss.summed()  # sums add up over parts; the mean of a part without a target that counts is 0 / 0

    def differentiate_in_parts(*batch: Tensor) -> Tensor:
        x, *targets = batch
        size = -(-x.shape[net.replica_dims] // accumulate)
        count: float | Tensor = loss.batch_weight(*targets) if loss.reduction == "mean" else 1
        scale = torch.where(count == 0, 0, 1 / count) if isinstance(count, Tensor) else 1 / count  # 0 if no target counts
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for xi, *ti in zip(*(v.split(size, net.replica_dims) for v in batch), strict=True):
            y, saved = net.fwd(xi)
            value, s = summed.fwd(y, *ti)
            dy = summed.bwd(s)
            if isinstance(scale, Tensor):
                dy.mul_(scale.to(dy.dtype).view(*scale.shape, *[1] * (dy.dim() - scale.dim())))
            else:
                dy.mul_(scale)
            net.bwd_params(saved, dy)
            total = total + value
        return (total * scale).to(x.dtype)

    return differentiate if accumulate == 1 else differentiate_in_parts


def clipping(replica_dims: int, norm: float | None, value: float | None) -> Clip | None:
    """Return clip(g, gradients), which clips the flat gradient g in place, or None if neither limit is given.

    gradients: the views of g, one per parameter. First the value is clipped, then the norm, each as in
    torch.nn.utils.clip_grad_value_ and clip_grad_norm_.
    """
    if norm is None and value is None:
        return None

    def clip(g: Tensor, gradients: Sequence[Tensor]) -> None:
        if value is not None:
            g.clamp_(-value, value)
        if norm is not None and replica_dims:
            squares = sum(g.flatten(1).square().sum(1) for g in gradients)  # (r,)
            assert isinstance(squares, Tensor)
            scale = (norm / (squares.sqrt() + 1e-6)).clamp_(max=1)
            for own in gradients:
                own.mul_(scale.view(-1, *[1] * (own.dim() - 1)))
        elif norm is not None:
            g.mul_((norm / (torch.linalg.vector_norm(g) + 1e-6)).clamp_(max=1))

    return clip
