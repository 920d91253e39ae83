"""Metrics that are means over samples of a number per sample: top-k accuracy, log loss, Brier score, calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .metric import NO_SAMPLES, NOT_PROBABILITIES, Metric, SumState, class_problem, divided
from .task import Batch, Task

EPS = torch.finfo(torch.float64).eps  # probabilities are at least this in log loss, as in scikit-learn


class SampleSum(SumState):
    """total (r,): the weighted sum of a number per sample. weight (1,). invalid (r,): the weight without probabilities."""

    sums = ("total", "weight", "invalid")
    of_probabilities = True

    def __init__(self, task: Task, replicas: int, device: torch.device) -> None:
        super().__init__(task, replicas, device)
        self.total, self.weight, self.invalid = self.zeros(replicas), self.zeros(1), self.zeros(replicas)

    def update(self, batch: Batch) -> None:
        self.total += batch.total(self.per_sample(batch))
        self.weight += batch.weights.sum()
        if self.of_probabilities:
            self.invalid += batch.total(batch.invalid)

    def per_sample(self, batch: Batch) -> Tensor:
        """Return the number of each sample, (r, n)."""
        raise NotImplementedError(f"{type(self).__name__} has no per_sample")

    def mean(self) -> Tensor:
        return torch.where(self.invalid > 0, torch.nan, divided(self.total, self.weight))


class TopKHits(SampleSum):
    """1 if the label is among the k largest outputs."""

    of_probabilities = False

    def __init__(self, task: Task, replicas: int, device: torch.device, k: int) -> None:
        super().__init__(task, replicas, device)
        self.options = self.k = k

    def per_sample(self, batch: Batch) -> Tensor:
        y, label = batch.outputs, batch.labels.view(1, -1, 1)
        own = y.gather(2, label.expand(y.shape[0], -1, 1))
        later = torch.arange(y.shape[2], device=y.device) > label
        ahead = ((y > own) | ((y == own) & later)).sum(2)
        return (ahead < self.k) & ~own[..., 0].isnan()


class LogLossSum(SampleSum):
    """-log of the probability of the label."""

    def per_sample(self, batch: Batch) -> Tensor:
        label = batch.labels.view(1, -1, 1)
        if not batch.task.from_logits:
            p = batch.probabilities
            return -p.gather(2, label.expand(p.shape[0], -1, 1))[..., 0].clamp(EPS, 1 - EPS).log()
        z = batch.outputs.double()
        if z.shape[2] == 1 or batch.task.independent:  # -log σ(z) = log(1 + exp(-z))
            z = torch.where(label == 1, z, -z) if z.shape[2] == 1 else z.gather(2, label.expand(z.shape[0], -1, 1))
            return torch.logaddexp(torch.zeros_like(z), -z)[..., 0]
        return torch.logsumexp(z, 2) - z.gather(2, label.expand(z.shape[0], -1, 1))[..., 0]


class BrierSum(SampleSum):
    """The squared distance of the probabilities from the label; of two classes, of that of the positive class."""

    def per_sample(self, batch: Batch) -> Tensor:
        p, label = batch.probabilities, batch.labels
        if p.shape[2] == 2:
            positive = batch.task.positive
            return (p[..., positive] - (label == positive).double()).square()
        hit = torch.arange(p.shape[2], device=p.device) == label[:, None]
        return (p - hit.double()).square().sum(2)


class Calibration(SumState):
    """Per bin of confidence, (r, bins): the weight of its samples, of the correct ones, and the weighted sum of confidence."""

    sums = ("weight", "correct", "confidence", "invalid")

    def __init__(self, task: Task, replicas: int, device: torch.device, bins: int) -> None:
        super().__init__(task, replicas, device)
        self.options = self.bins = bins
        self.weight, self.correct, self.confidence = (self.zeros(replicas, bins) for _ in range(3))
        self.invalid = self.zeros(replicas)

    def update(self, batch: Batch) -> None:
        predicted = batch.predicted
        confidence = batch.probabilities.gather(2, predicted[..., None])[..., 0].nan_to_num(0.0).clamp(0, 1)
        index = ((confidence * self.bins).ceil().long() - 1).clamp(min=0)  # bins (i, i + 1] / bins
        w = batch.weights.expand_as(confidence)
        self.weight.scatter_add_(1, index, w)
        self.correct.scatter_add_(1, index, w * (predicted == batch.labels))
        self.confidence.scatter_add_(1, index, w * confidence)
        self.invalid += batch.total(batch.invalid)


class SampleMetric(Metric):
    """Base of the metrics of this file; they need one class per sample."""

    maximize = False

    def problem(self, task: Task) -> str:
        return class_problem(task)

    def value(self, state: SampleSum) -> Tensor:
        return state.mean()

    def undefined(self, state: SampleSum | Calibration, part: int | None = None) -> str:
        return NOT_PROBABILITIES if bool((state.invalid > 0).any()) else NO_SAMPLES


@dataclass(frozen=True)
class TopK(SampleMetric):
    """The share of samples whose class is among the k largest outputs; named `top_K`.

    Of equal outputs the later class counts as the larger (as in scikit-learn); `accuracy` predicts the first. A NaN output of
    the class is a miss. Undefined without samples. Source: sklearn.metrics.top_k_accuracy_score.
    Raises UserError for k below 1; k must be below the number of classes.
    """

    k: int
    key, maximize = "top_k", True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"metrics.top_k.k: {self.k}; needs a whole number of at least 1")

    @property
    def name(self) -> str:
        return f"top_{self.k}"

    def problem(self, task: Task) -> str:
        if task.classes is not None and self.k >= task.outputs:
            return f"k={self.k} needs {self.k + 1} or more outputs; the task has {task.outputs}"
        return super().problem(task)

    def new_state(self, task: Task, replicas: int, device: torch.device) -> TopKHits:
        return TopKHits(task, replicas, device, self.k)


@dataclass(frozen=True)
class LogLoss(SampleMetric):
    """-Σ w log p[label] / Σ w, the negative log-likelihood per sample.

    Logits give log p without clipping; probabilities are clipped to [ε, 1 - ε], ε = 2.2 · 10⁻¹⁶. Undefined without samples, and
    for outputs that are not probabilities. Source: sklearn.metrics.log_loss.
    """

    key = "log_loss"

    def new_state(self, task: Task, replicas: int, device: torch.device) -> LogLossSum:
        return LogLossSum(task, replicas, device)


@dataclass(frozen=True)
class Perplexity(LogLoss):
    """exp(log loss), per sample; with a sample per token, per token of the whole split. Undefined as log loss is.

    Source: Jelinek et al. 1977.
    """

    key = "perplexity"

    def value(self, state: SampleSum) -> Tensor:
        return state.mean().exp()


@dataclass(frozen=True)
class Brier(SampleMetric):
    """Σ w ‖p - onehot(label)‖² / Σ w; for two classes half of it, Σ w (p₊ - [label = +])² / Σ w, + the positive class.

    Undefined without samples, and for outputs that are not probabilities. Source: Brier 1950; sklearn.metrics.brier_score_loss.
    """

    key = "brier"

    def new_state(self, task: Task, replicas: int, device: torch.device) -> BrierSum:
        return BrierSum(task, replicas, device)


@dataclass(frozen=True)
class CalibrationError(SampleMetric):
    """Σ over bins of W_b / W |accuracy_b - confidence_b|, the expected calibration error.

    Confidence is the probability of the predicted class; the bins have equal widths and contain their upper edge.
    Undefined without samples, and for outputs that are not probabilities. Source: Guo et al. 2017.
    Raises UserError for bins below 1.
    """

    bins: int = 15
    key = "calibration_error"

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UserError(f"metrics.calibration_error.bins: {self.bins}; needs a whole number of at least 1")

    def new_state(self, task: Task, replicas: int, device: torch.device) -> Calibration:
        return Calibration(task, replicas, device, self.bins)

    def value(self, state: Calibration) -> Tensor:  # type: ignore[override]
        error = (state.correct - state.confidence).abs().sum(1)
        return torch.where(state.invalid > 0, torch.nan, divided(error, state.weight.sum(1)))
