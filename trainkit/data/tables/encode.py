"""From the rows of a table to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from trainkit.core.errors import UserError, suggest
from trainkit.data.check import columns
from trainkit.data.dataset import Split, encode
from trainkit.data.mapped import MappedRows

from . import csv_file
from . import schema as csv_schema
from .csv_file import MISSING
from .schema import Schema


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

    rows: the path of a CSV or Parquet file, a pandas or polars frame, a pyarrow.Table, a list of dicts, or a dict of columns.
    Columns are found by their names. Others are ignored; the target, the weight and the ids may be absent.
    overrides: options of the reading that differ from the training's, such as missing="mean" or delimiter=";".
    Raises UserError as `csv` does, and for an absent column or a text that the schema does not list.
    """
    plan = replace(Schema.of(schema), **overrides)
    if isinstance(rows, (str, Path)):
        return _rows(str(rows), csv_schema.read(str(rows), plan), plan)
    return _rows("rows", _selected(_arrow(rows), plan), plan)


def _arrow(rows: Any) -> Any:
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        return rows
    if hasattr(rows, "__arrow_c_stream__"):
        return pa.table(rows)
    return pa.table(dict(rows)) if isinstance(rows, Mapping) else pa.Table.from_pylist(list(rows))


def _selected(table: Any, schema: Schema) -> Any:
    absent = [name for name in schema.columns if name not in table.column_names]
    if absent:
        more = f" (and {len(absent) - 1} others)" if len(absent) > 1 else ""
        raise UserError(
            f"rows: no column {absent[0]!r}{more}, which the model was trained on{suggest(absent[0], table.column_names)}"
        )
    return table


def refuse_infinite(path: str, schema: Mapping[str, object], x: Tensor | MappedRows, scaled: Tensor | MappedRows) -> None:
    """Raise UserError at the first number of the file's rows `x` that is not finite in `scaled`, the inputs of the net."""
    where = (~scaled[:].isfinite()).nonzero()
    if len(where):
        row, at = where[0].tolist()
        kind = str(scaled.dtype).removeprefix("torch.")
        raise UserError(
            f"{path}: column {columns(schema)[at]!r}, row {row + 2}: {float(x[row : row + 1][0, at]):g} is not finite in {kind}"
            f" after scaling ({len(where)} in total); correct it, or remove the row"
        )


def as_split(path: str, table: Any, schema: Schema) -> Split:
    rows = _rows(path, table, schema)
    if rows.t is None:
        raise UserError(
            f"{path}: no column {schema.target!r}, the target; add it{suggest(schema.target, csv_file.header(path))}"
        )
    return Split(rows.x, rows.t, rows.label)


def _rows(path: str, table: Any, schema: Schema) -> Rows:
    x = torch.zeros(table.num_rows, schema.width, dtype=torch.float64)  # rounded only once, after scaling
    at = 0
    for name in schema.columns:
        column = table.column(name)
        if name not in schema.categories:
            _numbers(path, name, column, x[:, at], "or leave the field empty and set data.missing=median")
            absent, wide = x[:, at].isnan(), 1
        else:
            known = schema.categories[name]
            code, wide = _codes(path, name, column, known), len(known)
            absent = code < 0
            present = (~absent).nonzero()[:, 0]
            x[present, at + code[present]] = 1.0
        if schema.missing == "refuse":
            _refuse(path, f"column {name!r}", absent, "correct the file, or set data.missing=mean or median")
        at += wide

    if schema.target not in table.column_names:
        return Rows(x, None, None)
    column = table.column(schema.target)
    fix = "remove these rows: a target is never filled in"
    if schema.classes is None:
        t = torch.empty(table.num_rows, 1, dtype=x.dtype)
        _numbers(path, schema.target, column, t[:, 0], "or remove the row")
        _refuse(path, f"target {schema.target!r}", t[:, 0].isnan(), fix)
        return Rows(x, t, None)
    label = _codes(path, schema.target, column, schema.classes)
    _refuse(path, f"target {schema.target!r}", label < 0, fix)
    return Rows(x, encode(label, len(schema.classes), schema.targets, schema.off_value), label)


def _refuse(path: str, place: str, absent: Tensor, fix: str) -> None:
    where = absent.nonzero()[:, 0]
    if len(where):
        raise UserError(f"{path}: {place}, row {int(where[0]) + 2}: missing ({len(where)} in total); {fix}")


def _numbers(path: str, name: str, column: Any, into: Tensor, fix: str) -> None:
    """Write a column into (n,) float64, with NaN for missing, chunk by chunk since a column may be large."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at = 0
    for chunk in column.chunks:
        number = from_dlpack(pc.fill_null(pc.cast(chunk, pa.float64(), safe=False), float("nan")))
        into[at : at + len(number)] = number
        at += len(number)
    where = into.isinf().nonzero()[:, 0]
    if len(where):
        row = int(where[0])
        raise UserError(
            f"{path}: column {name!r}, row {row + 2}: {float(into[row])} is not finite"
            f" ({len(where)} in total); correct it, {fix}"
        )


def _codes(path: str, name: str, column: Any, known: list[str]) -> Tensor:
    """Return (n,) int64: the index in `known`, or -1 for missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.combine_chunks()
    index = {text: i for i, text in enumerate(known)}
    texts = [text.strip() for text in column.dictionary.to_pylist()]
    code = torch.tensor([-1 if text in MISSING else index.get(text, -2) for text in texts] + [-1])
    entry = from_dlpack(pc.fill_null(column.indices, len(texts)))
    code = code.index_select(0, entry)
    where = (code == -2).nonzero()[:, 0]
    if len(where):
        row = int(where[0])
        text = texts[int(entry[row])]
        raise UserError(
            f"{path}: column {name!r}, row {row + 2}: {text!r} ({len(where)} in total)"
            f" is in no training row{suggest(text, known)}"
        )
    return code
