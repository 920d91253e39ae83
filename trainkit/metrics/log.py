"""The latest value of each metric, and which of them are new."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.core.errors import UserError, suggest

from .statistics import mean


class MetricLog(dict[str, list[float]]):
    """Values by metric, one per replica: `metrics["val/loss"]` is a list of floats.

    `updated` holds the names that were logged since the last `on_log`.
    """

    def __init__(self, values: dict[str, list[float]] | None = None) -> None:
        super().__init__(values or {})
        self.updated: set[str] = set()

    def log(self, name: str, value: float | Sequence[float], active: Sequence[bool]) -> None:
        """Set a metric: one number for all replicas or one per replica. A replica that has stopped keeps its value."""
        values = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)] * len(active)
        old = self.get(name, values)
        self[name] = [v if a else o for v, o, a in zip(values, old, active, strict=True)]
        self.updated.add(name)

    def mean(self, name: str) -> float:
        """Return the mean of a metric over the replicas; NaN if it is NaN for one. Raises UserError for an unknown metric."""
        if name not in self:
            raise UserError(f"no metric {name!r}{suggest(name, sorted(self))}")
        return mean(self[name])

    def new(self, name: str) -> list[float] | None:
        """Return the values of a metric that was logged since the last `on_log`, else None."""
        return self[name] if name in self.updated else None
