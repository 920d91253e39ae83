"""What a trained model answers in Python: rows of any kind, probabilities, classes. A trainer and a loaded run answer alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit import (
    SGD,
    Adam,
    BCELoss,
    BCEWithLogitsLoss,
    Checkpoint,
    CrossEntropyLoss,
    Dataset,
    Linear,
    LogSoftmax,
    Loss,
    MSELoss,
    NLLLoss,
    Sequential,
    Sigmoid,
    Split,
    Tanh,
    Trainer,
    UserError,
    csv,
    load,
    tensors,
)
from trainkit.app.experiment import Experiment

Model = Trainer | Experiment
N = 60


def frame(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    a, b, color = draw.normal(1e6, 5, N), draw.integers(0, 9, N), draw.choice(["blue", "red"], N)
    kind = np.where((a > 1e6) & (color == "red"), "yes", np.where(b > 4, "maybe", "no"))
    return pd.DataFrame({"a": a, "color": color, "b": b, "kind": kind})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def trainer(folder: Path) -> Trainer:
    frame().to_csv(folder / "train.csv", index=False)
    net = Sequential(Linear(4, 8), Tanh(), Linear(8, 3))
    made = Trainer(max_epochs=5, batch_size=10, callbacks=[Checkpoint()], run_dir=folder / "run")
    made.fit(net, CrossEntropyLoss(), Adam(net.param(), lr=0.01), csv(str(folder / "train.csv"), "kind"))
    return made


@pytest.fixture(scope="module")
def loaded(trainer: Trainer, folder: Path) -> Experiment:
    return load(folder / "run")


@pytest.fixture(params=["trainer", "loaded"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    return request.getfixturevalue(request.param)


# -- rows of a table ---------------------------------------------------------------------------------------------------------


def features(rows: pd.DataFrame) -> Any:
    """The inputs of the net by pandas: numbers as they are, a 0/1 column per color, in the order of the training's columns."""
    hot = pd.get_dummies(rows["color"]).reindex(columns=["blue", "red"]).astype(float)
    return pd.concat([rows[["a"]], hot, rows[["b"]]], axis=1).to_numpy(float)


KINDS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "pandas": lambda rows: rows,
    "polars": pl.from_pandas,
    "arrow": lambda rows: pa.Table.from_pandas(rows, preserve_index=False),
    "a dict of columns": lambda rows: rows.to_dict("list"),
    "a dict of arrays": lambda rows: {name: rows[name].to_numpy() for name in rows},
    "a list of dicts": lambda rows: rows.to_dict("records"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [["a", "color", "b"], ["b", "note", "a", "color"]])
def test_columns_are_found_by_name_in_every_kind_of_rows(model: Model, kind: str, order: list[str]) -> None:
    rows = frame(1).assign(note="x")[order]
    expected = model.predict(features(frame(1)))
    assert torch.equal(model.predict(KINDS[kind](rows)), expected)
    assert torch.allclose(model.predict_proba(KINDS[kind](rows)), expected.double().softmax(1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["rows.csv", "ROWS.CSV", "rows.txt", "rows.csv.gz"])
def test_a_file_is_predicted_by_its_path(model: Model, folder: Path, name: str) -> None:
    rows = frame(1).drop(columns="kind").assign(note="x")
    rows.to_csv(folder / name, index=False)
    expected = model.predict(features(rows))
    for path in (folder / name, str(folder / name)):
        assert torch.equal(model.predict(path), expected)


def test_ignored_columns_are_named_once(folder: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    model = load(folder / "run")
    rows = frame(1).assign(note="x", id=1)
    capsys.readouterr()
    for _ in range(3):
        model.predict(rows)
    assert capsys.readouterr().err == "predict: columns that the model was not trained on are ignored: 'note', 'id'\n"
    model.predict(rows.drop(columns="id"))
    assert capsys.readouterr().err == "predict: columns that the model was not trained on are ignored: 'note'\n"
    model.predict(frame(1))
    assert capsys.readouterr().err == ""


def test_the_target_is_not_read(model: Model) -> None:
    rows = frame(1)
    expected = model.predict(rows)
    for kind in ("unknown", None):
        assert torch.equal(model.predict(rows.assign(kind=kind)), expected)


def test_one_row_is_a_dict(model: Model) -> None:
    row = {"a": 1e6 + 3, "color": "red", "b": 2}
    assert torch.equal(model.predict(row), model.predict([row]))
    assert model.predict_classes(row) == model.predict_classes([row])


def test_a_missing_value_is_filled_where_the_run_is_told_to(folder: Path, trainer: Trainer) -> None:
    rows = frame(1).drop(columns="kind")
    filled = rows.copy()
    data = csv(str(folder / "train.csv"), "kind")
    rows.loc[3, "a"] = None
    filled.loc[3, "a"] = data.train.x[:][:, 0].mean().item()
    with pytest.raises(UserError, match="column 'a', row 3: missing"):
        load(folder / "run").predict(rows)
    model = load(folder / "run", "data.missing=mean")
    assert torch.allclose(model.predict(rows), model.predict(filled), rtol=0, atol=1e-6)


def test_an_absent_column_is_one_error(model: Model, folder: Path) -> None:
    rows = frame(1).drop(columns="color")
    rows.to_csv(folder / "short.csv", index=False)
    for given_rows in (*(made(rows) for made in KINDS.values()), folder / "short.csv"):
        with pytest.raises(UserError, match="no column 'color', which the model was trained on") as found:
            model.predict(given_rows)
        assert "\n" not in str(found.value)


def test_named_columns_need_a_model_of_a_table() -> None:
    net = Sequential(Linear(2, 2))
    trainer = Trainer(max_epochs=0)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param()), tensors(torch.rand(9, 2), torch.arange(9) % 2))
    for rows in ({"a": [1.0]}, [{"a": 1.0}], "rows.csv"):
        with pytest.raises(UserError, match=r"predict: x is .*, but the model was not trained on a table; give numbers"):
            trainer.predict(rows)
    x = np.random.default_rng(0).random((5, 2))
    assert torch.equal(trainer.predict(pd.DataFrame(x)), trainer.predict(x))


# -- probabilities and classes -----------------------------------------------------------------------------------------------


def test_probabilities_are_in_the_order_of_the_classes(model: Model) -> None:
    rows = frame(1)
    p = model.predict_proba(rows)
    assert model.classes == ("maybe", "no", "yes") == tuple(sorted(set(frame()["kind"])))
    assert (p.shape, p.dtype) == ((N, 3), torch.float64)
    assert torch.allclose(p.sum(1), torch.ones(N, dtype=torch.float64))
    assert model.predict_classes(rows) == [model.classes[k] for k in p.argmax(1).tolist()]
    assert model.positive is None
    assert (
        torch.tensor([a == b for a, b in zip(model.predict_classes(rows), rows["kind"], strict=True)])
    ).double().mean() > 0.5


def fitted(loss: Loss, *layers: Any, t: torch.Tensor, classes: int | None = None, **how: Any) -> Trainer:
    net = Sequential(*layers)
    trainer = Trainer(max_epochs=2, dtype="float64", **how)
    x = torch.rand(len(t), 2, generator=torch.Generator().manual_seed(0))
    trainer.fit(net, loss, SGD(net.param(), lr=0.5), tensors(x, t, classes=classes))
    return trainer


INDEX = torch.arange(20) % 2
ONE = INDEX[:, None].float()
LOSSES: dict[str, tuple[Callable[..., Trainer], Callable[[Any], Any]]] = {
    "CrossEntropyLoss": (
        lambda **how: fitted(CrossEntropyLoss(), Linear(2, 2), t=INDEX, **how),
        lambda y: np.exp(y) / np.exp(y).sum(-1, keepdims=True),
    ),
    "NLLLoss": (lambda **how: fitted(NLLLoss(), Linear(2, 2), LogSoftmax(), t=INDEX, **how), np.exp),
    "BCEWithLogitsLoss": (
        lambda **how: fitted(BCEWithLogitsLoss(), Linear(2, 1), t=ONE, classes=2, **how),
        lambda y: np.concatenate([1 / (1 + np.exp(y)), 1 / (1 + np.exp(-y))], -1),
    ),
    "BCELoss": (
        lambda **how: fitted(BCELoss(), Linear(2, 1), Sigmoid(), t=ONE, classes=2, **how),
        lambda y: np.concatenate([1 - y, y], -1),
    ),
}


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_probabilities_come_from_the_loss_and_are_the_mean_over_replicas(name: str, replicas: int) -> None:
    make, formula = LOSSES[name]
    trainer = make(replicas=replicas)
    x = torch.rand(7, 2, dtype=torch.float64)
    p = formula(trainer.predict(x).reshape(replicas, 7, -1).numpy())
    assert np.allclose(trainer.predict_proba(x), p.mean(0), rtol=0, atol=1e-14)
    assert trainer.predict_classes(x) == [str(k) for k in p.mean(0).argmax(1)]
    for r in range(replicas):
        assert np.allclose(trainer.predict_proba(x, replica=r), p[r], rtol=0, atol=1e-14)
        assert trainer.predict_classes(x, replica=r) == [str(k) for k in p[r].argmax(1)]
    assert (trainer.classes, trainer.positive) == (("0", "1"), 1)
    with pytest.raises(UserError, match=f"replica: {replicas}; the run has {replicas}, from 0 to {replicas - 1}"):
        trainer.predict_proba(x, replica=replicas)


def test_without_probabilities_the_error_says_why() -> None:
    scores = fitted(MSELoss(), Linear(2, 1), t=ONE, classes=2)
    x = torch.rand(7, 2)
    with pytest.raises(UserError, match="predict_proba: MSELoss makes no probabilities of the outputs; use predict"):
        scores.predict_proba(x)
    assert scores.predict_classes(x) == [str(int(y > 0.5)) for y in scores.predict(x)]
    labels = Dataset(Split(x, (x > 0.5).float()), classes=("wet", "cold"), multilabel=True)
    net = Sequential(Linear(2, 2))
    several = Trainer(max_epochs=0)
    several.fit(net, BCEWithLogitsLoss(), SGD(net.param()), labels)
    assert several.positive is None
    assert torch.allclose(several.predict_proba(x), several.predict(x).double().sigmoid(), atol=1e-15)
    with pytest.raises(UserError, match="predict_classes: a row may have several labels"):
        several.predict_classes(x)
    numbers = fitted(MSELoss(), Linear(2, 1), t=ONE)
    assert numbers.classes is numbers.positive is None
    for call in (numbers.predict_proba, numbers.predict_classes):
        with pytest.raises(UserError, match="the data has no classes; use predict"):
            call(x)


@pytest.mark.parametrize("replicas", [1, 3])
def test_outputs_of_one_replica_are_those_of_its_model(replicas: int) -> None:
    x = torch.randn(N, 2)
    trainer = fitted(MSELoss(), Linear(2, 1), t=x[:, :1], replicas=replicas)
    y = trainer.predict(x)
    for r in range(replicas):
        assert torch.equal(trainer.predict(x, replica=r), y[r] if replicas > 1 else y)
    with pytest.raises(UserError, match=f"replica: {replicas}; the run has {replicas}, from 0 to {replicas - 1}"):
        trainer.predict(x, replica=replicas)


@given(st.integers(1, 4), st.integers(0, 5))
def test_any_number_of_rows_is_predicted(replicas: int, n: int) -> None:
    net = Sequential(Linear(2, 2))
    trainer = Trainer(max_epochs=0, replicas=replicas)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param()), tensors(torch.rand(9, 2), torch.arange(9) % 2))
    assert trainer.predict_proba(torch.rand(n, 2)).shape == (n, 2)
    assert len(trainer.predict_classes(torch.rand(n, 2))) == n
