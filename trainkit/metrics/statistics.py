"""Mean, standard deviation and median of a metric over the replicas of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN where a value is NaN."""
    return sum(values) / len(values)


def finite_mean(values: Sequence[float]) -> float:
    """The mean of the values that are finite; NaN where none is."""
    finite = [v for v in values if math.isfinite(v)]
    return mean(finite) if finite else math.nan


def std(values: Sequence[float]) -> float:
    """The standard deviation with n - 1 in the divisor; infinite or NaN where the values or their squares are."""
    center = mean(values)
    return math.sqrt(sum((v - center) * (v - center) for v in values) / (len(values) - 1))


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Mean, std, median, min and max. NaN counts as larger than every number; with one the mean is NaN."""
    ordered = sorted(math.inf if math.isnan(v) else v for v in values)
    return {
        "mean": mean(values),
        "std": std(values) if ordered[0] != ordered[-1] else 0.0,
        "median": statistics.median(ordered),
        "min": ordered[0],
        "max": ordered[-1],
    }


def for_json(value: float) -> float | None:
    """The value, or None where it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None


def json_summary(values: Sequence[float]) -> Any:
    """A metric in summary.json: a number, or over replicas {mean, std, values}; None for what is not finite."""
    if len(values) == 1:
        return for_json(values[0])
    return {"mean": for_json(mean(values)), "std": for_json(std(values)), "values": [for_json(v) for v in values]}
