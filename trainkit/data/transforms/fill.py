"""What replaces a missing number: a statistic of the training split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from trainkit.data.statistics import Frame, Range, mean_std


def fill_values(
    x: Tensor, how: Literal["mean", "median", "most_frequent"], span: Range, groups: Sequence[slice] = ()
) -> Tensor:
    """Return the value (k,) float64 for NaN in each feature of x (n, k): mean, median or mode without NaN; 0 if all are NaN.

    The mode is the smallest of the most frequent numbers. groups: features that are one category, one-hot: their mode is that
    of the category, so that exactly one of them is 1. span: the range of x. One feature at a time is copied, since x may be
    large; for the mean of numbers of which none is missing, one block at a time.
    """
    frame = Frame.of(span.low, span.high)
    if how == "mean" and not span.missing:
        return mean_std(x, (0,), frame)[0]
    flat = x.reshape(len(x), -1)
    value = torch.stack([_statistic(flat[:, i].double(), how, _part(frame, i)) for i in range(flat.shape[1])])
    if how == "most_frequent":
        for group in groups:
            count = flat[:, group].nansum(0)
            value[group] = torch.zeros_like(count, dtype=torch.float64).index_fill_(0, count.argmax(), 1.0)
    return value.nan_to_num(0.0).view(x.shape[1:])


def _statistic(v: Tensor, how: str, frame: Frame | None) -> Tensor:
    if how == "median":
        return (v.nanmedian() - (-v).nanmedian()) / 2  # torch's median is the lower of the middle two
    if how == "most_frequent":
        values, counts = v[~v.isnan()].unique(return_counts=True)
        return values[counts.argmax()] if len(values) else v.new_zeros(())
    return v.nanmean() if frame is None else frame.out(frame.into(v).nanmean())


def _part(frame: Frame | None, i: int) -> Frame | None:
    """Return the frame of feature i."""
    return None if frame is None else Frame(frame.shift.flatten()[i], frame.unit.flatten()[i])
