"""A source of data for samples.yaml: a map-style dataset that draws random numbers when a sample is read."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

import trainkit


class Changing:
    """Images of 4 x 4, of class 1 if they are bright; each read scales an image by random numbers of all three generators."""

    def __init__(self, n: int) -> None:
        self.x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(n))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, bool]:
        scale = 1 + 0.1 * float(torch.rand(())) + 0.1 * random.random() + 0.1 * np.random.rand()  # noqa: NPY002
        return scale * self.x[i], bool(self.x[i].mean() > 0.5)


def changing_samples(n: int = 300, workers: int = 0) -> trainkit.Dataset:
    """Return n samples to train and n // 4 to test."""

    def moved(x: Tensor) -> Tensor:
        return x + 0.01 * torch.randn(1, 4, 4)

    return trainkit.samples(Changing(n), test=Changing(n // 4), workers=workers, transform=moved)
