"""Metrics of regression against scikit-learn's, and where they are undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn
import torch
from metric_cases import Case, assert_close, filled, quiet
from sklearn import metrics as sk

from trainkit.core.errors import UserError
from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import make
from trainkit.metrics.task import Task

FUNCTIONS = {
    "mse": sk.mean_squared_error,
    "rmse": sk.root_mean_squared_error,
    "mae": sk.mean_absolute_error,
    "r2": sk.r2_score,
    "mape": sk.mean_absolute_percentage_error,
}
METRICS = [make(m) for name in FUNCTIONS for m in (name, {name: {"average": "none"}})]


def regression_case(seed: int, replicas: int = 1) -> Case:
    """Targets far from 0 (as years are), constant ones, one sample, weights, float32 and float64."""
    g = np.random.default_rng(seed)
    n, d = 1 if g.random() < 0.05 else int(g.integers(2, 60)), int(g.integers(1, 4))
    t = g.normal(size=(n, d)) + g.choice([0.0, 0.0, 2000.0])
    if g.random() < 0.1:
        t[:, 0] = 0.1
    y = torch.from_numpy(t + g.normal(size=(replicas, n, d)))
    weight = torch.from_numpy(g.random(n) + 0.1) if g.random() < 0.4 else None
    case = Case(y, torch.from_numpy(t), None, weight, Task(None, d, False, 0.5))
    if g.random() < 0.5:
        return Case(y.float(), case.t.float(), None, weight, case.task)
    return case


def test_regression_is_scored_as_by_scikit_learn() -> None:
    names = list(FUNCTIONS)
    with sklearn.config_context(skip_parameter_validation=True):
        for seed in range(500):
            case = regression_case(seed)
            values = {name: v[0] for name, v in filled(case, METRICS).values().items()}
            y, t = case.y[0].double().numpy(), case.t.double().numpy()
            name = names[seed % len(names)]
            per_target = quiet(FUNCTIONS[name], t, y, sample_weight=case.sample_weight(), multioutput="raw_values")
            expected = np.broadcast_to(per_target, t.shape[1]).copy()
            if name == "r2":  # scikit-learn's value for a constant target is 0 or 1
                expected[[len(set(column)) == 1 for column in t.T]] = math.nan
            for i, value in enumerate(expected):
                assert_close(values[f"{name}/{i}"], value, (seed, name))
            assert_close(values[name], quiet(np.nanmean, expected), (seed, name))


def test_numbers_that_a_person_can_check() -> None:
    task = Task(None, 1, False, 0.5)
    made = MetricSet([make(m) for m in FUNCTIONS], task)
    made.update(torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([1.0, 2.0, 3.0]))
    values = {name: round(v[0], 6) for name, v in made.values().items()}
    assert values == {"mse": 3.0, "rmse": 1.732051, "mae": 1.0, "r2": -3.5, "mape": 0.333333}
    assert made.maximize == {"mse": False, "rmse": False, "mae": False, "r2": True, "mape": False}
    assert len(made._states) == 1


def test_undefined_is_nan_with_a_reason() -> None:
    task = Task(None, 2, False, 0.5, targets=("price", "age"))
    made = MetricSet([make(m) for m in ("mse", "r2", {"r2": {"average": "none"}}, {"mape": {"average": "none"}})], task, 2)
    assert set(made.reasons().values()) == {"there are no samples"}
    y = torch.tensor([[[1.0, 2.0], [1.0, 4.0]], [[1.0, torch.nan], [2.0, 0.0]]])
    made.update(y, torch.tensor([[0.1, 1.0], [0.1, 0.0]]))
    values = made.values()
    assert [v == v for v in values["r2"]] == [True, False]
    assert made.reasons() == {
        "mse": "outputs or targets are not finite",
        "r2": "outputs or targets are not finite",
        "r2/price": "all values are equal in target 'price'",
        "r2/age": "outputs or targets are not finite",
        "mape/age": "a value is 0 in target 'age'",
    }


def test_a_constant_target_is_recognized_in_any_batches() -> None:
    """The mean of 0.1, 0.1 and 0.1 is not 0.1; rounding must not make a variance of it, which R² would divide by."""
    task = Task(None, 1, False, 0.5)
    for sizes in ([3], [1, 2], [1, 1, 1]):
        made = MetricSet([make("r2")], task)
        for size in sizes:
            made.update(torch.ones(1, size), torch.full((size,), 0.1))
        assert math.isnan(made.values()["r2"][0])


def test_a_sample_of_weight_0_is_left_out() -> None:
    task = Task(None, 1, False, 0.5)
    made = MetricSet([make(m) for m in FUNCTIONS], task)
    weight = torch.tensor([1.0, 1.0, 0.0])
    made.update(torch.tensor([[1.0, 5.0, torch.nan]]), torch.tensor([-1.0, 3.0, torch.nan]), weight=weight)
    assert {name: v[0] for name, v in made.values().items()} == {
        "mse": 4.0,
        "rmse": 2.0,
        "mae": 2.0,
        "r2": 0.0,
        "mape": pytest.approx(4 / 3),
    }


def test_targets_of_another_shape_are_refused() -> None:
    made = MetricSet([make("mse")], Task(None, 2, False, 0.5))
    with pytest.raises(UserError, match=r"metrics: outputs \(3, 2\), targets \(3, 1\); a regression needs one shape"):
        made.update(torch.ones(1, 3, 2), torch.ones(3))
