"""AUC and average precision: exact, by sorting all scores, or from a histogram in constant memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .confusion import true_labels
from .metric import (
    NO_SAMPLES,
    NOT_FINITE,
    NOT_PROBABILITIES,
    Metric,
    State,
    SumState,
    divided,
    listed,
    mean_where_defined,
)
from .task import Batch, Task


class Ranking(NamedTuple):
    """How scores rank the samples, per column c: a class against the others, a label, or the positive class alone.

    positives, negatives (r, c): summed weights.
    wins (r, c): the weights of the pairs of a positive and a negative in which the positive has the larger score, and half of
        the weights of those with equal scores.
    precision (r, c): Σ over the positives of their weight times the precision at their score.
    pairs (r, c, K): wins against each class alone; None from a histogram.
    broken (r,): whether a score is NaN, or in a histogram not a probability.
    """

    positives: Tensor
    negatives: Tensor
    wins: Tensor
    precision: Tensor
    pairs: Tensor | None
    broken: Tensor


def columns(task: Task) -> int:
    return 1 if task.is_binary else task.number_of_classes


def positives_of(batch: Batch) -> Tensor:
    """Return (c, n) bool: the samples that are positive in each column."""
    task = batch.task
    if task.multilabel:
        return true_labels(batch).T
    wanted = [task.positive] if task.is_binary else range(task.number_of_classes)
    return torch.stack([batch.labels == c for c in wanted])


def ranked(positive: Tensor, negative: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return wins (...), precision (...), and for each place the positives before it, those of equal score half.

    positive, negative (..., n): weights in descending order of the score. left, right: the range of places with an equal score.
    """
    before = _sums_before(positive)
    tp = before.gather(-1, right)
    middle = (before.gather(-1, left) + tp) / 2
    fp = _sums_before(negative).gather(-1, right)
    precision = torch.where(positive > 0, positive * tp / (tp + fp), 0.0)
    return (negative * middle).sum(-1), precision.sum(-1), middle


def _sums_before(weight: Tensor) -> Tensor:
    """Return the sums of the first 0, 1, ..., n of the weights: (..., n) gives (..., n + 1)."""
    return torch.cat([torch.zeros_like(weight[..., :1]), weight], -1).cumsum(-1)


class Scores(State):
    """All scores of the split, (r, n, c), on the device of the outputs. Scores of two classes from logits are their difference,
    so that confident outputs do not round to equal probabilities."""

    def __init__(self, task: Task, replicas: int, device: torch.device) -> None:
        super().__init__(task, replicas, device)
        self.scores = [self.zeros(replicas, 0, columns(task))]
        self.positive = [torch.zeros(columns(task), 0, dtype=torch.bool, device=device)]
        self.label = [torch.zeros(0, dtype=torch.int64, device=device)]
        self.weight = [self.zeros(0)]
        self._ranking: Ranking | None = None

    def update(self, batch: Batch) -> None:
        self._ranking = None
        self.scores.append(_scores(batch))
        self.positive.append(positives_of(batch))
        self.label.append(batch.label.clone() if batch.label is not None and not batch.task.multilabel else self.label[0])
        self.weight.append(batch.weights.clone())

    def merge(self, other: Self) -> None:
        self._ranking = None
        for name in ("scores", "positive", "label", "weight"):
            getattr(self, name).extend([v.to(self.device) for v in getattr(other, name)])

    def ranking(self) -> Ranking:
        """Return the ranking of all samples, computed once."""
        if self._ranking is None:
            scores, weight = torch.cat(self.scores, 1), torch.cat(self.weight)
            positive, label = torch.cat(self.positive, 1), torch.cat(self.label)
            pw, nw = positive * weight, ~positive * weight
            broken = (scores.isnan() & (weight > 0)[:, None]).any(2).any(1)
            classes = 0 if self.task.multilabel else self.task.number_of_classes
            found = [self._column(scores[..., c], pw[c], nw[c], weight, label, classes) for c in range(len(positive))]
            wins, precision, pairs = (torch.stack(v, 1) for v in zip(*found, strict=True))
            shape = wins.shape
            self._ranking = Ranking(pw.sum(1).expand(shape), nw.sum(1).expand(shape), wins, precision, pairs, broken)
        return self._ranking

    def _column(
        self, scores: Tensor, positive: Tensor, negative: Tensor, weight: Tensor, label: Tensor, classes: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return wins (r,), precision (r,) and pairs (r, classes) of one column: scores (r, n), positive and negative (n,)."""
        descending, order = torch.sort(-scores, dim=1)
        left = torch.searchsorted(descending, descending)
        right = torch.searchsorted(descending, descending, right=True)
        wins, precision, middle = ranked(positive[order], negative[order], left, right)
        pairs = self.zeros(self.replicas, classes)
        if classes:
            pairs.scatter_add_(1, label[order], middle * weight[order])
        return wins, precision, pairs


def _scores(batch: Batch) -> Tensor:
    """Return the scores (r, n, c), a new tensor."""
    task = batch.task
    if not task.is_binary:
        return batch.probabilities.clone()
    z = batch.outputs.double()
    if z.shape[2] > 1 and (task.independent or not task.from_logits):
        return z[..., task.positive, None].clone()
    score = z if z.shape[2] == 1 else z[..., 1:2] - z[..., :1]
    return score.clone() if task.positive == 1 else -score  # 1 - p would round small p to equal scores


class Histogram(SumState):
    """counts (r, c, bins, 2), float64: the weights of the negatives and positives whose probability is in each of the bins."""

    sums = ("counts", "invalid")

    def __init__(self, task: Task, replicas: int, device: torch.device, bins: int) -> None:
        super().__init__(task, replicas, device)
        self.options = self.bins = bins
        self.counts = self.zeros(replicas, columns(task), bins, 2)
        self.invalid = self.zeros(replicas)

    def update(self, batch: Batch) -> None:
        p = batch.probabilities
        p = (p[..., batch.task.positive, None] if batch.task.is_binary else p).transpose(1, 2).nan_to_num(0.0)
        index = 2 * (p * self.bins).long().clamp(0, self.bins - 1) + positives_of(batch)
        self.counts.flatten(2).scatter_add_(2, index, batch.weights.expand_as(index))
        self.invalid += batch.total(batch.invalid)

    def ranking(self) -> Ranking:
        """Return the ranking of the samples, in which those of a bin have equal scores."""
        negative, positive = self.counts.flip(2).unbind(3)
        left = torch.arange(self.bins, device=self.device).expand_as(positive)
        wins, precision, _ = ranked(positive, negative, left, left + 1)
        return Ranking(positive.sum(2), negative.sum(2), wins, precision, None, self.invalid > 0)


@dataclass(frozen=True)
class RankingMetric(Metric):
    """Base of AUC and average precision.

    Two classes: the value of the positive class. Several classes: each against the others. Several labels: each on its own.

    average: macro is the mean over the classes for which the value is defined, weighted is weighted by their samples, none
        gives a value per class.
    bins: None sorts all scores and is exact; the memory grows with the samples. N needs constant memory: probabilities in the
        same of N bins of equal width count as equal; `_N_bins` is added to the name.
    """

    average: Literal["macro", "weighted", "none"] = "macro"
    bins: int | None = None
    maximize = True

    def __post_init__(self) -> None:
        if self.bins is not None and self.bins < 2:
            raise UserError(f"metrics.{self.key}.bins: {self.bins}; needs a whole number of at least 2")

    @property
    def name(self) -> str:
        average = f"_{self.average}" if self.average == "weighted" else ""
        return f"{self.key}{average}{f'_{self.bins}_bins' if self.bins else ''}"

    def problem(self, task: Task) -> str:
        if task.classes is None:
            return "needs classes; the data has none"
        if self.average != "macro" and task.is_binary:
            return f"average {self.average} needs several classes; the task has two; leave it out"
        return ""

    def parts(self, task: Task) -> tuple[str, ...]:
        return task.class_names if self.average == "none" else ()

    def new_state(self, task: Task, replicas: int, device: torch.device) -> Scores | Histogram:
        return Histogram(task, replicas, device, self.bins) if self.bins else Scores(task, replicas, device)

    def per_class(self, ranking: Ranking) -> Tensor:
        """Return the value of each column, (r, c)."""
        raise NotImplementedError(f"{type(self).__name__} has no per_class")

    def value(self, state: Scores | Histogram) -> Tensor:
        ranking = state.ranking()
        values = torch.where(ranking.broken[:, None], torch.nan, self.averaged(ranking))
        return values if self.average == "none" else values[:, 0]

    def averaged(self, ranking: Ranking) -> Tensor:
        """Return the average (r, 1), or the values of the classes (r, c)."""
        values = self.per_class(ranking)
        if self.average == "none":
            return values
        return mean_where_defined(values, ranking.positives if self.average == "weighted" else None)[:, None]

    def undefined(self, state: Any, part: int | None = None) -> str:
        ranking, task = state.ranking(), state.task
        if not bool(((ranking.positives + ranking.negatives) > 0).all()):
            return NO_SAMPLES
        if bool(ranking.broken.any()):
            return NOT_PROBABILITIES if self.bins else NOT_FINITE
        names = (task.class_names[task.positive],) if task.is_binary else task.class_names
        chosen = range(len(names)) if part is None else [part]
        if all_of := [names[c] for c in chosen if bool((ranking.negatives[:, c] == 0).any())]:
            return f"every sample is of {listed(all_of)}"
        return f"no sample is of {listed([names[c] for c in chosen if bool((ranking.positives[:, c] == 0).any())])}"


@dataclass(frozen=True)
class AUC(RankingMetric):
    """The probability that a positive has a larger score than a negative, equal scores counted half; area under the ROC curve.

    multi_class: ovr scores each class against the others; ovo is the mean over the ordered pairs of classes (Hand & Till 2001),
    weighted by the samples of both if average is weighted. For averages and bins see `RankingMetric`.
    Undefined for a class if no sample, or every sample, is of it. Source: Hanley & McNeil 1982; sklearn.metrics.roc_auc_score.
    """

    multi_class: Literal["ovr", "ovo"] = "ovr"
    key = "auc"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multi_class == "ovo" and (self.bins is not None or self.average == "none"):
            raise UserError("metrics.auc.multi_class: ovo needs average macro or weighted, and no bins")

    @property
    def name(self) -> str:
        if self.multi_class == "ovr":
            return super().name
        return f"{self.key}_ovo{replace(self, multi_class='ovr').name.removeprefix(self.key)}"

    def problem(self, task: Task) -> str:
        if self.multi_class == "ovo" and task.multilabel:
            return "multi_class ovo needs one class per sample; the task has several labels"
        return super().problem(task)

    def per_class(self, ranking: Ranking) -> Tensor:
        return divided(ranking.wins, ranking.positives * ranking.negatives)

    def averaged(self, ranking: Ranking) -> Tensor:
        if self.multi_class == "ovr" or ranking.wins.shape[1] == 1 or ranking.pairs is None:
            return super().averaged(ranking)
        w = ranking.positives
        auc = divided(ranking.pairs, w[:, :, None] * w[:, None])
        auc = torch.where(torch.eye(w.shape[1], dtype=torch.bool, device=w.device), torch.nan, auc)
        prevalence = w[:, :, None] + w[:, None] if self.average == "weighted" else torch.ones_like(auc)
        return mean_where_defined(auc.flatten(1), prevalence.flatten(1))[:, None]


@dataclass(frozen=True)
class AveragePrecision(RankingMetric):
    """The mean over the positives of the precision at their score; the area under precision over recall, in steps.

    For averages and bins see `RankingMetric`. Undefined (scikit-learn: 0) for a class without samples.
    Source: sklearn.metrics.average_precision_score.
    """

    key = "average_precision"

    def per_class(self, ranking: Ranking) -> Tensor:
        return divided(ranking.precision, ranking.positives)
