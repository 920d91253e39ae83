"""Metrics that a run is given: measured on each split, logged, monitored in their own direction, saved in its configuration."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

import trainkit
from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    EarlyStopping,
    Linear,
    MSELoss,
    ReLU,
    Sequential,
    Session,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.app.cli.main import main
from trainkit.checkpoint import load as load_checkpoint

METRICS: list[Any] = ["f1", "auc", {"f1": {"average": "none"}}]  # the classes of disk are inside and outside


class MedianError:
    """A metric of one's own, as a class."""

    maximize = False

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, y: Tensor, t: Tensor) -> None:
        self.errors += (y - t).abs().flatten().tolist()

    def merge(self, other: MedianError) -> None:
        self.errors += other.errors

    def value(self) -> float:
        return sorted(self.errors)[len(self.errors) // 2]


def share_of_ones(y: Tensor, t: Tensor) -> float:
    return float(y.argmax(1).double().mean())


def fit(*callbacks: Any, **how: Any) -> Trainer:
    net = Sequential(Linear(2, 8), ReLU(), Linear(8, 2)).initialize(torch.Generator().manual_seed(0))
    if how.get("replicas", 1) > 1:
        net.replicate(range(how["replicas"]))
    how = {"max_epochs": 4, "batch_size": 10, "device": "cpu", "metrics": METRICS, **how}
    trainer = Trainer(**how, callbacks=[ValidationSplit(0.25), *callbacks])
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(100, 40))
    return trainer


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_each_split_is_measured_as_scikit_learn_does(engine: str) -> None:
    trainer = fit(engine=engine)
    assert trainer.session is not None
    for name, split in trainer.session.data.parts().items():
        assert split.label is not None
        y, label = trainer.session.net(split.x), split.label.numpy()
        found = {k.removeprefix(f"{name}/"): v[0] for k, v in trainer.session.metrics.items() if k.startswith(f"{name}/")}
        assert found["f1"] == pytest.approx(f1_score(label, y.argmax(1).numpy()), abs=1e-12)
        per_class = [found[f"f1/{c}"] for c in trainer.session.data.classes or ()]
        assert per_class == pytest.approx(f1_score(label, y.argmax(1).numpy(), average=None).tolist(), abs=1e-12)
        assert found["auc"] == pytest.approx(roc_auc_score(label, (y[:, 1] - y[:, 0]).numpy()), abs=1e-12)
        assert found["accuracy"] == 1 - found["error"] == pytest.approx(float((y.argmax(1).numpy() == label).mean()))
    assert trainer.history[0].keys() >= {"val/f1", "val/auc", "val/f1/inside", "val/accuracy", "val/error"}


def test_each_replica_has_its_own_value() -> None:
    trainer = fit(replicas=2)
    assert trainer.session is not None
    test = trainer.session.data.test
    assert test is not None
    y = trainer.session.net(test.x.expand(2, *test.x.shape))
    expected = [roc_auc_score(test.t.numpy(), (z[:, 1] - z[:, 0]).numpy()) for z in y]
    assert trainer.session.metrics["test/auc"] == pytest.approx(expected, abs=1e-12)


def test_metrics_of_ones_own_are_a_class_or_a_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(metrics=["f1", share_of_ones], run_dir=tmp_path / "run")
    assert trainer.session is not None
    test = trainer.session.data.test
    assert test is not None
    assert trainer.test()["test/share_of_ones"] == share_of_ones(trainer.session.net(test.x), test.t)
    assert "metrics: share_of_ones is your own, which a file cannot hold" in capsys.readouterr().err
    assert "metrics: [f1]\n" in (tmp_path / "run" / "config.yaml").read_text()
    net, x = Sequential(Linear(1, 1)), torch.arange(12.0)[:, None]
    trainer = Trainer(
        max_epochs=1, device="cpu", metrics=[MedianError], callbacks=[ValidationSplit(0.5), EarlyStopping("val/median_error")]
    )
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=1e-3), tensors(x, x))
    assert trainer.session is not None
    val = trainer.session.data.val
    assert val is not None
    errors = (net(val.x) - val.t).abs().flatten().sort().values
    assert trainer.session.metrics["val/median_error"] == [float(errors[3])]


def test_a_configuration_names_metrics_and_a_loaded_run_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "class Ones:\n    maximize = True\n    def __init__(self): self.n = 0\n"
        "    def update(self, y, t): self.n += int(y.argmax(1).sum())\n"
        "    def merge(self, other): self.n += other.n\n    def value(self): return self.n\n"
    )
    Path("c.yaml").write_text(
        "data: {name: disk, train: 60, test: 20}\nmodel: [{Linear: [2, 2]}]\nloss: CrossEntropyLoss\n"
        "optimizer: {SGD: {lr: 0.1}}\nmetrics: [mcc, {top_k: {k: 1}}, Ones]\ntrainer: {max_epochs: 1}\n"
        "callbacks: {validation_split: {}, early_stopping: {monitor: val/ones}, checkpoint: {monitor: val/mcc}}\n"
    )
    assert main(["fit", "c.yaml", "--import", "own.py", "--run-dir", "run"]) == 0
    model = trainkit.load("run")
    assert model.test().keys() == {f"test/{m}" for m in ("loss", "error", "accuracy", "mcc", "top_1", "ones")}
    assert model.test()["test/top_1"] == model.test()["test/accuracy"]


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["acuracy"], "metrics: no metric 'acuracy'; did you mean 'accuracy'"),
        (["roc_auc"], "metrics: no metric 'roc_auc'; its name is 'auc'"),
        ([{"top_k": {"n": 5}}], "metrics.top_k: no option 'n'"),
        (["f1", "f1"], "metrics: f1 is there twice"),
        ("f1", "metrics: 'f1'; needs a list"),
        (["mse", {"f1": {"average": "binry"}}], "metrics.f1.average"),
    ],
)
def test_a_wrong_metric_is_one_clear_error_before_the_first_step(metrics: Any, says: str) -> None:
    with pytest.raises(UserError, match=says.replace("[", r"\[")):
        fit(metrics=metrics)


def test_a_metric_that_does_not_fit_the_data_is_refused_by_its_name() -> None:
    net, x = Sequential(Linear(1, 1)), torch.arange(12.0)[:, None]
    with pytest.raises(UserError, match="metrics: auc: needs classes; the data has none"):
        Trainer(max_epochs=1, device="cpu", metrics=["auc"]).fit(net, MSELoss(), SGD(net.param(), lr=1e-3), tensors(x, x))
    net = Sequential(Linear(1, 2))
    how: Any = {"max_epochs": 1, "device": "cpu", "metrics": ["r2"], "callbacks": [EarlyStopping("val/auc")]}
    with pytest.raises(UserError, match="metrics: r2: needs targets that are numbers, and these are class indices"):
        Trainer(**how).fit(net, CrossEntropyLoss(), SGD(net.param()), tensors(x, torch.arange(12) % 2))


def test_an_undefined_metric_is_nan_and_its_reason_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    net = Sequential(Linear(2, 2)).initialize(torch.Generator().manual_seed(0))
    data = tensors(torch.rand(20, 2), torch.arange(20) % 2, test=(torch.rand(5, 2), torch.zeros(5).long()))
    trainer = Trainer(max_epochs=2, device="cpu", metrics=["auc"])
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data)
    assert trainer.session is not None
    assert math.isnan(trainer.session.metrics["test/auc"][0])
    assert math.isnan(trainer.test()["test/auc"])  # type: ignore[arg-type]
    assert capsys.readouterr().err.count("metrics: auc is nan: no sample is of '1'") == 1


# -- the direction of a monitor --------------------------------------------------------------------------------------------


def test_a_monitor_takes_its_direction_from_the_metric(tmp_path: Path) -> None:
    trainer = fit(Checkpoint("val/accuracy"), CSVLogger(), EarlyStopping("val/auc", restore_best=True), run_dir=tmp_path)
    head, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    accuracies = [float(row[head.index("val/accuracy")]) for row in rows]
    best = trainkit.checkpoint.file.load(tmp_path / "checkpoints" / "best.pt")
    assert best["metrics"]["val/accuracy"] == [max(accuracies)]
    assert trainer.session is not None
    assert trainer.session.metrics["val/auc"] == [max(float(row[head.index("val/auc")]) for row in rows)]


def test_a_metric_of_unknown_direction_needs_a_mode_and_a_wrong_mode_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"^callbacks\.early_stopping: monitor='lr': whether larger .* set mode=min or mode=max"
    ):
        fit(EarlyStopping("lr"))
    fit(EarlyStopping("val/f1/inside", "min"))
    said = capsys.readouterr().err
    assert "callbacks.early_stopping: monitor='val/f1/inside', mode=min: of this metric, larger values are better" in said


# -- the final metrics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"max_steps": 13}, {"every": 3}, {"max_steps": 11, "inside": 4}])
def test_all_final_metrics_are_those_of_the_final_parameters(how: dict[str, Any]) -> None:
    split = ValidationSplit(0.25, every_n_epochs=how.get("every", 1), every_n_steps=how.get("inside"))
    net = Sequential(Linear(2, 2)).initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(max_epochs=4, max_steps=how.get("max_steps"), batch_size=10, device="cpu", callbacks=[split])
    summary = trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=1.0), disk(100, 40))
    for name, value in {**trainer.validate(), **trainer.test()}.items():
        assert summary["metrics"][name] == value, name


def test_min_delta_rules_patience_alone_and_the_best_check_is_restored() -> None:
    trainer = fit(EarlyStopping("val/loss", min_delta=10.0, patience=50, restore_best=True), max_epochs=6)
    losses = [row["val/loss"] for row in trainer.history]
    assert trainer.session is not None
    assert trainer.session.metrics["val/loss"] == [min(losses)]
    assert min(losses) < losses[0]


def test_the_mean_over_replicas_is_nan_in_every_place_if_it_is_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Score(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            session.log("score", [1.0, 3.0] if session.progress.epoch == 0 else [0.5, math.nan])

    net = Sequential(Linear(2, 2))
    callbacks = [Score(), Checkpoint("score", mode="min"), CSVLogger()]
    trainer = Trainer(max_epochs=3, replicas=2, device="cpu", callbacks=callbacks, run_dir=tmp_path)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), 0.1), disk(20))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["score"] for row in rows] == ["2.0", "nan", "nan"]
    assert trainer.summary["metrics"]["score"] == {"mean": None, "std": None, "values": [0.5, None]}
    assert math.isnan(trainer.fitted().metrics.mean("score"))
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["state"]["epoch"] == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "not ranked" in line]
    assert told == [
        "callbacks.checkpoint: score is nan in replica 1, and so is the mean: states from step 2 on are not ranked while it is"
    ]
