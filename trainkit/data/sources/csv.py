"""CSV files: one sample per row, numbers as they are, texts one-hot, one column as the target."""

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
from trainkit.data.dataset import Dataset, Normalize, Split, Targets, encode
from trainkit.data.mapped import MappedRows
from trainkit.data.split import held_out, others

from . import arrow, csv_schema
from .arrow import MISSING
from .csv_schema import Missing, Schema
from .recorded import source


@dataclass(frozen=True)
class Rows:
    """The rows of a file: `x` (n, width) float64, with NaN for a missing number; `t` and `label` as in `Split`, or None."""

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
    normalize: Normalize = "feature",
    seed: int = 0,
    normalize_target: bool = False,
    schema: dict[str, object] | None = None,
) -> Dataset:
    """Read the CSV file `path` (UTF-8, comma, a header; also .gz), whose column `target` is to be predicted.

    x (n, width), float64: a column of numbers gives one feature. A column of texts, or one listed in `categorical`, gives one
    0/1 feature per text in `path`, sorted. t: classes, sorted (integers by value) and encoded as `targets` ("index" by
    default); or the numbers, (n, 1).
    task: with auto, texts and integers of 20 or fewer different values are classes; other numbers are a regression.
    test: the share held out, at random by `seed` (for classes the same share of each class), or a second file; 0 for none.
    missing: an empty field, ?, NA, N/A, NaN or NULL is refused, or filled with the training split's mean or median; for a
    missing text all its features are then 0. A missing target is always refused.
    normalize_target: scale each target of a regression to mean 0 and standard deviation 1; see `Dataset`.
    schema: `Dataset.schema` of an earlier call; it replaces `task`, `categorical`, `drop` and all inference.

    Raises UserError with file, column and row (the header is row 1) for a file or a value that does not fit.
    """
    if isinstance(test, (int, float)) and not 0 <= test < 1:
        raise UserError(f"data.test: {test}; needs a share from 0 up to 1, or the path of a second file")
    if schema is None:
        plan, table = csv_schema.infer(path, target, task, categorical or [], drop or [], missing, targets, off_value)
    else:
        plan = replace(Schema.of(schema), missing=missing, off_value=off_value)
        plan = replace(plan, targets=targets or plan.targets)
        if plan.target != target:
            raise UserError(
                f"data.target: the schema has {plan.target!r} (got {target!r}); keep the target of the trained model"
            )
        table = csv_schema.read(path, plan)
    whole = _split(path, table, plan)
    del table  # it is as large as the tensors made from it
    arrow.release()

    if isinstance(test, str):
        train, held = whole, _split(test, csv_schema.read(test, plan), plan)
    elif test:
        out = held_out(len(whole), test, generator(seed, "csv", "test"), whole.label)
        if not len(out):
            fix = "give a larger share, a second file, or 0"
            raise UserError(f"data.test: {test} of {len(whole)} rows holds out none; {fix}")
        train, held = whole.subset(others(len(whole), out)), whole.subset(out)
    else:
        train, held = whole, None
    return Dataset(
        train=train,
        test=held,
        classes=None if plan.classes is None else tuple(plan.classes),
        threshold=(1.0 + off_value) / 2 if plan.targets == "binary" else None,
        normalize=normalize,
        normalize_target=normalize_target,
        fill=None if missing == "refuse" else missing,
        schema=asdict(plan),
    )


def read_rows(path: str, schema: Mapping[str, object]) -> Rows:
    """Return the rows of a later file, read by `schema`. Other columns are ignored; the target may be absent.

    Raises UserError as `csv` does, and for an absent column or a text that the schema does not list.
    """
    plan = Schema.of(schema)
    return _rows(path, csv_schema.read(path, plan), plan)


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


def _split(path: str, table: Any, schema: Schema) -> Split:
    rows = _rows(path, table, schema)
    if rows.t is None:
        raise UserError(f"{path}: no column {schema.target!r}, the target; add it{suggest(schema.target, arrow.header(path))}")
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
