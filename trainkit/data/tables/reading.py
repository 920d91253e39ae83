"""What may differ between the tables of a model, and which columns of a table are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trainkit.core.errors import UserError

from .base import Kind, Table
from .options import PER_TABLE, Missing, Unknown, given
from .schema import Column, Schema


@dataclass(frozen=True)
class Reading:
    """What may differ between the tables of a model: what happens to missing and unknown values, and where other columns are.

    fills: the values of data.missing that the model can follow, in words; "" if none.
    """

    missing: Missing
    unknown: Unknown
    missing_values: Sequence[str]
    ids: Sequence[str]
    weight: str | None
    fills: str


def first(schema: Schema) -> Reading:
    """Return how the table is read from which the schema is inferred, and a second table beside it."""
    return Reading(
        schema.missing, schema.unknown, schema.missing_values, schema.ids, schema.weight, fills="mean, median or most_frequent"
    )


def later(schema: Schema, options: Mapping[str, Any]) -> Reading:
    """Return how a table is read for an existing model; `options` override those of the schema.

    Raises UserError for an option that the model cannot follow: a statistic or a feature that it does not have.
    """
    options = {key: value for key, value in given(options).items() if key in PER_TABLE}
    missing, unknown = options.get("missing", schema.missing), options.get("unknown", schema.unknown)
    if missing not in ("refuse", schema.missing, schema.statistic):
        if schema.statistic is None:
            raise UserError(
                f"data.missing: {missing!r}; this model, of an earlier version, holds no statistic to fill with;"
                " correct the data"
            )
        raise UserError(
            f"data.missing: {missing!r}; the model holds the {schema.statistic} of each column;"
            f" set data.missing={schema.statistic}"
        )
    if unknown == "column" and schema.unknown != "column" and not schema.has_other_code:
        raise UserError(
            "data.unknown: 'column'; the model was trained without a feature for unknown values; set data.unknown=ignore"
        )
    return Reading(
        missing=missing,
        unknown=unknown,
        missing_values=options.get("missing_values", schema.missing_values),
        ids=options.get("ids", schema.ids) or [],
        weight=options.get("weight", schema.weight),
        fills=schema.statistic or "",
    )


def kind_of(column: Column) -> Kind | None:
    """Return what a file's reader makes of a column: texts, where its spelling is needed."""
    if column.kind == "date":
        return "text" if column.format else None
    return "number" if column.kind == "number" and not column.affix and not column.thousands else "text"


def load(table: Table, schema: Schema, now: Reading, more: Mapping[str, Kind | None] = MappingProxyType({})) -> None:
    """Load the columns of the schema and `more`, by kind; also the target, the weight and the ids, if the table has them."""
    present = set(table.names)
    names = [column.name for column in schema.columns]
    if absent := [name for name in names if name not in present]:
        others = f" (and {len(absent) - 1} others)" if len(absent) > 1 else ""
        table.require(absent[0], f"{{table}}: no column {{name!r}}{others}, which the model was trained on")
    kinds: dict[str, Kind | None] = {}
    for column in schema.columns:
        table.require(column.name, "")
        kinds[column.name] = kind_of(column)
    for name in schema.target_names:
        if name in present:
            as_text = schema.task == "classification" or kind_of(schema.number(name)) == "text"
            kinds[name] = "text" if as_text else None  # not number, so that an error is that of the target
    for name in now.ids:
        if name in present:
            kinds.setdefault(name, "text")
    if now.weight is not None and now.weight in present:
        kinds.setdefault(now.weight, None)
    kinds.update((name, kind) for name, kind in more.items() if name not in kinds)
    table.load(kinds, now.missing_values)
