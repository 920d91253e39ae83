"""Columns of a table as numbers: plain ones, texts such as "61,593" or "61.6 kg", and dates."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr
from trainkit.data.split import ISO_DATE, days

from .base import Table
from .schema import Column

DAY = 86_400_000_000  # microseconds
DAY_OF_A_YEAR = r"(?:\d{4}([./-])\d{1,2}\1\d{1,2}|\d{1,2}([./-])\d{1,2}\2\d{4})"
DATE = re.compile(DAY_OF_A_YEAR + r"([ T]+\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[-+]\d{2}:?\d{2})?)?")
FORMATS = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%Y.%m.%d")  # that an error may advise
CURRENCY = "$€£¥₹"
SEPARATORS = (",", ".", " ", "'", "’", "\u00a0", "\u202f", "_")  # between thousands


class Texts:
    """A column of any type as texts, a whole number as 1, a truth value as true or false; and each row's index of its text.

    texts: the different ones, without blanks around them. The last is "", which rows without a value have.
    """

    def __init__(self, column: Any) -> None:
        import pyarrow as pa

        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        self._column = column.unify_dictionaries()
        words = self._column.chunk(0).dictionary if column.num_chunks else pa.array([], pa.string())
        words = words if pa.types.is_string(words.type) else words.cast(pa.string())
        self.texts = [*("" if text is None else text.strip() for text in words.to_pylist()), ""]

    @cached_property
    def code(self) -> Tensor:
        """(n,) int32, since a column may be large: the index of each row's text."""
        import pyarrow as pa

        code = torch.empty(len(self._column), dtype=torch.int32)
        at = 0
        for chunk in self._column.chunks:
            index = chunk.indices if chunk.indices.type == pa.int32() else chunk.indices.cast(pa.int32())
            index = index.fill_null(len(self.texts) - 1) if index.null_count else index
            code[at : at + len(index)] = from_dlpack(index)
            at += len(index)
        return code

    def row_of(self, index: int) -> int:
        """Return the first row of the text at `index`; 0 if no row has it."""
        rows = (self.code == index).nonzero()
        return int(rows[0, 0]) if len(rows) else 0

    def map(self, values: Sequence[int | float], dtype: torch.dtype) -> Tensor:
        """Return (n,) with the value of each row's text."""
        return torch.tensor(values, dtype=dtype).index_select(0, self.code)


def is_number(column: Any) -> bool:
    """Return whether Arrow has numbers in the column; a column without any value counts too."""
    import pyarrow as pa

    kind = column.type
    return bool(pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_date(column: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(column.type) or pa.types.is_date(column.type))


def is_text(column: Any) -> bool:
    """Return whether the column can be read as texts: no lists, structures or bytes."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view")


def numbers(
    table: Table,
    column: Column,
    missing_values: Sequence[str],
    into: Tensor,
    truth: bool = False,
    fix: str = "correct it",
) -> None:
    """Write a column into (n,) float64, with NaN for missing. Raises UserError for a text that is not a number.

    truth: whether the texts true and false are 1 and 0. fix: what the error advises.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    name, affix = column.name, column.affix
    values = table.column(name)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if is_number(values):
        at = 0
        for chunk in values.chunks:  # one after the other, since a column may be large
            number = from_dlpack(pc.fill_null(pc.cast(chunk, pa.float64(), safe=False), float("nan")))
            into[at : at + len(number)] = number
            at += len(number)
        return
    if not (is_text(values) or pa.types.is_dictionary(values.type)):
        raise UserError(f"{table.name}: column {name!r} holds {values.type}, not numbers; {fix}")
    read = reader(table.decimal, column.thousands)

    def value(text: str) -> float | None:
        if truth and text.lower() in ("true", "false"):
            return float(text.lower() == "true")
        if (found := read(text)) is None or found[1] not in ("", affix):
            return None
        return found[0]

    unit = f" with the unit {affix!r}" if affix else ""
    _convert(table, name, Texts(values), value, missing_values, into, lambda _: f"is not a number{unit}; {fix}")


def dates(table: Table, name: str, form: str, missing_values: Sequence[str], into: Tensor) -> None:
    """Write a column into (n,) float64 as days since 1970-01-01 (UTC), with NaN for missing.

    form: as for strptime; "" is ISO 8601. A time without a zone counts as UTC. Raises UserError for a text that is not a date.
    """
    import pyarrow as pa

    column = table.column(name)
    if is_date(column):  # of a frame or Parquet: the type is the format
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("us"))
        # cast to us drops the digits below, which a float64 of days does not hold
        number = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        texts = number.cast(pa.float64(), safe=False).fill_null(float("nan")).combine_chunks()
        into.copy_(from_dlpack(_contiguous(texts)) / DAY)
        return

    def fix(text: str) -> str:
        fitting = next((f for f in ("iso", *FORMATS) if days(text, "" if f == "iso" else f) is not None), "")
        how = f"data.dates={{{name}: {fitting!r}}}" if fitting else f"data.dates={{{name}: FORMAT}}, as for strptime"
        return f"is not {f'a date as {form}' if form else ISO_DATE}; correct it, or give its format: {how}"

    _convert(table, name, Texts(column), partial(days, form=form), missing_values, into, fix)


def refuse_nonfinite(table: Table, name: str, values: Tensor, fix: str) -> None:
    where = values.isinf().nonzero()[:, 0]
    if len(where):
        row = int(where[0])
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(row)}: {float(values[row])} is not finite"
            f" ({len(where)} in total); correct it, {fix}"
        )


def _convert(
    table: Table,
    name: str,
    column: Texts,
    value: Callable[[str], float | None],
    missing_values: Sequence[str],
    into: Tensor,
    fix: Callable[[str], str],
) -> None:
    absent = {"", *missing_values}
    values = [float("nan") if text in absent else value(text) for text in column.texts]
    if None in values:
        row, i = min((column.row_of(i), i) for i, v in enumerate(values) if v is None and (column.code == i).any())
        text = column.texts[i]
        raise UserError(f"{table.name}: column {name!r}, {table.place(row)}: {short_repr(text)} {fix(text)}")
    into.copy_(column.map(values, torch.float64))  # type: ignore[arg-type]


def _contiguous(array: Any) -> Any:
    import pyarrow as pa

    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


@cache
def reader(decimal: str, thousands: str) -> Callable[[str], tuple[float, str] | None]:
    """Return the function that reads "-61,593.5 kg" as (-61593.5, "kg"), and any text that is not a number as None."""
    d, t = re.escape(decimal), re.escape(thousands)
    whole = rf"(?:\d{{1,3}}(?:{t}\d{{3}})+|\d+)" if thousands else r"\d+"
    number = rf"(?:{whole}(?:{d}\d*)?|{d}\d+)(?:[eE][-+]?\d+)?"
    unit = rf"(?:[%‰°]|[{CURRENCY}]|°?[^\W\d_]{{1,12}}[²³23]?(?:/[^\W\d_]{{1,12}}[²³23]?)?)"
    pattern = re.compile(rf"([-−+]?)\s*([{CURRENCY}]?)\s*([-−+]?)({number})\s*({unit}?)")
    special = re.compile(r"[-+]?(inf|infinity|nan)", re.IGNORECASE)

    def read(text: str) -> tuple[float, str] | None:
        if special.fullmatch(text):
            return float(text), ""
        found = pattern.fullmatch(text)
        if found is None or (found[1] and found[3]) or (found[2] and found[5]):
            return None
        plain = found[4].replace(thousands, "") if thousands else found[4]
        sign = -1.0 if found[1] in ("-", "−") or found[3] in ("-", "−") else 1.0
        return sign * float(plain.replace(decimal, ".")), found[2] or found[5]

    return read


def plain_number(text: str) -> float | None:
    """Return the value of a number such as -1.5e3, or None."""
    try:
        return None if "_" in text else float(text)  # only Python reads 1_000 as a number
    except ValueError:
        return None
