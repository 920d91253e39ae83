"""metrics.csv and TensorBoard's points over kills, resumes and steps back: nothing doubled, nothing lost, nothing trusted."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    Linear,
    Sequential,
    TensorBoard,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
)
from trainkit.app.verify_resume import verify
from trainkit.checkpoint import file as checkpoint
from trainkit.trainer.session import Session

HOOKS = ("on_train_start", "on_train_batch_end", "on_step_log", "on_log", "on_checkpoint", "on_save_end", "on_test_end")


class Copies(Callback):
    """At each hook, a copy of the run's folder as `kill -9` would leave it: what is not flushed is not in it."""

    def __init__(self, into: Path) -> None:
        self.into = into
        for hook in HOOKS:
            setattr(self, hook, self.copy)

    def copy(self, session: Session, *_: Any) -> None:
        assert session.run is not None
        if (session.run.checkpoints / "last.pt").exists():
            name = f"{len(os.listdir(self.into)):03} step {session.progress.step}"
            shutil.copytree(session.run.path, self.into / name)


def fit(
    folder: Path,
    *more: Callback,
    resume: Path | None = None,
    every: int = 3,
    every_n_epochs: int | None = None,
    first: bool = False,
    **how: Any,
) -> Trainer:
    """2 epochs of 3 steps, validated at the end of the second, and inside every third step: two rows at step 3."""
    net = Sequential(Linear(2, 2)).initialize(torch.Generator().manual_seed(0))
    split = ValidationSplit(1 / 4, every_n_steps=3, every_n_epochs=2)
    written = [CSVLogger(), TensorBoard(), Checkpoint("train/loss", every_n_steps=every, every_n_epochs=every_n_epochs)]
    callbacks = [split, *more, *written] if first else [split, *written, *more]
    settings = {"max_epochs": 2, "batch_size": 3, "device": "cpu", "log_every_n_steps": 2} | how
    trainer = Trainer(**settings, run_dir=folder, callbacks=callbacks)
    content = None if resume is None else checkpoint.load(resume)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(12, 4), resume=content)
    return trainer


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.pt"


def log(folder: Path) -> bytes:
    return (folder / "metrics.csv").read_bytes()


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("logs") / "whole"
    fit(folder)
    return folder


def check(folder: Path, whole: Path) -> None:
    fit(folder, resume=last(folder))
    assert log(folder) == log(whole), folder.name
    assert verify.scalars(folder) == verify.scalars(whole), folder.name


# -- kills ---------------------------------------------------------------------------------------------------------------


def test_the_run_has_two_rows_at_one_step(whole: Path) -> None:
    rows = list(csv.DictReader(log(whole).decode().splitlines()))
    assert [(row["step"], bool(row["val/loss"]), bool(row["train/loss"])) for row in rows] == [
        ("3", True, False),
        ("3", False, True),
        ("6", True, True),
    ]


@pytest.mark.parametrize("first", [True, False], ids=["before the writers", "after the writers"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_run_killed_anywhere_ends_with_the_rows_and_points_of_the_uninterrupted_one(
    every: int, first: bool, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "left").mkdir()
    fit(tmp_path / "run", Copies(tmp_path / "left"), every=every, first=first)
    left = sorted((tmp_path / "left").iterdir())
    assert len(left) > 10
    for folder in left:
        check(folder, whole)


@pytest.mark.parametrize("first", [True, False], ids=["before the writers", "after the writers"])
@pytest.mark.parametrize("back", [1, 3])
def test_a_fit_that_goes_back_and_is_killed_leaves_what_last_pt_continues_from(
    back: int, first: bool, whole: Path, tmp_path: Path
) -> None:
    """Rows of epochs that are only behind last.pt stay until another last.pt is there; then those since are complete."""
    (tmp_path / "saves").mkdir()
    (tmp_path / "left").mkdir()
    fit(tmp_path / "run", Copies(tmp_path / "saves"), every=1)
    older = next(p for p in sorted((tmp_path / "saves").iterdir()) if checkpoint.load(last(p))["state"]["step"] == back)
    fit(tmp_path / "run", Copies(tmp_path / "left"), every=5, first=first, resume=last(older))
    assert log(tmp_path / "run") == log(whole)
    assert verify.scalars(tmp_path / "run") == verify.scalars(whole)
    for folder in sorted((tmp_path / "left").iterdir()):
        check(folder, whole)


class Fails(Callback):
    def on_train_batch_end(self, session: Session) -> None:
        raise KeyboardInterrupt


def test_a_fit_that_goes_back_and_breaks_off_changes_no_row_and_no_point(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    fit(tmp_path / "other", max_steps=2)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", Fails(), resume=last(tmp_path / "other"))
    assert digests(tmp_path / "run") == digests(whole)


@pytest.mark.parametrize("kill", [False, True])
def test_a_state_that_ranked_before_the_first_save_has_its_rows(kill: bool, whole: Path, tmp_path: Path) -> None:
    """best.pt of a fit that had gone back: its state is of a time when rows and points waited for last.pt."""
    (tmp_path / "saves").mkdir()
    (tmp_path / "left").mkdir()
    fit(tmp_path / "run", Copies(tmp_path / "saves"), every=1)
    older = next(p for p in sorted((tmp_path / "saves").iterdir()) if checkpoint.load(last(p))["state"]["step"] == 2)
    fit(tmp_path / "run", every=7, resume=last(older))  # ranks at steps 3 and 6, and saves at its end
    best = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best["callbacks"]["csv_logger"]["tail"].count("\n") > 2
    fit(tmp_path / "run", Copies(tmp_path / "left"), first=kill, resume=tmp_path / "run" / "checkpoints" / "best.pt")
    for folder in [tmp_path / "run", *sorted((tmp_path / "left").iterdir())]:
        check(folder, whole)


def test_a_finished_run_that_is_resumed_writes_no_scalar(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = set(os.listdir(tmp_path / "run"))
    check(tmp_path / "run", whole)
    (new,) = set(os.listdir(tmp_path / "run")) - before
    assert (tmp_path / "run" / new).stat().st_size < 200  # its version and its mark


def test_a_run_in_the_folder_of_one_that_saved_nothing_begins_its_logs_anew(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "summary.json").unlink()
    fit(tmp_path / "run")
    assert log(tmp_path / "run") == log(whole)
    assert verify.scalars(tmp_path / "run") == verify.scalars(whole)
    assert "metrics.csv: started over; its rows are those of a run that saved nothing\n" in capsys.readouterr().err


def test_a_run_resumed_into_the_folder_of_one_that_saved_nothing_has_none_of_its_rows(
    half: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "dead")
    shutil.rmtree(tmp_path / "dead" / "checkpoints")
    (tmp_path / "dead" / "summary.json").unlink()
    fit(tmp_path / "dead", resume=last(half))
    rows = log(whole).splitlines()
    places = [[row.split(b",")[:2] for row in lines] for lines in (rows, log(tmp_path / "dead").splitlines())]
    assert places[1] == [places[0][0], *places[0][len(log(half).splitlines()) :]]


# -- metrics.csv, changed by others ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it was killed when its first epoch was saved: two rows at step 3."""
    folder = tmp_path_factory.mktemp("epoch")
    (folder / "left").mkdir()
    fit(folder / "run", Copies(folder / "left"), every_n_epochs=1)
    return next(p for p in sorted((folder / "left").iterdir()) if checkpoint.load(last(p))["state"]["epoch"] == 1)


@pytest.fixture
def half(epoch: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(epoch, tmp_path / "run"))


def replaced(line: int, text: bytes) -> Callable[[list[bytes]], bytes]:
    return lambda lines: b"".join([*lines[:line], text, *lines[line + 1 :]])


REFUSED: list[tuple[str, Callable[[list[bytes]], bytes], str]] = [
    ("a foreign row", replaced(1, b"99,999,hello\n"), "line 2: has another number of fields than the header .got 3, needs 7"),
    ("no header", replaced(0, b""), "line 1: the header does not begin with epoch,step .got '1,3'"),
    (
        "a byte order mark",
        lambda lines: b"\xef\xbb\xbf" + b"".join(lines),
        r"line 1: the header does .* .got '\\ufeffepoch,step'",
    ),
    ("a column twice", lambda lines: lines[0].replace(b"lr", b"val/loss") + b"".join(lines[1:]), "line 1: the header repeats"),
    ("a quote that stays open", replaced(0, b'epoch,step,"lr\n'), "line 3: the header is not CSV"),
    ("Latin-1", replaced(2, b"1,3,\xe9,,,,\n"), r"line 3: is not UTF-8 .got b'\\xe9'"),
    ("an empty line", replaced(1, b"\n"), "line 2: has another number of fields"),
    ("epoch 1.0", replaced(1, b"1.0,3,,,,,\n"), "line 2: epoch is not a whole number .got '1.0'"),
    ("an Arabic digit", replaced(1, "1,٣,,,,,\n".encode()), "line 2: step is not a whole number"),
    ("a long number", replaced(1, b"1," + b"9" * 5000 + b",,,,,\n"), "line 2: step is not a whole number"),
    ("steps that decrease", lambda lines: lines[0] + lines[1].replace(b"1,3", b"1,9", 1) + lines[2], "line 3: step is smaller"),
    ("text", replaced(1, b"1,3,,soon,,,\n"), "line 2: 'val/error' is not a number .got 'soon'"),
    ("an escape", replaced(1, b"1,3,,\x1b[2J,,,\n"), r"line 2: 'val/error' is not a number .got '\\x1b\[2J'"),
    ("the header in the middle", lambda lines: b"".join([*lines[:2], lines[0], *lines[2:]]), "line 3: epoch is not a whole"),
    ("a last line cut short", lambda lines: b"".join(lines)[:-3], "line 3: no newline ends it"),
    ("no line", lambda lines: b"my notes", "line 1: no newline ends it"),
    ("a return", replaced(1, b"1,3,,\r0.5,,,\n"), r"line 2: 'val/error' is not a number .got '.r0.5'"),
    ("semicolons", lambda lines: b"".join(lines).replace(b",", b";"), "line 1: the header does not begin"),
]


@pytest.mark.parametrize(("change", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_log_that_is_not_ours_is_refused_with_its_line_and_every_byte_stays(
    change: Callable[[list[bytes]], bytes], message: str, half: Path
) -> None:
    (half / "metrics.csv").write_bytes(change(log(half).splitlines(keepends=True)))
    before = digests(half)
    with pytest.raises(UserError, match=rf"^callbacks.csv_logger on_fit_start, epoch 2, step 3: metrics.csv, {message}"):
        fit(half, resume=last(half))
    assert digests(half) == before


@pytest.mark.parametrize("name", ["metrics.csv", "events.out.tfevents.1.x"])
def test_a_pipe_a_link_and_a_folder_are_refused_without_waiting(name: str, half: Path) -> None:
    path = half / name
    for make, word in ((os.mkfifo, "a pipe"), (os.mkdir, "a folder"), (lambda p: os.symlink("elsewhere", p), "a link")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(UserError, match=f"{name} is {word}"):
            fit(half, resume=last(half))


@pytest.mark.parametrize("row", [b"2,6,0.5", b"2,6,0.5,0.25,0.5,0.5"])
def test_a_row_that_a_kill_cut_short_behind_the_last_save_is_cut_and_said(
    row: bytes, half: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (half / "metrics.csv").write_bytes(log(half) + row)
    capsys.readouterr()
    check(half, whole)
    assert capsys.readouterr().err == "metrics.csv: line 4 is incomplete (the run was killed while writing it); removed\n"


@pytest.mark.parametrize("text", [None, b""], ids=["deleted", "empty"])
def test_rows_that_are_gone_are_said_and_the_run_goes_on(
    text: bytes | None, half: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (half / "metrics.csv").unlink()
    if text is not None:
        (half / "metrics.csv").write_bytes(text)
    capsys.readouterr()
    fit(half, resume=last(half))
    said = "metrics.csv: has 0 rows up to step 3, the checkpoint counts 2; continued as it is\n"
    assert capsys.readouterr().err == said
    found, wanted = (list(csv.DictReader(log(p).decode().splitlines())) for p in (half, whole))
    assert found == wanted[2:]
    fit(half, resume=last(half))
    assert "metrics.csv" not in capsys.readouterr().err  # it was said


def test_the_header_decides_where_a_number_belongs(half: Path, whole: Path) -> None:
    """Columns in another order, one that this configuration does not log, and lines that end as on Windows."""
    rows = list(csv.DictReader(log(half).decode().splitlines()))
    names = ["epoch", "step", "old", *sorted(rows[0].keys() - {"epoch", "step"}, reverse=True)]
    with open(half / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="7")
        writer.writeheader()
        writer.writerows(rows)
    fit(half, resume=last(half))
    assert log(half).startswith(",".join(names).encode())
    found, wanted = (list(csv.DictReader(log(p).decode().splitlines())) for p in (half, whole))
    assert [row.pop("old") for row in found] == ["7", "7", ""]
    assert found == wanted


def test_a_callback_that_is_renamed_keeps_the_rows(half: Path, whole: Path) -> None:
    content = checkpoint.load(last(half))
    del content["callbacks"]["csv_logger"], content["callbacks"]["tensorboard"]
    checkpoint.save(content, last(half))
    check(half, whole)


def test_a_metric_with_the_name_of_the_runs_own_column_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Steps(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            session.log("step", 0.5)

    fit(tmp_path, Steps(), max_epochs=1)
    fit(tmp_path, Steps(), resume=last(tmp_path))
    said = "metrics.csv: the metric 'step' is left out, since that column is the run's own; log it under another name\n"
    assert capsys.readouterr().err == said * 2
    assert [row["step"] for row in csv.DictReader(log(tmp_path).decode().splitlines())] == ["3", "3", "6"]


def test_a_row_costs_by_its_columns_and_not_by_their_square(tmp_path: Path) -> None:
    compared = 0

    class Name(str):
        """A name that counts how often it is compared."""

        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    class Many(Callback):
        def on_log(self, session: Session) -> None:
            session.metrics.updated.update(names)
            session.metrics.update({name: [7.0] for name in names})

    names = [Name(f"metric {i}") for i in range(2_000)]
    net = Sequential(Linear(2, 2))
    trainer = Trainer(max_epochs=3, device="cpu", run_dir=tmp_path, callbacks=[Many(), CSVLogger()])
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(12, 4))
    assert compared < 50 * len(names)  # each with each would be 6,000,000
    assert log(tmp_path).count(b",7.0") == 3 * len(names)


# -- states that are not ours ----------------------------------------------------------------------------------------------

FORGED: list[tuple[str, str, dict[str, Any], str]] = [
    ("rows below 0", "csv_logger", {"rows": -1}, "state.rows: -1; needs a whole number from 0"),
    ("a step of text", "csv_logger", {"step": "3"}, "state.step: '3'"),
    ("a tail of other columns", "csv_logger", {"tail": "a,b\n"}, "state.tail, line 1: the header does not begin"),
    (
        "a tail before the rows",
        "csv_logger",
        {"tail": "epoch,step\n0,1\n"},
        "state.tail, line 2: step is smaller .* .got 1 after 3",
    ),
    ("a tail without an end", "csv_logger", {"tail": "epoch,step\n1,7"}, "state.tail: no newline ends its last line"),
    (
        "a tail of text",
        "csv_logger",
        {"tail": "epoch,step,a\n1,7,\x1b\n"},
        r"state.tail, line 2: 'a' is not a number .got '\\x1b'",
    ),
    ("a tail that is not text", "csv_logger", {"tail": "\udce9"}, "cannot load its state"),
    ("a file name", "csv_logger", {"file": "/etc/passwd"}, "state: file is not known"),
    ("since below 0", "tensorboard", {"since": -1}, "state.since: -1"),
    ("points as a list", "tensorboard", {"points": [[1, 0, 0.5]]}, "state.points: a list"),
    ("rows of 2", "tensorboard", {"points": torch.zeros(5, 2, dtype=torch.float64)}, "state.points: .* needs rows of 3"),
    ("half a step", "tensorboard", {"points": torch.full((1, 3), 0.5, dtype=torch.float64)}, "state.points: needs whole steps"),
    ("no such tag", "tensorboard", {"tags": []}, "state.points: needs whole steps, and indices into state.tags"),
    ("NaN for a step", "tensorboard", {"points": torch.full((1, 3), torch.nan, dtype=torch.float64)}, "needs whole steps"),
    ("a tag that is not text", "tensorboard", {"tags": ["\udce9"] * 99}, "cannot load its state"),
]


@pytest.mark.parametrize(("name", "change", "message"), [r[1:] for r in FORGED], ids=[r[0] for r in FORGED])
def test_a_forged_state_is_refused_and_every_byte_stays(name: str, change: dict[str, Any], message: str, half: Path) -> None:
    content = checkpoint.load(last(half))
    content["callbacks"][name].update(change)
    checkpoint.save(content, last(half))
    before = digests(half)
    with pytest.raises(UserError, match=f"resume: callbacks.{name}.*{message}"):
        fit(half, resume=last(half))
    assert digests(half) == before


def test_a_folder_whose_name_is_not_utf_8_trains_and_resumes(half: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    fit(folder)
    assert verify.scalars(folder) == verify.scalars(whole)
    shutil.rmtree(folder)
    shutil.copytree(half, folder)
    check(folder, whole)


# -- any change ------------------------------------------------------------------------------------------------------------


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """A log with a line or some bytes inserted, deleted, doubled, swapped or cut."""
    lines = data.splitlines(keepends=True)
    at, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    place = draw(st.integers(0, len(data)))
    kind = draw(st.sampled_from(["delete", "double", "swap", "insert", "cut", "bytes", "drop bytes"]))
    if kind == "delete":
        return b"".join(lines[:at] + lines[at + 1 :])
    if kind == "double":
        return b"".join([*lines[:at], lines[at], *lines[at:]])
    if kind == "swap":
        lines[at], lines[other] = lines[other], lines[at]
        return b"".join(lines)
    if kind == "insert":
        return b"".join([*lines[:at], draw(st.binary(max_size=12)) + b"\n", *lines[at:]])
    if kind == "cut":
        return data[:place]
    if kind == "bytes":
        return data[:place] + draw(st.binary(min_size=1, max_size=3)) + data[place:]
    return data[:place] + data[place + draw(st.integers(1, 9)) :]


@pytest.fixture(scope="module")
def midway(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A run of 3 epochs killed after the second one, whose last save is that of the first; and the log of the whole run."""
    folder = tmp_path_factory.mktemp("midway")
    (folder / "left").mkdir()
    fit(folder / "run", Copies(folder / "left"), every=4, max_epochs=4)
    return sorted((folder / "left").glob("* step 9"))[-1], log(folder / "run")


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_the_log_is_refused_with_its_line_or_loses_nothing(
    data: st.DataObject, midway: tuple[Path, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is refused stays to the byte. What is accepted keeps every row of the checkpoint's that the file had."""
    left, wanted = midway
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(left, folder)
    text = data.draw(changed(log(left)))
    (folder / "metrics.csv").write_bytes(text)
    capsys.readouterr()
    refused = None
    try:
        fit(folder, resume=last(folder), every=4, max_epochs=4)
    except UserError as error:
        refused = str(error)
    if refused is not None:
        assert "metrics.csv, line " in refused
        assert log(folder) == text
        return
    step = checkpoint.load(last(left))["state"]["step"]
    found, every_row = (list(csv.DictReader(io.StringIO(t.decode(), newline=""))) for t in (log(folder), wanted))
    after = [row for row in every_row if int(row["step"]) > step]
    assert [{name: row[name] for name in after[0]} for row in found[-len(after) :]] == after
    own = [line.rstrip(b",") for line in wanted.splitlines()[1 : len(every_row) - len(after) + 1] if line in text.splitlines()]
    kept = [line.rstrip(b",") for line in log(folder).splitlines()]
    assert set(own) <= set(kept)
    assert len(found) == len(every_row) or "metrics.csv: has " in capsys.readouterr().err
