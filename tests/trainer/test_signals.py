"""SIGINT and SIGTERM end the step, wherever the loop is, with everything saved; a second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CSVLogger,
    Dataset,
    EarlyStopping,
    GradientNorms,
    Linear,
    MSELoss,
    Sequential,
    Trainer,
    ValidationSplit,
    tensors,
)
from trainkit.checkpoint import file as checkpoint
from trainkit.nn.module import Module
from trainkit.trainer import signals
from trainkit.trainer.evaluation import PASS
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session


def line() -> Dataset:
    x = torch.linspace(-1, 1, 15).unsqueeze(1)
    return tensors(x, 2 * x, test=(x, 2 * x))


class Send(Callback):
    """Sends the signal to this very process, once, in a hook at a step."""

    def __init__(self, number: int, hook: str, step: int, times: int = 1) -> None:
        def send(session: Session, *_: Any) -> None:
            if session.progress.step == step and self.left:
                for _i in range(times):
                    self.left -= 1
                    os.kill(os.getpid(), number)

        self.left = times
        setattr(self, hook, send)


class Wire(Module):
    """y = x, and in the given pass in evaluation mode a signal."""

    def __init__(self, number: int, passes: int) -> None:
        self.number, self.left = number, passes

    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        if not self.training:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)
        return x, None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return dy


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test does, the process has its handlers back."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    after = {s: signal.getsignal(s) for s in before}
    for s, handler in before.items():
        signal.signal(s, handler)
    assert after == before


def run(folder: Path | None, *callbacks: Callback, resume: bool = False, wire: Wire | None = None, **how: Any) -> Trainer:
    net = Sequential(wire or Wire(signal.SIGINT, 0), Linear(1, 1)).initialize(torch.Generator().manual_seed(0))
    split = [] if any(isinstance(cb, ValidationSplit) for cb in callbacks) else [ValidationSplit(0.2)]
    standard = [
        *split,
        EarlyStopping(patience=9),
        GradientNorms(),
        CSVLogger(),
        Checkpoint("val/loss", save_top_k=99, every_n_epochs=1),
    ]
    settings = {"max_epochs": 3, "batch_size": 4, "device": "cpu", "run_dir": folder}
    trainer = Trainer(**settings | how, callbacks=[*(standard if folder else []), *callbacks])
    assert folder is not None or not resume
    content = checkpoint.load(folder / "checkpoints" / "last.pt") if resume and folder else None
    trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), line(), resume=content)
    return trainer


def outcome(trainer: Trainer, folder: Path) -> tuple[Any, ...]:
    kept = {k: v for k, v in trainer.summary.items() if k not in ("wall_s", "params_sha256")}
    w = trainer.session.net.param()[0][0].item()
    files = sorted(path.name for path in (folder / "checkpoints").iterdir())  # one for each validation
    return kept, w, trainer.session.progress, files, (folder / "metrics.csv").read_text()


# 12 training samples in steps of 4: epochs end at steps 3, 6, 9
PLACES = [("on_train_batch_end", step) for step in range(1, 10)] + [
    ("on_train_epoch_start", 3),
    ("on_step_log", 6),
    ("on_validation_end", 3),
    ("on_metrics", 6),
    ("on_log", 6),
    ("on_checkpoint", 4),
    ("on_checkpoint", 6),
    ("on_fit_start", 0),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("hook", "step"), PLACES)
def test_a_signal_stops_the_run_so_that_it_can_go_on_exactly(number: int, hook: str, step: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    stopped = run(tmp_path / "run", Send(number, hook, step))
    assert stopped.summary["stop_reason"] == signal.Signals(number).name
    assert signals.exit_code(stopped.session.signal or 0) == {signal.SIGINT: 130, signal.SIGTERM: 143}[signal.Signals(number)]
    assert stopped.session.progress.step in (step, step + 1)  # the step that was under way is finished
    assert "test/loss" not in stopped.session.metrics
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert saved["state"]["step"] == stopped.session.progress.step
    resumed = run(tmp_path / "run", resume=True)
    assert outcome(resumed, tmp_path / "run") == outcome(whole, tmp_path / "whole")


@pytest.mark.parametrize("every", [{}, {"every_n_steps": 2}], ids=["at_an_epochs_end", "inside_an_epoch"])
@pytest.mark.parametrize("passes", range(1, 7))
def test_a_signal_during_a_validation_leaves_it_and_the_resumed_run_makes_it_again(
    passes: int, every: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes within a pass of a validation of three batches: the next batch is not begun."""

    def size(*values: int) -> int:
        return 1 if PASS in values else max(values)  # one sample a batch of an evaluation

    monkeypatch.setattr("trainkit.trainer.evaluator.max", size, raising=False)

    def split() -> Callback:
        return ValidationSplit(0.2, **every)

    whole = run(tmp_path / "whole", split())
    wire = Wire(signal.SIGTERM, 1 + passes)  # the first pass is the check of the shapes
    stopped = run(tmp_path / "run", split(), wire=wire)
    assert stopped.summary["stop_reason"] == "SIGTERM"
    resumed = run(tmp_path / "run", split(), resume=True)
    assert outcome(resumed, tmp_path / "run")[1:] == outcome(whole, tmp_path / "whole")[1:]
    assert resumed.summary["metrics"] == whole.summary["metrics"]


def test_a_signal_during_the_last_evaluation_keeps_what_is_trained(tmp_path: Path) -> None:
    stopped = run(tmp_path, Send(signal.SIGINT, "on_train_end", 9))
    assert (stopped.summary["stop_reason"], stopped.summary["epoch"]) == ("SIGINT", 3)
    assert "test/loss" not in stopped.session.metrics
    assert "test/loss" in run(tmp_path, resume=True).session.metrics


class OwnEvaluation(Callback):
    """Measures the test split in one of its hooks, as a user's callback may, and keeps the values."""

    def __init__(self, hook: str) -> None:
        self.values: list[float] = []
        setattr(self, hook, self.measure)

    def measure(self, session: Session, *_: Any) -> None:
        assert session.data.test is not None
        values = session.evaluate(session.data.test)["loss"]
        session.log("own/loss", values)
        self.values += values

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = state["values"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "hook", ["on_train_batch_end", "on_losses", "on_validation_end", "on_train_epoch_end", "on_metrics", "on_log"]
)
def test_after_a_signal_a_hooks_own_evaluation_is_completed_and_the_run_stops_as_usual(
    number: int, hook: str, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", OwnEvaluation(hook))
    stopped = run(tmp_path / "run", Send(number, hook, 6), OwnEvaluation(hook))
    assert stopped.summary["stop_reason"] == signal.Signals(number).name
    resumed = run(tmp_path / "run", OwnEvaluation(hook), resume=True)
    assert outcome(resumed, tmp_path / "run") == outcome(whole, tmp_path / "whole")
    assert resumed.callbacks["own_evaluation"].values == whole.callbacks["own_evaluation"].values


def test_a_fit_that_a_signal_has_stopped_can_be_evaluated() -> None:
    stopped = run(None, Send(signal.SIGTERM, "on_train_batch_end", 6))
    assert stopped.test().keys() == {"test/loss"}


def test_a_second_sigint_stops_at_once(tmp_path: Path) -> None:
    closing: list[str] = []

    class Close(Callback):
        def on_exception(self, session: Session, error: BaseException) -> None:
            closing.append(type(error).__name__)

        def on_fit_end(self, session: Session) -> None:
            closing.append("closed")

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Send(signal.SIGINT, "on_train_batch_end", 5, times=2), Close())
    assert closing == ["KeyboardInterrupt", "closed"]
    resumed = run(tmp_path, resume=True)  # the folder is free, the last checkpoint whole
    assert resumed.session.progress.epoch == 3


def test_a_second_sigterm_has_its_own_effect() -> None:
    class Own(BaseException):
        pass

    def own(number: int, frame: Any) -> None:
        raise Own

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(Own):
            run(None, Send(signal.SIGTERM, "on_train_batch_end", 2, times=2))
        assert signal.getsignal(signal.SIGTERM) is own  # and it is in place again afterwards
    finally:
        signal.signal(signal.SIGTERM, before)


def test_of_two_signals_at_the_same_moment_both_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[int] = []

    class Own(BaseException):
        pass

    def own(number: int, frame: Any) -> None:
        heard.append(number)
        raise Own

    class Both(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            if session.progress.step == 2:
                signal.pthread_sigmask(signal.SIG_BLOCK, both)
                for number in both:
                    signal.pthread_kill(threading.get_ident(), number)  # or another thread hears it
                signal.pthread_sigmask(signal.SIG_UNBLOCK, both)

    both = (signal.SIGTERM, signal.SIGINT)
    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(Own):
            run(None, Both())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]  # SIGINT was noted first: Python hears them in the order of their numbers
    assert "race condition" not in capsys.readouterr().err


def test_after_a_keyboard_interrupt_the_net_is_usable_the_folder_free_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kept: list[Session] = []

    class Keep(Callback):
        def on_fit_start(self, session: Session) -> None:
            kept.append(session)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Send(signal.SIGINT, "on_train_batch_end", 5, times=2), Keep())
    stopped = kept[0]
    assert stopped.net(torch.ones(2, 1)).isfinite().all()
    again = Trainer(**stopped.settings.as_dict())
    assert again.fit(stopped.net, MSELoss(), SGD(stopped.net.param(), 0.1), line())["stop_reason"] == "max_epochs"
    resumed = run(tmp_path / "run", resume=True)
    assert outcome(resumed, tmp_path / "run") == outcome(whole, tmp_path / "whole")


def test_after_a_fit_the_old_handlers_are_back_and_another_fit_runs_whole(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    trainer = run(tmp_path / "one", Send(signal.SIGINT, "on_train_batch_end", 2))
    assert signal.getsignal(signal.SIGINT) is before
    assert trainer.session.progress.step == 2
    net = trainer.session.net
    another = RunFolder(tmp_path / "another")
    with another.opened():
        trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), line(), run=another)
    assert (trainer.summary["stop_reason"], trainer.session.signal) == ("max_epochs", None)


def test_in_another_thread_signals_are_left_alone() -> None:
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(run(None).summary["stop_reason"]))
    thread.start()
    thread.join()
    assert done == ["max_epochs"]
