"""Nets with two inputs: the samples, the classes predicted over the plane, and the misclassified samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.app.compare.decision_regions import DecisionRegions
from trainkit.app.compare.trial import Trial
from trainkit.data.dataset import Split

from .panel import BLUE, GREEN, GREY, ORANGE, PALETTE, VERMILLION, label, legend, panels, patch, shortened, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHAPES = "o^sDvP"  # one per class
MAX_POINTS = 2000  # samples drawn per split: more would only cover each other
SIZES = (4.2, 3.9, 3.4)
Planes = Sequence[tuple[Trial, DecisionRegions]]


def samples(planes: Planes) -> dict[str, Figure]:
    """Draw the training samples by class, once per data set: `data`, or `data-NAME` by its first trial if there are several."""
    sets: list[list[tuple[Trial, DecisionRegions]]] = []
    for trial, plane in planes:
        for members in sets:
            if same(members[0][1].train, plane.train):
                members.append((trial, plane))
                break
        else:
            sets.append([(trial, plane)])
    figures: dict[str, Figure] = {}
    for members in sets:
        first, plane = members[0]
        figure, (axes,) = panels(1, SIZES, 4.2)
        entries: dict[str, Any] = {}
        x, classes = plane.train.x[:MAX_POINTS], labels(plane.train)[:MAX_POINTS]
        for i, name in enumerate(plane.classes):
            entries[name] = dots(axes, x[classes == i], class_color(i), SHAPES[i % len(SHAPES)], 14)
        frame(axes, plane, entries, 0.02)
        names = [trial.name for trial, _ in members]
        owners = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if len(sets) > 1 else ""
        title(axes, f"{len(plane.train)} training samples", [owners, left_out(plane.train)])
        label(figure, "x₁", "x₂")
        legend(figure, [(handle, name) for name, handle in entries.items()])
        name = "data" if len(sets) == 1 else "data-" + re.sub(r"[^\w.=-]+", "-", first.name)[:60]
        figures[f"{name}-{len(figures) + 1}" if name in figures else name] = figure
    return figures


def regions(planes: Planes) -> Figure | None:
    """Draw a panel per trial: the share of its replicas that predict the second of two classes, or the most frequent class."""
    if not planes:
        return None
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    ramp = LinearSegmentedColormap.from_list("shares", [BLUE, "#F7F7F7", ORANGE], 33)
    figure, places = panels(len(planes), SIZES, 3.4)
    entries: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    for (trial, plane), axes in zip(planes, places, strict=True):
        count = len(plane.classes)
        graded = count == 2 and replicas(trial) > 1
        class_shares = plane.class_shares.cpu()
        shown = class_shares[1] if graded else class_shares.argmax(0)
        colors = ramp if graded else ListedColormap([pale(class_color(i)) for i in range(count)])
        (left, right), (bottom, top) = sides(plane)
        half_x = (right - left) / (len(plane.x) - 1) / 2  # a point of the grid is the center of a cell
        half_y = (top - bottom) / (len(plane.y) - 1) / 2
        image = axes.imshow(
            shown.numpy(),
            cmap=colors,
            vmin=0,
            vmax=max(1, count - 1),
            origin="lower",
            interpolation="nearest",  # other interpolations would use up the 256 colors of the file
            extent=(left - half_x, right + half_x, bottom - half_y, top + half_y),
        )
        if graded:
            shares[plane.classes[1]] = image
        else:
            entries |= {name: patch(pale(class_color(i))) for i, name in enumerate(plane.classes)}
        frame(axes, plane, entries)
        title(axes, trial.name, ["" if graded or replicas(trial) == 1 else "what most replicas predict"])
    label(figure, "x₁", "x₂")
    if shares:
        bar = figure.colorbar(next(iter(shares.values())), ax=places, shrink=0.8, aspect=30, pad=0.02)
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0 %", "25 %", "50 %", "75 %", "100 %"])
        bar.ax.tick_params(labelsize=8, colors=GREY)
        names = " or ".join(shortened(name, 24) for name in shares)
        bar.set_label(f"share of the replicas\nthat predict {names}", size=9, parse_math=False)
    legend(figure, [(handle, name) for name, handle in entries.items()])
    return figure


def predictions(planes: Planes) -> Figure | None:
    """Draw a panel per trial: the test samples that its median replica classifies right, and those it classifies wrong."""
    if not planes:
        return None
    figure, places = panels(len(planes), SIZES, 3.7)
    entries: dict[str, Any] = {}
    for (trial, plane), axes in zip(planes, places, strict=True):
        wrong = plane.predicted.cpu() != labels(plane.test)
        x, missed = plane.test.x[:MAX_POINTS], wrong[:MAX_POINTS]
        entries["right"] = dots(axes, x[~missed], GREEN, "o", 6)
        entries["wrong"] = dots(axes, x[missed], VERMILLION, "X", 32 if missed.double().mean() < 0.2 else 16)
        frame(axes, plane, entries, 0.02)
        of = " training samples" if plane.test is plane.train else ""  # the data has no test split
        which = f" (replica {plane.shown}, the median)" if replicas(trial) > 1 else ""
        title(axes, trial.name, [f"{int(wrong.sum())} of {len(wrong)}{of} wrong{which}", left_out(plane.test)])
    label(figure, "x₁", "x₂")
    legend(figure, [(handle, name) for name, handle in entries.items()])
    return figure


def same(a: Split, b: Split) -> bool:
    """Return whether two splits hold the same samples with the same classes."""
    x = [split.x[:].cpu().double().nan_to_num() for split in (a, b)]
    return torch.equal(*x) and torch.equal(labels(a), labels(b))


def labels(split: Split) -> Tensor:
    """Return the class of each sample. The data of a plane always has classes."""
    assert split.label is not None
    return split.label.cpu()


def replicas(trial: Trial) -> int:
    return trial.outcomes[0].models


def class_color(i: int) -> str:
    return PALETTE[i % len(PALETTE)]


def pale(color: str) -> str:
    """Return a color half way to white, so that a black line is visible on it."""
    return "#" + "".join(f"{(int(color[i : i + 2], 16) + 255) // 2:02X}" for i in (1, 3, 5))


def left_out(split: Split) -> str:
    return f"the first {MAX_POINTS} are drawn" if len(split) > MAX_POINTS else ""


def sides(plane: DecisionRegions) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the limits of the grid: left and right, bottom and top. A grid of no width gets half a unit on each side."""
    (left, right), (bottom, top) = ((float(axis[0]), float(axis[-1])) for axis in (plane.x, plane.y))
    x = (left, right) if right > left else (left - 0.5, left + 0.5)
    return x, (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5)


def dots(axes: Axes, x: Tensor, color: str, shape: str, size: float) -> Any:
    """Draw samples, with one marker per sample."""
    x = x.cpu().double()
    return axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=size, c=color, marker=shape, linewidths=0)


def frame(axes: Axes, plane: DecisionRegions, entries: dict[str, Any], margin: float = 0.0) -> None:
    """Draw the true boundary, if it is known, and set the limits. The axes share a unit unless the plane is too narrow."""
    if plane.boundary is not None:
        x, y = plane.boundary.cpu().double().unbind(1)
        (entries["true boundary"],) = axes.plot(x.numpy(), y.numpy(), color="black", linestyle="--", linewidth=1.3)
    (left, right), (bottom, top) = sides(plane)
    dx, dy = margin * (right - left), margin * (top - bottom)
    axes.set(xlim=(left - dx, right + dx), ylim=(bottom - dy, top + dy))
    axes.set_aspect("equal" if 0.25 <= (right - left) / (top - bottom) <= 4 else "auto")
