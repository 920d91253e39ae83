"""The settings of a trainer: plain values, checked when it is constructed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal, Self, get_args

from trainkit.core.errors import ErrorCollector, UserError
from trainkit.core.recorded import check_keywords
from trainkit.core.validation import short_repr
from trainkit.metrics.metric import Metric
from trainkit.metrics.table import make
from trainkit.optim.arithmetic import RATE_LIMIT

from .device import find_device

Engine = Literal["auto", "eager", "native", "graph"]
AT_LEAST = {
    "max_epochs": 0,
    "min_epochs": 0,
    "max_steps": 0,
    "batch_size": 1,
    "accumulate": 1,
    "replicas": 1,
    "log_every_n_steps": 1,
    "threads": 1,
}
CHOICES = {"dtype": ("float32", "float64"), "precision": ("full", "bf16"), "engine": get_args(Engine)}


@dataclass(repr=False)
class Settings:
    """The settings of a fit; `Trainer` documents each. Errors: UserError that names the setting."""

    max_epochs: int | None = None
    min_epochs: int = 0
    max_steps: int | None = None
    batch_size: int | None = 32
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    replicas: int = 1
    seed: int = 0
    seeds: Sequence[int] | None = None
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    precision: Literal["full", "bf16"] = "full"
    engine: Engine = "auto"
    threads: int | None = None
    log_every_n_steps: int = 50
    metrics: Sequence[Any] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        check_keywords(cls, kwargs)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        errors = ErrorCollector()
        for name, minimum in AT_LEAST.items():
            with errors:
                self._check_at_least(name, minimum)
        checks = self._check_limits, self._check_choices, self._check_seeds, self._check_metrics
        for check in (*checks, lambda: find_device(self.device)):
            with errors:
                check()
        errors.throw()
        if self.batch_size is None and self.accumulate > 1:
            problem = "with batch_size null a step is one pass over all samples"
            raise UserError(f"trainer.accumulate: {self.accumulate}; {problem}; give a batch_size")
        if self.seeds is not None and len(self.seeds) != self.replicas:
            raise UserError(f"trainer.seeds: {len(self.seeds)} seeds for {self.replicas} replicas; needs one for each")
        if self.threads is not None and self.threads > (cores := os.cpu_count() or 1):
            fix = f"give {cores} or fewer, or leave it out"
            raise UserError(f"trainer.threads: {self.threads}; this machine has {cores} cores; {fix}")

    def _check_at_least(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        if value is None and name in ("max_epochs", "max_steps", "batch_size", "threads"):
            return
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"trainer.{name}: {value!r}; needs a whole number")
        if value < minimum:
            raise UserError(f"trainer.{name}: {value}; needs at least {minimum}")

    def _check_limits(self) -> None:
        for name in ("clip_norm", "clip_value"):
            limit = getattr(self, name)
            if limit is not None and not (isinstance(limit, (int, float)) and 0 < limit < RATE_LIMIT):
                raise UserError(f"trainer.{name}: {limit!r}; needs a number above 0 and below {RATE_LIMIT:g}")

    def _check_choices(self) -> None:
        if self.engine == "compile":  # type: ignore[comparison-overlap]
            raise UserError("trainer.engine: compile was removed; write native")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"trainer.{name}: {getattr(self, name)}; choose {' or '.join(allowed)}")

    def _check_seeds(self) -> None:
        for name, seeds in (("seed", [self.seed]), ("seeds", [] if self.seeds is None else self.seeds)):
            if not isinstance(seeds, Sequence) or not all(isinstance(s, Integral) for s in seeds):
                needed = "a whole number" if name == "seed" else "a list with a whole number per replica"
                raise UserError(f"trainer.{name}: {getattr(self, name)!r}; needs {needed}")

    def _check_metrics(self) -> None:
        if isinstance(self.metrics, (str, Mapping)) or not isinstance(self.metrics, Sequence):
            raise UserError(f"metrics: {short_repr(self.metrics)}; needs a list: [accuracy, f1, {{top_k: {{k: 5}}}}]")
        self.made_metrics()

    def settings(self) -> Settings:
        """Return a copy of the settings alone, checked again: attributes may have been assigned since construction."""
        return Settings(**self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {f.name: getattr(self, f.name) for f in fields(Settings)}

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, by name."""
        return {f.name: getattr(self, f.name) for f in fields(Settings) if getattr(self, f.name) != f.default}

    def made_metrics(self) -> tuple[Metric, ...]:
        """Return the metrics that `metrics` describes. Raises UserError for an unknown one."""
        return tuple(make(spec) for spec in self.metrics)

    def replica_seeds(self) -> list[int]:
        """Return the seed of each replica: `seeds`, or seed, seed + 1, ..."""
        return [self.seed + r for r in range(self.replicas)] if self.seeds is None else list(self.seeds)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"
