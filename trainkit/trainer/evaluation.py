"""Metrics of a split of the data: the loss per sample, and those of `trainer.metrics`. Predictions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import Dataset, Split, floating
from trainkit.data.loader import aligned, iter_batches
from trainkit.data.mapped import MappedRows
from trainkit.data.sources.adopt import as_inputs
from trainkit.data.sources.tensors import as_tensor
from trainkit.data.transforms.normalize import Normalizer
from trainkit.metrics.confusion import Accuracy, Error
from trainkit.metrics.confusion_matrix import ConfusionMatrix
from trainkit.metrics.interpretation import Interpretation
from trainkit.metrics.metric import Metric
from trainkit.metrics.metric_set import MetricSet
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module, eval_mode

from .shapes import check_rows

PASS = 1024  # samples of a pass in evaluation mode
Metrics = dict[str, list[float]]  # a value per replica


OF_CLASSES: tuple[Metric, ...] = (Error(), Accuracy())  # measured wherever the data has classes


class Evaluation(NamedTuple):
    """metrics of a split. undefined: by the name of each metric that is NaN, the reason. confusion: the matrix, or None."""

    metrics: Metrics
    undefined: dict[str, str]
    confusion: ConfusionMatrix | None


def evaluate(
    net: Module,
    loss: Loss,
    data: Dataset,
    split: Split,
    batch_size: int,
    replicas: int = 1,
    metrics: Iterable[Metric] = (),
    check_interrupt: Callable[[], None] = lambda: None,
    unscale: Callable[[Tensor], Tensor] = lambda y: y,
) -> Evaluation:
    """Return the loss and the metrics of `split` in evaluation mode. The state of the training is not changed.

    loss: the mean per sample; for reduction sum, the sum divided by n. The sums of the batches are divided once, by the sum of
    their counts. Weights of the samples count in the loss and in the metrics; n is then their sum. metrics: those besides
    OF_CLASSES. check_interrupt: called before each batch; it may raise. unscale: turns outputs into those in the targets' own
    units (`Normalizer.unscale`), which the metrics compare with `split.raw`; the loss is that of the scaled ones.
    """
    device = split.x.device
    total = torch.zeros(replicas, dtype=torch.float64, device=device)
    weight = torch.zeros(replicas, dtype=torch.float64, device=device)
    others: MetricSet | None = None
    summed = loss.summed()
    with torch.inference_mode(), closing(outputs(net, split.x, batch_size, replicas, check_interrupt)) as batches:
        for i, y in batches:
            label, own = (None if v is None else v[i : i + batch_size] for v in (split.label, split.weight))
            targets = aligned(split.t[i : i + batch_size])
            given = [with_replicas(net, v, replicas) for v in (targets, own) if v is not None]
            total += summed.fwd(y, *given)[0]
            if loss.reduction == "mean":
                weight += loss.batch_weight(*given)
            else:
                weight += len(targets) if own is None else own.double().sum()
            y = y if net.replica_dims else y.unsqueeze(0)
            others = others or metric_set(metrics, loss, data, y)
            if split.raw is not None:
                targets = split.raw[i : i + batch_size]
                y = unscale(y.to(torch.promote_types(y.dtype, targets.dtype)))
            others.update(y, targets, label, own)
        values = {} if others is None else others.values()
        undefined = {} if others is None else others.reasons(values)
        confusion = None if others is None else others.confusion()
    return Evaluation({"loss": (total / weight).tolist(), **values}, undefined, confusion)


def metric_set(metrics: Iterable[Metric], loss: Loss, data: Dataset, y: Tensor) -> MetricSet:
    """Return OF_CLASSES, if the data has classes, and `metrics`, for outputs like y (r, n, ...).

    Raises UserErrors for a metric that does not fit the data.
    """
    task = Interpretation.of(loss, data).task(y.shape[2:].numel())
    chosen = list(metrics)
    always = [m for m in OF_CLASSES if data.classes is not None and m not in chosen]
    return MetricSet([*always, *chosen], task, len(y), y.device, confusion=True)


def predict_rows(
    net: Module, normalizer: Normalizer, x: Any, features: tuple[int, ...] | None, dtype: torch.dtype, replicas: int
) -> Tensor:
    """Return y for inputs in the data's own units, on the CPU: x (n, ...) gives (n, ...), or (r, n, ...) with replicas.

    If the targets were scaled, y is in their own units.
    features: the shape of a sample, if it is known. Raises UserError unless x holds rows of these features.
    """
    expected = features if features is not None else tuple(normalizer.mean.shape) or None
    rows = _rows(x)
    _check_features(tuple(rows.shape), expected)
    scale = partial(normalizer.scale, dtype=dtype)
    scaled = rows.then(scale) if isinstance(rows, MappedRows) else scale(rows)
    p = next(iter(net.param()), (scaled, scaled))[0]
    if not len(scaled):  # one row tells the shape of the outputs
        one = torch.zeros(1, *scaled.shape[1:], dtype=dtype, device=p.device)
        return predict(net, one, PASS, replicas).cpu().narrow(net.replica_dims, 0, 0)
    on_device = scaled.to(p.device, dtype)
    return normalizer.unscale(predict(net, on_device, PASS, replicas, partial(check_rows, net)).cpu())


def _rows(x: Any) -> Tensor | MappedRows:
    """Return rows to predict as numbers: a tensor, floating, or rows that are read when they are needed."""
    given = as_inputs(x)
    if isinstance(given, MappedRows):
        return given
    try:
        rows = torch.tensor(given, dtype=torch.float64) if isinstance(given, (list, tuple)) else as_tensor(given)
        rows = torch.as_tensor(rows)
    except UserError as error:
        raise UserError(f"predict: x {error}; a model of a table takes a frame, a list of dicts or a file") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"predict: x is a {type(given).__name__}; give numbers, one row per sample") from error
    if rows.is_complex():
        raise UserError("predict: x is complex; give real numbers, such as torch.view_as_real(x)")
    return rows.to(floating(rows.dtype))


def _check_features(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    """Raise UserError unless `shape` is that of rows with the features `expected`, if these are known."""
    if not shape or (expected is not None and shape[1:] != expected):
        needed = f"(n, {', '.join(map(str, expected))})" if expected else "(n, ...)"
        raise UserError(f"predict: x is {shape}, needs {needed}: rows of the data's features")


def predict(
    net: Module, x: Tensor | MappedRows, batch_size: int, replicas: int = 1, check: Callable[[Tensor, int], None] | None = None
) -> Tensor:
    """Return y of every sample in evaluation mode: (n, ...), or (r, n, ...) with replicas. check: as in `outputs`."""
    with torch.inference_mode():
        return torch.cat([y for _, y in outputs(net, x, batch_size, replicas, check=check)], net.replica_dims)


def outputs(
    net: Module,
    x: Tensor | MappedRows,
    batch_size: int,
    replicas: int = 1,
    check_interrupt: Callable[[], None] = lambda: None,
    check: Callable[[Tensor, int], None] | None = None,
) -> Generator[tuple[int, Tensor]]:
    """Yield for each batch its first sample and y in evaluation mode: (b, ...), or (r, b, ...) with replicas.

    Between two batches the net is in its own mode. check_interrupt: called before each batch; it may raise.
    check: called with the inputs of each batch and its first sample; it may raise.
    """
    with closing(iter_batches(x, batch_size)) as inputs:
        for first, b in zip(range(0, len(x), batch_size), inputs, strict=True):
            check_interrupt()
            if check is not None:
                check(b, first)
            with eval_mode(net), torch.inference_mode():
                y = net.fwd(with_replicas(net, b, replicas))[0]
            yield first, y


def with_replicas(net: Module, x: Tensor, replicas: int) -> Tensor:
    """Return inputs or targets (n, ...) as `net` takes them: (r, n, ...), the same for each replica, if it has replicas."""
    return x.expand(replicas, *x.shape) if net.replica_dims else x
