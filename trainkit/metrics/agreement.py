"""Agreement of predicted and true classes beyond chance, from the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .confusion import Confusion, CountMetric
from .metric import NO_SAMPLES, divided


@dataclass(frozen=True)
class CohenKappa(CountMetric):
    """κ = 1 - Σ w C / Σ w E, with counts C (K, K), those of independence E = truth predictedᵀ / n, and the cost w of each cell.

    weights: none (w = 1 for i ≠ j), linear (w = |i - j|) or quadratic (w = (i - j)²) for ordered classes.
    Undefined if truth and predictions are all of one class, and without samples. Source: Cohen 1960;
    sklearn.metrics.cohen_kappa_score with the labels of all K classes.
    """

    key = "cohen_kappa"
    weights: Literal["none", "linear", "quadratic"] = "none"

    @property
    def name(self) -> str:
        return self.key if self.weights == "none" else f"{self.key}_{self.weights}"

    def value(self, state: Confusion) -> Tensor:
        i = torch.arange(state.classes, dtype=torch.float64, device=state.device)
        distance = (i[:, None] - i).abs()
        cost = {"none": (distance > 0).double(), "linear": distance, "quadratic": distance.square()}[self.weights]
        truths, predictions = state.truths(), state.predictions()
        expected = truths[:, :, None] * predictions[:, None] / truths.sum(1)[:, None, None]
        return 1 - divided((cost * state.counts).sum((1, 2)), (cost * expected).sum((1, 2)))

    def undefined(self, state: Confusion, part: int | None = None) -> str:
        return _one_class(state, "truth and predictions are all of one class")


@dataclass(frozen=True)
class MCC(CountMetric):
    """The correlation coefficient of Matthews, for K classes as by Gorodkin.

    (n c - Σ t p) / √((n² - Σ p²) (n² - Σ t²)), with n samples, c right ones, t of each class and p predicted as it.
    Undefined (scikit-learn: 0) if the truth or the predictions are all of one class, and without samples.
    Source: Matthews 1975; Gorodkin 2004; sklearn.metrics.matthews_corrcoef.
    """

    key = "mcc"

    def value(self, state: Confusion) -> Tensor:
        t, p = state.truths(), state.predictions()
        n, c = t.sum(1), state.correct()
        # n² - Σ t² as Σ t (n - t): a product of counts that is 0 exactly if all are of one class, whatever the weights.
        scale = _scatter(t) * _scatter(p)
        return divided(n * c - (t * p).sum(1), scale.sqrt())

    def undefined(self, state: Confusion, part: int | None = None) -> str:
        return _one_class(state, "the truth or the predictions are all of one class")


def _scatter(counts: Tensor) -> Tensor:
    """Return n² - Σ counts², 0 exactly if only one count is not 0."""
    n = counts.sum(1, keepdim=True)
    spread = (counts * (n - counts)).sum(1)
    return torch.where((counts > 0).sum(1) > 1, spread, 0.0)


def _one_class(state: Confusion, reason: str) -> str:
    return reason if bool((state.counts.sum((1, 2)) > 0).all()) else NO_SAMPLES
