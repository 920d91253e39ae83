"""The schema that follows from the first table of a model and the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trainkit.core import terminal
from trainkit.core.errors import MAX_NAMES, ErrorCollector, UserError
from trainkit.core.validation import short_repr
from trainkit.data.dataset import Targets

from .base import Kind, Table
from .doubtful import are_numbers, as_number, as_target, refuse_doubtful
from .numbers import Texts, is_date, is_number, is_text, plain_number
from .options import TableOptions, Task, formats_of
from .schema import Column, Schema

MAX_INFERRED_CLASSES = 20  # with task=auto, integers of this many different values or fewer are classes


def infer(table: Table, target: str | list[str], options: TableOptions, dialect: dict[str, Any]) -> Schema:
    """Return the schema, and load the table. Raises UserError for options that do not fit the columns, and doubtful columns."""
    names = input_names(table, target, options)
    targets = [target] if isinstance(target, str) else list(target)
    own_missing = options.get("missing_values")
    missing_values = list(table.default_missing) if own_missing is None else own_missing
    roles = roles_of(options)
    task = options.get("task", "auto")
    kinds: dict[str, Kind | None] = dict.fromkeys(names)
    formats = formats_of(options)
    texts = [*(options.get("categorical") or []), *(options.get("numeric") or []), *(n for n, f in formats.items() if f)]
    kinds.update((name, "text") for name in texts if name in kinds)
    numeric = options.get("numeric") or []
    kinds.update((name, "text" if name in numeric or task == "classification" else None) for name in targets)
    texts = [name for name, role in roles.items() if role == "ids" or name in numeric or formats.get(name)]
    kinds.update((name, "text" if name in texts else None) for name in roles if name not in kinds)
    table.load(kinds, missing_values)
    if table.rows < 2:
        raise UserError(f"{table.name}: has one row; training needs at least 2")

    decided = _task(table, targets, options, missing_values) if task == "auto" else task
    if decided == "classification" and len(targets) > 1:
        raise UserError(
            f"data.target: {len(targets)} columns and data.task=classification; name one column, or set data.task=multilabel"
        )
    encoded = _targets(options.get("targets"), decided, targets[0])
    spelled = [name for name in names if not (is_number(table.column(name)) or name in formats)]
    table.spelled([*spelled, *(targets if decided == "classification" else [])])
    errors, columns, found = ErrorCollector(), list[Column](), list[Column]()
    if decided == "classification":
        with errors:
            refuse_doubtful(table, targets[0], missing_values, is_target=True, declared=task == "classification")
    for name in names:
        with errors:
            columns.append(_column(table, name, options, formats, missing_values))
    weight = options.get("weight")
    beside = [*(targets if decided == "regression" else []), *([weight] if weight is not None else [])]
    for name in beside:
        with errors:
            found.append(as_target(table, name, options, missing_values))
    errors.throw()
    missing = options.get("missing", "refuse")
    return Schema(
        target=target,
        task=decided,
        columns=columns,
        classes=_classes(table, targets[0], missing_values) if decided == "classification" else _labels(decided, targets),
        targets=encoded,
        off_value=options.get("off_value", 0.0),
        missing=missing,
        statistic="mean" if missing == "refuse" else missing,
        missing_indicator=options.get("missing_indicator", False),
        missing_values=list(missing_values),
        unknown=options.get("unknown", "refuse"),
        encode=options.get("encode", "onehot"),
        ids=list(options.get("ids") or []),
        weight=weight,
        dialect=dialect,
        dressed=[column for column in found if column.affix or column.thousands],
    )


def roles_of(options: TableOptions) -> dict[str, str]:
    """Return the columns that have a role other than input or target, and the option that names each."""
    roles = dict.fromkeys(options.get("ids") or [], "ids")
    for key in ("weight", "group", "time", "split"):
        if (name := options.get(key)) is not None:
            roles.setdefault(str(name), key)
    return roles


def input_names(table: Table, target: str | list[str], options: TableOptions) -> list[str]:
    """Return the columns that are inputs, in the table's order. Raises UserError if the options do not fit the columns."""
    targets = [target] if isinstance(target, str) else list(target)
    if not targets:
        raise UserError("data.target: []; name at least one column")
    errors = ErrorCollector()
    for name in targets:
        with errors:
            table.require(name, "data.target: no column {name!r} in {table}" + _no_header(table))
    dates, task = options.get("dates") or [], options.get("task", "auto")
    for key in ("categorical", "numeric", "drop", "keep", "ids"):
        for name in options.get(key) or []:  # type: ignore[attr-defined]
            if key == "drop" and not name and table.unnamed:
                continue  # they are not read
            with errors:
                table.require(name, f"data.{key}: no column {{name!r}} in {{table}}")
            if name in targets and not (key == "ids" or (key == "numeric" and task in ("auto", "regression"))):
                errors.messages.append(f"data.{key}: {name!r} is the target; leave it out here")
    for name, key in [*((name, "dates") for name in dates), *roles_of(options).items()]:
        with errors:
            table.require(name, f"data.{key}: no column {{name!r}} in {{table}}")
    errors.throw()
    keep, without = options.get("keep"), {*targets, *(options.get("drop") or []), *roles_of(options)}
    if keep is not None:
        if both := [name for name in keep if name in (options.get("drop") or [])]:
            raise UserError(f"data.keep: {both[0]!r} is in data.drop too; leave it out in one of them")
        names = [name for name in table.names if name in keep]
    else:
        names = [name for name in table.names if name not in without]
    declared = [*(options.get("categorical") or []), *(options.get("numeric") or []), *dates]
    if twice := next((name for name in declared if declared.count(name) > 1), None):
        raise UserError(f"data: column {twice!r} is declared twice, in data.categorical, data.numeric or data.dates")
    if not names:
        raise UserError(f"{table.name}: has only the target {', '.join(map(repr, targets))}; needs at least one input")
    if "" in names:
        at = list(table.names).index("") + 1
        raise UserError(f"{table.name}: column {at} has no name (a row index?); name it, or set data.drop=['']")
    for name in names:
        table.require(name, "")
    return names


def vocabulary(column: Texts, missing_values: Sequence[str]) -> list[str]:
    """Return the different texts, sorted; by value if all are numbers, and of equal numbers such as 1, 1.0 and 01 only one."""
    texts = sorted(set(column.texts) - {"", *missing_values})
    values = {text: plain_number(text) for text in texts}
    if not texts or any(value is None or value != value for value in values.values()):
        return texts
    equal: dict[float, list[str]] = {}
    for text in texts:
        equal.setdefault(values[text] or 0.0, []).append(text)
    return [_spelling(value, equal[value]) for value in sorted(equal)]


def _spelling(value: float, texts: list[str]) -> str:
    """Return the one text, or of several the plain one: 1 for 1, 1.0 and 01."""
    if len(texts) == 1:
        return texts[0]
    return str(int(value)) if value.is_integer() else repr(value)


def _column(table: Table, name: str, options: TableOptions, formats: dict[str, str], missing_values: Sequence[str]) -> Column:
    """Return the column as inferred. Raises UserError for one that is neither declared nor clear."""
    import pyarrow as pa

    column = table.column(name)
    if name in formats:
        return Column(name, "date", format=formats[name])
    thousands = str(options.get("thousands", ""))
    if name in (options.get("numeric") or []):
        if is_number(column):
            return Column(name, "number")
        return as_number(table, name, thousands, missing_values)
    if name not in (options.get("categorical") or []):
        if is_number(column):
            return Column(name, "number")
        if are_numbers(table, name, options, missing_values):
            return as_number(table, name, thousands, missing_values)
        if not (is_text(column) or is_date(column) or pa.types.is_boolean(column.type) or pa.types.is_dictionary(column.type)):
            raise UserError(f"{table.name}: column {name!r} holds {column.type}; set data.drop=[{name}]")
        if not pa.types.is_dictionary(column.type) or is_text(column):  # a categorical column of pandas is declared as such
            refuse_doubtful(table, name, missing_values)
    texts = Texts(column)
    _tell_missing_words(table, name, texts, options, missing_values)
    return Column(name, "category", vocabulary(texts, missing_values))


def with_gaps(schema: Schema, gaps: set[str]) -> Schema:
    """Return the schema with the columns `gaps` marked as those with missing values."""
    return replace(schema, columns=[replace(c, gaps=c.name in gaps) for c in schema.columns])


def _tell_missing_words(table: Table, name: str, texts: Texts, options: TableOptions, missing_values: Sequence[str]) -> None:
    """Print a line if words such as NA of a column of texts count as missing by default."""
    if options.get("missing_values") is not None or options.get("missing", "refuse") == "refuse":  # a refusal quotes the word
        return
    for word in sorted({text for text in texts.texts if text and text in missing_values}):
        count = sum(int((texts.code == i).sum()) for i, text in enumerate(texts.texts) if text == word)
        terminal.print_stderr(
            f"{table.name}: column {name!r}: {word!r} counts as missing ({count} rows);"
            " data.missing_values=[] keeps it as a text"
        )


def _task(table: Table, targets: list[str], options: TableOptions, missing_values: Sequence[str]) -> Task:
    """Return the task: texts and few integers are classes, other numbers a regression, 0 and 1 in several columns labels.

    Texts are numbers where an option says so.
    """
    import pyarrow.compute as pc

    columns = [table.column(name) for name in targets]
    if len(targets) > 1:
        labels = {0, 1, None, "true", "false", "True", "False"}
        values = [pc.unique(column) for column in columns]
        if all(len(v) <= len(labels) and set(v.to_pylist()) <= labels for v in values):
            _tell(table, f"the {len(targets)} targets are 0 or 1, so they are labels; for numbers set data.task=regression")
            return "multilabel"
        for name, column in zip(targets, columns, strict=True):
            if not (is_number(column) or are_numbers(table, name, options, missing_values)):
                as_target(table, name, options, missing_values)
                raise UserError(
                    f"data.target: column {name!r} of {table.name} holds texts; several targets are numbers, or labels 0 and 1"
                )
        return "regression"
    (column,), (name,) = columns, targets
    declared = are_numbers(table, name, options, missing_values)
    if not (is_number(column) or declared):
        return "classification"
    count = len(pc.unique(column.drop_null()))
    if not declared and _is_integer(column) and count <= MAX_INFERRED_CLASSES:
        what = f"column {name!r} holds few integers ({count} different), so they are classes"
        _tell(table, f"{what}; for a regression set data.task=regression")
        return "classification"
    what = f"column {name!r} holds numbers ({count} different), so it is a regression"
    _tell(table, f"{what}; for classes set data.task=classification")
    return "regression"


def _is_integer(column: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(column.type))


def _tell(table: Table, line: str) -> None:
    terminal.print_stderr(f"{table.name}: {line}")


def _targets(targets: Targets | None, task: Task, target: str) -> Targets:
    """Return how targets are encoded; by default the class index, or the number itself."""
    if task != "classification" and targets not in (None, "real"):
        what = "numbers" if task == "regression" else "labels"
        raise UserError(
            f"data.targets: {targets!r} does not fit the {what} of {target!r}; leave it out, or set data.task=classification"
        )
    return targets or ("index" if task == "classification" else "real")


def _classes(table: Table, target: str, missing_values: Sequence[str]) -> list[str]:
    classes = vocabulary(Texts(table.column(target)), missing_values)
    if len(classes) == 1:
        raise UserError(f"{table.name}: target {target!r} is {classes[0]!r} in every row; needs at least 2 classes")
    return classes


def _labels(task: Task, targets: list[str]) -> list[str] | None:
    return list(targets) if task == "multilabel" else None


def _no_header(table: Table) -> str:
    """Return a hint if the names look like the numbers of a first row."""
    if len(table.names) and sum(plain_number(name) is not None for name in table.names) * 2 >= len(table.names):
        first = ", ".join(short_repr(name, "") for name in table.names[:MAX_NAMES])
        return f" (its first line looks like a row: {first}; without a header set data.header=false, or data.names)"
    return ""
