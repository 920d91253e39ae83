"""How a CSV file is read: which columns are numbers, which are categories, what the target is. Inferred once, then kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainkit.core.errors import UserError, suggest
from trainkit.data.dataset import Targets

from . import csv_file
from .csv_file import MISSING, Kind

Task = Literal["classification", "regression"]
Missing = Literal["refuse", "mean", "median"]

MAX_INFERRED_CLASSES = 20  # with task=auto, integers of this many different values or fewer are classes
MAX_CATEGORIES = 256  # more different texts are names, dates or misspelled numbers, unless the configuration lists the column


@dataclass(frozen=True)
class Schema:
    """How a file is read: the same for every file of a model.

    columns: the inputs in their order; each is in `numeric` (one column of x) or in `categories` (one per text).
    classes: texts of the target in the order of their index; None in regression.
    """

    target: str
    task: Task
    columns: list[str]
    numeric: list[str]
    categories: dict[str, list[str]]
    classes: list[str] | None
    targets: Targets
    off_value: float
    missing: Missing

    @classmethod
    def of(cls, saved: Mapping[str, object]) -> Schema:
        """Return the schema of the plain dict `Dataset.schema`."""
        saved = {
            {"low": "off_value"}.get(key, key): value for key, value in saved.items()
        }  # the earlier name, in older checkpoints
        try:
            schema = cls(**saved)  # type: ignore[arg-type]
            valid = set(schema.columns) == {*schema.numeric, *schema.categories} and schema.task in (
                "classification",
                "regression",
            )
        except TypeError:
            valid = False
        if not valid:
            raise UserError(
                f"data.schema: keys ({', '.join(map(str, saved))}) are not those of a CSV file's schema "
                f"({', '.join(cls.__dataclass_fields__)}); use the schema of a Dataset returned by csv()"
            )
        return schema

    @property
    def width(self) -> int:
        """The number of features: one per numeric column, one per text of a category."""
        return sum(len(self.categories.get(name, [name])) for name in self.columns)


def infer(
    path: str,
    target: str,
    task: Literal["auto", "classification", "regression"],
    categorical: list[str],
    drop: list[str],
    missing: Missing,
    targets: Targets | None,
    off_value: float,
) -> tuple[Schema, Any]:
    """Return the schema that follows from the file and the arguments (those of `csv`), and the file's table.

    The file is read once. Arrow infers the type of each column that no argument decides. The few columns whose spelling the
    inference has lost are read a second time. Raises UserError as `csv` does.
    """
    names = csv_file.header(path)
    columns = _inputs(path, names, target, categorical, drop)
    kinds: dict[str, Kind | None] = dict.fromkeys(columns)
    kinds.update((name, "text") for name in categorical if name in kinds)
    kinds[target] = {"auto": None, "classification": "text", "regression": "number"}[task]
    table = csv_file.read(path, names, kinds)
    if table.num_rows < 2:
        raise UserError(f"{path}: has one row; training needs at least 2")

    decided: Task = _task(table.column(target)) if task == "auto" else task
    targets = _targets(targets, decided, target)
    texts = {name for name in columns if not _is_number(table.column(name))}
    if decided == "classification":
        texts.add(target)
    table = _respelled(path, names, table, texts)
    for name, kind in kinds.items():
        if name in texts and kind is None:  # inferred, so possibly wrong
            _refuse_doubtful(path, table, name, name == target)

    schema = Schema(
        target=target,
        task=decided,
        columns=columns,
        numeric=[name for name in columns if name not in texts],
        categories={name: _vocabulary(table.column(name)) for name in columns if name in texts},
        classes=_classes(path, table, target) if decided == "classification" else None,
        targets=targets,
        off_value=off_value,
        missing=missing,
    )
    return schema, table


def read(path: str, schema: Schema) -> Any:
    """Return the table of the columns of `path` that `schema` lists; also the target, if the file has it."""
    names = csv_file.header(path)
    present = set(names)
    absent = [name for name in schema.columns if name not in present]
    if absent:
        more = f" (and {len(absent) - 1} others)" if len(absent) > 1 else ""
        raise UserError(f"{path}: no column {absent[0]!r}{more}, which the model was trained on{suggest(absent[0], names)}")
    kinds: dict[str, Kind | None] = {name: "text" if name in schema.categories else "number" for name in schema.columns}
    if schema.target in present:
        kinds[schema.target] = "text" if schema.task == "classification" else "number"
    return csv_file.read(path, names, kinds)


def _inputs(path: str, names: list[str], target: str, categorical: list[str], drop: list[str]) -> list[str]:
    """Return the columns that are inputs, in the file's order. Raises UserError if the arguments do not fit the header."""
    if target not in names:
        raise UserError(f"data.target: no column {target!r} in {path}{suggest(target, names)}")
    for key, listed in (("categorical", categorical), ("drop", drop)):
        for name in listed:
            if name not in names:
                raise UserError(f"data.{key}: no column {name!r} in {path}{suggest(name, names)}")
            if name == target:
                raise UserError(f"data.{key}: {name!r} is the target; leave it out here")
    columns = [name for name in names if name != target and name not in drop]
    if not columns:
        raise UserError(f"{path}: has only the target {target!r}; needs at least one input")
    if "" in columns:
        raise UserError(f"{path}: column {names.index('') + 1} has no name (a row index?); name it, or set data.drop=['']")
    return columns


def _task(column: Any) -> Task:
    """Return the task of a target with Arrow's inferred type: texts and few integers are classes, others a regression."""
    import pyarrow as pa
    import pyarrow.compute as pc

    few = pa.types.is_integer(column.type) and len(pc.unique(column)) <= MAX_INFERRED_CLASSES
    return "classification" if few or not _is_number(column) else "regression"


def _targets(targets: Targets | None, task: Task, target: str) -> Targets:
    """Return how targets are encoded; by default the class index, or the number itself."""
    if task == "regression" and targets not in (None, "real"):
        raise UserError(
            f"data.targets: {targets!r} does not fit the numbers of {target!r}; leave it out, or set data.task=classification"
        )
    return targets or ("index" if task == "classification" else "real")


def _respelled(path: str, names: list[str], table: Any, texts: set[str]) -> Any:
    """Return the table with each column of `texts` as the file spells it.

    Arrow infers dates and integers from some texts, and loses their spelling ("01" and "1" are one integer), so these columns
    are read again. Reading every column as texts first would read each column of numbers twice.
    """
    lost = [name for name in table.column_names if name in texts and not _is_text(table.column(name))]
    if lost:
        spelled = csv_file.read(path, names, dict.fromkeys(lost, "text"))
        for name in lost:
            table = table.set_column(table.schema.get_field_index(name), name, spelled.column(name))
    return table


def _refuse_doubtful(path: str, table: Any, name: str, is_target: bool) -> None:
    """Raise UserError for more than MAX_CATEGORIES different texts, or for a few texts among numbers; quote the first."""
    import pyarrow.compute as pc

    column = table.column(name).cast("string")
    values = pc.unique(column).drop_null()
    texts = [value for value in values.to_pylist() if _number(value) is None]
    if len(values) <= MAX_CATEGORIES and not 0 < len(texts) < len(values) / 2:
        return
    odd = texts[0] if texts else values[0].as_py()
    row = pc.index(column, odd).as_py() + 2
    odd = f"{odd[:40]!r}{'...' if len(odd) > 40 else ''}"
    fix = "data.task=classification" if is_target else f"data.drop=[{name}], or list it in data.categorical"
    if len(values) > MAX_CATEGORIES:
        raise UserError(f"{path}: column {name!r} holds {len(values)} different texts, such as {odd} in row {row}; set {fix}")
    why = f"is not a number, {len(values) - len(texts)} of {len(values)} different values are"
    raise UserError(f"{path}: column {name!r}, row {row}: {odd} {why}; correct it, or set {fix}")


def _classes(path: str, table: Any, target: str) -> list[str]:
    classes = _vocabulary(table.column(target))
    if len(classes) == 1:
        raise UserError(f"{path}: target {target!r} is {classes[0]!r} in every row; needs at least 2 classes")
    return classes


def _vocabulary(column: Any) -> list[str]:
    """Return the different texts, sorted; by value if all are numbers."""
    import pyarrow as pa

    values: Iterable[str] = (
        column.combine_chunks().dictionary.to_pylist()
        if pa.types.is_dictionary(column.type)
        else column.unique().drop_null().to_pylist()
    )
    texts = sorted({value.strip() for value in values} - set(MISSING))
    numbers = {text: _number(text) for text in texts}
    if None not in numbers.values():
        texts.sort(key=lambda text: numbers[text] or 0.0)
    return texts


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # only Python reads 1_000 as a number
    except ValueError:
        return None


def _is_number(column: Any) -> bool:
    """Return whether Arrow inferred numbers; a column without any value counts too."""
    import pyarrow as pa

    kind = column.type
    return bool(pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(column: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(column.type) or pa.types.is_dictionary(column.type))
