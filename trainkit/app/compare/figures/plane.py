"""Nets of two inputs: the samples, where the nets answer what, and which samples they get wrong."""

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

SHAPES = "o^sDvP"  # of one class and the next
MAX_POINTS = 2000  # samples drawn of a part: more only cover each other
SIZES = (4.2, 3.9, 3.4)
Planes = Sequence[tuple[Trial, DecisionRegions]]


def samples(planes: Planes) -> dict[str, Figure]:
    """The training samples by class, once for each data set: `data`, or `data-NAME` by its first trial if there are several."""
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
            entries[name] = dots(axes, x[classes == i], colour(i), SHAPES[i % len(SHAPES)], 14)
        frame(axes, plane, entries, 0.02)
        names = [trial.name for trial, _ in members]
        whose = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if len(sets) > 1 else ""
        title(axes, f"{len(plane.train)} training samples", [whose, left_out(plane.train)])
        label(figure, "x₁", "x₂")
        legend(figure, [(handle, name) for name, handle in entries.items()])
        name = "data" if len(sets) == 1 else "data-" + re.sub(r"[^\w.=-]+", "-", first.name)[:60]
        figures[f"{name}-{len(figures) + 1}" if name in figures else name] = figure
    return figures


def regions(planes: Planes) -> Figure | None:
    """A panel a trial: the share of its replicas that answers the second of two classes; of more classes, the most voted."""
    if not planes:
        return None
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    ramp = LinearSegmentedColormap.from_list("answers", [BLUE, "#F7F7F7", ORANGE], 33)
    figure, places = panels(len(planes), SIZES, 3.4)
    entries: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    for (trial, plane), axes in zip(planes, places, strict=True):
        count = len(plane.classes)
        graded = count == 2 and replicas(trial) > 1
        class_shares = plane.class_shares.cpu()
        seen = class_shares[1] if graded else class_shares.argmax(0)
        colours = ramp if graded else ListedColormap([pale(colour(i)) for i in range(count)])
        (left, right), (bottom, top) = sides(plane)
        half_x = (right - left) / (len(plane.x) - 1) / 2  # a point of the grid is the middle of a cell
        half_y = (top - bottom) / (len(plane.y) - 1) / 2
        image = axes.imshow(
            seen.numpy(),
            cmap=colours,
            vmin=0,
            vmax=max(1, count - 1),
            origin="lower",
            interpolation="nearest",  # blends would spend the few colours of the file
            extent=(left - half_x, right + half_x, bottom - half_y, top + half_y),
        )
        if graded:
            shares[plane.classes[1]] = image
        else:
            entries |= {name: patch(pale(colour(i))) for i, name in enumerate(plane.classes)}
        frame(axes, plane, entries)
        title(axes, trial.name, ["" if graded or replicas(trial) == 1 else "what most replicas answer"])
    label(figure, "x₁", "x₂")
    if shares:
        bar = figure.colorbar(next(iter(shares.values())), ax=places, shrink=0.8, aspect=30, pad=0.02)
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0 %", "25 %", "50 %", "75 %", "100 %"])
        bar.ax.tick_params(labelsize=8, colors=GREY)
        said = " or ".join(shortened(name, 24) for name in shares)
        bar.set_label(f"share of the replicas\nthat say {said}", size=9, parse_math=False)
    legend(figure, [(handle, name) for name, handle in entries.items()])
    return figure


def predictions(planes: Planes) -> Figure | None:
    """A panel a trial: the test samples that its median replica answers right, and those it answers wrong."""
    if not planes:
        return None
    figure, places = panels(len(planes), SIZES, 3.7)
    entries: dict[str, Any] = {}
    for (trial, plane), axes in zip(planes, places, strict=True):
        wrong = plane.answer.cpu() != labels(plane.test)
        x, missed = plane.test.x[:MAX_POINTS], wrong[:MAX_POINTS]
        entries["right"] = dots(axes, x[~missed], GREEN, "o", 6)
        entries["wrong"] = dots(axes, x[missed], VERMILLION, "X", 32 if missed.double().mean() < 0.2 else 16)
        frame(axes, plane, entries, 0.02)
        of = " training samples" if plane.test is plane.train else ""  # where the data has no test part
        who = f" (replica {plane.shown}, the median)" if replicas(trial) > 1 else ""
        title(axes, trial.name, [f"{int(wrong.sum())} of {len(wrong)}{of} wrong{who}", left_out(plane.test)])
    label(figure, "x₁", "x₂")
    legend(figure, [(handle, name) for name, handle in entries.items()])
    return figure


def same(a: Split, b: Split) -> bool:
    """Whether two parts hold the same samples with the same classes."""
    x = [part.x[:].cpu().double().nan_to_num() for part in (a, b)]
    return torch.equal(*x) and torch.equal(labels(a), labels(b))


def labels(part: Split) -> Tensor:
    """The class of each sample: a plane has classes."""
    assert part.label is not None
    return part.label.cpu()


def replicas(trial: Trial) -> int:
    return trial.outcomes[0].models


def colour(i: int) -> str:
    return PALETTE[i % len(PALETTE)]


def pale(colour: str) -> str:
    """Half way to white, so that a black line is seen on it."""
    return "#" + "".join(f"{(int(colour[i : i + 2], 16) + 255) // 2:02X}" for i in (1, 3, 5))


def left_out(part: Split) -> str:
    return f"the first {MAX_POINTS} are drawn" if len(part) > MAX_POINTS else ""


def sides(plane: DecisionRegions) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the grid begins and ends: left and right, bottom and top. Where it is a line, half a unit to each side of it."""
    (left, right), (bottom, top) = ((float(axis[0]), float(axis[-1])) for axis in (plane.x, plane.y))
    x = (left, right) if right > left else (left - 0.5, left + 0.5)
    return x, (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5)


def dots(axes: Axes, x: Tensor, colour: str, shape: str, size: float) -> Any:
    """Samples, a marker each."""
    x = x.cpu().double()
    return axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=size, c=colour, marker=shape, linewidths=0)


def frame(axes: Axes, plane: DecisionRegions, entries: dict[str, Any], margin: float = 0.0) -> None:
    """The true boundary, if it is known, and the limits of the grid; a unit is as long up as across unless that is absurd."""
    if plane.boundary is not None:
        x, y = plane.boundary.cpu().double().unbind(1)
        (entries["true boundary"],) = axes.plot(x.numpy(), y.numpy(), color="black", linestyle="--", linewidth=1.3)
    (left, right), (bottom, top) = sides(plane)
    dx, dy = margin * (right - left), margin * (top - bottom)
    axes.set(xlim=(left - dx, right + dx), ylim=(bottom - dy, top + dy))
    axes.set_aspect("equal" if 0.25 <= (right - left) / (top - bottom) <= 4 else "auto")
