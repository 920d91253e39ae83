"""The table of some trials: Markdown to read, CSV for other tools, JSON with every value."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from trainkit import __version__
from trainkit.metrics.statistics import for_json, summarize

from .timed_fit import TimedFit
from .trial import Trial

METRICS = ("train/loss", "val/loss", "test/loss", "train/error", "val/error", "test/error")
COLUMNS = (
    "trial", "by", "metric", "mean", "std", "median", "min", "max", "models", "failed", "seconds", "us_a_step", "difference",
)  # fmt: skip


def markdown(trials: Sequence[Trial]) -> str:
    """A row for each trial, trainer and metric; what belongs to the whole training stands in its first row."""
    compared = any(o.difference is not None for t in trials for o in t.outcomes)
    head = ["trial", "by", "metric", "mean ± std", "median", "min to max", "failed", "seconds", "µs a step and model"]
    rows = [[*head, "largest difference"] if compared else head]
    for t in trials:
        for i, o in enumerate(t.outcomes):
            for k, metric in enumerate(m for m in METRICS if m in o.metrics):
                s = summarize(o.metrics[metric])
                spans = f"{plain(s['min'])} to {plain(s['max'])}" if o.models > 1 else ""
                row = [t.name * (i == k == 0), o.by * (k == 0), metric, mean(s), plain(s["median"]), spans]
                whole = [failed(o), f"{o.seconds:.2f}", f"{o.us_a_step:.1f}"]
                row += whole if k == 0 else [""] * 3
                if compared:
                    row.append(apart(o.difference) if k == 0 and o.difference is not None else "")
                rows.append(row)
    return table(rows)


def of_grid(trials: Sequence[Trial]) -> str:
    """A row a trial: validation and test of the metric that chooses, the chosen one first and in bold."""
    metric = chooser(trials)
    test = metric.replace("val/", "test/")
    rows = [["trial", metric, *([test] if test != metric else []), "failed", "seconds", "µs a step and model"]]
    for i, t in enumerate(ranked(trials)):
        o = t.outcomes[0]
        values = [mean(summarize(o.metrics[m])) if m in o.metrics else "" for m in dict.fromkeys((metric, test))]
        rows.append([f"**{t.name}**" if i == 0 else t.name, *values, failed(o), f"{o.seconds:.2f}", f"{o.us_a_step:.1f}"])
    return table(rows) + f"\n\nRanked by the mean of {metric}."


def chooser(trials: Sequence[Trial]) -> str:
    """The metric that ranks trials: the validation's error, or its loss; without a validation part the training's."""
    there = [
        m for m in ("val/error", "val/loss", "train/error", "train/loss") if all(m in t.outcomes[0].metrics for t in trials)
    ]
    return there[0]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first; where the mean is not finite, last."""

    def key(t: Trial) -> float:
        value = summarize(t.outcomes[0].metrics[chooser(trials)])["mean"]
        return value if math.isfinite(value) else math.inf

    return sorted(trials, key=key)


def as_csv(trials: Sequence[Trial]) -> str:
    """The rows of the Markdown table, every column filled, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for t in trials:
        for o in t.outcomes:
            for metric in (m for m in METRICS if m in o.metrics):
                s = summarize(o.metrics[metric])
                numbers = [s[k] for k in ("mean", "std", "median", "min", "max")]
                whole = [o.models, len(o.failed), o.seconds, o.us_a_step, "" if o.difference is None else o.difference]
                writer.writerow([t.name, o.by, metric, *numbers, *whole])
    return text.getvalue()


def as_json(trials: Sequence[Trial]) -> str:
    """Everything but the planes: values by model, curves, versions. What is not finite is null."""

    def outcome(o: TimedFit) -> dict[str, Any]:
        return {
            "by": o.by,
            "seeds": o.seeds,
            "failed": [o.seeds[r] for r in o.failed],
            "steps": o.steps,
            "seconds": o.seconds,
            "us_a_step": o.us_a_step,
            "threads": o.threads,
            "difference": None if o.difference is None else for_json(o.difference),
            "metrics": {m: {**nulled(summarize(v)), "values": [for_json(x) for x in v]} for m, v in o.metrics.items()},
        }

    content = {
        "versions": {"trainkit": __version__, "torch": str(torch.__version__)},
        "trials": [
            {
                "name": t.name,
                "loss": t.loss,
                "outcomes": [outcome(o) for o in t.outcomes],
                "curves": {
                    "epochs": t.curves.epochs,
                    **{m: [[for_json(x) for x in row] for row in rows] for m, rows in t.curves.values.items()},
                },
            }
            for t in trials
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def nulled(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: for_json(value) for name, value in numbers.items()}


def mean(s: dict[str, float]) -> str:
    return f"{plain(s['mean'])} ± {plain(s['std'])}" if s["std"] else plain(s["mean"])


def plain(value: float) -> str:
    """Four digits; what is not finite in words."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3g}"


def apart(difference: float) -> str:
    return f"{difference:.1e}" if math.isfinite(difference) else "not finite"


def failed(o: TimedFit) -> str:
    """`2 of 30 (seeds 4, 17)`."""
    if not o.failed:
        return f"0 of {o.models}"
    seeds = ", ".join(str(o.seeds[r]) for r in o.failed[:6]) + (", ..." if len(o.failed) > 6 else "")
    return f"{len(o.failed)} of {o.models} (seed{'s' * (len(o.failed) > 1)} {seeds})"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Markdown, its columns aligned to be read as text too."""
    rows = [[cell.replace("|", "\\|") for cell in r] for r in rows]  # a name may hold one
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(r, widths, strict=True)) + " |" for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
