"""From a table, and perhaps a second one, to a Dataset: what `csv`, `parquet` and `table` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from trainkit.core.errors import UserError, suggest
from trainkit.core.rng import generator
from trainkit.core.validation import short_repr
from trainkit.data.dataset import Dataset, Split
from trainkit.data.split import group_codes, held_out, others, times

from . import reading
from .base import Table
from .encode import encoded, gaps
from .infer import infer, with_gaps
from .numbers import Texts, is_date, is_number, numbers
from .options import DIALECT, TableOptions
from .reading import Reading
from .schema import Schema

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def dataset(
    table: Table, target: str | list[str], test: float | Table, options: TableOptions, saved: Mapping[str, object] | None
) -> Dataset:
    """Return the dataset of a table. test: the share that is held out, or a second table.

    saved: the schema of an earlier call; it replaces all inference. Raises UserError as `csv` does.
    """
    if not isinstance(test, Table) and not 0 <= test < 1:
        raise UserError(f"data.test: {test}; needs a share from 0 up to 1, or a second table")
    roles = [name for key in ("group", "time", "split") if (name := options.get(key)) is not None]
    if len(roles) > 1:
        raise UserError("data: give one of group, time and split")
    if "split" in options and isinstance(test, Table):
        raise UserError("data.split: a column says which rows are tested, so data.test cannot be a table; leave one out")
    schema, now = _schema(table, target, options, saved, cast("list[str]", roles))
    whole = _split(table, schema, now)
    parts = {"train": whole}
    if "split" in options:
        parts = {name: whole.subset(at) for name, at in _by_column(table, options["split"]).items()}
    elif not isinstance(test, Table) and test:
        parts = {name: whole.subset(at) for name, at in _held(table, whole.label, test, options).items()}
    table.release()
    if isinstance(test, Table):
        reading.load(test, schema, now)
        parts["test"] = _split(test, schema, now)
    classes = None if schema.classes is None else tuple(schema.classes)
    return Dataset(
        train=parts["train"],
        test=parts.get("test"),
        val=parts.get("val"),
        classes=classes,
        threshold=(1.0 + schema.off_value) / 2 if schema.targets == "binary" else None,
        normalize=options.get("normalize", "feature"),
        normalize_target=options.get("normalize_target", False),
        fill=schema.statistic,
        features=schema.features(),
        categories=schema.categories(),
        positive=_positive(options.get("positive"), schema),
        multilabel=schema.task == "multilabel",
        schema=schema.as_dict(),
    )


def _schema(
    table: Table, target: str | list[str], options: TableOptions, saved: Mapping[str, object] | None, more: Sequence[str]
) -> tuple[Schema, Reading]:
    """Return the schema, inferred or saved, and how tables are read; the table is loaded."""
    if saved is None:
        given = {key: options[key] for key in DIALECT if key in options}  # type: ignore[literal-required]
        schema = infer(table, target, options, given)
        now = reading.first(schema)
        return (with_gaps(schema, gaps(table, schema, now)) if schema.missing_indicator else schema), now
    schema = Schema.of(saved)
    changed = {"off_value": options.get("off_value"), "targets": options.get("targets")}
    schema = replace(schema, **{key: value for key, value in changed.items() if value is not None})  # type: ignore[arg-type]
    if schema.target_names != ([target] if isinstance(target, str) else list(target)):
        raise UserError(f"data.target: the schema has {schema.target!r} (got {target!r}); keep the target of the trained model")
    now = reading.later(schema, options)
    for name in more:
        table.require(name, "{table}: no column {name!r}, by which rows are held out")
    reading.load(table, schema, now, more)
    return schema, now


def _split(table: Table, schema: Schema, now: Reading) -> Split:
    for name in schema.target_names:
        table.require(name, "{table}: no column {name!r}, the target; add it")
    for name in (*now.ids, *([now.weight] if now.weight else [])):
        table.require(name, "{table}: no column {name!r}")
    rows = encoded(table, schema, now)
    assert rows.t is not None
    return Split(rows.x, rows.t, rows.label, rows.weight, rows.ids)


def _held(table: Table, label: Tensor | None, share: float, options: TableOptions) -> dict[str, Tensor]:
    """Return the positions of the training rows, and of a share of the rows for test."""
    n = table.rows
    group = group_of(table, options["group"]) if "group" in options else None
    time = time_of(table, options["time"]) if "time" in options else None
    table.release()  # it is as large as the tensors made from it
    label = label if group is None and time is None else None
    out = held_out(n, share, generator(options.get("seed", 0), "csv", "test"), label, group, time)
    if not len(out):
        raise UserError(f"data.test: {share} of {n} rows holds out none; give a larger share, a second file, or 0")
    if len(out) == n:
        raise UserError(f"data.test: {share} of {n} rows holds out all; give a smaller share")
    return {"train": others(n, out), "test": out}


def _by_column(table: Table, name: str) -> dict[str, Tensor]:
    """Return the positions of each split that the column names. Raises UserError for another text, or without training rows."""
    texts = Texts(table.column(name))
    split = [SPLIT_OF.get(text.lower(), "") for text in texts.texts]
    names = ("train", "val", "test")
    code = texts.map([names.index(s) if s else -1 for s in split], torch.long)
    if (wrong := (code < 0).nonzero()[:, 0]).numel():
        row = int(wrong[0])
        text = texts.texts[int(texts.code[row])]
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(row)}: {short_repr(text)} ({len(wrong)} in total);"
            " needs train, val or test"
        )
    found = {s: at for i, s in enumerate(names) if len(at := (code == i).nonzero()[:, 0])}
    if "train" not in found:
        raise UserError(f"{table.name}: column {name!r} has no row for train")
    return found


def group_of(table: Table, name: str) -> Tensor:
    """Return the group (n,) int64 of each row. Raises UserError for a row without one."""
    texts = Texts(table.column(name))
    group = texts.map(group_codes(texts.texts).tolist(), torch.long)
    _refuse_empty(table, name, texts.map([float(not text) for text in texts.texts], torch.float64) > 0)
    return group


def time_of(table: Table, name: str) -> Tensor:
    """Return a number (n,) float64 for each row, in the order of a column of numbers, dates, or texts as ISO 8601 dates."""
    column = table.column(name)
    if is_number(column):
        number = torch.empty(table.rows, dtype=torch.float64)
        numbers(table, name, "", "", (), number)
        _refuse_empty(table, name, number.isnan())
        return number
    if is_date(column):
        import pyarrow as pa

        column = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    texts = Texts(column)
    _refuse_empty(table, name, texts.map([float(not text) for text in texts.texts], torch.float64) > 0)
    rank = times(texts.texts[:-1]).tolist()
    return texts.map([*rank, 0.0], torch.float64)


def _refuse_empty(table: Table, name: str, absent: Tensor) -> None:
    if absent.any():
        row = int(absent.nonzero()[0, 0])
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(row)}: missing ({int(absent.sum())} in total);"
            " rows are held out by it: correct it, or remove these rows"
        )


def _positive(name: str | None, schema: Schema) -> int | None:
    """Return the index of the class called `name`. Raises UserError unless it is one of two classes."""
    if name is None:
        return None
    classes = schema.classes if schema.task == "classification" else None
    if classes is None or len(classes) != 2:
        count = "no classes" if classes is None else f"{len(classes)} classes"
        raise UserError(f"data.positive: {name!r}; needs two classes, the data has {count}")
    if name not in classes:
        raise UserError(f"data.positive: no class {name!r}{suggest(name, classes)}")
    return classes.index(name)
