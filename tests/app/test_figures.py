"""Figures: what is drawn of which trials, that nothing is cut off or hides the rest, and that the bytes are always the same."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import Split, UserError
from trainkit.app.compare.decision_regions import DecisionRegions
from trainkit.app.compare.figures import draw, write
from trainkit.app.compare.timed_fit import TimedFit
from trainkit.app.compare.trial import Curves, Trial

pytest.importorskip("matplotlib")

from trainkit.app.compare.figures.epochs import Line, compare_curves, metric_curves
from trainkit.app.compare.figures.panel import png, shortened, wrapped
from trainkit.app.compare.figures.plane import predictions, regions, samples

LONG = "a_configuration_with_a_name_of_40_lette"  # and a digit
CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def a_plane(classes: tuple[str, ...] = ("low", "high"), shift: float = 0.0) -> DecisionRegions:
    """Four corners of the unit square; the right answer is 0 0 1 1, the shown replica says 0 1 1 0."""
    label = torch.tensor([0, 0, 1, 1])
    part = Split(CORNERS + shift, label, label)
    axis = torch.linspace(0, 1, 11)
    votes = torch.zeros(len(classes), 11, 11)
    votes[0], votes[1] = 0.25, 0.75
    boundary = torch.tensor([[0.5, 0.0], [0.5, 1.0]])
    return DecisionRegions(part, part, classes, boundary, axis, axis, votes, 1, torch.tensor([0, 1, 1, 0]))


def a_trial(name: str = "a", replicas: int = 3, plane: DecisionRegions | None = None, **curves: list[list[float]]) -> Trial:
    """Curves fall from 0.7 in three epochs, unless given: `train_loss=[[0.7, 0.8], [0.5, 0.6]]`, a row an epoch."""
    falling = [[0.7 / (epoch + 1) + 0.01 * r for r in range(replicas)] for epoch in range(4)]
    names = ("train/loss", "val/loss", "test/loss", "train/error", "val/error", "test/error")
    values = {k.replace("_", "/"): v for k, v in curves.items()} or dict.fromkeys(names, falling)
    epochs = [float(i) for i in range(len(next(iter(values.values()))))]
    outcome = TimedFit("trainkit", {name: rows[-1] for name, rows in values.items()}, 4, 1.0, list(range(replicas)))
    return Trial(name, "CrossEntropyLoss()", [outcome], Curves(epochs, values), plane)


def size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])  # type: ignore[return-value]


def notes(figure: Any) -> list[str]:
    """What stands under each panel's title."""
    return [axes.texts[0].get_text() for axes in figure.axes]


def words(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return draw([a_trial(name, plane=a_plane()) for name in "ab"])


def test_figures_are_png_files_of_a_size_to_read_and_to_keep(drawn: dict[str, bytes]) -> None:
    assert list(drawn) == ["loss", "error", "against", "data", "regions", "predictions"]
    for data in drawn.values():
        width, height = size(data)
        assert 400 <= width <= 1200
        assert 300 <= height <= 800
        assert len(data) < 150_000


def test_equal_trials_give_equal_bytes(drawn: dict[str, bytes]) -> None:
    assert draw([a_trial(name, plane=a_plane()) for name in "ab"]) == drawn
    assert not [data for data in drawn.values() if b"Software" in data or b"tIME" in data]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_nothing_is_cut_off_and_empty_cells_are_gone(count: int) -> None:
    trials = [a_trial(f"{LONG}{i}", plane=a_plane()) for i in range(count)]
    planes = [(t, t.plane) for t in trials if t.plane is not None]
    for figure in (metric_curves(trials, "loss", True), predictions(planes) if count == 1 else regions(planes)):
        assert figure is not None
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert len(panels) == count
        png(figure)  # lays it out
        for box in (*(axes.get_tightbbox() for axes in figure.axes), figure.legends[0].get_window_extent()):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height
        assert all(axes.title.get_text().replace("\n", "") == f"{LONG}{i}" for i, axes in enumerate(panels))


def test_what_a_trial_lacks_is_not_drawn() -> None:
    assert list(draw([a_trial(train_error=[[0.7], [0.5]], replicas=1)])) == ["error"]
    assert list(draw([a_trial(train_loss=[[0.7], [0.5]], replicas=1)])) == ["loss"]
    assert draw([replace(a_trial(), curves=Curves())]) == {}
    assert draw([]) == {}


def test_the_axes_are_named() -> None:
    for metric, unit in (("loss", "loss per sample"), ("error", "error, %")):
        figure = metric_curves([a_trial(), a_trial()], metric, False)
        assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == [("epoch", unit), ("epoch", "")]
        side_by_side = compare_curves([a_trial(), a_trial()], False)
        assert ("epoch", unit) in [(axes.get_xlabel(), axes.get_ylabel()) for axes in side_by_side.axes]
    planes = [(a_trial(), a_plane())]
    for figure in (samples(planes)["data"], regions(planes), predictions(planes)):
        assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("x₁", "x₂")


def test_the_line_is_the_median_and_the_band_holds_most_of_the_replicas() -> None:
    curves = Curves([0.0, 1.0], {"train/error": [[i / 10 for i in range(11)], [0.5] * 11]})
    line = Line.of(curves, "train/error")
    assert [line.low.tolist(), line.middle.tolist(), line.high.tolist()] == [[10, 50], [50, 50], [90, 50]]
    several, one = (metric_curves([a_trial(replicas=r)], "loss", False) for r in (2, 1))
    assert words(several) == ["train", "validation", "test", "10 % to 90 % of the replicas"]
    assert words(one) == ["train", "validation", "test"]
    assert (len(several.axes[0].collections), len(one.axes[0].collections)) == (3, 0)


@pytest.mark.parametrize("log", [False, True])
def test_replicas_that_are_not_finite_are_left_out_and_counted(log: bool) -> None:
    nan, inf = math.nan, math.inf
    trial = a_trial(train_loss=[[1.0, 1.0, 1.0], [0.5, 0.7, nan], [0.4, inf, nan]])
    assert Line.of(trial.curves, "train/loss").middle.tolist() == pytest.approx([1.0, 0.6, 0.4])
    assert notes(metric_curves([trial], "loss", log)) == ["2 of 3 replicas not finite at the end"]
    assert words(compare_curves([replace(trial, name=n) for n in "ab"], log))[0] == "a (2 of 3 replicas not finite at the end)"
    never = a_trial(train_loss=[[nan], [nan]], replicas=1)
    assert notes(metric_curves([never], "loss", log)) == ["not finite at the end\nno finite number"]
    png(metric_curves([trial, never], "loss", log))


@pytest.mark.parametrize("log", [False, True])
def test_an_outburst_does_not_hide_the_rest(log: bool) -> None:
    figure = metric_curves([a_trial(train_loss=[[0.7], [0.2], [0.1], [1e18]], replicas=1)], "loss", log)
    assert figure.axes[0].get_ylim()[1] < (1000 if log else 3)
    assert notes(figure) == ["cut off above: up to 1e+18"]
    png(figure)
    start = metric_curves([a_trial(train_loss=[[1e18], *([0.2], [0.1]) * 10], replicas=1)], "loss", False)
    assert start.axes[0].get_ylim()[1] < 1
    whole = metric_curves([a_trial()], "loss", log)
    assert whole.axes[0].get_ylim()[1] > 0.71
    assert notes(whole) == [""]


def test_no_number_is_too_large_to_draw() -> None:
    trials = [a_trial(train_loss=[[first], [1e307]], replicas=1) for first in (1e308, 0.0, -1e308)]
    for log in (False, True):
        png(metric_curves(trials, "loss", log))


def test_an_error_of_0_is_said_to_lie_below_a_logarithmic_axis() -> None:
    trials = [a_trial(train_error=[[0.5], [0.0]], replicas=1), a_trial(train_error=[[0.5], [0.001]], replicas=1)]
    figure = metric_curves(trials, "error", True)
    assert notes(figure) == ["0 is below the axis", ""]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].lines[0].get_ydata()[1] < figure.axes[0].get_ylim()[0]


def test_twelve_trials_differ_by_stroke_or_marker() -> None:
    figure = compare_curves([a_trial(f"{i}") for i in range(12)], False)
    for axes in figure.axes:
        assert len({(line.get_linestyle(), line.get_marker(), str(line._dash_pattern)) for line in axes.lines}) == 12


def test_losses_are_held_against_each_other_only_where_they_are_the_same() -> None:
    a, b = a_trial("a"), a_trial("b")
    assert [axes.get_title() for axes in compare_curves([a, b], False).axes] == ["test error", "test loss"]
    assert [axes.get_title() for axes in compare_curves([a, replace(b, loss="MSELoss()")], False).axes] == ["test error"]
    without = a_trial("c", val_error=[[0.5], [0.4]], train_error=[[0.5], [0.4]], replicas=1)
    assert [axes.get_title() for axes in compare_curves([a, without], False).axes] == ["validation error"]
    assert compare_curves([a], False) is None


def test_each_data_set_is_drawn_once() -> None:
    one, other = a_plane(), a_plane(shift=0.1)
    turned = replace(one, train=Split(CORNERS, torch.zeros(4), torch.tensor([1, 1, 0, 0])))
    assert list(samples([(a_trial("a"), one), (a_trial("b"), a_plane())])) == ["data"]
    figures = samples([(a_trial("a/../b"), one), (a_trial("c"), other), (a_trial("d"), one)])
    assert list(figures) == ["data-a-..-b", "data-c"]
    assert notes(figures["data-a-..-b"]) == ["a/../b, d"]
    assert words(figures["data-c"]) == ["low", "high", "true boundary"]
    clash = samples([(a_trial("a b"), one), (a_trial("a/b"), turned)])
    assert list(clash) == ["data-a-b", "data-a-b-2"]


def test_regions_show_the_share_of_two_classes_and_the_most_voted_of_three() -> None:
    two = regions([(a_trial(), a_plane())])
    assert float(two.axes[0].images[0].get_array()[0, 0]) == 0.75
    assert two.axes[1].get_ylabel() == "share of the replicas\nthat predict high"
    assert words(two) == ["true boundary"]
    three = regions([(a_trial(), a_plane(("low", "high", "other")))])
    assert float(three.axes[0].images[0].get_array()[0, 0]) == 1
    assert words(three) == ["low", "high", "other", "true boundary"]
    alone = regions([(a_trial(replicas=1), a_plane())])
    assert words(alone) == ["low", "high", "true boundary"]


def test_predictions_count_what_is_wrong() -> None:
    plane = replace(a_plane(), test=Split(CORNERS, torch.zeros(4), torch.tensor([0, 0, 1, 1])))
    figure = predictions([(a_trial(), plane), (a_trial(replicas=1), replace(plane, test=plane.train))])
    assert notes(figure) == ["2 of 4 wrong (replica 1, the median)", "2 of 4 training samples wrong"]
    right, wrong = figure.axes[0].collections
    assert (right.get_offsets().tolist(), wrong.get_offsets().tolist()) == ([[0, 0], [1, 0]], [[0, 1], [1, 1]])
    assert right.get_paths()[0].vertices.shape != wrong.get_paths()[0].vertices.shape  # dots and crosses
    assert words(figure) == ["right", "wrong", "true boundary"]


def test_names_are_broken_after_a_mark_and_lose_their_middle() -> None:
    assert wrapped("mlp lr=0.1 batch=10", 12) == ["mlp lr=0.1", "batch=10"]
    assert wrapped("cadei_mse_normal", 12) == ["cadei_mse_", "normal"]
    assert wrapped("x" * 20, 8) == ["xxxxxxxx", "xxxxxxxx", "xxxx"]
    assert shortened("0123456789", 7) == "012…789"
    assert shortened("a\x1b[31m", 20) == "a\\x1b[31m"


def test_any_name_can_be_drawn() -> None:
    png(compare_curves([replace(a_trial("_first"), loss="MSELoss()"), a_trial("$x_1$ 中文")], False))


def test_figures_are_files_and_images_of_tensorboard(drawn: dict[str, bytes], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(drawn, tmp_path / "out")
    assert {p.stem: p.read_bytes() for p in (tmp_path / "out" / "figures").iterdir()} == drawn
    events = EventAccumulator(str(tmp_path / "out")).Reload()
    assert events.Tags()["images"] == [f"figures/{name}" for name in drawn]
    (image,) = events.Images("figures/loss")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (0, *size(drawn["loss"]), drawn["loss"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/figures: cannot be written, Not a directory; choose another folder"):
        write(drawn, tmp_path / "file")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'trainkit\[plot\]'"):
        draw([a_trial()])


def test_importing_needs_no_matplotlib_and_drawing_no_pyplot() -> None:
    program = """
import sys
from trainkit.app.compare.figures.panel import panels, png
import trainkit.app.compare.figures
assert not [m for m in sys.modules if m.startswith("matplotlib")]
png(panels(1, (3.0,), 2.0)[0])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=Path(__file__).parents[2])
