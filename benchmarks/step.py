"""Microseconds per training step of the reports' net, in trainkit, a bare PyTorch loop and others. `python benchmarks/step.py`

`--write` puts the table into docs/benchmarks.md and the README.
"""

from __future__ import annotations

import os

from contest import KERAS, Contender, contest, environment, installed, options, ratio, show, spread
from page import ROOT
from task import Task

TASK = Task(sizes=(2, 25, 25, 25, 2), batch=50, rule="sgd", lr=0.1, data="disk", samples=900)
REPLICAS, EPOCHS = 30, 100
EXTRAS = "validation, early stopping, checkpoints"
ALONE = {"overrides": ("callbacks={}", "data.train=900")}  # as many as validation_split leaves for training
MANY = {"overrides": (*ALONE["overrides"], f"trainer.replicas={REPLICAS}"), "models": REPLICAS}
CORES = {"OMP_NUM_THREADS": str(os.cpu_count())}
ALL = {"overrides": ("callbacks.early_stopping.patience=1000000",)}

CONTENDERS = (
    Contender("bare PyTorch loop (autograd, optim.SGD)", "loops:bare"),
    Contender("trainkit, eager, no callbacks", "ours:conf", options=ALONE),
    Contender("trainkit, eager, all callbacks of conf/mlp.yaml", "ours:conf", options=ALL),
    Contender(f"trainkit, eager, {REPLICAS} replicas, no callbacks, per model", "ours:conf", share=0.3, options=MANY),
    Contender("trainkit, native, no callbacks", "ours:conf", share=10, options={**ALONE, "engine": "native"}),
    Contender("trainkit, native, all callbacks of conf/mlp.yaml", "ours:conf", share=10, options={**ALL, "engine": "native"}),
    Contender(f"trainkit, native, {REPLICAS} replicas, per model", "ours:conf", options={**MANY, "engine": "native"}),
    Contender("the bare loop with optim.SGD(fused=True)", "loops:bare", options={"fused": True}),
    Contender("the bare loop with torch.compile on the model", "loops:compiled"),
    Contender(f"the bare loop with torch's own number of threads, {CORES['OMP_NUM_THREADS']}", "loops:bare", env=CORES),
    Contender(
        "trainkit, eager, no callbacks, default number of threads (it chooses one for small tensors)",
        "ours:conf",
        env=CORES,
        options=ALONE,
    ),
    Contender("Lightning {}, bare", "lightning:bare", "lightning", 0.2),
    Contender(f"Lightning {{}}: {EXTRAS}, TensorBoard", "lightning:full", "lightning", 0.1),
    Contender("Keras {} on torch, bare", "keras:bare", "keras", 0.1, KERAS["torch"]),
    Contender(f"Keras {{}} on torch: {EXTRAS}; no TensorBoard", "keras:full", "keras", 0.1, KERAS["torch"]),
    Contender("Keras {} on JAX, bare", "keras:bare", "keras", 0.2, KERAS["jax"]),
    Contender(f"Keras {{}} on JAX: {EXTRAS}; no TensorBoard", "keras:full", "keras", 0.2, KERAS["jax"]),
    Contender("skorch {}, bare", "skorch:bare", "skorch", 0.2),
    Contender(f"skorch {{}}: {EXTRAS}, TensorBoard", "skorch:full", "skorch", 0.2),
    Contender("scikit-learn {}: MLPClassifier", "sklearn:fit", "scikit-learn", 0.5),
    Contender("numba {}: plain loops", "numba:loops", "numba"),
    Contender("JAX {}: jit of a step", "jax:step", "jax"),
    Contender("JAX {}: jit and scan over an epoch", "jax:scan", "jax"),
    Contender(f"JAX {{}}: vmap and scan, {REPLICAS} models, per model", "jax:scan", "jax", 0.3, options={"models": REPLICAS}),
    Contender("the multiply-adds of the step's products alone, in registers", "peak:registers"),
)
README = ("bare PyTorch", "trainkit", "early stopping", "MLPClassifier", "scan")  # the rows of its table


def main() -> None:
    rounds, page = options(__doc__, rounds=9)
    chosen = installed(CONTENDERS)
    times = [[r.seconds / r.steps * 1e6 for r in rs] for rs in contest(chosen, TASK, EPOCHS, rounds, 1, warm=TASK)]
    rows = [[name, spread(t), ratio(t, times[0])] for name, t in zip(chosen, times, strict=True)]
    header = ("contender", "us per step, median (min to max)", "ratio to the bare loop")
    note = (
        f"Net 2-25-25-25-2 with ReLU, cross entropy, SGD with momentum, batch {TASK.batch}, {TASK.samples} samples;"
        f" {rounds} rounds of {EPOCHS} epochs in turn, fewer for slow contenders, more for fast ones. {environment(1)}"
        " A step of trainkit is its share of a complete `fit`: preparation, validation, files and final evaluation included."
        " Each compiles before the measurement; trainkit then loads the library from its cache, in the measured time."
    )
    show("step", header, rows, note, page)
    if page is not None:
        show("speed", header, [row for row in rows if any(word in row[0] for word in README)], note, ROOT / "README.md")


if __name__ == "__main__":
    main()
