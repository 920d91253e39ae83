"""A stand-in for `CudaGraphEngine` that captures nothing: the loop around it is that of captured steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainkit.data.loader import batches


class Stepwise:
    """What `CudaGraphEngine` promises, by eager steps of the gradient and the clipping that it is given. `made` counts them."""

    name = "graph"
    adjective = "captured"
    takes_every_step = False
    made = 0

    def __init__(self, net: Any, optimizer: Any, gradient_of: Any, clip: Any, part: Any, size: int) -> None:
        type(self).made += 1
        self.optimizer, self.clip, self.part, self.size = optimizer, clip, part, size
        self.gradient = gradient_of(net)
        self.calls: list[int] = []

    def max_steps_per_call(self, count: int) -> int:
        return count

    def __call__(self, order: Tensor, first: int, count: int) -> Tensor:
        self.calls.append(count)
        some = zip(range(count), batches(self.part, order, self.size, first), strict=False)
        return torch.stack([self.step(x, t) for _, (x, t) in some])

    def step(self, x: Tensor, t: Tensor) -> Tensor:
        self.optimizer.prepare_grad()
        loss: Tensor = self.gradient(x, t)
        if self.clip is not None:
            self.clip(self.optimizer.g, [g for _, g in self.optimizer.pairs])
        self.optimizer.update()
        return loss
