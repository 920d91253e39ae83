"""Many training steps as replays of one, captured in a CUDA graph: a launch where an eager step is some thirty.

The step is eager's own, on tensors that stay where they are; it counts itself on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .errors import UserError
from .lend import lent
from .many import Many

WARM = 3  # steps before the capture, in which libraries and the allocator settle; torch's advice


class Graphed(Many):
    """Construction captures a step, and checks a replay against eager. Raises UserError on another device than CUDA, or where
    a replay differs; whatever torch raises where a step cannot be captured (a look at a number, say) comes through.
    """

    kind = "captured"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.order, self.at = self.some_order.clone(), self.first.clone()
        back = self.undo()
        self.loans = self.passing_once(lambda m: bool(m.drawn_from()))
        try:
            self.replay = captured(self.x.device, self._step, lambda: self.at.copy_(self.first), self.generators())
        finally:
            back()
        self.check(back)

    def run(self, order: Tensor, count: int) -> Tensor:
        self.order.copy_(order)
        self.at.copy_(self.first)
        for _ in range(count):
            self.replay()
        return self.losses[:count].clone()

    def _step(self) -> None:
        o, place = self.optimizer, (self.at - self.first).view(1)
        o.begin()
        with lent(self.loans):
            value = self.gradient(*self.batch(self.at, self.x, self.t, self.order))
        if (clip := self.clip()) is not None:
            clip()
        now = self.numbers(self.table.index_select(0, place).squeeze(0))
        with lent([((vars(o), name), v) for name, v in now.items()]):
            o.apply()
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
