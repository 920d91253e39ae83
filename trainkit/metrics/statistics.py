"""Mean, standard deviation and median of a metric over the replicas of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; NaN if a value is NaN.

    This is the mean over replicas in every place: what ranks checkpoints, metrics.csv, TensorBoard, summary.json and the
    terminal. A mean without the replicas that are NaN would call a state better in which a model has broken.
    """
    return sum(values) / len(values)


def std(values: Sequence[float]) -> float:
    """Return the sample standard deviation, with divisor n - 1; non-finite if the values or their squares are."""
    if math.isfinite(values[0]) and all(v == values[0] for v in values):
        return 0.0  # their rounded mean may differ from them
    center = mean(values)
    return math.sqrt(sum((v - center) * (v - center) for v in values) / (len(values) - 1))


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Return mean, std, median, min and max. NaN sorts above every number and makes the mean NaN."""
    ordered = sorted(math.inf if math.isnan(v) else v for v in values)
    return {
        "mean": mean(values),
        "std": std(values) if ordered[0] != ordered[-1] else 0.0,
        "median": statistics.median(ordered),
        "min": ordered[0],
        "max": ordered[-1],
    }


def for_json(value: float) -> float | None:
    """Return the value, or None if it is not finite, since JSON has no NaN."""
    return value if math.isfinite(value) else None


def json_summary(values: Sequence[float]) -> Any:
    """Return a metric for summary.json: a number, or over replicas {mean, std, values}; None for non-finite numbers."""
    if len(values) == 1:
        return for_json(values[0])
    return {"mean": for_json(mean(values)), "std": for_json(std(values)), "values": [for_json(v) for v in values]}
