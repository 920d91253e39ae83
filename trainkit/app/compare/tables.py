"""Tables of trials: Markdown to read, CSV for other tools, JSON with every value."""

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

METRICS = tuple(f"{split}/{name}" for name in ("loss", "error", "accuracy") for split in ("train", "val", "test"))
COLUMNS = (
    "trial", "by", "metric", "mean", "std", "median", "min", "max", "models", "failed", "seconds", "us_a_step", "difference",
)  # fmt: skip


def markdown(trials: Sequence[Trial]) -> str:
    """Return a row per trial, implementation and metric. The cells of the whole training are in its first row."""
    compared = any(o.difference is not None for t in trials for o in t.outcomes)
    head = ["trial", "by", "metric", "mean ± std", "median", "min to max", "failed", "seconds", "µs per step and model"]
    rows = [[*head, "largest difference"] if compared else head]
    for t in trials:
        for i, o in enumerate(t.outcomes):
            for k, metric in enumerate(in_order(o.metrics)):
                s = summarize(o.metrics[metric])
                spans = f"{four_digits(s['min'])} to {four_digits(s['max'])}" if o.models > 1 else ""
                row = [t.name * (i == k == 0), o.by * (k == 0), metric, mean(s), four_digits(s["median"]), spans]
                whole = [failed(o), f"{o.seconds:.2f}", f"{o.us_per_step:.1f}"]
                row += whole if k == 0 else [""] * 3
                if compared:
                    row.append(format_difference(o.difference) if k == 0 and o.difference is not None else "")
                rows.append(row)
    return table(rows)


def in_order(metrics: Iterable[str]) -> list[str]:
    """Return names of metrics: those of METRICS, then the others, sorted."""
    return [m for m in METRICS if m in metrics] + sorted(set(metrics) - set(METRICS))


def of_grid(trials: Sequence[Trial]) -> str:
    """Return a row per trial: the metric that ranks them, on validation and test data. The best trial is first and in bold."""
    metric = chooser(trials)
    test = metric.replace("val/", "test/")
    rows = [["trial", metric, *([test] if test != metric else []), "failed", "seconds", "µs per step and model"]]
    for i, t in enumerate(ranked(trials)):
        o = t.outcomes[0]
        values = [mean(summarize(o.metrics[m])) if m in o.metrics else "" for m in dict.fromkeys((metric, test))]
        rows.append([f"**{t.name}**" if i == 0 else t.name, *values, failed(o), f"{o.seconds:.2f}", f"{o.us_per_step:.1f}"])
    return table(rows) + f"\n\nRanked by the mean of {metric}."


def chooser(trials: Sequence[Trial]) -> str:
    """Return the metric that ranks trials: the validation error, else its loss; without a validation split the training's."""
    present = [
        m for m in ("val/error", "val/loss", "train/error", "train/loss") if all(m in t.outcomes[0].metrics for t in trials)
    ]
    return present[0]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials, the best first. Those with a non-finite mean are last."""

    def key(t: Trial) -> float:
        value = summarize(t.outcomes[0].metrics[chooser(trials)])["mean"]
        return value if math.isfinite(value) else math.inf

    return sorted(trials, key=key)


def as_csv(trials: Sequence[Trial]) -> str:
    """Return the rows of the Markdown table as CSV, with every column filled and all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for t in trials:
        for o in t.outcomes:
            for metric in in_order(o.metrics):
                s = summarize(o.metrics[metric])
                numbers = [s[k] for k in ("mean", "std", "median", "min", "max")]
                whole = [o.models, len(o.failed), o.seconds, o.us_per_step, "" if o.difference is None else o.difference]
                writer.writerow([t.name, o.by, metric, *numbers, *whole])
    return text.getvalue()


def as_json(trials: Sequence[Trial]) -> str:
    """Return everything but the planes as JSON: values per model, curves, versions. Non-finite values are null."""

    def outcome(o: TimedFit) -> dict[str, Any]:
        return {
            "by": o.by,
            "seeds": o.seeds,
            "failed": [o.seeds[r] for r in o.failed],
            "steps": o.steps,
            "seconds": o.seconds,
            "us_a_step": o.us_per_step,
            "threads": o.threads,
            "difference": None if o.difference is None else for_json(o.difference),
            "metrics": {m: {**finite_or_null(summarize(v)), "values": [for_json(x) for x in v]} for m, v in o.metrics.items()},
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


def finite_or_null(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: for_json(value) for name, value in numbers.items()}


def mean(s: dict[str, float]) -> str:
    return f"{four_digits(s['mean'])} ± {four_digits(s['std'])}" if s["std"] else four_digits(s["mean"])


def four_digits(value: float) -> str:
    """Return the value with four digits, or `not finite`."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3g}"


def format_difference(difference: float) -> str:
    """Return the difference with two digits, or `not finite`."""
    return f"{difference:.1e}" if math.isfinite(difference) else "not finite"


def failed(o: TimedFit) -> str:
    """Return how many models failed: `2 of 30 (seeds 4, 17)`."""
    if not o.failed:
        return f"0 of {o.models}"
    seeds = ", ".join(str(o.seeds[r]) for r in o.failed[:6]) + (", ..." if len(o.failed) > 6 else "")
    return f"{len(o.failed)} of {o.models} (seed{'s' * (len(o.failed) > 1)} {seeds})"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns, which is readable as text too."""
    rows = [[cell.replace("|", "\\|") for cell in r] for r in rows]  # a name may contain one
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(r, widths, strict=True)) + " |" for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
