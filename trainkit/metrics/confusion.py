"""Metrics of predicted classes: all are read from one matrix of counts, rows the truth, columns the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .metric import NO_SAMPLES, Metric, SumState, class_problem, divided, listed, mean_where_defined
from .task import Batch, Task

Average = Literal["auto", "binary", "macro", "micro", "weighted", "none"]


class Confusion(SumState):
    """counts (r, K, K), float64: the summed weight of the samples of class i (row) that a model predicts as j (column)."""

    sums = ("counts",)

    def __init__(self, task: Task, replicas: int, device: torch.device) -> None:
        super().__init__(task, replicas, device)
        self.classes = task.number_of_classes
        self.counts = self.zeros(replicas, self.classes, self.classes)

    def update(self, batch: Batch) -> None:
        index = batch.predicted + batch.labels * self.classes
        self.counts.view(self.replicas, -1).scatter_add_(1, index, batch.weights.expand_as(index))

    def true_positives(self) -> Tensor:
        """Return (r, K): samples of a class that are predicted as it."""
        return self.counts.diagonal(dim1=1, dim2=2)

    def truths(self) -> Tensor:
        """Return (r, K): samples of a class."""
        return self.counts.sum(2)

    def predictions(self) -> Tensor:
        """Return (r, K): samples that are predicted as a class."""
        return self.counts.sum(1)

    def correct(self) -> Tensor:
        """Return (r,): samples that are predicted right."""
        return self.true_positives().sum(1)

    def wrong(self) -> Tensor:
        """Return (r,): samples that are predicted wrong."""
        return (self.counts - torch.diag_embed(self.true_positives())).sum((1, 2))


class Correct(SumState):
    """right, not_right (r,), float64: the summed weights of the samples that are predicted right, and of the others."""

    sums = ("right", "not_right")

    def __init__(self, task: Task, replicas: int, device: torch.device) -> None:
        super().__init__(task, replicas, device)
        self.right, self.not_right = self.zeros(replicas), self.zeros(replicas)

    def update(self, batch: Batch) -> None:
        right = batch.predicted == batch.labels
        self.right += batch.total(right)
        self.not_right += batch.total(~right)

    def correct(self) -> Tensor:
        """Return (r,): samples that are predicted right."""
        return self.right

    def wrong(self) -> Tensor:
        """Return (r,): samples that are predicted wrong."""
        return self.not_right


class LabelCounts(SumState):
    """Of a multilabel task: counts (r, K, 2, 2), a confusion matrix per label, and samples with all labels right or not.

    right, not_right (r,): the summed weights of these samples.
    """

    sums = ("counts", "right", "not_right")

    def __init__(self, task: Task, replicas: int, device: torch.device) -> None:
        super().__init__(task, replicas, device)
        self.counts = self.zeros(replicas, task.outputs, 2, 2)
        self.right, self.not_right = self.zeros(replicas), self.zeros(replicas)

    def update(self, batch: Batch) -> None:
        predicted = batch.predicted
        t = true_labels(batch)
        for i, truth in enumerate((~t, t)):
            for j in range(2):
                self.counts[:, :, i, j] += batch.total((predicted == j) & truth)
        right = (predicted == t).all(2)
        self.right += batch.total(right)
        self.not_right += batch.total(~right)

    def true_positives(self) -> Tensor:
        """Return (r, K): samples with a label that are predicted to have it."""
        return self.counts[..., 1, 1]

    def truths(self) -> Tensor:
        """Return (r, K): samples with a label."""
        return self.counts[..., 1, :].sum(2)

    def predictions(self) -> Tensor:
        """Return (r, K): samples that are predicted to have a label."""
        return self.counts[..., :, 1].sum(2)

    def correct(self) -> Tensor:
        """Return (r,): samples that are predicted right in all labels."""
        return self.right

    def wrong(self) -> Tensor:
        """Return (r,): samples that are predicted wrong in a label."""
        return self.not_right


def true_labels(batch: Batch) -> Tensor:
    """Return the targets of a multilabel task as (n, K) bool."""
    return batch.targets > 0.5


class CountMetric(Metric):
    """Base of the metrics of predicted classes."""

    maximize = True
    multilabel: ClassVar[bool] = False

    def problem(self, task: Task) -> str:
        return class_problem(task, self.multilabel)

    def new_state(self, task: Task, replicas: int, device: torch.device) -> Confusion | LabelCounts:
        return (LabelCounts if task.multilabel else Confusion)(task, replicas, device)

    def undefined(self, state: Any, part: int | None = None) -> str:
        return NO_SAMPLES


class Share(CountMetric):
    """Base of accuracy and error, which need no matrix: with thousands of classes it would be large."""

    multilabel = True

    def new_state(self, task: Task, replicas: int, device: torch.device) -> Correct | LabelCounts:  # type: ignore[override]
        return (LabelCounts if task.multilabel else Correct)(task, replicas, device)


@dataclass(frozen=True)
class Accuracy(Share):
    """The share of samples that are predicted right. Multilabel: right in all labels (subset accuracy).

    Undefined without samples. Source: sklearn.metrics.accuracy_score.
    """

    key = "accuracy"

    def value(self, state: Correct | LabelCounts) -> Tensor:
        return divided(state.correct(), state.correct() + state.wrong())


@dataclass(frozen=True)
class Error(Share):
    """1 - accuracy, the share of samples that are predicted wrong. Undefined without samples.

    Source: sklearn.metrics.zero_one_loss.
    """

    key, maximize = "error", False

    def value(self, state: Correct | LabelCounts) -> Tensor:
        return divided(state.wrong(), state.correct() + state.wrong())


@dataclass(frozen=True)
class Hamming(CountMetric):
    """The share of labels that are predicted wrong, over all samples and labels; with one class per sample, the error.

    Undefined without samples. Source: sklearn.metrics.hamming_loss.
    """

    key, maximize, multilabel = "hamming", False, True

    def value(self, state: Confusion | LabelCounts) -> Tensor:
        if isinstance(state, Confusion):
            return divided(state.wrong(), state.counts.sum((1, 2)))
        wrong = state.counts[..., 0, 1] + state.counts[..., 1, 0]
        return divided(wrong.sum(1), state.counts.sum((1, 2, 3)))


@dataclass(frozen=True)
class BalancedAccuracy(CountMetric):
    """The mean recall over the classes that the data contains. Undefined without samples.

    Source: sklearn.metrics.balanced_accuracy_score.
    """

    key = "balanced_accuracy"

    def value(self, state: Confusion) -> Tensor:
        return mean_where_defined(divided(state.true_positives(), state.truths()))


@dataclass(frozen=True)
class ClassMetric(CountMetric):
    """Base of the metrics of each class, a quotient of counts, and of their averages.

    average: binary is the value of the positive class. macro is the mean over the classes for which the value is defined, so
    that an absent class does not change it (scikit-learn's zero_division=np.nan). weighted is the same mean, weighted by the
    samples of each class. micro is the quotient of the sums over all classes. none gives a value per class, `f1/NAME`. auto is
    binary for two classes, else macro.
    """

    average: Average = "auto"
    multilabel = True
    needs: ClassVar[str] = ""  # which samples a class must have for its value to be defined

    @property
    def name(self) -> str:
        return self.key if self.average in ("auto", "none") else f"{self.key}_{self.average}"

    def problem(self, task: Task) -> str:
        if self.average == "binary" and task.classes is not None and not task.is_binary:
            return f"average binary needs two classes; the task has {task.number_of_classes}; use macro"
        return super().problem(task)

    def parts(self, task: Task) -> tuple[str, ...]:
        return task.class_names if self.average == "none" else ()

    def quotient(self, state: Confusion | LabelCounts) -> tuple[Tensor, Tensor]:
        """Return numerator and denominator of the value of each class, (r, K)."""
        raise NotImplementedError(f"{type(self).__name__} has no quotient")

    def resolved(self, task: Task) -> str:
        """Return the average, with auto replaced by what it means for the task."""
        return self.average if self.average != "auto" else "binary" if task.is_binary else "macro"

    def value(self, state: Confusion | LabelCounts) -> Tensor:
        numerator, denominator = self.quotient(state)
        average = self.resolved(state.task)
        if average == "micro":
            return divided(numerator.sum(1), denominator.sum(1))
        values = divided(numerator, denominator)
        if average == "binary":
            return values[:, state.task.positive]
        if average == "none":
            return values
        return mean_where_defined(values, state.truths() if average == "weighted" else None)

    def undefined(self, state: Any, part: int | None = None) -> str:
        if not bool(((state.correct() + state.wrong()) > 0).all()):
            return NO_SAMPLES
        names, average = state.task.class_names, self.resolved(state.task)
        what = "label" if state.task.multilabel else "class"
        absent = (self.quotient(state)[1] == 0).any(0).tolist()
        part = state.task.positive if average == "binary" else part
        if part is not None:
            return f"{self.needs} {what} {names[part]!r}"
        return f"{self.needs} {what} {listed([n for n, a in zip(names, absent, strict=True) if a])}"


@dataclass(frozen=True)
class Precision(ClassMetric):
    """TP / (TP + FP): of the samples that are predicted as a class, the share that is of it.

    Undefined for a class that is never predicted. Averages: see `ClassMetric`. Source: sklearn.metrics.precision_score.
    """

    key, needs = "precision", "no sample is predicted as"

    def quotient(self, state: Confusion | LabelCounts) -> tuple[Tensor, Tensor]:
        return state.true_positives(), state.predictions()


@dataclass(frozen=True)
class Recall(ClassMetric):
    """TP / (TP + FN): of the samples of a class, the share that is predicted as it.

    Undefined for a class without samples. Averages: see `ClassMetric`. Source: sklearn.metrics.recall_score.
    """

    key, needs = "recall", "no sample is of"

    def quotient(self, state: Confusion | LabelCounts) -> tuple[Tensor, Tensor]:
        return state.true_positives(), state.truths()


@dataclass(frozen=True)
class F1(ClassMetric):
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.

    Undefined for a class without samples that is never predicted. Averages: see `ClassMetric`. Source: sklearn's f1_score.
    """

    key, needs = "f1", "no sample is of or is predicted as"

    def quotient(self, state: Confusion | LabelCounts) -> tuple[Tensor, Tensor]:
        return 2 * state.true_positives(), state.truths() + state.predictions()


@dataclass(frozen=True)
class Jaccard(ClassMetric):
    """TP / (TP + FP + FN), also named intersection over union.

    Undefined for a class without samples that is never predicted. Averages: see `ClassMetric`. Source: sklearn's jaccard_score.
    """

    key, needs = "jaccard", "no sample is of or is predicted as"

    def quotient(self, state: Confusion | LabelCounts) -> tuple[Tensor, Tensor]:
        tp = state.true_positives()
        return tp, state.truths() + state.predictions() - tp
