"""Quantile normalization is scikit-learn's; targets are standardized for the loss only, and come back in their units."""

from __future__ import annotations

import csv as csv_rows
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor

import trainkit
from trainkit import (
    SGD,
    Checkpoint,
    Dataset,
    Linear,
    MSELoss,
    Sequential,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    checkpoint,
    csv,
    npy,
    tensors,
)
from trainkit.app.cli.main import main
from trainkit.data.transforms.normalize import Normalizer
from trainkit.data.transforms.quantile import LIMIT

KINDS: dict[str, Any] = {
    "normal": lambda draw, n: draw.normal(size=n),
    "integers with ties": lambda draw, n: draw.integers(0, 5, n) * 1.0,
    "half zeros": lambda draw, n: np.where(draw.random(n) < 0.5, 0.0, draw.lognormal(3, 2, n)),
    "far from 0": lambda draw, n: 1.7e9 + draw.integers(0, 100_000, n),
    "two values": lambda draw, n: draw.integers(0, 2, n) * 1.0,
}


def oracle(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    count = max(min(len(train) // 30, 1000), 10)
    made = QuantileTransformer(n_quantiles=min(count, len(train)), output_distribution="normal", subsample=None)
    return made.fit(train).transform(x)


def normalizer(x: Tensor, **how: Any) -> Normalizer:
    return Normalizer.fit(replace(tensors(x, torch.zeros(len(x)), normalize="quantile"), **how))


@given(
    n=st.integers(2, 900), seed=st.integers(0, 10_000), kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4)
)
def test_every_number_is_scikit_learns_also_outside_of_the_training_split(n: int, seed: int, kinds: list[str]) -> None:
    draw = np.random.default_rng(seed)
    train, later = (np.stack([KINDS[kind](draw, m) for kind in kinds], 1) for m in (n, 50))
    varied = (train != train[0]).any(0)  # a constant column is ours: 0
    made = normalizer(torch.from_numpy(train))
    for x in (train, later):
        z = made.scale(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(z[:, varied], oracle(train, x)[:, varied], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "count"), [(2, 2), (9, 9), (300, 10), (390, 13), (30_000, 1000), (60_000, 1000)])
def test_the_number_of_quantiles_is_that_of_the_source(n: int, count: int) -> None:
    found = normalizer(torch.arange(float(n))[:, None]).quantiles
    assert found is not None
    assert found.shape == (count, 1)
    assert found[:, 0].tolist() == pytest.approx(np.linspace(0, n - 1, count).tolist())


@pytest.mark.parametrize("size", [1e-300, 1e-12, 1.0, 1e200, 1e300])
def test_the_size_of_a_feature_does_not_change_its_scaled_numbers(size: float) -> None:
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalizer(x * size).scale(x * size), normalizer(x).scale(x), rtol=1e-9, atol=1e-9)


def test_a_constant_feature_becomes_0_and_other_numbers_in_it_the_limits() -> None:
    made = normalizer(torch.full((20, 1), 3.0))
    assert made.scale(torch.tensor([[2.0], [3.0], [4.0]])).double()[:, 0].tolist() == pytest.approx([-LIMIT, 0.0, LIMIT])
    assert pytest.approx(5.199337582605575, abs=1e-12) == LIMIT  # scipy.stats.norm.ppf(1 - 1e-7)


def test_images_are_scaled_by_pixel() -> None:
    x = torch.rand(40, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = normalizer(x.flatten(1)).scale(x.flatten(1))
    assert torch.equal(normalizer(x).scale(x), flat.view(x.shape))


def test_missing_numbers_are_filled_first() -> None:
    x = torch.tensor([[1.0], [2.0], [torch.nan], [4.0], [9.0]], dtype=torch.float64)
    whole = torch.tensor([[1.0], [2.0], [3.0], [4.0], [9.0]], dtype=torch.float64)
    assert torch.equal(normalizer(x, fill="median").scale(x), normalizer(whole).scale(whole))


@pytest.mark.parametrize("how", ["feature", "global", "quantile"])
def test_columns_of_codes_are_left_alone_and_do_not_count(how: Any) -> None:
    x = 50 * torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 2] = torch.arange(40) % 7
    z = normalizer(x, normalize=how, categories=(0, 0, 7)).scale(x)
    assert torch.equal(z[:, 2], x[:, 2])
    torch.testing.assert_close(z[:, :2], normalizer(x[:, :2], normalize=how).scale(x[:, :2]), rtol=1e-12, atol=1e-12)


def test_inputs_that_stay_in_their_file_are_refused_with_the_way(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 2)))
    np.save(tmp_path / "t.npy", np.arange(20.0))
    paths = str(tmp_path / "x.npy"), str(tmp_path / "t.npy")
    with pytest.raises(UserError, match=r"quantile needs all inputs in memory.* set data.stream=false"):
        fit(npy(*paths, normalize="quantile"))
    fit(npy(*paths, normalize="quantile", stream=False))


# -- targets -----------------------------------------------------------------------------------------------------------------


def regression(n: int = 60, normalize_target: bool = True) -> Dataset:
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.stack([5000 + 300 * x[:, 0], -2 + 0.01 * x[:, 1] * x[:, 2]], 1)
    held = n * 2 // 3
    return tensors(x[:held], t[:held], test=(x[held:], t[held:]), normalize="quantile", normalize_target=normalize_target)


def fit(data: Dataset, **how: Any) -> Trainer:
    net = Sequential(Linear(data.train.x.shape[1], 8), Tanh(), Linear(8, data.train.t.shape[1]))
    net.initialize(torch.Generator().manual_seed(0))
    metrics = ["rmse", "mae", "r2", {"rmse": {"average": "none"}}]
    trainer = Trainer(**{"max_epochs": 3, "batch_size": 8, "device": "cpu", "metrics": metrics[:3]} | how)
    trainer.fit(net, MSELoss(), SGD(net.param(), 0.05), data)
    return trainer


def test_the_loss_sees_targets_of_mean_0_and_deviation_1() -> None:
    data = regression()
    t = fit(data, dtype="float64").fitted().data.train.t
    torch.testing.assert_close(t.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(t.std(0, correction=0), torch.ones(2, dtype=torch.float64))
    expected = (data.train.t - data.train.t.mean(0)) / data.train.t.std(0, correction=0)
    torch.testing.assert_close(t, expected, rtol=1e-9, atol=1e-12)


def test_predictions_and_metrics_are_in_the_targets_units_and_the_loss_is_not() -> None:
    data = regression()
    assert data.test is not None
    trainer = fit(data, dtype="float64", max_epochs=20)
    y, t = trainer.predict(data.test.x).numpy(), data.test.t.numpy()
    found = trainer.test()
    assert found["test/rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(t, y), rel=1e-9)
    assert found["test/mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(t, y), rel=1e-9)
    assert found["test/r2"] == pytest.approx(sklearn.metrics.r2_score(t, y), rel=1e-9)
    scale = data.train.t.std(0, correction=0).numpy()
    assert found["test/loss"] == pytest.approx(sklearn.metrics.mean_squared_error(t / scale, y / scale), rel=1e-9)
    assert abs(y[:, 0].mean() - 5000) < 300
    assert abs(y[:, 1].mean() + 2) < 0.1


def test_replicas_predict_in_the_targets_units_too() -> None:
    data = regression()
    y = fit(data, replicas=3, max_epochs=20).predict(data.train.x)
    assert y.shape == (3, len(data.train), 2)
    assert ((y[..., 0].mean(1) - 5000).abs() < 300).all()


def test_a_constant_target_is_shifted_only() -> None:
    data = tensors(torch.randn(12, 1), torch.full((12,), 7.0), normalize_target=True)
    made = Normalizer.fit(data)
    assert (made.apply(data.train).t == 0).all()
    assert float(made.unscale(torch.zeros(1, 1))) == 7


def test_a_large_offset_loses_no_digits() -> None:
    t = 1.7e9 + torch.arange(1000, dtype=torch.float64) * 1e-3
    made = Normalizer.fit(tensors(torch.zeros(1000, 1), t, normalize_target=True))
    assert made.target_std is not None
    assert float(made.target_std) == pytest.approx(1e-3 * np.arange(1000).std(), rel=1e-6)


def test_classes_have_no_scale() -> None:
    with pytest.raises(UserError, match=r"data.normalize_target: the targets are classes"):
        Normalizer.fit(tensors(torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]), normalize_target=True))


def test_a_loaded_run_predicts_the_same_numbers_and_a_resumed_run_ends_at_the_same_bits(tmp_path: Path) -> None:
    data, x = regression(), regression().train.x[:5]
    callbacks = lambda: [ValidationSplit(0.25), Checkpoint("val/rmse")]  # noqa: E731
    whole = fit(data, max_epochs=6, run_dir=tmp_path / "whole", callbacks=callbacks())
    fit(data, max_epochs=2, run_dir=tmp_path / "part", callbacks=callbacks())
    model = trainkit.load(tmp_path / "part")
    model.fit(data, max_epochs=6)
    assert torch.equal(model.predict(x), whole.predict(x))
    assert torch.equal(trainkit.load(tmp_path / "whole").predict(x), whole.predict(x))
    states = [checkpoint.load(tmp_path / run / "checkpoints/last.pt")["normalizer"] for run in ("whole", "part")]
    assert sorted(states[0]) == ["fill", "mean", "quantiles", "std", "target_mean", "target_std"]
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True) if a is not None)


def test_a_checkpoint_without_the_new_statistics_is_as_before(tmp_path: Path) -> None:
    x = torch.rand(20, 3)
    fit(tensors(x, x[:, :2], normalize="feature"), run_dir=tmp_path, callbacks=[Checkpoint()])
    assert sorted(checkpoint.load(tmp_path / "checkpoints/last.pt")["normalizer"]) == ["fill", "mean", "std"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quantiles": torch.ones(3, 4).double()}, "quantiles .* needs"),
        ({"quantiles": torch.tensor([[1.0] * 3, [0.0] * 3]).double()}, "quantiles .* needs"),
        ({"target_std": None}, "target_mean and target_std; has only one of them"),
        ({"target_std": torch.zeros(2).double()}, "target_mean .* standard deviations above 0"),
    ],
)
def test_forged_statistics_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    trainer = fit(regression())
    content = trainer.fitted().snapshot()
    content["normalizer"] = {k: v for k, v in (content["normalizer"] | change).items() if v is not None or k == "fill"}
    with pytest.raises(UserError, match=words):
        fit_from(content)


def fit_from(content: dict[str, Any]) -> None:
    net = Sequential(Linear(3, 8), Tanh(), Linear(8, 2))
    Trainer(max_epochs=4, batch_size=8, device="cpu").fit(net, MSELoss(), SGD(net.param(), 0.05), regression(), resume=content)


def test_a_csv_file_with_both_is_predicted_in_its_units(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.lognormal(5, 2, 80)
    (tmp_path / "d.csv").write_text("x,price\n" + "".join(f"{v!r},{1000 + 50 * math.log(v)!r}\n" for v in x.tolist()))
    data = csv(str(tmp_path / "d.csv"), "price", normalize="quantile", normalize_target=True)
    trainer = fit(data, max_epochs=80)
    assert trainer.test()["test/rmse"] < 0.5 * float(data.train.t.std())
    assert trainer.fitted().source["normalize_target"] is True


def test_predictions_and_truths_of_a_file_are_in_the_targets_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    x = draw.normal(size=60)
    prices = [round(5000 + 300 * v, 1) for v in x.tolist()]
    Path("d.csv").write_text("x,price\n" + "".join(f"{v!r},{t!r}\n" for v, t in zip(x.tolist(), prices, strict=True)))
    Path("c.yaml").write_text(
        "data: {name: csv, path: d.csv, target: price, normalize_target: true}\nmodel: [{Linear: [auto, auto]}]\n"
        "loss: MSELoss\noptimizer: {SGD: {lr: 0.2}}\nmetrics: [rmse]\ntrainer: {max_epochs: 20, batch_size: 8, replicas: 2}\n"
        "callbacks: {progress_bar: null, tensorboard: null}\n"
    )
    assert main(["fit", "c.yaml", "--run-dir", "run"]) == 0
    assert main(["predict", "run"]) == 0
    rows = list(csv_rows.DictReader(Path("run/predictions.csv").read_text().splitlines()))
    y, t = ([float(row[name]) for row in rows] for name in ("price", "truth"))
    assert set(t) <= set(prices)
    assert len(t) == 12
    rmse = json.loads(Path("run/summary.json").read_text())["metrics"]["test/rmse"]["values"]
    assert np.sqrt(np.mean(np.square(np.subtract(y, t)))) <= max(rmse)  # the mean of two models is not worse than the worse
    assert max(rmse) < 30
