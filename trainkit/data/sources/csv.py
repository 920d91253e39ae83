"""CSV files: one sample per row, numbers as they are, texts one-hot, one column as the target."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Literal

from trainkit.core.errors import UserError
from trainkit.core.rng import generator
from trainkit.data.dataset import Dataset, Targets
from trainkit.data.split import held_out, others
from trainkit.data.tables import csv_file
from trainkit.data.tables import schema as csv_schema
from trainkit.data.tables.encode import as_split
from trainkit.data.tables.schema import Missing, Schema

from .recorded import source


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
    """Read the CSV file `path` (UTF-8, comma, a header; also .gz), whose column `target` is to be predicted.

    x (n, width), float64: a column of numbers gives one feature. A column of texts, or one listed in `categorical`, gives one
    0/1 feature per text in `path`, sorted. t: classes, sorted (integers by value) and encoded as `targets` ("index" by
    default); or the numbers, (n, 1).
    task: with auto, texts and integers of 20 or fewer different values are classes; other numbers are a regression.
    test: the share held out, at random by `seed` (for classes the same share of each class), or a second file; 0 for none.
    missing: an empty field, ?, NA, N/A, NaN or NULL is refused, or filled with the training split's mean or median; for a
    missing text all its features are then 0. A missing target is always refused.
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
    whole = as_split(path, table, plan)
    del table  # it is as large as the tensors made from it
    csv_file.release()

    if isinstance(test, str):
        train, held = whole, as_split(test, csv_schema.read(test, plan), plan)
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
        fill=None if missing == "refuse" else missing,
        schema=asdict(plan),
    )
