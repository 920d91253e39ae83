"""What all figures share: colors, a grid of panels, titles, a legend below them, and the PNG file."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from trainkit.core.errors import UserError, escape_control

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the palette of Okabe and Ito, which color-blind readers can distinguish; without its yellow, which is too faint on white
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", VERMILLION, "#000000")
GREY = "#555555"
DPI = 110  # a figure is at most 1200 pixels wide, so that a README shows it unscaled
LINE = 0.2  # inches from one row of a legend to the next
SAMPLE = 0.65  # inches of a legend's handle, to the left of its text
Legend = list[tuple[Any, str]]  # handles and their texts


def panels(count: int, widths: Sequence[float], height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels in at most three columns. A panel is widths[columns - 1] by height inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise UserError(
            "figures: matplotlib is missing; pip install 'trainkit[plot]', in a clone pip install -e '.[plot]'"
        ) from error

    columns = {1: 1, 2: 2, 4: 2}.get(count, 3)
    rows = -(-count // columns)
    figure = Figure(
        (widths[columns - 1] * columns, height * rows), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for empty in grid[count:]:
        empty.remove()
    for axes in grid[:count]:
        axes.tick_params(which="both", labelsize=8, colors=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
    return figure, grid[:count]


def label(figure: Figure, x: str, y: str) -> None:
    """Name the axes: y in the first column, x in the lowest panel of each column."""
    for axes in figure.axes:
        place = axes.get_subplotspec()
        assert place is not None
        columns = place.get_gridspec().ncols
        if place.num1 + columns >= len(figure.axes):
            axes.set_xlabel(x, fontsize=9)
        if place.is_first_col():
            axes.set_ylabel(y, fontsize=9)


def title(axes: Axes, name: str, notes: Iterable[str] = ()) -> None:
    """Write the panel's name in bold, and each note in small letters below it."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None
    assert place is not None
    room = figure.get_size_inches()[0] / place.get_gridspec().ncols - 0.5
    bold = wrapped(name, letters(figure, name, room, size=10, weight="bold"))
    small = [line for note in notes if note for line in wrapped(note, letters(figure, note, room, size=8))]
    axes.set_title("\n".join(bold), fontsize=10, fontweight="bold", pad=6 + 11.5 * len(small), parse_math=False)
    axes.annotate(
        "\n".join(small),
        (0.5, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color=GREY,
        linespacing=1.2,
        parse_math=False,
    )


def legend(figure: Figure, entries: Legend) -> None:
    """Draw one legend below all panels, in as many columns as fit. The figure grows by the legend's rows."""
    if not entries:
        return
    width, height = figure.get_size_inches()
    words = [shortened(text, letters(figure, text, width - SAMPLE, size=9)) for _, text in entries]
    widths = [SAMPLE + inches(figure, text, size=9) for text in words]

    def needed(columns: int) -> float:
        rows = -(-len(widths) // columns)
        return sum(max(widths[i : i + rows]) for i in range(0, len(widths), rows))

    columns = next((c for c in range(len(widths), 1, -1) if needed(c) <= width), 1)
    drawn = figure.legend(
        [handle for handle, _ in entries],
        [f"{i}" for i in range(len(words))],  # matplotlib 3.9 leaves out labels that begin with _
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        frameon=False,
        columnspacing=1.5,
        handlelength=2.8,
    )
    for text, content in zip(drawn.get_texts(), words, strict=True):
        text.set(text=content, parse_math=False)
    figure.set_size_inches(width, height + LINE * -(-len(widths) // columns))


def inches(figure: Figure, text: str, **font: Any) -> float:
    """Return the width of a line of text in inches."""
    from matplotlib.font_manager import FontProperties

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        return figure.canvas.get_renderer().get_text_width_height_descent(text, FontProperties(**font), ismath=False)[0] / DPI  # type: ignore[attr-defined]


def letters(figure: Figure, text: str, room: float, **font: Any) -> int:
    """Return how many letters like those of `text` fit into `room` inches."""
    text = escape_control(text)
    return max(8, int(0.97 * room * len(text) / inches(figure, text, **font))) if text else 8


def patch(color: str, alpha: float = 1.0) -> Any:
    """Return a filled rectangle, for a legend."""
    from matplotlib.patches import Patch

    return Patch(facecolor=color, alpha=alpha, linewidth=0)


def shortened(text: str, most: int) -> str:
    """Return `text` in at most `most` letters. If it is longer, its middle is left out."""
    text = escape_control(text)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-((most - 1) // 2) :]}"


def wrapped(text: str, most: int) -> list[str]:
    """Return `text` in about three lines of at most `most` letters. Longer words are broken after a mark such as _ or /."""
    lines = [""]
    for word in shortened(text, 3 * most).split():
        pieces = re.findall(r"(?:[^_/,.-]|[.-](?=\d))+[_/,.-]*|[_/,.-]+", word) if len(word) > most else [word]
        for i, piece in enumerate(p[k : k + most] for p in pieces for k in range(0, len(p), most)):
            longer = f"{lines[-1]} {piece}".strip() if i == 0 else lines[-1] + piece
            if lines[-1] and len(longer) > most:
                lines.append(piece)
            else:
                lines[-1] = longer
    return lines


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG of 256 colors, which is a third as large as one of all colors; without date and version."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks are drawn as boxes
        layout = figure.get_layout_engine()
        assert layout is not None
        layout.execute(figure)  # drawing does it again: panels of a fixed aspect get their size in the first pass
        figure.canvas.draw()
    pixels = bytes(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    image = Image.frombytes("RGBA", figure.canvas.get_width_height(), pixels).convert("RGB")
    file = io.BytesIO()
    nearest = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # keeps the color of a thin line
    nearest.save(file, "PNG", optimize=True)
    return file.getvalue()
