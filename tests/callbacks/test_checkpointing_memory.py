"""Checkpoint and memory: what a save needs, what waits for one, and what is too large to be saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import contents, run
from torture.tally import lowest_mark, status

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    EarlyStopping,
    Linear,
    Sequential,
    Tanh,
    Trainer,
    UserError,
    disk,
)
from trainkit.trainer.session import Session


class Measured(Checkpoint):
    """How much memory its hooks took beyond the run, in bytes."""

    def on_checkpoint(self, session: Session) -> None:
        before = lowest_mark()
        super().on_checkpoint(session)
        self.took_bytes = max(getattr(self, "took_bytes", 0), int((status("VmHWM") - before) * 2**20))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="asks /proc for the memory of this process")
@pytest.mark.parametrize("arguments", [{}, {"monitor": "train/loss"}, {"monitor": "train/loss", "save_top_k": 2}], ids=str)
def test_a_save_needs_at_most_one_and_a_half_times_the_memory_of_the_state(arguments: dict[str, Any], tmp_path: Path) -> None:
    net = Sequential(Linear(2, 1200), Tanh(), Linear(1200, 1200), Tanh(), Linear(1200, 2))
    saver = Measured(every_n_epochs=1, **arguments)
    callbacks = [EarlyStopping("train/loss", patience=9, restore_best=True), saver]
    trainer = Trainer(max_epochs=3, device="cpu", run_dir=tmp_path, callbacks=callbacks)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.01, momentum=0.9), disk(32, 1))
    size = (tmp_path / "checkpoints" / "last.pt").stat().st_size
    assert size > 15e6
    assert saver.took_bytes < 1.5 * size


def test_a_state_that_waits_does_not_move_on_with_the_run(tmp_path: Path) -> None:
    """Early stopping's best parameters, flat buffers, lists: what ranked at epoch 2 is written after epoch 4."""
    for name, every in {"late": 9, "soon": 1}.items():
        torch.manual_seed(0)
        callbacks = [
            EarlyStopping("score", "min", patience=9, restore_best=True),
            Checkpoint("score", "min", every_n_epochs=every),
        ]
        run(tmp_path / name, [2, 1, 3, 4], *callbacks, config="of both")  # else a checkpoint has every_n_epochs in its own
    assert contents(tmp_path / "late")["best.pt"] == contents(tmp_path / "soon")["best.pt"]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 37748736 bytes")]
)
def test_too_little_memory_in_a_callback_is_an_error_of_the_user_s(error: Exception, tmp_path: Path) -> None:
    class Hungry(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            raise error

    with pytest.raises(UserError, match=r"^callbacks\.hungry on_train_epoch_end, epoch 1, step 3: not enough memory.*smaller"):
        run(tmp_path, [1], Hungry())


def test_a_run_that_could_not_be_saved_is_refused_before_it_writes(tmp_path: Path) -> None:
    class Long(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"list": [0.5] * 300_000}

    with pytest.raises(
        UserError, match=r"^checkpoint: it would hold 300,\d+ values \(a file can hold 250,000\); keep long lists"
    ):
        run(tmp_path, [1], Checkpoint(), Long())
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []


def test_too_many_replicas_are_refused_with_how_many_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^checkpoint: .*; use 3\d,\d+ replicas or fewer, not 60,000"):
        run(tmp_path, [1], Checkpoint(), replicas=60_000)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []
    trainer, _ = run(tmp_path, [1], Checkpoint(), replicas=7_000)
    assert trainer.session.progress.step == 3


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "final.pt"])
def test_a_folder_in_the_place_of_a_checkpoint_is_refused_before_training(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "x").mkdir(parents=True)
    os.mkfifo(tmp_path / "checkpoints" / "pipe")
    (tmp_path / "checkpoints" / "pipe").rename(tmp_path / "checkpoints" / name)
    with pytest.raises(UserError):
        run(tmp_path, [1], Checkpoint())
