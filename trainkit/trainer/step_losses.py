"""The losses of the steps since the last fetch, on the device: fetching them waits for it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Fetched(NamedTuple):
    """A row per step: its loss per replica; its samples; their summed weights per replica, or None if all count alike."""

    losses: list[list[float]]
    samples: list[int]
    weights: list[list[float]] | None

    def counted(self) -> list[list[float]]:
        """Return the losses, with 0 for a step whose samples all have weight 0: its mean, 0 / 0, does not count."""
        if self.weights is None:
            return self.losses
        steps = zip(self.losses, self.weights, strict=True)
        return [[loss if weight else 0.0 for loss, weight in zip(*step, strict=True)] for step in steps]


class StepLosses:
    """Losses that stay on the device until `fetch`."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.counts: list[tuple[int, int]] = []  # for each tensor of losses: its steps, and the samples of each
        self.weights: list[Tensor] = []  # for each tensor of losses: the summed weights of the samples, if they have any

    def __bool__(self) -> bool:
        return bool(self.losses)

    def add(self, losses: Tensor, steps: int, samples: int, weight: Tensor | None) -> None:
        """Add the losses of `steps` steps of `samples` samples each: (steps,) or (steps, r); of an eager step () or (r,)."""
        self.losses.append(losses)
        self.counts.append((steps, samples))
        if weight is not None:
            self.weights.append(weight)

    def fetch(self, replica_dims: int, reduction: str) -> Fetched:
        """Return the losses in float64 as means over samples, and forget them. reduction: that of the loss."""
        samples = [n for steps, n in self.counts for _ in range(steps)]
        single = self.losses[0].dim() == replica_dims  # eager steps
        losses = (torch.stack if single else torch.cat)(self.losses).double().reshape(len(samples), -1)
        joined = (torch.stack if single else torch.cat)(self.weights) if self.weights else None
        weight = None if joined is None else joined.reshape(len(samples), -1).expand_as(losses)
        if reduction == "sum":
            counts = torch.tensor(samples, dtype=losses.dtype, device=losses.device).unsqueeze(1)
            losses /= counts if weight is None else weight
        self.losses, self.counts, self.weights = [], [], []
        return Fetched(losses.tolist(), samples, None if weight is None else weight.tolist())
