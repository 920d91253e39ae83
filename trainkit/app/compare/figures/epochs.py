"""Loss and error over the epochs: the median of the replicas, with a band from their 10 % to their 90 % quantile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.app.compare.trial import Curves, Trial

from .panel import BLUE, GREEN, GREY, ORANGE, PALETTE, Legend, label, legend, panels, patch, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {"train": ("train", BLUE, "-"), "val": ("validation", ORANGE, "--"), "test": ("test", GREEN, "-.")}
UNITS = {"loss": "loss per sample", "error": "error, %"}
STROKES = ("-", "--", "-.", (0, (1, 1.2)))  # one per trial; after the last one, the first again with the next marker
MARKERS = ("", "o", "s", "^", "v", "D")
BAND = 0.18  # opacity
LARGEST = 1e100  # beyond it, the positions in a figure overflow


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn: epochs, and the 10 %, 50 % and 90 % quantiles over the finite replicas, each (k,).

    A quantile is NaN if no replica is finite. An error is in percent.
    """

    epochs: Tensor
    low: Tensor
    middle: Tensor
    high: Tensor
    replicas: int

    @classmethod
    def of(cls, curves: Curves, name: str) -> Line:
        values = torch.tensor(curves.values[name], dtype=torch.float64) * (100 if name.endswith("/error") else 1)
        finite = torch.where(values.isfinite(), values, torch.nan)
        low, middle, high = finite.nanquantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), dim=1)
        return cls(torch.tensor(curves.epochs, dtype=torch.float64), low, middle, high, values.shape[1])


def metric_curves(trials: Sequence[Trial], metric: str, log: bool) -> Figure | None:
    """Draw a panel per trial that has the metric: its curves on train, validation and test data."""
    shown = [trial for trial in trials if splits_with(trial, metric)]
    if not shown:
        return None
    figure, places = panels(len(shown), (6.0, 4.2, 3.6), 2.8)
    lines = [{split: Line.of(trial.curves, f"{split}/{metric}") for split in splits_with(trial, metric)} for trial in shown]
    for axes, trial, own in zip(places, shown, lines, strict=True):
        title(axes, trial.name, [nonfinite_note(trial), *set_limits(axes, list(own.values()), metric, log)])
    if metric == "error":  # one scale for all panels; losses may have different ones
        bottoms, tops = zip(*(axes.get_ylim() for axes in places), strict=True)
        for axes in places:
            axes.set_ylim(min(bottoms), max(tops))
    entries: dict[str, Any] = {}
    for axes, own in zip(places, lines, strict=True):
        for split, line in own.items():
            name, color, stroke = STYLES[split]
            entries[name] = draw_line(axes, line, color=color, linestyle=stroke)
    label(figure, "epoch", UNITS[metric])
    legend(figure, [(entries[name], name) for name, _, _ in STYLES.values() if name in entries] + band_entry(shown))
    return figure


def compare_curves(trials: Sequence[Trial], log: bool) -> Figure | None:
    """Draw the errors of several trials in one panel, and their losses in a second one if all have the same loss."""
    metrics = ["error", "loss"] if len({trial.loss for trial in trials}) == 1 else ["error"]
    shown = {metric: [trial for trial in trials if splits_with(trial, metric)] for metric in metrics}
    metrics = [metric for metric in metrics if len(shown[metric]) > 1]
    if not metrics:
        return None
    figure, places = panels(len(metrics), (7.5, 5.0), 3.4)
    entries: dict[int, tuple[Any, str]] = {}
    for metric, axes in zip(metrics, places, strict=True):
        split = next((p for p in ("test", "val") if all(p in splits_with(trial, metric) for trial in shown[metric])), "train")
        chosen = [(i, trial) for i, trial in enumerate(trials) if split in splits_with(trial, metric)]
        lines = [Line.of(trial.curves, f"{split}/{metric}") for _, trial in chosen]
        title(axes, f"{STYLES[split][0]} {metric}", set_limits(axes, lines, metric, log))
        for (i, trial), line in zip(chosen, lines, strict=True):
            style = {"color": PALETTE[i % len(PALETTE)], "linestyle": STROKES[i % len(STROKES)], "markersize": 4}
            marker, every = MARKERS[i // len(STROKES) % len(MARKERS)], max(1, len(line.middle) // 8)
            note = nonfinite_note(trial)
            entries[i] = (
                draw_line(axes, line, marker=marker, markevery=every, **style),
                trial.name + (f" ({note})" if note else ""),
            )
        axes.set_xlabel("epoch", fontsize=9)
        axes.set_ylabel(UNITS[metric], fontsize=9)
    legend(figure, [entries[i] for i in sorted(entries)] + band_entry(trials))
    return figure


def splits_with(trial: Trial, metric: str) -> list[str]:
    """Return the splits on which the trial has a curve of `metric`."""
    return [split for split in STYLES if trial.curves.values.get(f"{split}/{metric}")]


def nonfinite_note(trial: Trial) -> str:
    """Return how many replicas end with a non-finite loss or error, as a note, or an empty text."""
    last = torch.tensor([values[-1] for values in trial.curves.values.values() if values], dtype=torch.float64)
    ends = int((~last.isfinite()).any(0).sum())
    if not ends:
        return ""
    return "not finite at the end" if last.shape[1] == 1 else f"{ends} of {last.shape[1]} replicas not finite at the end"


def band_entry(trials: Sequence[Trial]) -> Legend:
    """Return the legend's entry for the band, if there is one."""
    several = any(len(values[0]) > 1 for trial in trials for values in trial.curves.values.values())
    return [(patch(GREY, 2 * BAND), "10 % to 90 % of the replicas")] if several else []


def set_limits(axes: Axes, lines: Sequence[Line], metric: str, log: bool) -> list[str]:
    """Set scale and limits for the lines, and return notes on values outside them."""
    axes.set_xlim(0, max(1.0, *(float(line.epochs[-1]) for line in lines)))
    axes.locator_params("x", integer=True)
    finite = torch.cat([edge for line in lines for edge in (line.low, line.middle, line.high)])
    finite = finite[finite.isfinite()]
    drawn = finite[finite > 0] if log else finite
    top = largest_shown(lines, log) if metric == "loss" else LARGEST
    visible = drawn[(drawn <= top) & (drawn >= -LARGEST)]
    low, high = (float(visible.min()), float(visible.max())) if len(visible) else (0.1, 1.0)
    if log:
        low = max(low, high * 1e-12)
        margin = max((high / low) ** 0.05, (4 * low / high) ** 0.5)  # at least a factor of four in all
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_minor_formatter(lambda value, _: minor_tick(value, *axes.get_ylim()))
        axes.set_ylim(low / margin, high * margin)
    else:
        low = min(0.0, low)
        axes.set_ylim(low, high + (0.05 * (high - low) or 1.0))
    axes.yaxis.set_major_formatter("{x:g}")  # 2e-05 at each tick, in place of a factor in the corner
    notes = []
    if not len(finite):
        notes.append("no finite number")
    if len(drawn) < len(finite):
        notes.append("0 is below the axis")
    if (drawn > top).any():
        notes.append(f"cut off above: up to {float(drawn.max()):.2g}")
    return notes


def minor_tick(value: float, low: float, high: float) -> str:
    """Return the label of a tick between two powers of ten, or an empty text if the axis spans enough of those."""
    return f"{value:g}" if f"{value:e}"[0] in ("23456789" if high < 8 * low else "235" if high < 80 * low else "") else ""


def largest_shown(lines: Sequence[Line], log: bool) -> float:
    """Return the largest loss to show, so that an outlier does not hide the rest.

    It is three times the untrained nets' loss, on a logarithmic axis a thousand times. If that loss is itself an outlier, more
    than a hundred times the 90 % quantile of the medians, it is twice this quantile.
    """
    medians = [line.middle[line.middle.isfinite()] for line in lines]
    untrained = max((float(m[0]) for m in medians if len(m)), default=0.0)
    if untrained <= 0:
        return LARGEST
    if log:
        return min(1000 * untrained, LARGEST)
    middle = torch.cat(medians)
    usual = float(middle[middle <= 3 * untrained].quantile(0.9))
    return 2 * usual if untrained > 100 * usual > 0 else min(3 * untrained, LARGEST)


def draw_line(axes: Axes, line: Line, **style: Any) -> Any:
    """Draw the median, and the band if there are replicas, clamped near the axes: far outside, polygons are distorted."""
    low, high = axes.get_ylim()
    bounds = (low / 10, high * 10) if axes.get_yscale() == "log" else (2 * low - high, 2 * high - low)
    under, middle, over = (v.clamp(*bounds).numpy() for v in (line.low, line.middle, line.high))
    if int(line.middle.isfinite().sum()) == 1:
        style |= {"marker": "o", "markersize": 4}  # a line of one point would be invisible
    if line.replicas > 1:
        axes.fill_between(line.epochs.numpy(), under, over, color=style["color"], alpha=BAND, linewidth=0)
    return axes.plot(line.epochs.numpy(), middle, linewidth=1.5, **style)[0]
