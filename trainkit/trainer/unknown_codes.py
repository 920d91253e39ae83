"""The embedding of unknown categories, which no training sample has."""

from __future__ import annotations

from itertools import accumulate

from trainkit.core import terminal
from trainkit.core.validation import short_repr
from trainkit.data.dataset import Dataset
from trainkit.data.statistics import blocks
from trainkit.data.tables.schema import Schema
from trainkit.nn.layers.embedding import EmbedColumns
from trainkit.nn.module import Module

from .shapes import first_module


def start_unknown_codes(net: Module, data: Dataset) -> None:
    """Set the vector of each column's code for unknown values to the mean of the others, if no training sample has the code.

    No step changes such a vector, so it would keep the random numbers that it was drawn from. Prints a line that says so.
    data: a table with codes, scaled. Only an EmbedColumns that takes the data has such vectors.
    """
    _, module = first_module(net)
    at = [i for i, k in enumerate(data.categories) if k]
    counts = tuple(data.categories[i] for i in at)
    if not isinstance(module, EmbedColumns) or module.categories != counts:
        return
    if not data.schema or not Schema.of(data.schema).has_other_code:
        return
    unseen = []
    for i, count, end in zip(at, counts, accumulate(counts), strict=True):
        if count > 1 and not any(bool((block[:, i] == count - 1).any()) for block in blocks(data.train.x)):
            for w in module.w.view(-1, sum(counts), module.dim):  # one by one: the bits of a replica are those of a single net
                w[end - 1] = w[end - count : end - 1].mean(0)
            unseen.append(short_repr(data.features[i]))
    if unseen:
        terminal.print_stderr(
            f"data: no training row has an unknown value of {', '.join(unseen)}; such a value starts as the mean of the vectors"
            " of the known ones"
        )
