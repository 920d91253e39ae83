"""The loop: its events in their order, who ends it and when, and whose fault an error is."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    Dataset,
    Dropout,
    EarlyStopping,
    GradientNorms,
    Linear,
    LRScheduler,
    MSELoss,
    Sequential,
    TensorBoard,
    Timer,
    Trainer,
    UserError,
    ValidationSplit,
    csv,
    load,
    tensors,
)
from trainkit.app.cli.main import main
from trainkit.trainer.callback import HOOKS, CallbackError
from trainkit.trainer.session import Session
from trainkit.trainer.settings import Settings


def line(n: int = 10) -> Dataset:
    x = torch.linspace(-1, 1, n).unsqueeze(1)
    return tensors(x, 2 * x + 1, test=(x[:3], 2 * x[:3] + 1))


def run(*callbacks: Callback, data: Dataset | None = None, lr: float = 0.01, **how: Any) -> Trainer:
    net = Sequential(Linear(1, 1)).initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(**{"max_epochs": 2, "batch_size": 4, "device": "cpu"} | how, callbacks=callbacks)
    trainer.fit(net, MSELoss(), SGD(net.param(), lr), data or line())
    return trainer


def begun(callbacks: dict[str, Callback] | None = None, **how: Any) -> Session:
    """A session before its first step."""
    net = Sequential(Linear(1, 1))
    return Session(Settings(**how), net, MSELoss(), SGD(net.param(), 0.01), line(), callbacks)


class Recorder(Callback):
    """The hooks as they are called, with the step."""

    def __init__(self) -> None:
        self.events: list[str] = []
        for hook in HOOKS:
            setattr(self, hook, self.hear(hook))

    def hear(self, hook: str) -> Any:
        return lambda session, *_: self.events.append(f"{hook} {session.progress.step}")


# -- the order of events -------------------------------------------------------------------------------------------------


def test_the_events_of_a_run_are_those_of_the_docstring() -> None:
    recorder = Recorder()
    run(ValidationSplit(0.2), recorder, max_epochs=1, log_every_n_steps=50)  # 8 samples: steps of 4 and 4
    assert recorder.events == [
        "setup 0",
        "on_fit_start 0",
        "on_train_start 0",
        "on_train_epoch_start 0",
        "on_train_batch_end 1",
        "on_losses 1",
        "on_step_log 1",
        "on_checkpoint 1",
        "on_train_batch_end 2",
        "on_losses 2",
        "on_step_log 2",
        "on_checkpoint 2",
        "on_validation_end 2",
        "on_train_epoch_end 2",
        "on_metrics 2",
        "on_log 2",
        "on_checkpoint 2",  # the epoch's
        "on_checkpoint 2",  # the run's
        "on_train_end 2",
        "on_test_end 2",
        "on_fit_end 2",
    ]


def test_a_validation_inside_an_epoch_is_heard_between_step_and_checkpoint() -> None:
    recorder = Recorder()
    run(ValidationSplit(0.2, every_n_steps=1), recorder, max_epochs=1)
    inside = [e.split()[0] for e in recorder.events if e.endswith(" 1")]
    fetched = ["on_train_batch_end", "on_losses", "on_step_log"]
    assert inside == [*fetched, "on_validation_end", "on_metrics", "on_log", "on_checkpoint"]
    at_the_end = [e for e in recorder.events if e == "on_validation_end 2"]
    assert len(at_the_end) == 1  # the last step's and the epoch's are one


def test_validation_comes_every_so_many_epochs_and_steps() -> None:
    recorder = Recorder()
    run(ValidationSplit(0.2, every_n_epochs=2, every_n_steps=3), recorder, max_epochs=5)  # 2 steps an epoch
    heard = [e.split()[1] for e in recorder.events if e.startswith("on_validation_end")]
    assert heard == ["3", "4", "6", "8", "9"]  # 6 is the last step of an epoch without a validation of its own


def test_a_metric_is_fresh_once_for_every_listener_wherever_it_is_listed() -> None:
    class Reader(Callback):
        def __init__(self) -> None:
            self.read: list[tuple[int, list[float] | None]] = []

        def on_metrics(self, session: Session) -> None:
            self.read.append((session.progress.step, session.metrics.new("mine")))

    class Writer(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            session.log("mine", session.progress.epoch)

    before, after = Reader(), Reader()
    run(before, Writer(), after, ValidationSplit(0.2, every_n_steps=1), max_epochs=2)
    assert before.read == after.read == [(1, None), (2, [0.0]), (3, None), (4, [1.0])]


def test_a_hook_that_nobody_overrides_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    for hook in HOOKS:
        monkeypatch.setattr(Callback, hook, lambda self, *_, hook=hook: calls.update([hook]))

    class Two(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            calls["mine"] += 1

        def on_log(self, session: Session) -> None:
            calls["mine"] += 1

    run(Two(), EarlyStopping("train/loss"), LRScheduler(StepLR={"step_size": 1}), GradientNorms(), Timer(60))
    assert calls == {"mine": 6 + 2}


def test_an_instance_may_opt_out_of_a_hook() -> None:
    from trainkit.trainer.callback import overrides

    by_step, by_epoch = LRScheduler("step", StepLR={"step_size": 1}), LRScheduler("epoch", StepLR={"step_size": 1})
    heard = [
        [h for h in ("on_train_batch_end", "on_train_epoch_end", "on_metrics") if overrides(cb, h)]
        for cb in (by_step, by_epoch)
    ]
    assert heard == [["on_train_batch_end"], ["on_train_epoch_end"]]


def test_show_hooks_says_who_does_what_when() -> None:
    callbacks = {"stop": EarlyStopping(), "rate": LRScheduler(StepLR={"step_size": 1}), "split": ValidationSplit()}
    rows = {row.split()[0]: row.split(maxsplit=1)[1] for row in begun(callbacks).show_hooks().splitlines()}
    assert list(rows) == list(HOOKS)
    assert (rows["setup"], rows["on_metrics"], rows["on_train_epoch_end"]) == ("stop, rate, split", "stop", "rate")
    assert rows["on_log"] == "-"


# -- the end -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "epoch", "step", "reason"),
    [
        ({"max_epochs": 2}, 2, 6, "max_epochs"),  # 10 samples: steps of 4, 4, 2
        ({"max_epochs": 0}, 0, 0, "max_epochs"),
        ({"max_steps": 4}, 1, 4, "max_steps"),
        ({"max_steps": 3}, 1, 3, "max_steps"),  # an epoch's last step: the epoch is done
        ({"max_steps": 0}, 0, 0, "max_steps"),
        ({"max_steps": 100}, 2, 6, "max_epochs"),
    ],
)
def test_where_a_run_ends(how: dict[str, Any], epoch: int, step: int, reason: str) -> None:
    summary = run(**how).summary
    assert (summary["epoch"], summary["step"], summary["stop_reason"]) == (epoch, step, reason)


def test_the_loss_of_the_last_step_is_told_wherever_it_falls() -> None:
    recorder = Recorder()
    run(recorder, max_steps=5)
    assert [e for e in recorder.events if e.startswith("on_step_log")] == ["on_step_log 1", "on_step_log 3", "on_step_log 5"]


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step >= self.step:
            session.stop("mine", "that is enough")


@pytest.mark.parametrize(("min_epochs", "step"), [(0, 2), (1, 3), (2, 6)])
def test_a_callbacks_wish_to_stop_waits_for_min_epochs(min_epochs: int, step: int) -> None:
    summary = run(StopAt(2), min_epochs=min_epochs, max_epochs=5).summary
    assert (summary["step"], summary["stop_reason"], summary["stop_words"]) == (step, "mine", "that is enough")


def test_the_summary_is_written_and_is_json(tmp_path: Path) -> None:
    trainer = run(ValidationSplit(0.2), GradientNorms(), run_dir=tmp_path, replicas=2, lr=1e30)
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is no JSON")) == trainer.summary
    assert set(trainer.summary["metrics"]) >= {"train/loss", "val/loss", "test/loss", "lr", "grad_norm/0.weight"}


def test_seeds_and_nothing_else_make_the_run() -> None:
    def sha(**how: Any) -> str:
        torch.rand(1)  # the global stream is elsewhere each time
        net = Sequential(Linear(1, 4), Dropout(0.5), Linear(4, 1)).initialize(torch.Generator().manual_seed(0))
        trainer = Trainer(max_epochs=2, batch_size=4, device="cpu", **how)
        trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), line())
        return str(trainer.summary["params_sha256"])

    assert sha(seed=1) == sha(seed=1) == sha(seed=1, log_every_n_steps=1) != sha(seed=2)


# -- metrics -------------------------------------------------------------------------------------------------------------


def test_a_metric_is_the_mean_over_replicas_and_nan_if_it_is_for_one() -> None:
    session = begun(replicas=3)
    session.progress.active = [True] * 3
    session.log("a", [1.0, 4.0, 3.0])
    session.log("b", 5)
    session.log("broken", [1.0, math.nan, 3.0])
    assert (session.metrics.mean("a"), session.metrics.mean("b"), session.metrics["b"]) == (8 / 3, 5.0, [5.0, 5.0, 5.0])
    assert math.isnan(session.metrics.mean("broken"))
    with pytest.raises(UserError, match=r"no metric 'aa'; did you mean 'a'\? \(a, b, broken\)"):
        session.metrics.mean("aa")


def test_callbacks_of_a_list_are_named_by_their_class() -> None:
    listed = [EarlyStopping(), TensorBoard(), CSVLogger(), LRScheduler(warmup_steps=1), EarlyStopping(), ValidationSplit()]
    names = ["early_stopping", "tensorboard", "csv_logger", "lr_scheduler", "early_stopping_2", "validation_split"]
    trainer = Trainer(callbacks=listed)
    assert list(trainer.callbacks) == names
    assert [cb.name for cb in listed] == names
    with pytest.raises(UserError, match="is not a Callback"):
        Trainer(callbacks=[EarlyStopping])  # type: ignore[list-item]


# -- errors --------------------------------------------------------------------------------------------------------------


class Fails(Callback):
    def __init__(self, hook: str, error: Exception) -> None:
        def fail(session: Session, *_: Any) -> None:
            if session.progress.step >= 4 or hook == "on_fit_start":
                raise error

        setattr(self, hook, fail)


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("on_fit_start", "callbacks.bad on_fit_start, epoch 1, step 0"),
        ("on_train_batch_end", "callbacks.bad on_train_batch_end, epoch 2, step 4"),
        ("on_train_epoch_end", "callbacks.bad on_train_epoch_end, epoch 2, step 6"),
        ("on_checkpoint", "callbacks.bad on_checkpoint, epoch 2, step 4"),
    ],
)
def test_an_error_in_a_callback_says_which_hook_and_when(hook: str, place: str) -> None:
    for error, kind in ((KeyError("k"), CallbackError), (UserError("give it one"), UserError)):
        net = Sequential(Linear(1, 1))
        recorder = Recorder()
        trainer = Trainer(max_epochs=2, batch_size=4, device="cpu", callbacks={"bad": Fails(hook, error), "other": recorder})
        with pytest.raises(kind) as caught:
            trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), line())
        assert str(caught.value).startswith(place)
        assert ("KeyError: 'k'" if kind is CallbackError else "give it one") in str(caught.value)
        assert caught.value.__cause__ is error
        assert [e.split()[0] for e in recorder.events[-2:]] == ["on_exception", "on_fit_end"]


def test_an_error_releases_the_run_folder(tmp_path: Path) -> None:
    with pytest.raises(CallbackError):
        run(Fails("on_train_batch_end", ValueError("x")), CSVLogger(), TensorBoard(), Checkpoint(), run_dir=tmp_path)
    run(CSVLogger(), TensorBoard(), Checkpoint(), run_dir=tmp_path)  # the lock and the files are free again


def test_one_trainer_to_a_folder(tmp_path: Path) -> None:
    class Second(Callback):
        def on_train_start(self, session: Session) -> None:
            run(run_dir=tmp_path)

    with pytest.raises(UserError, match="in use by another trainer"):
        run(Second(), run_dir=tmp_path)


@pytest.mark.parametrize("callback", [Checkpoint, CSVLogger, TensorBoard])
def test_who_writes_needs_a_folder(callback: Any) -> None:
    with pytest.raises(UserError, match=r"callbacks\.\w+: needs a run folder.*give the trainer a run_dir"):
        run(callback())


def test_a_rate_set_before_the_fit_is_that_of_the_fit_and_of_its_configuration(tmp_path: Path) -> None:
    net = Sequential(Linear(2, 1)).initialize(torch.Generator().manual_seed(0))
    optimizer = SGD(net.param(), lr=0.1)
    optimizer.set_lr(0.025)
    data = tensors(torch.rand(20, 2), torch.rand(20, 1))
    schedule = LRScheduler(ExponentialLR={"gamma": 0.5})
    for name in "ab":  # the second fit starts from that rate again, not from the last one of the schedule
        trainer = Trainer(max_epochs=3, device="cpu", callbacks=[schedule], run_dir=tmp_path / name)
        trainer.fit(net, MSELoss(), optimizer, data)
        assert [row["lr"] for row in trainer.history] == [0.025, 0.0125, 0.00625]
        assert "lr: 0.025" in (tmp_path / name / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ({"max_steps": 205}, (41, 205, "max_steps")),
        ({"max_steps": 205, "max_epochs": None}, (41, 205, "max_steps")),
        ({}, (100, 500, "max_epochs")),
        ({"max_steps": 12, "max_epochs": 3}, (2, 12, "max_steps")),
        ({"max_steps": 12, "max_epochs": 2}, (2, 10, "max_epochs")),
    ],
)
def test_a_run_has_as_many_epochs_as_its_steps_need(how: dict[str, Any], end: tuple[int, int, str]) -> None:
    net, x = Sequential(Linear(2, 1)), torch.rand(20, 2)
    summary = Trainer(batch_size=4, device="cpu", **how).fit(net, MSELoss(), SGD(net.param(), 0.01), tensors(x, x[:, :1]))
    assert (summary["epoch"], summary["step"], summary["stop_reason"]) == end


def test_a_path_may_begin_with_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d.csv").write_text("a,t\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    data = csv("~/d.csv", "t")
    assert data.source["path"] == "~/d.csv"
    net = Sequential(Linear(1, 2))
    Trainer(max_epochs=1, device="cpu", callbacks=[Checkpoint()], run_dir="~/run").fit(
        net, CrossEntropyLoss(), SGD(net.param(), 0.1), data
    )
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
    assert load("~/run").test().keys() == {"test/loss", "test/error", "test/accuracy"}
    assert main(["fit", "~/run/config.yaml", "--run-dir=~/again"]) == 0
    assert (tmp_path / "again" / "summary.json").is_file()
