"""Data and rows that a trained model is given: read, scaled, encoded and measured as in the training, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torch import Tensor

from trainkit import (
    SGD,
    BCELoss,
    BCEWithLogitsLoss,
    Checkpoint,
    CrossEntropyLoss,
    Dataset,
    EmbedColumns,
    Linear,
    Loss,
    Module,
    MSELoss,
    Sequential,
    Sigmoid,
    Split,
    Trainer,
    UserError,
    csv,
    load,
    samples,
    table,
    tensors,
)


def fitted(net: Module, loss: Loss, data: Any, lr: float = 0.1, **how: Any) -> Trainer:
    torch.manual_seed(0)
    net.initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(**{"max_epochs": 5, "device": "cpu"} | how)
    trainer.fit(net, loss, SGD(net.param(), lr=lr), data)
    return trainer


class Ramp:
    """x = i / 10, t = 1000 + 5 i."""

    def __init__(self, n: int, x: Any = lambda i: [i / 10]) -> None:
        self.n, self.x = n, x

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.x(i)), torch.tensor([1000.0 + 5 * i])


class Parity(Ramp):
    def __getitem__(self, i: int) -> tuple[Tensor, int]:  # type: ignore[override]
        return torch.tensor([i / 10]), i % 2


# -- rows to predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_map_style_dataset_is_predicted_as_its_tensor(replicas: int) -> None:
    trainer = fitted(Sequential(Linear(1, 1)), MSELoss(), samples(Ramp(20), normalize_target=True), replicas=replicas)
    x = torch.arange(7)[:, None] / 10
    found = trainer.predict(Ramp(7))
    assert torch.equal(found, trainer.predict(x))
    assert (found - 1045).abs().max() < 60, "in the targets' own units"


def test_the_codes_of_a_map_style_dataset_are_checked_and_the_row_is_named() -> None:
    rows = {"c": list("aabbcc"), "x": [1.0, 2, 3, 4, 5, 6], "t": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
    data = table(rows, "t", test=0, task="regression", encode="codes")
    trainer = fitted(Sequential(EmbedColumns([3], 2), Linear(3, 1)), MSELoss(), data)
    wrong = Ramp(1030, lambda i: [1.0, -1.0 if i == 1027 else 0.0])
    with pytest.raises(UserError, match=r"row 1027, feature 1: -1 is not valid in 0.EmbedColumns"):
        trainer.predict(wrong)


ARRAYS = {
    "reversed": lambda x: x[::-1],
    "big-endian": lambda x: x.astype(">f8"),
    "every second column of a wider array": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "unsigned": lambda x: np.abs(100 * x).astype("u2"),
    "read-only": lambda x: (x.setflags(write=False), x)[1],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_is_predicted_whatever_its_strides_and_byte_order(kind: str) -> None:
    trainer = fitted(Sequential(Linear(2, 2)), CrossEntropyLoss(), (np.eye(2), np.array([0, 1])))
    x = ARRAYS[kind](np.random.default_rng(0).normal(size=(6, 2)))
    assert torch.equal(trainer.predict(x), trainer.predict(torch.tensor(x.astype("f8").tolist(), dtype=torch.float64)))


def test_an_array_of_texts_and_complex_rows_are_refused() -> None:
    trainer = fitted(Sequential(Linear(2, 2)), CrossEntropyLoss(), (np.eye(2), np.array([0, 1])))
    with pytest.raises(UserError, match=r"predict: x is an array of objects .*; a model of a table takes a frame"):
        trainer.predict(np.array([["red", 1.0]], dtype=object))
    with pytest.raises(UserError, match="predict: x is complex"):
        trainer.predict(torch.zeros(3, 2, dtype=torch.complex64))


# -- metrics -----------------------------------------------------------------------------------------------------------------

LOSSES: dict[str, Any] = {"logits": (BCEWithLogitsLoss, []), "probabilities": (BCELoss, [Sigmoid()])}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_of_several_binary_outputs_are_those_of_predict_proba(kind: str, classes: int) -> None:
    g = torch.Generator().manual_seed(0)
    x, label = torch.randn(60, 4, generator=g), torch.randint(0, classes, (60,), generator=g)
    hot = torch.nn.functional.one_hot(label).float()
    loss, end = LOSSES[kind]
    data = tensors(x, hot, classes=classes, test=(x, hot))
    trainer = fitted(Sequential(Linear(4, classes), *end), loss(), data, metrics=["log_loss", "brier", "auc"])
    p, found = trainer.predict_proba(x).numpy(), trainer.test()
    assert abs(p.sum(1) - 1).max() > 0.01
    own = p[range(60), label]
    assert found["test/log_loss"] == pytest.approx(log_loss(np.ones(60), np.stack([1 - own, own], 1), labels=[0, 1]), rel=1e-5)
    brier = brier_score_loss(label, p[:, 1]) if classes == 2 else ((p - hot.numpy()) ** 2).sum(1).mean()
    assert found["test/brier"] == pytest.approx(brier, rel=1e-5)
    auc = [roc_auc_score(label == k, p[:, k]) for k in range(classes)]
    assert found["test/auc"] == pytest.approx(auc[1] if classes == 2 else np.mean(auc), abs=1e-9)


def test_a_value_per_target_has_the_name_of_the_target() -> None:
    rows = {"x": [float(i) for i in range(30)], "a": [i * 0.5 + 0.1 for i in range(30)], "b": [i * 0.7 for i in range(30)]}
    data = table(rows, ["a", "b"], test=0.2, task="regression")
    found = fitted(Sequential(Linear(1, 2)), MSELoss(), data, metrics=[{"mse": {"average": "none"}}]).test()
    assert {"test/mse/a", "test/mse/b"} <= found.keys()


def test_metrics_read_the_targets_as_they_were_given() -> None:
    x = torch.arange(10.0)[:, None]
    t = 3.3 * x
    t[3] = 0
    data = tensors(x, t, test=(x, t), normalize_target=True)
    trainer = fitted(Sequential(Linear(1, 1)), MSELoss(), data, metrics=["mape", "mae"])
    found = trainer.test()
    assert np.isnan(found["test/mape"]), "of a target that is 0, and 4e-7 once it is scaled and scaled back"
    assert found["test/mae"] == pytest.approx(float((trainer.predict(x) - t).abs().mean()), rel=1e-6)
    assert torch.equal(trainer.fitted().data.train.raw, t)  # type: ignore[arg-type]


def test_a_metric_of_ones_own_receives_outputs_and_targets_of_one_dtype() -> None:
    seen = []

    def largest(y: Tensor, t: Tensor) -> float:
        seen.append((y.dtype, t.dtype))
        return float(torch.dot(y.flatten(), t.flatten()))

    x = torch.arange(10.0)[:, None]
    data = tensors(x, 1e6 + x.double(), test=(x, 1e6 + x.double()), normalize_target=True)
    fitted(Sequential(Linear(1, 1)), MSELoss(), data, metrics=[largest]).test()
    assert set(seen) == {(torch.float64, torch.float64)}


# -- data to test ------------------------------------------------------------------------------------------------------------


def with_texts(**how: Any) -> Dataset:
    return table({"c": ["a", "b"] * 20, "t": ["n", "y"] * 20}, "t", test=0.2, normalize="none", **how)


OTHERS: dict[str, Any] = {
    "other categories": ({"c": ["b", "z"] * 5, "t": ["y", "n"] * 5}, "feature 0 of the test split is 'c=b', .* is 'c=a'"),
    "another column": ({"d": ["a", "b"] * 5, "t": ["n", "y"] * 5}, "feature 0 of the test split is 'd=a'"),
    "one category more": (
        {"c": ["a", "b", "c"] * 4, "t": ["n", "y", "n"] * 4},
        "feature 2 .* is 'c=c', that of the fit is none",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_table_with_other_columns_or_categories_is_refused(kind: str, tmp_path: Path) -> None:
    trainer = fitted(Sequential(Linear(2, 2)), CrossEntropyLoss(), with_texts(), lr=1.0)
    trainer.save(tmp_path / "model.pt")
    rows, says = OTHERS[kind]
    for model in (trainer, load(tmp_path / "model.pt")):
        with pytest.raises(UserError, match=says):
            model.test(table(rows, "t", test=rows))


def test_codes_of_another_number_of_categories_are_refused() -> None:
    net = Sequential(EmbedColumns([2], 2), Linear(2, 2))
    trainer = fitted(net, CrossEntropyLoss(), with_texts(encode="codes"))
    rows = {"c": ["a", "b", "c"] * 4, "t": ["n", "y", "n"] * 4}
    with pytest.raises(UserError, match=r"the test split has \[3\] categories, the fit's has \[2\]"):
        trainer.test(table(rows, "t", test=rows, encode="codes"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prices")
    frame().to_csv(folder / "train.csv", index=False)
    new = frame(1).assign(note="ignored")[["note", "t", "x", "c", "w"]]
    new.to_csv(folder / "new.csv", index=False)
    return folder


def frame(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    x, c = draw.normal(1e4, 5, 40), draw.choice(["red", "blue"], 40)
    return pd.DataFrame({"x": x, "c": c, "w": draw.integers(0, 4, 40), "t": 2 * x + np.where(c == "red", 10, 0)})


def priced(folder: Path) -> Trainer:
    data = csv(str(folder / "train.csv"), "t", test=0, weight="w", normalize_target=True)
    run = {"run_dir": folder / "run", "callbacks": [Checkpoint()], "device": "cpu"}
    return fitted(Sequential(Linear(3, 1)), MSELoss(), data, metrics=["mae"], **run)


def test_rows_with_named_columns_are_tested_by_the_schema_of_the_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, new = priced(folder), pd.read_csv(folder / "new.csv")
    for model in (trainer, load(folder / "run")):
        error = (model.predict(new)[:, 0].double().numpy() - new.t.to_numpy()).__abs__()
        capsys.readouterr()
        found = [model.test(str(folder / "new.csv")), model.test(new), model.test(new.to_dict("records"))]
        found.append({k.replace("val/", "test/"): v for k, v in model.validate(new.to_dict("list")).items()})
        assert found[0]["test/mae"] == pytest.approx(np.average(error, weights=new.w), rel=1e-4)
        assert all(other == found[0] for other in found)
        assert "the test split: columns that the model was not trained on are ignored: 'note'" in capsys.readouterr().err
        with pytest.raises(UserError, match="the rows have no column 't', the target; a test split needs it"):
            model.test(new.drop(columns="t"))


@pytest.mark.parametrize("replicas", [1, 3])
def test_new_rows_need_neither_target_nor_weight_nor_ids(
    replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainkit.app.cli.main import main

    monkeypatch.chdir(tmp_path)
    rows = frame().assign(id=range(40), w=1.0)
    rows.to_csv("train.csv", index=False)
    Path("r.yaml").write_text(
        "data: {name: csv, path: train.csv, target: t, task: regression, weight: w, ids: [id], normalize_target: true}\n"
        "model: [{Linear: [auto, auto]}]\nloss: MSELoss\noptimizer: {SGD: {lr: 0.1}}\n"
        f"trainer: {{max_epochs: 1, replicas: {replicas}}}\n"
    )
    assert main(["fit", "r.yaml", "--run-dir", "run"]) == 0
    new = frame(1)[["x", "c"]].assign(id=range(40))
    expected = load("run").predict(new).double().reshape(replicas, 40).mean(0).tolist()
    for columns in ({}, {"t": None}, {"w": None}, {"t": None, "w": None}):
        new.assign(**columns).to_csv("new.csv", index=False)
        assert main(["predict", "run", "new.csv", "--out", "new_predictions.csv"]) == 0
        found = pd.read_csv("new_predictions.csv")
        assert list(found.columns) == ["row", "id", "t", *(["std"] if replicas > 1 else [])]
        assert found.t.tolist() == pytest.approx(expected, rel=1e-6)
        assert load("run").predict("new.csv").double().reshape(replicas, 40).mean(0).tolist() == pytest.approx(expected)
    new.drop(columns="id").to_csv("new.csv", index=False)
    capsys.readouterr()
    for line in ("", "run/predictions.csv: the predictions in it are replaced; keep them with --out FILE\n"):
        assert main(["predict", "run", "new.csv"]) == 0
        assert capsys.readouterr().err == f"new.csv: no id column 'id', so the predictions do not repeat it\n{line}"


def test_the_truth_of_a_prediction_has_all_its_digits(folder: Path) -> None:
    from trainkit.app.cli.main import main

    t = [1234567 + 1001 * i for i in range(40)]
    (folder / "exact.csv").write_text("x,t\n" + "".join(f"{i},{v}\n" for i, v in enumerate(t)))
    conf = folder / "exact.yaml"
    conf.write_text(
        f"data: {{name: csv, path: {folder / 'exact.csv'}, target: t, normalize_target: true}}\n"
        "model: [{Linear: [1, 1]}]\nloss: MSELoss\noptimizer: {SGD: {lr: 0.1}}\ntrainer: {max_epochs: 1}\n"
    )
    assert main(["fit", str(conf), "--run-dir", str(folder / "exact")]) == 0
    assert main(["predict", str(folder / "exact")]) == 0
    found = pd.read_csv(folder / "exact" / "predictions.csv")
    assert found.truth.tolist() == [t[row] for row in found.row]


@pytest.mark.parametrize(("targets", "loss"), [("binary", BCEWithLogitsLoss), ("onehot", MSELoss), ("index", CrossEntropyLoss)])
def test_classes_to_test_are_encoded_as_in_the_training(targets: Any, loss: type[Loss]) -> None:
    data = samples(Parity(20), test=Parity(6), targets=targets, off_value=0.0 if targets != "onehot" else -1.0)
    trainer = fitted(Sequential(Linear(1, 1 if targets == "binary" else 2)), loss(), data)
    x, t = torch.arange(6)[:, None] / 10, torch.arange(6) % 2
    assert trainer.test(Parity(6)) == trainer.test() == trainer.test((x, t))


def test_a_loaded_run_measures_the_rows_that_it_was_trained_on(tmp_path: Path) -> None:
    from trainkit.app.cli.main import main

    frame().assign(t=lambda f: np.where(f.x > 1e4, "y", "n")).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "c.yaml").write_text(
        f"data: {{name: csv, path: {tmp_path / 't.csv'}, target: t, test: 0.25}}\nmodel: [{{Linear: [4, 2]}}]\n"
        "loss: CrossEntropyLoss\noptimizer: {SGD: {lr: 0.1}}\ntrainer: {max_epochs: 1}\n"
        "callbacks: {validation_split: {fraction: 0.2}}\n"
    )
    assert main(["fit", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")]) == 0
    model = load(tmp_path / "run")
    assert [int(model.confusion_matrix(name).counts.sum()) for name in ("train", "val", "test")] == [24, 6, 10]


# -- weights -----------------------------------------------------------------------------------------------------------------

X, T = torch.arange(8.0)[:, None], torch.arange(8) % 2
WRONG: dict[str, tuple[Any, str]] = {
    "a column": (torch.ones(8, 1), r"weight is \(8, 1\), needs \(8,\): one number per sample"),
    "an array": (np.ones(8), "weight is a ndarray; give a tensor"),
    "too few": (torch.ones(7), "8 inputs, 7 values of 'weight'"),
    "complex": (torch.ones(8, dtype=torch.complex64), "weight is complex"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_weight_of_another_shape_or_type_is_refused(kind: str) -> None:
    weight, says = WRONG[kind]
    with pytest.raises(UserError, match=says):
        Split(X, T, T, weight)


WEIGHT = [1, 0, 2, 1, 0, 3, 1, 1]


@pytest.mark.parametrize("weight", [WEIGHT, np.array(WEIGHT), torch.tensor(WEIGHT), pd.Series(WEIGHT)], ids=str)
def test_weights_given_with_the_arrays_count_as_repeated_rows(weight: Any) -> None:
    w = torch.tensor(WEIGHT)
    repeated = X.repeat_interleave(w, 0), T.repeat_interleave(w)
    expected = fitted(Sequential(Linear(1, 2)), CrossEntropyLoss(), tensors(*repeated, test=repeated))
    for data in (tensors(X, T, weight=weight, test=(X, T, weight)), (X, T, weight)):
        trainer = fitted(Sequential(Linear(1, 2)), CrossEntropyLoss(), data)
        torch.testing.assert_close(trainer.predict(X), expected.predict(X))
        assert trainer.test((X, T, weight)) == pytest.approx(expected.test(), rel=1e-5)
    with pytest.raises(UserError, match=r"data.val: is a tuple of 4; give \(x, t\) or \(x, t, weight\)"):
        tensors(X, T, val=(X, T, weight, weight))


def test_the_third_tensor_of_a_dataset_of_torch_is_not_taken_as_weights() -> None:
    three = torch.utils.data.TensorDataset(X, T, torch.ones(8))
    with pytest.raises(UserError, match="give a Dataset"):
        fitted(Sequential(Linear(1, 2)), CrossEntropyLoss(), three)
