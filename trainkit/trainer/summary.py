"""What a run amounts to in numbers: summary.json, and the statistics over replicas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from . import capture

if TYPE_CHECKING:
    from .trainer import Trainer


def summarize(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """What summary.json says: where the run stands, why it stopped, a digest of the parameters, the metrics."""
    assert trainer.stopping is not None
    words = trainer.stopping.words
    if (epoch := trainer.state.first_nonfinite_epoch) is not None:
        words += f"; train/loss is not finite since epoch {epoch}, try a lower lr"
    return {
        "epoch": trainer.state.epoch,
        "step": trainer.state.step,
        "stop_reason": trainer.stopping.reason,
        "stop_words": words,
        "seed": trainer.seed,
        "replicas": trainer.replicas,
        "mode": trainer.running,
        "params_sha256": capture.digest(trainer.net),
        "metrics": {name: spread_of(values) for name, values in sorted(trainer.metrics.items())},
        "wall_s": round(seconds, 3),
        "versions": capture.environment(trainer)["versions"],
    }


def spread_of(values: list[float]) -> Any:
    """A metric for the summary: the number, or over replicas {mean, std, values}. What is not finite is None in JSON."""
    if len(values) == 1:
        return finite(values[0])
    mean = sum(values) / len(values)
    return {"mean": finite(mean), "std": finite(deviation(values)), "values": [finite(v) for v in values]}


def deviation(values: list[float]) -> float:
    """The standard deviation with n - 1 in the divisor; infinite or NaN where the values or their squares are."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) * (v - mean) for v in values) / (len(values) - 1))


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
