"""Samples with weights: a run of whole weights is that of repeated rows, in steps, evaluations, resumes and replicas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

import trainkit
from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    Linear,
    Loss,
    MSELoss,
    Sequential,
    Session,
    Tanh,
    TerminateOnNaN,
    Trainer,
    UserError,
    ValidationSplit,
    tensors,
)
from trainkit.data.dataset import Dataset, Split
from trainkit.data.loader import epoch_permutation
from trainkit.trainer.evaluation import evaluate
from trainkit.trainer.progress import Progress

COUNTS = torch.tensor([2, 0, 1, 3, 1, 1, 2, 0, 4, 1, 1, 2])
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(len(COUNTS), 3, generator=DRAW, dtype=torch.float64)
LABEL = (X[:, 0] > 0).long()
REAL = torch.randn(len(COUNTS), 2, generator=DRAW, dtype=torch.float64)
ROWS = torch.arange(len(COUNTS)).repeat_interleave(COUNTS)


def weighted(x: Tensor, t: Tensor, weight: Tensor | None) -> Dataset:
    label = t if t.dtype == torch.int64 else None
    classes = None if label is None else ("no", "yes")
    return Dataset(Split(x, t, label, weight), Split(x, t, label, weight), classes=classes)


def fitted(data: Dataset, loss: Loss | None = None, callbacks: Sequence[Callback] = (), **settings: Any) -> Trainer:
    net = Sequential(Linear(3, 4), Tanh(), Linear(4, 2)).initialize(torch.Generator().manual_seed(1))
    trainer = Trainer(device="cpu", callbacks=callbacks, **{"dtype": "float64", "max_epochs": 5, **settings})
    trainer.fit(net, loss or CrossEntropyLoss(), SGD(net.param(), lr=0.3, momentum=0.5), data)
    return trainer


LOSSES = {
    "cross entropy": (CrossEntropyLoss(), LABEL),
    "weighted classes": (CrossEntropyLoss(weight=[1.0, 3.0]), LABEL),
    "mean": (MSELoss(), REAL),
    "sum": (MSELoss("sum"), REAL),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("accumulate", [None, 4])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_of_whole_weights_is_that_of_repeated_rows(name: str, accumulate: int | None, replicas: int) -> None:
    loss, t = LOSSES[name]
    lr = 0.01 if name == "sum" else 0.3
    parts = {} if accumulate is None else {"batch_size": 3, "accumulate": accumulate}
    trainers = []
    for data, how in ((weighted(X, t, COUNTS), parts), (weighted(X[ROWS], t[ROWS], None), {})):
        net = Sequential(Linear(3, 4), Tanh(), Linear(4, 2)).initialize(torch.Generator().manual_seed(1))
        trainer = Trainer(dtype="float64", device="cpu", max_epochs=4, replicas=replicas, **how)
        trainer.fit(net, loss, SGD(net.param(), lr=lr), data)
        trainers.append(trainer)
    one, two = trainers
    for p, q in zip(one.fitted().net.param(), two.fitted().net.param(), strict=True):
        torch.testing.assert_close(p[0], q[0], rtol=1e-10, atol=1e-12)
    assert one.test().keys() == two.test().keys()
    for key, value in one.test().items():
        assert value == pytest.approx(two.test()[key], rel=1e-10), key
    for row, other in zip(one.history, two.history, strict=True):
        if name == "weighted classes" and accumulate is None:
            continue  # an epoch's mean is that of its steps
        assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-10)


def test_the_mean_of_an_epoch_counts_each_step_by_its_weight() -> None:
    """lr is 0, so that the steps of an epoch have the same net."""
    data = weighted(X, LABEL, COUNTS)
    net = Sequential(Linear(3, 2)).initialize(torch.Generator().manual_seed(1))
    trainer = Trainer(dtype="float64", device="cpu", max_epochs=2, batch_size=1, log_every_n_steps=5)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.0), data)
    whole = trainer.test()["test/loss"]
    assert trainer.history[1]["train/loss"] == pytest.approx(whole, rel=1e-12)  # two of its steps have no weight at all
    assert trainer.history[0]["train/loss"] == pytest.approx(whole, rel=1e-12)


def test_an_epoch_resumed_with_or_without_weights_counts_each_step_by_what_it_had() -> None:
    progress = Progress.start([0.1])
    progress.begin_epoch(1, is_weighted=False)
    progress.add_losses([[3.0]], [4], None)
    progress.add_losses([[6.0], [math.nan]], [4, 4], [[2.0], [0.0]])
    assert progress.mean_loss() == [(4 * 3 + 2 * 6) / 6]
    progress.add_losses([[1.0]], [3], None)
    assert progress.mean_loss() == [(4 * 3 + 2 * 6 + 3 * 1) / 9]
    assert progress.samples == [15]


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_an_evaluation_has_the_weighted_loss_and_scikit_learns_weighted_metrics(batch_size: int) -> None:
    net = Sequential(Linear(3, 2)).to(dtype=torch.float64)
    net.load_state_dict({"0.weight": torch.tensor([[0.2, 1.0, 0.5], [0.9, -0.4, 0.1]]), "0.bias": torch.zeros(2)})
    weight = torch.rand(len(X), generator=torch.Generator().manual_seed(2)).double() * (COUNTS > 0)
    data = replace(weighted(X, LABEL, weight), positive=0)
    made = Trainer(metrics=["f1", "auc", "mcc", "brier"]).settings().made_metrics()
    found = evaluate(net, CrossEntropyLoss(), data, data.train, batch_size, 1, made).metrics
    y, t, w = net(X), LABEL.numpy(), weight.numpy()
    p = y.softmax(1)[:, 0].numpy()
    expected = {
        "loss": sk.log_loss(t, y.softmax(1).numpy(), sample_weight=w),
        "accuracy": sk.accuracy_score(t, y.argmax(1), sample_weight=w),
        "error": sk.zero_one_loss(t, y.argmax(1), sample_weight=w),
        "f1": sk.f1_score(t, y.argmax(1), pos_label=0, sample_weight=w),
        "auc": sk.roc_auc_score(t == 0, p, sample_weight=w),
        "mcc": sk.matthews_corrcoef(t, y.argmax(1), sample_weight=w),
        "brier": sk.brier_score_loss(t, p, pos_label=0, sample_weight=w),
    }
    assert {name: v[0] for name, v in found.items()} == {name: pytest.approx(v, abs=1e-12) for name, v in expected.items()}


def test_the_majority_counts_by_weight() -> None:
    label = torch.tensor([0, 0, 0, 1])
    split = Split(torch.zeros(4, 1), label, label)
    assert split.majority() == 0.75
    assert replace(split, weight=torch.tensor([1.0, 1.0, 0.0, 6.0])).majority() == 0.75
    assert replace(split, weight=torch.tensor([1.0, 1.0, 0.0, 2.0])).majority() == 0.5


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    data = weighted(X, LABEL, COUNTS + 0.25)
    how: dict[str, Any] = {"batch_size": 5, "replicas": 2, "log_every_n_steps": 2}
    whole = fitted(data, callbacks=[ValidationSplit(0.3)], **how)
    first = fitted(data, callbacks=[ValidationSplit(0.3), Checkpoint(every_n_steps=1)], max_steps=3, run_dir=tmp_path, **how)
    state = first.fitted().snapshot()["state"]
    assert state["batch"] == 1
    assert state["weight"] == pytest.approx([float(w) for w in state["weight"]])
    net = Sequential(Linear(3, 4), Tanh(), Linear(4, 2))
    second = Trainer(dtype="float64", device="cpu", max_epochs=5, callbacks=[ValidationSplit(0.3)], **how)
    second.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.3, momentum=0.5), data, resume=tmp_path)
    assert second.history[-1] == whole.history[-1]
    assert second.summary["params_sha256"] == whole.summary["params_sha256"]


def test_other_weights_are_told_in_a_resumed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(weighted(X, LABEL, COUNTS), callbacks=[Checkpoint()], run_dir=tmp_path)
    net = Sequential(Linear(3, 4), Tanh(), Linear(4, 2))
    for weight in (COUNTS + 1, None):
        trainer = Trainer(dtype="float64", device="cpu", max_epochs=6)
        data = weighted(X, LABEL, weight)
        trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.3, momentum=0.5), data, resume=tmp_path)
        assert "data: the training split has changed since the checkpoint" in capsys.readouterr().err


def test_the_positive_class_is_saved_with_the_run(tmp_path: Path) -> None:
    data = replace(weighted(X, LABEL, None), positive=0)
    net = Sequential(Linear(3, 2)).initialize(torch.Generator().manual_seed(3))
    trainer = Trainer(
        dtype="float64", device="cpu", max_epochs=1, metrics=["recall"], callbacks=[Checkpoint()], run_dir=tmp_path
    )
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data)
    model = trainkit.load(tmp_path)
    of_no = sk.recall_score(LABEL, net(X).argmax(1), pos_label=0)
    assert model.test(data)["test/recall"] == trainer.test()["test/recall"] == pytest.approx(of_no)


def test_captured_steps_are_taken_eagerly_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert fitted(weighted(X, LABEL, COUNTS), engine="graph").summary["mode"] == "eager"
    expected = "trainer.engine graph: eager, since the samples have weights, which only eager and native steps take"
    assert expected in capsys.readouterr().err


def test_a_step_that_diverges_is_taken_again_with_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Explodes(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            if session.progress.step == 3:
                next(iter(session.net.param()))[0].fill_(math.inf)

    trainer = fitted(weighted(X, LABEL, COUNTS), callbacks=[TerminateOnNaN(), Explodes()], batch_size=4, run_dir=tmp_path)
    assert trainer.summary["stop_reason"] == "nan"
    assert trainer.summary["step"] == 2  # the state before that step


WRONG = {
    "negative": (-1.0, r"data: row 2 of the training split, weight: -1 is not a weight \(1 in total\); give finite numbers"),
    "NaN": (math.nan, r"data: row 2 of the training split, weight: nan is not a weight"),
    "infinite in the run's dtype": (1e300, r"weight: 1e\+300 is not a weight"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_weight_that_no_sample_can_have_is_refused(name: str) -> None:
    value, message = WRONG[name]
    weight = torch.ones(len(X), dtype=torch.float64)
    weight[2] = value
    with pytest.raises(UserError, match=message):
        fitted(weighted(X, LABEL, weight), dtype="float32")
    with pytest.raises(UserError, match="data: all weights of the training split are 0; give at least one"):
        fitted(weighted(X, LABEL, torch.zeros(len(X))))


def test_a_loss_that_takes_no_weights_is_refused() -> None:
    class Own(MSELoss):
        def fwd(self, y: Tensor, t: Tensor) -> Any:  # type: ignore[override]
            return super().fwd(y, t)

    fitted(weighted(X, REAL, None), Own())
    with pytest.raises(UserError, match="loss: Own takes no sample weights, which the train split has; let its fwd"):
        fitted(weighted(X, REAL, COUNTS), Own())


def total(y: Tensor, t: Tensor) -> float:
    return float(len(y))


def total_weight(y: Tensor, t: Tensor, weight: Tensor | None = None) -> float:
    return float(len(y) if weight is None else weight.sum())


class TotalWeight:
    name = "total_of_class"

    def __init__(self) -> None:
        self.total = 0.0

    def update(self, y: Tensor, t: Tensor, weight: Tensor | None) -> None:
        self.total += total_weight(y, t, weight)

    def merge(self, other: TotalWeight) -> None:
        self.total += other.total

    def value(self) -> float:
        return self.total


def test_an_own_metric_receives_the_weights_where_it_takes_them_and_a_line_tells_where_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = fitted(weighted(X, LABEL, COUNTS), metrics=[total, total_weight, TotalWeight]).test()
    assert (found["test/total"], found["test/total_weight"], found["test/total_of_class"]) == (12, 18, 18)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("metrics: ")]
    assert lines == ["metrics: total takes no argument weight, so all samples count alike in it"]
    unweighted = fitted(weighted(X, LABEL, None), metrics=[total, total_weight, TotalWeight]).test()
    assert {unweighted[f"test/{name}"] for name in ("total", "total_weight", "total_of_class")} == {12}
    assert "metrics: " not in capsys.readouterr().err


def test_rows_that_are_cut_out_keep_their_weights() -> None:
    data = fitted(weighted(X, LABEL, COUNTS), callbacks=[ValidationSplit(0.25)]).fitted().data
    kept = [split.weight.tolist() for split in (data.train, data.val) if split is not None and split.weight is not None]
    assert sorted(np.concatenate(kept)) == sorted(COUNTS.tolist())


def test_data_without_weights_is_as_before() -> None:
    content = fitted(tensors(X, LABEL)).fitted().snapshot()
    assert "weight" not in content["state"]
    assert not {key for key in content["data"]["fingerprints"] if "weight" in key}


class Break(Callback):
    """Makes a parameter of one replica, or of the only model, NaN after a step."""

    def __init__(self, step: int, replica: int | None = None) -> None:
        self.step, self.replica = step, replica

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            w = session.net.layers[0].w
            (w if self.replica is None else w[self.replica]).fill_(math.nan)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_replica_that_stops_has_the_mean_loss_of_the_steps_before(weight: float) -> None:
    def history(weight: Tensor | None, **how: Any) -> Any:
        data = weighted(X, LABEL, weight)
        return fitted(data, replicas=2, batch_size=2, max_epochs=1, log_every_n_steps=3, **how).history[-1]["train/loss"]

    def callbacks() -> list[Callback]:
        return [Break(5, replica=0), TerminateOnNaN()]

    same = torch.full((len(X),), weight, dtype=X.dtype)
    assert history(same, callbacks=callbacks()) == pytest.approx(history(None, callbacks=callbacks()), rel=1e-12)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("empty", [1, 4])
def test_a_batch_of_weight_0_is_not_blamed_for_a_break_in_a_later_step(empty: int, replicas: int) -> None:
    """The loss of step `empty` is 0 / 0. Step 5 breaks; `empty` 4 is step 5 itself, whose loss is not the cause."""
    weight = torch.ones(len(X), dtype=X.dtype)
    weight[epoch_permutation(0, 0, len(X))[2 * empty : 2 * empty + 2]] = 0
    callbacks = [Break(5, None if replicas == 1 else 0), TerminateOnNaN()]
    how = {"batch_size": 2, "max_epochs": 1, "log_every_n_steps": 6, "replicas": replicas}
    trainer = fitted(weighted(X, LABEL, weight), callbacks=callbacks, **how)
    if replicas == 1:
        assert trainer.session.progress.step == 4
        assert str(trainer.summary["stop_words"]).startswith(
            "step 5, epoch 1: numbers are not finite after the step: caused by"
        )
    else:
        assert trainer.session.progress.active == [False, True]
        counted = weight[trainer.session.order(0)[0][:8].cpu()].sum()
        assert trainer.session.progress.weight is not None
        assert trainer.session.progress.weight[0] == float(counted)


def test_the_sums_of_an_epoch_that_began_without_weights_are_restored() -> None:
    progress = Progress.start([0.1, 0.1])
    progress.begin_epoch(2, is_weighted=False)
    progress.add_losses([[3.0, 1.0]], [4], None)
    earlier = replace(progress, samples=progress.samples[:], loss_sum=progress.loss_sum[:])
    progress.add_losses([[math.nan, 2.0]], [4], [[2.0, 2.0]])
    progress.restore_sums(0, earlier)
    assert progress.mean_loss() == [3.0, (4 * 1 + 2 * 2) / 6]
