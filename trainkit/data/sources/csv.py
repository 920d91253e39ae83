"""CSV files: one sample per row, numbers as they are, texts as categories, one column or more as the target."""

from __future__ import annotations

from typing import Unpack

from trainkit.data.dataset import Dataset
from trainkit.data.tables.csv_file import CsvTable
from trainkit.data.tables.dataset import dataset
from trainkit.data.tables.options import DIALECT, CsvOptions, checked

from .recorded import source


@source
def csv(
    path: str,
    target: str | list[str],
    test: float | str = 0.2,
    *,
    schema: dict[str, object] | None = None,
    **options: Unpack[CsvOptions],
) -> Dataset:
    """Read the CSV file `path` (also .gz), whose column `target` is to be predicted; several columns are several targets.

    x (n, width), float64: a column of numbers gives one feature. A column of texts, or one listed in `categorical`, gives one
    0/1 feature per text in `path`, sorted. t: classes, sorted (integers by value) and encoded as `targets` ("index" by
    default); or the numbers, (n, 1) or (n, k); or with task="multilabel" labels 0 or 1, (n, k).
    task: with auto, texts and integers of 20 or fewer different values are classes; other numbers are a regression.
    test: the share held out, at random by `seed` (for classes the same share of each class), or a second file; 0 for none.
    missing: an empty field, ?, NA, N/A, NaN or NULL is refused, or filled with a statistic of the training split; for a
    missing text all its features are then 0, or with most_frequent those of the most frequent text. A missing target is always
    refused.
    schema: `Dataset.schema` of an earlier call; it replaces `task`, `categorical`, `drop` and all inference.
    options: `trainkit.data.tables.options.CsvOptions` lists them with their meaning; docs/data.md has an example for each.

    Raises UserError with file, column and line for a file or a value that does not fit.
    """
    options = checked(options, CsvOptions)
    dialect = {key: options[key] for key in DIALECT if key in options}  # type: ignore[literal-required]
    if schema is not None and not dialect:
        dialect = dict(schema.get("dialect") or {})  # type: ignore[call-overload]
    held = CsvTable(test, dialect) if isinstance(test, str) else test
    return dataset(CsvTable(path, dialect), target, held, options, schema)
