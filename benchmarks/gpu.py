"""Steps on a CUDA device: trainkit, eagerly and as replays of a graph, a bare PyTorch loop, JAX. `python benchmarks/gpu.py`

`--write` puts the table into docs/benchmarks.md. Needs a CUDA device.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from contest import Contender, contest, installed, options, ratio, show, spread
from task import Task

CUDA: dict[str, Any] = {"device": "cuda"}
GRAPH: dict[str, Any] = {**CUDA, "engine": "graph"}
REPLICAS = 30
MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # JAX takes three quarters of the device's memory otherwise

# Net, epochs of a round.
TASKS = {
    "2-25-25-25-2, batch 50": (Task((2, 25, 25, 25, 2), 50, "sgd", 0.1, "random", 5000), 3),
    "784-256-128-100-10, batch 128": (Task((784, 256, 128, 100, 10), 128, "sgd", 0.01, "random", 128 * 100), 3),
    "784-2048-2048-2048-10, batch 512": (Task((784, 2048, 2048, 2048, 10), 512, "sgd", 0.01, "random", 512 * 50), 4),
}
CONTENDERS = (
    Contender("bare PyTorch loop (autograd, optim.SGD)", "loops:bare", options=CUDA),
    Contender("the bare loop with optim.SGD(fused=True)", "loops:bare", options={**CUDA, "fused": True}),
    Contender(
        "the bare loop with torch.compile(mode='reduce-overhead') on the model",
        "loops:compiled",
        options={**CUDA, "mode": "reduce-overhead"},
    ),
    Contender("trainkit, engine eager", "ours:fit", options=CUDA),
    Contender("trainkit, engine graph", "ours:fit", options=GRAPH),
    Contender("trainkit, engine graph, precision bf16", "ours:fit", options={**GRAPH, "precision": "bf16"}),
    Contender(
        f"trainkit, engine graph, {REPLICAS} replicas, per model",
        "ours:fit",
        share=0.34,
        options={**GRAPH, "replicas": REPLICAS},
    ),
    Contender("JAX {}: jit of a step", "jax:step", "jax", env=MEMORY),
    Contender("JAX {}: jit and scan over an epoch", "jax:scan", "jax", env=MEMORY),
)


def main() -> None:
    rounds, page = options(__doc__, rounds=5)
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device")
    rows = []
    for name, (task, epochs) in TASKS.items():
        chosen = installed(c for c in CONTENDERS if task.sizes[1] < 2048 or "replicas" not in c.name)
        results = contest(chosen, task, epochs, rounds, 4, warm=replace(task, samples=task.batch * 10))
        times = [[r.seconds / r.steps * 1e6 for r in rs] for rs in results]
        rows += [[name, who, spread(t, 1), ratio(t, times[0], 3)] for who, t in zip(chosen, times, strict=True)]
    note = (
        f"Nets with ReLU, cross entropy, SGD with momentum, all data on the device; {rounds} rounds in turn. A step of"
        " trainkit is its share of the loop of a `fit` with no callbacks but a clock. Compilation and the capture of a graph"
        " are excluded. float32 without TF32 unless noted; JAX multiplies in TF32, its default."
        f" {torch.cuda.get_device_name()}. torch {version('torch')}, Python {platform.python_version()}."
    )
    show("gpu", ("net", "contender", "us per step, median (min to max)", "ratio to the bare loop"), rows, note, page)


if __name__ == "__main__":
    main()
