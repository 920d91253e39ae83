"""A wide net, where the matrix products are the step: time, share of the products' rate, memory. `python benchmarks/wide.py`"""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from contest import Contender, alone, contest, environment, installed, options, ratio, show, spread
from task import Task, resident

TASK = Task(sizes=(784, 2048, 2048, 2048, 10), batch=512, rule="sgd", lr=0.01, data="random", samples=6 * 512)
THREADS, MIB = 2, 2**20
PEAKS = 3  # rounds of the memory's table at most: a process for each
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
    """Of the products of a step: y = x wᵀ, dw = dyᵀ x and, but for the first layer, dx = dy w; 2 n in out each."""
    each = [2 * TASK.batch * n * m for n, m in pairwise(TASK.sizes)]
    return 3 * sum(each) - each[0]


def peak(c: Contender) -> int:
    """Bytes at the peak of three steps above what is resident when a small net of the same kind has been trained."""
    c(replace(TASK, sizes=(8, 8, 8, 8, 2)), 1)  # loads code, makes threads
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
    header = ("what", "ms a step, median (min to max)", "ratio to the bare loop", "GFLOP/s", "share of the products' rate")
    note = (
        f"Net {'-'.join(map(str, TASK.sizes))} with ReLU, cross entropy, SGD with momentum, batch {TASK.batch};"
        f" {rounds} rounds of {TASK.samples // TASK.batch} steps in turn; {flop() / 1e9:.1f} GFLOP of products a step."
        f" {environment(THREADS)}"
    )
    show("wide", header, rows, note, page)
    if resident("VmRSS"):
        memory({name: c for name, c in chosen.items() if name != PRODUCTS}, min(rounds, PEAKS), page)


def memory(chosen: dict[str, Contender], rounds: int, page: Path | None) -> None:
    parameters = 4 * sum((n + 1) * m for n, m in pairwise(TASK.sizes))
    held = (2 * parameters + 3 * TASK.batch * (4 * TASK.sizes[0] + 8)) / MIB  # with momentum and data
    peaks = [[alone(c, THREADS, peak) / MIB for _ in range(rounds)] for c in chosen.values()]
    steps = [[v - held for v in p] for p in peaks]
    rows = [
        [n, spread(p), ratio(p, peaks[0]), spread(s), ratio(s, steps[0])] for n, p, s in zip(chosen, peaks, steps, strict=True)
    ]
    header = ("what", "MiB at the peak", "ratio to the bare loop", "MiB of these for the step", "ratio to the bare loop")
    note = (
        "The most resident memory in three steps, above what is resident after a small net of the same kind, in a"
        f" process for each; {rounds} times, median (min to max). For the step: without parameters, momentum and data"
        f" ({held:.0f} MiB)."
    )
    show("memory", header, rows, note, page)


if __name__ == "__main__":
    main()
