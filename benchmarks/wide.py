"""A wide net, whose step is mostly matrix products: time, FLOP rate, memory. `python benchmarks/wide.py`"""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from contest import Contender, alone, contest, environment, installed, options, ratio, show, spread
from task import Task, resident

TASK = Task(sizes=(784, 2048, 2048, 2048, 10), batch=512, rule="sgd", lr=0.01, data="random", samples=6 * 512)
THREADS, MIB = 2, 2**20
PEAKS = 3  # the maximum number of rounds of the memory table, which starts a process for each
PRODUCTS = "its matrix products alone (torch.mm)"

CONTENDERS = (
    Contender("bare PyTorch loop (autograd, optim.SGD)", "loops:bare"),
    Contender("trainkit", "ours:fit"),
    Contender("trainkit, SGD(accumulate_into_momentum=True)", "ours:fit", options={"accumulate_into_momentum": True}),
    Contender("the bare loop with optim.SGD(fused=True)", "loops:bare", options={"fused": True}),
    Contender("the bare loop with torch.compile on the model", "loops:compiled"),
    Contender("JAX {}: jit of a step", "jax:step", "jax"),
    Contender(PRODUCTS, "loops:products"),
)


def flop() -> float:
    """Return the FLOP of a step's products: y = x wᵀ, dw = dyᵀ x and, except in the first layer, dx = dy w; 2 n in out each."""
    per_layer = [2 * TASK.batch * n * m for n, m in pairwise(TASK.sizes)]
    return 3 * sum(per_layer) - per_layer[0]


def peak(c: Contender) -> int:
    """Return the peak bytes of three steps, above the resident bytes after training a small net of the same kind."""
    c(replace(TASK, sizes=(8, 8, 8, 8, 2)), 1)  # loads code, starts threads
    before = resident("VmRSS")
    return c(replace(TASK, samples=3 * TASK.batch), 1).peak - before


def main() -> None:
    rounds, page = options(__doc__, rounds=9)
    chosen = installed(CONTENDERS)
    times = [[r.seconds / r.steps for r in rs] for rs in contest(chosen, TASK, 1, rounds, THREADS, warm=TASK)]
    rows = [
        [n, spread([1e3 * v for v in t]), ratio(t, times[0]), f"{flop() / statistics.median(t) / 1e9:.0f}", ratio(times[-1], t)]
        for n, t in zip(chosen, times, strict=True)
    ]
    header = (
        "contender",
        "ms per step, median (min to max)",
        "ratio to the bare loop",
        "GFLOP/s",
        "share of the rate of the products alone",
    )
    note = (
        f"Net {'-'.join(map(str, TASK.sizes))} with ReLU, cross entropy, SGD with momentum, batch {TASK.batch};"
        f" {rounds} rounds of {TASK.samples // TASK.batch} steps in turn; {flop() / 1e9:.1f} GFLOP of products per step."
        f" {environment(THREADS)}"
    )
    show("wide", header, rows, note, page)
    if resident("VmRSS"):
        memory({name: c for name, c in chosen.items() if name != PRODUCTS}, min(rounds, PEAKS), page)


def memory(chosen: dict[str, Contender], rounds: int, page: Path | None) -> None:
    """Measure the peak memory of each contender, and print the table."""
    parameters = 4 * sum((n + 1) * m for n, m in pairwise(TASK.sizes))
    fixed = (2 * parameters + 3 * TASK.batch * (4 * TASK.sizes[0] + 8)) / MIB  # with momentum and data
    peaks = [[alone(c, THREADS, peak) / MIB for _ in range(rounds)] for c in chosen.values()]
    steps = [[v - fixed for v in p] for p in peaks]
    rows = [
        [n, spread(p), ratio(p, peaks[0]), spread(s), ratio(s, steps[0])] for n, p, s in zip(chosen, peaks, steps, strict=True)
    ]
    header = ("contender", "peak MiB", "ratio to the bare loop", "MiB of these for the step", "ratio to the bare loop")
    note = (
        "The peak resident memory of three steps, above that after a small net of the same kind, in a new process;"
        f" {rounds} rounds, median (min to max). For the step: without parameters, momentum and data"
        f" ({fixed:.0f} MiB)."
    )
    show("memory", header, rows, note, page)


if __name__ == "__main__":
    main()
