"""Random changes of a batch of training samples, each of which draws its own numbers. `augment.py` applies them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trainkit.core.counters import Draws
from trainkit.core.errors import UserError

from .places import bilinear, framed, grid, pick


@dataclass(frozen=True)
class Augmentation:
    """A random change of inputs: `augmentation(x, draws)` takes x (k, ...) and the numbers of its samples.

    x is scaled already, so a filling of 0 is the mean of the training split where `data.normalize` is set.
    """

    name: ClassVar[str]
    of_images: ClassVar[bool] = True  # whether it needs x (k, ..., h, w)

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def _require(self, holds: bool, option: str, needs: str) -> None:
        """Raise UserError unless `holds`."""
        if not holds:
            raise UserError(f"data.augment.{self.name}: {option}={getattr(self, option)}; needs {needs}")


@dataclass(frozen=True)
class Crop(Augmentation):
    """Pad each side by `padding` pixels of value `fill`, then crop to the old size at a random place.

    y[i, j] = padded[i + a, j + b], with a and b from 0 to 2 padding.
    """

    padding: int
    fill: float = 0.0
    name: ClassVar[str] = "crop"

    def __post_init__(self) -> None:
        self._require(self.padding >= 1, "padding", "at least 1 pixel")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        side = 2 * self.padding + 1
        down, right = (draws.integers(side, d) - self.padding for d in (0, 1))
        rows, columns = grid(x)
        return pick(x, framed(x, self.fill), rows + down[:, None, None], columns + right[:, None, None])


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirror left and right with probability `p`: y[i, j] = x[i, w - 1 - j]."""

    p: float = 0.5
    name: ClassVar[str] = "flip"

    def __post_init__(self) -> None:
        self._require(0 <= self.p <= 1, "p", "a probability of 0 to 1")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        flipped = (draws.uniform() < self.p).view(-1, *[1] * (x.dim() - 1))
        return torch.where(flipped, x.flip(-1), x)


@dataclass(frozen=True)
class Shift(Augmentation):
    """Move by up to `pixels` in each direction, by fractions of a pixel too (bilinear); `fill` enters at the border."""

    pixels: float
    fill: float = 0.0
    name: ClassVar[str] = "shift"

    def __post_init__(self) -> None:
        self._require(0 < self.pixels < math.inf, "pixels", "a distance above 0")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        down, right = ((2 * draws.uniform(d) - 1) * self.pixels for d in (0, 1))
        rows, columns = grid(x)
        return bilinear(x, rows + down[:, None, None], columns + right[:, None, None], self.fill)


@dataclass(frozen=True)
class Rotate(Augmentation):
    """Turn around the center by an angle of up to ±`degrees`, counterclockwise if above 0 (bilinear); `fill` outside.

    With i down, j to the right, both from the center: y[i, j] = x[i cos a + j sin a, j cos a - i sin a].
    """

    degrees: float
    fill: float = 0.0
    name: ClassVar[str] = "rotate"

    def __post_init__(self) -> None:
        self._require(0 < self.degrees <= 180, "degrees", "an angle above 0, at most 180")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        angles = ((2 * draws.uniform() - 1) * math.radians(self.degrees)).tolist()
        # By plain Python: a vectorized cosine may round the last elements of a batch in another way than the first.
        turns = torch.tensor([(math.cos(a), math.sin(a)) for a in angles], dtype=torch.float64, device=x.device)
        cos, sin = turns.view(-1, 2, 1, 1).unbind(1)
        rows, columns = grid(x)
        middle = (x.shape[-2] - 1) / 2, (x.shape[-1] - 1) / 2
        i, j = rows - middle[0], columns - middle[1]
        return bilinear(x, i * cos + j * sin + middle[0], j * cos - i * sin + middle[1], self.fill)


@dataclass(frozen=True)
class Erase(Augmentation):
    """Set a square of side `size` to `fill` with probability `p`. Its center is any pixel, so the border may cut it.

    Source: DeVries, Taylor 2017, Improved regularization of convolutional neural networks with cutout.
    """

    size: int
    p: float = 1.0
    fill: float = 0.0
    name: ClassVar[str] = "erase"

    def __post_init__(self) -> None:
        self._require(self.size >= 1, "size", "at least 1 pixel")
        self._require(0 <= self.p <= 1, "p", "a probability of 0 to 1")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        inside = (draws.uniform(0) < self.p)[:, None, None]
        for axis, places in enumerate(grid(x)):
            first = (draws.integers(x.shape[axis - 2], 1 + axis) - self.size // 2)[:, None, None]
            inside = inside & (places >= first) & (places < first + self.size)
        return x.masked_fill(inside.view(len(x), *[1] * (x.dim() - 3), *inside.shape[1:]), self.fill)


@dataclass(frozen=True)
class Noise(Augmentation):
    """Add independent normal numbers of standard deviation `std`: y = x + std z. Takes x of any shape.

    Codes of categories are not changed.
    """

    std: float
    name: ClassVar[str] = "noise"
    of_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._require(0 < self.std < math.inf, "std", "a standard deviation above 0")

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        return x + (draws.normal(x[0].numel()) * self.std).to(x.dtype).view_as(x)


@dataclass(frozen=True)
class Mixup(Augmentation):
    """Mix each sample with another one: x = l x + (1 - l) x', t = l t + (1 - l) t', l from Beta(alpha, alpha).

    The other sample is any of the training split, changed by the augmentations listed before this one. So the mixture does not
    depend on the batch. The targets must be numbers: one-hot for classes (`data.targets: onehot`). A sample
    keeps its own weight. Codes of categories (`data.encode: codes`) are refused.
    Source: Zhang et al. 2018, mixup: Beyond empirical risk minimization.
    """

    alpha: float = 1.0
    name: ClassVar[str] = "mixup"
    of_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._require(0 < self.alpha <= 1000, "alpha", "a number above 0, at most 1000")

    def share(self, draws: Draws) -> Tensor:
        """Return l: (k,) float64."""
        table = beta_quantiles(self.alpha)
        return table.to(draws.streams.device)[draws.integers(len(table), 1)]

    def mix(self, v: Tensor, other: Tensor, share: Tensor) -> Tensor:
        """Return l v + (1 - l) v'."""
        own = share.to(v.dtype).view(-1, *[1] * (v.dim() - 1))
        return own * v + (1 - own) * other


AUGMENTATIONS: dict[str, type[Augmentation]] = {a.name: a for a in (Crop, Flip, Shift, Rotate, Erase, Noise, Mixup)}


SHARES = 1 << 14  # equally likely shares that `Mixup` draws from


@cache
def beta_quantiles(alpha: float) -> Tensor:
    """Return SHARES quantiles of Beta(alpha, alpha), float64, by numerical integration.

    For alpha < 1 over s = l^alpha, where the density has no pole: (l (1 - l))^(alpha - 1) dl = (1 - l)^(alpha - 1) ds / alpha.
    The half above 1/2 mirrors the half below.
    """
    power = min(alpha, 1.0)
    s = np.linspace(0, 0.5**power, 1 << 17)
    l = ((s[1:] + s[:-1]) / 2) ** (1 / power)  # noqa: E741
    density = (1 - l) ** (alpha - 1) if alpha < 1 else (4 * l * (1 - l)) ** (alpha - 1)
    mass = np.concatenate([[0.0], np.cumsum(density)])
    probability = (np.arange(SHARES // 2) + 0.5) / SHARES
    half = np.interp(probability, mass / (2 * mass[-1]), s) ** (1 / power)
    return torch.from_numpy(np.concatenate([half, 1 - half[::-1]]))
