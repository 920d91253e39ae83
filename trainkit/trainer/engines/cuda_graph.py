"""Many training steps as replays of one that is captured in a CUDA graph: one launch where an eager step needs about thirty.

The step is the eager one, on tensors at fixed addresses. Its number is counted on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.layers.container import Recompute, active_generators

from .multi_step import MultiStepEngine

WARM = 3  # steps before the capture, to initialize libraries and the allocator, as torch advises


class CudaGraphEngine(MultiStepEngine):
    """Replays of a captured step. Raises UserError if the device is not a CUDA device.

    Errors of torch's capture are passed on, such as the error for a step that reads a number on the host.
    """

    name = "graph"
    adjective = "captured"

    def build(self, order: Tensor) -> None:
        self.order = order.clone()
        self.first, self.at = torch.zeros(2, dtype=torch.int64, device=order.device).unbind(0)
        net = self.net.with_parameters(self.net.param())
        for _, m in net.modules():
            if isinstance(m, Recompute) and active_generators(m):
                m.recomputes = False  # its second pass would draw other masks
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
    """Return a function that replays `step`. begin: called before each trial step; generators: those that the step draws from.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    if device.type != "cuda":
        raise UserError(f"a CUDA graph needs trainer.device=cuda (got {device})")
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
