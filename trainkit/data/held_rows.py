"""Rows that were held out stay held out: found again by their content if the data has been sorted, or has new rows.

A split at random is a function of positions, so other positions give other splits, and training rows would become test rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .dataset import Dataset, Split
from .fingerprint import row_fingerprints
from .mapped import MappedRows

MAX_ROWS, MAX_NUMBERS = 1 << 17, 1 << 24  # of a split whose rows have fingerprints: 1 MB in a checkpoint, about half a second


def drawn(data: Dataset) -> list[str]:
    """Return which of val and test were taken from the same rows as train. Those of a file of their own were not."""
    parts = data.parts()
    return [name for name in ("val", "test") if name in parts and None not in (parts[name].rows, data.train.rows)]


def held_rows(data: Dataset) -> dict[str, Tensor]:
    """Return the fingerprints of the rows of each split that was drawn, in order.

    A split that is too large, or whose samples a dataset makes one by one, has none.
    """
    splits = {name: data.parts()[name] for name in drawn(data)}
    splits = {name: s for name, s in splits.items() if not (isinstance(s.x, MappedRows) and s.x.rows.by_batch)}
    return {name: row_fingerprints(s) for name, s in splits.items() if len(s) <= MAX_ROWS and _numbers(s) <= MAX_NUMBERS}


def hold_out_again(data: Dataset, held: Mapping[str, Tensor]) -> tuple[Dataset, dict[str, int]] | None:
    """Return the data with the rows of fingerprints `held` in their splits again, and how many of each split were found.

    The other rows are training rows. None for samples that cannot be put together.
    """
    names = [name for name in drawn(data) if name in held]
    pool = joined([data.train, *(data.parts()[name] for name in names)])
    if pool is None or pool.rows is None:
        return None
    pool = pool.subset(pool.rows.argsort())
    at = find(row_fingerprints(pool), torch.cat([held[name] for name in names]))
    parts = dict(zip(names, at.split([len(held[name]) for name in names]), strict=True))
    parts = {name: index[index >= 0] for name, index in parts.items()}
    rest = torch.ones(len(pool), dtype=torch.bool)
    rest[torch.cat(list(parts.values()))] = False
    moved = {name: pool.subset(index) for name, index in {"train": rest.nonzero()[:, 0], **parts}.items()}
    return data.with_parts(**moved), {name: len(index) for name, index in parts.items()}


def find(pool: Tensor, wanted: Tensor) -> Tensor:
    """Return (m,) positions in pool (n,) of the values wanted (m,), each position once; -1 where no such value is left."""
    values, order = pool.sort(stable=True)
    same = wanted.sort(stable=True)
    rank = torch.empty_like(wanted)  # how many equal values come before
    rank[same.indices] = torch.arange(len(wanted)) - torch.searchsorted(same.values, same.values)
    at = torch.searchsorted(values, wanted) + rank
    inside = at.clamp(max=len(pool) - 1)
    return torch.where((at < len(pool)) & (values[inside] == wanted), order[inside], -1)


def joined(splits: Iterable[Split]) -> Split | None:
    """Return the samples of splits of the same data one after the other; None for samples that cannot be put together."""
    splits = list(splits)
    xs = [s.x for s in splits]
    first = xs[0]
    if isinstance(first, MappedRows):
        if not all(isinstance(x, MappedRows) and x.rows is first.rows and x.index is not None for x in xs):
            return None
        x: Tensor | MappedRows = MappedRows(first.rows, torch.cat([x.index for x in xs]), first.transforms)  # type: ignore[misc]
    elif all(isinstance(x, Tensor) for x in xs):
        x = torch.cat(xs)  # type: ignore[arg-type]
    else:
        return None

    def column(key: str) -> Tensor | None:
        values = [getattr(s, key) for s in splits]
        return None if any(v is None for v in values) else torch.cat(values)

    ids = {name: [text for s in splits for text in s.ids[name]] for name in splits[0].ids}
    return Split(x, torch.cat([s.t for s in splits]), column("label"), column("weight"), ids, column("rows"))


def _numbers(split: Split) -> int:
    return len(split) * split.x.shape[1:].numel()
