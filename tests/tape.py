"""What a CUDA graph promises, on any device: the kernels of a call, called again on the tensors that they were called on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class Tape(TorchDispatchMode):
    """Records inside. A replay reads and writes the same memory, but for what a kernel made: that is made anew. What Python
    computed beside, a count or a number taken from a tensor, stays as it was, as in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        now: dict[int, Tensor] = {}

        def current(value: Any) -> Any:
            return now.get(id(value), value) if isinstance(value, Tensor) else value

        for func, args, kwargs, made in self.calls:
            again = func(*tree_map(current, args), **tree_map(current, kwargs))
            now.update((id(old), new) for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True))

    @staticmethod
    def captured(device: torch.device, step: Callable[[], None], begin: Callable[[], Any], generators: Any) -> Any:
        """For `trainkit.trainer.engines.cuda_graph.captured`."""
        begin()
        step()
        begin()
        with Tape() as tape:
            step()
        return tape.replay
