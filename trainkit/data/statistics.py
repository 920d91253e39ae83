"""Statistics of a split, computed in blocks, so that data in memory and data in a file have the same statistics."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from .mapped import MappedRows

BLOCK_BYTES = 1 << 22  # per block, as float64
FAR = 1024.0  # a feature whose middle exceeds FAR times its half width is shifted to 0 first
PLAIN = (2.0**-300, 2.0**300)  # squares of such numbers, and their sums, neither overflow nor underflow


def blocks(x: Tensor | MappedRows) -> Generator[Tensor, None, None]:
    """Yield the rows of x in order, BLOCK_BYTES at a time. The size of a block depends on the shape, not on the dtype."""
    size = max(1, BLOCK_BYTES // (8 * max(1, x.shape[1:].numel())))
    cuts = (slice(i, i + size) for i in range(0, len(x), size))
    yield from x.each(cuts) if isinstance(x, MappedRows) else map(x.__getitem__, cuts)


@dataclass(frozen=True)
class Range:
    """The minimum and maximum of each feature without NaN: float64, the shape of one sample; 0 if all are NaN.

    missing: at least one number is NaN. finite: no number is infinite.
    """

    low: Tensor
    high: Tensor
    missing: bool

    @property
    def finite(self) -> bool:
        return bool(self.low.isfinite().all() and self.high.isfinite().all())


def ranges(x: Tensor | MappedRows) -> Range:
    """Return the range of x (n, ...), in one pass."""
    low = torch.full(x.shape[1:], torch.inf, dtype=torch.float64)
    high, missing = -low, False
    for block in blocks(x):
        low_b, high_b = block.amin(0), block.amax(0)  # NaN if one of the feature's numbers is NaN
        if low_b.isnan().any():
            missing, absent = True, block.isnan()
            low_b, high_b = (torch.where(absent, end, block) for end in (torch.inf, -torch.inf))
            low_b, high_b = low_b.amin(0), high_b.amax(0)
        low, high = low.minimum(low_b.cpu().double()), high.maximum(high_b.cpu().double())
    empty = low > high
    return Range(low.masked_fill(empty, 0), high.masked_fill(empty, 0), missing)


@dataclass(frozen=True)
class Frame:
    """x = shift + unit z, where the numbers z of a feature are near 0 and can be squared without overflow or underflow.

    shift: the middle of a feature that is far from 0. The differences x - shift are then exact in float64, and a sum of them is
    not rounded to the size of the middle. unit: a power of two. Ordinary features have shift 0 and unit 1, which change no bit.
    """

    shift: Tensor
    unit: Tensor

    @classmethod
    def of(cls, low: Tensor, high: Tensor) -> Frame | None:
        """Return the frame of finite numbers from low to high; None if every feature is ordinary."""
        middle, half = low / 2 + high / 2, high / 2 - low / 2
        shift = torch.where(middle.abs() > FAR * half, middle, 0.0)
        largest = torch.where(shift == 0, low.abs().maximum(high.abs()), half)
        power = largest / (2 * largest.frexp().mantissa)  # exact: the power of two at or below
        unit = torch.where((largest == 0) | ((largest > PLAIN[0]) & (largest < PLAIN[1])), 1.0, power)
        return None if (shift == 0).all() and (unit == 1).all() else cls(shift, unit)

    def into(self, x: Tensor) -> Tensor:
        """Return z = (x - shift) / unit."""
        return (x - self.shift) / self.unit

    def out(self, mean: Tensor) -> Tensor:
        """Return shift + unit mean, the mean of x given that of z."""
        return self.shift + self.unit * mean


def mean_std(
    x: Tensor | MappedRows, dims: tuple[int, ...], frame: Frame | None = None, fill: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation of x (n, ...) over the dimensions `dims`, which begin with 0, in float64.

    Merged from those of blocks: n = nₐ + n_b, d = mean_b - meanₐ, mean = meanₐ + d n_b / n,
    var = (nₐ varₐ + n_b var_b) / n + d² nₐ n_b / n². `fill` replaces NaN.
    Source: Chan, Golub, LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances.
    """
    n, mean, std = 0, torch.zeros(()), torch.zeros(())
    for block in blocks(x):
        z = filled(block.double(), fill)
        std_b, mean_b = torch.std_mean(z if frame is None else frame.into(z), dim=dims, correction=0)
        n_b, n = len(block), n + len(block)
        if n_b == n:  # the first
            mean, std = mean_b, std_b
            continue
        d, share = mean_b - mean, n_b / n
        mean = mean + share * d
        std = ((1 - share) * std.square() + share * std_b.square() + share * (1 - share) * d.square()).sqrt()
    return (mean, std) if frame is None else (frame.out(mean), frame.unit * std)


def filled(x: Tensor, fill: Tensor | None) -> Tensor:
    """Return x with NaN replaced by `fill`, one number per feature."""
    return x if fill is None else torch.where(torch.isnan(x), fill.to(x.dtype), x)
