"""The content of summary.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainkit.checkpoint.digest import digest
from trainkit.metrics.statistics import json_summary

from .environment import versions

if TYPE_CHECKING:
    from .session import Session


def summarize(session: Session, seconds: float) -> dict[str, Any]:
    """Return where the run is, why it stopped, a digest of the parameters, and the metrics."""
    assert session.stopping is not None
    message = session.stopping.message
    if (epoch := session.progress.first_nonfinite_epoch) is not None:
        message += f"; train/loss has not been finite since epoch {epoch}, try a lower lr"
    return {
        "epoch": session.progress.epoch,
        "step": session.progress.step,
        "stop_reason": session.stopping.reason,
        "stop_words": message,
        "seed": session.settings.seed,
        "replicas": session.replicas,
        "mode": session.engine,
        "params_sha256": digest((name, p) for name, p, _ in session.net.named_param()),
        "metrics": {name: json_summary(values) for name, values in sorted(session.metrics.items())},
        "wall_s": round(seconds, 3),
        "versions": versions(),
    }
