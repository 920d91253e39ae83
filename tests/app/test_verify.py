"""`verify-resume`: exact where the run is, and a difference is found, placed and measured."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainkit import Adam
from trainkit.app.cli.main import main
from trainkit.app.verify_resume import interrupt, verify
from trainkit.core.diff import differences
from trainkit.trainer.engines import auto

ROOT = Path(__file__).parents[2]

MUCH = """\
seed: 4
data: {name: disk, train: 120, test: 20}
model: [{Linear: [2, 8]}, Tanh, {Dropout: 0.3}, {Linear: [8, 2]}]
loss: CrossEntropyLoss
optimizer: {Adam: {lr: 0.02}}
trainer: {max_epochs: 4, batch_size: 6, accumulate: 2, replicas: 3, log_every_n_steps: 2}
callbacks:
  validation_split: {fraction: 0.2, every_n_steps: 5}
  checkpoint: {monitor: val/loss, save_top_k: 3}
  lr_scheduler: {ReduceLROnPlateau: {patience: 0, factor: 0.5}}
  early_stopping: {restore_best: true, patience: 50}
  clock: {Timer: {max_time: 1000}}
  csv_logger: {}
  tensorboard: {}
"""

NOISE = '''
import random
from trainkit import Callback

class Noise(Callback):
    """Moves a weight by numbers of a generator that no checkpoint holds."""

    def setup(self, session):
        self.draw = random.Random(1)

    def on_train_batch_end(self, session):
        session.net.param()[0][0].view(-1)[0] += 0.01 * self.draw.random()


class Weather(Callback):
    """Moves a weight by numbers that are others in every run."""

    def on_train_batch_end(self, session):
        session.net.param()[0][0].view(-1)[0] += 0.01 * random.SystemRandom().random()


class Global(Callback):
    """Moves a weight by numbers of python's own generator, which a checkpoint holds."""

    def on_train_batch_end(self, session):
        session.net.param()[0][0].view(-1)[0] += 0.01 * random.random()
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("much.yaml").write_text(MUCH)
    Path("own.py").write_text(NOISE)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process, which spares the starts; but for those that are killed."""
    real = verify.process

    def process(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        if '"phase": "save"' in words[0]:
            return real(module, *words)
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = (main if module == "trainkit" else interrupt.main)(list(words))
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    monkeypatch.setattr(verify, "process", process)


def table(out: str) -> list[list[str]]:
    """The cells of each row, a run of spaces between them."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines() if line.startswith("step ")
    ]


@pytest.mark.slow
def test_the_example_resumes_exactly_in_new_processes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(Path("scratch").resolve()))
    assert main(["verify-resume", str(ROOT / "conf" / "mlp.yaml"), "trainer.max_epochs=2", "--points", "0"]) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert [row[2] for row in rows] == ["exact"] * 3
    phases = [row[0].partition(", ")[2] for row in rows]
    assert phases == ["in a validation", "killed in a save", "at an epoch's end"]
    assert rows[1][0].split(",")[0] != rows[1][1]  # what was being saved is not what there is to resume from
    assert out.splitlines()[-1] == "3 of 3 resumed runs are bit-identical to the uninterrupted run."
    assert err == ""
    assert os.listdir("scratch") == []


@pytest.mark.usefixtures("inside")
def test_dropout_adam_plateau_accumulation_replicas_and_validation_inside_the_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", "much.yaml", "--points", "3"]) == 0
    out = capsys.readouterr().out
    assert [row[2] for row in table(out)] == ["exact"] * 6


# A rate at which the weights grow from step to step, and leave float32 in the second epoch.
DIVERGES = """\
seed: 4
data: {name: disk, train: 60, test: 20, targets: binary}
model: [{Linear: [2, 8]}, ReLU, {Dropout: 0.3}, {Linear: [8, 8]}, ReLU, {Linear: [8, 1]}]
loss: MSELoss
optimizer: {SGD: {lr: 1.3}}
trainer: {max_epochs: 9, batch_size: 6, log_every_n_steps: 7}
callbacks:
  validation_split: {fraction: 0.2, every_n_steps: 5}
  terminate_on_nan: {}
  checkpoint: {}
  csv_logger: {}
"""


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(("inputs", "batch"), [(25, 10)])
def test_batches_that_are_no_multiple_of_64_bytes(inputs: int, batch: int, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((90, inputs)).astype("f4")
    np.save("x.npy", x)
    np.save("t.npy", (x.sum(1) > 0).astype("i8"))
    data, model = (
        "data={name: npy, train_x: x.npy, train_t: t.npy}",
        f"model=[{{Linear: [{inputs}, 5]}}, Tanh, {{Linear: [5, 2]}}]",
    )
    words = ["trainer.replicas=1", "trainer.accumulate=1", f"trainer.batch_size={batch}", "trainer.max_epochs=2"]
    assert main(["verify-resume", "much.yaml", data, model, *words, "--points", "3"]) == 0
    assert "6 of 6 resumed runs are bit-identical to the uninterrupted run." in capsys.readouterr().out


@pytest.mark.usefixtures("inside")
def test_a_run_that_ends_at_nan_is_resumed_to_the_same_step_file_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    Path("diverges.yaml").write_text(DIVERGES)
    assert main(["verify-resume", "diverges.yaml"]) == 0
    out = capsys.readouterr().out
    assert re.match(r"uninterrupted: \d+ steps, 1 epochs, ended by terminate_on_nan \(exit code 3\), ", out)
    assert [row[2] for row in table(out)] == ["exact"] * 8


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("file", ["before_nan.pt", "checkpoints/best.pt"])
def test_a_file_that_only_one_of_two_runs_left_is_found(file: str) -> None:
    Path("diverges.yaml").write_text(DIVERGES)
    fit = {"paths": ["diverges.yaml"], "overrides": ["callbacks.checkpoint.monitor=val/loss"], "imports": []}
    a, b = (verify.uninterrupted(fit, Path(n)) for n in "ab")
    assert verify.compare(a, b, {}) == []
    Path("b", file).unlink()
    assert verify.compare(a, verify.Ended(Path("b"), b.code), {}) == [
        "differs at the end",
        f"{file}: only in one of the two runs",
    ]
    assert "exit code: 3 and 0" in verify.compare(a, verify.Ended(Path("b")), {})


@pytest.mark.usefixtures("inside")
def test_a_run_that_a_callback_stops_early_is_resumed_to_the_same_stop(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["callbacks.early_stopping.patience=2", "optimizer.Adam.lr=0.3", "trainer.max_epochs=50"]
    assert main(["verify-resume", "much.yaml", *words]) == 0
    out = capsys.readouterr().out
    assert int(out.removeprefix("uninterrupted: ").split()[0]) < 400  # of 50 epochs of 8 steps
    assert [row[2] for row in table(out)] == ["exact"] * 8


@pytest.mark.usefixtures("unkilled")
def test_what_auto_chose_is_kept_though_the_clock_would_choose_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([None])  # by the uninterrupted run, and by no other
    monkeypatch.setattr(auto, "faster", lambda session, step, build: next(asked))
    assert main(["verify-resume", "much.yaml", "trainer.engine=auto", "--points", "1"]) == 0
    assert [row[2] for row in table(capsys.readouterr().out)] == ["exact"] * 3


@pytest.fixture
def unkilled(inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without the kill in a save, which takes a process."""
    real = verify.points
    monkeypatch.setattr(verify, "points", lambda *args: [p for p in real(*args) if p.phase != "save"])


OWN = ["verify-resume", "much.yaml", "trainer.max_steps=9", "--points", "2", "--import", "own.py"]


@pytest.mark.usefixtures("unkilled")
def test_python_s_own_generator_is_seeded_and_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OWN, "callbacks.own={Global: {}}"]) == 0
    assert [row[2] for row in table(capsys.readouterr().out)] == ["exact"] * 4


@pytest.mark.usefixtures("unkilled")
def test_a_generator_that_no_checkpoint_holds_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OWN, "callbacks.noise={Noise: {}}"]) == 1
    out = capsys.readouterr().out
    for row in table(out):
        step, begun = (int(cell.split(",")[0].removeprefix("step ")) for cell in row[:2])
        assert step == begun
        if step < 8:  # what moves a weight after step 9, the last, shows in the parameters alone
            first = re.match(r"differs from step (\d+) on: (TensorBoard|metrics.csv) has [\w/]+ [\d.]+ and [\d.]+", row[2])
            assert first is not None
            assert step < int(first[1]) <= 9
    assert re.search(r"last.pt model.0.weight: \d+ of 48 differ, by up to [\d.e-]+, first at \[0, 0, 0\]: ", out)
    last = "4 of 4 resumed runs end differently, while two uninterrupted ones are equal: the resume is not exact."
    assert out.splitlines()[-1] == last


@pytest.mark.usefixtures("unkilled")
def test_kept_folders_are_there_to_be_compared(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(Path("scratch").resolve()))
    assert main([*OWN, "callbacks.noise={Noise: {}}", "--keep"]) == 1
    folder = Path(capsys.readouterr().out.splitlines()[-2].removeprefix("kept: "))
    assert sorted(p.name for p in folder.iterdir()) == ["again", "point1", "point2", "point3", "point4", "whole"]
    assert main(["checkpoint", "diff", *(str(folder / n / "checkpoints" / "last.pt") for n in ("whole", "point1"))]) == 1
    assert "  model.0.weight: 16 of 48 differ" in capsys.readouterr().out


@pytest.mark.usefixtures("unkilled")
def test_a_run_that_never_repeats_is_told_from_a_resume_that_is_not_exact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OWN, "callbacks.weather={Weather: {}}"]) == 1
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("Two uninterrupted runs differ too, so this run is not reproducible")
    )


@pytest.mark.usefixtures("unkilled")
def test_an_optimizer_slot_that_is_not_saved_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second moments are zero in what is saved, so the files are alike: it shows in the parameters."""
    real = Adam.state_dict
    monkeypatch.setattr(Adam, "state_dict", lambda self: {k: v * (k != "v") for k, v in real(self).items()})
    assert main(OWN) == 1
    out = capsys.readouterr().out
    assert all(row[2].startswith("differs") for row in table(out))
    assert "last.pt model." in out


@pytest.mark.usefixtures("inside")
def test_what_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["much.yaml", "trainer.max_epochs=0"], "the run has no step"),
        (["much.yaml", "callbacks.checkpoint=null"], "no callbacks.checkpoint, so no run can be resumed"),
        (["much.yaml", "callbacks.clock.Timer.max_time=0.000001"], "max_time ended the run"),
        (["much.yaml", "model[0].Linear=[3,8]"], "0.Linear: x is (3, 2, 2), needs (r, n, 3)"),
        (["much.yaml", "--points", "-1"], "--points: -1; needs at least 0"),
        ([], "verify-resume: no CONF"),
    ):
        assert main(["verify-resume", *words]) == 2
        assert said in capsys.readouterr().err


def test_the_same_command_picks_the_same_points() -> None:
    last = {"data": {"train": 100, "batch": 10}}
    ended = SimpleNamespace(summary={"step": 35}, last=last, rows=[{"step": "10", "val/loss": "1"}], scalars={})
    chosen = verify.points(ended, 4, 0)  # type: ignore[arg-type]
    assert chosen == verify.points(ended, 4, 0)  # type: ignore[arg-type]
    assert chosen != verify.points(ended, 4, 1)  # type: ignore[arg-type]
    assert [p.phase for p in chosen] == ["step"] * 4 + ["validation", "save", "epoch"]
    assert chosen[4].step == 10
    assert chosen[5].saved < chosen[5].step
    assert chosen[6].step in (10, 20, 30)
    short = SimpleNamespace(summary={"step": 1}, last=last, rows=[], scalars={})
    assert verify.points(short, 9, 0) == [verify.Point("step", 1)]  # type: ignore[arg-type]


def test_a_timer_is_left_out_whatever_its_name_and_nothing_else_is() -> None:
    """A name with a dot is not a place inside another callback."""
    kinds = verify.callback_kinds({"callbacks": {"a.timer": {"Timer": {"max_time": 9}}, "a": {"Own": {}}, "timer": {}}})

    def content(elapsed: float, own: float) -> dict[str, Any]:
        states = {"a.timer": {"elapsed": elapsed}, "timer": {"elapsed": elapsed}}
        return {"callbacks": {**states, "a": {"timer": {"elapsed": own}}, "timer.elapsed": {"x": own}}}

    first = verify.compared(content(1.0, 1.0), kinds)
    assert first == verify.compared(content(2.0, 1.0), kinds)
    assert [gap.place for gap in differences(first, verify.compared(content(1.0, 2.0), kinds))] == [
        "callbacks.a.timer.elapsed",
        "callbacks.timer.elapsed.x",
    ]


@pytest.mark.usefixtures("unkilled")
def test_a_run_with_a_timer_whose_name_has_a_dot_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    name = """callbacks={checkpoint: {}, "a.timer": {Timer: {max_time: 1000}}}"""
    assert main(["verify-resume", "much.yaml", name, "trainer.max_epochs=2", "--points", "1"]) == 0
    assert all(row[2] == "exact" for row in table(capsys.readouterr().out))


def test_what_is_not_a_file_is_not_read_as_events() -> None:
    os.mkfifo("events.out.tfevents.1.x")
    assert verify.scalars(Path()) == {}
