"""Checkpoint: last.pt is the last step, best.pt the best one, the k best have their names, and nothing else is there."""

from __future__ import annotations

import errno
import math
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torture.tally import lowest_mark, status

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    Dataset,
    EarlyStopping,
    Linear,
    LRScheduler,
    MSELoss,
    Sequential,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.checkpoint import file as checkpoint
from trainkit.trainer.callback import CallbackError
from trainkit.trainer.evaluation import evaluate
from trainkit.trainer.session import Session

NAN, INF = math.nan, math.inf


class Script(Callback):
    """Logs `score` at an epoch's end, and remembers the weight there."""

    def __init__(self, script: Sequence[Any]) -> None:
        self.script = script
        self.weights: list[float] = []

    def on_train_epoch_end(self, session: Session) -> None:
        session.log("score", self.script[session.progress.epoch])
        self.weights.append(session.net.param()[0][0].flatten()[0].item())


def line() -> Dataset:
    x = torch.linspace(-1, 1, 6).unsqueeze(1)
    return tensors(x, 2 * x)


def run(
    folder: Path, script: Sequence[Any], *callbacks: Callback, resume: bool = False, **how: Any
) -> tuple[Trainer, list[float]]:
    """Epochs of three steps, one for each entry of the script."""
    net = Sequential(Linear(1, 1, bias=False)).initialize(torch.Generator().manual_seed(0))
    scripted = Script(script)
    settings = {"max_epochs": len(script), "batch_size": 2, "device": "cpu", "run_dir": folder}
    trainer = Trainer(**settings | how, callbacks=[*callbacks, scripted])
    content = checkpoint.load(folder / "checkpoints" / "last.pt") if resume else None
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), line(), resume=content)
    return trainer, scripted.weights


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def weight(folder: Path, name: str) -> float:
    return checkpoint.load(folder / "checkpoints" / name)["model"]["0.weight"].flatten()[0].item()


def score_of(folder: Path, name: str) -> Any:
    return checkpoint.load(folder / "checkpoints" / name)["metrics"]["score"][0]


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
    value = evaluate(net, trainer.session.loss, trainer.session.data, trainer.session.data.val, 1024)["loss"][0]
    assert value == content["metrics"]["val/loss"][0] == min(losses)
    assert min(losses) < losses[-1]


def test_replicas_rank_by_their_mean(tmp_path: Path) -> None:
    scores = [(1, 9), (4, 4), (NAN, 4.5), (9, 9)]  # means 5, 4, 4.5 of the one that is a number, 9
    run(tmp_path, scores, Checkpoint("score"), replicas=2)
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
    _, weights = run(tmp_path, scores, Checkpoint("score", save_top_k=k, **cadence))
    assert files(tmp_path) == sorted(["best.pt", "last.pt", *kept])
    for name in kept:
        assert weight(tmp_path, name) == weights[int(name[5]) - 1]
    assert score_of(tmp_path, "best.pt") == min(s for s in scores if s == s)


def test_top_0_keeps_only_the_last(tmp_path: Path) -> None:
    run(tmp_path, [2, 1], Checkpoint("score", save_top_k=0))
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
    run(tmp_path, [0.5, 0.25], Checkpoint("score", save_top_k=2, filename=template))
    found = [f for f in files(tmp_path) if f not in ("best.pt", "last.pt")]
    assert all((tmp_path / "checkpoints" / f).is_file() for f in found)
    assert len(found) == 2
    if names is not None:
        assert found == names


@pytest.mark.parametrize("every", [1, 2, 99])
def test_a_name_that_all_states_share_loses_none_of_them(every: int, tmp_path: Path) -> None:
    _, weights = run(tmp_path, [3, 1, 2, 0.5, 4], Checkpoint("score", save_top_k=2, filename="net", every_n_epochs=every))
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
        run(tmp_path, [1, 2], Checkpoint("score", save_top_k=2, **arguments))


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
        Checkpoint("score", save_top_k=2, filename=filename)


@pytest.mark.parametrize(
    "arguments", [{"mode": "down"}, {"save_top_k": -1}, {"every_n_epochs": 0}, {"every_n_steps": 0}, {"every_seconds": 0}]
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        Checkpoint(**arguments)


def test_a_monitored_metric_that_is_missing_is_an_error_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks\.checkpoint: no metric 'scor'; did you mean 'score'"):
        run(tmp_path, [1], Checkpoint("scor"))


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
        run(tmp_path, [3, 2, 1, 0], Look(), Break(), Checkpoint("score", save_top_k=2, every_n_epochs=1))
    monkeypatch.undo()
    assert set(before) == {"best.pt", "last.pt", "epoch1-step3.pt", "epoch2-step6.pt"}
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").iterdir()} == before
    trainer, _ = run(tmp_path, [3, 2, 1, 0], Checkpoint("score", save_top_k=2, every_n_epochs=1), resume=True)
    assert trainer.session.progress.epoch == 4
    assert files(tmp_path) == ["best.pt", "epoch3-step9.pt", "epoch4-step12.pt", "last.pt"]


def test_a_state_that_cannot_be_stored_is_told_by_name(tmp_path: Path) -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"folder": tmp_path}

    with pytest.raises((UserError, CallbackError), match=r"callbacks\.odd\.folder: \w*Path.* cannot be stored"):
        run(tmp_path, [1], Checkpoint(), Odd())


# -- the same files again ------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "checkpoints").iterdir()}


def but_gone(folder: Path) -> dict[str, bytes]:
    """The files without the list of those that are to be deleted: it depends on when a run was saved last."""
    found = {}
    for path in (folder / "checkpoints").iterdir():
        content = checkpoint.load(path)
        content["callbacks"]["checkpoint"]["gone"] = []
        found[path.name] = checkpoint.dump(content)
    return found


def savers() -> list[Callback]:
    return [
        Checkpoint("score", save_top_k=2, every_n_epochs=1),
        EarlyStopping("score", patience=9, restore_best=True),
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

    saver = Checkpoint("score", save_top_k=2, every_n_epochs=1)

    def killed(session: Session) -> None:
        if saver.to_delete:
            raise Killed

    monkeypatch.setattr(saver, "_delete_displaced", killed)
    with pytest.raises(Killed):
        run(tmp_path, [3, 2, 1, 0], saver)
    assert files(tmp_path) == ["best.pt", "epoch1-step3.pt", "epoch2-step6.pt", "epoch3-step9.pt", "last.pt"]
    run(tmp_path, [3, 2, 1, 0], Checkpoint("score", save_top_k=2, every_n_epochs=1), resume=True)
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
        run(tmp_path, [3, 2, 1, 0], Checkpoint("score", save_top_k=2, every_n_epochs=2))
    assert done == ["epoch1-step3.pt", "epoch2-step6.pt", "best.pt", "last.pt"][:writes]
    for name in files(tmp_path):
        kept = checkpoint.load(tmp_path / "checkpoints" / name)["callbacks"]["checkpoint"]["kept"]
        assert {file for _, file, _ in kept} <= set(files(tmp_path))


def test_fewer_are_kept_when_fewer_are_asked_for_on_resume(tmp_path: Path) -> None:
    run(tmp_path, [4, 3, 2], Checkpoint("score", save_top_k=3))
    run(tmp_path, [4, 3, 2, 1], Checkpoint("score", save_top_k=2), resume=True)
    assert files(tmp_path) == ["best.pt", "epoch3-step9.pt", "epoch4-step12.pt", "last.pt"]
    run(tmp_path, [4, 3, 2, 1, 0], Checkpoint("score"), resume=True)
    assert files(tmp_path) == ["best.pt", "last.pt"]
    assert score_of(tmp_path, "best.pt") == 0


@pytest.mark.parametrize("then", [Checkpoint("score", "max"), Checkpoint("train/loss")], ids=["mode", "metric"])
def test_another_metric_on_resume_ranks_anew(then: Checkpoint, tmp_path: Path) -> None:
    run(tmp_path, [1, 1], Checkpoint("score"))
    trainer, weights = run(tmp_path, [1, 1, 5], then, resume=True)
    assert weight(tmp_path, "best.pt") == weights[0] == trainer.session.net.param()[0][0].item()


@pytest.mark.parametrize("name", ["../outside.pt", "/etc/x.pt", "a/../../outside.pt", "..", "-x.pt"])
@pytest.mark.parametrize("key", ["kept", "gone"])
def test_a_strangers_checkpoint_deletes_no_file_outside(name: str, key: str, tmp_path: Path) -> None:
    run(tmp_path / "run", [3, 2], Checkpoint("score", save_top_k=2))
    victim = tmp_path / "run" / "outside.pt"
    victim.write_text("mine")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["callbacks"]["checkpoint"][key] = [[9.0, name, 3]]
    checkpoint.save(content, path)
    with pytest.raises(UserError, match="needs a plain name"):
        run(tmp_path / "run", [3, 2, 1, 0], Checkpoint("score", save_top_k=1), resume=True)
    assert victim.read_text() == "mine"


def test_saving_waits_for_nothing_it_does_not_need(tmp_path: Path) -> None:
    """A state that ranks is kept in memory: with a save at the end alone nothing is written before it."""
    seen: list[list[str]] = []

    class Look(Callback):
        def on_train_epoch_start(self, session: Session) -> None:
            seen.append(files(tmp_path))

    began = time.monotonic()
    run(tmp_path, [3, 2, 1], Checkpoint("score", every_n_epochs=99), Look())
    assert seen == [[], [], []]
    assert files(tmp_path) == ["best.pt", "last.pt"]
    assert time.monotonic() - began < 30


def test_the_best_of_a_future_that_was_given_up_stays_until_a_better_state_comes(tmp_path: Path) -> None:
    saver = {"save_top_k": 4, "every_n_epochs": 1}
    run(tmp_path, [9, 8, 7, 1], Checkpoint("score", **saver))
    (early,) = tmp_path.glob("checkpoints/epoch3-*.pt")
    early.rename(tmp_path / "checkpoints" / "last.pt")  # back to epoch 3
    for name in ("epoch4-step12.pt", "best.pt"):
        (tmp_path / "checkpoints" / name).rename(tmp_path / name)
    (tmp_path / "best.pt").rename(tmp_path / "checkpoints" / "best.pt")
    run(tmp_path, [9, 8, 7, 20, 6, 20], Checkpoint("score", **saver), resume=True)
    assert score_of(tmp_path, "best.pt") == 1
    ranked = checkpoint.load(tmp_path / "checkpoints" / "last.pt")["callbacks"]["checkpoint"]["kept"]
    assert [score for score, _, _ in ranked] == [6, 8, 9, 20]  # the file of 7 is last.pt now
    run(tmp_path, [9, 8, 7, 20, 6, 20, 0.5], Checkpoint("score", **saver), resume=True)
    assert score_of(tmp_path, "best.pt") == 0.5


# -- a checkpoint's lists ------------------------------------------------------------------------------------------------


def forge(folder: Path, **lists: Any) -> None:
    path = folder / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["callbacks"]["checkpoint"].update(lists)
    checkpoint.save(content, path)


FOREIGN: dict[str, list[Any]] = {  # file names, with what the list says of them
    "notes": ["notes.txt"],
    "own but last": ["last.pt", "best.pt", "final.pt"],
    "other checkpoints": ["other.pt", "epoch01-step3.pt.pt"],
    "another run's file under a name of the template": ["epoch9-step27.pt"],
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("key", ["kept", "gone"])
def test_a_forged_list_deletes_no_file_that_is_not_the_run_s(name: str, key: str, tmp_path: Path) -> None:
    run(tmp_path / "theirs", [3, 2, 1], Checkpoint("score", save_top_k=3, every_n_epochs=1))
    run(tmp_path / "mine", [3, 2], Checkpoint("score", save_top_k=2, every_n_epochs=1))
    folder = tmp_path / "mine" / "checkpoints"
    for file in FOREIGN[name]:
        if not (folder / file).exists():
            (folder / file).write_bytes((tmp_path / "theirs" / "checkpoints" / "epoch3-step9.pt").read_bytes())
    forge(tmp_path / "mine", **{key: [[score, file, step] for file in FOREIGN[name] for score, step in ((9.0, 3), (9.0, 6))]})
    before = contents(tmp_path / "mine")
    run(tmp_path / "mine", [3, 2, 1, 0.5], Checkpoint("score", save_top_k=1, every_n_epochs=1), resume=True)
    after = contents(tmp_path / "mine")
    written = {"last.pt", "best.pt", "final.pt"}  # the run's own; final.pt is deleted by every run
    assert {f: after.get(f) for f in FOREIGN[name] if f not in written} == {
        f: before[f] for f in FOREIGN[name] if f not in written
    }
    assert {"last.pt", "best.pt"} <= set(after)


def test_a_listed_file_is_told_about_if_it_is_not_the_one_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, [3, 2], Checkpoint("score", save_top_k=2))
    forge(tmp_path, gone=[[3.5, "epoch1-step3.pt", 3]], kept=[[2.0, "epoch2-step6.pt", 6]])  # it has another score
    run(tmp_path, [3, 2, 1], Checkpoint("score", save_top_k=2), resume=True)
    assert "callbacks.checkpoint: not deleted, these are not the files that the checkpoint lists: epoch1-step3.pt" in (
        capsys.readouterr().err
    )
    assert "epoch1-step3.pt" in files(tmp_path)


@pytest.mark.parametrize("entry", [[0.5, "last.pt", 3], [0.5, "epoch1-step3.pt", 3]], ids=["last.pt", "a ranked file"])
@pytest.mark.parametrize("key", ["kept", "gone"])
def test_a_list_of_thousands_costs_no_time(key: str, entry: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, [3, 2], Checkpoint("score", save_top_k=2))
    forge(tmp_path, **{key: [entry] * 20_000})
    read: list[str] = []
    monkeypatch.setattr("trainkit.callbacks.checkpoint.load", lambda path: read.append(path.name) or checkpoint.load(path))
    run(tmp_path, [3, 2, 1], Checkpoint("score", save_top_k=90_000), resume=True)
    assert len(read) <= 3


def test_another_template_on_resume_leaves_the_old_files_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, [3, 2], Checkpoint("score", save_top_k=2))
    run(tmp_path, [3, 2, 1, 0], Checkpoint("score", save_top_k=1, filename="net{epoch}"), resume=True)
    said = capsys.readouterr().err
    assert "no longer ranked, since filename cannot produce these names: epoch1-step3.pt, epoch2-step6.pt" in said
    assert files(tmp_path) == ["best.pt", "epoch1-step3.pt", "epoch2-step6.pt", "last.pt"]


# -- best.pt over resumes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["best.pt", "epoch1-step3.pt", "last.pt"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_worse_state_replaces_best_pt_whatever_is_resumed(k: int, name: str, tmp_path: Path) -> None:
    run(tmp_path, [3, 1, 2, 4], Checkpoint("score", save_top_k=3, every_n_epochs=1))
    (tmp_path / "checkpoints" / name).replace(tmp_path / "from.pt")
    if name == "best.pt":
        (tmp_path / "checkpoints" / name).write_bytes((tmp_path / "from.pt").read_bytes())
    (tmp_path / "checkpoints" / "last.pt").write_bytes((tmp_path / "from.pt").read_bytes())
    run(tmp_path, [9] * 6, Checkpoint("score", save_top_k=k, every_n_epochs=1), resume=True)
    assert score_of(tmp_path, "best.pt") == 1
    run(tmp_path, [9] * 6 + [0], Checkpoint("score", save_top_k=k, every_n_epochs=1), resume=True)
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
        return [Checkpoint("score", save_top_k=k, every_n_epochs=every)]

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
    run(tmp_path, [3, 1, 2], Checkpoint("score", save_top_k=2))
    (tmp_path / "checkpoints" / "best.pt").unlink()
    run(tmp_path, [3, 1, 2, 4], Checkpoint("score", save_top_k=2), resume=True)
    assert score_of(tmp_path, "best.pt") == 1


def test_a_renamed_callback_knows_its_best_pt(tmp_path: Path) -> None:
    run(tmp_path, [3, 1, 2], Checkpoint("score"))

    class Saver(Checkpoint):
        """Under another name."""

    run(tmp_path, [3, 1, 2, 4], Saver("score"), resume=True)
    assert score_of(tmp_path, "best.pt") == 1


def test_another_metric_on_resume_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, [1, 1], Checkpoint("score"))
    run(tmp_path, [1, 1, 5], Checkpoint("score", "max"), resume=True)
    assert capsys.readouterr().err == (
        "callbacks.checkpoint: the checkpoint ranks by score (min), this run by score (max): best.pt is ranked again\n"
    )


def test_a_best_pt_that_cannot_be_read_now_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, [3, 1], Checkpoint("score"))
    before = contents(tmp_path)
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")

    read = checkpoint._bytes

    def fail(path: Path) -> bytes:
        if path.name == "best.pt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(checkpoint, "_bytes", fail)
    net = Sequential(Linear(1, 1, bias=False))
    callbacks = [Script([3, 1, 2]), Checkpoint("score")]
    trainer = Trainer(max_epochs=3, batch_size=2, device="cpu", run_dir=tmp_path, callbacks=callbacks)
    with pytest.raises(UserError, match=r"best\.pt: cannot be read, Input/output error"):
        trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), line(), resume=content)
    monkeypatch.undo()
    assert contents(tmp_path) == before


# -- memory, and what cannot be saved ------------------------------------------------------------------------------------


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
        callbacks = [EarlyStopping("score", patience=9, restore_best=True), Checkpoint("score", every_n_epochs=every)]
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
    with pytest.raises(UserError, match=r"^checkpoint: .*; use 2\d,\d+ replicas or fewer, not 60,000"):
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


# -- what a resume may not lose -----------------------------------------------------------------------------------------------


def test_a_last_pt_that_cannot_be_read_now_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older state would be resumed, and the next save would replace a last.pt that may be whole."""
    run(tmp_path, [3, 1], Checkpoint("score"))
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

    run(tmp_path, [1, 3], Checkpoint("score", every_n_epochs=1), EarlyStopping("score", restore_best=True))
    final = tmp_path / "checkpoints" / "final.pt"
    before = final.read_bytes()
    with pytest.raises(CallbackError):
        run(tmp_path, [1, 3, 2], Checkpoint("score"), EarlyStopping("score", restore_best=True), Break(), resume=True)
    assert final.read_bytes() == before
