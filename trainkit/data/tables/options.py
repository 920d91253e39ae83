"""The options of the sources of tables, said once for `csv`, `parquet` and `table`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, TypeVar, cast

from trainkit.core.errors import UserError, suggest
from trainkit.data.dataset import Normalize, Targets

Missing = Literal["refuse", "mean", "median", "most_frequent"]
Unknown = Literal["refuse", "ignore", "column"]
Encode = Literal["onehot", "codes"]
Task = Literal["classification", "regression", "multilabel"]


class TableOptions(TypedDict, total=False):
    """Options of every table; None is as if left out. What a comment calls refused is a UserError."""

    task: Literal["auto", "classification", "regression", "multilabel"]
    keep: (
        list[str] | None
    )  # only these columns are inputs; by default all without another role (target, weight, ids, group, ...)
    drop: list[str] | None  # these columns are not inputs
    ids: list[str] | None  # columns that no net sees and that predictions repeat, as texts
    weight: str | None  # the column of the sample weights: finite, 0 or more, not all 0
    group: str | None  # the rows of a group, with the same value in this column, are all held out or all trained on
    time: str | None  # the rows held out are the last ones by this column
    split: str | None  # a column that says train, val or test; `test` is then not used
    positive: str | None  # of two classes, the one that metrics and probabilities are about
    categorical: list[str] | None  # numbers that are names: each value is a category
    numeric: list[str] | None  # texts that are numbers: 61,593 or 61.6 % or $61.59 or 61.6 kg; also the target or the weight
    dates: (
        list[str] | dict[str, str] | None
    )  # days since 1970-01-01 (UTC), from ISO 8601 or, by column, iso or a strptime format
    missing_values: list[str] | None  # texts that count as missing, beside the empty field
    missing: Missing  # of the inputs: refuse, or fill with this statistic of the training split
    missing_indicator: bool  # a 0/1 feature for each column with a missing value in the first file
    unknown: Unknown  # a category that is only in a later file: refused, ignored (zeros), or a feature or code of its own
    encode: Encode  # a category as one 0/1 feature per value, or as one code from 0
    targets: Targets | None  # how classes are encoded; index by default
    off_value: float  # of one-hot and binary targets
    normalize: Normalize  # of the numbers among the inputs, by the training split; codes stay as they are
    normalize_target: bool  # each target of a regression to mean 0 and standard deviation 1; predictions are in its own units
    seed: int  # of the rows held out


class CsvOptions(TableOptions, total=False):
    """Options of a CSV file. What is not given is guessed from the first lines; a line reports an unusual guess."""

    delimiter: str  # one of , ; tab | by default
    decimal: str  # "." or ","
    thousands: str  # columns with this separator between thousands are numbers
    quote: str  # '"' by default
    encoding: str  # "utf-8" by default
    header: bool  # whether the first line has the names; without it and `names` they are x0, x1, ...
    names: list[str]  # of the columns, in place of those of the file


DIALECT = tuple(key for key in CsvOptions.__annotations__ if key not in TableOptions.__annotations__)
SPELLING = tuple(key for key in DIALECT if key != "thousands")  # that sign is part of the columns in the schema
PER_TABLE = ("missing", "unknown", "missing_values", "ids", "weight", "targets", "off_value", *SPELLING)  # each table its own
PER_READ = ("group", "time", "split", "seed", "positive")  # which rows are held out, and which class metrics are about
KEPT = tuple(key for key in CsvOptions.__annotations__ if key not in (*PER_TABLE, *PER_READ))  # for all tables of a model

Options = TypeVar("Options", bound=TableOptions)


def checked(options: Mapping[str, object], allowed: type[Options], place: str = "data") -> Options:
    """Return the options that are given. Raises UserError for a name that `allowed` does not have."""
    names = allowed.__annotations__
    for name in options:
        if name not in names:
            raise UserError(f"{place}: no argument {name!r}{suggest(name, names)}")
    return cast("Options", given(options))


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those that are None, which count as left out.

    `ids` and `weight` stay: their None takes back the columns that the schema of a trained model names.
    """
    return {key: value for key, value in options.items() if value is not None or key in ("ids", "weight")}


def formats_of(options: TableOptions) -> dict[str, str]:
    """Return the format of each column in `dates`, as for strptime; "" is ISO 8601, which is given as iso."""
    dates = options.get("dates") or []
    formats = dates if isinstance(dates, dict) else dict.fromkeys(dates, "iso")
    return {name: "" if form == "iso" else form for name, form in formats.items()}
