"""Checks that net, loss and data fit together, made before the first step and before an evaluation of other data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import Split
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module, eval_mode


def check_shapes(net: Module, loss: Loss, splits: Mapping[str, Split], n_replicas: int) -> Tensor:
    """Return the outputs of a batch of the first split, in evaluation mode, after a check of shapes, types and every target.

    Errors name the place.
    """
    axis, replicas = net.replica_dims, (n_replicas,) if net.replica_dims else ()
    first = next(iter(splits.values()))
    x = first.x[:2]
    with eval_mode(net):
        y = net(x.expand(*replicas, *x.shape))
    if not isinstance(y, Tensor):
        raise UserError(f"model: the net ends in a tuple of {len(y)} tensors; end it in one, with Add or Concat")
    for name, split in splits.items():
        if len(split):
            outputs = y.narrow(axis, 0, 1).expand(*replicas, len(split), *y.shape[axis + 1 :])
            try:
                loss.check(outputs, split.t.expand(*replicas, *split.t.shape))
            except UserError as error:
                raise UserError(f"loss, on the {name} split: {error}") from None
        if split.weight is not None and not takes_weights(loss):
            raise UserError(
                f"loss: {type(loss).__name__} takes no sample weights, which the {name} split has; let its fwd and batch_weight"
                " take weight=None, and pass it to self.reduce and self.reduction_factor"
            )
    given = [v[:2].expand(*replicas, *v[:2].shape) for v in (first.t, first.weight) if v is not None]
    _check_sum(loss, y, *given)
    return y


def takes_weights(loss: Loss) -> bool:
    """Return whether a loss takes the weights of the samples."""
    try:
        inspect.signature(loss.fwd).bind(None, None, None)
        inspect.signature(loss.batch_weight).bind(None, None)
    except TypeError:
        return False
    return True


def _check_sum(loss: Loss, y: Tensor, *targets: Tensor) -> None:
    """Raise UserError for a loss whose sum is not its mean times its batch weight: batches are combined by these."""
    if loss.reduction != "mean":
        return
    values = loss.fwd(y, *targets)[0], loss.summed().fwd(y, *targets)[0], loss.batch_weight(*targets)
    mean, total, weight = (torch.as_tensor(v).detach().cpu().double() for v in values)
    known = mean.isfinite() & total.isfinite() & (weight != 0)
    if known.any() and not torch.allclose(total[known], (mean * weight)[known], rtol=1e-3, atol=1e-6):
        raise UserError(
            f"loss: {type(loss).__name__} with reduction=sum gives {total.tolist()}, its mean times its batch weight is"
            f" {(mean * weight).tolist()}; compute with self.reduce and self.reduction_factor, or override batch_weight"
        )
