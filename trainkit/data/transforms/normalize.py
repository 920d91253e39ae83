"""Scaling of inputs and targets by statistics of the training split only; they are saved with the model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data import check
from trainkit.data.mapped import MappedRows
from trainkit.data.statistics import Frame, Range, blocks, filled, mean_std, ranges
from trainkit.data.tables.schema import onehot_groups

from .fill import fill_values
from .quantile import quantiles, to_normal

if TYPE_CHECKING:
    from trainkit.data.dataset import Dataset, Split


class Normalizer:
    """x -> (x - mean) / std, or x -> Φ⁻¹(F(x)), after missing numbers are filled; t -> (t - target_mean) / target_std.

    `feature`: mean and standard deviation (population, /n) of each input feature over the n samples, with the shape of one
    sample; a constant feature has std 1. `global`: one mean and std over all numbers. `quantile`: F is the distribution of each
    feature, given by `quantiles` (q, ...); mean and std are then 0 and 1. `none`: mean 0, std 1. Columns of codes
    (`Dataset.categories`) are not scaled. `fill`: the value for NaN, one per feature, or None.
    target_mean, target_std: those of each target if `Dataset.normalize_target`, else None. `unscale` undoes them.
    Statistics and scaling are computed in float64 for every dtype of x and of the result.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        fill: Tensor | None = None,
        quantiles: Tensor | None = None,
        target_mean: Tensor | None = None,
        target_std: Tensor | None = None,
    ) -> None:
        self.mean, self.std, self.fill, self.quantiles = mean, std, fill, quantiles
        self.target_mean, self.target_std = target_mean, target_std

    @classmethod
    def identity(cls) -> Normalizer:
        """Return x -> x."""
        return cls(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))

    @classmethod
    def fit(cls, data: Dataset, span: Range | None = None) -> Normalizer:
        """Return the normalizer with the statistics of `data.train`, whose range is `span` (None: computed here if needed).

        Raises UserError for missing numbers without a fill, for infinite ones, which have no mean, for quantiles of inputs that
        are not in memory, and for a normalization of targets that are classes.
        """
        x, fill, frame = data.train.x, None, None
        target_mean, target_std = _of_targets(data) if data.normalize_target else (None, None)
        if span is None and (data.fill is not None or not (isinstance(x, MappedRows) and x.rows.is_plain)):
            span = ranges(x)
        if span is not None:
            if span.missing and data.fill is None:
                check.refuse_missing(data, "train")
            if not span.finite and (data.fill is not None or data.normalize != "none"):
                check.refuse(data, "train", "x", torch.isinf, "has no mean", check.CORRECT)
        if data.fill is not None and span is not None:  # even if no number is missing here: another split may have one
            fill = fill_values(x[:], data.fill, span, onehot_groups(data.schema))
        made = partial(cls, fill=fill, target_mean=target_mean, target_std=target_std)
        if data.normalize == "none":
            return made(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
        codes = torch.tensor([k > 0 for k in data.categories]) if any(data.categories) else None
        if data.normalize == "quantile":
            if isinstance(x, MappedRows):
                fix = "set data.stream=false, or data.normalize=feature"
                raise UserError(f"data.normalize: quantile needs all inputs in memory, and they stay in their file; {fix}")
            found = quantiles(x, fill)
            if codes is not None:
                found[:, codes] = torch.nan
            return made(torch.zeros_like(found[0]), torch.ones_like(found[0]), quantiles=found)
        each = data.normalize == "feature" or codes is not None
        if span is not None:
            frame = Frame.of(*((span.low, span.high) if each else (span.low.min(), span.high.max())))
        mean, std = mean_std(x, (0,) if each else tuple(range(x.dim())), frame, fill)
        if codes is not None:
            if data.normalize == "global":
                mean, std = _pooled(mean, std, ~codes)
            mean, std = mean.masked_fill(codes, 0.0), std.masked_fill(codes, 1.0)
        return made(mean, _without_0(std))

    def apply(self, split: Split, dtype: torch.dtype | None = None) -> Split:
        """Return the split with inputs filled and scaled, and targets scaled, in `dtype` (None: their own).

        Inputs that are not in memory, and targets that are read with them, are scaled when they are read. `raw` then has the
        targets before scaling.
        """
        scale, scale_targets = partial(self.scale, dtype=dtype), partial(self.scale_targets, dtype=dtype)
        x = split.x.then(scale, scale_targets) if isinstance(split.x, MappedRows) else scale(split.x)
        t = scale_targets(split.t)
        return replace(split, x=x, t=t, raw=None if t is split.t else split.t)

    def scale_targets(self, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return targets (k, ...) scaled, in `dtype`, if they have a scale; else as they are."""
        if self.target_mean is None or self.target_std is None or t.shape[1:] != self.target_mean.shape:
            return t
        return ((t.double() - self.target_mean) / self.target_std).to(dtype or t.dtype)

    def scale(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return rows (k, ...) filled and scaled, in `dtype`. Works in blocks: all at once would need three float64 copies."""
        if self.quantiles is None and not self.mean.dim() and self.mean == 0 and self.std == 1:
            return filled(x, self.fill).to(dtype or x.dtype)
        scaled = torch.empty_like(x, dtype=dtype)
        for rows, block in zip(blocks(scaled), blocks(x), strict=True):
            whole = filled(block.double(), self.fill)
            rows.copy_((whole - self.mean) / self.std if self.quantiles is None else to_normal(whole, self.quantiles))
        return scaled

    def unscale(self, y: Tensor) -> Tensor:
        """Return target_mean + target_std y: outputs (..., targets) in the targets' own units, in y's dtype."""
        if self.target_mean is None or self.target_std is None:
            return y
        return (y.double() * self.target_std.to(y.device) + self.target_mean.to(y.device)).to(y.dtype)

    def state_dict(self) -> dict[str, Tensor | None]:
        """Return the statistics. Quantiles and those of the targets have a key only if they are in use."""
        optional = {"quantiles": self.quantiles, "target_mean": self.target_mean, "target_std": self.target_std}
        used = {name: value for name, value in optional.items() if value is not None}
        return {"mean": self.mean, "std": self.std, "fill": self.fill, **used}

    @classmethod
    def from_state(cls, state: dict[str, Tensor | None]) -> Normalizer:
        mean, std, *optional = (state.get(name) for name in ("mean", "std", "fill", "quantiles", "target_mean", "target_std"))
        assert mean is not None
        assert std is not None
        return cls(mean, std, *optional)


def _of_targets(data: Dataset) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each target of the training split."""
    t = data.train.t
    if data.classes is not None or not t.is_floating_point():
        problem = "the targets are classes, and only those of a regression have a scale"
        raise UserError(f"data.normalize_target: {problem}; leave it out, or set data.task=regression")
    if not t.isfinite().all():
        check.refuse(data, "train", "t", lambda t: ~t.isfinite(), "has no mean", check.CORRECT)
    span = ranges(t)
    mean, std = mean_std(t, (0,), Frame.of(span.low, span.high))
    return mean, _without_0(std)


def _pooled(mean: Tensor, std: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over all numbers of the `features` (bool), for each feature."""
    own_mean, own_var = mean[features], std[features].square()
    pooled = own_mean.mean()
    var = (own_var + (own_mean - pooled).square()).mean()
    return pooled.expand(mean.shape).clone(), var.sqrt().expand(std.shape).clone()


def _without_0(std: Tensor) -> Tensor:
    """Return std with 1 in place of 0: what is constant is only shifted."""
    return torch.where(std > 0, std, torch.ones((), dtype=torch.float64))
