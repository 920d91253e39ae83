"""Top-k accuracy, log loss, Brier score and calibration error against scikit-learn's and against a plain loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import sklearn
import torch
from metric_cases import Case, assert_close, class_case, filled, quiet
from sklearn import metrics as sk

from trainkit.core.errors import UserError
from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import make
from trainkit.metrics.task import Task

METRICS = [make(m) for m in ("log_loss", "perplexity", "brier", "calibration_error")]


def probabilities(case: Case) -> Any:
    z = case.y.double().reshape(*case.y.shape[:2], -1)[0].numpy()
    if z.shape[1] == 1:
        p = scipy.special.expit(z) if case.task.from_logits else z
        return np.concatenate([1 - p, p], 1)
    return scipy.special.softmax(z, 1) if case.task.from_logits else z


def calibration_error(p: Any, t: Any, w: Any, bins: int) -> float:
    total, error = sum(w), 0.0
    for i in range(bins):
        chosen = [j for j in range(len(t)) if i < max(p[j]) * bins <= i + 1]
        error += abs(sum(w[j] * ((p[j].argmax() == t[j]) - max(p[j])) for j in chosen)) / total
    return error


@pytest.mark.parametrize("one_output", [False, True])
def test_probabilities_are_scored_as_by_scikit_learn(one_output: bool) -> None:
    with sklearn.config_context(skip_parameter_validation=True):
        for seed in range(400):
            case = class_case(seed, one_output=one_output)
            values = {name: v[0] for name, v in filled(case, METRICS).values().items()}
            p, t, w, k = probabilities(case), case.t.numpy(), case.sample_weight(), case.task.number_of_classes
            assert_close(values["perplexity"], math.exp(values["log_loss"]))
            if seed % 3 == 0:
                assert_close(values["log_loss"], sk.log_loss(t, p, labels=range(k), sample_weight=w), seed)
            elif seed % 3 == 1:
                options = {"labels": range(k), "sample_weight": w} if k > 2 else {"pos_label": 1, "sample_weight": w}
                expected = quiet(sk.brier_score_loss, t, p if k > 2 else p[:, 1], **options)
                assert_close(values["brier"], expected, seed)
            else:
                expected = calibration_error(p, t, np.ones(len(t)) if w is None else w, 15)
                assert_close(values["calibration_error"], expected, seed)


def test_the_largest_k_are_scored_as_by_scikit_learn() -> None:
    with sklearn.config_context(skip_parameter_validation=True):
        for seed in range(300):
            case = class_case(seed)
            k = case.task.outputs
            if k == 2:
                continue  # scikit-learn takes one score for two classes
            of = 1 + seed % (k - 1)
            value = filled(case, [{"top_k": {"k": of}}]).values()[f"top_{of}"][0]
            y, w = case.y[0].numpy(), case.sample_weight()
            assert_close(value, sk.top_k_accuracy_score(case.t, y, k=of, labels=range(k), sample_weight=w), seed)


def test_log_loss_of_confident_logits_is_not_clipped() -> None:
    label = torch.tensor([0])
    for outputs, y in ((1, [1000.0]), (2, [0.0, 1000.0])):
        made = MetricSet([make("log_loss")], Task(("a", "b"), outputs, True, 0.0))
        made.update(torch.tensor(y).view(1, 1, outputs), label, label)
        assert made.values() == {"log_loss": [1000.0]}
    made = MetricSet([make("log_loss")], Task(("a", "b"), 1, False, 0.5))
    made.update(torch.tensor([[1.0]]), label, label)
    assert made.values()["log_loss"][0] == pytest.approx(36.04, abs=0.01)


def test_undefined_is_nan_with_a_reason() -> None:
    made = MetricSet(METRICS, Task(("a", "b"), 2, False, 0.5), replicas=2)
    assert set(made.reasons().values()) == {"there are no samples"}
    assert len(made.reasons()) == 4
    label = torch.tensor([0])
    made.update(torch.tensor([[[0.6, 0.4]], [[0.9, 0.9]]]), label, label)
    for name, (first, second) in made.values().items():
        assert first == first, name
        assert second != second, name
    assert set(made.reasons().values()) == {"outputs are not probabilities: NaN, outside [0, 1], or not adding up to 1"}


def test_logits_that_give_no_probabilities_are_undefined() -> None:
    """-inf is a probability of 0; NaN and inf are none."""
    label = torch.tensor([0])
    for y, defined in (([1.0, -math.inf], True), ([1.0, math.nan], False), ([math.inf, 1.0], False)):
        made = MetricSet(METRICS, Task(("a", "b"), 2, True, 0.0))
        made.update(torch.tensor([[y]]), label, label)
        assert [v[0] == v[0] for v in made.values().values()] == [defined] * 4


def test_nan_outputs_are_not_a_hit() -> None:
    label = torch.tensor([0, 1])
    made = MetricSet([make({"top_k": {"k": 2}})], Task(("a", "b", "c"), 3, True, 0.0))
    made.update(torch.full((1, 2, 3), torch.nan), label, label)
    assert made.values() == {"top_2": [0.0]}


def test_log_loss_and_perplexity_share_a_state_and_two_k_do_not() -> None:
    task = Task(("a", "b", "c", "d"), 4, True, 0.0)
    made = MetricSet([make(m) for m in ("log_loss", "perplexity", {"top_k": {"k": 2}}, {"top_k": {"k": 3}})], task)
    assert len(made._states) == 3


def test_a_k_that_every_sample_reaches_is_refused() -> None:
    with pytest.raises(UserError, match="metrics: top_3: k=3 needs 4 or more outputs; the task has 3"):
        MetricSet([make({"top_k": {"k": 3}})], Task(("a", "b", "c"), 3, True, 0.0))
    for name, option in (("top_k", "k"), ("calibration_error", "bins")):
        with pytest.raises(UserError, match=rf"metrics.{name}.{option}: 0; needs a whole number of at least 1"):
            make({name: {option: 0}})
