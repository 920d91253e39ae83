"""The confusion matrix with the names of its classes, and a picture of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

MAX_CLASSES = 100  # of a matrix that every evaluation keeps: beyond, no one reads it, and it takes memory
NAMED = 40  # classes of a picture with names and numbers
CELL, SMALL_CELL = 46, 8  # pixels of a cell with a number, and without
MAX_NAME = 18  # characters
WHITE, BLACK, BLUE = (255, 255, 255), (0, 0, 0), (8, 69, 148)


@dataclass(frozen=True)
class ConfusionMatrix:
    """counts (r, K, K), float64: the summed weight of the samples of class i (row) that model r predicts as class j (column).

    classes: the K names. Without weights the counts are whole numbers.
    """

    classes: tuple[str, ...]
    counts: Tensor

    def total(self) -> list[list[float]]:
        """Return the counts summed over the models, row by row: of one model, its own."""
        rows: list[list[float]] = self.counts.sum(0).tolist()
        return rows

    def png(self, title: str) -> tuple[bytes, int, int]:
        """Return a picture of the total as PNG, its width and its height: names, numbers, and the share of each row as color.

        Beyond 40 classes there are no names and numbers.
        """
        picture = _drawn(self.classes, self.total(), title if len(self.counts) == 1 else f"{title}, {len(self.counts)} models")
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        return file.getvalue(), *picture.size


def count_text(value: float) -> str:
    """Return a count: `1234`, or of weighted samples `12.5`."""
    return str(int(value)) if value == int(value) else f"{value:.4g}"


def _drawn(classes: tuple[str, ...], rows: list[list[float]], title: str) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    font: Any = ImageFont.load_default(14)
    k, named = len(classes), len(classes) <= NAMED
    widest = max((int(font.getlength(count_text(v))) for row in rows for v in row), default=0)
    cell = max(CELL, widest + 8) if named else SMALL_CELL
    names = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in classes] if named else []
    side = max((int(font.getlength(name)) for name in names), default=0)
    left, top = 34 + side, 62 + side
    picture = Image.new("RGB", (max(left + k * cell, int(font.getlength(title)) + 16) + 12, top + k * cell + 12), WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((8, 6), title, BLACK, font)
    draw.text((left, 30), "predicted", BLACK, font)
    _draw_upward(picture, "true", (6, top), font)
    for i, row in enumerate(rows):
        if named:
            draw.text((left - 8, top + (i + 0.5) * cell), names[i], BLACK, font, anchor="rm")
            _draw_upward(picture, names[i], (left + int((i + 0.5) * cell) - 9, top - 6 - int(font.getlength(names[i]))), font)
        for j, value in enumerate(row):
            share = value / sum(row) if sum(row) else 0.0
            color = tuple(round(w + share * (b - w)) for w, b in zip(WHITE, BLUE, strict=True))
            x, y = left + j * cell, top + i * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), color, (221, 221, 221) if named else None)
            if named:
                middle = (x + cell / 2, y + cell / 2)
                draw.text(middle, count_text(value), WHITE if share > 0.5 else BLACK, font, anchor="mm")
    return picture


def _draw_upward(picture: Image.Image, text: str, at: tuple[int, int], font: Any) -> None:
    """Draw text that reads from bottom to top; `at` is its upper left corner."""
    from PIL import Image, ImageDraw

    flat = Image.new("RGB", (max(1, int(font.getlength(text))), 18), WHITE)
    ImageDraw.Draw(flat).text((0, 0), text, BLACK, font)
    picture.paste(flat.rotate(90, expand=True), at)
