"""How a table is read: the kind of each column, what the target is. Inferred from the first file, then kept with the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trainkit.core.errors import UserError
from trainkit.data.dataset import Targets

from .options import Encode, Missing, Task, Unknown

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null")  # of a CSV file, quoted or not, with or without blanks
UNKNOWN = "(unknown)"
Statistic = Literal["mean", "median", "most_frequent"]


@dataclass(frozen=True)
class Column:
    """An input column.

    categories: of a category, its texts in the order of their features or codes.
    affix: of a number, the unit, percent sign or currency written beside it. thousands: the separator between its thousands.
    format: of a date, as for strptime; "" is ISO 8601. gaps: whether a value was missing in the first file.
    """

    name: str
    kind: Literal["number", "category", "date"]
    categories: list[str] = field(default_factory=list)
    affix: str = ""
    thousands: str = ""
    format: str = ""
    gaps: bool = False


@dataclass(frozen=True)
class Schema:
    """How a table is read: the same for every table of a model.

    target: a name, or the names of several targets. classes: names of the classes, or labels, in the order of their index; None
    in regression. statistic: what the normalizer of the model holds for missing numbers; None in old checkpoints that refuse.
    dialect: the arguments of the CSV dialect that were given. dressed: the targets and weights with a unit or a separator.
    """

    target: str | list[str]
    task: Task
    columns: list[Column]
    classes: list[str] | None
    targets: Targets
    off_value: float
    missing: Missing = "refuse"
    statistic: Statistic | None = "mean"
    missing_indicator: bool = False
    missing_values: list[str] = field(default_factory=lambda: list(MISSING))
    unknown: Unknown = "refuse"
    encode: Encode = "onehot"
    ids: list[str] = field(default_factory=list)
    weight: str | None = None
    dialect: dict[str, Any] = field(default_factory=dict)
    dressed: list[Column] = field(default_factory=list)

    @classmethod
    def of(cls, saved: Mapping[str, object]) -> Schema:
        """Return the schema of the plain dict `Dataset.schema`, also of one that an earlier version has saved."""
        try:
            if "numeric" in saved:
                return cls(**_converted(dict(saved)))
            columns = {key: [Column(**c) for c in saved[key]] for key in ("columns", "dressed") if key in saved}  # type: ignore[attr-defined]
            return cls(**{**saved, **columns})  # type: ignore[arg-type]
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"data.schema: keys ({', '.join(map(str, saved))}) are not those of a table's schema "
                f"({', '.join(cls.__dataclass_fields__)}); use the schema of a Dataset returned by csv(), parquet() or table()"
            ) from error

    def as_dict(self) -> dict[str, object]:
        """Return the schema as lists, dicts and strings; `of` reads it. What a column does not have is left out."""
        saved: dict[str, object] = asdict(self)
        for key, columns in (("columns", self.columns), ("dressed", self.dressed)):
            saved[key] = [{k: v for k, v in asdict(c).items() if k in ("name", "kind") or v} for c in columns]
        return saved if self.dressed else {key: value for key, value in saved.items() if key != "dressed"}

    def number(self, name: str) -> Column:
        """Return how the numbers of a target or of the weight are written."""
        return next((column for column in self.dressed if column.name == name), Column(name, "number"))

    @property
    def target_names(self) -> list[str]:
        return [self.target] if isinstance(self.target, str) else self.target

    @property
    def has_other_code(self) -> bool:
        """Whether each column of codes has one more code, for unknown and missing values."""
        return self.encode == "codes" and (self.unknown != "refuse" or self.missing in ("mean", "median"))

    def is_code(self, column: Column) -> bool:
        return self.encode == "codes" and column.kind == "category"

    def width_of(self, column: Column) -> int:
        """Return the number of features of a column, without its indicator."""
        if column.kind != "category" or self.encode == "codes":
            return 1
        return len(column.categories) + (self.unknown == "column")

    def layout(self) -> dict[str, slice]:
        """Return the features of each column: those that are not codes in the columns' order, the indicators, the codes."""
        places: dict[str, slice] = {}
        at = 0
        for column in self.columns:
            if not self.is_code(column):
                places[column.name] = slice(at, at + self.width_of(column))
                at += self.width_of(column)
        at += len(self.indicators())
        for column in filter(self.is_code, self.columns):
            places[column.name] = slice(at, at + 1)
            at += 1
        return places

    def indicators(self) -> dict[str, int]:
        """Return the feature that says whether the value of a column is missing, by column."""
        at = sum(self.width_of(column) for column in self.columns if not self.is_code(column))
        return {c.name: at + i for i, c in enumerate(c for c in self.columns if c.gaps)} if self.missing_indicator else {}

    @property
    def width(self) -> int:
        """The number of features, the columns of x."""
        return sum(map(self.width_of, self.columns)) + len(self.indicators())

    def features(self) -> tuple[str, ...]:
        """Return the names of the features: `width`, `color=red`, `color=(unknown)`, `width=(missing)`."""
        names = [""] * self.width
        places = self.layout()
        for column in self.columns:
            place, name = places[column.name], column.name
            if column.kind == "category" and self.encode == "onehot":
                texts = [*column.categories, UNKNOWN][: place.stop - place.start]
                names[place] = [f"{name}={text}" for text in texts]
            else:
                names[place] = [name]
        for name, at in self.indicators().items():
            names[at] = f"{name}=(missing)"
        return tuple(names)

    def categories(self) -> tuple[int, ...]:
        """Return the number of codes of each feature, 0 for a number; () without codes."""
        if not any(map(self.is_code, self.columns)):
            return ()
        counts, places = [0] * self.width, self.layout()
        for column in filter(self.is_code, self.columns):
            counts[places[column.name].start] = len(column.categories) + self.has_other_code
        return tuple(counts)


def onehot_groups(saved: Mapping[str, object]) -> list[slice]:
    """Return the features of each column of one-hot categories, given `Dataset.schema`; [] for data that is not a table."""
    if not saved:
        return []
    schema = Schema.of(saved)
    places = schema.layout()
    return [places[c.name] for c in schema.columns if c.kind == "category" and schema.encode == "onehot"]


def _converted(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a schema of an earlier version: names of columns, and of those that are numbers."""
    numeric, categories = saved.pop("numeric"), saved.pop("categories")
    if "low" in saved:
        saved["off_value"] = saved.pop("low")
    if set(saved["columns"]) != {*numeric, *categories}:
        raise KeyError("columns")
    columns = [Column(n, "category", categories[n]) if n in categories else Column(n, "number") for n in saved["columns"]]
    return {**saved, "columns": columns, "statistic": None if saved["missing"] == "refuse" else saved["missing"]}
