"""Rows that were held out stay held out: found again by their content if the data has been sorted, or has new rows.

A split at random is a function of positions, so other positions give other splits, and training rows would become test rows.
A new row is a training row, unless its group is held out. Where the last rows by time are held out, no new row may be later
than the first of them: training would know the time of the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .dataset import Dataset, Split
from .fingerprint import keyed, row_fingerprints
from .mapped import MappedRows

MAX_ROWS, MAX_NUMBERS = 1 << 17, 1 << 24  # of a split whose rows have fingerprints: 1 MB in a checkpoint, about half a second


def drawn(data: Dataset) -> list[str]:
    """Return which of val and test were drawn from the same rows as train. Those of a file of their own were not."""
    parts = data.parts()
    taken: list[str] = [name for name in ("val", "test") if name in parts and None not in (parts[name].rows, data.train.rows)]
    return taken if data.drawn is None else [name for name in taken if name in data.drawn]


def held_rows(data: Dataset) -> dict[str, Tensor]:
    """Return the fingerprints of the rows of each split that was drawn, in order.

    A split that is too large, or whose samples a dataset makes one by one, has none.
    """
    splits = {name: data.parts()[name] for name in drawn(data)}
    splits = {name: s for name, s in splits.items() if not (isinstance(s.x, MappedRows) and s.x.rows.by_batch)}
    return {name: _rows(s, name) for name, s in splits.items() if len(s) <= MAX_ROWS and _numbers(s) <= MAX_NUMBERS}


def hold_out_again(data: Dataset, held: Mapping[str, Tensor]) -> tuple[Dataset, dict[str, int]] | None:
    """Return the data with the rows of fingerprints `held` in their splits again, and how many of each split were found.

    Where groups were held out, their other rows follow, after those found. All others are training rows. None for samples that
    cannot be put together.
    """
    names = [name for name in drawn(data) if name in held]
    pool = joined([data.train, *(data.parts()[name] for name in names)])
    if pool is None or pool.rows is None:
        return None
    pool = pool.subset(pool.rows.argsort())
    rows, free, parts = row_fingerprints(pool), torch.ones(len(pool), dtype=torch.bool), dict[str, Tensor]()
    for name in names:
        left = free.nonzero()[:, 0]
        at = find(keyed(rows, pool.keys.get(name))[left], held[name])
        parts[name] = left[at[at >= 0]]
        free[parts[name]] = False
    found = {name: len(index) for name, index in parts.items()}
    for name in reversed(names):  # test was drawn before val
        key = pool.keys.get(name)
        if key is not None and not key.is_floating_point():
            same_group = (free & torch.isin(key, key[parts[name]])).nonzero()[:, 0]
            parts[name] = torch.cat([parts[name], same_group])
            free[same_group] = False
    moved = {name: pool.subset(index) for name, index in {"train": free.nonzero()[:, 0], **parts}.items()}
    return data.with_parts(**moved), found


def corrected(data: Dataset, held: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Return how many rows of each split have another content than in `held`, each at its place; None if rows have moved."""
    now, counts = held_rows(data), {}
    pool = [data.train, *(data.parts()[name] for name in drawn(data))]
    for name, then in held.items():
        if name not in now or len(now[name]) != len(then):
            return None
        gone = then[now[name] != then]
        if len(gone) and any(torch.isin(gone, _rows(split, name)).any() for split in pool):
            return None
        counts[name] = len(gone)
    return counts


def later_rows(data: Dataset) -> dict[str, int]:
    """Return for each split of the last rows by time the number of training rows that are not earlier than all of its rows."""
    times = {name: (data.train.keys.get(name), split.keys.get(name)) for name, split in data.parts().items() if name != "train"}
    return {
        name: int((train >= held.min()).sum())
        for name, (train, held) in times.items()
        if train is not None and held is not None and held.is_floating_point() and len(held)
    }


def find(pool: Tensor, wanted: Tensor) -> Tensor:
    """Return (m,) positions in pool (n,) of the values wanted (m,), each position once; -1 where no such value is left."""
    if not len(pool):
        return torch.full_like(wanted, -1)
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
    keys = {name: torch.cat([s.keys[name] for s in splits]) for name in splits[0].keys if all(name in s.keys for s in splits)}
    label, weight, rows, raw = map(column, ("label", "weight", "rows", "raw"))
    return Split(x, torch.cat([s.t for s in splits]), label, weight, ids, rows, keys, raw)


def _rows(split: Split, name: str) -> Tensor:
    """Return the fingerprints of a split's rows, with the key by which the split `name` was drawn."""
    return keyed(row_fingerprints(split), split.keys.get(name))


def _numbers(split: Split) -> int:
    return len(split) * split.x.shape[1:].numel()
