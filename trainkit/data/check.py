"""Numbers that cannot be trained on: which rows hold them, and where the first one is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr
from trainkit.data.loader import epoch_permutation

from .mapped import MappedRows
from .statistics import Range, blocks, ranges

if TYPE_CHECKING:
    from .dataset import Dataset

Key = Literal["x", "t", "weight"]
Test = Callable[[Tensor], Tensor]  # numbers -> whether each is wrong, of the same shape
IsUsed = Callable[[Tensor], bool]  # rows of the training split -> whether a step of the run uses one of them
SPLITS = {"train": "training", "val": "validation", "test": "test"}
CORRECT = "correct it, or remove the row"


def refuse_missing(data: Dataset, name: str, unsplit: Dataset | None = None) -> None:
    """Raise UserError at the first NaN of the split `name`, with the message of `refuse`."""
    fill = ", or set data.missing=mean, median or most_frequent" if data.schema else ""
    refuse(data, name, "x", torch.isnan, "is missing", f"{CORRECT}{fill}", unsplit)


def refuse(data: Dataset, name: str, key: Key, wrong: Test, what: str, fix: str, unsplit: Dataset | None = None) -> None:
    """Raise UserError at the first number of the split `name` that is `wrong`.

    unsplit: the data before it was split. Its rows are those of the user's files, so the number is searched there first.
    """
    found = None
    if unsplit is not None and unsplit.train.x.shape[1:] == data.train.x.shape[1:]:
        found = next(filter(None, (_place(unsplit, split, key, wrong) for split in SPLITS)), None)
    place, value, count = found or _place(data, name, key, wrong) or (f"data: the {SPLITS[name]} split", None, 1)
    number = "a number" if value is None else f"{value:g}"
    raise UserError(f"{place}: {number} {what} ({count} in total); {fix}")


def check_raw(
    data: Dataset,
    names: Iterable[str],
    dtype: torch.dtype,
    fill: object,
    unsplit: Dataset,
    tolerated: Collection[str],
    is_used: IsUsed,
) -> dict[str, Range]:
    """Check every number of the splits `names` before scaling, and return the ranges of their inputs.

    unsplit: as in `refuse`. Integers read from a file have no range, since none can be unusable.
    Raises UserError for a missing input, if `fill` is None; for a weight that no sample can have; and, outside the splits
    `tolerated`, for an infinite input or a target that is not finite in `dtype`. If such a number is in training rows for which
    `is_used` is false, a line on stderr reports it, and no error is raised.
    """
    splits = {name: split for name, split in data.parts().items() if name in names and len(split)}
    spans = {name: ranges(split.x) for name, split in splits.items() if isinstance(split.x, Tensor) or split.x.rows.may_miss}
    for name, span in spans.items():
        if span.missing and fill is None:
            refuse_missing(data, name, unsplit)
    for name in splits:
        check_weights(data, name, dtype, unsplit)
    for name in [name for name in splits if name not in tolerated]:
        t = splits[name].t
        if name in spans and not spans[name].finite:
            _refuse_used(data, name, "x", torch.isinf, "is not finite", CORRECT, unsplit, is_used)
        if t.is_floating_point() and not t.isfinite().all():
            _refuse_used(data, name, "t", lambda t: ~t.isfinite(), "is not finite", CORRECT, unsplit, is_used)
        elif t.is_floating_point() and not t.to(dtype).isfinite().all():
            what, fix = f"is infinite in {_name(dtype)}", "divide the targets, or set trainer.dtype=float64"
            _refuse_used(data, name, "t", lambda t: ~t.to(dtype).isfinite(), what, fix, unsplit, is_used)
    return spans


def check_weights(data: Dataset, name: str, dtype: torch.dtype, unsplit: Dataset) -> None:
    """Raise UserError for weights of the split `name` that no sample can have, and where all are 0."""
    weight = data.parts()[name].weight
    if weight is None:
        return

    def wrong(w: Tensor) -> Tensor:
        return ~((w >= 0) & w.to(dtype).isfinite())

    if wrong(weight).any():
        refuse(data, name, "weight", wrong, "is not a weight", "give finite numbers of at least 0", unsplit)
    if not weight.to(dtype).any():
        raise UserError(f"data: all weights of the {SPLITS[name]} split are 0; give at least one sample a weight above 0")


def check_scaled(
    data: Dataset,
    spans: Mapping[str, Range],
    scale: Callable[[Tensor, torch.dtype], Tensor],
    dtype: torch.dtype,
    unsplit: Dataset,
    is_used: IsUsed,
) -> None:
    """Raise UserError at a finite input that `scale` makes infinite in `dtype`, in the splits whose ranges are `spans`.

    scale: a monotonic function, so that every scaled number is between the scaled ends of its range. The other arguments are
    those of `check_raw`.
    """

    def overflows(x: Tensor) -> Tensor:
        return ~scale(x, dtype).isfinite()

    for name, span in spans.items():
        if span.finite and not scale(torch.stack([span.low, span.high]), dtype).isfinite().all():
            fixes = ["set data.normalize=feature"] * (data.normalize == "none")
            fixes += ["set trainer.dtype=float64"] * (dtype == torch.float32)
            what, fix = f"is infinite in {_name(dtype)} after scaling", " or ".join(fixes) or "divide the numbers"
            _refuse_used(data, name, "x", overflows, what, f"{fix}, or {CORRECT}", unsplit, is_used)


def takes(rows: Tensor, n: int, size: int, seeds: Sequence[int], epochs: range, batch: int, steps: int | None) -> bool:
    """Return whether one of the next `steps` steps (None: any number) uses one of the training samples `rows`.

    n: training samples. size: samples per step. seeds: one per replica, each with its own order. epochs: those not complete;
    `batch` steps of the first are done.
    """
    if steps is None:
        return True
    for epoch in epochs:
        if steps <= 0:
            break
        used = slice(batch * size, (batch + steps) * size)
        if any(torch.isin(epoch_permutation(seed, epoch, n)[used], rows).any() for seed in seeds):
            return True
        steps, batch = steps - (-(-n // size) - batch), 0
    return False


def _refuse_used(
    data: Dataset, name: str, key: Key, wrong: Test, what: str, fix: str, unsplit: Dataset, is_used: IsUsed
) -> None:
    """Do what `refuse` does, but only report a number in a training row that no step uses."""
    if name == "train" and not is_used(rows(getattr(data.train, key), wrong)):
        terminal.print_stderr(f"data: a number of the training split {what}; the run ends before it uses this number")
    else:
        refuse(data, name, key, wrong, what, fix, unsplit)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def rows(v: Tensor | MappedRows, wrong: Test) -> Tensor:
    """Return the positions of the rows of v (n, ...) that hold a wrong number."""
    return torch.cat([wrong(block).reshape(len(block), -1).any(1).cpu() for block in blocks(v)]).nonzero()[:, 0]


def _place(data: Dataset, name: str, key: Key, wrong: Test) -> tuple[str, float, int] | None:
    """Return `x.npy: row 7, feature 1`, the number there, and how many numbers of the split are wrong; None if none is."""
    split = data.parts().get(name)
    if split is None or not len(split):
        return None
    v: Tensor | MappedRows | None = getattr(split, key)
    if v is None:
        return None
    count = sum(int(wrong(block).sum()) for block in blocks(v))
    if not count:
        return None
    row = int(rows(v, wrong)[0])
    sample = v[row : row + 1]
    _, *at = wrong(sample).nonzero()[0].tolist()
    value = float(sample[(0, *at)])
    if isinstance(v, MappedRows):
        return f"{v.rows.name}: row {row if v.index is None else int(v.index[row])}{_column(data, key, at)}", value, count
    return f"data: row {row} of the {SPLITS[name]} split{_column(data, key, at)}", value, count


def _column(data: Dataset, key: Key, at: list[int]) -> str:
    """Return `, feature 3`, or `, column 'width'` if columns have names."""
    if key == "weight":
        return ", weight"
    if data.features:
        target = data.schema.get("target", "t")
        name = data.features[at[0]] if key == "x" else target[at[0]] if isinstance(target, list) else target
        return f", column {short_repr(name)}"
    kind = "feature" if key == "x" else "target"
    return f", {kind} {at[0] if len(at) == 1 else tuple(at)}" if at else f", {kind}"
