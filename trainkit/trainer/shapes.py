"""Checks that net, loss and data fit together, made before the first step and before an evaluation of other data."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor

from trainkit.core.errors import MAX_NAMES, UserError
from trainkit.core.validation import short_repr
from trainkit.data import check
from trainkit.data.dataset import Dataset
from trainkit.data.statistics import blocks
from trainkit.nn.layers.container import Sequential
from trainkit.nn.losses import Loss
from trainkit.nn.module import LayerError, Module, eval_mode
from trainkit.nn.tracing import place


def check_shapes(net: Module, loss: Loss, data: Dataset, names: Iterable[str], n_replicas: int) -> Tensor:
    """Return the outputs of a batch of the first split, in evaluation mode, after a check of shapes, types and every target.

    names: the splits of `data` that are checked. Errors name the place.
    """
    axis, replicas = net.replica_dims, (n_replicas,) if net.replica_dims else ()
    splits = {name: data.parts()[name] for name in names}
    first = next(iter(splits.values()))
    x = first.x[:2]
    try:
        with eval_mode(net):
            y = net(x.expand(*replicas, *x.shape))
    except LayerError as error:
        if error.module is not first_module(net)[1]:
            raise
        raise UserError(f"{error}{_width(data)}") from error
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


def _width(data: Dataset) -> str:
    """Return where the width of the inputs comes from: `; 2 columns become 4 features (age, color=red, ...)`, or ''."""
    names = [short_repr(name, "") for name in data.features]
    if not names:
        return ""
    listed = ", ".join(names[:MAX_NAMES]) + (f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    columns = data.schema.get("columns")
    count = len(columns) if isinstance(columns, list) else len(names)
    what = f"{count} columns become {len(names)} features" if count != len(names) else f"the data has {len(names)} features"
    return f"; {what} ({listed}); write {len(names)}, or auto in a configuration"


def check_inputs(net: Module, data: Dataset, names: Iterable[str]) -> None:
    """Raise UserError at the first input that `net` would misread, in the splits `names` of `data`, which are scaled."""
    where, module = first_module(net)
    if type(module).invalid_input is Module.invalid_input:
        return

    def wrong(x: Tensor) -> Tensor:
        found = module.invalid_input(x)
        return torch.zeros_like(x, dtype=torch.bool) if found is None else found

    for name in names:
        if any(wrong(block).any() for block in blocks(data.parts()[name].x)):
            fix = "correct it; codes are not scaled if Dataset.categories has their numbers of categories"
            check.refuse(data, name, "x", wrong, f"is not valid in {where}, {module.expected_input()}", fix)


def check_rows(net: Module, x: Tensor, first: int = 0) -> None:
    """Raise UserError at the first input that `net` would misread, in scaled rows x (n, ...) to predict.

    first: the number of the first of these rows, for the message.
    """
    where, module = first_module(net)
    found = module.invalid_input(x)
    if found is not None:
        row, *at = found.nonzero()[0].tolist()
        what = f"{float(x[(row, *at)]):g} is not valid in {where}, {module.expected_input()}"
        raise UserError(f"predict: row {first + row}, feature {', '.join(map(str, at))}: {what}")


def first_module(net: Module) -> tuple[str, Module]:
    """Return the module that takes the data, the first of a chain, and its place for messages."""
    path = ""
    while isinstance(net, Sequential) and len(net):
        net, path = net[0], f"{path}.0" if path else "0"
    return place(path, net), net
