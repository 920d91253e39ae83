"""Numbers that cannot be trained on: which rows have them, and where the first one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.validation import shown

from .mapped import Stored
from .statistics import blocks

if TYPE_CHECKING:
    from .dataset import Dataset

Test = Callable[[Tensor], Tensor]  # numbers to whether each is wrong, of the same shape
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


def rows(v: Tensor | Stored, wrong: Test) -> Tensor:
    """The positions of the rows of v (n, ...) that have a wrong number."""
    return torch.cat([wrong(block).reshape(len(block), -1).any(1).cpu() for block in blocks(v)]).nonzero()[:, 0]


def _place(data: Dataset, name: str, key: Literal["x", "t"], wrong: Test) -> tuple[str, float, int] | None:
    """`x.npy: row 7, feature 1`, the number there, and how many are wrong in the part; None if none is."""
    part = getattr(data, name)
    if part is None or not len(part):
        return None
    v: Tensor | Stored = getattr(part, key)
    count = sum(int(wrong(block).sum()) for block in blocks(v))
    if not count:
        return None
    row = int(rows(v, wrong)[0])
    sample = v[row : row + 1]
    _, *at = wrong(sample).nonzero()[0].tolist()
    value = float(sample[(0, *at)])
    if isinstance(v, Stored):
        return f"{v.rows.path}: row {row if v.index is None else int(v.index[row])}{_column(data, key, at)}", value, count
    return f"data: row {row} of the {PARTS[name]} part{_column(data, key, at)}", value, count


def _column(data: Dataset, key: Literal["x", "t"], at: list[int]) -> str:
    """`, feature 3`; `, column 'width'` where columns have names."""
    if names := columns(data.schema):
        return f", column {shown(names[at[0]] if key == 'x' else data.schema['target'])}"
    kind = "feature" if key == "x" else "target"
    return f", {kind} {at[0] if len(at) == 1 else tuple(at)}" if at else f", {kind}"


def columns(schema: Mapping[str, Any]) -> list[str]:
    """The column that each feature comes from, by the schema of a CSV file; [] by another."""
    categories = schema.get("categories", {})
    return [name for name in schema.get("columns", []) for _ in categories.get(name, [name])]
