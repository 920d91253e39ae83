"""Loops written by hand over torch: no validation, no logging, no checkpoints."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import torch
from task import Result, Stopwatch, Task
from torch.utils.data import DataLoader, TensorDataset


def bare(task: Task, epochs: int, net: torch.nn.Module | None = None, fused: bool | None = None, device: str = "cpu") -> Result:
    """Autograd, torch.optim, an epoch's samples gathered at once, all on one device."""
    net, loss, (x, t) = (net or task.net()).to(device), torch.nn.CrossEntropyLoss(), (v.to(device) for v in task.train())
    optimizer = task.optimizer(net.parameters(), fused)
    with Stopwatch() as watch:
        for _ in range(epochs):
            order = torch.randperm(len(x), device=device)
            for xi, ti in zip(x[order].split(task.batch), t[order].split(task.batch), strict=True):
                optimizer.zero_grad()
                loss(net(xi), ti).backward()
                optimizer.step()
    return task.result(watch, epochs, net)


def compiled(task: Task, epochs: int, mode: str | None = None, device: str = "cpu") -> Result:
    """The same with torch.compile on the model; its mode "reduce-overhead" replays CUDA graphs."""
    net, fast = compiled_net(task.sizes, mode)
    net.load_state_dict(task.net().state_dict())
    return bare(task, epochs, fast, device=device)


@cache
def compiled_net(sizes: tuple[int, ...], mode: str | None) -> tuple[Any, Any]:
    net = Task(sizes, 1, "sgd", 0.0, "random", 1).net()
    return net, torch.compile(net, mode=mode)


def loader(task: Task, epochs: int) -> Result:
    """As most people write it: DataLoader over a TensorDataset."""
    net, loss = task.net(), torch.nn.CrossEntropyLoss()
    optimizer = task.optimizer(net.parameters())
    batches = DataLoader(TensorDataset(*task.train()), task.batch, shuffle=True)
    with Stopwatch() as watch:
        for _ in range(epochs):
            for x, t in batches:
                optimizer.zero_grad()
                loss(net(x), t).backward()
                optimizer.step()
    return task.result(watch, epochs, net)


def products(task: Task, epochs: int) -> Result:
    """The matrix products of the steps and nothing else, into tensors that are there."""
    made = []
    for i, (n, m) in enumerate(pairwise(task.sizes)):
        x, w, y, dw = (torch.randn(s) for s in ((task.batch, n), (m, n), (task.batch, m), (m, n)))
        made += [(x, w.t(), y), (y.t(), x, dw)]  # y = x wᵀ, dw = dyᵀ x
        if i:
            made.append((y, w, torch.empty_like(x)))  # dx = dy w
    with Stopwatch() as watch:
        for _ in range(epochs * -(-task.samples // task.batch)):
            for a, b, out in made:
                torch.mm(a, b, out=out)
    return task.result(watch, epochs)
