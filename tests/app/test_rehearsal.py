"""`check` and `fit` find before the first step what a fit would meet later; `check` leaves nothing behind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import SGD, Callback, Checkpoint, EarlyStopping, Linear, MSELoss, Sequential, Trainer, UserError, tensors
from trainkit.app.cli.main import main
from trainkit.trainer.session import Session

CONF = """\
seed: 3
data: {name: disk, train: 80, test: 20}
model: [{Linear: [2, 8]}, Tanh, {Dropout: 0.2}, {Linear: [8, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.5, momentum: 0.9}}
trainer: {max_epochs: 3, batch_size: 10}
callbacks: {validation_split: {fraction: 0.25}, checkpoint: {}, csv_logger: {}, progress_bar: {}}
"""
OWN = '''
from pathlib import Path
from trainkit import Callback

class Mine(Callback):
    """What a user's callback may do."""

    steps = []

    def __init__(self, fails_at: str = "", state: bool = False) -> None:
        self.fails_at, self.state = fails_at, state

    def on_train_batch_end(self, session):
        self.steps.append(session.progress.step)

    def on_train_epoch_end(self, session):
        print("a word")
        session.log("mine", session.progress.epoch)
        (session.run.path / "mine.txt").write_text("x")
        if self.fails_at == "epoch":
            {}["x"]

    def on_test_end(self, session):
        if self.fails_at == "end":
            raise OSError(5, "Input/output error", "mine.txt")

    def state_dict(self):
        return {"x": object()} if self.state else {}
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf.yaml").write_text(CONF)
    Path("own.py").write_text(OWN)


LATER = {
    "a monitor of Checkpoint": ("callbacks.checkpoint.monitor=val_loss", "checkpoint: no metric 'val_loss'; did you mean"),
    "a monitor of EarlyStopping": ("callbacks.early_stopping={monitor: val/acc}", "early_stopping: no metric 'val/acc'"),
    "a monitor of a plateau": (
        "callbacks.lr_scheduler={monitor: loss, ReduceLROnPlateau: {}}",
        "lr_scheduler: no metric 'loss'",
    ),
    "a metric of the end": (
        "callbacks.early_stopping={monitor: test/loss}",
        "no metric 'test/loss'; did you mean 'train/loss'? (lr, train/loss, val/accuracy, val/error, val/loss); it is measured",
    ),
    "a metric in a file name": (
        "callbacks.checkpoint={monitor: lr, mode: min, save_top_k: 2, filename: 'e{acc}'}",
        "checkpoint: no metric 'acc'",
    ),
    "a norm that is not there": (
        "callbacks={gradient_norms: {}, early_stopping: {monitor: grad_norm/9.weight}}",
        "no metric 'grad_norm/9.weight'; did you mean 'grad_norm/",
    ),
    "a schedule too short": (
        "callbacks.lr_scheduler={interval: step, OneCycleLR: {max_lr: 0.1, total_steps: 17}}",
        "OneCycleLR: total_steps=17 is less than the 18 steps that it must cover; set total_steps=18",
    ),
    "an argument out of range": (
        "callbacks.lr_scheduler={LinearLR: {end_factor: 2}}",
        "callbacks.lr_scheduler: LinearLR.end_factor: 2; needs a number of at most 1",
    ),
    "a rate beyond float32": (
        "callbacks.lr_scheduler={interval: step, ExponentialLR: {gamma: 1.0e+9}}",
        "ExponentialLR: a rate of 5e+44; needs at least 0 and less than 1e+38, at step 5 of 18",
    ),
    "an argument of text": (
        "callbacks.lr_scheduler={ReduceLROnPlateau: {patience: '3'}}",
        "callbacks.lr_scheduler: ReduceLROnPlateau.patience: '3'; needs a whole number, not text",
    ),
    "a gradient to clip": (
        "optimizer.SGD.accumulate_into_momentum=true trainer.clip_norm=1",
        "SGD with accumulate_into_momentum has no gradient to clip",
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_what_fit_would_meet_later_is_found_before_the_first_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = LATER[name]
    overrides = [words] if "{" in words else words.split()
    for command in (["check", "conf.yaml"], ["fit", "conf.yaml", "--run-dir", "run"]):
        assert main([*command, *overrides]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
    left = {p.name for p in Path().iterdir()} - {"__pycache__"}  # Python's own, of own.py
    assert left == {"conf.yaml", "own.py"}


def test_check_trains_two_steps_with_the_user_s_callbacks_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "conf.yaml", "--import", "own.py", "callbacks.Mine={}", "trainer.engine=auto", "trainer.replicas=2"]
    python, torchs, threads = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    assert main(words) == 0
    from trainkit.app.config.registry import _imported

    mine: Any = _imported["Mine"]
    assert mine.steps == [1, 2]
    said = capsys.readouterr()
    assert said.out.splitlines()[-2:] == [
        "two steps, a validation and a save: ok",
        "5 of 5 derivatives agree with central differences to 1e-06",
    ]
    assert "a word" not in said.out
    assert said.err == ""
    left = {p.name for p in Path().iterdir()} - {"__pycache__"}  # Python's own, of own.py
    assert left == {"conf.yaml", "own.py"}
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), torchs)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "callbacks.Mine={fails_at: epoch}",
            "rehearsal of two steps: callbacks.Mine on_train_epoch_end, epoch 1, step 2: KeyError",
        ),
        ("callbacks.Mine={fails_at: end}", "callbacks.Mine on_test_end, epoch 2, step 2: mine.txt: Input/output error"),
        ("callbacks.Mine={state: true}", "checkpoint.callbacks.Mine.x: object cannot be stored"),
        (
            "callbacks={Mine: {}, early_stopping: {monitor: mein, mode: max}}",
            "early_stopping: no metric 'mein'; did you mean 'mine'?",
        ),
    ],
)
def test_a_hook_that_fails_is_found_by_check(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "conf.yaml", "--import", "own.py", words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("words", ["optimizer.SGD.lr=1e30", "trainer.batch_size=null", "trainer.max_epochs=0", "data.train=2"])
def test_a_net_that_diverges_or_takes_few_steps_is_no_error(words: str) -> None:
    split = "callbacks.validation_split.fraction=0.5"
    assert main(["check", "conf.yaml", words, split, "callbacks.terminate_on_nan={}", "callbacks.early_stopping={}"]) == 0


class Says(Callback):
    def on_train_epoch_end(self, session: Session) -> None:
        session.log("score", session.progress.epoch)


class Tells(Says):
    def adds_metrics(self, session: Session) -> list[str]:
        return ["score"]


def fit(folder: Path, *callbacks: Callback) -> Trainer:
    net = Sequential(Linear(1, 1))
    trainer = Trainer(max_epochs=3, batch_size=2, device="cpu", callbacks=callbacks, run_dir=folder)
    x = torch.linspace(-1, 1, 8).unsqueeze(1)
    trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), tensors(x, x))
    return trainer


@pytest.mark.parametrize("of", ["EarlyStopping", "Checkpoint", "a file name"])
def test_a_monitor_that_a_callback_could_have_logged_ends_the_run_when_it_is_saved(of: str, tmp_path: Path) -> None:
    saver = {"EarlyStopping": Checkpoint(), "Checkpoint": Checkpoint("scor", "min")}.get(
        of, Checkpoint("score", "max", 2, filename="best-{scor}")
    )
    stopping = [EarlyStopping("scor", "min")] if of == "EarlyStopping" else []
    with pytest.raises(UserError, match=r"callbacks\.\w+: no metric 'scor'; did you mean 'score'.*the run ends after step 4"):
        fit(tmp_path / "run", Says(), saver, *stopping)
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["last.pt"]


def test_a_callback_that_says_what_it_logs_makes_other_monitors_errors_at_once(tmp_path: Path) -> None:
    fit(tmp_path / "a", Tells(), Checkpoint("score", "min"), EarlyStopping("score", "max"))
    with pytest.raises(UserError, match=r"^callbacks\.early_stopping: no metric 'scor'.*score, train/loss\)$"):
        fit(tmp_path / "b", Tells(), Checkpoint(), EarlyStopping("scor", "min"))
    assert not list((tmp_path / "b").rglob("*.pt"))


@pytest.mark.parametrize("last", ["terminate_on_nan", "lr_scheduler"])
def test_a_schedule_by_steps_and_terminate_on_nan_go_together_in_any_order(last: str) -> None:
    both = {
        "terminate_on_nan": "terminate_on_nan: {}",
        "lr_scheduler": "lr_scheduler: {interval: step, StepLR: {step_size: 3}}",
    }
    names = sorted(both, key=lambda name: name == last)
    words = f"callbacks={{{', '.join(both[name] for name in names)}}}"
    assert main(["check", "conf.yaml", words]) == main(["fit", "conf.yaml", words, "--run-dir", "run"]) == 0


@pytest.mark.parametrize("word", ["{train/loss:.3f}", "{lr:.3f}", "{val/loss:.3f}"])
def test_a_file_name_of_a_metric_that_is_still_to_come_ends_no_run(word: str) -> None:
    words = (
        "callbacks={validation_split: {every_n_steps: 1}, checkpoint: {monitor: val/loss, save_top_k: 2, filename: 'e"
        + word
        + "'}}"
    )
    assert main(["check", "conf.yaml", words]) == main(["fit", "conf.yaml", words, "--run-dir", "run"]) == 0


def test_a_monitor_that_is_never_measured_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = "callbacks={validation_split: {every_n_epochs: 50}, early_stopping: {}, checkpoint: {}}"
    assert main(["fit", "conf.yaml", words, "--run-dir", "run"]) == 0
    assert "callbacks.early_stopping: 'val/loss' will not be measured: no validation is due" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word",
    [
        "optimizer={SGD: {lr: 0.1, weight_decay: 1e39}}",
        "optimizer={SGD: {lr: 0.1, momentum: 0.9, dampening: 1e39}}",
        "optimizer={RMSprop: {alpha: 1e39}}",
        "trainer.clip_value=1e39",
        "loss={CrossEntropyLoss: {weight: [0, 0]}}",
    ],
)
def test_numbers_that_no_float32_holds_are_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "conf.yaml", word]) == main(["fit", "conf.yaml", word, "--run-dir", "run"]) == 2
    assert "fault" not in capsys.readouterr().err
