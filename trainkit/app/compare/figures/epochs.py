"""Loss and error over the epochs: the median of the replicas, in a band that holds most of them."""

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

PARTS = {"train": ("train", BLUE, "-"), "val": ("validation", ORANGE, "--"), "test": ("test", GREEN, "-.")}
UNITS = {"loss": "loss, a sample", "error": "error, %"}
STROKES = ("-", "--", "-.", (0, (1, 1.2)))  # of one trial and the next, then again with the next marker
MARKERS = ("", "o", "s", "^", "v", "D")
BAND = 0.18  # opacity
LARGEST = 1e100  # beyond it, positions on paper are no longer numbers


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn: epochs, and of the replicas that are finite the 10 %, 50 % and 90 % quantiles, each (k,).

    NaN where no replica is finite. An error is in percent.
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


def courses(trials: Sequence[Trial], metric: str, log: bool) -> Figure | None:
    """A panel for each trial that knows the metric: its course on train, validation and test."""
    shown = [trial for trial in trials if known(trial, metric)]
    if not shown:
        return None
    figure, places = panels(len(shown), (6.0, 4.2, 3.6), 2.8)
    lines = [{part: Line.of(trial.curves, f"{part}/{metric}") for part in known(trial, metric)} for trial in shown]
    for axes, trial, own in zip(places, shown, lines, strict=True):
        title(axes, trial.name, [lost(trial), *limit(axes, list(own.values()), metric, log)])
    if metric == "error":  # one scale for all panels; losses have none in common
        bottoms, tops = zip(*(axes.get_ylim() for axes in places), strict=True)
        for axes in places:
            axes.set_ylim(min(bottoms), max(tops))
    entries: dict[str, Any] = {}
    for axes, own in zip(places, lines, strict=True):
        for part, line in own.items():
            name, colour, stroke = PARTS[part]
            entries[name] = stretch(axes, line, color=colour, linestyle=stroke)
    label(figure, "epoch", UNITS[metric])
    legend(figure, [(entries[name], name) for name, _, _ in PARTS.values() if name in entries] + band(shown))
    return figure


def against(trials: Sequence[Trial], log: bool) -> Figure | None:
    """Several trials in one panel by their error, and in one beside it by their loss if it is the same for all."""
    metrics = ["error", "loss"] if len({trial.loss for trial in trials}) == 1 else ["error"]
    shown = {metric: [trial for trial in trials if known(trial, metric)] for metric in metrics}
    metrics = [metric for metric in metrics if len(shown[metric]) > 1]
    if not metrics:
        return None
    figure, places = panels(len(metrics), (7.5, 5.0), 3.4)
    entries: dict[int, tuple[Any, str]] = {}
    for metric, axes in zip(metrics, places, strict=True):
        part = next((p for p in ("test", "val") if all(p in known(trial, metric) for trial in shown[metric])), "train")
        chosen = [(i, trial) for i, trial in enumerate(trials) if part in known(trial, metric)]
        lines = [Line.of(trial.curves, f"{part}/{metric}") for _, trial in chosen]
        title(axes, f"{PARTS[part][0]} {metric}", limit(axes, lines, metric, log))
        for (i, trial), line in zip(chosen, lines, strict=True):
            look = {"color": PALETTE[i % len(PALETTE)], "linestyle": STROKES[i % len(STROKES)], "markersize": 4}
            marker, every = MARKERS[i // len(STROKES) % len(MARKERS)], max(1, len(line.middle) // 8)
            ends = lost(trial)
            entries[i] = (
                stretch(axes, line, marker=marker, markevery=every, **look),
                trial.name + (f" ({ends})" if ends else ""),
            )
        axes.set_xlabel("epoch", fontsize=9)
        axes.set_ylabel(UNITS[metric], fontsize=9)
    legend(figure, [entries[i] for i in sorted(entries)] + band(trials))
    return figure


def known(trial: Trial, metric: str) -> list[str]:
    """The parts of the data that the trial has a curve of `metric` on."""
    return [part for part in PARTS if trial.curves.values.get(f"{part}/{metric}")]


def lost(trial: Trial) -> str:
    """How many replicas end with a loss or an error that is no finite number."""
    last = torch.tensor([values[-1] for values in trial.curves.values.values() if values], dtype=torch.float64)
    ends = int((~last.isfinite()).any(0).sum())
    if not ends:
        return ""
    return "not finite at the end" if last.shape[1] == 1 else f"{ends} of {last.shape[1]} replicas not finite at the end"


def band(trials: Sequence[Trial]) -> Legend:
    """The legend's word for the band, if there is one."""
    several = any(len(values[0]) > 1 for trial in trials for values in trial.curves.values.values())
    return [(patch(GREY, 2 * BAND), "10 % to 90 % of the replicas")] if several else []


def limit(axes: Axes, lines: Sequence[Line], metric: str, log: bool) -> list[str]:
    """Set scale and limits for the lines. Returns what has to be said of them."""
    axes.set_xlim(0, max(1.0, *(float(line.epochs[-1]) for line in lines)))
    axes.locator_params("x", integer=True)
    finite = torch.cat([edge for line in lines for edge in (line.low, line.middle, line.high)])
    finite = finite[finite.isfinite()]
    drawn = finite[finite > 0] if log else finite
    top = horizon(lines, log) if metric == "loss" else LARGEST
    kept = drawn[(drawn <= top) & (drawn >= -LARGEST)]
    low, high = (float(kept.min()), float(kept.max())) if len(kept) else (0.1, 1.0)
    if log:
        low = max(low, high * 1e-12)
        margin = max((high / low) ** 0.05, (4 * low / high) ** 0.5)  # at least a factor of four in all
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_minor_formatter(lambda value, _: between(value, *axes.get_ylim()))
        axes.set_ylim(low / margin, high * margin)
    else:
        low = min(0.0, low)
        axes.set_ylim(low, high + (0.05 * (high - low) or 1.0))
    axes.yaxis.set_major_formatter("{x:g}")  # 2e-05 at each tick, without a factor in a corner
    notes = []
    if not len(finite):
        notes.append("no finite number")
    if len(drawn) < len(finite):
        notes.append("0 lies below the axis")
    if (drawn > top).any():
        notes.append(f"cut off above: up to {float(drawn.max()):.2g}")
    return notes


def between(value: float, low: float, high: float) -> str:
    """What to write at a tick between two powers of ten, on an axis too short to be read off by those alone."""
    return f"{value:g}" if f"{value:e}"[0] in ("23456789" if high < 8 * low else "235" if high < 80 * low else "") else ""


def horizon(lines: Sequence[Line], log: bool) -> float:
    """The largest loss to show, so that no outburst hides the rest.

    It is three times the untrained nets' loss, on a logarithmic axis a thousand times. If theirs is the outburst, more than a
    hundred times what nine tenths of the medians stay below, it is twice the latter.
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


def stretch(axes: Axes, line: Line, **look: Any) -> Any:
    """The median, and the band where there are replicas, kept near the axes: far outside, polygons are not drawn well."""
    low, high = axes.get_ylim()
    room = (low / 10, high * 10) if axes.get_yscale() == "log" else (2 * low - high, 2 * high - low)
    under, middle, over = (v.clamp(*room).numpy() for v in (line.low, line.middle, line.high))
    if int(line.middle.isfinite().sum()) == 1:
        look |= {"marker": "o", "markersize": 4}  # a line of one point is none
    if line.replicas > 1:
        axes.fill_between(line.epochs.numpy(), under, over, color=look["color"], alpha=BAND, linewidth=0)
    return axes.plot(line.epochs.numpy(), middle, linewidth=1.5, **look)[0]
