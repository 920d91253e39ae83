"""What belongs to the rows of a table beside their inputs: targets, sample weights, ids."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import encode

from .base import Table
from .categories import codes
from .numbers import Texts, numbers, refuse_nonfinite
from .reading import Reading
from .schema import Schema


def targets(table: Table, schema: Schema, now: Reading) -> tuple[Tensor | None, Tensor | None]:
    """Return t and label, or None for both if the table does not have the target."""
    names = schema.target_names
    if not names or any(name not in table.names for name in names):
        return None, None
    if schema.task == "classification":
        assert schema.classes is not None
        label, word = codes(table, names[0], schema.classes, now, True)
        _refuse_missing_target(table, names[0], label < 0, word)
        return encode(label, len(schema.classes), schema.targets, schema.off_value), label
    t = torch.empty(table.rows, len(names), dtype=torch.float64)
    for i, name in enumerate(names):
        numbers(table, schema.number(name), now.missing_values, t[:, i], truth=schema.task == "multilabel")
        refuse_nonfinite(table, name, t[:, i], "or remove the row")
        _refuse_missing_target(table, name, t[:, i].isnan())
        if schema.task == "multilabel" and (wrong := (t[:, i] != 0) & (t[:, i] != 1)).any():
            row = int(wrong.nonzero()[0, 0])
            raise UserError(f"{table.name}: target {name!r}, {table.place(row)}: {t[row, i]:g}; a label is 0 or 1")
    return t, None


def _refuse_missing_target(table: Table, name: str, absent: Tensor, word: str = "") -> None:
    where = absent.nonzero()[:, 0]
    if len(where):
        keep = f"; data.missing_values=[] keeps {word!r} as a text" if word else ""
        raise UserError(
            f"{table.name}: target {name!r}, {table.place(int(where[0]))}: missing ({len(where)} in total);"
            f" remove these rows: a target is never filled in{keep}"
        )


def ids(table: Table, name: str) -> list[str]:
    texts = Texts(table.column(name))
    return [texts.texts[i] for i in texts.code.tolist()]


def weight(table: Table, schema: Schema, now: Reading) -> Tensor:
    """Return the sample weights (n,) float64. Raises UserError unless all are finite and 0 or more, and one is above 0."""
    name = cast("str", now.weight)
    weight = torch.empty(table.rows, dtype=torch.float64)
    numbers(table, schema.number(name), now.missing_values, weight, fix="correct it, or name another column in data.weight")
    wrong = (~weight.isfinite() | (weight < 0)).nonzero()[:, 0]
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(row)}: weight {float(weight[row]):g} ({len(wrong)} in total);"
            " a weight is finite, and 0 or more"
        )
    if not (weight > 0).any():
        raise UserError(f"{table.name}: column {name!r}: all weights are 0; give one above 0")
    return weight
