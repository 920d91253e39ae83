"""Tables of text for the terminal: columns as wide as their widest cell, two spaces apart."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def text_table(rows: Iterable[Sequence[str]], right: Collection[int] = (), indent: str = "") -> list[str]:
    """Return a line per row. All rows have the same number of cells.

    right: the columns, from 0, that are aligned on the right. indent: the beginning of each line.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent
        + "  ".join(f"{c:{'>' if i in right else '<'}{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
