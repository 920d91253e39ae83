"""Metrics as lines of text."""

from __future__ import annotations

from typing import Any

from trainkit.core import terminal
from trainkit.data.dataset import Dataset


def print_metrics(metrics: dict[str, Any], data: Dataset) -> None:
    """Print a line per metric; beside an accuracy, that of always predicting the most frequent class."""
    for name, value in sorted(metrics.items()):
        if isinstance(value, dict):
            mean, std = (("nan" if v is None else f"{v:.4g}") for v in (value["mean"], value["std"]))
            text = f"{mean} ± {std} over {len(value['values'])} replicas"
        else:
            text = "nan" if value is None else f"{value:.4g}"
        split, _, metric = name.partition("/")
        share = data.parts()[split].majority() if metric == "accuracy" and split in data.parts() else None
        beside = "" if share is None else f" (the most frequent class: {share:.4g})"
        terminal.print_stdout(f"  {name:<16} {text}{beside}")
