"""How a CSV file is written: separator, decimal sign, header. What is not given is guessed from its first lines."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from trainkit.core import terminal
from trainkit.core.errors import UserError

DELIMITERS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}
MAX_FIELD = 1 << 27  # characters of a field, when the line of an error is searched for
SAMPLE = 1 << 16  # characters from which a dialect is guessed
FORMS = {  # of a number
    "unclear": re.compile(r"[-+]?[1-9]\d{0,2},\d{3}"),
    "comma": re.compile(r"[-+]?\d*,\d+|[-+]?\d{1,3}(\.\d{3})+,\d+"),
    "point": re.compile(r"[-+]?\d*\.\d+"),
    "thousands": re.compile(r"[-+]?\d{1,3}(,\d{3}){2,}(\.\d+)?|[-+]?\d{1,3}(,\d{3})+\.\d+"),
}


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    names: of the columns, without blanks around them; a column at the end without a name has None and is not read.
    skip: the lines and blank lines before the first row.
    """

    delimiter: str
    decimal: str
    thousands: str
    quote: str
    encoding: str
    names: tuple[str | None, ...]
    skip: int


def detect(path: str, given: Mapping[str, Any]) -> Dialect:
    """Return the dialect of a file: what is `given`, the rest guessed; a line reports a guess other than the usual.

    Raises UserError if the file is missing or empty, or not in the encoding.
    """
    encoding, quote = given.get("encoding", "utf-8"), given.get("quote", '"')
    for key in ("delimiter", "decimal", "quote"):
        if key in given and len(given[key]) != 1:
            raise UserError(f"data.{key}: {given[key]!r}; needs one character")
    sample = _sample(path, encoding)
    delimiter, decimal = given.get("delimiter"), given.get("decimal")
    if delimiter is None:
        delimiter = _delimiter(sample, quote)
        if delimiter != ",":
            terminal.print_stderr(f"{path}: is separated by {DELIMITERS[delimiter]}; data.delimiter names another separator")
    if decimal is None:
        decimal = _decimal(sample, delimiter, quote)
        if decimal == ",":
            terminal.print_stderr(f"{path}: has decimal commas, as in 1,5; with data.decimal='.' they are not")
    lines = _records(io.StringIO(sample, newline=""), delimiter, quote)
    first = next(lines, None)
    if first is None:
        raise UserError(f"{path}: empty; needs a header and at least one row")
    _, fields = first
    if given.get("header", given.get("names") is None):
        header = [name.strip() for name in fields]
        skip = sum(1 for _ in _leading(sample)) + 1
    else:
        header, skip = [f"x{i}" for i in range(len(fields))], 0
    if (names := given.get("names")) is not None:
        if len(names) != len(fields):
            raise UserError(f"data.names: {len(names)} names, {path} has {len(fields)} columns; give one name per column")
        header = list(names)
    named = max((i for i, name in enumerate(header) if name), default=len(header) - 1) + 1
    if named < len(header):
        which = f"columns {named + 1} to {len(header)} have" if named + 1 < len(header) else f"column {len(header)} has"
        terminal.print_stderr(f"{path}: {which} no name and {'are' if named + 1 < len(header) else 'is'} ignored")
    kept: tuple[str | None, ...] = (*header[:named], *[None] * (len(header) - named))
    return Dialect(delimiter, decimal, given.get("thousands", ""), quote, encoding, kept, skip)


def open_text(path: str, encoding: str) -> TextIO:
    """Open a file or a .gz file as text, without a byte order mark."""
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    if Path(path).suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding, newline="")
    return open(path, encoding=encoding, newline="")


def first_line_of(path: str, dialect: Dialect, row: int) -> int | None:
    """Return the line of the file in which data row `row` (from 0) begins, or None if it cannot be found."""
    try:
        for i, (line, _) in enumerate(_data(path, dialect)):
            if i == row:
                return line
    except (OSError, EOFError, ValueError, csv.Error):
        pass
    return None


def has_rows(path: str, dialect: Dialect) -> bool:
    """Return whether there is a row after the header; True if the file cannot be read."""
    with suppress(OSError, EOFError, ValueError, csv.Error):
        return next(_data(path, dialect), None) is not None
    return True


def odd_record(path: str, dialect: Dialect) -> tuple[int, int] | None:
    """Return line and number of values of the first row that has more or fewer values than there are columns."""
    try:
        for line, fields in _data(path, dialect):
            if len(fields) != len(dialect.names):
                return line, len(fields)
    except (OSError, EOFError, ValueError, csv.Error):
        pass
    return None


def _data(path: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each row after the header."""
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        with closing(open_text(path, dialect.encoding)) as file:
            lines = _records(file, dialect.delimiter, dialect.quote, blank=len(dialect.names) == 1)
            if dialect.skip:
                next((fields for _, fields in lines if fields), None)  # blank lines before the header are not rows
            yield from lines
    finally:
        csv.field_size_limit(limit)


def _records(file: TextIO, delimiter: str, quote: str, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each record. blank: whether an empty line is a record."""
    reader = csv.reader(file, delimiter=delimiter, quotechar=quote)
    line = 1
    for fields in reader:
        if fields or blank:
            yield line, fields
        line = reader.line_num + 1


def _leading(sample: str) -> Iterator[str]:
    """Yield the empty lines at the beginning."""
    for line in io.StringIO(sample, newline=None):
        if line.rstrip("\n"):
            return
        yield line


def _sample(path: str, encoding: str) -> str:
    """Return the first lines of the file, whole lines."""
    if not Path(path).is_file():
        raise UserError(f"data: no file {path!r}; give the path of a CSV file, absolute or relative to {Path.cwd()}")
    try:
        with closing(open_text(path, encoding)) as file:
            text = file.read(SAMPLE)
            text += file.readline()
    except LookupError as error:
        raise UserError(f"data.encoding: {encoding!r} is not known; such as utf-8, latin-1, cp1252 or utf-16") from error
    except (ValueError, OSError, EOFError) as error:
        raise encoding_error(path, encoding) or UserError(f"{path}: cannot be read as CSV: {error}") from error
    if "\0" in text:
        raise encoding_error(path, encoding) or UserError(f"{path}: holds a NUL; needs a text file")
    return text


def _delimiter(sample: str, quote: str) -> str:
    """Return the separator that divides most lines as it divides the first; of equals the one with most columns."""
    best, chosen = (0.0, 0), ","
    for delimiter in DELIMITERS:
        widths = [len(fields) for _, fields in _first_records(sample, delimiter, quote)]
        if widths and widths[0] > 1:
            score = widths.count(widths[0]) / len(widths), widths[0]
            if score > best:
                best, chosen = score, delimiter
    return chosen


def _decimal(sample: str, delimiter: str, quote: str) -> str:
    """Return ',' if, in a file that commas do not separate, numbers have decimal commas, and none has a point.

    A comma before three digits may be between thousands: it is decimal only if another comma or a leading 0 says so.
    """
    if delimiter == ",":
        return "."
    fields = Counter[str]()
    for _, record in _first_records(sample, delimiter, quote):
        fields.update(next((kind for kind, form in FORMS.items() if form.fullmatch(f.strip())), "") for f in record)
    return "," if fields["comma"] and not fields["point"] and not fields["thousands"] else "."


def _first_records(sample: str, delimiter: str, quote: str) -> list[tuple[int, list[str]]]:
    """Return the records of the sample; the last, which may be cut, only if there is no other."""
    found: list[tuple[int, list[str]]] = []
    with suppress(csv.Error):  # a field that is too long, as after a quote that is not closed
        found.extend(_records(io.StringIO(sample, newline=""), delimiter, quote))
    return found[:-1] if len(found) > 2 and len(sample) >= SAMPLE else found


def encoding_error(path: str, encoding: str = "utf-8") -> UserError | None:
    """Return the error for the first line that is not in the encoding or holds a NUL, if there is one."""
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
        try:
            with closing(open_text(path, encoding)) as file:
                while file.read(SAMPLE):
                    pass
        except ValueError as error:
            return UserError(f"{path}: is not {encoding} ({error}); name its encoding by data.encoding")
        except (OSError, EOFError):
            pass
        return None
    fix = "save the file as UTF-8, or name its encoding by data.encoding"
    try:
        with gzip.open(path) if Path(path).suffix.lower() == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    at = f"{path}: line {number}, byte {error.start + 1}: 0x{line[error.start]:02x}"
                    return UserError(f"{at} is not UTF-8; {fix}")
                if b"\0" in line:
                    at = f"{path}: line {number}, byte {line.index(0) + 1}: 0x00"
                    return UserError(f"{at} is not part of a text (UTF-16? a file cut short?); {fix}")
    except (OSError, EOFError):
        pass  # the earlier error is more informative
    return None
