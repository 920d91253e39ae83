"""Columns of texts as features or codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainkit.core import terminal
from trainkit.core.errors import UserError, suggest
from trainkit.core.validation import short_repr

from .base import Table
from .numbers import Texts, plain_number
from .reading import Reading
from .schema import Column, Schema

_told: set[str] = set()  # columns of rows given in Python of which a line has said that a value is unknown


def categories(table: Table, column: Column, schema: Schema, now: Reading, into: Tensor) -> tuple[Tensor, str]:
    """Write a column of categories as 0/1 features or as codes; return which are missing (n,), and the word that says so."""
    known = column.categories
    follows = schema.encode == "onehot" or schema.has_other_code
    cure = " (data.unknown=ignore reads the file)" if follows else "; train with data.unknown=ignore, which gives it a code"
    code, words = codes(table, column.name, known, now, now.unknown == "refuse", cure)
    absent, unknown = code == -1, code == -2
    if unknown.any():
        _tell_unknown(table, column, schema, unknown)
    if schema.encode == "codes":
        other = float(len(known))
        if not schema.has_other_code:
            if now.missing != "most_frequent" and now.missing != "refuse" and absent.any():
                raise UserError(_no_code(table, column, absent, "a missing value"))
            if unknown.any():
                raise UserError(_no_code(table, column, unknown, "an unknown category"))
        into[:, 0] = code
        into[:, 0][absent] = float("nan") if now.missing == "most_frequent" else other
        into[:, 0][unknown] = other
        return absent, words
    if schema.unknown == "column":
        code = torch.where(unknown, len(known), code)
    present = (code >= 0).nonzero()[:, 0]
    into[present, code[present]] = 1.0
    if now.missing == "most_frequent":
        into[absent] = float("nan")  # the normalizer fills all features of the column together
    return absent, words


def _no_code(table: Table, column: Column, where: Tensor, what: str) -> str:
    row = int(where.nonzero()[0, 0])
    return (
        f"{table.name}: column {column.name!r}, {table.place(row)}: {what} ({int(where.sum())} in total), for which the model"
        " has no code; correct it, or train with data.unknown=column"
    )


def _tell_unknown(table: Table, column: Column, schema: Schema, unknown: Tensor) -> None:
    if not table.is_file:  # a service asks again and again
        if column.name in _told:
            return
        _told.add(column.name)
    row, count = int(unknown.nonzero()[0, 0]), int(unknown.sum())
    texts = Texts(table.column(column.name))
    place = f"{short_repr(texts.texts[int(texts.code[row])])} in {table.place(row)}"
    values = "1 value was not seen in training" if count == 1 else f"{count} values were not seen in training, the first"
    own = f"taken as the {'feature' if schema.encode == 'onehot' else 'code'} for unknown values"
    what = own if schema.unknown == "column" or schema.encode == "codes" else "taken as no category (data.unknown=ignore)"
    terminal.print_stderr(f"{table.name}: column {column.name!r}: {values}, {place}; {what}")


def codes(table: Table, name: str, known: Sequence[str], now: Reading, refuse: bool, cure: str = "") -> tuple[Tensor, str]:
    """Return (n,) int64: the index in `known`, -1 for missing, -2 for unknown, which is refused if `refuse`; and the first word
    other than the empty text that counts as missing."""
    column = Texts(table.column(name))
    index: dict[object, int] = {text: i for i, text in enumerate(known)}
    by_value = [plain_number(text) for text in known]
    if known and None not in by_value:
        index |= {value: i for i, value in enumerate(by_value)}
    absent = {"", *now.missing_values}
    codes = [-1 if text in absent else index.get(text, index.get(plain_number(text), -2)) for text in column.texts]
    code = column.map(codes, torch.long)
    if refuse and -2 in codes and (wrong := code == -2).any():
        row = int(wrong.nonzero()[0, 0])
        text = column.texts[int(column.code[row])]
        raise UserError(
            f"{table.name}: column {name!r}, {table.place(row)}: {short_repr(text)} ({int(wrong.sum())} in total)"
            f" is in no training row{cure}{suggest(text, known)}"
        )
    return code, next((text for text in column.texts if text and text in absent), "")
