"""Metrics as lines of text."""

from __future__ import annotations

from typing import Any

from trainkit.core import terminal
from trainkit.core.text_table import text_table
from trainkit.core.validation import short_repr
from trainkit.data.dataset import Dataset
from trainkit.metrics.confusion_matrix import MAX_NAME, ConfusionMatrix, count_text

OF_ONE_CLASS = ("precision", "recall", "f1", "jaccard", "average_precision")  # of two classes, these are about one
PRINTED = 10  # classes of a confusion matrix that is printed


def print_metrics(metrics: dict[str, Any], data: Dataset) -> None:
    """Print a line per metric.

    Beside an accuracy stands that of always predicting the most frequent class, beside a metric of one class that class.
    """
    width = max([16, *map(len, metrics)])
    for name, value in sorted(metrics.items()):
        if isinstance(value, dict):
            mean, std = (("nan" if v is None else f"{v:.4g}") for v in (value["mean"], value["std"]))
            text = f"{mean} ± {std} over {len(value['values'])} replicas"
        else:
            text = "nan" if value is None else f"{value:.4g}"
        split, _, metric = name.partition("/")
        share = data.parts()[split].majority() if metric == "accuracy" and split in data.parts() else None
        beside = "" if share is None else f" (the most frequent class: {share:.4g})"
        if metric in OF_ONE_CLASS and data.classes is not None and len(data.classes) == 2 and not data.multilabel:
            beside = f" (of class {short_repr(data.classes[1 if data.positive is None else data.positive])})"
        terminal.print_stdout(f"  {name:<{width}} {text}{beside}")


def print_confusion(matrix: ConfusionMatrix, weighted: bool = False) -> None:
    """Print the confusion matrix of few classes as a table: a row per true class, a column per predicted one.

    weighted: whether the samples count by their weights, which the title then says.
    """
    models, classes = len(matrix.counts), matrix.classes
    of = (f" of {models} replicas together" if models > 1 else "") + (", samples counted by their weights" if weighted else "")
    if len(classes) > PRINTED:
        terminal.print_stdout(f"confusion matrix{of}: {len(classes)} classes; in Python load(RUN).confusion_matrix()")
        return
    names = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in classes]
    rows = [[name, *map(count_text, row)] for name, row in zip(names, matrix.total(), strict=True)]
    table = text_table([["true \\ predicted", *names], *rows], right=range(1, len(names) + 1))
    terminal.print_stdout(f"confusion matrix{of}:", *table)
