"""The metrics of one evaluation: their states, each kept once, and their values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from trainkit.core.errors import UserErrors

from .confusion import Confusion
from .confusion_matrix import MAX_CLASSES, ConfusionMatrix
from .metric import Metric, State
from .task import Batch, Task

MATRIX: Hashable = (Confusion, Confusion.options)  # the key of the state that counts predictions by class


class MetricSet:
    """Metrics of a split for r models: `update` with each batch, then `values`. Metrics that can share a state do.

    Sets of the same metrics merge in any order and grouping, and can be pickled: other processes may measure parts of a split.
    maximize: by name of a value, True if larger is better, None if unknown. confusion: keep the confusion matrix too, if each
    sample is of one of at most MAX_CLASSES classes.
    Raises UserErrors for metrics that do not fit the task, and for two metrics of one name.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        task: Task,
        replicas: int = 1,
        device: torch.device | str = "cpu",
        confusion: bool = False,
    ) -> None:
        self.metrics, self.task, self.replicas, self.device = tuple(metrics), task, replicas, torch.device(device)
        problems = [f"metrics: {m.name}: {problem}" for m in metrics if (problem := m.problem(task))]
        if problems:
            raise UserErrors(problems)
        self._names = [[f"{m.name}/{part}" for part in m.parts(task)] or [m.name] for m in self.metrics]
        self.maximize = {name: m.maximize for m, names in zip(self.metrics, self._names, strict=True) for name in names}
        if len(self.maximize) < len(names := [name for of_metric in self._names for name in of_metric]):
            raise UserErrors(
                [f"metrics: {n} is there twice; remove one" for n in sorted({n for n in names if names.count(n) > 1})]
            )
        self._states: dict[Hashable, State] = {}
        self._keys: list[Hashable] = []
        for metric in self.metrics:
            state = metric.new_state(task, replicas, self.device)
            self._keys.append((type(state), state.options))
            self._states.setdefault(self._keys[-1], state)
        if confusion and task.classes is not None and not task.multilabel and task.number_of_classes <= MAX_CLASSES:
            self._states.setdefault(MATRIX, Confusion(task, replicas, self.device))

    def update(self, y: Tensor, t: Tensor, label: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add a batch: y (r, n, K) or (r, n), t (n, ...), label (n,) class indices, weight (n,); see `Batch`.

        Without samples, nothing changes.
        """
        if not y.shape[1]:
            return
        batch = Batch(y, t, label, weight, self.task)
        for state in self._states.values():
            state.update(batch)

    def merge(self, other: MetricSet) -> None:
        """Add the samples that another set of the same metrics has seen; it is not changed."""
        for key, state in self._states.items():
            state.merge(other._states[key])

    def values(self) -> dict[str, list[float]]:
        """Return each value, a float per model; NaN where it is undefined. Waits for the device once."""
        rows = [self.metrics[i].value(self._state(i)).reshape(self.replicas, -1).T for i in range(len(self.metrics))]
        fetched = torch.cat([row.to(self.device) for row in rows]).tolist() if rows else []
        return dict(zip((name for names in self._names for name in names), fetched, strict=True))

    def confusion(self) -> ConfusionMatrix | None:
        """Return the confusion matrix, if a metric or the set keeps it. Waits for the device."""
        state = self._states.get(MATRIX)
        return ConfusionMatrix(self.task.class_names, state.counts.cpu()) if isinstance(state, Confusion) else None

    def reasons(self, values: dict[str, list[float]] | None = None) -> dict[str, str]:
        """Return why values are NaN, by the name of each value that is NaN for a model. values: as `values` returned them."""
        values = self.values() if values is None else values
        reasons: dict[str, str] = {}
        for i, names in enumerate(self._names):
            several = bool(self.metrics[i].parts(self.task))
            for part, name in enumerate(names):
                if any(v != v for v in values[name]):
                    reasons[name] = self.metrics[i].undefined(self._state(i), part if several else None)
        return reasons

    def _state(self, i: int) -> State:
        """Return the state that metric i reads."""
        return self._states[self._keys[i]]
