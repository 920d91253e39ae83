"""Microseconds a training step: trainkit beside a bare PyTorch loop, on the reports' net. `python benchmarks/step.py`

The contenders take turns, round by round, in one process on one thread; the table shows each one's median and the median of its
ratio to the bare loop of the same round, since the speed of a shared machine drifts. `--write` puts the table into
docs/benchmarks.md and the README.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")  # JAX on one thread too
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from page import write  # noqa: E402
from peers import BATCH, REPLICAS, Contender, bare_loop, peers  # noqa: E402

from trainkit.build import build  # noqa: E402
from trainkit.config import compose, resolve  # noqa: E402

CONF = ROOT / "conf" / "mlp.yaml"
NOT_IN_README = ("skorch", "torch.compile", "jit of a step")  # the page of the benchmarks has them


def trainkit(*overrides: str, models: int = 1) -> Contender:
    """A whole fit of conf/mlp.yaml, preparation and final evaluation included, for each model."""

    def run(epochs: int) -> float:
        config = resolve(
            compose([CONF], [f"trainer.max_epochs={epochs}", "callbacks.early_stopping.patience=1000000", *overrides])
        )
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null, redirect_stderr(null):
            parts = build(config)
            trainer = parts.trainer(run_dir=folder if parts.callbacks else None)
            optimizer, data = parts.optimizer(parts.net), parts.data()
            began = time.perf_counter()
            summary = trainer.fit(parts.net, parts.loss, optimizer, data)
            return (time.perf_counter() - began) / summary["step"] / models * 1e6

    return run


def contenders() -> dict[str, tuple[Contender, float]]:
    """Name -> (contender, its share of the epochs: the slow ones run fewer)."""
    bare = ("callbacks={}", "data.train=900")  # as many as a split leaves the others
    chosen: dict[str, tuple[Contender, float]] = {
        "bare PyTorch loop (autograd, optim.SGD)": (bare_loop, 1.0),
        "trainkit, no callbacks": (trainkit(*bare), 1.0),
        "trainkit, all callbacks of conf/mlp.yaml": (trainkit(), 1.0),
        f"trainkit, {REPLICAS} replicas, no callbacks, a model": (
            trainkit(*bare, f"trainer.replicas={REPLICAS}", models=REPLICAS),
            0.3,
        ),
    }
    return chosen | peers()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--epochs", type=int, default=100)
    p.add_argument("--write", action="store_true")
    args = p.parse_args()
    torch.set_num_threads(1)
    chosen = contenders()
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for r in range(args.rounds + 1):
        for name, (run, share) in chosen.items():
            took = run(max(2, round(args.epochs * share)))
            if r:  # the first round warms up
                times[name].append(took)
    base = next(iter(times.values()))
    lines = [
        "| what | us a step, median (min to max) | ratio to the bare loop |",
        "|---|---|---|",
    ]
    for name, values in times.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        lines.append(f"| {name} | {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) | {ratio:.2f} |")
    lines += [
        "",
        f"Net 2-25-25-25-2 with ReLU, cross entropy, SGD with momentum, batch {BATCH}, 900 samples, float32, CPU, one thread;"
        f" {args.rounds} rounds of {args.epochs} epochs in turn. torch {torch.__version__}, Python {platform.python_version()},"
        f" {os.cpu_count()} cores, {platform.machine()}. A step of trainkit is a whole `fit`: preparation, validation, files"
        " and final evaluation divided by the steps.",
    ]
    text = "\n".join(lines)
    print(text)
    if args.write:
        write("step", text)
        ours = [line for line in lines[:-1] if not any(word in line for word in NOT_IN_README)]
        write("speed", "\n".join([*ours, lines[-1]]), ROOT / "README.md")


if __name__ == "__main__":
    main()
