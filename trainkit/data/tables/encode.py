"""From the rows of a table to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import MAX_NAMES, ErrorCollector, UserError
from trainkit.core.validation import short_repr
from trainkit.data.mapped import MappedRows

from .base import Table
from .categories import categories
from .memory import opened
from .numbers import Texts, dates, numbers, refuse_nonfinite
from .options import DIALECT, given
from .reading import Reading, later, load
from .schema import Column, Schema
from .targets import ids, targets, weight


@dataclass(frozen=True)
class Rows:
    """n rows: `x` (n, width) float64, with NaN for a missing number; `t` and `label` as in `Split`, or None without the target.

    weight: (n,) float64, or None. ids: the id columns, n texts each, as `Split.ids`; those that the table does not have are
    absent_ids. ignored: the other columns of the table. problem: why the target could not be read, if that was allowed.
    """

    x: Tensor
    t: Tensor | None
    label: Tensor | None
    weight: Tensor | None = None
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    absent_ids: tuple[str, ...] = ()
    problem: str = ""


def read_rows(
    rows: Any, schema: Mapping[str, object], inputs_only: bool = False, to_predict: bool = False, **overrides: Any
) -> Rows:
    """Return rows of a trained model's data, read by `schema`, `Dataset.schema` of its training data.

    rows: the path of a CSV or Parquet file, a pandas or polars frame, a pyarrow.Table, a list of dicts, a dict of columns, or a
    dict of one row. Columns are found by their names. Others are ignored; the target, the weight and the ids may be absent.
    inputs_only: do not read the target and the weight, which may then be missing or wrong in any row. to_predict: do not read
    the weight, and leave out a target that cannot be read, with the reason in `Rows.problem`.
    overrides: options that differ from the training's (`options.PER_TABLE`), such as missing="mean" or delimiter=";". Others
    are ignored, since the schema has them.
    Raises UserError as `csv` does, and for an absent column or a text that the schema does not list.
    """
    plan = Schema.of(schema)
    table = opened(rows, {**plan.dialect, **{key: value for key, value in given(overrides).items() if key in DIALECT}})
    now = later(plan, overrides)
    beside = {*plan.target_names, now.weight}
    if inputs_only:
        plan = replace(plan, target=[])
    if inputs_only or to_predict:
        now = replace(now, weight=None)
    load(table, plan, now)
    read = encoded(table, plan, now, needs_target=not to_predict)
    return replace(read, ignored=tuple(name for name in read.ignored if name not in beside))


def encoded(table: Table, schema: Schema, now: Reading, needs_target: bool = True) -> Rows:
    """Return the rows of a loaded table. Raises UserError as `read_rows` does.

    needs_target: whether a target that is there and cannot be read is an error.
    """
    n = table.rows
    x = torch.zeros(n, schema.width, dtype=torch.float64)  # rounded only once, after scaling
    places, indicators = schema.layout(), schema.indicators()
    errors, of_target = ErrorCollector(), ErrorCollector()
    for column in schema.columns:
        with errors:
            absent = _encode(table, column, schema, now, x[:, places[column.name]])
            if column.name in indicators:
                x[:, indicators[column.name]] = absent.double()
    t = label = weights = None
    with errors if needs_target else of_target:
        t, label = targets(table, schema, now)
    with errors:
        weights = weight(table, schema, now) if now.weight in table.names else None
    errors.throw()
    used = {*schema.target_names, *(column.name for column in schema.columns), *now.ids, now.weight}
    return Rows(
        x,
        t,
        label,
        weight=weights,
        ids={name: ids(table, name) for name in now.ids if name in table.names},
        ignored=tuple(name for name in table.names if name not in used),
        absent_ids=tuple(name for name in now.ids if name not in table.names),
        problem="; ".join(of_target.messages),
    )


def _encode(table: Table, column: Column, schema: Schema, now: Reading, into: Tensor) -> Tensor:
    """Write an input column into its features, and return which values are missing (n,). Raises UserError as `read_rows`."""
    if column.kind == "category":
        absent, word = categories(table, column, schema, now, into)
    else:
        absent, word = _numbers(table, column, now, into[:, 0]), ""
    if now.missing == "refuse" and absent.any():
        has_no_code = schema.is_code(column) and not schema.has_other_code and now.fills in ("mean", "median")
        _refuse_missing(table, column, absent, word, now.fills, has_no_code)
    return absent


def ignored_columns(place: str, names: Sequence[str]) -> list[str]:
    """Return the line that names the columns of a table that no net sees, or no line."""
    shown = ", ".join(short_repr(name) for name in names[:MAX_NAMES])
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return [f"{place}: columns that the model was not trained on are ignored: {shown}{more}"] if names else []


def absent_ids(place: str, names: Sequence[str]) -> list[str]:
    """Return the line that names the id columns that a table does not have, or no line."""
    shown = ", ".join(map(short_repr, names))
    return [f"{place}: no id column {shown}, so the predictions do not repeat it"] if names else []


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
            texts = Texts(table.column(column.name))
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
        numbers(table, column, now.missing_values, into)
    refuse_nonfinite(table, column.name, into, _or_empty(now))
    return into.isnan()


def _refuse_missing(table: Table, column: Column, absent: Tensor, word: str, fills: str, has_no_code: bool) -> None:
    row = int(absent.nonzero()[0, 0])
    fill = f", or {'train with' if has_no_code else 'set'} data.missing={fills}" if fills else ""
    keep = f", or keep {word!r} as a text by data.missing_values=[]" if word else ""
    said = f"{word!r} counts as missing" if word else "missing"
    raise UserError(
        f"{table.name}: column {column.name!r}, {table.place(row)}: {said} ({int(absent.sum())} in total);"
        f" correct the file{fill}{keep}"
    )


def _or_empty(now: Reading) -> str:
    return f"or leave the field empty and set data.missing={now.fills}" if now.fills else "or remove the row"
