"""The reports' task: points of the unit square, class 1 inside a disk around its center."""

from __future__ import annotations

import math

import torch

from trainkit.core.errors import UserError
from trainkit.core.rng import generator
from trainkit.data.dataset import Dataset, Normalize, Split, Targets, encode

from .recorded import source

BALANCED = 1 / math.sqrt(2 * math.pi)  # pi r^2 = 1/2: half the points inside


@source
def disk(
    train: int = 1000,
    test: int = 1000,
    radius: float = BALANCED,
    targets: Targets = "index",
    off_value: float = 0.0,
    normalize: Normalize = "feature",
    seed: int = 0,
) -> Dataset:
    """Return uniform points in [0, 1]^2, labeled 1 if (x - 1/2)^2 + (y - 1/2)^2 < radius^2, else 0.

    seed: of the data only; the points do not depend on the run's seed. Source: five course reports that train on it.
    """
    if train < 1 or test < 0:
        raise UserError(f"data: train={train}, test={test}; train needs at least 1 sample, test at least 0")
    if not radius > 0:
        raise UserError(f"data.radius: {radius}; needs a length above 0")

    def points(n: int, split: str) -> Split:
        x = torch.rand(n, 2, generator=generator(seed, "disk", split), dtype=torch.float64)
        label = ((x - 0.5).square().sum(1) < radius**2).long()
        return Split(x.to(torch.get_default_dtype()), encode(label, 2, targets, off_value), label)

    angle = torch.linspace(0, 2 * math.pi, 201, dtype=torch.float64)
    return Dataset(
        train=points(train, "train"),
        test=points(test, "test") if test else None,
        classes=("outside", "inside"),
        threshold=(1.0 + off_value) / 2 if targets == "binary" else None,
        true_boundary=0.5 + radius * torch.stack([angle.cos(), angle.sin()], dim=1),
        normalize=normalize,
    )
