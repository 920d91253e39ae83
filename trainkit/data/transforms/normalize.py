"""Scaling of the inputs by statistics of the training part alone; they are saved with the model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainkit.data import check
from trainkit.data.mapped import MappedRows
from trainkit.data.statistics import Frame, Range, blocks, filled, mean_std, ranges

if TYPE_CHECKING:
    from trainkit.data.dataset import Dataset, Split


class Normalizer:
    """x -> (x - mean) / std, a missing number first filled.

    `feature`: mean and std (population, /n) of each input feature over the n samples, shape of one sample; a constant
    feature has std 1. `global`: one mean and std over all. `none`: mean 0, std 1. `fill`: the value for NaN, a feature each,
    or None. Statistics and scaling are computed in float64, whatever the dtype of x is and of the result will be.
    """

    def __init__(self, mean: Tensor, std: Tensor, fill: Tensor | None) -> None:
        self.mean, self.std, self.fill = mean, std, fill

    @classmethod
    def identity(cls) -> Normalizer:
        """x -> x."""
        return cls(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64), None)

    @classmethod
    def fit(cls, data: Dataset, span: Range | None = None) -> Normalizer:
        """The statistics of `data.train`, whose range is `span` (found here where it is None and of use).

        UserError: missing numbers without a fill; infinite ones, which have no mean.
        """
        x, fill, frame = data.train.x, None, None
        if span is None and (data.fill is not None or not (isinstance(x, MappedRows) and x.small_integers())):
            span = ranges(x)
        if span is not None:
            if span.missing and data.fill is None:
                check.refuse_missing(data, "train")
            if not span.finite and (data.fill is not None or data.normalize != "none"):
                check.refuse(data, "train", "x", torch.isinf, "has no mean", check.MEND)
        if data.fill is not None and span is not None:  # whether or not this part misses a number: another may
            x = x[:]  # a median needs all at once
            fill = _fill(x.double(), data.fill, Frame.of(span.low, span.high))
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        if data.normalize == "none":
            return cls(zero, one, fill)
        if span is not None:
            ends = (span.low, span.high) if data.normalize == "feature" else (span.low.min(), span.high.max())
            frame = Frame.of(*ends)
        mean, std = mean_std(x, (0,) if data.normalize == "feature" else tuple(range(x.dim())), frame, fill)
        return cls(mean, torch.where(std > 0, std, one), fill)

    def apply(self, part: Split, dtype: torch.dtype | None = None) -> Split:
        """The part with its inputs filled, scaled and in `dtype` (None: their own); those of a file when they are read."""
        from trainkit.data.dataset import Split

        scale = partial(self.scale, dtype=dtype)
        return Split(part.x.then(scale) if isinstance(part.x, MappedRows) else scale(part.x), part.t, part.label)

    def scale(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Rows (k, ...) filled and scaled, in `dtype`, by blocks: all at once would need three times the data in float64."""
        if not self.mean.dim() and self.mean == 0 and self.std == 1:
            return filled(x, self.fill).to(dtype or x.dtype)
        scaled = torch.empty_like(x, dtype=dtype)
        for rows, block in zip(blocks(scaled), blocks(x), strict=True):
            rows.copy_((filled(block.double(), self.fill) - self.mean) / self.std)
        return scaled

    def state_dict(self) -> dict[str, Tensor | None]:
        return {"mean": self.mean, "std": self.std, "fill": self.fill}

    @classmethod
    def from_state(cls, state: dict[str, Tensor | None]) -> Normalizer:
        mean, std = state["mean"], state["std"]
        assert mean is not None
        assert std is not None
        return cls(mean, std, state["fill"])


def _fill(x: Tensor, how: str, frame: Frame | None) -> Tensor:
    """Mean or median of each feature of x (n, ...) over the numbers that are there; 0 where there is none."""
    if how == "median":
        found = x.nanmedian(0).values
    else:
        found = x.nanmean(0) if frame is None else frame.out(frame.into(x).nanmean(0))
    return found.nan_to_num(0.0)
