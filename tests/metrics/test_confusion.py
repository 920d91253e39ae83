"""Metrics of predicted classes against scikit-learn's, and numbers that a person can check."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from metric_cases import Case, assert_close, class_case, empty, filled, quiet
from sklearn import metrics as sk

from trainkit.core.errors import UserError
from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import make
from trainkit.metrics.task import Task

PLAIN = (
    ("accuracy", sk.accuracy_score),
    ("error", sk.zero_one_loss),
    ("hamming", sk.hamming_loss),
    ("balanced_accuracy", sk.balanced_accuracy_score),
)
AVERAGES = ("macro", "micro", "weighted", "none")
QUOTIENTS = ("precision", "recall", "f1")
ALL_NAMES: list[Any] = [
    *("accuracy", "error", "hamming", "balanced_accuracy", "mcc", "jaccard"),
    *("cohen_kappa", {"cohen_kappa": {"weights": "linear"}}, {"cohen_kappa": {"weights": "quadratic"}}),
    *QUOTIENTS,
    *({m: {"average": a}} for m in (*QUOTIENTS, "jaccard") for a in AVERAGES),
]
ALL = [make(m) for m in ALL_NAMES]


def predicted(case: Case) -> Any:
    y = case.y.reshape(*case.y.shape[:2], -1)[0]
    return (y.argmax(1) if y.shape[1] > 1 else (y[:, 0] > case.task.threshold).long()).numpy()


def expected_average(values: dict[str, float], metric: str, average: str, case: Case, expected: float) -> float:
    """scikit-learn's average, but NaN where no class that has samples has a value: there it takes the mean of the others."""
    names = case.task.class_names
    if average == "weighted":
        present = [bool((case.t[:, i] if case.task.multilabel else case.t == i).any()) for i in range(len(names))]
        if not any(p and values[f"{metric}/{n}"] == values[f"{metric}/{n}"] for n, p in zip(names, present, strict=True)):
            return math.nan
    return expected


def check(seed: int, one_output: bool) -> None:
    """Compare one case. Which of scikit-learn's functions it calls depends on the seed; their own checks take the time."""
    case = class_case(seed, one_output=one_output)
    values = {name: v[0] for name, v in filled(case, ALL).values().items()}
    t, p, w = case.t.numpy(), predicted(case), case.sample_weight()
    k, names = case.task.number_of_classes, case.task.class_names
    labels = list(range(k))

    def same(name: str, expected: float) -> None:
        assert_close(values[name], float(expected), (seed, name))

    if seed % 4 == 0:
        name, function = PLAIN[seed // 4 % len(PLAIN)]
        same(name, quiet(function, t, p, sample_weight=w))
    elif seed % 4 == 1:
        weights = (None, "linear", "quadratic")[seed % 3]
        name = f"cohen_kappa_{weights}" if weights else "cohen_kappa"
        same(name, quiet(sk.cohen_kappa_score, t, p, labels=labels, weights=weights, sample_weight=w))
    elif seed % 4 == 2:
        both = len(set(t)) > 1 and len(set(p)) > 1  # else scikit-learn's is 0
        same("mcc", sk.matthews_corrcoef(t, p, sample_weight=w) if both else math.nan)
    average = AVERAGES[seed // 4 % 4]
    if seed % 4 == 3:
        check_jaccard(case, values, average)
    options = {"labels": labels, "average": None if average == "none" else average, "sample_weight": w}
    found = quiet(sk.precision_recall_fscore_support, t, p, zero_division=np.nan, **options)[:3]
    for metric, expected in zip(QUOTIENTS, found, strict=True):
        if average != "none":
            same(f"{metric}_{average}", expected_average(values, metric, average, case, expected))
        else:
            for i in range(k):
                same(f"{metric}/{names[i]}", expected[i])
    for metric in (*QUOTIENTS, "jaccard"):
        per_class = [values[f"{metric}/{n}"] for n in names]
        defined = [v for v in per_class if v == v]
        same(metric, per_class[case.task.positive] if k == 2 else sum(defined) / len(defined))


def check_jaccard(case: Case, values: dict[str, float], average: str) -> None:
    t, p, w = case.t.numpy(), predicted(case), case.sample_weight()
    seen = sorted({*t, *p})
    if average == "none":  # scikit-learn's Jaccard index of an absent class is 0, ours is NaN
        expected = sk.jaccard_score(t, p, labels=seen, average=None, sample_weight=w)
        for i, name in enumerate(case.task.class_names):
            assert_close(values[f"jaccard/{name}"], expected[seen.index(i)] if i in seen else math.nan)
    else:
        expected = sk.jaccard_score(t, p, labels=seen, average=average, sample_weight=w)
        assert_close(values[f"jaccard_{average}"], expected)


def test_classes_are_scored_as_by_scikit_learn() -> None:
    with sklearn.config_context(skip_parameter_validation=True):
        for seed in range(700):
            check(seed, one_output=False)


def test_one_output_is_scored_as_by_scikit_learn() -> None:
    with sklearn.config_context(skip_parameter_validation=True):
        for seed in range(300):
            check(seed, one_output=True)


def outputs(predictions: list[int], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes)[None].float()


def test_numbers_that_a_person_can_check() -> None:
    """Truth 0 0 0 1 1 2, predicted 0 0 1 1 2 2."""
    task = Task(("a", "b", "c"), 3, False, 0.5)
    t = torch.tensor([0, 0, 0, 1, 1, 2])
    made = MetricSet([make(m) for m in ("accuracy", "error", {"recall": {"average": "none"}}, "recall", "jaccard")], task)
    made.update(outputs([0, 0, 1, 1, 2, 2], 3), t, t)
    values = {name: round(v[0], 4) for name, v in made.values().items()}
    assert values == {
        "accuracy": 0.6667,
        "error": 0.3333,
        "recall/a": 0.6667,
        "recall/b": 0.5,
        "recall/c": 1.0,
        "recall": 0.7222,  # (2/3 + 1/2 + 1) / 3
        "jaccard": 0.5,  # (2/3 + 1/3 + 1/2) / 3
    }


def test_accuracy_and_error_share_two_sums_and_all_others_one_matrix() -> None:
    made = empty(class_case(0), ALL)
    assert [state.__name__ for state, _ in made._states] == ["Correct", "Confusion"]  # type: ignore[misc]


def test_an_absent_class_is_left_out_of_the_mean_and_is_nan_on_its_own() -> None:
    task = Task(("a", "b", "c"), 3, False, 0.5)
    t = torch.tensor([0, 1])
    made = MetricSet([make(m) for m in ("f1", {"f1": {"average": "none"}})], task)
    made.update(outputs([0, 1], 3), t, t)
    values = made.values()
    assert values["f1"] == [1.0]
    assert math.isnan(values["f1/c"][0])
    assert made.reasons() == {"f1/c": "no sample is of or is predicted as class 'c'"}


def test_undefined_is_nan_with_a_reason() -> None:
    task = Task(("no", "yes"), 1, True, 0.0)
    label = torch.tensor([0, 0])
    made = MetricSet([make(m) for m in ("accuracy", "precision", "recall", "f1", "cohen_kappa", "mcc")], task)
    before = made.reasons()
    assert set(before.values()) == {"there are no samples"}
    assert len(before) == 6
    made.update(torch.tensor([[-1.0, -2.0]]), label, label)
    assert made.reasons() == {
        "precision": "no sample is predicted as class 'yes'",
        "recall": "no sample is of class 'yes'",
        "f1": "no sample is of or is predicted as class 'yes'",
        "cohen_kappa": "truth and predictions are all of one class",
        "mcc": "the truth or the predictions are all of one class",
    }


def test_the_threshold_is_in_the_units_of_the_outputs_and_values_are_never_guessed_from() -> None:
    """[0.2, 0.4] are two positives as logits and two negatives as probabilities, beside any other output."""
    label = torch.ones(2, dtype=torch.int64)
    for from_logits, threshold, expected in ((True, 0.0, 1.0), (False, 0.5, 0.0)):
        made = MetricSet([make("accuracy")], Task(("no", "yes"), 1, from_logits, threshold))
        made.update(torch.tensor([[0.2, 0.4]]), label, label)
        assert made.values() == {"accuracy": [expected]}


def test_a_sample_of_weight_0_is_left_out() -> None:
    for seed in range(20):
        case = class_case(seed)
        n = case.y.shape[1]
        weight = torch.cat([torch.ones(n), torch.zeros(3)])
        y = torch.cat([case.y, torch.full_like(case.y[:, :1].expand(-1, 3, -1), torch.nan)], 1)
        label = torch.cat([case.t, torch.zeros(3, dtype=torch.int64)])
        assert_equal(
            filled(Case(y, label, label, weight, case.task), ALL).values(),
            filled(Case(case.y, case.t, case.t, None, case.task), ALL).values(),
        )


def assert_equal(left: dict[str, list[float]], right: dict[str, list[float]]) -> None:
    assert str(left) == str(right)


def test_several_labels_are_scored_as_by_scikit_learn() -> None:
    g = np.random.default_rng(0)
    for _ in range(60):
        n, k = int(g.integers(1, 30)), int(g.integers(2, 6))
        y = torch.from_numpy(g.normal(size=(1, n, k)))
        t = torch.from_numpy((g.random((n, k)) < g.random()).astype(np.float32))
        weight = torch.from_numpy(g.random(n) + 0.1) if g.random() < 0.5 else None
        case = Case(y, t, None, weight, Task(tuple("abcdef"[:k]), k, True, 0.0, multilabel=True))
        averaged = [{m: {"average": a}} for m in QUOTIENTS for a in AVERAGES]
        values = {name: v[0] for name, v in filled(case, ["accuracy", "error", "hamming", "f1", *averaged]).values().items()}
        p, truth, w = (y[0] > 0).numpy().astype(int), t.numpy().astype(int), case.sample_weight()
        assert_close(values["accuracy"], sk.accuracy_score(truth, p, sample_weight=w))
        assert_close(values["error"], sk.zero_one_loss(truth, p, sample_weight=w))
        assert_close(values["hamming"], sk.hamming_loss(truth, p, sample_weight=w))
        for average in AVERAGES:
            option = None if average == "none" else average
            found = quiet(sk.precision_recall_fscore_support, truth, p, zero_division=np.nan, average=option, sample_weight=w)
            for metric, expected in zip(QUOTIENTS, found[:3], strict=True):
                if option:
                    wanted = expected_average(values, metric, average, case, expected)
                    assert_close(values[f"{metric}_{average}"], wanted, (metric, average))
                else:
                    for i in range(k):
                        assert_close(values[f"{metric}/{'abcdef'[i]}"], expected[i], (metric, i))
        assert str(values["f1"]) == str(values["f1_macro"])


@pytest.mark.parametrize(
    ("metric", "task", "message"),
    [
        ("f1", Task(None, 1, False, 0.5), "metrics: f1: needs classes; the data has none"),
        (
            {"f1": {"average": "binary"}},
            Task(("a", "b", "c"), 3, True, 0.0),
            "metrics: f1_binary: average binary needs two classes; the task has 3; use macro",
        ),
        (
            "mcc",
            Task(("a", "b"), 2, True, 0.0, multilabel=True),
            "metrics: mcc: needs one class per sample; the task has several labels",
        ),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(metric: Any, task: Task, message: str) -> None:
    with pytest.raises(UserError) as error:
        MetricSet([make(metric)], task)
    assert str(error.value) == message
