"""A run's folder: what is refused changes nothing, nothing of others is replaced, and each of many trainers gets its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import SGD, Callback, CSVLogger, Linear, MSELoss, Sequential, Trainer, UserError, tensors
from trainkit.app.cli.main import main
from trainkit.app.compare.command import Comparison
from trainkit.callbacks import Checkpoint
from trainkit.checkpoint import file as checkpoint
from trainkit.core.folder import Folder
from trainkit.trainer import signals
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session

ROOT = Path(__file__).parents[2]
CONF = """\
seed: 1
data: {name: disk, train: 40, test: 10}
model: [{Linear: [2, 4]}, Tanh, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1, momentum: 0.9}}
trainer: {max_epochs: 4, batch_size: 10}
callbacks:
  validation_split: {fraction: 0.2}
  early_stopping: {patience: 50, restore_best: true}
  checkpoint: {monitor: val/loss, every_n_epochs: 1, save_top_k: 2}
  csv_logger: {}
"""
REFUSED = "callbacks.lr_scheduler={CyclicLR: {base_lr: 0.1, max_lr: [0.1, 0.2]}}"  # in the scheduler's on_fit_start


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "conf.yaml").write_text(CONF)
    assert main(["fit", str(folder / "conf.yaml"), "--run-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with `conf.yaml`, and `run`, a copy of its run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def tree() -> dict[str, Any]:
    """All that is here: type, time of change, content."""
    return {
        str(p): (s.st_mode, s.st_mtime_ns, p.read_bytes() if stat.S_ISREG(s.st_mode) else None)
        for p in [Path(), *Path().rglob("*")]
        for s in [p.lstat()]
    }


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that is refused and changes nothing."""
    before = tree()
    capsys.readouterr()
    assert main(list(words)) == 2
    assert tree() == before
    return capsys.readouterr().err


def earlier() -> str:
    return str(min(Path("run/checkpoints").glob("epoch*.pt")))


# -- refused -----------------------------------------------------------------------------------------------------------------


def test_a_refused_resume_leaves_every_byte_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert "CyclicLR.max_lr: 2 values" in refused(capsys, "fit", "--resume", earlier(), REFUSED)
    assert main(["fit", "--resume", "run", "trainer.max_epochs=5"]) == 0


def test_a_new_run_that_is_refused_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--run-dir", "new"], ["--run-dir", "a/b/c"], ["--resume", "run", "--run-dir", "new"]):
        refused(capsys, "fit", "conf.yaml", *words, REFUSED)
    assert main(["fit", "conf.yaml", "--run-dir", "new/" + "x" * 300]) == 2
    assert "File name too long" in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_fit_that_fails_before_its_first_step_leaves_no_folder_of_its_own() -> None:
    class Fails(Callback):
        def on_train_start(self, session: Session) -> None:
            assert session.run is not None
            assert session.run.path.is_dir()
            raise UserError("no")

    for folder, left in (("logs/new", False), ("mine", True)):
        Path("mine").mkdir(exist_ok=True)
        with pytest.raises(UserError):
            fit(folder, callbacks=[Fails()])
        assert Path(folder).exists() == left
    assert not Path("logs").exists()
    fit("mine")  # which holds nothing but what is ours


def test_a_fit_that_fails_after_a_step_keeps_its_folder() -> None:
    class Fails(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            raise UserError("no")

    with pytest.raises(UserError):
        fit("new", callbacks=[Fails()])
    assert Path("new/config.yaml").exists()
    run = RunFolder(Path("new"))
    run.lock()  # the failed fit has unlocked it
    run.close()


OTHERS: dict[str, Callable[[], object]] = {  # what the folder `theirs` holds
    "config.yaml": lambda: Path("theirs/config.yaml").write_text("# notes"),
    "metrics.csv": lambda: Path("theirs/metrics.csv").write_text("x,y,t\n"),
    "summary.json": lambda: Path("theirs/summary.json").symlink_to("nothing"),
    "checkpoints": lambda: Path("theirs/checkpoints").mkdir(),
    "checkpoints ": lambda: Path("theirs/checkpoints").symlink_to(Path("run/checkpoints").resolve()),
    "before_nan.pt": lambda: os.mkfifo("theirs/before_nan.pt"),
    ".trainkit-run": lambda: Path("theirs/.trainkit-run").symlink_to(Path("run/.trainkit-run").resolve()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_with_a_file_that_is_not_a_run_s_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("theirs").mkdir()
    OTHERS[name]()
    shutil.copy("run/checkpoints/last.pt", "theirs.pt")
    said = f"run folder theirs: holds {name.strip()}, which is not a run's; choose another with --run-dir"
    for words in (["conf.yaml"], ["--resume", "run"], ["--resume", "theirs.pt"]):
        assert said in refused(capsys, "fit", *words, "--run-dir", "theirs")
    with pytest.raises(UserError, match="is not a run's"):
        fit("theirs")
    assert "theirs is not a run's folder" in refused(capsys, "fit", "--resume", "theirs") or name == ".trainkit-run"


def test_a_configuration_and_data_of_the_folder_it_trains_in_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    Path("mine").mkdir()
    Path("mine/metrics.csv").write_text("x,y,t\n" + "".join(f"{i},{-i},{i % 2}\n" for i in range(40)))
    data = "{name: csv, path: mine/metrics.csv, target: t}"
    Path("mine/config.yaml").write_text(CONF.replace("{name: disk, train: 40, test: 10}", data))
    assert "holds config.yaml" in refused(capsys, "fit", "mine/config.yaml", "--run-dir", "mine")
    Path("mine/config.yaml").rename("mine/conf.yaml")
    assert "holds metrics.csv" in refused(capsys, "fit", "mine/conf.yaml", "--run-dir", "mine")
    Path("mine/metrics.csv").rename("mine/train.csv")
    assert main(["fit", "mine/conf.yaml", "data.path=mine/train.csv", "--run-dir", "mine"]) == 0
    assert Path("mine/train.csv").read_text().startswith("x,y,t\n0,0,0\n")


def test_a_run_goes_on_in_its_own_folder_or_a_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("run", "other")
    shutil.copy("run/checkpoints/last.pt", "theirs.pt")
    more = "trainer.max_epochs=5"
    for words in (["run"], ["run/checkpoints/last.pt"], ["theirs.pt"]):
        assert "run folder other: holds a run already" in refused(capsys, "fit", "--resume", *words, "--run-dir", "other", more)
    assert "is not in a run's folder; give a new folder: --run-dir DIR" in refused(capsys, "fit", "--resume", "theirs.pt", more)
    assert main(["fit", "--resume", "theirs.pt", "--run-dir", "new", more]) == 0
    assert main(["fit", "--resume", "run/checkpoints/last.pt", "--run-dir", "./run", more]) == 0
    Path("link").symlink_to("other")
    assert main(["fit", "--resume", "link", "--run-dir", "other", more]) == 0  # a copy is a run, and a link leads to it


def test_a_checkpoint_s_run_is_found_from_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("run/checkpoints")
    assert main(["fit", "--resume", "last.pt", "trainer.max_epochs=5"]) == 0
    assert main(["predict", "last.pt"]) == 0
    assert Path("../predictions.csv").exists()


def test_a_stranger_s_checkpoint_deletes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run/checkpoints/notes.txt").write_text("mine")
    content = checkpoint.load(Path("run/checkpoints/last.pt"))
    content["callbacks"]["checkpoint"]["gone"] = ["last.pt", "notes.txt"]
    Path("theirs.pt").write_bytes(checkpoint.dump(content))
    refused(capsys, "fit", "--resume", "theirs.pt", "--run-dir", "run")
    refused(capsys, "fit", "--resume", "theirs.pt", "--run-dir", "run", REFUSED)


IN_A_RUN = ("config.yaml", "summary.json", "metrics.csv", "checkpoints/last.pt", "checkpoints/best.pt")


@pytest.mark.parametrize("name", IN_A_RUN)
def test_a_pipe_or_a_link_among_the_files_of_a_run_is_refused_at_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("run", name)
    for make, kind in ((lambda: os.mkfifo(path), "a pipe"), (lambda: path.symlink_to("/dev/zero"), "a link")):
        path.unlink()
        make()
        assert f"run folder run: {name} is {kind}" in refused(capsys, "fit", "--resume", "run", "trainer.max_epochs=5")


def test_only_a_run_with_the_marker_is_the_newest(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("run", "logs/conf/1")
    shutil.copytree("run", "logs/conf/2")
    Path("logs/conf/2", RunFolder.marker).unlink()
    assert main(["fit", "conf.yaml", "--resume", "trainer.max_epochs=5"]) == 0
    assert capsys.readouterr().out.startswith("resuming logs/conf/1/checkpoints/last.pt")


def test_a_run_that_was_killed_before_its_first_save_is_begun_anew(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("run/checkpoints")
    Path("run/summary.json").unlink()
    assert main(["fit", "conf.yaml", "--run-dir", "run"]) == 0
    assert "run folder run: the run in it has saved nothing; started over" in capsys.readouterr().err


# -- from Python -------------------------------------------------------------------------------------------------------------


def fit(folder: str, resume: dict[str, Any] | None = None, epochs: int = 2, callbacks: Any = ()) -> Trainer:
    net = Sequential(Linear(2, 1))
    trainer = Trainer(max_epochs=epochs, device="cpu", run_dir=folder, callbacks=[*callbacks, CSVLogger(), Checkpoint()])
    trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), tensors(torch.eye(2), torch.eye(2)[:, :1]), resume=resume)
    return trainer


def test_from_python_the_same_is_refused() -> None:
    fit("new")
    with pytest.raises(UserError, match="holds a run already"):
        fit("new")
    trainer = fit("empty", epochs=0)
    with pytest.raises(UserError, match="holds a run already"):
        trainer.fit(trainer.session.net, trainer.session.loss, trainer.session.optimizer, trainer.session.data)
    assert Path("empty/summary.json").exists()
    content = checkpoint.load(Path("new/checkpoints/last.pt"))
    assert fit("new", content, epochs=3).session.progress.epoch == 3
    assert fit("branch", content, epochs=3).session.progress.epoch == 3
    Path("mine").mkdir()
    Path("mine/metrics.csv").write_text("mine")
    for resume in (None, content):
        with pytest.raises(UserError, match=r"holds metrics\.csv, which is not a run's"):
            fit("mine", resume, epochs=3)
    assert os.listdir("mine") == ["metrics.csv"]


def test_a_run_at_work_is_refused_to_a_second_trainer_of_the_same_process() -> None:
    class Second(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            with pytest.raises(UserError, match=r"in use by another trainer|holds a run already"):
                fit("new")
            if checkpoint.list_checkpoints(Path("new/checkpoints")):
                with pytest.raises(UserError, match="in use by another trainer"):
                    fit("new", checkpoint.load(Path("new/checkpoints/last.pt")))

    assert fit("new", callbacks=[Second()]).session.progress.epoch == 2


# -- many at once ------------------------------------------------------------------------------------------------------------


def begin(path: str, numbered: bool, out: Any, all_have_begun: Any) -> None:
    run = RunFolder(Path(path), numbered=numbered)
    run.open()
    try:
        run.begin()
        out.put(run.path.name)
        all_have_begun.wait(60)
    except UserError as error:
        out.put(str(error))


@pytest.mark.parametrize("numbered", [True, False])
def test_runs_that_begin_at_once_get_a_folder_each_or_one_gets_the_one(numbered: bool) -> None:
    context = multiprocessing.get_context("fork")
    out, all_have_begun = context.SimpleQueue(), context.Event()
    children = [context.Process(target=begin, args=("logs/conf/now", numbered, out, all_have_begun)) for _ in range(6)]
    for child in children:
        child.start()
    said = sorted(out.get() for _ in children)
    all_have_begun.set()
    for child in children:
        child.join()
    if numbered:
        assert said == ["now", *(f"now_{k}" for k in range(2, 7))]
    else:
        assert [s for s in said if "in use by another trainer" not in s] == ["now"]


def test_of_two_comparisons_in_one_folder_the_second_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    first = Comparison(Path("same"))
    first.begin()
    assert "in use by another comparison" in refused(capsys, "compare", "conf.yaml", "--out", "same")
    first.undo()
    assert not Path("same").exists()


@pytest.mark.parametrize("name", ["compare.md", "compare.csv", "figures", "events.out.tfevents.1"])
def test_a_comparison_replaces_no_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    assert f"holds {name} already; choose another with --out" in refused(capsys, "compare", "conf.yaml", "--out", "out")


def test_a_marker_that_another_process_locks_first_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Folder(Path("x")), Folder(Path("x"))
    real = first._lock_marker
    monkeypatch.setattr(first, "_lock_marker", lambda handle: (second.lock(), real(handle))[1])
    with pytest.raises(UserError, match="in use by another process"):
        first.begin()
    assert second.marked


def test_a_marker_that_was_removed_before_it_was_locked_locks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Folder(Path("x")), Folder(Path("x"))
    first.begin()
    real = os.open

    def opened(*args: Any) -> int:
        handle = real(*args)
        first.undo()
        return handle

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(UserError, match="in use by another process"):
        second.lock()


# -- signals and names -------------------------------------------------------------------------------------------------------


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.noting(lambda number: pytest.fail("it was noted")):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_verify_resume_s_runs_are_interrupted_though_signals_are_ignored() -> None:
    fit = {"paths": ["conf.yaml"], "overrides": [], "imports": [], "run_dir": "interrupted"}
    point = json.dumps({"phase": "step", "step": 3, "saved": 0, "engine": "eager", **fit})
    words = [sys.executable, "-m", "trainkit.app.verify_resume.interrupt", point]
    shell = ["/bin/sh", "-c", "trap '' INT TERM; exec \"$@\"", "sh"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([*shell, *words], capture_output=True, env=environment).returncode == 143


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a/b", "a\\b", "\u202ea", "", 1])
def test_a_callback_s_name_is_printable_text(name: Any) -> None:
    with pytest.raises(UserError, match="is not a callback's name"):
        Trainer(callbacks={name: CSVLogger()})


def test_a_terminal_obeys_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "a\x1b[31m\nb"
    shutil.copy("conf.yaml", f"{odd}.yaml")
    shutil.copytree("run", odd)
    shutil.copy("run/checkpoints/last.pt", f"{odd}.pt")
    assert main(["compare", f"{odd}.yaml", "trainer.max_epochs=1", "--out", f"{odd} out"]) == 0
    commands = [
        ["show", f"{odd}.yaml"], ["test", odd], ["predict", odd, "--out", f"{odd}.csv"], ["validate", f"{odd}.pt"],
        ["fit", f"{odd}.yaml"], ["fit", "--resume", odd, "trainer.max_epochs=5"], ["checkpoint", "show", f"{odd}.pt"],
        ["fit", f"{odd}.yaml", "--run-dir", odd], ["test", f"{odd}2"], ["--debug", "fit", f"{odd}3"], ["check", f"{odd}.yaml"],
    ]  # fmt: skip
    for words in commands:
        assert main(words) in (0, 2)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err + Path(f"{odd} out/compare.md").read_text()
    assert "\\x1b[31m" in said.out


# -- predictions -------------------------------------------------------------------------------------------------------------


def predict(out: str | Path) -> int:
    return main(["predict", "run", "--out", str(out)])


def test_predictions_replace_predictions_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.csv").touch()
    for out in ("new.csv", "new.csv", "empty.csv"):
        assert predict(out) == 0
        assert Path(out).read_text().count("\n") == 11
    for text in ("x,y\n", "sample,y0,note\n", "sample,y0", "row,size\n", "\0", "\n"):
        Path("mine.csv").write_text(text)
        assert "mine.csv: holds something other than predictions; choose another with --out" in refused(
            capsys, "predict", "run", "--out", "mine.csv"
        )
    Path("mine.csv").rename("run/predictions.csv")
    assert "holds something other" in refused(capsys, "predict", "run")
    shutil.copy("run/checkpoints/last.pt", "theirs.pt")
    Path("predictions.csv").write_text("mine")
    assert "holds something other" in refused(capsys, "predict", "theirs.pt")


def test_of_a_link_the_target_is_replaced_and_the_link_stays(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    Path("link.csv").symlink_to("folder/target.csv")
    for _ in range(2):
        assert predict("link.csv") == 0
        assert Path("link.csv").is_symlink()
        assert Path("folder/target.csv").is_file()
    Path("run/predictions.csv").symlink_to(Path("elsewhere.csv").resolve())  # a stranger's, perhaps
    assert "run/predictions.csv: is a link" in refused(capsys, "predict", "run")


def test_a_pipe_is_written_to_and_one_without_a_reader_refused(capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    assert "pipe: is a pipe without a reader" in refused(capsys, "predict", "run", "--out", "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()))
    reader.start()
    time.sleep(0.05)
    while predict("pipe"):
        time.sleep(0.05)
    reader.join()
    assert read[0].startswith("row,p_outside,p_inside,answer,truth\n0,")
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)


def test_a_device_is_written_to_and_never_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("/dev/null") == 0
    assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)
    assert predict("/dev/full") == 2
    assert "/dev/full: not saved, No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["| cat > out", ">> out"])
def test_stdout_is_a_place_for_predictions_and_holds_nothing_else(end: str) -> None:
    line = f"{sys.executable} -m trainkit predict run --out /dev/stdout {end}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "10 samples predicted by run/checkpoints/final.pt -> /dev/stdout\n")
    assert Path("out").read_text().startswith("row,p_outside,p_inside,answer,truth\n")
    assert Path("out").read_text().count("\n") == 11


def test_a_prediction_that_fails_leaves_the_old_file_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert predict("new.csv") == 0
    before = tree()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert predict("new.csv") == 2
    assert {k: v for k, v in tree().items() if k != "."} == {k: v for k, v in before.items() if k != "."}
