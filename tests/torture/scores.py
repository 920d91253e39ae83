"""Every metric on random outputs against scikit-learn's: 2 to 20 classes, some absent, ties, one sample, weights, zeros among
them, logits and probabilities, either class as the positive one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import sklearn
import torch
from sklearn import metrics as sk

from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import METRICS, make
from trainkit.metrics.task import Task

from .tally import Tally

TOLERANCE = 1e-12  # relative to numbers above 1
AVERAGES = ("macro", "micro", "weighted", "none")
BINS = 15


@dataclass(frozen=True)
class Outputs:
    """n samples: outputs y (n, k), targets t (n,) or (n, d), weights (n,) or None."""

    y: Any
    t: Any
    weight: Any
    task: Task
    number: int

    @property
    def classes(self) -> int:
        return self.task.number_of_classes

    @property
    def names(self) -> tuple[str, ...]:
        return self.task.class_names

    @cached_property
    def weights(self) -> Any:
        return np.ones(len(self.t)) if self.weight is None else self.weight

    @cached_property
    def predicted(self) -> Any:
        return self.y.argmax(1) if self.y.shape[1] > 1 else (self.y[:, 0] > self.task.threshold).astype(int)

    @cached_property
    def p(self) -> Any:
        """Probabilities (n, k). By torch's softmax, since ties of probabilities depend on its rounding."""
        if self.y.shape[1] == 1:
            p = scipy.special.expit(self.y) if self.task.from_logits else self.y
            return np.concatenate([1 - p, p], 1)
        return torch.softmax(torch.from_numpy(self.y), 1).numpy() if self.task.from_logits else self.y

    @cached_property
    def score(self) -> Any:
        """What ranks the samples of two classes: a difference of logits, or the probability of the positive class."""
        sign = 1 if self.task.positive else -1
        if self.y.shape[1] == 1:
            return sign * self.y[:, 0]
        return sign * (self.y[:, 1] - self.y[:, 0]) if self.task.from_logits else self.y[:, self.task.positive]

    def values(self, *metrics: Any) -> dict[str, float]:
        """Return trainkit's values, of the samples in three batches, two of which are merged."""
        sets = [MetricSet([make(m) for m in metrics], self.task) for _ in range(2)]
        n = len(self.t)
        for made, rows in ((sets[0], slice(0, n // 3)), (sets[1], slice(n // 3, n // 2)), (sets[0], slice(n // 2, n))):
            t, weight = (None if v is None else torch.from_numpy(v[rows]) for v in (self.t, self.weight))
            assert t is not None
            made.update(torch.from_numpy(self.y[None, rows]), t, None if self.task.classes is None else t, weight)
        sets[0].merge(sets[1])
        return {name: v[0] for name, v in sets[0].values().items()}


def weights(g: np.random.Generator, n: int) -> Any:
    """Return weights, of which a tenth are 0 in some cases, or None."""
    if g.random() < 0.5:
        return None
    w = g.random(n) + 0.1
    w[g.random(n) < g.choice([0.0, 0.1])] = 0.0
    return w if w.any() else None


def classes(number: int, few: bool = False) -> Outputs:
    """Return outputs for classes. few: two classes, by one or two outputs."""
    g = np.random.default_rng(number)
    k = 2 if few else int(g.integers(2, 21))
    n = 1 if g.random() < 0.03 else int(g.integers(2, 60))
    t = g.choice(g.choice(k, size=int(g.integers(1, k + 1)), replace=False), size=n)
    outputs = 1 if k == 2 and g.random() < 0.5 else k
    y = g.normal(size=(n, outputs)) * 2
    y = y.round() if g.random() < 0.4 else y  # ties
    from_logits = bool(g.random() < 0.5)
    if not from_logits:
        y = scipy.special.expit(y) if outputs == 1 else scipy.special.softmax(y, 1)
    positive = int(g.integers(2))
    task = Task(tuple(f"c{i}" for i in range(k)), outputs, from_logits, 0.0 if from_logits else 0.5, positive)
    return Outputs(y, t, weights(g, n), task, number)


def reals(number: int) -> Outputs:
    """Return outputs for one to three real targets, some of which are constant or far from 0."""
    g = np.random.default_rng(number)
    n, d = 1 if g.random() < 0.03 else int(g.integers(2, 60)), int(g.integers(1, 4))
    t = g.normal(size=(n, d)) + g.choice([0.0, 0.0, 2000.0])
    if g.random() < 0.1:
        t[:, 0] = 0.1
    return Outputs(t + g.normal(size=(n, d)), t, weights(g, n), Task(None, d, False, 0.5), number)


# -- scikit-learn's values, by the names of ours ---------------------------------------------------------------------------

Values = dict[str, float]


def plain(name: str, function: Callable[..., Any], o: Outputs) -> tuple[list[Any], Values]:
    return [name], {name: function(o.t, o.predicted, sample_weight=o.weight)}


def kappa(o: Outputs) -> tuple[list[Any], Values]:
    how = (None, "linear", "quadratic")[o.number % 3]
    value = sk.cohen_kappa_score(o.t, o.predicted, labels=range(o.classes), weights=how, sample_weight=o.weight)
    return [{"cohen_kappa": {"weights": how or "none"}}], {f"cohen_kappa_{how}" if how else "cohen_kappa": value}


def mcc(o: Outputs) -> tuple[list[Any], Values]:
    counted = o.weights > 0  # of one class, scikit-learn's value is 0 and ours undefined
    both = len(set(o.t[counted])) > 1 and len(set(o.predicted[counted])) > 1
    return ["mcc"], {"mcc": sk.matthews_corrcoef(o.t, o.predicted, sample_weight=o.weight)} if both else {}


def quotient(name: str, function: Callable[..., Any], o: Outputs) -> tuple[list[Any], Values]:
    """Of a class with weights of 0 alone, scikit-learn's Jaccard index is 0; it is left out as an absent class is."""
    average = ("binary" if o.classes == 2 else "macro", *AVERAGES)[o.number % 5]
    options: dict[str, Any] = {"sample_weight": o.weight, "average": None if average == "none" else average}
    labels = list(range(o.classes))
    if name == "jaccard":
        counted = o.weights > 0
        labels = sorted({*o.t[counted], *o.predicted[counted]})
        if average == "binary" and o.task.positive not in labels:
            return [{name: {"average": average}}], {}
    else:
        options["zero_division"] = np.nan
    options |= {"pos_label": o.task.positive} if average == "binary" else {"labels": labels}
    value = function(o.t, o.predicted, **options)
    if average == "none":
        return [{name: {"average": average}}], {f"{name}/{o.names[i]}": v for i, v in zip(labels, value, strict=True)}
    return [{name: {"average": average}}], {f"{name}_{average}": value}


def of_column(function: Callable[..., Any], truth: Any, score: Any, weight: Any) -> float:
    """Return scikit-learn's value of one class against the others, NaN where it is undefined."""
    w = np.ones(len(truth)) if weight is None else weight
    positives, negatives = w @ truth, w @ ~truth
    if not positives or (function is sk.roc_auc_score and not negatives):
        return math.nan
    return float(function(truth, score, sample_weight=weight))


def ranking(name: str, function: Callable[..., Any], o: Outputs) -> tuple[list[Any], Values]:
    if o.classes == 2:
        return [name], {name: of_column(function, o.t == o.task.positive, o.score, o.weight)}
    average = ("macro", "weighted", "none")[o.number % 3]
    truth = o.t[:, None] == np.arange(o.classes)
    values = np.array([of_column(function, truth[:, c], o.p[:, c], o.weight) for c in range(o.classes)])
    spec = [{name: {"average": average}}]
    if average == "none":
        return spec, {f"{name}/{n}": v for n, v in zip(o.names, values, strict=True)}
    defined, support = ~np.isnan(values), o.weights @ truth
    if not defined.any():
        return spec, {}
    value = values[defined].mean() if average == "macro" else values[defined] @ support[defined] / support[defined].sum()
    return spec, {name if average == "macro" else f"{name}_weighted": value}


def top_k(o: Outputs) -> tuple[list[Any], Values]:
    if o.y.shape[1] < 3:
        return ["accuracy"], {}
    k = 1 + o.number % (o.classes - 1)
    value = sk.top_k_accuracy_score(o.t, o.y, k=k, labels=range(o.classes), sample_weight=o.weight)
    return [{"top_k": {"k": k}}], {f"top_{k}": value}


def log_loss(name: str, o: Outputs) -> tuple[list[Any], Values]:
    value = sk.log_loss(o.t, o.p, labels=range(o.classes), sample_weight=o.weight)
    return [name], {name: math.exp(value) if name == "perplexity" else value}


def brier(o: Outputs) -> tuple[list[Any], Values]:
    positive = o.task.positive
    of = {"labels": range(o.classes)} if o.classes > 2 else {"pos_label": positive}
    return ["brier"], {
        "brier": sk.brier_score_loss(o.t, o.p if o.classes > 2 else o.p[:, positive], sample_weight=o.weight, **of)
    }


def calibration_error(o: Outputs) -> tuple[list[Any], Values]:
    """scikit-learn has none: the formula, bin by bin."""
    error = 0.0
    confidence = o.p[np.arange(len(o.t)), o.predicted]
    for i in range(BINS):
        chosen = (i < confidence * BINS) & (confidence * BINS <= i + 1)
        error += abs((o.weights * ((o.predicted == o.t) - confidence))[chosen].sum()) / o.weights.sum()
    return ["calibration_error"], {"calibration_error": error}


def regression(name: str, function: Callable[..., Any], o: Outputs) -> tuple[list[Any], Values]:
    counted = o.weights > 0
    constant = np.array([len(set(column)) == 1 for column in o.t[counted].T])
    per_target = np.broadcast_to(function(o.t, o.y, sample_weight=o.weight, multioutput="raw_values"), o.t.shape[1]).copy()
    if name == "r2":  # of a constant target, scikit-learn's value is 0 or 1
        per_target[constant] = math.nan
    mean = {} if np.isnan(per_target).all() else {name: np.nanmean(per_target)}
    return [name, {name: {"average": "none"}}], {f"{name}/{i}": v for i, v in enumerate(per_target)} | mean


Oracle = Callable[[Outputs], tuple[list[Any], Values]]
ORACLES: dict[str, Oracle] = {
    "accuracy": partial(plain, "accuracy", sk.accuracy_score),
    "error": partial(plain, "error", sk.zero_one_loss),
    "balanced_accuracy": partial(plain, "balanced_accuracy", sk.balanced_accuracy_score),
    "precision": partial(quotient, "precision", sk.precision_score),
    "recall": partial(quotient, "recall", sk.recall_score),
    "f1": partial(quotient, "f1", sk.f1_score),
    "jaccard": partial(quotient, "jaccard", sk.jaccard_score),
    "hamming": partial(plain, "hamming", sk.hamming_loss),
    "cohen_kappa": kappa,
    "mcc": mcc,
    "auc": partial(ranking, "auc", sk.roc_auc_score),
    "average_precision": partial(ranking, "average_precision", sk.average_precision_score),
    "top_k": top_k,
    "log_loss": partial(log_loss, "log_loss"),
    "perplexity": partial(log_loss, "perplexity"),
    "brier": brier,
    "calibration_error": calibration_error,
    "mse": partial(regression, "mse", sk.mean_squared_error),
    "rmse": partial(regression, "rmse", sk.root_mean_squared_error),
    "mae": partial(regression, "mae", sk.mean_absolute_error),
    "r2": partial(regression, "r2", sk.r2_score),
    "mape": partial(regression, "mape", sk.mean_absolute_percentage_error),
}
assert set(ORACLES) == set(METRICS)  # a new metric needs an oracle
REAL = {"mse", "rmse", "mae", "r2", "mape"}


def cases(name: str) -> Iterator[Outputs]:
    """Yield outputs for a metric; of the classes, every third case has two."""
    number = 0
    while True:
        yield reals(number) if name in REAL else classes(number, few=number % 3 == 0)
        number += 1


def compare(name: str, runs: int) -> Tally:
    """Compare the metric with its oracle on `runs` cases in which both define a value."""
    kind = "formula" if name == "calibration_error" else "scikit-learn"
    tally = Tally(f"{name}: random outputs, classes, weights", f"{kind}'s value to 1e-12")
    for case in cases(name):
        if tally.runs == runs:
            return tally
        specs, expected = ORACLES[name](case)
        found = case.values(*specs)
        both = {n: v for n, v in expected.items() if v == v and found[n] == found[n]}
        if both:
            wrong = [n for n, v in both.items() if not abs(found[n] - v) <= TOLERANCE * max(1, abs(v))]
            tally.count(f"case {case.number}: {[(n, found[n], both[n]) for n in wrong]}" if wrong else None)
    raise AssertionError(f"{name}: no more cases")


def scores(folder: Path, runs: int) -> list[Tally]:
    """Compare every metric with its oracle."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), sklearn.config_context(skip_parameter_validation=True):
        warnings.simplefilter("ignore")
        return [compare(name, runs) for name in ORACLES]
