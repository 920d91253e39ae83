"""A trained model in Python: tested, used, pickled, loaded in a new process, trained on."""

from __future__ import annotations

import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import trainkit
from trainkit import (
    SGD,
    Adam,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    Dataset,
    Dropout,
    EarlyStopping,
    Linear,
    LRScheduler,
    Module,
    MSELoss,
    ProgressBar,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    TensorBoard,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    load,
    tensors,
)
from trainkit.app.cli.main import main
from trainkit.app.experiment import Experiment
from trainkit.trainer.session import Session

ROOT = Path(__file__).parents[2]


def points(n: int = 300) -> tuple[Tensor, Tensor]:
    """Rows in large units, so that a net that is given them unscaled predicts something else."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=g, dtype=torch.float64) * torch.tensor([1e3, 1.0, 50.0, 1e-2]) + 7
    return x, ((x[:, 0] - 7) * (x[:, 1] - 7) > 0).long()


def data() -> Dataset:
    x, t = points()
    return tensors(x[:200], t[:200], test=(x[200:], t[200:]), normalize="feature")


def fitted(run_dir: Path | None = None, net: Module | None = None, extra: list[Callback] | None = None, **how: Any) -> Trainer:
    net = net or Sequential(Linear(4, 8), Tanh(), Residual(Linear(8, 8), ReLU()), Linear(8, 2))
    callbacks = [ValidationSplit(0.2), *([Checkpoint()] if run_dir else []), *(extra or [])]
    trainer = Trainer(**{"max_epochs": 5, "batch_size": 20, "device": "cpu"} | how, callbacks=callbacks, run_dir=run_dir)
    trainer.fit(net, CrossEntropyLoss(), Adam(net.param(), lr=0.01), data())
    return trainer


# -- after a fit -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 3])
def test_predict_has_the_accuracy_of_test(replicas: int) -> None:
    trainer = fitted(replicas=replicas)
    x, t = points()
    y = trainer.predict(x[200:])
    wrong = (y.argmax(-1) != t[200:]).double().mean(-1).tolist()
    assert trainer.test()["test/error"] == wrong
    assert trainer.session.metrics["test/error"] == (wrong if replicas > 1 else [wrong])
    assert torch.equal(trainer.predict(x[200:].numpy()), y)
    assert torch.equal(trainer.predict(x[200:].tolist()), y)
    assert not torch.equal(trainer.session.net(x[200:].float().expand(*([3] if replicas > 1 else []), 100, 4)), y)


def test_history_has_a_row_per_epoch() -> None:
    trainer = fitted()
    assert [row["epoch"] for row in trainer.history] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in trainer.history] == [8, 16, 24, 32, 40]
    assert all(math.isfinite(row[name]) for row in trainer.history for name in ("train/loss", "val/loss", "val/error", "lr"))
    assert trainer.history[-1]["val/loss"] == trainer.validate()["val/loss"]
    assert [len(row["val/loss"]) for row in fitted(replicas=2).history] == [2] * 5


def test_other_data_is_scaled_as_the_fit_was() -> None:
    x, t = points()
    trainer = fitted()
    assert trainer.test(tensors(x, t, test=(x[200:], t[200:]))) == trainer.test()
    assert trainer.validate(tensors(x, t, val=validation())) == trainer.validate()


def validation() -> tuple[Tensor, Tensor]:
    """The rows that ValidationSplit takes from `data`."""
    (x, t), held = points(), ValidationSplit(0.2).indices(200)
    return x[held], t[held]


def test_trainer_and_loaded_run_evaluate_other_data_as_it_is_given(tmp_path: Path) -> None:
    trainer, (x, t) = fitted(tmp_path / "run"), points()
    model = load(tmp_path / "run")
    given = tensors(x, t, test=(x[:50], t[:50]), val=(x[50:], t[50:]))
    assert (model.test(given), model.validate(given)) == (trainer.test(given), trainer.validate(given))
    one, other = tensors(x, t, test=(x[50:], t[50:])), tensors(x, t, val=(x[:50], t[:50]))
    assert list(trainer.test(one).values()) == list(trainer.validate(given).values())
    missing = tensors(x, t, val=(x.index_fill(0, torch.tensor([7]), math.nan), t))
    for facade in (trainer, model):
        with pytest.raises(UserError, match=r"data: has no val split; give Dataset\(val=...\) or tensors\(..., val=...\)"):
            facade.validate(one)
        with pytest.raises(UserError, match=r"data: has no test split; give Dataset\(test=...\) or tensors\(..., test=...\)"):
            facade.test(other)
        with pytest.raises(UserError, match="data: row 7 of the validation split, feature 0: nan is missing"):
            facade.validate(missing)
        with pytest.raises(UserError, match=r"data: a sample of the val split is \(3,\), the fit's is \(4,\)"):
            facade.validate(tensors(x[:, :3], t, val=(x[:, :3], t)))


def test_targets_that_the_loss_cannot_take_are_refused_in_other_data() -> None:
    x = torch.rand(20, 3)
    net = Sequential(Linear(3, 2))
    trainer = Trainer(max_epochs=1)
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.1), tensors(x, x[:, :2].clone()))
    with pytest.raises(UserError, match="loss, on the test split: "):
        trainer.test(tensors(x, x, test=(x, x)))


def test_a_fit_that_a_signal_ended_can_be_evaluated() -> None:
    class Signal(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            session.note_signal(2)

    trainer = fitted(extra=[Signal()])
    assert trainer.summary["stop_reason"] == "SIGINT"
    assert math.isfinite(trainer.test()["test/loss"])


def test_data_of_other_features_or_classes_is_refused() -> None:
    trainer, (x, t) = fitted(), points()
    with pytest.raises(UserError, match=r"data: a sample of the test split is \(3,\), the fit's is \(4,\)"):
        trainer.test(tensors(x[:, :3], t, test=(x[:, :3], t)))
    with pytest.raises(UserError, match="data: the fit's classes are 0, 1, the data's no, yes"):
        trainer.test(tensors(x, t, test=(x, t), classes=["no", "yes"]))


def test_a_fitted_trainer_is_pickled(tmp_path: Path) -> None:
    every = [CSVLogger(), TensorBoard(), ProgressBar(), EarlyStopping(), LRScheduler(StepLR={"step_size": 2})]
    trainer, (x, _) = fitted(tmp_path / "run", extra=every), points()
    again = pickle.loads(pickle.dumps(trainer))
    assert torch.equal(again.predict(x), trainer.predict(x))
    assert (again.history, again.test(), again.summary) == (trainer.history, trainer.test(), trainer.summary)
    assert repr(again).startswith(
        "Trainer(max_epochs=5, batch_size=20, device='cpu', callbacks={'validation_split': ValidationSplit(0.2)"
    )


def test_an_unfitted_trainer_is_whole() -> None:
    trainer = Trainer(max_epochs=3)
    assert repr(trainer) == "Trainer(max_epochs=3)"
    assert (trainer.history, trainer.summary, trainer.session) == ([], {}, None)
    assert repr(pickle.loads(pickle.dumps(trainer))) == repr(trainer)
    before = set(vars(trainer))
    net = Sequential(Linear(4, 2))
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param()), data())
    assert set(vars(trainer)) == before
    for call in (Trainer().test, Trainer().validate, lambda: Trainer().predict([[1.0]])):
        with pytest.raises(UserError, match="trainer: not fitted yet; call fit"):
            call()


@pytest.mark.parametrize(
    "x", [torch.ones(5, 3), torch.ones(4), [["a"]], None, torch.ones(5, 4, 1)], ids=["3", "4", "text", "none", "5x4x1"]
)
def test_rows_of_other_features_are_refused(x: Any) -> None:
    with pytest.raises(UserError, match=r"predict: x is .*(\(n, 4\)|give numbers)"):
        fitted().predict(x)


# -- a run that is loaded ------------------------------------------------------------------------------------------------------


def test_a_loaded_run_predicts_the_same_numbers_in_a_new_process(tmp_path: Path) -> None:
    trainer, (x, _) = fitted(tmp_path / "run"), points()
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import json, sys, torch, trainkit; model = trainkit.load(sys.argv[1]);"
        "print(json.dumps(model.predict(torch.load(sys.argv[2])).tolist()))"
    )
    for name in ("run", "run/checkpoints/last.pt"):
        words = [sys.executable, "-c", code, str(tmp_path / name), str(tmp_path / "x.pt")]
        out = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        assert json.loads(out) == trainer.predict(x).tolist()


def test_a_run_from_python_carries_its_configuration(tmp_path: Path) -> None:
    trainer, d = fitted(tmp_path / "run"), data()
    model = load(tmp_path / "run")
    assert repr(model.net) == repr(trainer.session.net)
    assert model.config["optimizer"] == {"Adam": {"lr": 0.01}}
    x, t = points()
    assert (model.test(d), model.validate(tensors(x, t, val=validation()))) == (trainer.test(), trainer.validate())
    with pytest.raises(UserError, match="data: was given in Python; give it again"):
        model.test()


def test_a_source_that_has_a_name_is_read_again(tmp_path: Path) -> None:
    net = Sequential(Linear(2, 4), Tanh(), Linear(4, 2))
    trainer = Trainer(max_epochs=2, callbacks=[Checkpoint()], run_dir=tmp_path / "run")
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(100, test=50, radius=0.3))
    assert load(tmp_path / "run").test() == trainer.test()
    assert load(tmp_path / "run").config["data"] == {"name": "disk", "train": 100, "test": 50, "radius": 0.3}


def test_a_loaded_run_reads_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Sequential(Linear(2, 4), Tanh(), Linear(4, 2))
    trainer = Trainer(max_epochs=2, callbacks=[ValidationSplit(), Checkpoint()], run_dir=tmp_path / "run")
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(100, test=50, radius=0.3))
    model = load(tmp_path / "run")
    expected = trainer.validate(), trainer.test()
    assert (model.validate(), model.test()) == expected
    monkeypatch.setattr(Experiment, "data", None)
    assert (model.validate(), model.test()) == expected


def test_after_a_fit_a_loaded_run_is_evaluated_as_trained_and_on_the_data_of_the_fit(tmp_path: Path) -> None:
    fitted(tmp_path / "run").save(tmp_path / "model.pt")
    model = load(tmp_path / "model.pt")
    before, other = model.test(data()), data()
    model.fit(other, max_epochs=30)  # without a folder, so there is no newer checkpoint
    assert model.test() == model.test(other) != before


def test_a_loaded_run_trains_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole", max_epochs=8)
    torch.manual_seed(0)
    fitted(tmp_path / "run", net=whole_net(), max_epochs=5)
    fitted(tmp_path / "long", net=whole_net(), max_epochs=8)
    model = load(tmp_path / "run")
    summary = model.fit(data(), max_epochs=8)
    expected = json.loads((tmp_path / "long" / "summary.json").read_text())
    assert (summary["epoch"], summary["params_sha256"]) == (8, expected["params_sha256"])
    assert summary["params_sha256"] != whole.summary["params_sha256"]
    assert torch.equal(model.predict(points()[0]), load(tmp_path / "long").predict(points()[0]))


def whole_net() -> Module:
    return Sequential(Linear(4, 8), Tanh(), Linear(8, 2)).initialize(torch.Generator().manual_seed(5))


def test_fit_resumes_from_a_path(tmp_path: Path) -> None:
    net = whole_net()
    fitted(tmp_path / "run", net=net, max_epochs=3)
    for resume in (str(tmp_path / "run"), tmp_path / "run" / "checkpoints" / "last.pt"):
        again = whole_net()
        trainer = Trainer(max_epochs=5, batch_size=20, callbacks=[ValidationSplit(0.2)])
        summary = trainer.fit(again, CrossEntropyLoss(), Adam(again.param(), lr=0.01), data(), resume=resume)
        assert (summary["epoch"], [row["epoch"] for row in trainer.history]) == (5, [4, 5])


def test_a_saved_trainer_is_loaded_from_its_file(tmp_path: Path) -> None:
    trainer, (x, _) = fitted(), points()
    trainer.save(tmp_path / "model.pt")
    assert torch.equal(load(tmp_path / "model.pt").predict(x), trainer.predict(x))


class Cubed(Module):
    """y = x³, dx = 3 x² dy. Saves x."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * x * x, x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return 3 * x * x * dy


def test_a_file_without_a_folder_trains_on_and_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(tmp_path / "run").save(tmp_path / "model.pt")
    model = load(tmp_path / "model.pt")
    assert model.fit(data(), max_epochs=6)["epoch"] == 6
    assert "fit: without a run folder, callbacks are left out: checkpoint; give run_dir" in capsys.readouterr().err


def test_a_loaded_net_stays_in_evaluation_mode(tmp_path: Path) -> None:
    fitted(tmp_path / "run", net=Sequential(Linear(4, 8), Dropout(0.5), Linear(8, 2)))
    model = load(tmp_path / "run")
    model.test(data())
    assert not any(m.training for _, m in model.net.modules())


def test_an_own_layer_is_named_or_given(tmp_path: Path) -> None:
    trainer, (x, _) = fitted(tmp_path / "run", net=Sequential(Linear(4, 4), Cubed(), Linear(4, 2))), points()
    with pytest.raises(UserError, match=r"model\[1\]: no layer 'Cubed'"):
        load(tmp_path / "run")
    expected = trainer.predict(x)
    assert torch.equal(load(tmp_path / "run", classes=[Cubed]).predict(x), expected)
    net = Sequential(Linear(4, 4), Cubed(), Linear(4, 2))
    assert torch.equal(load(tmp_path / "run", net=net).predict(x), expected)


def test_what_a_file_cannot_hold_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path / "run", extra=[LRScheduler(LambdaLR={"lr_lambda": lambda epoch: 1.0})])
    said = capsys.readouterr().err
    assert "config.yaml: LRScheduler.LambdaLR.lr_lambda is a function, which a file cannot hold; it is left out" in said
    assert load(tmp_path / "run").predict(points()[0]).shape == (300, 2)


def test_a_run_that_saves_no_model_says_so_at_once_and_when_it_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"run folder {tmp_path / 'run'}: no callback saves the model there; add Checkpoint() to the callbacks\n"
    net = Sequential(Linear(4, 2))
    for callbacks in ([Checkpoint()], []):
        trainer = Trainer(max_epochs=1, device="cpu", run_dir=tmp_path / ("saved" if callbacks else "run"), callbacks=callbacks)
        trainer.fit(net, CrossEntropyLoss(), SGD(net.param()), data())
        assert (said in capsys.readouterr().err) == (not callbacks)
    with pytest.raises(UserError, match=r"no such checkpoint; there are none; the callback Checkpoint\(\) saves the model"):
        load(tmp_path / "run")


def test_a_fit_without_a_step_left_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = fitted(tmp_path / "run").fitted().progress.epoch
    capsys.readouterr()
    load(tmp_path / "run").fit(data(), max_epochs=epochs)
    said = f"resume: {epochs} epochs and [0-9]+ steps are done, so no step is left; to train on, raise trainer.max_epochs"
    assert re.search(said, capsys.readouterr().err)


def test_a_callback_that_a_loaded_run_leaves_out_is_not_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path / "run")
    load(tmp_path / "run", "callbacks.early_stopping=null").fit(data(), max_epochs=8)
    assert main(["fit", "--resume", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "which leaves it out" not in said
    assert "data: was given in Python; give it again: trainkit.load(RUN) and test(data), predict(x) or fit(data)" in said
    (tmp_path / "new.csv").write_text("a\n1\n")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")]) == 2
    assert "the run was not trained on a table; predict from Python: trainkit.load(RUN).predict(x)" in capsys.readouterr().err


def test_a_misspelled_callback_is_refused_by_a_loaded_run(tmp_path: Path) -> None:
    fitted(tmp_path / "run")
    for text in ("callbacks.early_stoping=null", "callbacks.early_stoping.patience=3"):
        with pytest.raises(UserError, match="no callback 'early_stoping'; did you mean 'early_stopping'"):
            load(tmp_path / "run", text)


def test_a_used_folder_names_the_way_of_python(tmp_path: Path) -> None:
    fitted(tmp_path / "run")
    fix = f"continue it, trainkit.load('{tmp_path}/run').fit(...), or choose another with run_dir=..."
    with pytest.raises(UserError, match=re.escape(fix)):
        fitted(tmp_path / "run")


# -- wrong objects -----------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[Module], dict[str, Any]], str]] = {
    "torch's module": (lambda net: {"net": torch.nn.Linear(4, 2)}, "net: is a Linear of torch; give a trainkit module"),
    "torch's loss": (
        lambda net: {"loss": torch.nn.CrossEntropyLoss()},
        "loss: is a CrossEntropyLoss of torch; give a trainkit",
    ),
    "a class": (lambda net: {"loss": CrossEntropyLoss}, "loss: is the class CrossEntropyLoss, not an object of it"),
    "torch's optimizer": (lambda net: {"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)}, "optimizer: is a SGD of torch"),
    "samples of one number": (lambda net: {"data": [1]}, "data: sample 0 of list: is a int; return a pair"),
    "a triple": (lambda net: {"data": (1, 2, 3)}, "data: is a tuple of 3; give a Dataset: tensors"),
    "a path": (lambda net: {"data": "data.csv"}, "data: is 'data.csv'; give a Dataset"),
    "another net's": (
        lambda net: {"optimizer": SGD(Sequential(Linear(4, 2)).param())},
        "optimizer: holds parameters that are not this net's; make it from this net: SGD\\(net.param\\(\\)",
    ),
    "a resume that is not there": (lambda net: {"resume": "nowhere.pt"}, "checkpoint nowhere.pt: is not a file"),
    "a resume of a number": (
        lambda net: {"resume": 3},
        "resume: not a path \\(got 3\\); give a run's folder, a checkpoint file, or its content",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_object_has_one_clear_error(name: str) -> None:
    net = Sequential(Linear(4, 2))
    make, message = WRONG[name]
    given: dict[str, Any] = {"net": net, "loss": CrossEntropyLoss(), "optimizer": SGD(net.param()), "data": data()}
    with pytest.raises(UserError, match=message) as found:
        Trainer().fit(**given | make(net))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"max_epochs": "many"}, "trainer.max_epochs: 'many'; needs a whole number"),
        ({"batch_size": 2.5}, "trainer.batch_size: 2.5; needs a whole number"),
        ({"replicas": True}, "trainer.replicas: True; needs a whole number"),
        ({"engine": "fast"}, "trainer.engine: fast; choose auto or eager"),
        ({"run_dir": 3}, "trainer.run_dir: 3; needs the path of a folder"),
        ({"callbacks": "checkpoint"}, "callbacks: 'checkpoint'; needs a list of callbacks"),
        ({"callbacks": [EarlyStopping]}, "callbacks: .*is not a Callback"),
        ({"seeds": [1]}, "trainer.seeds: 1 seeds for 2 replicas"),
    ],
)
def test_a_wrong_setting_is_named(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trainer(**{"replicas": 2} | how if "seeds" in how else how)


def test_a_regression_is_predicted_in_shape(tmp_path: Path) -> None:
    x = torch.rand(50, 3)
    net = Sequential(Linear(3, 2))
    trainer = Trainer(max_epochs=1, callbacks=[Checkpoint()], run_dir=tmp_path / "run")
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.1), tensors(x, x[:, :2].clone()))
    assert trainer.predict(x).shape == (50, 2)
    assert trainkit.load(tmp_path / "run").predict(x[:7]).shape == (7, 2)


def test_fit_goes_on_from_the_last_step_and_not_from_the_best_parameters(tmp_path: Path) -> None:
    """As `fit --resume` does: the optimizer's state belongs to the last step."""
    for name in ("run", "copy"):
        best = EarlyStopping("train/loss", "max", patience=99, restore_best=True)  # the first epoch is the best
        fitted(tmp_path / name, net=whole_net(), extra=[best], max_epochs=3)
    model = load(tmp_path / "run")
    model.fit(data(), max_epochs=5)
    again = load(tmp_path / "copy", checkpoint="last")
    again.fit(data(), max_epochs=5)
    assert all(torch.equal(p, q) for (p, _), (q, _) in zip(model.net.param(), again.net.param(), strict=True))


class Raises:
    """A metric that raises in the method `where`."""

    def __init__(self, where: str) -> None:
        self.where = where

    def _at(self, where: str) -> None:
        if where == self.where:
            raise KeyError("foo")

    def update(self, y: Tensor, t: Tensor) -> None:
        self._at("update")

    def merge(self, other: Any) -> None:
        self._at("merge")

    def value(self) -> float:
        self._at("value")
        return 0.0


def noisy(y: Tensor, t: Tensor) -> float:
    raise KeyError("foo")


LOADER = DataLoader(TensorDataset(torch.ones(4, 4), torch.zeros(4).long()))
SLIPS: dict[str, tuple[Callable[[], Any], str]] = {
    "a seed": (lambda: Trainer(seed="a"), "trainer.seed: 'a'; needs a whole number"),  # type: ignore[arg-type]
    "seeds": (lambda: Trainer(seeds=[0.5]), r"trainer.seeds: \[0.5\]; needs a list with a whole number per replica"),  # type: ignore[list-item]
    "auto": (lambda: Linear("auto", 3), "in_features='auto', .*both need a whole number; auto is for configurations"),  # type: ignore[arg-type]
    "a size of text": (lambda: Linear(2, "3"), "Linear: .*out_features='3'; both need a whole number$"),  # type: ignore[arg-type]
    "a class": (lambda: Sequential(Linear(2, 2), ReLU), r"not a Module \(got .*\) at 1; give an object of the class, ReLU\(\)"),  # type: ignore[arg-type]
    "torch's layer": (
        lambda: Sequential(torch.nn.Linear(2, 2)),  # type: ignore[arg-type]
        r"Sequential.add: not a Module .* at 0; it is torch's: give trainkit.Linear\(...\) if there is one",
    ),
    "a schedule": (lambda: LRScheduler("StepLR"), r"interval='StepLR'; .*write LRScheduler\(StepLR=\{...\}\)"),  # type: ignore[arg-type]
    "a function as a metric": (lambda: fitted(metrics=[noisy]), "metrics.noisy: the function raised KeyError: 'foo'"),
    "a metric's update": (lambda: fitted(metrics=[Raises("update")]), "metrics.raises: update raised KeyError: 'foo'"),
    "a metric's value": (lambda: fitted(metrics=[Raises("value")]), "metrics.raises: value raised KeyError: 'foo'"),
    "a split": (lambda: fitted().confusion_matrix("tst"), "data: no split 'tst'; did you mean 'test'?"),
    "loaders in place of loss and optimizer": (
        lambda: Trainer().fit(Sequential(Linear(4, 2)), LOADER, LOADER),  # type: ignore[arg-type]
        r"loss: is a DataLoader of torch; give .*, as in fit\(net, loss, optimizer, data\)",
    ),
    "no data": (
        lambda: Trainer().fit(net := Sequential(Linear(4, 2)), CrossEntropyLoss(), SGD(net.param())),
        "data: is None; give a Dataset",
    ),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_has_one_clear_error(name: str) -> None:
    make, message = SLIPS[name]
    with pytest.raises(UserError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trainer(max_epoch=3), "Trainer: no argument 'max_epoch'; did you mean 'max_epochs'?"),
        (lambda: EarlyStopping(patient=3), "EarlyStopping: no argument 'patient'; did you mean 'patience'?"),
        (lambda: Linear(in_feature=3, out_features=2), "Linear: no argument 'in_feature'; did you mean 'in_features'?"),
        (lambda: SGD([], lrr=3), "SGD: no argument 'lrr'; did you mean 'lr'?"),
        (lambda: CrossEntropyLoss(weigth=[1]), "CrossEntropyLoss: no argument 'weigth'; did you mean 'weight'?"),
    ],
)
def test_a_misspelled_argument_is_named_with_the_nearest(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        make()


def test_torchs_names_of_a_nets_methods_say_what_to_write() -> None:
    net = Sequential(Linear(2, 2))
    with pytest.raises(AttributeError, match=r"Sequential has no attribute 'parameters'; write net.param\(\)"):
        net.parameters()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"Linear has no attribute 'cuda'; write net.to\('cuda'\)"):
        net[0].cuda()  # type: ignore[attr-defined]
    assert not hasattr(net, "generators")
    assert isinstance(pickle.loads(pickle.dumps(net)), Sequential)
