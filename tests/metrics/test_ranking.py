"""AUC and average precision against scikit-learn's; from bins against the exact values of rounded scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from metric_cases import Case, assert_close, class_case, filled
from sklearn import metrics as sk
from test_per_sample import probabilities

from trainkit.core.errors import UserError
from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import make
from trainkit.metrics.task import Task

BINARY = [make(m) for m in ("auc", "average_precision", {"auc": {"bins": 8}}, {"average_precision": {"bins": 8}})]
SEVERAL = [
    make({name: {"average": average, **options}})
    for name in ("auc", "average_precision")
    for average in ("macro", "weighted", "none")
    for options in ({}, {"bins": 8})
]
ONE = "needs one class per sample; the task has several labels"
OVO = [make({"auc": {"multi_class": "ovo", "average": average}}) for average in ("macro", "weighted")]


def two_class_scores(case: Case) -> Any:
    """What ranks the samples: the difference of logits, or the probability of the positive class."""
    z = case.y.double().reshape(*case.y.shape[:2], -1)[0].numpy()
    if z.shape[1] == 1:
        return z[:, 0] if case.task.positive else -z[:, 0]
    if case.task.from_logits:
        return (z[:, 1] - z[:, 0]) * (1 if case.task.positive else -1)
    return z[:, case.task.positive]


def expected_scores(truth: Any, scores: Any, weight: Any) -> tuple[float, float]:
    """AUC and average precision by scikit-learn, which are 0 or warn where ours are NaN."""
    auc = sk.roc_auc_score(truth, scores, sample_weight=weight) if 0 < truth.sum() < len(truth) else math.nan
    return auc, sk.average_precision_score(truth, scores, sample_weight=weight) if truth.any() else math.nan


def test_two_classes_are_ranked_as_by_scikit_learn() -> None:
    with sklearn.config_context(skip_parameter_validation=True):
        for seed in range(400):
            case = class_case(seed, one_output=bool(seed % 2), max_classes=2)
            values = {name: v[0] for name, v in filled(case, BINARY).values().items()}
            truth, scores = case.t.numpy() == case.task.positive, two_class_scores(case)
            auc, precision = expected_scores(truth, scores, case.sample_weight())
            assert_close(values["auc"], auc, seed)
            assert_close(values["average_precision"], precision, seed)
            if seed % 3 == 0:
                binned = np.minimum(np.floor(probabilities(case)[:, case.task.positive] * 8), 7)
                auc, precision = expected_scores(truth, binned, case.sample_weight())
                assert_close(values["auc_8_bins"], auc, seed)
                assert_close(values["average_precision_8_bins"], precision, seed)


def test_several_classes_are_ranked_as_by_scikit_learn_each_against_the_others() -> None:
    with sklearn.config_context(skip_parameter_validation=True):
        for seed in range(150):
            case = class_case(seed, max_classes=7)
            if case.task.outputs == 2:
                continue
            case = replace(case, y=torch.from_numpy(probabilities(case))[None], task=replace(case.task, from_logits=False))
            check_columns(case, case.t.numpy()[:, None] == np.arange(case.task.outputs), seed)


def test_several_labels_are_ranked_as_by_scikit_learn_each_on_its_own() -> None:
    g = np.random.default_rng(0)
    for seed in range(40):
        n, k = int(g.integers(1, 30)), int(g.integers(2, 5))
        t = g.random((n, k)) < g.random()
        weight = torch.from_numpy(g.random(n) + 0.1) if g.random() < 0.5 else None
        task = Task(tuple("abcd"[:k]), k, False, 0.5, multilabel=True)
        case = Case(torch.from_numpy(g.random((1, n, k)).round(1)), torch.from_numpy(t).float(), None, weight, task)
        check_columns(case, t, seed)


def check_columns(case: Case, truth: Any, seed: int) -> None:
    values = {name: v[0] for name, v in filled(case, SEVERAL).values().items()}
    y, w = case.y[0].numpy(), case.sample_weight()
    bins = "_8_bins" if seed % 2 else ""
    scores = np.minimum(np.floor(y * 8), 7) if bins else y
    per_class = np.array([expected_scores(truth[:, c], scores[:, c], w) for c in range(y.shape[1])])
    support = truth.sum(0) if w is None else w @ truth
    for i, name in enumerate(("auc", "average_precision")):
        for c, value in enumerate(per_class[:, i]):
            assert_close(values[f"{name}{bins}/{case.task.class_names[c]}"], value, seed)
        defined = ~np.isnan(per_class[:, i])
        some, weights = per_class[defined, i], support[defined]
        assert_close(values[f"{name}{bins}"], some.mean() if len(some) else math.nan, seed)
        expected = some @ weights / weights.sum() if weights.sum() else math.nan
        assert_close(values[f"{name}_weighted{bins}"], expected, seed)


def test_several_classes_are_ranked_as_by_scikit_learn_one_against_one() -> None:
    g = np.random.default_rng(0)
    for _ in range(30):
        k = int(g.integers(3, 6))
        p = g.random((40, k)).round(1) + 0.05
        p /= p.sum(1, keepdims=True)
        t = np.concatenate([np.arange(k), g.integers(0, k, 40 - k)])
        label = torch.from_numpy(t)
        case = Case(torch.from_numpy(p)[None], label, label, None, Task(tuple("abcdef"[:k]), k, False, 0.5))
        values = filled(case, OVO).values()
        assert_close(values["auc_ovo"][0], sk.roc_auc_score(t, p, multi_class="ovo"))
        assert_close(values["auc_ovo_weighted"][0], sk.roc_auc_score(t, p, multi_class="ovo", average="weighted"))


def test_numbers_that_a_person_can_check() -> None:
    """Scores 1 2 2 3 of the classes 0 0 1 1: 3.5 of 4 pairs are right. Precision is 1 at 3, and 2/3 at 2."""
    label = torch.tensor([0, 0, 1, 1])
    made = MetricSet([make("auc"), make("average_precision")], Task(("no", "yes"), 1, True, 0.0))
    made.update(torch.tensor([[1.0, 2.0, 2.0, 3.0]]), label, label)
    values = made.values()
    assert values == {"auc": [0.875], "average_precision": [pytest.approx(5 / 6)]}
    assert len(made._states) == 1


def test_confident_logits_keep_their_order() -> None:
    """σ(50) and σ(60) are both 1 in float64."""
    label = torch.tensor([0, 1])
    for outputs, y in ((1, [50.0, 60.0]), (2, [0.0, 50.0, 0.0, 60.0])):
        made = MetricSet([make("auc")], Task(("no", "yes"), outputs, True, 0.0))
        made.update(torch.tensor(y).view(1, 2, outputs), label, label)
        assert made.values() == {"auc": [1.0]}


def test_a_sample_of_weight_0_is_left_out() -> None:
    label = torch.tensor([0, 1, 1])
    for weight, y in (([1.0, 1.0, 0.0], [0.2, 0.3, math.nan]), ([0.0, 1.0, 1.0], [0.2, 0.3, 0.4])):
        made = MetricSet(BINARY, Task(("no", "yes"), 1, False, 0.5))
        made.update(torch.tensor([y]), label, label, torch.tensor(weight))
        assert_close(made.values()["auc"][0], 1.0 if weight[0] else math.nan)
        assert made.values()["average_precision"] == [1.0]


def test_undefined_is_nan_with_a_reason() -> None:
    task, label = Task(("no", "yes"), 1, False, 0.5), torch.tensor([0, 0])
    made = MetricSet(BINARY, task, replicas=2)
    assert set(made.reasons().values()) == {"there are no samples"}
    made.update(torch.tensor([[0.2, 0.3], [0.2, 0.3]]), label, label)
    assert set(made.reasons().values()) == {"no sample is of 'yes'"}
    assert len(made.reasons()) == 4
    made.update(torch.tensor([[0.2], [math.nan]]), torch.tensor([1]), torch.tensor([1]))
    assert [[v == v for v in values] for values in made.values().values()] == [[True, False]] * 4
    assert made.reasons()["auc"] == "outputs or targets are not finite"
    assert made.reasons()["auc_8_bins"] == "outputs are not probabilities: NaN, outside [0, 1], or not adding up to 1"
    made = MetricSet(SEVERAL[:6] + OVO, Task(("a", "b", "c"), 3, True, 0.0))
    made.update(torch.randn(1, 2, 3), label, label)
    assert made.reasons() == {
        "auc": "every sample is of 'a'",
        "auc_8_bins": "every sample is of 'a'",
        "auc_weighted": "every sample is of 'a'",
        "auc_weighted_8_bins": "every sample is of 'a'",
        "auc_ovo": "every sample is of 'a'",
        "auc_ovo_weighted": "every sample is of 'a'",
        "auc/a": "every sample is of 'a'",
        "auc/b": "no sample is of 'b'",
        "auc/c": "no sample is of 'c'",
        "auc_8_bins/a": "every sample is of 'a'",
        "auc_8_bins/b": "no sample is of 'b'",
        "auc_8_bins/c": "no sample is of 'c'",
    }


def test_options_that_do_not_fit_are_refused() -> None:
    two, labels = Task(("a", "b"), 2, True, 0.0), Task(("a", "b"), 2, True, 0.0, multilabel=True)
    for options, task, message in (
        ({"bins": 1}, two, "metrics.auc.bins: 1; needs a whole number of at least 2"),
        ({"multi_class": "ovo", "bins": 9}, two, "metrics.auc.multi_class: ovo needs average macro or weighted, and no bins"),
        ({"average": "none"}, two, "metrics: auc: average none needs several classes; the task has two; leave it out"),
        (
            {"multi_class": "ovo"},
            labels,
            "metrics: auc_ovo: multi_class ovo needs one class per sample; the task has several labels",
        ),
    ):
        with pytest.raises(UserError) as error:
            MetricSet([make({"auc": options})], task)
        assert str(error.value) == message
