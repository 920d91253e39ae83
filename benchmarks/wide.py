"""A wide net, where the matrix products are the step: time, share of the products' rate, memory. `python benchmarks/wide.py`"""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import pairwise

from contest import Contender, alone, contest, environment, installed, options, ratio, spread, table
from page import write
from task import Task, forget_peak, resident

TASK = Task(sizes=(784, 2048, 2048, 2048, 10), batch=512, rule="sgd", lr=0.01, data="random", samples=6 * 512)
THREADS, MIB = 2, 2**20
PRODUCTS = "its matrix products alone (torch.mm)"

CONTENDERS = (
    Contender("bare PyTorch loop (autograd, optim.SGD)", "loops:bare"),
    Contender("trainkit", "ours:fit"),
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
    forget_peak()
    return c(replace(TASK, samples=3 * TASK.batch), 1).peak - before


def main() -> None:
    args = options(__doc__, rounds=5)
    chosen = installed(CONTENDERS)
    times = [[r.seconds / r.steps for r in rs] for rs in contest(chosen, TASK, 1, args.rounds, THREADS, warm=TASK)]
    rows = []
    for name, t in zip(chosen, times, strict=True):
        rate = f"{flop() / statistics.median(t) / 1e9:.0f}"
        rows.append([name, spread([1e3 * v for v in t]), ratio(t, times[0]), rate, ratio(times[-1], t)])
    header = ("what", "ms a step, median (min to max)", "ratio to the bare loop", "GFLOP/s", "share of the products' rate")
    note = (
        f"Net {'-'.join(map(str, TASK.sizes))} with ReLU, cross entropy, SGD with momentum, batch {TASK.batch}, float32, CPU,"
        f" {THREADS} threads; {args.rounds} rounds of 6 steps in turn; {flop() / 1e9:.1f} GFLOP of products a step. {environment()}"
    )
    text = table(header, rows, note)
    print(text)
    if args.write:
        write("wide", text)

    if not resident("VmRSS"):
        return  # no /proc
    parameters = 4 * sum((n + 1) * m for n, m in pairwise(TASK.sizes))
    held = 2 * parameters + 3 * TASK.batch * (4 * TASK.sizes[0] + 8)  # with momentum and data
    peaks = {name: [alone(c, THREADS, peak) for _ in range(3)] for name, c in chosen.items() if name != PRODUCTS}
    base = next(iter(peaks.values()))
    rows = []
    for name, p in peaks.items():
        step = [v - held for v in p]
        rows.append([name, spread([v / MIB for v in p]), ratio(p, base), spread([v / MIB for v in step]), ratio(step, [v - held for v in base])])
    header = ("what", "MiB at the peak", "ratio to the bare loop", "MiB of these for the step", "ratio to the bare loop")
    note = (
        "The most resident memory during the first three steps, in a process for each, above what is resident after a small net of"
        f" the same kind; 3 times, median (min to max). For the step: without parameters, momentum and data ({held / MIB:.0f} MiB)."
    )
    text = table(header, rows, note)
    print(text)
    if args.write:
        write("memory", text)


if __name__ == "__main__":
    main()
