"""Which samples are held out: at random, with the same share of each class, by groups, or the last ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr

ISO_DATE = "an ISO 8601 date, as 2024-02-29 or 2024-02-29 12:30"


def held_out(
    n: int,
    share: float,
    draw: torch.Generator,
    label: Tensor | None = None,
    group: Tensor | None = None,
    time: Tensor | None = None,
) -> Tensor:
    """Return the sorted positions of round(share n) of n samples, at random by `draw`. At most one of the others is given.

    label (n,): classes to stratify by. Each class gives its share, rounded down or up: the largest remainders are rounded up,
    the first classes among equal ones. One sample of each class always stays, so a class may give fewer.
    group (n,): integers. All samples of a group are on one side: groups in random order are held out while this brings the
    number of samples nearer to share n. At least one group stays. The number differs from share n by less than the largest
    group.
    time (n,): numbers. The last samples are held out; samples of equal time stay together, so there may be fewer.
    """
    if group is not None:
        return _by_group(n, share, draw, group)
    if time is not None:
        return _latest(n, share, time)
    strata = torch.zeros(n, dtype=torch.long) if label is None else label.unique(return_inverse=True)[1].cpu()
    count = strata.bincount()
    exact = count.double() * share
    most = count if label is None else count - 1
    chosen = exact.floor().long().minimum(most)
    rest = round(share * n) - int(chosen.sum())
    up = (exact - chosen).masked_fill(chosen == most, -1.0).argsort(descending=True, stable=True)[:rest]
    chosen[up] = (chosen[up] + 1).minimum(most[up])
    order = torch.randperm(n, generator=draw)
    order = order[strata[order].argsort(stable=True)]  # shuffled within each class, one class after another
    return torch.cat([o[:k] for o, k in zip(order.split(count.tolist()), chosen.tolist(), strict=True)]).sort().values


def _by_group(n: int, share: float, draw: torch.Generator, group: Tensor) -> Tensor:
    codes = group.unique(return_inverse=True)[1].cpu()
    sizes = codes.bincount().tolist()
    chosen: list[int] = []
    held, most = 0, len(sizes) - 1  # one group stays
    for k in torch.randperm(len(sizes), generator=draw).tolist():
        if len(chosen) < most and abs(held + sizes[k] - share * n) < abs(held - share * n):
            chosen.append(k)
            held += sizes[k]
    return torch.isin(codes, torch.tensor(chosen, dtype=torch.long)).nonzero()[:, 0]


def _latest(n: int, share: float, time: Tensor) -> Tensor:
    count = round(share * n)
    if count == 0:
        return torch.zeros(0, dtype=torch.long)
    ordered = time.cpu().sort().values
    first = ordered[n - count]
    if count < n and ordered[n - count - 1] == first:  # equal times would be on both sides
        return (time.cpu() > first).nonzero()[:, 0]
    return (time.cpu() >= first).nonzero()[:, 0]


def others(n: int, positions: Tensor) -> Tensor:
    """Return the sorted positions among n that are not in `positions`."""
    keep = torch.ones(n, dtype=torch.bool)
    keep[positions] = False
    return keep.nonzero().squeeze(1)


def group_codes(groups: Sequence[Hashable]) -> Tensor:
    """Return for each sample the index (n,) int64 of its group, numbered in the order of their first rows."""
    index: dict[Hashable, int] = {}
    return torch.tensor([index.setdefault(group, len(index)) for group in groups], dtype=torch.long)


def group_keys(texts: Sequence[str]) -> Tensor:
    """Return for each text a number (n,) int64 of its group, the same in every file: 64 bits of BLAKE2b."""
    known = {text: int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) for text in set(texts)}
    return torch.tensor([known[text] for text in texts], dtype=torch.long)


def times(texts: Sequence[str], place: str = "time") -> Tensor:
    """Return the time (n,) float64 of each text: its number if all are numbers, else its days as an ISO 8601 date.

    Raises UserError at `place` for any other text, whose order as a text may not be that of time.
    """
    try:
        return torch.tensor([float(text) for text in texts], dtype=torch.float64)
    except ValueError:
        known = {text: days(text) for text in texts}
    if wrong := next((text for text in texts if known[text] is None), None):
        at = list(texts).index(wrong)
        raise UserError(f"{place}: {short_repr(wrong)}, of sample {at}, is not {ISO_DATE}, nor are all numbers; correct it")
    return torch.tensor([known[text] for text in texts], dtype=torch.float64)


def days(text: str, form: str = "") -> float | None:
    """Return a date as days since 1970-01-01 (UTC), None for another text. form: as for strptime; "" is ISO 8601.

    A time without a zone counts as UTC.
    """
    try:
        moment = datetime.strptime(text, form) if form else datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86_400
