"""Augmentation: random changes of the training samples, each a function of the seed, the epoch, the sample and nothing else.

A batch is changed at once, by elementwise operations. So the bits of a sample do not depend on the batch it is in, on workers,
on other replicas, or on where a run was resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, ClassVar, get_type_hints

import numpy as np
import torch
from torch import Tensor

from trainkit.core.counters import Draws, EpochDraws
from trainkit.core.errors import UserError, UserErrors, suggest
from trainkit.core.validation import check_value, short_repr

Read = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]  # samples (k,), replicas (k,) or None -> their x and t


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
        return pick(x, rows + down[:, None, None], columns + right[:, None, None], self.fill)


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
    """Add independent normal numbers of standard deviation `std`: y = x + std z. Takes x of any shape."""

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
    depend on the batch. The targets must be numbers: one-hot for classes (`data.targets: onehot`).
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


class Augmenter:
    """Changes the samples of a training split by `augmentations`, first to last. Each has random numbers of its own.

    n: samples of the split.
    """

    def __init__(self, augmentations: Sequence[Augmentation], n: int) -> None:
        self.augmentations, self.n = tuple(augmentations), n

    def __call__(
        self, x: Tensor, t: Tensor, index: Tensor, replica: Tensor | None, draws: EpochDraws, read: Read
    ) -> tuple[Tensor, Tensor]:
        """Return x (k, ...) and t (k, ...) changed.

        index: the samples (k,). replica: whose numbers they draw, (k,), or None. read: reads other samples of the split.
        """
        for place, f in enumerate(self.augmentations):
            own = draws.of(index.reshape(-1), replica, "augment", place)
            if not isinstance(f, Mixup):
                x = f(x, own)
                continue
            others = own.integers(self.n)
            before = Augmenter(self.augmentations[:place], self.n)
            other_x, other_t = before(*read(others, replica), others, replica, draws, read)
            share = f.share(own)
            x, t = f.mix(x, other_x, share), f.mix(t, other_t, share)
        return x, t


def make(specs: Any) -> list[Augmentation]:
    """Return the augmentations of a list of names, {name: options} and `Augmentation`s: ["flip", {"crop": 2}, Noise(0.1)].

    Options are a mapping, or the value of the first. Raises UserErrors for unknown names and unknown or invalid options.
    """
    if isinstance(specs, (str, Mapping)) or not isinstance(specs, Sequence):
        raise UserError(f"data.augment: {short_repr(specs)}; needs a list: [{{crop: 2}}, flip]")
    return [_make(spec) for spec in specs]


def check_fits(augmentations: Sequence[Augmentation], x_shape: Sequence[int], t: Tensor) -> None:
    """Raise UserError where samples of shape `x_shape` are not images that an augmentation needs, or t cannot be mixed."""
    for f in augmentations:
        if f.of_images and len(x_shape) < 2:
            raise UserError(f"data.augment.{f.name}: a sample is {tuple(x_shape)}; needs images (..., h, w): remove it")
        if isinstance(f, Mixup) and not t.is_floating_point():
            raise UserError("data.augment.mixup: mixes targets, and class indices cannot be mixed; set data.targets=onehot")


def spec(augmentation: Any) -> Any:
    """Return an augmentation as a configuration writes it: a name, or {name: options}."""
    (made,) = make([augmentation])
    if type(made) is not AUGMENTATIONS.get(made.name):
        raise UserError(f"data.augment: {type(made).__name__} is your own, which a file cannot hold")
    options = {f.name: getattr(made, f.name) for f in fields(made) if getattr(made, f.name) != f.default}
    return {made.name: options} if options else made.name


def _make(spec: Any) -> Augmentation:
    if isinstance(spec, Augmentation):
        return spec
    named = spec if isinstance(spec, Mapping) else {spec: {}}
    name, options = next(iter(named.items())) if len(named) == 1 else (None, {})
    if not isinstance(name, str):
        raise UserError(f"data.augment: {short_repr(spec)}; needs one name with its options, {{crop: 2}}")
    if name not in AUGMENTATIONS:
        raise UserError(f"data.augment: no augmentation {name!r}{suggest(name, AUGMENTATIONS)}")
    cls: Any = AUGMENTATIONS[name]
    known, hints, place = {f.name: f for f in fields(cls)}, get_type_hints(cls), f"data.augment.{name}"
    given = dict(options) if isinstance(options, Mapping) else {} if options is None else {next(iter(known)): options}
    errors = [f"{place}: no option {short_repr(k)}{suggest(str(k), known)}" for k in given if k not in known]
    errors += [f"{place}: needs {k}" for k, f in known.items() if f.default is MISSING and k not in given]
    for key, value in given.items():
        if key in known:
            errors += check_value(value, hints[key], f"{place}.{key}")
    if errors:
        raise UserErrors(errors)
    made: Augmentation = cls(**given)
    return made


# -- images ----------------------------------------------------------------------------------------------------------------


def grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the column of each pixel of images (k, ..., h, w): (1, h, 1) and (1, 1, w) int64."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    return rows[None, :, None], columns[None, None, :]


def pick(x: Tensor, rows: Tensor, columns: Tensor, fill: float) -> Tensor:
    """Return x (k, ..., h, w) at the pixels (rows, columns), which broadcast to (k, h, w); `fill` outside of the image."""
    h, w = x.shape[-2:]
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    at = (rows.clamp(0, h - 1) * w + columns.clamp(0, w - 1)).view(len(x), 1, h * w)
    flat = x.reshape(len(x), -1, h * w)
    picked = flat.gather(2, at.expand(flat.shape)).masked_fill_(~inside.view(len(x), 1, h * w), fill)
    return picked.view(x.shape)


def bilinear(x: Tensor, rows: Tensor, columns: Tensor, fill: float) -> Tensor:
    """Return x (k, ..., h, w) between its pixels, at real places (rows, columns), which broadcast to (k, h, w).

    With f = i - ⌊i⌋ and g = j - ⌊j⌋: (1 - f)((1 - g) x₀₀ + g x₀₁) + f((1 - g) x₁₀ + g x₁₁).
    """
    size = len(x), *x.shape[-2:]
    rows, columns = rows.expand(size), columns.expand(size)
    top, left = rows.floor(), columns.floor()
    shape = (len(x), *[1] * (x.dim() - 3), *size[1:])
    f, g = ((v - low).to(x.dtype).view(shape) for v, low in ((rows, top), (columns, left)))
    i, j = top.long(), left.long()
    upper = (1 - g) * pick(x, i, j, fill) + g * pick(x, i, j + 1, fill)
    lower = (1 - g) * pick(x, i + 1, j, fill) + g * pick(x, i + 1, j + 1, fill)
    return (1 - f) * upper + f * lower


QUANTILES = 1 << 14  # equally likely shares that `Mixup` draws from


@cache
def beta_quantiles(alpha: float) -> Tensor:
    """Return QUANTILES quantiles of Beta(alpha, alpha), float64, by numerical integration.

    For alpha < 1 over s = l^alpha, where the density has no pole: (l (1 - l))^(alpha - 1) dl = (1 - l)^(alpha - 1) ds / alpha.
    The half above 1/2 mirrors the half below.
    """
    power = min(alpha, 1.0)
    s = np.linspace(0, 0.5**power, 1 << 17)
    l = ((s[1:] + s[:-1]) / 2) ** (1 / power)  # noqa: E741
    density = (1 - l) ** (alpha - 1) if alpha < 1 else (4 * l * (1 - l)) ** (alpha - 1)
    mass = np.concatenate([[0.0], np.cumsum(density)])
    probability = (np.arange(QUANTILES // 2) + 0.5) / QUANTILES
    half = np.interp(probability, mass / (2 * mass[-1]), s) ** (1 / power)
    return torch.from_numpy(np.concatenate([half, 1 - half[::-1]]))
