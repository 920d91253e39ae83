"""Checkpoint: last.pt is the last step, best.pt the best one, the k best have their names, and nothing else is there."""

from __future__ import annotations

import errno
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import Script, files, line, run, score_of, weight

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    Linear,
    LRScheduler,
    MSELoss,
    Sequential,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
)
from trainkit.checkpoint import file as checkpoint
from trainkit.trainer.callback import CallbackError
from trainkit.trainer.evaluation import evaluate
from trainkit.trainer.session import Session

NAN, INF = math.nan, math.inf


# -- last and best -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"max_steps": 4}, {"max_steps": 6}, {"max_epochs": 1}])
def test_last_pt_is_the_last_completed_step(how: dict[str, Any], tmp_path: Path) -> None:
    trainer, _ = run(tmp_path, [1, 1, 1], Checkpoint(every_n_epochs=99), **how)
    assert files(tmp_path) == ["last.pt"]
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert content["state"]["step"] == trainer.session.progress.step
    assert weight(tmp_path, "last.pt") == trainer.session.net.param()[0][0].item()


BEST: list[tuple[str, list[float], int | None]] = [
    # mode, scores, the epoch whose state is best.pt
    ("min", [3, 1, 2, 2], 1),
    ("min", [4, 3, 2, 1], 3),
    ("min", [1, 2, 3, 4], 0),
    ("min", [3, 1, 1, 2], 1),  # the first of equal ones
    ("max", [3, 1, 4, 2], 2),
    ("min", [3, NAN, 2, -INF], 2),  # what is not finite never ranks
    ("max", [3, INF, 2, NAN], 0),
    ("min", [NAN, NAN, 5, NAN], 2),
    ("min", [NAN, INF, NAN, NAN], None),
]


@pytest.mark.parametrize("first", [True, False], ids=["listed_before_the_metric", "listed_after_it"])
@pytest.mark.parametrize(("mode", "scores", "best"), BEST)
def test_best_pt_holds_the_weights_of_the_best_value(
    mode: Any, scores: list[float], best: int | None, first: bool, tmp_path: Path
) -> None:
    saver = Checkpoint("score", mode)
    script = Script(scores)
    net = Sequential(Linear(1, 1, bias=False))
    callbacks: list[Callback] = [saver, script] if first else [script, saver]
    trainer = Trainer(max_epochs=4, batch_size=2, device="cpu", run_dir=tmp_path, callbacks=callbacks)
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), line())
    if best is None:
        assert files(tmp_path) == ["last.pt"]
    else:
        assert weight(tmp_path, "best.pt") == script.weights[best]
        assert score_of(tmp_path, "best.pt") == scores[best]


def test_best_pt_read_back_gives_the_metric_it_was_kept_for(tmp_path: Path) -> None:
    """With schedules and validation inside the epochs: evaluate the file's own net on the validation part."""
    net = Sequential(Linear(2, 8), Tanh(), Linear(8, 2)).initialize(torch.Generator().manual_seed(0))
    callbacks = [
        Checkpoint("val/loss"),
        LRScheduler("step", warmup_steps=3),
        ValidationSplit(0.3, every_n_steps=2),
        CSVLogger(),
    ]
    trainer = Trainer(max_epochs=8, batch_size=5, device="cpu", run_dir=tmp_path, callbacks=callbacks)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=1.5), disk(40, 1))
    rows = [row.split(",") for row in (tmp_path / "metrics.csv").read_text().splitlines()]
    losses = [float(row[rows[0].index("val/loss")]) for row in rows[1:] if row[rows[0].index("val/loss")]]
    content = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    net.load_state_dict(content["model"])
    assert trainer.session.data.val is not None
    value = evaluate(net, trainer.session.loss, trainer.session.data, trainer.session.data.val, 1024).metrics["loss"][0]
    assert value == content["metrics"]["val/loss"][0] == min(losses)
    assert min(losses) < losses[-1]


def test_replicas_rank_by_their_mean(tmp_path: Path) -> None:
    scores = [(1, 9), (4, 4), (NAN, 4.5), (9, 9)]  # means 5, 4, 4.5 of the one that is a number, 9
    run(tmp_path, scores, Checkpoint("score", "min"), replicas=2)
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["state"]["epoch"] == 2


# -- the k best ----------------------------------------------------------------------------------------------------------

TOP: list[tuple[int, list[float], list[str]]] = [
    (2, [5, 4, 6, 3, 7], ["epoch2-step6.pt", "epoch4-step12.pt"]),
    (3, [1, 2, 3, 4, 5], ["epoch1-step3.pt", "epoch2-step6.pt", "epoch3-step9.pt"]),
    (2, [5, 5, 5, 5, 5], ["epoch1-step3.pt", "epoch2-step6.pt"]),
    (9, [3, NAN, 1, NAN, 2], ["epoch1-step3.pt", "epoch3-step9.pt", "epoch5-step15.pt"]),
    (1, [5, 4, 6, 3, 7], []),
]


@pytest.mark.parametrize("cadence", [{"every_n_epochs": 1}, {"every_n_epochs": 99}, {"every_n_steps": 2}, {}], ids=str)
@pytest.mark.parametrize(("k", "scores", "kept"), TOP)
def test_the_k_best_are_kept_whenever_they_are_written(
    k: int, scores: list[float], kept: list[str], cadence: dict[str, int], tmp_path: Path
) -> None:
    _, weights = run(tmp_path, scores, Checkpoint("score", "min", save_top_k=k, **cadence))
    assert files(tmp_path) == sorted(["best.pt", "last.pt", *kept])
    for name in kept:
        assert weight(tmp_path, name) == weights[int(name[5]) - 1]
    assert score_of(tmp_path, "best.pt") == min(s for s in scores if s == s)


def test_top_0_keeps_only_the_last(tmp_path: Path) -> None:
    run(tmp_path, [2, 1], Checkpoint("score", "min", save_top_k=0))
    assert files(tmp_path) == ["last.pt"]


NAMES = [
    ("{epoch}-{score:.3f}", ["1-0.500.pt", "2-0.250.pt"]),
    ("net-{epoch:03d}-{step}", ["net-001-3.pt", "net-002-6.pt"]),
    ("loss{train/loss:.1f}", None),  # a slash in a metric's name makes no folder
    ("s{score:.0f}", ["s0-step6.pt", "s0.pt"]),  # a name that is taken gets the step
    ("best-{epoch}", ["best-1.pt", "best-2.pt"]),
]


@pytest.mark.parametrize(("template", "names"), NAMES)
def test_names_come_from_the_template(template: str, names: list[str] | None, tmp_path: Path) -> None:
    run(tmp_path, [0.5, 0.25], Checkpoint("score", "min", save_top_k=2, filename=template))
    found = [f for f in files(tmp_path) if f not in ("best.pt", "last.pt")]
    assert all((tmp_path / "checkpoints" / f).is_file() for f in found)
    assert len(found) == 2
    if names is not None:
        assert found == names


@pytest.mark.parametrize("every", [1, 2, 99])
def test_a_name_that_all_states_share_loses_none_of_them(every: int, tmp_path: Path) -> None:
    _, weights = run(
        tmp_path, [3, 1, 2, 0.5, 4], Checkpoint("score", "min", save_top_k=2, filename="net", every_n_epochs=every)
    )
    assert weight(tmp_path, "best.pt") == weights[3]
    kept = [f for f in files(tmp_path) if f.startswith("net")]
    assert sorted(weight(tmp_path, f) for f in kept) == sorted([weights[1], weights[3]])


REFUSED = [
    ({"filename": "x{epoch.__class__}"}, "no metric 'epoch.__class__'"),
    ({"filename": "x{score.__init__.__globals__}"}, "no metric 'score.__init__.__globals__'"),
    ({"filename": "x{scor}"}, "no metric 'scor'; did you mean 'score'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_name_that_is_missing_is_an_error(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"callbacks.checkpoint.*{message}"):
        run(tmp_path, [1, 2], Checkpoint("score", "min", save_top_k=2, **arguments))


@pytest.mark.parametrize(
    "filename",
    [
        "{epoch[0]}",
        "{epoch:{step}}",
        "{}",
        "{epoch",
        "{epoch:>1000000000}",
        "../{epoch}",
        "a/b",
        "a\\b",
        "-{epoch}",
        ".hidden",
        "",
        "a\0b",
        "best",
        "last",
        "{val/loss:.3f}",  # -0.5.pt is an option to most commands
        "{score}",
        "{epoch.__class__}",
        "s{score:d}",
        "{epoch}{step}",  # 112: epoch 1 and step 12, or epoch 11 and step 2
        "s{score:g}.{step}",
        "x{epoch}1",
        "x" * 300,
        "v{val/loss:.99f}" * 3,
    ],
)
def test_templates_that_lead_elsewhere_are_refused_at_once(filename: str) -> None:
    with pytest.raises(UserError):
        Checkpoint("score", "min", save_top_k=2, filename=filename)


@pytest.mark.parametrize(
    "arguments", [{"mode": "down"}, {"save_top_k": -1}, {"every_n_epochs": 0}, {"every_n_steps": 0}, {"every_seconds": 0}]
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        Checkpoint(**arguments)


def test_a_monitored_metric_that_is_missing_is_an_error_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks\.checkpoint: no metric 'scor'; did you mean 'score'"):
        run(tmp_path, [1], Checkpoint("scor", "min"))


# -- when ----------------------------------------------------------------------------------------------------------------

CADENCES: list[tuple[dict[str, Any], list[int]]] = [
    # three steps an epoch, four epochs: the steps at which last.pt is written
    ({"every_n_epochs": 1}, [3, 6, 9, 12]),
    ({"every_n_epochs": 3}, [9, 12]),  # and once at the end
    ({"every_n_steps": 5}, [5, 10, 12]),
    ({"every_n_steps": 2, "every_n_epochs": 2}, [2, 4, 6, 8, 10, 12]),  # step 6 is written within the epoch, and epoch 2 done
    ({"every_seconds": 1e9}, [12]),
    ({"every_seconds": 1e-9}, list(range(1, 13))),
]


@pytest.mark.parametrize(("cadence", "steps"), CADENCES, ids=[str(c) for c, _ in CADENCES])
def test_when_it_saves(cadence: dict[str, Any], steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr("trainkit.callbacks.checkpoint.save", lambda content, path: saved.append(content["state"]["step"]))
    run(tmp_path, [1] * 4, Checkpoint(**cadence))
    assert sorted(set(saved)) == steps


def test_by_itself_it_saves_at_epochs_ends_and_takes_a_twentieth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock ticks one second a step, a save takes half a second: at least ten seconds lie between two saves."""
    now = 0.0
    saved: list[int] = []

    def save(content: dict[str, Any], path: Path) -> None:
        nonlocal now
        saved.append(content["state"]["step"])
        now += 0.5

    class Tick(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            nonlocal now
            now += 1

    monkeypatch.setattr("trainkit.callbacks.checkpoint.save", save)
    monkeypatch.setattr("trainkit.callbacks.checkpoint.time.monotonic", lambda: now)
    run(tmp_path, [1] * 10, Checkpoint(), Tick())
    assert saved == [3, 15, 27, 30]


def test_saving_waits_for_nothing_it_does_not_need(tmp_path: Path) -> None:
    """A state that ranks is kept in memory: with a save at the end alone nothing is written before it."""
    seen: list[list[str]] = []

    class Look(Callback):
        def on_train_epoch_start(self, session: Session) -> None:
            seen.append(files(tmp_path))

    began = time.monotonic()
    run(tmp_path, [3, 2, 1], Checkpoint("score", "min", every_n_epochs=99), Look())
    assert seen == [[], [], []]
    assert files(tmp_path) == ["best.pt", "last.pt"]
    assert time.monotonic() - began < 30


# -- errors --------------------------------------------------------------------------------------------------------------


def boom(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_files_and_names_path_and_cause(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Break(Callback):
        def on_train_epoch_start(self, session: Session) -> None:
            if session.progress.epoch == 2:
                monkeypatch.setattr(os, call, boom)

    before: dict[str, bytes] = {}

    class Look(Callback):
        def on_train_epoch_start(self, session: Session) -> None:
            before.update({p.name: p.read_bytes() for p in (tmp_path / "checkpoints").iterdir()})

    with pytest.raises(
        UserError, match=r"callbacks\.checkpoint on_checkpoint, epoch 4.*\.pt: not saved, No space left.*ENOSPC"
    ):
        run(tmp_path, [3, 2, 1, 0], Look(), Break(), Checkpoint("score", "min", save_top_k=2, every_n_epochs=1))
    monkeypatch.undo()
    assert set(before) == {"best.pt", "last.pt", "epoch1-step3.pt", "epoch2-step6.pt"}
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").iterdir()} == before
    trainer, _ = run(tmp_path, [3, 2, 1, 0], Checkpoint("score", "min", save_top_k=2, every_n_epochs=1), resume=True)
    assert trainer.session.progress.epoch == 4
    assert files(tmp_path) == ["best.pt", "epoch3-step9.pt", "epoch4-step12.pt", "last.pt"]


def test_a_state_that_cannot_be_stored_is_told_by_name(tmp_path: Path) -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"folder": tmp_path}

    with pytest.raises((UserError, CallbackError), match=r"callbacks\.odd\.folder: \w*Path.* cannot be stored"):
        run(tmp_path, [1], Checkpoint(), Odd())
