"""Which samples are held out: at random, with the same share of each class."""

from __future__ import annotations

import torch
from torch import Tensor


def held_out(n: int, share: float, draw: torch.Generator, label: Tensor | None = None) -> Tensor:
    """Return the sorted positions of round(share n) of n samples, at random by `draw`.

    label (n,): classes to stratify by. Each class gives its share, rounded down or up: the largest remainders are rounded up,
    the first classes among equal ones. One sample of each class always stays, so a class may give fewer.
    """
    group = torch.zeros(n, dtype=torch.long) if label is None else label.unique(return_inverse=True)[1].cpu()
    count = group.bincount()
    exact = count.double() * share
    most = count if label is None else count - 1
    chosen = exact.floor().long().minimum(most)
    rest = round(share * n) - int(chosen.sum())
    up = (exact - chosen).masked_fill(chosen == most, -1.0).argsort(descending=True, stable=True)[:rest]
    chosen[up] = (chosen[up] + 1).minimum(most[up])
    order = torch.randperm(n, generator=draw)
    order = order[group[order].argsort(stable=True)]  # shuffled within each class, one class after another
    return torch.cat([o[:k] for o, k in zip(order.split(count.tolist()), chosen.tolist(), strict=True)]).sort().values


def others(n: int, positions: Tensor) -> Tensor:
    """Return the sorted positions among n that are not in `positions`."""
    keep = torch.ones(n, dtype=torch.bool)
    keep[positions] = False
    return keep.nonzero().squeeze(1)
