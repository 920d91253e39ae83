"""Columns of texts that are probably something else: numbers with a unit, dates, names, misspelled numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainkit.core import terminal
from trainkit.core.errors import UserError

from .base import Table
from .numbers import DATE, SEPARATORS, Texts, is_date, is_number, is_text, plain_number, reader
from .options import TableOptions
from .schema import Column

DIGITS = re.compile(r"\d+(?:[.,]\d+)?")
MAX_OF_A_SHAPE = 20  # more different texts that differ only in their digits are not categories, unless the options say so
MAX_WORD = 12  # characters of a text that may mean a missing value, such as - or unknown
MAX_CATEGORIES = 256  # more different texts are names or misspelled numbers, unless the options list the column


def all_numbers(table: Table, name: str, thousands: str, missing_values: Sequence[str]) -> bool:
    """Return whether all texts of a column are numbers with this separator between thousands, and none has a unit."""
    read = reader(table.decimal, thousands)
    absent = {"", *missing_values}
    found = [read(text) for text in Texts(table.column(name)).texts if text not in absent]
    return all(value is not None and not value[1] for value in found)


def as_number(table: Table, name: str, thousands: str, missing_values: Sequence[str]) -> Column:
    """Return a column of texts such as "61,593", "61.6 %" or "61.6 kg" as numbers, and print what is left out.

    thousands: "" is the first of SEPARATORS with which all texts are numbers. Raises UserError if a text is not a number, or if
    units differ.
    """
    column = Texts(table.column(name))
    absent = {"", *missing_values}
    texts = [text for text in column.texts if text not in absent]
    separators = [thousands] if thousands else [sign for sign in SEPARATORS if sign != table.decimal]
    tried = {sign: {text: reader(table.decimal, sign)(text) for text in texts} for sign in separators}
    separator = next((sign for sign, found in tried.items() if None not in found.values()), separators[0])
    found = tried[separator]
    units = {value[1] for value in found.values() if value is not None} - {""}
    wrong = next((text for text, value in found.items() if value is None), None)
    if wrong is None and len(units) > 1:
        unit = sorted(units)[1]
        wrong = next(text for text, value in found.items() if value is not None and value[1] == unit)
    if wrong is not None:
        row = column.row_of(column.texts.index(wrong))
        why = "is not a number" if found[wrong] is None else f"has another unit than other rows ({', '.join(sorted(units))})"
        raise UserError(f"{table.name}: column {name!r}, {table.place(row)}: {_quoted(wrong)} {why}; correct it")
    used = separator if any(separator in text for text in texts) else ""
    affix = next(iter(units), "")
    if left_out := [repr(sign) for sign in (used, affix) if sign]:
        terminal.print_stderr(f"{table.name}: column {name!r} is read as numbers without {' and '.join(left_out)}")
    return Column(name, "number", affix=affix, thousands=used)


def are_numbers(table: Table, name: str, options: TableOptions, missing_values: Sequence[str]) -> bool:
    """Return whether an option says that the texts of a column are numbers: numeric, or thousands where all of them are."""
    thousands = str(options.get("thousands", ""))
    if name in (options.get("numeric") or []):
        return True
    return bool(thousands) and is_text(table.column(name)) and all_numbers(table, name, thousands, missing_values)


def as_target(table: Table, name: str, options: TableOptions, missing_values: Sequence[str]) -> Column:
    """Return how the numbers of a target or of the weight are written: as an input with the same options would be read.

    Raises UserError for numbers with a unit or a separator that no option declares. Other texts are refused when they are read.
    """
    column = table.column(name)
    if is_number(column) or not is_text(column):
        return Column(name, "number")
    if are_numbers(table, name, options, missing_values):
        return as_number(table, name, str(options.get("thousands", "")), missing_values)
    texts = Texts(column)
    _refuse_formatted(table, name, texts, _present(texts, missing_values), keep="")
    return Column(name, "number")


def refuse_doubtful(
    table: Table, name: str, missing_values: Sequence[str], is_target: bool = False, declared: bool = False
) -> None:
    """Raise UserError for a column of texts that is probably not one of categories; quote the first text."""
    if declared:
        return
    as_dates = is_date(table.column(name))
    column = Texts(table.column(name))
    texts = _present(column, missing_values)
    if is_target:
        _refuse_formatted(table, name, column, texts, ", data.task=classification as classes")
    elif texts:
        _refuse_dates(table, name, column, texts, as_dates)
        _refuse_formatted(table, name, column, texts, f", data.categorical=[{name}] as a text")
        if not all_numbers(table, name, "", missing_values):
            _refuse_one_shape(table, name, column, texts)
    odd = [text for text in texts if plain_number(text) is None]
    if len(texts) <= MAX_CATEGORIES and not 0 < len(odd) < len(texts) / 2:
        return
    first = odd[0] if odd else texts[0]
    place = table.place(column.row_of(column.texts.index(first)))
    fix = "data.task=classification" if is_target else f"data.drop=[{name}], data.ids=[{name}], or list it in data.categorical"
    if len(texts) > MAX_CATEGORIES:
        raise UserError(
            f"{table.name}: column {name!r} holds {len(texts)} different texts, such as {_quoted(first)} in {place}; set {fix}"
        )
    why = f"is not a number, {len(texts) - len(odd)} of {len(texts)} different values are"
    absent_word = f"; if it means a missing value, set data.missing_values=[{first!r}]" if len(first) <= MAX_WORD else ""
    raise UserError(f"{table.name}: column {name!r}, {place}: {_quoted(first)} {why}; correct it, or set {fix}{absent_word}")


def _present(column: Texts, missing_values: Sequence[str]) -> list[str]:
    """Return the different texts of a column that are not missing."""
    absent = {"", *missing_values}
    return [text for text in dict.fromkeys(column.texts) if text not in absent]


def _refuse_dates(table: Table, name: str, column: Texts, texts: list[str], as_dates: bool) -> None:
    if as_dates or all(DATE.fullmatch(text) for text in texts):
        iso = as_dates or texts[0][4:5] == "-"
        declared = f"data.dates=[{name}]" if iso else f"data.dates={{{name}: '%d.%m.%Y'}} (its format)"
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(column.row_of(0))}: {_quoted(texts[0])} is a date;"
            f" {declared} reads it as days since 1970-01-01, data.categorical=[{name}] as a text, data.drop=[{name}] leaves it"
            " out"
        )


def _refuse_formatted(table: Table, name: str, column: Texts, texts: list[str], keep: str) -> None:
    """Raise UserError if all texts are numbers with a separator between thousands, another decimal sign, or the same unit.

    keep: the option that keeps the texts, with a comma before it, for the message; "" if none does.
    """
    if len(texts) < 2:
        return
    decimals = sorted(".,", key=lambda sign: sign != table.decimal)
    for decimal, thousands in ((d, t) for d in decimals for t in SEPARATORS if t != d):
        found = [reader(decimal, thousands)(text) for text in texts]
        units = {value[1] for value in found if value is not None}
        if None in found or len(units) > 1:
            continue
        unit, has_separator = units.pop(), any(thousands in text for text in texts)
        if not unit and not has_separator and decimal == table.decimal:
            return  # plain numbers
        signs = [f"{thousands!r} between thousands"] * has_separator + [f"a decimal {decimal!r}"] * (decimal != table.decimal)
        what = " and ".join([*signs, *([repr(unit)] if unit else [])])
        ways = [f"data.decimal={decimal!r}"] * (decimal != table.decimal)
        ways += [f"data.numeric=[{name}]"] * (bool(unit) or has_separator)
        example = next(text for text in texts if plain_number(text) is None or thousands in text)
        other = ""
        if thousands == "," and not unit and all(reader(",", ".")(text) is not None for text in texts):
            other = ", data.decimal=',' as one with a decimal ','"
        raise UserError(
            f"{_place(table, name, column, example)} is a number with {what}, and all {len(texts)} different values are"
            f" numbers; {' and '.join(ways)} {'reads' if len(ways) == 1 else 'read'} it as a number{other}{keep}"
        )


def _refuse_one_shape(table: Table, name: str, column: Texts, texts: list[str]) -> None:
    """Raise UserError for many texts that differ only in their digits."""
    shapes = {DIGITS.sub("0", text) for text in texts}
    if MAX_OF_A_SHAPE < len(texts) <= MAX_CATEGORIES and len(shapes) <= 2 and all("0" in s and s != "0" for s in shapes):
        raise UserError(
            f"{_place(table, name, column, texts[0])}: the {len(texts)} different texts differ only in their digits, so they"
            f" are probably numbers or ids; correct them, set data.drop=[{name}], or keep them as texts:"
            f" data.categorical=[{name}]"
        )


def _place(table: Table, name: str, column: Texts, text: str) -> str:
    return f"{table.name}: column {name!r}, {table.place(column.row_of(column.texts.index(text)))}: {_quoted(text)}"


def _quoted(text: str) -> str:
    return f"{text[:40]!r}{'...' if len(text) > 40 else ''}"
