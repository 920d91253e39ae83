"""From the rows of a table to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from trainkit.core import terminal
from trainkit.core.errors import UserError, suggest
from trainkit.core.validation import short_repr
from trainkit.data.dataset import encode
from trainkit.data.mapped import MappedRows

from .base import Table
from .memory import opened
from .numbers import as_texts, dates, numbers, plain_number
from .options import DIALECT
from .reading import Reading, later, load
from .schema import Column, Schema


@dataclass(frozen=True)
class Rows:
    """n rows: `x` (n, width) float64, with NaN for a missing number; `t` and `label` as in `Split`, or None without the target.

    weight: (n,) float64, or None. ids: the id columns, n texts each, as `Split.ids`.
    """

    x: Tensor
    t: Tensor | None
    label: Tensor | None
    weight: Tensor | None = None
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_rows(rows: Any, schema: Mapping[str, object], **overrides: Any) -> Rows:
    """Return rows of a trained model's data, read by `schema`, `Dataset.schema` of its training data.

    rows: the path of a CSV or Parquet file, a pandas or polars frame, a pyarrow.Table, a list of dicts, a dict of columns, or a
    dict of one row. Columns are found by their names. Others are ignored; the target, the weight and the ids may be absent.
    overrides: options that differ from the training's (`options.LATER`), such as missing="mean" or delimiter=";". Options of
    another kind are ignored, since the schema has them.
    Raises UserError as `csv` does, and for an absent column or a text that the schema does not list.
    """
    plan = Schema.of(schema)
    table = opened(rows, {**plan.dialect, **{key: value for key, value in overrides.items() if key in DIALECT}})
    now = later(plan, overrides)
    load(table, plan, now)
    return encoded(table, plan, now)


def encoded(table: Table, schema: Schema, now: Reading) -> Rows:
    """Return the rows of a loaded table. Raises UserError as `read_rows` does."""
    n = table.rows
    x = torch.zeros(n, schema.width, dtype=torch.float64)  # rounded only once, after scaling
    places, indicators = schema.layout(), schema.indicators()
    for column in schema.columns:
        block = x[:, places[column.name]]
        if column.kind == "category":
            absent, words = _categories(table, column, schema, now, block)
        else:
            absent, words = _numbers(table, column, now, block[:, 0]), ""
        if now.missing == "refuse" and absent.any():
            _refuse_missing(table, column, absent, words, now)
        if column.name in indicators:
            x[:, indicators[column.name]] = absent.double()
    t, label = _targets(table, schema, now)
    ids = {name: _ids(table, name) for name in now.ids if name in table.names}
    weight = _weight(table, now) if now.weight in table.names else None
    return Rows(x, t, label, weight, ids)


def refuse_infinite(place: str, schema: Mapping[str, object], x: Tensor | MappedRows, scaled: Tensor | MappedRows) -> None:
    """Raise UserError at the first number of the rows `x` that is not finite in `scaled`, the inputs of the net."""
    where = (~scaled[:].isfinite()).nonzero()
    if len(where):
        row, at = where[0].tolist()
        kind = str(scaled.dtype).removeprefix("torch.")
        raise UserError(
            f"{place}: column {Schema.of(schema).features()[at]!r}, row {row}: {float(x[row : row + 1][0, at]):g} is not"
            f" finite in {kind} after scaling ({len(where)} in total); correct it, or remove the row"
        )


def gaps(table: Table, schema: Schema, now: Reading) -> set[str]:
    """Return the columns in which a value is missing."""
    found = set()
    for column in schema.columns:
        if column.kind == "category":
            texts = as_texts(table.column(column.name))
            absent = {i for i, text in enumerate(texts.texts) if not text or text in now.missing_values}
            missing = bool(torch.isin(texts.code, torch.tensor(sorted(absent))).any())
        else:
            missing = bool(_numbers(table, column, now, torch.empty(table.rows, dtype=torch.float64)).any())
        if missing:
            found.add(column.name)
    return found


def _numbers(table: Table, column: Column, now: Reading, into: Tensor) -> Tensor:
    """Write a column of numbers or dates, and return which are missing (n,)."""
    if column.kind == "date":
        dates(table, column.name, column.format, now.missing_values, into)
    else:
        numbers(table, column.name, column.affix, column.thousands, now.decimal, now.missing_values, into)
    _refuse_nonfinite(table, column.name, into, _or_empty(now))
    return into.isnan()


def _categories(table: Table, column: Column, schema: Schema, now: Reading, into: Tensor) -> tuple[Tensor, str]:
    """Write a column of categories as 0/1 features or as codes; return which are missing (n,), and the word that says so."""
    known = column.categories
    code, words = _codes(table, column.name, known, now, now.unknown == "refuse", " (data.unknown=ignore reads the file)")
    absent, unknown = code == -1, code == -2
    if unknown.any():
        _tell_unknown(table, column, schema, unknown)
    if schema.encode == "codes":
        other = float(len(known))
        if not schema.has_other_code:
            if now.missing != "most_frequent" and now.missing != "refuse" and absent.any():
                raise UserError(_no_code(table, column, absent, "a missing value"))
            if unknown.any():
                raise UserError(_no_code(table, column, unknown, "an unknown category"))
        into[:, 0] = code
        into[:, 0][absent] = float("nan") if now.missing == "most_frequent" else other
        into[:, 0][unknown] = other
        return absent, words
    if schema.unknown == "column":
        code = torch.where(unknown, len(known), code)
    present = (code >= 0).nonzero()[:, 0]
    into[present, code[present]] = 1.0
    if now.missing == "most_frequent":
        into[absent] = float("nan")  # the normalizer fills all features of the column together
    return absent, words


def _no_code(table: Table, column: Column, where: Tensor, what: str) -> str:
    row = int(where.nonzero()[0, 0])
    return (
        f"{table.name}: column {column.name!r}, {table.place(row)}: {what} ({int(where.sum())} in total), for which the model"
        " has no code; correct it, or train with data.unknown=column"
    )


def _tell_unknown(table: Table, column: Column, schema: Schema, unknown: Tensor) -> None:
    row = int(unknown.nonzero()[0, 0])
    own = "get the feature for unknown values" if schema.encode == "onehot" else "get the code for unknown values"
    what = own if schema.unknown == "column" or schema.encode == "codes" else "have 0 in all features of the column"
    terminal.print_stderr(
        f"{table.name}: column {column.name!r}: {int(unknown.sum())} values are in no training row, the first in"
        f" {table.place(row)}; they {what}"
    )


def _codes(table: Table, name: str, known: Sequence[str], now: Reading, refuse: bool, cure: str = "") -> tuple[Tensor, str]:
    """Return (n,) int64: the index in `known`, -1 for missing, -2 for unknown, which is refused if `refuse`; and the first word
    other than the empty text that counts as missing."""
    column = as_texts(table.column(name))
    index: dict[object, int] = {text: i for i, text in enumerate(known)}
    by_value = [plain_number(text) for text in known]
    if known and None not in by_value:
        index |= {value: i for i, value in enumerate(by_value)}
    absent = {"", *now.missing_values}
    codes = [-1 if text in absent else index.get(text, index.get(plain_number(text), -2)) for text in column.texts]
    code = column.map(codes, torch.long)
    if refuse and -2 in codes and (wrong := code == -2).any():
        row = int(wrong.nonzero()[0, 0])
        text = column.texts[int(column.code[row])]
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(row)}: {short_repr(text)} ({int(wrong.sum())} in total)"
            f" is in no training row{cure}{suggest(text, known)}"
        )
    return code, next((text for text in column.texts if text and text in absent), "")


def _refuse_missing(table: Table, column: Column, absent: Tensor, word: str, now: Reading) -> None:
    row = int(absent.nonzero()[0, 0])
    fill = f", or set data.missing={now.fills}" if now.fills else ""
    keep = f", or keep {word!r} as a text by data.missing_values=[]" if word else ""
    said = f"{word!r} counts as missing" if word else "missing"
    raise UserError(
        f"{table.name}: column {column.name!r}, {table.place(row)}: {said} ({int(absent.sum())} in total);"
        f" correct the file{fill}{keep}"
    )


def _or_empty(now: Reading) -> str:
    return f"or leave the field empty and set data.missing={now.fills}" if now.fills else "or remove the row"


def _refuse_nonfinite(table: Table, name: str, values: Tensor, fix: str) -> None:
    where = values.isinf().nonzero()[:, 0]
    if len(where):
        row = int(where[0])
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(row)}: {float(values[row])} is not finite"
            f" ({len(where)} in total); correct it, {fix}"
        )


def _targets(table: Table, schema: Schema, now: Reading) -> tuple[Tensor | None, Tensor | None]:
    """Return t and label, or None for both if the table does not have the target."""
    names = schema.target_names
    if any(name not in table.names for name in names):
        return None, None
    if schema.task == "classification":
        assert schema.classes is not None
        label, word = _codes(table, names[0], schema.classes, now, True)
        _refuse_missing_target(table, names[0], label < 0, word)
        return encode(label, len(schema.classes), schema.targets, schema.off_value), label
    t = torch.empty(table.rows, len(names), dtype=torch.float64)
    for i, name in enumerate(names):
        numbers(table, name, "", "", now.decimal, now.missing_values, t[:, i])
        _refuse_nonfinite(table, name, t[:, i], "or remove the row")
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


def _ids(table: Table, name: str) -> list[str]:
    texts = as_texts(table.column(name))
    return [texts.texts[i] for i in texts.code.tolist()]


def _weight(table: Table, now: Reading) -> Tensor:
    """Return the sample weights (n,) float64. Raises UserError unless all are finite and 0 or more, and one is above 0."""
    name = cast("str", now.weight)
    weight = torch.empty(table.rows, dtype=torch.float64)
    numbers(table, name, "", "", now.decimal, now.missing_values, weight)
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
