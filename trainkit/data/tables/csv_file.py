"""A CSV file as a table, and Arrow's errors as messages for the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr

from .base import Kind, Table
from .dialect import Dialect, detect, encoding_error, first_line_of, has_rows, odd_record
from .schema import MISSING

MAX_LINE_BYTES = 8 << 20  # the longest line that can be read


class CsvTable(Table):
    """The rows of a CSV file. It is read once; only columns whose spelling is needed and lost are read a second time.

    given: arguments of the dialect, as in `CsvOptions`.
    Raises UserError if there is no such file, if it is not a CSV file, or without pyarrow.
    """

    default_missing = MISSING

    def __init__(self, path: str, given: Mapping[str, Any]) -> None:
        require_pyarrow()
        self.name, self.dialect = path, detect(path, given)
        self.names = [name for name in self.dialect.names if name is not None]
        self.unnamed, self.decimal = len(self.dialect.names) - len(self.names), self.dialect.decimal
        self.missing_values: Sequence[str] = MISSING
        self.table: Any = None

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    def load(self, kinds: Mapping[str, Kind | None], missing_values: Sequence[str]) -> None:
        self.missing_values = missing_values
        self.table = read_arrow(self.name, self.dialect, kinds, missing_values)
        if self.rows == 0:
            raise UserError(f"{self.name}: has a header but no rows; needs at least one row")

    def column(self, name: str) -> Any:
        return self.table.column(name)

    def release(self) -> None:
        self.table = None
        release()

    def spelled(self, names: Sequence[str]) -> None:
        lost = [name for name in names if not _is_text(self.column(name))]
        if lost:
            texts = read_arrow(self.name, self.dialect, dict.fromkeys(lost, "text"), self.missing_values)
            for name in lost:
                self.table = self.table.set_column(self.table.schema.get_field_index(name), name, texts.column(name))

    def place(self, row: int) -> str:
        line = first_line_of(self.name, self.dialect, row)
        return f"row {row}" if line is None else f"line {line}"


def read_arrow(path: str, dialect: Dialect, kinds: Mapping[str, Kind | None], missing_values: Sequence[str]) -> Any:
    """Return the columns `kinds` as a pyarrow.Table: float64, dictionary of texts, or inferred (None)."""
    import pyarrow as pa
    from pyarrow import csv

    types = {"number": pa.float64(), "text": pa.dictionary(pa.int32(), pa.string())}
    seen = dict[str, int]()
    columns = []  # Arrow needs names that differ; those of columns that are not read do not matter
    for i, name in enumerate(dialect.names):
        columns.append(f"\0{i}" if name is None or name in seen else name)
        seen[columns[-1]] = i
    convert = csv.ConvertOptions(
        include_columns=list(kinds),
        column_types={name: types[kind] for name, kind in kinds.items() if kind},
        null_values=[around + text for text in ("", *missing_values) for around in ("", " ")],
        true_values=[],  # "true" is an ordinary text
        false_values=[],
        decimal_point=dialect.decimal,
    )

    def attempt(threads: bool) -> Any:
        return csv.read_csv(
            path,
            read_options=csv.ReadOptions(
                use_threads=threads,
                block_size=MAX_LINE_BYTES,
                column_names=columns,
                skip_rows_after_names=dialect.skip,
                encoding=dialect.encoding,
            ),
            # An empty line is a missing value if there is one column, and is ignored if there are more.
            parse_options=csv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char=dialect.quote,
                newlines_in_values=True,
                ignore_empty_lines=len(columns) > 1,
            ),
            convert_options=convert,
        )

    try:
        table = attempt(threads=True)
    except (ValueError, OSError) as error:
        raise _refusal(path, dialect, error, kinds, missing_values) from error
    for field in table.schema:
        if pa.types.is_binary(field.type):
            raise encoding_error(path, dialect.encoding) or UserError(
                f"{path}: column {field.name!r} holds bytes that are not a text; correct the file"
            )
    release()
    return table


def release() -> None:
    """Release the memory that Arrow keeps for its next table, as large as the last one."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def require_pyarrow() -> None:
    """Raise UserError if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError("data: reading tables needs pyarrow; pip install 'trainkit[csv]'") from error


def _is_text(column: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(column.type) or pa.types.is_dictionary(column.type))


def _refusal(
    path: str, dialect: Dialect, error: Exception, kinds: Mapping[str, Kind | None], missing_values: Sequence[str]
) -> UserError:
    """Return Arrow's error as a message for the user. Arrow counts rows; the line is searched for here."""
    text = str(error)
    if "Expected" in text and "columns, got" in text and (odd := odd_record(path, dialect)):
        return encoding_error(path, dialect.encoding) or UserError(
            f"{path}, line {odd[0]}: {odd[1]} values, the header has {len(dialect.names)}; correct or remove the line"
        )
    if "invalid value" in text and (numbers := [name for name, kind in kinds.items() if kind == "number"]):
        texts = read_arrow(path, dialect, dict.fromkeys(numbers, "text"), missing_values)
        for name in numbers:
            if (found := _not_a_number(texts.column(name), dialect.decimal, missing_values)) is not None:
                row, value = found
                line = first_line_of(path, dialect, row)
                place = f"row {row}" if line is None else f"line {line}"
                return UserError(f"{path}: column {name!r}, {place}: {short_repr(value)} is not a number; correct it")
    if "Empty CSV" in text or not has_rows(path, dialect):
        return UserError(f"{path}: has a header but no rows; needs at least one row")
    return encoding_error(path, dialect.encoding) or UserError(f"{path}: cannot be read as CSV: {text}")


def _not_a_number(column: Any, decimal: str, missing_values: Sequence[str]) -> tuple[int, str] | None:
    """Return row and text of the first value of a column of texts that Arrow does not convert to a number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks()
    wrong = {}
    for i, text in enumerate(column.dictionary.to_pylist()):
        plain = text.strip(" \t")
        if plain in missing_values or not plain:
            continue
        try:
            pc.cast(pa.scalar(plain.replace(decimal, ".") if decimal != "." else plain), pa.float64())
        except pa.ArrowInvalid:
            wrong[i] = text
    if not wrong:
        return None
    hit = pc.is_in(column.indices, value_set=pa.array(list(wrong), pa.int32()))
    row = pc.index(hit, True).as_py()
    return row, wrong[column.indices[row].as_py()]
