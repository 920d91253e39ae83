"""A CSV file as an Arrow table, and Arrow's errors as messages for the user."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from trainkit.core.errors import UserError

Kind = Literal["number", "text"]

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null")  # quoted or not, with or without spaces around
MAX_LINE_BYTES = 8 << 20  # the longest line that can be read


def header(path: str) -> list[str]:
    """Return the column names. Raises UserError if the file is missing, has no header, or repeats a name."""
    try:
        from pyarrow import csv
    except ImportError as error:
        raise UserError("data: reading CSV files needs pyarrow; pip install 'trainkit[csv]'") from error
    if not Path(path).is_file():
        raise UserError(f"data: no file {path!r}; give the path of a CSV file, absolute or relative to {Path.cwd()}")
    options = csv.ReadOptions(use_threads=False, block_size=MAX_LINE_BYTES)
    try:
        with csv.open_csv(path, read_options=options, parse_options=csv.ParseOptions(newlines_in_values=True)) as file:
            names: list[str] = file.schema.names
    except (ValueError, OSError) as error:  # ArrowInvalid and UnicodeDecodeError are ValueErrors
        raise _refusal(path, error, []) from error
    if any("\0" in name for name in names):
        raise _refusal(path, ValueError("a NUL in the header"), [])
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{path}: {count} columns are named {name!r}; give each a name of its own")
    return names


def read(path: str, names: list[str], kinds: Mapping[str, Kind | None]) -> Any:
    """Return the columns `kinds` as a pyarrow.Table of at least one row: float64, dictionary of texts, or inferred (None)."""
    import pyarrow as pa
    from pyarrow import csv

    types = {"number": pa.float64(), "text": pa.dictionary(pa.int32(), pa.string())}
    convert = csv.ConvertOptions(
        include_columns=list(kinds),
        column_types={name: types[kind] for name, kind in kinds.items() if kind},
        null_values=[around + text for text in MISSING for around in ("", " ")],
        strings_can_be_null=True,
        true_values=[],  # "true" is an ordinary text
        false_values=[],
    )

    def attempt(threads: bool) -> Any:
        return csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=threads, block_size=MAX_LINE_BYTES),
            # An empty line is a missing value if there is one column, and is ignored if there are more.
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(names) > 1),
            convert_options=convert,
        )

    try:
        table = attempt(threads=True)
    except (ValueError, OSError):
        try:
            table = attempt(threads=False)  # the error then has the number of the row
        except (ValueError, OSError) as error:
            raise _refusal(path, error, names) from error
    for field in table.schema:
        if pa.types.is_binary(field.type):
            raise _refusal(path, ValueError(f"column {field.name!r} holds bytes that are not a text"), [])
    release()
    if table.num_rows == 0:
        raise UserError(f"{path}: has a header but no rows; needs at least one row")
    return table


def release() -> None:
    """Release the memory that Arrow keeps for its next table, as large as the last one."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def _refusal(path: str, error: Exception, names: list[str]) -> UserError:
    """Return Arrow's error as a message for the user."""
    text = str(error)
    if found := re.search(r"column #(\d+): Row #(\d+): .* invalid value '(.*)'", text, re.DOTALL):
        column, row, value = found.groups()
        return UserError(f"{path}: column {names[int(column)]!r}, row {row}: {value!r} is not a number; correct it")
    if found := re.search(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)", text):
        row, expected, got = found.groups()
        place = f", row {row}" if row else ""
        return _encoding(path) or UserError(
            f"{path}{place}: {got} values, the header has {expected}; correct or remove the row"
        )
    if "Empty CSV" in text:
        return _encoding(path) or UserError(f"{path}: empty; needs a header and at least one row")
    return _encoding(path) or UserError(f"{path}: cannot be read as CSV: {text}")


def _encoding(path: str) -> UserError | None:
    """Return the error for the first line that is not UTF-8 or holds a NUL, if there is one."""
    try:
        with gzip.open(path) if Path(path).suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = line[error.start]
                    return UserError(
                        f"{path}: line {number}, byte {error.start + 1}: 0x{byte:02x} is not UTF-8; save the file as UTF-8"
                    )
                if b"\0" in line:
                    at = f"{path}: line {number}, byte {line.index(0) + 1}: 0x00"
                    return UserError(f"{at} is not part of a text (UTF-16? a file cut short?); save the file as UTF-8")
    except (OSError, EOFError):
        pass  # the earlier error is more informative
    return None
