"""Numbers that cannot be trained on: which rows have them, and where the first one is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

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

Test = Callable[[Tensor], Tensor]  # numbers to whether each is wrong, of the same shape
Taken = Callable[[Tensor], bool]  # rows of the training part to whether a step of the run takes one of them
PARTS = {"train": "training", "val": "validation", "test": "test"}
MEND = "mend it, or remove the row"


def refuse_missing(data: Dataset, name: str, source: Dataset | None = None) -> None:
    """Raise UserError at the first NaN of the part `name`, with the message of `refuse`."""
    fill = ", or say data.missing=mean or median" if data.schema else ""
    refuse(data, name, "x", torch.isnan, "is missing", f"{MEND}{fill}", source)


def refuse(
    data: Dataset, name: str, key: Literal["x", "t"], wrong: Test, what: str, cure: str, source: Dataset | None = None
) -> None:
    """Raise UserError at the first number of the part `name` that is `wrong`.

    source: the data before it was split, whose rows are those of the user's files: the number is looked for there first.
    """
    found = None
    if source is not None and source.train.x.shape[1:] == data.train.x.shape[1:]:
        found = next(filter(None, (_place(source, part, key, wrong) for part in PARTS)), None)
    place, value, count = found or _place(data, name, key, wrong) or (f"data: the {PARTS[name]} part", None, 1)
    number = "a number" if value is None else f"{value:g}"
    raise UserError(f"{place}: {number} {what} ({count} such); {cure}")


def check_raw(
    data: Dataset,
    names: Iterable[str],
    dtype: torch.dtype,
    fill: object,
    source: Dataset,
    tolerated: Collection[str],
    is_taken: Taken,
) -> dict[str, Range]:
    """Return the ranges of the inputs of the parts `names`, whose every number is known to be usable before it is scaled.

    UserError: a missing input, if `fill` is None; outside of the parts `tolerated`, an input that is infinite or a target that
    is not finite in `dtype`. In rows of the training part for which `is_taken` is false the latter are only reported, in a
    line on stderr. source: as in `refuse`. Integers read from a file have no range, since none can be unusable.
    """
    parts = {name: part for name, part in data.parts().items() if name in names and len(part)}
    spans = {name: ranges(part.x) for name, part in parts.items() if isinstance(part.x, Tensor) or part.x.may_miss()}
    for name, span in spans.items():
        if span.missing and fill is None:
            refuse_missing(data, name, source)
    for name in [name for name in parts if name not in tolerated]:
        t = parts[name].t
        if name in spans and not spans[name].finite:
            _refuse_taken(data, name, "x", torch.isinf, "is not finite", MEND, source, is_taken)
        if t.is_floating_point() and not t.isfinite().all():
            _refuse_taken(data, name, "t", lambda t: ~t.isfinite(), "is not finite", MEND, source, is_taken)
        elif t.is_floating_point() and not t.to(dtype).isfinite().all():
            what, cure = f"is infinite in {_name(dtype)}", "divide the targets, or set trainer.dtype=float64"
            _refuse_taken(data, name, "t", lambda t: ~t.to(dtype).isfinite(), what, cure, source, is_taken)
    return spans


def check_scaled(
    data: Dataset,
    spans: Mapping[str, Range],
    scale: Callable[[Tensor, torch.dtype], Tensor],
    dtype: torch.dtype,
    source: Dataset,
    is_taken: Taken,
) -> None:
    """Raise UserError at a finite input that `scale` makes infinite in `dtype`, in the parts whose ranges are `spans`.

    scale: a monotonic function, so that every scaled number lies between the scaled ends of its range. Others: as in
    `check_raw`.
    """

    def overflows(x: Tensor) -> Tensor:
        return ~scale(x, dtype).isfinite()

    for name, span in spans.items():
        if span.finite and not scale(torch.stack([span.low, span.high]), dtype).isfinite().all():
            cures = ["set data.normalize=feature"] * (data.normalize == "none")
            cures += ["set trainer.dtype=float64"] * (dtype == torch.float32)
            what, cure = f"is infinite in {_name(dtype)} once it is scaled", " or ".join(cures) or "divide the numbers"
            _refuse_taken(data, name, "x", overflows, what, f"{cure}, or {MEND}", source, is_taken)


def takes(rows: Tensor, n: int, size: int, seeds: Sequence[int], epochs: range, batch: int, steps: int | None) -> bool:
    """Return whether one of the next `steps` steps (None: any number) takes one of the training samples `rows`.

    n: training samples. size: samples per step. seeds: one per replica, each with its own order. epochs: those to come; in
    the first, `batch` steps are done.
    """
    if steps is None:
        return True
    for epoch in epochs:
        if steps <= 0:
            break
        taken = slice(batch * size, (batch + steps) * size)
        if any(torch.isin(epoch_permutation(seed, epoch, n)[taken], rows).any() for seed in seeds):
            return True
        steps, batch = steps - (-(-n // size) - batch), 0
    return False


def _refuse_taken(
    data: Dataset, name: str, key: Literal["x", "t"], wrong: Test, what: str, cure: str, source: Dataset, is_taken: Taken
) -> None:
    """As `refuse`; but if the numbers are in training rows that no step takes, only report it."""
    if name == "train" and not is_taken(rows(getattr(data.train, key), wrong)):
        terminal.print_stderr(f"data: a number of the training part {what}; the run ends before it takes it")
    else:
        refuse(data, name, key, wrong, what, cure, source)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def rows(v: Tensor | MappedRows, wrong: Test) -> Tensor:
    """The positions of the rows of v (n, ...) that have a wrong number."""
    return torch.cat([wrong(block).reshape(len(block), -1).any(1).cpu() for block in blocks(v)]).nonzero()[:, 0]


def _place(data: Dataset, name: str, key: Literal["x", "t"], wrong: Test) -> tuple[str, float, int] | None:
    """`x.npy: row 7, feature 1`, the number there, and how many are wrong in the part; None if none is."""
    part = data.parts().get(name)
    if part is None or not len(part):
        return None
    v: Tensor | MappedRows = getattr(part, key)
    count = sum(int(wrong(block).sum()) for block in blocks(v))
    if not count:
        return None
    row = int(rows(v, wrong)[0])
    sample = v[row : row + 1]
    _, *at = wrong(sample).nonzero()[0].tolist()
    value = float(sample[(0, *at)])
    if isinstance(v, MappedRows):
        return f"{v.rows.path}: row {row if v.index is None else int(v.index[row])}{_column(data, key, at)}", value, count
    return f"data: row {row} of the {PARTS[name]} part{_column(data, key, at)}", value, count


def _column(data: Dataset, key: Literal["x", "t"], at: list[int]) -> str:
    """`, feature 3`; `, column 'width'` where columns have names."""
    if names := columns(data.schema):
        return f", column {short_repr(names[at[0]] if key == 'x' else data.schema['target'])}"
    kind = "feature" if key == "x" else "target"
    return f", {kind} {at[0] if len(at) == 1 else tuple(at)}" if at else f", {kind}"


def columns(schema: Mapping[str, Any]) -> list[str]:
    """The column that each feature comes from, by the schema of a CSV file; [] by another."""
    categories = schema.get("categories", {})
    return [name for name in schema.get("columns", []) for _ in categories.get(name, [name])]
