"""CSV files: one row a sample, numbers as they are, texts one-hot, one column the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from trainkit.core.errors import UserError, suggest
from trainkit.core.rng import generator
from trainkit.data.check import columns
from trainkit.data.dataset import Dataset, Split, Targets, encode
from trainkit.data.mapped import MappedRows
from trainkit.data.source import source

from . import arrow, csv_schema
from .arrow import MISSING
from .csv_schema import Missing, Schema


@dataclass(frozen=True)
class Rows:
    """A file read by a schema: `x` (n, width) float64, NaN where a number is missing; `t`, `label` as in `Split`, or None."""

    x: Tensor
    t: Tensor | None
    label: Tensor | None


@source
def csv(
    path: str,
    target: str,
    test: float | str = 0.2,
    task: Literal["auto", "classification", "regression"] = "auto",
    categorical: list[str] | None = None,
    drop: list[str] | None = None,
    missing: Missing = "refuse",
    targets: Targets | None = None,
    off_value: float = 0.0,
    normalize: Literal["none", "feature", "global"] = "feature",
    seed: int = 0,
    schema: dict[str, object] | None = None,
) -> Dataset:
    """The CSV file `path` (UTF-8, comma, a header; .gz too) with the column `target` to be predicted.

    x (n, width), float64: a column of numbers gives one feature; one of texts, or listed in `categorical`, one 0/1 feature for
    each text in `path`, sorted. t: classes, sorted, ints by value, encoded as `targets` ("index" unless said); or (n, 1), the
    numbers.
    task: auto takes texts, and integers of at most 20 different values, for classes, and other numbers for a regression.
    test: the share held out, at random by `seed` (in classification from each class alike), or a second file; 0 for none.
    missing: an empty field, ?, NA, N/A, NaN or NULL is refused, or filled with the training part's mean or median; a missing
    text then gives zeros alone. A missing target is always refused.
    schema: `Dataset.schema` of an earlier call; it takes the place of `task`, `categorical`, `drop` and all inference.

    UserError with file, column and row, the header being row 1: a file or a value that does not fit.
    """
    if isinstance(test, (int, float)) and not 0 <= test < 1:
        raise UserError(f"data.test: {test}; needs a share from 0 up to 1, or the path of a second file")
    if schema is None:
        plan, table = csv_schema.infer(path, target, task, categorical or [], drop or [], missing, targets, off_value)
    else:
        plan = replace(Schema.of(schema), missing=missing, off_value=off_value)
        plan = replace(plan, targets=targets or plan.targets)
        if plan.target != target:
            raise UserError(f"data.target: {target!r}, the schema's is {plan.target!r}; a trained model keeps its target")
        table = csv_schema.read(path, plan)
    whole = _part(path, table, plan)
    del table  # of many rows it is as large as what follows
    arrow.release()

    if isinstance(test, str):
        train, held = whole, _part(test, csv_schema.read(test, plan), plan)
    elif test:
        out = _held_out(len(whole), whole.label, test, seed)
        train, held = whole.subset((~out).nonzero()[:, 0]), whole.subset(out.nonzero()[:, 0])
    else:
        train, held = whole, None
    return Dataset(
        train=train,
        test=held,
        classes=None if plan.classes is None else tuple(plan.classes),
        threshold=(1.0 + off_value) / 2 if plan.targets == "binary" else None,
        normalize=normalize,
        fill=None if missing == "refuse" else missing,
        schema=asdict(plan),
    )


def read_rows(path: str, schema: Mapping[str, object]) -> Rows:
    """A later file, read as the one that made `schema` (`Dataset.schema`): other columns are ignored, the target may be absent.

    UserError as in `csv`; an absent column, a text that the schema does not list.
    """
    plan = Schema.of(schema)
    return _rows(path, csv_schema.read(path, plan), plan)


def refuse_infinite(path: str, schema: Mapping[str, object], x: Tensor | MappedRows, scaled: Tensor | MappedRows) -> None:
    """Raise UserError at the first number of the file's rows `x` that is not finite in `scaled`, as the net takes it."""
    where = (~scaled[:].isfinite()).nonzero()
    if len(where):
        row, at = where[0].tolist()
        kind = str(scaled.dtype).removeprefix("torch.")
        raise UserError(
            f"{path}: column {columns(schema)[at]!r}, row {row + 2}: {float(x[row : row + 1][0, at]):g} is not finite in {kind}"
            f" once it is scaled ({len(where)} such); mend it, or remove the row"
        )


def _part(path: str, table: Any, schema: Schema) -> Split:
    rows = _rows(path, table, schema)
    if rows.t is None:
        raise UserError(f"{path}: no column {schema.target!r}, the target; add it{suggest(schema.target, arrow.header(path))}")
    return Split(rows.x, rows.t, rows.label)


def _rows(path: str, table: Any, schema: Schema) -> Rows:
    x = torch.zeros(table.num_rows, schema.width, dtype=torch.float64)  # rounded once, when they have been scaled
    at = 0
    for name in schema.columns:
        column = table.column(name)
        if name not in schema.categories:
            _numbers(path, name, column, x[:, at], "or leave the field empty and say data.missing=median")
            absent, wide = x[:, at].isnan(), 1
        else:
            known = schema.categories[name]
            code, wide = _codes(path, name, column, known), len(known)
            absent = code < 0
            there = (~absent).nonzero()[:, 0]
            x[there, at + code[there]] = 1.0
        if schema.missing == "refuse":
            _refuse(path, f"column {name!r}", absent, "mend the file, or say data.missing=mean or median")
        at += wide

    if schema.target not in table.column_names:
        return Rows(x, None, None)
    column = table.column(schema.target)
    cure = "remove these rows: a target is never filled in"
    if schema.classes is None:
        t = torch.empty(table.num_rows, 1, dtype=x.dtype)
        _numbers(path, schema.target, column, t[:, 0], "or remove the row")
        _refuse(path, f"target {schema.target!r}", t[:, 0].isnan(), cure)
        return Rows(x, t, None)
    label = _codes(path, schema.target, column, schema.classes)
    _refuse(path, f"target {schema.target!r}", label < 0, cure)
    return Rows(x, encode(label, len(schema.classes), schema.targets, schema.off_value), label)


def _refuse(path: str, place: str, absent: Tensor, cure: str) -> None:
    where = absent.nonzero()[:, 0]
    if len(where):
        raise UserError(f"{path}: {place}, row {int(where[0]) + 2}: missing ({len(where)} such); {cure}")


def _numbers(path: str, name: str, column: Any, into: Tensor, cure: str) -> None:
    """Write a column into (n,) float64, NaN where missing; chunk by chunk, since a column may be large."""
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
            f"{path}: column {name!r}, row {row + 2}: {float(into[row])} is not finite ({len(where)} such); mend it, {cure}"
        )


def _codes(path: str, name: str, column: Any, known: list[str]) -> Tensor:
    """(n,) int64: the index in `known`, or -1 where missing."""
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
            f"{path}: column {name!r}, row {row + 2}: {text!r} ({len(where)} such) is in no training row{suggest(text, known)}"
        )
    return code


def _held_out(n: int, label: Tensor | None, share: float, seed: int) -> Tensor:
    """(n,) bool, true for about `share` of n; of each class its share (largest remainders), and never all of it."""
    group = torch.zeros(n, dtype=torch.long) if label is None else label
    count = group.bincount()
    exact = count.double() * share
    take = exact.floor().long()
    rest = round(n * share) - int(take.sum())
    if rest > 0:
        take[(exact - take).argsort(descending=True, stable=True)[:rest]] += 1
    take = take.minimum(count - 1).clamp(min=0)
    if take.sum() == 0:
        raise UserError(f"data.test: {share} of {n} rows is none; ask for a larger share, a second file, or 0")

    order = torch.randperm(n, generator=generator(seed, "csv", "test"))
    order = order[group.to(torch.int32)[order].argsort(stable=True)]  # shuffled inside each group, the groups in a row
    out = torch.zeros(n, dtype=torch.bool)
    for of_group, first in zip(order.split(count.tolist()), take.tolist(), strict=True):
        out[of_group[:first]] = True
    return out
