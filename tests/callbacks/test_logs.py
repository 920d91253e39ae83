"""CSVLog, TensorBoard, ProgressBar, GradientNorms, Timer: what they write, read back by other tools."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from trainkit.callbacks.timer import seconds

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    EarlyStopping,
    GradientNorms,
    Linear,
    LRScheduler,
    ProgressBar,
    Sequential,
    Tanh,
    TensorBoard,
    Timer,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
)
from trainkit.checkpoint import file as checkpoint
from trainkit.trainer.session import Session

EPOCHS, A_EPOCH = 4, 5  # 25 training samples in batches of 5


class Stop(Callback):
    """A signal, or with `kill` an exception as hard as a kill can be within the process, after a step."""

    def __init__(self, step: int = 0, kill: bool = False) -> None:
        self.step, self.kill = step, kill

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            if self.kill:
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)


class Killed(BaseException):
    pass


def run(
    folder: Path | None, *callbacks: Callback, resume: bool = False, stop: int = 0, kill: bool = False, **how: Any
) -> Trainer:
    net = Sequential(Linear(2, 4), Tanh(), Linear(4, 2)).initialize(torch.Generator().manual_seed(0))
    saver = [Checkpoint(every_n_steps=3)] if folder else []  # an epoch's end at step 5 or 10 comes after the save
    split = [] if any(isinstance(cb, ValidationSplit) for cb in callbacks) else [ValidationSplit(1 / 6)]
    settings = {"max_epochs": EPOCHS, "batch_size": 5, "device": "cpu", "run_dir": folder, "log_every_n_steps": 4}
    trainer = Trainer(**settings | how, callbacks=[*split, GradientNorms(), *callbacks, *saver, Stop(stop, kill)])
    content = checkpoint.load(folder / "checkpoints" / "last.pt") if resume and folder else None
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(30, 10), resume=content)
    return trainer


Curves = dict[str, list[tuple[int, float]]]


def curves(folder: Path) -> Curves:
    """Every scalar as TensorBoard shows it."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


# -- TensorBoard ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, TensorBoard(), CSVLogger())
    return folder


def test_one_curve_a_tag_at_the_steps_one_expects(whole: Path) -> None:
    found = curves(whole)
    steps = {tag: [step for step, _ in points] for tag, points in found.items()}
    assert steps["train/loss_step"] == [1, 4, 5, 8, 10, 12, 15, 16, 20]  # the first, every fourth, the last of an epoch
    ends = [5, 10, 15, 20]
    for tag in ("train/loss", "val/loss", "val/error", "lr", "epoch", "grad_norm/0.weight", "weight_norm/2.bias"):
        assert steps[tag] == ends, tag
    assert found["epoch"] == [(5, 1), (10, 2), (15, 3), (20, 4)]
    for tag in ("test/loss", "test/error", "train/error"):
        assert steps[tag] == [20], tag
    assert all(a < b for points in steps.values() for a, b in pairwise(points))


def test_the_values_are_the_runs(whole: Path, tmp_path: Path) -> None:
    class Losses(Callback):
        def __init__(self) -> None:
            self.seen: dict[int, float] = {}

        def on_step_log(self, session: Session, losses: list[float]) -> None:
            self.seen[session.progress.step] = losses[0]

    losses = Losses()
    trainer = run(tmp_path, losses)
    found = curves(whole)
    assert found["train/loss_step"] == [(step, pytest.approx(value, rel=1e-6)) for step, value in losses.seen.items()]
    for name, value in trainer.summary["metrics"].items():
        assert found[name][-1][1] == pytest.approx(value, rel=1e-6), name
    for row in rows(whole):  # a name means one number in every file
        for tag in row.keys() - {"epoch", "step"}:
            assert (int(row["step"]), pytest.approx(float(row[tag]), rel=1e-6)) in found[tag]


@pytest.mark.parametrize(
    "how", [{"max_steps": 1}, {"max_steps": 3}, {"max_epochs": 1, "log_every_n_steps": 1000}, {"max_steps": 7}]
)
def test_no_run_is_too_short_to_be_seen(how: dict[str, Any], tmp_path: Path) -> None:
    trainer = run(tmp_path, TensorBoard(), **how)
    steps = [step for step, _ in curves(tmp_path)["train/loss_step"]]
    assert steps[0] == 1
    assert steps[-1] == trainer.session.progress.step


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("step", [1, 4, 5, 7, 10, 11, 14, 20])
def test_a_resumed_run_continues_the_curves(step: int, kill: bool, whole: Path, tmp_path: Path) -> None:
    """No point doubled, none lost, none left from after the checkpoint; killed runs have written more than they saved."""
    if kill:
        with pytest.raises(Killed):
            run(tmp_path, TensorBoard(), CSVLogger(), stop=step, kill=True)
    else:
        run(tmp_path, TensorBoard(), CSVLogger(), stop=step)
    if not (tmp_path / "checkpoints" / "last.pt").exists():
        assert kill
        assert step < 3  # nothing was saved before step 3
        return
    run(tmp_path, TensorBoard(), CSVLogger(), resume=True)
    assert curves(tmp_path) == curves(whole)
    assert (tmp_path / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.parametrize("step", [3, 6, 8, 10, 14, 19])
def test_what_is_on_the_disk_at_any_moment_is_enough_to_continue(step: int, whole: Path, tmp_path: Path) -> None:
    """The folder as kill -9 leaves it: copied while the run goes on, nothing closed or flushed for it."""

    class Copy(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            if session.progress.step == step + 1:
                shutil.copytree(tmp_path / "run", tmp_path / "left")

    run(tmp_path / "run", TensorBoard(), CSVLogger(), Copy())
    run(tmp_path / "left", TensorBoard(), CSVLogger(), resume=True)
    assert curves(tmp_path / "left") == curves(whole)
    assert (tmp_path / "left" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_resuming_twice_and_resuming_a_finished_run_change_no_curve(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, TensorBoard(), CSVLogger(), stop=7)
    run(tmp_path, TensorBoard(), CSVLogger(), resume=True, stop=13)
    run(tmp_path, TensorBoard(), CSVLogger(), resume=True)
    assert curves(tmp_path) == curves(whole)
    run(tmp_path, TensorBoard(), CSVLogger(), resume=True)  # there is nothing left to do
    assert curves(tmp_path) == curves(whole)
    assert (tmp_path / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_more_epochs_continue_the_curves(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, TensorBoard(), max_epochs=2)
    run(tmp_path, TensorBoard(), resume=True)
    found, wanted = curves(tmp_path), curves(whole)
    for tag in ("train/loss", "train/loss_step", "val/loss", "lr", "epoch"):
        assert found[tag] == wanted[tag]
    assert [step for step, _ in found["test/loss"]] == [10, 20]


def test_replicas_show_their_mean_and_deviation(tmp_path: Path) -> None:
    trainer = run(tmp_path, TensorBoard(), CSVLogger(), replicas=3)
    found, row = curves(tmp_path), rows(tmp_path)[-1]
    for name in ("val/loss", "train/loss", "grad_norm/0.weight"):
        values = trainer.session.metrics[name]
        mean = sum(values) / 3
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
        assert float(row[name]) == pytest.approx(mean, rel=1e-12)
        assert float(row[f"{name}_std"]) == pytest.approx(std, rel=1e-12)
        assert [float(row[f"{name}.{r}"]) for r in range(3)] == values
        assert found[name][-1][1] == pytest.approx(mean, rel=1e-6)
        assert found[f"{name}_std"][-1][1] == pytest.approx(std, rel=1e-5)


def test_huge_numbers_and_nan_are_written_too(tmp_path: Path) -> None:
    class Odd(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            session.log("odd", [1e200, -1e200])
            session.log("nan", [math.nan, 1.0])

    run(tmp_path, Odd(), TensorBoard(), CSVLogger(), replicas=2, max_epochs=1)
    row = rows(tmp_path)[-1]
    assert (row["odd"], row["odd_std"], row["odd.0"], row["nan"]) == ("0.0", "inf", "1e+200", "nan")
    assert curves(tmp_path)["odd_std"] == [(5, math.inf)]


def test_the_configuration_stands_as_text_and_the_hyper_parameters_once(tmp_path: Path) -> None:
    run(tmp_path, TensorBoard(histograms_every_n_epochs=2), config="seed: 0\nloss: CrossEntropyLoss\n")
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    events.Reload()
    assert b"loss: CrossEntropyLoss" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert [e.step for e in events.Histograms("weights/0.weight")] == [10, 20]
    assert [e.step for e in events.Histograms("gradients/2.bias")] == [10, 20]
    plugins = events.PluginTagToContent("hparams")
    assert set(plugins) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}  # so that TensorBoard joins runs


def test_the_page_begins_with_the_net_and_a_chart_per_metric_and_ends_with_the_confusion_matrices(tmp_path: Path) -> None:
    trainer = run(tmp_path, TensorBoard(), metrics=["f1"])
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    net = events.Tensors("net/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "2.Linear" in net
    assert "22 parameters" in net  # 2 * 4 + 4 + 4 * 2 + 2
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    shown = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert list(shown) == ["loss", "error", "accuracy", "f1", "loss of a step", "lr"]
    found = curves(tmp_path)
    for title, tags in shown.items():
        matched = [name for tag in tags for name in found if re.fullmatch(tag, name)]
        assert matched == {"loss of a step": ["train/loss_step"], "lr": ["lr"]}.get(
            title, [f"{split}/{title}" for split in ("train", "val", "test")]
        )
    for name, samples in (("val", 5), ("test", 10)):
        (image,) = events.Images(f"{name}/confusion")
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert image.step == EPOCHS * A_EPOCH
        assert trainer.confusion_matrix(name).counts.sum() == samples


def test_every_scalar_of_the_configuration_is_a_hyper_parameter(tmp_path: Path) -> None:
    run(tmp_path, TensorBoard(), EarlyStopping("val/loss", patience=99), replicas=2)
    (info,) = infos(tmp_path)
    found = {key: value.string_value or value.bool_value or value.number_value for key, value in info.hparams.items()}
    expected = {
        "optimizer": "SGD",
        "lr": 0.1,
        "batch_size": 5,
        "seed": 0,
        "loss": "CrossEntropyLoss",
        "data.name": "disk",
        "data.train": 30,
        "trainer.replicas": 2,
        "trainer.dtype": "float32",
        "trainer.max_epochs": EPOCHS,
        "callbacks.validation_split.fraction": 1 / 6,
        "callbacks.early_stopping.patience": 99,
        "callbacks.checkpoint.every_n_steps": 3,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert not {key for key in found if key.startswith("model")}


def test_histograms_every_0_epochs_are_refused() -> None:
    with pytest.raises(UserError, match="histograms_every_n_epochs=0"):
        TensorBoard(0)


# -- metrics.csv ---------------------------------------------------------------------------------------------------------


def test_a_row_a_moment_with_numbers_in_full(whole: Path) -> None:
    found = rows(whole)
    assert [(r["epoch"], r["step"]) for r in found] == [("1", "5"), ("2", "10"), ("3", "15"), ("4", "20")]
    assert list(found[0])[:2] == ["epoch", "step"]
    assert {"train/loss", "val/loss", "val/error", "lr", "grad_norm/0.weight"} < set(found[0])
    for row in found:
        assert all(repr(float(v)) == v for k, v in row.items() if k not in ("epoch", "step"))


def test_the_last_row_is_the_summarys(tmp_path: Path) -> None:
    trainer = run(tmp_path, CSVLogger())
    row = rows(tmp_path)[-1]
    assert {k: float(v) for k, v in row.items() if k not in ("epoch", "step")} == {
        k: v for k, v in trainer.summary["metrics"].items() if k in row
    }


def test_a_metric_that_turns_up_later_gets_a_column_behind_the_others(tmp_path: Path) -> None:
    class Late(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            if session.progress.epoch == 2:
                session.log('a,late "one"', 0.5)

    run(tmp_path, Late(), CSVLogger())
    found = rows(tmp_path)
    assert list(found[0])[-1] == 'a,late "one"'
    assert [r['a,late "one"'] for r in found] == ["", "", "0.5", ""]
    assert [r["epoch"] for r in found] == ["1", "2", "3", "4"]


def test_a_row_compares_names_in_proportion_to_its_columns() -> None:
    class Name(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str(self) == other

        __hash__ = str.__hash__

    log = CSVLogger()
    log.columns = dict.fromkeys(["epoch", "step"])
    for _ in range(2):
        log._line({Name(f"m{i}"): "0" for i in range(500)})
    assert len(log.columns) == 502
    assert 0 < Name.compared < 5 * 500  # each name with each column: 125,000 a row


def test_validation_inside_an_epoch_has_a_row_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, CSVLogger(), ValidationSplit(0.2, every_n_steps=2), max_epochs=1)
    found = rows(tmp_path)
    assert [r["step"] for r in found] == ["2", "4", "5"]
    assert [bool(r["train/loss"]) for r in found] == [False, False, True]


def test_a_folder_that_holds_a_run_is_not_begun_anew(tmp_path: Path) -> None:
    run(tmp_path, CSVLogger(), max_epochs=2)
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        run(tmp_path, CSVLogger(), max_epochs=1)
    assert (tmp_path / "metrics.csv").read_bytes() == before


# -- GradientNorms -------------------------------------------------------------------------------------------------------


def test_the_norms_are_those_of_each_tensor(tmp_path: Path) -> None:
    trainer = run(tmp_path, clip_norm=0.01)
    squares = 0.0
    for name, p, g in trainer.session.net.named_param():
        assert trainer.session.metrics[f"weight_norm/{name}"] == [pytest.approx(p.norm().item())]
        assert trainer.session.metrics[f"grad_norm/{name}"] == [pytest.approx(g.norm().item())]
        squares += trainer.session.metrics[f"grad_norm/{name}"][0] ** 2
    assert math.sqrt(squares) == pytest.approx(0.01, rel=1e-3)  # as the update used it


def test_each_replica_has_norms_of_its_own() -> None:
    trainer = run(None, replicas=3)
    for name, p, g in trainer.session.net.named_param():
        assert trainer.session.metrics[f"weight_norm/{name}"] == pytest.approx([p[r].norm().item() for r in range(3)])
        assert trainer.session.metrics[f"grad_norm/{name}"] == pytest.approx([g[r].norm().item() for r in range(3)])


# -- ProgressBar ---------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_there_is_no_terminal_a_few_plain_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run(None, ProgressBar(), max_epochs=40)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 2 <= len(lines) <= 8  # the first epoch, the last, and one a second between
    assert lines[0].startswith("epoch 1/40, step 5: train/loss 0.")
    assert lines[-1].startswith("epoch 40/40, step 200: train/loss 0.")
    assert "val/loss" in lines[0]
    assert "\r" not in err


def test_a_line_an_epoch_where_one_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    run(None, ProgressBar(every_seconds=0))
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [f"epoch {k}/4" for k in range(1, 5)]


def test_a_second_fit_prints_its_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar(every_seconds=1e9)
    run(None, bar)
    run(None, bar)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["epoch 1/4", "epoch 4/4"] * 2


def test_on_a_terminal_it_is_a_bar_that_ends_full(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    run(None, ProgressBar())
    last = screen.getvalue().rstrip().split("\r")[-1]
    assert "100%" in last
    assert "epoch 4/4" in last
    assert "val/loss" in last


def test_the_bar_of_a_run_that_ends_early_stands_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    run(None, ProgressBar(), stop=7)
    assert " 35%" in screen.getvalue().rstrip().split("\r")[-1]


def test_nothing_else_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, CSVLogger(), TensorBoard(), LRScheduler(StepLR={"step_size": 1}), Timer(100))
    assert capsys.readouterr() == ("", "")


# -- Timer ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes on by hand."""
    now = [100.0]
    monkeypatch.setattr("trainkit.callbacks.timer.time.monotonic", lambda: now[0])

    def wait(s: float) -> None:
        now[0] += s

    return wait


class Slow(Callback):
    def __init__(self, wait: Callable[[float], None]) -> None:
        self.wait = wait

    def on_train_batch_end(self, session: Session) -> None:
        self.wait(1.0)


@pytest.mark.parametrize(("limit", "every", "step"), [(8, 1, 8), (6.5, 1, 7), (6, 4, 8), ("0:00:09", 1, 9), (100, 1, 20)])
def test_it_stops_when_the_time_is_over(limit: Any, every: int, step: int, clock: Callable[[float], None]) -> None:
    trainer = run(None, Slow(clock), Timer(limit), log_every_n_steps=every)
    assert trainer.session.progress.step == step
    assert trainer.summary["stop_reason"] == ("max_time" if step < 20 else "max_epochs")


def test_the_time_before_a_resume_counts_and_the_time_between_does_not(clock: Callable[[float], None], tmp_path: Path) -> None:
    run(tmp_path, Slow(clock), Timer(12), log_every_n_steps=1, stop=7)
    clock(1000)
    trainer = run(tmp_path, Slow(clock), Timer(12), log_every_n_steps=1, resume=True)
    assert (trainer.session.progress.step, trainer.summary["stop_reason"]) == (12, "max_time")
    longer = run(tmp_path, Slow(clock), Timer(14), log_every_n_steps=1, resume=True)
    assert longer.session.progress.step == 14


def test_a_second_fit_has_its_own_time(clock: Callable[[float], None]) -> None:
    timer = Timer(7)
    for _ in range(2):
        assert run(None, Slow(clock), timer, log_every_n_steps=1).session.progress.step == 7


TIMES = [
    (90, 90.0),
    ("90", 90.0),
    ("1:30", 90.0),
    ("00:01:30", 90.0),
    ("1:00:00", 3600.0),
    ("01:00:00:00", 86_400.0),
    ("100:00", 6000.0),
    (0.5, 0.5),
]


@pytest.mark.parametrize(("text", "wanted"), TIMES)
def test_times_are_read(text: Any, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", 0, "1:xx", "1:-30", float("nan"), "inf", "0:90", "1:24:00:00", "0:0:0:0:9", ":"]
)
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(UserError, match="needs seconds above 0, or 'HH:MM:SS' or 'DD:HH:MM:SS' in quotes"):
        Timer(text)


def test_a_run_folder_can_be_moved_and_continued(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "a", TensorBoard(), CSVLogger(), stop=7)
    shutil.move(tmp_path / "a", tmp_path / "b")
    run(tmp_path / "b", TensorBoard(), CSVLogger(), resume=True)
    assert curves(tmp_path / "b") == curves(whole)


@pytest.mark.parametrize("stop", [0, 7, 20])
def test_the_hyper_parameters_are_written_once_with_what_was_configured(stop: int, tmp_path: Path) -> None:
    """Schedules and early stopping move the rate; a run stopped before its last evaluation writes them when it is resumed."""

    def callbacks() -> list[Callback]:
        return [TensorBoard(), LRScheduler(StepLR={"step_size": 1}), EarlyStopping("train/loss", patience=3, min_delta=9)]

    run(tmp_path, *callbacks(), stop=stop)
    if stop:
        assert infos(tmp_path) == []
        run(tmp_path, *callbacks(), resume=True)
    run(tmp_path, *callbacks(), resume=True)
    (info,) = infos(tmp_path)
    assert {key: info.hparams[key].number_value for key in ("lr", "batch_size", "seed")} == {
        "lr": 0.1,
        "batch_size": 5,
        "seed": 0,
    }
    assert info.hparams["optimizer"].string_value == "SGD"


def infos(folder: Path) -> list[Any]:
    """What the files say of hyper-parameters, an entry for each time."""
    found = []
    for file in folder.glob("events.out.tfevents.*"):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    found.append(data.session_start_info)
    return found
