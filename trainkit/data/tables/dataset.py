"""From a table, and perhaps a second one, to a Dataset: what `csv`, `parquet` and `table` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainkit.core.errors import UserError, suggest
from trainkit.core.rng import generator
from trainkit.core.validation import short_repr
from trainkit.data.dataset import Dataset, Split
from trainkit.data.split import group_codes, group_keys, held_out, others

from . import reading
from .base import Table
from .encode import encoded, gaps
from .infer import infer, with_gaps
from .numbers import Texts, dates, is_date, is_number, numbers, plain_number
from .options import DIALECT, TableOptions, formats_of
from .reading import Reading
from .schema import Column, Schema

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
    columns = {key: str(name) for key in ("group", "time", "split") if (name := options.get(key)) is not None}
    if len(columns) > 1:
        raise UserError("data: give one of group, time and split")
    for role, column in columns.items():
        if isinstance(test, Table):
            what = f"the column {column!r} says which rows are tested, but data.test is a table of its own"
            raise UserError(f"data.{role}: {what}; leave one out (data.{role}=null)")
    schema, now = _schema(table, target, options, saved, list(columns.values()))
    whole = _split(table, schema, now)
    group, key = group_of(table, columns["group"]) if "group" in columns else (None, None)
    whole = replace(whole, keys={} if key is None else {"group": key})
    parts = {"train": whole}
    drawn: tuple[str, ...] = ()
    if "split" in columns:
        parts = {name: whole.subset(at) for name, at in _by_column(table, columns["split"]).items()}
    elif not isinstance(test, Table) and test:
        time = time_of(table, columns["time"], formats_of(options)) if "time" in columns else None
        table.release()  # it is as large as the tensors made from it
        test_rows = _held(whole, test, options.get("seed", 0), group, time)
        key = key if time is None else time
        whole = replace(whole, keys=whole.keys if key is None else {**whole.keys, "test": key})
        parts = {"train": whole.subset(others(len(whole), test_rows)), "test": whole.subset(test_rows)}
        drawn = ("test",)
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
        drawn=drawn,
        group=columns.get("group"),
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
    formats = formats_of(options)
    reading.load(table, schema, now, {name: "text" if formats.get(name) else None for name in more})
    return schema, now


def _split(table: Table, schema: Schema, now: Reading) -> Split:
    for name in schema.target_names:
        table.require(name, "{table}: no column {name!r}, the target; add it")
    for name in (*now.ids, *([now.weight] if now.weight else [])):
        table.require(name, "{table}: no column {name!r}")
    rows = encoded(table, schema, now)
    assert rows.t is not None
    return Split(rows.x, rows.t, rows.label, rows.weight, rows.ids)


def _held(whole: Split, share: float, seed: int, group: Tensor | None, time: Tensor | None) -> Tensor:
    """Return the positions of the share of the rows that is held out: by group, by time, or at random."""
    n = len(whole)
    label = whole.label if group is None and time is None else None
    out = held_out(n, share, generator(seed, "csv", "test"), label, group, time)
    if not len(out):
        raise UserError(f"data.test: {share} of {n} rows holds out none; give a larger share, a second file, or 0")
    if len(out) == n:
        raise UserError(f"data.test: {share} of {n} rows holds out all; give a smaller share")
    return out


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


def group_of(table: Table, name: str) -> tuple[Tensor, Tensor]:
    """Return each row's group, (n,) int64 by its first row, and (n,) int64 as `group_keys`. UserError for a row without one."""
    texts = Texts(table.column(name))
    _refuse_empty(table, name, texts.map([float(not text) for text in texts.texts], torch.float64) > 0)
    group, key = (texts.map(make(texts.texts).tolist(), torch.long) for make in (group_codes, group_keys))
    return group, key


def time_of(table: Table, name: str, formats: Mapping[str, str]) -> Tensor:
    """Return the time (n,) float64 of each row: its number, or its days since 1970-01-01 (UTC).

    formats: the dates that are not ISO 8601, by column. Raises UserError for a row without a time, and for another text.
    """
    column, time = table.column(name), torch.empty(table.rows, dtype=torch.float64)
    are_numbers = is_number(column)
    if not (are_numbers or is_date(column)):
        texts = Texts(column)
        _refuse_empty(table, name, texts.map([float(not text) for text in texts.texts], torch.float64) > 0)
        are_numbers = all(plain_number(text) is not None for text in texts.texts[:-1])
    if are_numbers and not formats.get(name):
        numbers(table, Column(name, "number"), (), time)
    else:
        dates(table, name, formats.get(name, ""), (), time)
    _refuse_empty(table, name, time.isnan())
    return time


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
