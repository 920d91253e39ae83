"""Scaling of the inputs by statistics of the training part alone; they are saved with the model."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from .stored import Stored, ahead

if TYPE_CHECKING:
    from .dataset import Dataset, Part


class Normalizer:
    """x -> (x - mean) / std, a missing number first filled.

    `feature`: mean and std (population, /n) of each input feature over the n samples, shape of one sample; a constant
    feature has std 1. `global`: one mean and std over all. `none`: mean 0, std 1. `fill`: the value for NaN, a feature each,
    or None. Statistics are float64, merged from those of blocks of BLOCK bytes, so that data in memory and data in a file have
    the same: n = nₐ + n_b, d = mean_b - meanₐ, mean = meanₐ + d n_b / n, var = (nₐ varₐ + n_b var_b) / n + d² nₐ n_b / n².
    Source: Chan, Golub, LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances.
    """

    def __init__(self, mean: Tensor, std: Tensor, fill: Tensor | None) -> None:
        self.mean, self.std, self.fill = mean, std, fill

    @classmethod
    def fit(cls, data: Dataset) -> Normalizer:
        x = data.train.x
        fill = None
        if data.fill is not None:  # whether or not this part misses a number: another may
            x = x[:]  # a median needs all at once
            fill = x.double().nanmean(0) if data.fill == "mean" else x.double().nanmedian(0).values
            fill = fill.nan_to_num(0.0)  # a column with no number at all
            x = torch.where(torch.isnan(x), fill.to(x.dtype), x)
        elif count := missing(x):
            raise UserError(f"data: {count} missing numbers; say data.missing=mean or median, or mend the file")
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        if data.normalize == "none":
            return cls(zero, one, fill)
        mean, std = moments(x, (0,) if data.normalize == "feature" else tuple(range(x.dim())))
        return cls(mean, torch.where(std > 0, std, one), fill)

    def apply(self, part: Part) -> Part:
        """The part with its inputs filled and scaled; those of a file when they are read."""
        from .dataset import Part

        if self.fill is None and missing(part.x):
            raise UserError(
                "data: missing numbers outside the training part; say data.missing=mean or median, or mend the file"
            )
        x = part.x.then(self.scale) if isinstance(part.x, Stored) else self.scale(part.x)
        return Part(x, part.t, part.label)

    def scale(self, x: Tensor) -> Tensor:
        """Rows (k, ...) filled and scaled."""
        if self.fill is not None:
            x = torch.where(torch.isnan(x), self.fill.to(x.dtype), x)
        if not self.mean.dim():
            return ((x - float(self.mean)) / float(self.std)).to(x.dtype)
        scaled = torch.empty_like(x)
        for rows, block in zip(blocks(scaled), blocks(x), strict=True):  # all at once it were thrice the data in float64
            rows.copy_((block.double() - self.mean) / self.std)
        return scaled

    def state_dict(self) -> dict[str, Tensor | None]:
        return {"mean": self.mean, "std": self.std, "fill": self.fill}

    @classmethod
    def from_state(cls, state: dict[str, Tensor | None]) -> Normalizer:
        mean, std = state["mean"], state["std"]
        assert mean is not None
        assert std is not None
        return cls(mean, std, state["fill"])


BLOCK = 1 << 22  # bytes of float64: the statistics of that many rows at a time


def blocks(x: Tensor | Stored) -> Generator[Tensor, None, None]:
    """The rows of x in order, as many at a time as BLOCK says for their shape, whatever their dtype."""
    size = max(1, BLOCK // (8 * max(1, x.shape[1:].numel())))
    cuts = (slice(i, i + size) for i in range(0, len(x), size))
    yield from ahead(x.__getitem__, cuts) if isinstance(x, Stored) else map(x.__getitem__, cuts)


def moments(x: Tensor | Stored, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of x (n, ...) over the dimensions `over`, which begin with 0, in float64."""
    n, mean, std = 0, torch.zeros(()), torch.zeros(())
    for block in blocks(x):
        std_b, mean_b = torch.std_mean(block.double(), dim=over, correction=0)
        n_b, n = len(block), n + len(block)
        if n_b == n:  # the first
            mean, std = mean_b, std_b
            continue
        d, share = mean_b - mean, n_b / n
        mean = mean + share * d
        std = ((1 - share) * std.square() + share * std_b.square() + share * (1 - share) * d.square()).sqrt()
    return mean, std


def missing(x: Tensor | Stored) -> int:
    """How many numbers of x are NaN; a file of integers is not looked at."""
    if isinstance(x, Tensor):
        absent = torch.isnan(x)
        return int(absent.sum()) if absent.any() else 0
    return sum(int(torch.isnan(block).sum()) for block in blocks(x)) if x.may_miss() else 0
