"""Forward and backward of each activation, and of the same torch.nn module with autograd. `python benchmarks/activations.py`"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from contest import environment, options, ratio, show, spread
from torch import Tensor

import trainkit
from trainkit import Module

SHAPES = ((50, 25), (128, 256), (768, 512))
SLICE = 0.02  # seconds per contender and round: short, so that both run at the same machine speed
CALLS = 3  # the minimum in a slice

MODULES: tuple[tuple[Module, torch.nn.Module], ...] = (
    (trainkit.Identity(), torch.nn.Identity()),
    (trainkit.ReLU(), torch.nn.ReLU()),
    (trainkit.LeakyReLU(), torch.nn.LeakyReLU()),
    (trainkit.Tanh(), torch.nn.Tanh()),
    (trainkit.Sigmoid(), torch.nn.Sigmoid()),
    (trainkit.ELU(), torch.nn.ELU()),
    (trainkit.GELU(), torch.nn.GELU()),
    (trainkit.GELU("tanh"), torch.nn.GELU("tanh")),
    (trainkit.SiLU(), torch.nn.SiLU()),
    (trainkit.Softplus(), torch.nn.Softplus()),
    (trainkit.Softmax(), torch.nn.Softmax(-1)),
    (trainkit.LogSoftmax(), torch.nn.LogSoftmax(-1)),
)


def by_hand(module: Module, x: Tensor, dy: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes dx as a training step does, in inference mode."""

    def both() -> Tensor:
        _, saved = module.fwd(x)
        return module.bwd(saved, dy)

    return torch.inference_mode()(both)


def by_autograd(module: torch.nn.Module, x: Tensor, dy: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes the same dx by `torch.autograd.grad`, autograd's fastest way: it adds to no buffer."""
    leaf = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(module(leaf), leaf, dy)[0]


def seconds(function: Callable[[], Tensor], calls: int) -> float:
    """Return the seconds per call, over `calls` calls."""
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls


def measure(pair: tuple[Module, torch.nn.Module], shape: tuple[int, ...], rounds: int) -> tuple[list[float], list[float]]:
    """Return the microseconds of forward and backward, trainkit's and torch's, in turn. The order changes with each round."""
    g = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=g) for _ in range(2))  # of both signs, like the output of a linear layer
    both = [by_hand(pair[0], x, dy), by_autograd(pair[1], x, dy)]
    for function in both:
        seconds(function, 10 * CALLS)
    calls = max(CALLS, round(SLICE / seconds(both[1], 10 * CALLS)))
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for k in (0, 1) if i % 2 else (1, 0):
            times[k].append(1e6 * seconds(both[k], calls))
    return times


def main() -> None:
    rounds, page = options(__doc__, rounds=25)
    torch.set_num_threads(1)
    rows = []
    for pair in MODULES:
        times = [measure(pair, shape, rounds) for shape in SHAPES]
        rows.append([repr(pair[0]), *(cell for ours, theirs in times for cell in (spread(ours), ratio(ours, theirs)))])
    header = ["module", *(cell for n, m in SHAPES for cell in (f"us, {n} x {m}", "ratio"))]
    note = (
        "Forward and backward of normally distributed inputs: us per pair of calls of trainkit, median (min to max), and the"
        f" ratio to torch.nn with autograd; {rounds} rounds of {1e3 * SLICE:.0f} ms in turn. {environment(1)}"
    )
    show("activations", header, rows, note, page)


if __name__ == "__main__":
    main()
