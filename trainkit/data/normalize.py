"""Scaling of the inputs by statistics of the training part alone; they are saved with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError

if TYPE_CHECKING:
    from .dataset import Dataset, Part


class Normalizer:
    """x -> (x - mean) / std, a missing number first filled.

    `feature`: mean and std (population, /n) of each input feature over the n samples, shape of one sample; a constant
    feature has std 1. `global`: one mean and std over all. `none`: mean 0, std 1. `fill`: the value for NaN, a feature each,
    or None. Statistics are float64.
    """

    def __init__(self, mean: Tensor, std: Tensor, fill: Tensor | None) -> None:
        self.mean, self.std, self.fill = mean, std, fill

    @classmethod
    def fit(cls, data: Dataset) -> Normalizer:
        x = data.train.x
        fill = None
        if data.fill is not None:  # whether or not this part misses a number: another may
            fill = x.double().nanmean(0) if data.fill == "mean" else x.double().nanmedian(0).values
            fill = fill.nan_to_num(0.0)  # a column with no number at all
            x = torch.where(torch.isnan(x), fill.to(x.dtype), x)
        elif torch.isnan(x).any():
            raise UserError(
                f"data: {int(torch.isnan(x).sum())} missing numbers; say data.missing=mean or median, or mend the file"
            )
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        if data.normalize == "none":
            return cls(zero, one, fill)
        over = (0,) if data.normalize == "feature" else tuple(range(x.dim()))
        std, mean = torch.std_mean(x.double(), dim=over, correction=0)
        return cls(mean, torch.where(std > 0, std, one), fill)

    def apply(self, part: Part) -> Part:
        from .dataset import Part

        x = part.x
        if self.fill is not None:
            x = torch.where(torch.isnan(x), self.fill.to(x.dtype), x)
        elif torch.isnan(x).any():
            raise UserError(
                "data: missing numbers outside the training part; say data.missing=mean or median, or mend the file"
            )
        scaled = (x.double() - self.mean) / self.std if self.mean.dim() else (x - float(self.mean)) / float(self.std)
        return Part(scaled.to(x.dtype), part.t, part.label)

    def state_dict(self) -> dict[str, Tensor | None]:
        return {"mean": self.mean, "std": self.std, "fill": self.fill}

    @classmethod
    def from_state(cls, state: dict[str, Tensor | None]) -> Normalizer:
        mean, std = state["mean"], state["std"]
        assert mean is not None
        assert std is not None
        return cls(mean, std, state["fill"])
