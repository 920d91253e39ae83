"""Many training steps as replays of one, captured in a CUDA graph: a launch where an eager step is some thirty.

The step is eager's own, on tensors that stay where they are; it counts itself on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.layers.container import Recompute, active_generators

from .multi_step import MultiStepEngine

WARM = 3  # steps before the capture, in which libraries and the allocator settle; torch's advice


class CudaGraphEngine(MultiStepEngine):
    """Raises UserError on another device than CUDA; whatever torch raises where a step cannot be captured, one that looks at a
    number, comes through."""

    kind = "captured"

    def build(self, order: Tensor) -> None:
        self.order = order.clone()
        self.first, self.at = torch.zeros(2, dtype=torch.int64, device=order.device).unbind(0)
        net = self.net.with_parameters(self.net.param())
        for _, m in net.modules():
            if isinstance(m, Recompute) and active_generators(m):
                m.recomputes = False  # its second pass would draw anew
        self.gradient, self.gradients = self.gradient_of(net), [g for _, g in self.optimizer.pairs]
        self.replay = captured(order.device, self._step, lambda: self.at.copy_(self.first), active_generators(self.net))

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        self.order.copy_(order)
        self.first.fill_(first)
        self.at.fill_(first)
        for _ in range(count):
            self.replay()
        return self.losses[:count].clone()

    def _step(self) -> None:
        o, place = self.optimizer, (self.at - self.first).view(1)
        o.prepare_grad()
        value = self.gradient(*self.batch(self.at, self.x, self.t, self.order))
        if self.clip is not None:
            self.clip(o.g, self.gradients)
        o.apply_update(o.p, o.g, o.slots, self.scalars(self.table.index_select(0, place).squeeze(0)))
        self.losses.index_copy_(0, place, value.unsqueeze(0))
        self.at.add_(1)


def captured(
    device: torch.device, step: Callable[[], None], begin: Callable[[], Any], generators: Iterable[torch.Generator]
) -> Callable[[], None]:
    """`step` as a function that replays it. begin: before it is tried; generators: those that it draws from.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs"""
    if device.type != "cuda":
        raise UserError(f"a CUDA graph needs trainer.device=cuda, and this is {device}")
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARM):
            begin()
            step()
    here.wait_stream(side)
    begin()
    graph = torch.cuda.CUDAGraph()
    for g in generators:
        graph.register_generator_state(g)
    with torch.cuda.graph(graph):
        step()
    return graph.replay
