"""Metrics of a part of the data: loss a sample, and the share of wrong answers where there are classes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import torch
from torch import Tensor

from .data.dataset import Dataset, Part
from .data.stored import Stored, ahead
from .nn.loss import Loss
from .nn.module import Module, evaluating

Metrics = dict[str, list[float]]  # a value a replica


def answers(y: Tensor, loss: Loss, data: Dataset, lead: int = 0) -> Tensor:
    """The class that y answers: the largest of several outputs; of one, 1 above the threshold (0 for logits)."""
    if y.dim() > 1 + lead and y.shape[1 + lead] > 1:
        return y.argmax(1 + lead)
    threshold = 0.0 if loss.logits else 0.5 if data.threshold is None else data.threshold
    return (y.flatten(lead + 1).squeeze(-1) > threshold).long()


def evaluate(
    net: Module,
    loss: Loss,
    data: Dataset,
    part: Part,
    batch_size: int,
    replicas: int = 1,
    pause: Callable[[], None] = lambda: None,
) -> Metrics:
    """`loss` (the mean a sample; for reduction sum, the sum divided by n) and `error` of `part`, in evaluation mode.

    Batches weigh by their samples (by their classes' weights, where the loss has some). Nothing that training sees is
    changed. `pause` is called before each batch and may raise.
    """
    lead = net.lead
    device = part.x.device
    total = torch.zeros(replicas, dtype=torch.float64, device=device)
    counted = torch.zeros(replicas, dtype=torch.float64, device=device)
    wrong = torch.zeros(replicas, dtype=torch.float64, device=device)
    with evaluating(net), torch.inference_mode(), closing(slices(part.x, batch_size)) as inputs:
        for i, x in zip(range(0, len(part), batch_size), inputs, strict=True):
            pause()
            t = part.t[i : i + batch_size]
            n = len(x)
            if lead:
                x, t = x.expand(replicas, *x.shape), t.expand(replicas, *t.shape)
            y = net.fwd(x)[0]
            value, count = loss.fwd(y, t)[0], loss.count(t)
            if isinstance(count, Tensor):
                value = torch.where(count == 0, 0, value)  # all is ignored: 0 / 0
            total += value * count if loss.reduction == "mean" else value
            counted += count if loss.reduction == "mean" else n
            if data.classes is not None and part.label is not None:
                miss = answers(y, loss, data, lead) != part.label[i : i + batch_size]
                wrong += miss.sum(-1)
    metrics = {"loss": (total / counted).tolist()}
    if data.classes is not None and part.label is not None:
        metrics["error"] = (wrong / len(part)).tolist()
    return metrics


def slices(x: Tensor | Stored, size: int) -> Generator[Tensor, None, None]:
    """`x` in order, `size` samples at a time; from a file, read ahead."""
    cuts = (slice(i, i + size) for i in range(0, len(x), size))
    yield from map(x.__getitem__, cuts) if isinstance(x, Tensor) else ahead(x.__getitem__, cuts)


def predict(net: Module, x: Tensor | Stored, batch_size: int, replicas: int = 1) -> Tensor:
    """y of every sample in evaluation mode: (n, ...), or (r, n, ...) with replicas."""
    with evaluating(net), torch.inference_mode():
        inputs = (b.expand(replicas, *b.shape) if net.lead else b for b in slices(x, batch_size))
        return torch.cat([net.fwd(b)[0] for b in inputs], net.lead)
