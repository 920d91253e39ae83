"""Checkpoint over resumes: stopped, killed or sent back to an earlier state, a run ends with the files of one that was not."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import Script, but_gone, contents, files, line, run, score_of, weight

from trainkit import SGD, Callback, Checkpoint, CSVLogger, EarlyStopping, Linear, MSELoss, Sequential, Trainer, UserError
from trainkit.checkpoint import file as checkpoint
from trainkit.trainer.callback import CallbackError
from trainkit.trainer.session import Session


def savers() -> list[Callback]:
    return [
        Checkpoint("score", "min", save_top_k=2, every_n_epochs=1),
        EarlyStopping("score", "min", patience=9, restore_best=True),
        CSVLogger(),
    ]


SCORES = [5, 4, 6, 3, 7, 2]


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        torch.manual_seed(0)
        run(tmp_path / name, SCORES, *savers())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 5  # last, best, final and the best two by name


class Stop(Callback):
    def __init__(self, step: int = 0) -> None:
        self.step = step

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [1, 3, 5, 6, 9, 12, 16, 18])
def test_a_run_stopped_and_resumed_ends_with_the_same_bytes(step: int, tmp_path: Path) -> None:
    same = {"config": "of all three"}  # else a checkpoint has the step of Stop in its own
    torch.manual_seed(0)
    run(tmp_path / "whole", SCORES, *savers(), Stop(), **same)
    torch.manual_seed(0)
    stopped, _ = run(tmp_path / "run", SCORES, *savers(), Stop(step), **same)
    assert stopped.session.progress.step == step
    run(tmp_path / "run", SCORES, *savers(), Stop(), resume=True, **same)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_files_displaced_before_a_kill_are_deleted_by_the_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    saver = Checkpoint("score", "min", save_top_k=2, every_n_epochs=1)

    def killed(session: Session) -> None:
        if saver.to_delete:
            raise Killed

    monkeypatch.setattr(saver, "_delete_displaced", killed)
    with pytest.raises(Killed):
        run(tmp_path, [3, 2, 1, 0], saver)
    assert files(tmp_path) == ["best.pt", "epoch1-step3.pt", "epoch2-step6.pt", "epoch3-step9.pt", "last.pt"]
    run(tmp_path, [3, 2, 1, 0], Checkpoint("score", "min", save_top_k=2, every_n_epochs=1), resume=True)
    assert files(tmp_path) == ["best.pt", "epoch3-step9.pt", "epoch4-step12.pt", "last.pt"]
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["callbacks"]["checkpoint"]["gone"] == [
        [2.0, "epoch2-step6.pt", 6]
    ]


@pytest.mark.parametrize("writes", range(1, 5))
def test_a_kill_between_two_files_leaves_none_that_lists_a_file_not_there(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs wait for one save of four files: epoch 1, epoch 2, best, last."""
    done: list[str] = []

    class Killed(BaseException):
        pass

    def save(content: dict[str, Any], path: Path) -> None:
        if len(done) == writes:
            raise Killed
        checkpoint.save(content, path)
        done.append(path.name)

    monkeypatch.setattr("trainkit.callbacks.checkpoint.save", save)
    with pytest.raises(Killed):
        run(tmp_path, [3, 2, 1, 0], Checkpoint("score", "min", save_top_k=2, every_n_epochs=2))
    assert done == ["epoch1-step3.pt", "epoch2-step6.pt", "best.pt", "last.pt"][:writes]
    for name in files(tmp_path):
        kept = checkpoint.load(tmp_path / "checkpoints" / name)["callbacks"]["checkpoint"]["kept"]
        assert {file for _, file, _ in kept} <= set(files(tmp_path))


def test_fewer_are_kept_when_fewer_are_asked_for_on_resume(tmp_path: Path) -> None:
    run(tmp_path, [4, 3, 2], Checkpoint("score", "min", save_top_k=3))
    run(tmp_path, [4, 3, 2, 1], Checkpoint("score", "min", save_top_k=2), resume=True)
    assert files(tmp_path) == ["best.pt", "epoch3-step9.pt", "epoch4-step12.pt", "last.pt"]
    run(tmp_path, [4, 3, 2, 1, 0], Checkpoint("score", "min"), resume=True)
    assert files(tmp_path) == ["best.pt", "last.pt"]
    assert score_of(tmp_path, "best.pt") == 0


@pytest.mark.parametrize("then", [Checkpoint("score", "max"), Checkpoint("train/loss")], ids=["mode", "metric"])
def test_another_metric_on_resume_ranks_anew(then: Checkpoint, tmp_path: Path) -> None:
    run(tmp_path, [1, 1], Checkpoint("score", "min"))
    trainer, weights = run(tmp_path, [1, 1, 5], then, resume=True)
    assert weight(tmp_path, "best.pt") == weights[0] == trainer.session.net.param()[0][0].item()


def test_the_best_of_a_future_that_was_given_up_stays_until_a_better_state_comes(tmp_path: Path) -> None:
    saver = {"save_top_k": 4, "every_n_epochs": 1}
    run(tmp_path, [9, 8, 7, 1], Checkpoint("score", "min", **saver))
    (early,) = tmp_path.glob("checkpoints/epoch3-*.pt")
    early.rename(tmp_path / "checkpoints" / "last.pt")  # back to epoch 3
    for name in ("epoch4-step12.pt", "best.pt"):
        (tmp_path / "checkpoints" / name).rename(tmp_path / name)
    (tmp_path / "best.pt").rename(tmp_path / "checkpoints" / "best.pt")
    run(tmp_path, [9, 8, 7, 20, 6, 20], Checkpoint("score", "min", **saver), resume=True)
    assert score_of(tmp_path, "best.pt") == 1
    ranked = checkpoint.load(tmp_path / "checkpoints" / "last.pt")["callbacks"]["checkpoint"]["kept"]
    assert [score for score, _, _ in ranked] == [6, 8, 9, 20]  # the file of 7 is last.pt now
    run(tmp_path, [9, 8, 7, 20, 6, 20, 0.5], Checkpoint("score", "min", **saver), resume=True)
    assert score_of(tmp_path, "best.pt") == 0.5


# -- best.pt over resumes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["best.pt", "epoch1-step3.pt", "last.pt"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_worse_state_replaces_best_pt_whatever_is_resumed(k: int, name: str, tmp_path: Path) -> None:
    run(tmp_path, [3, 1, 2, 4], Checkpoint("score", "min", save_top_k=3, every_n_epochs=1))
    (tmp_path / "checkpoints" / name).replace(tmp_path / "from.pt")
    if name == "best.pt":
        (tmp_path / "checkpoints" / name).write_bytes((tmp_path / "from.pt").read_bytes())
    (tmp_path / "checkpoints" / "last.pt").write_bytes((tmp_path / "from.pt").read_bytes())
    run(tmp_path, [9] * 6, Checkpoint("score", "min", save_top_k=k, every_n_epochs=1), resume=True)
    assert score_of(tmp_path, "best.pt") == 1
    run(tmp_path, [9] * 6 + [0], Checkpoint("score", "min", save_top_k=k, every_n_epochs=1), resume=True)
    assert score_of(tmp_path, "best.pt") == 0


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("writes", range(1, 10))
def test_a_kill_between_any_two_files_ends_in_the_same_bytes(
    writes: int, every: int, k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def savers() -> list[Callback]:
        return [Checkpoint("score", "min", save_top_k=k, every_n_epochs=every)]

    torch.manual_seed(0)
    run(tmp_path / "whole", SCORES, *savers())
    left = writes

    def save(content: dict[str, Any], path: Path) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        checkpoint.save(content, path)

    torch.manual_seed(0)
    with monkeypatch.context() as m:
        m.setattr("trainkit.callbacks.checkpoint.save", save)
        with suppress(Killed):
            run(tmp_path / "run", SCORES, *savers())
    if not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
        return  # there is no earlier state to go on from
    run(tmp_path / "run", SCORES, *savers(), resume=True)
    assert but_gone(tmp_path / "run") == but_gone(tmp_path / "whole")


def test_a_lost_best_pt_comes_back_from_the_best_by_name(tmp_path: Path) -> None:
    run(tmp_path, [3, 1, 2], Checkpoint("score", "min", save_top_k=2))
    (tmp_path / "checkpoints" / "best.pt").unlink()
    run(tmp_path, [3, 1, 2, 4], Checkpoint("score", "min", save_top_k=2), resume=True)
    assert score_of(tmp_path, "best.pt") == 1


def test_a_renamed_callback_knows_its_best_pt(tmp_path: Path) -> None:
    run(tmp_path, [3, 1, 2], Checkpoint("score", "min"))

    class Saver(Checkpoint):
        """Under another name."""

    run(tmp_path, [3, 1, 2, 4], Saver("score", "min"), resume=True)
    assert score_of(tmp_path, "best.pt") == 1


def test_another_metric_on_resume_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, [1, 1], Checkpoint("score", "min"))
    run(tmp_path, [1, 1, 5], Checkpoint("score", "max"), resume=True)
    assert capsys.readouterr().err == (
        "callbacks.checkpoint: the checkpoint ranks by score (min), this run by score (max): best.pt is ranked again\n"
    )


def test_a_best_pt_that_cannot_be_read_now_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, [3, 1], Checkpoint("score", "min"))
    before = contents(tmp_path)
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")

    read = checkpoint._bytes

    def fail(path: Path) -> bytes:
        if path.name == "best.pt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(checkpoint, "_bytes", fail)
    net = Sequential(Linear(1, 1, bias=False))
    callbacks = [Script([3, 1, 2]), Checkpoint("score", "min")]
    trainer = Trainer(max_epochs=3, batch_size=2, device="cpu", run_dir=tmp_path, callbacks=callbacks)
    with pytest.raises(UserError, match=r"best\.pt: cannot be read, Input/output error"):
        trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), line(), resume=content)
    monkeypatch.undo()
    assert contents(tmp_path) == before


# -- what a resume may not lose -----------------------------------------------------------------------------------------------


def test_a_last_pt_that_cannot_be_read_now_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older state would be resumed, and the next save would replace a last.pt that may be whole."""
    run(tmp_path, [3, 1], Checkpoint("score", "min"))
    read = checkpoint._bytes

    def fail(path: Path) -> bytes:
        if path.name == "last.pt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(checkpoint, "_bytes", fail)
    with pytest.raises(UserError, match=r"last\.pt: cannot be read, Input/output error"):
        checkpoint.load_latest(tmp_path / "checkpoints")


def test_final_pt_stays_until_a_resumed_run_has_saved(tmp_path: Path) -> None:
    class Break(Callback):
        def on_train_epoch_start(self, session: Session) -> None:
            raise ValueError

    run(
        tmp_path,
        [1, 3],
        Checkpoint("score", "min", every_n_epochs=1),
        EarlyStopping("score", "min", restore_best=True),
    )
    final = tmp_path / "checkpoints" / "final.pt"
    before = final.read_bytes()
    with pytest.raises(CallbackError):
        run(
            tmp_path,
            [1, 3, 2],
            Checkpoint("score", "min"),
            EarlyStopping("score", "min", restore_best=True),
            Break(),
            resume=True,
        )
    assert final.read_bytes() == before
