"""The options of the sources of tables, said once for `csv`, `parquet` and `table`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from trainkit.core.errors import UserError, suggest
from trainkit.data.dataset import Normalize, Targets

Missing = Literal["refuse", "mean", "median", "most_frequent"]
Unknown = Literal["refuse", "ignore", "column"]
Encode = Literal["onehot", "codes"]
Task = Literal["classification", "regression", "multilabel"]


class TableOptions(TypedDict, total=False):
    """Options of every table. What a comment calls refused is a UserError."""

    task: Literal["auto", "classification", "regression", "multilabel"]
    keep: list[str]  # only these columns are inputs; by default all without another role (target, weight, ids, group, ...)
    drop: list[str]  # these columns are not inputs
    ids: list[str]  # columns that no net sees and that predictions repeat, as texts
    weight: str  # the column of the sample weights: finite, 0 or more, not all 0
    group: str  # the rows of a group, with the same value in this column, are all held out or all trained on
    time: str  # the rows held out are the last ones by this column
    split: str  # a column that says train, val or test; `test` is then not used
    positive: str  # of two classes, the one that metrics and probabilities are about
    categorical: list[str]  # numbers that are names: each value is a category
    numeric: list[str]  # texts that are numbers: 61,593 or 61.6 % or $61.59 or 61.6 kg
    dates: list[str] | dict[str, str]  # days since 1970-01-01 (UTC), from ISO 8601 or, by column, a strptime format
    missing_values: list[str]  # texts that count as missing, beside the empty field
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


DIALECT = tuple(CsvOptions.__annotations__.keys() - TableOptions.__annotations__.keys())
LATER = (
    "missing",
    "unknown",
    "missing_values",
    "ids",
    "weight",
    "targets",
    "off_value",
    *DIALECT,
)  # may change in a later file


def check_options(options: Mapping[str, object], allowed: type[TableOptions], place: str = "data") -> None:
    """Raise UserError for a name that `allowed` does not have."""
    names = allowed.__annotations__
    for name in options:
        if name not in names:
            raise UserError(f"{place}: no argument {name!r}{suggest(name, names)}")
