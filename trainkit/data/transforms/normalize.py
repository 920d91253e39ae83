"""Scaling of the inputs by statistics of the training split only; they are saved with the model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainkit.data import check
from trainkit.data.mapped import MappedRows
from trainkit.data.statistics import Frame, Range, blocks, filled, mean_std, ranges
from trainkit.data.tables.schema import onehot_groups

from .fill import fill_values

if TYPE_CHECKING:
    from trainkit.data.dataset import Dataset, Split


class Normalizer:
    """x -> (x - mean) / std, after missing numbers are filled.

    `feature`: mean and standard deviation (population, /n) of each input feature over the n samples, with the shape of one
    sample; a constant feature has std 1. `global`: one mean and std over all numbers. `none`: mean 0, std 1. `fill`: the value
    for NaN, one per feature, or None. Statistics and scaling are computed in float64 for every dtype of x and of the result.
    """

    def __init__(self, mean: Tensor, std: Tensor, fill: Tensor | None) -> None:
        self.mean, self.std, self.fill = mean, std, fill

    @classmethod
    def identity(cls) -> Normalizer:
        """Return x -> x."""
        return cls(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64), None)

    @classmethod
    def fit(cls, data: Dataset, span: Range | None = None) -> Normalizer:
        """Return the normalizer with the statistics of `data.train`, whose range is `span` (None: computed here if needed).

        Raises UserError for missing numbers without a fill, and for infinite ones, which have no mean.
        """
        x, fill, frame = data.train.x, None, None
        if span is None and (data.fill is not None or not (isinstance(x, MappedRows) and x.small_integers())):
            span = ranges(x)
        if span is not None:
            if span.missing and data.fill is None:
                check.refuse_missing(data, "train")
            if not span.finite and (data.fill is not None or data.normalize != "none"):
                check.refuse(data, "train", "x", torch.isinf, "has no mean", check.CORRECT)
        if data.fill is not None and span is not None:  # even if no number is missing here: another split may have one
            fill = fill_values(x[:], data.fill, span, onehot_groups(data.schema))
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        if data.normalize == "none":
            return cls(zero, one, fill)
        if span is not None:
            ends = (span.low, span.high) if data.normalize == "feature" else (span.low.min(), span.high.max())
            frame = Frame.of(*ends)
        mean, std = mean_std(x, (0,) if data.normalize == "feature" else tuple(range(x.dim())), frame, fill)
        return cls(mean, torch.where(std > 0, std, one), fill)

    def apply(self, split: Split, dtype: torch.dtype | None = None) -> Split:
        """Return the split with its inputs filled, scaled and in `dtype` (None: their own); those of a file when read."""
        scale = partial(self.scale, dtype=dtype)
        return replace(split, x=split.x.then(scale) if isinstance(split.x, MappedRows) else scale(split.x))

    def scale(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return rows (k, ...) filled and scaled, in `dtype`. Works in blocks: all at once would need three float64 copies."""
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
