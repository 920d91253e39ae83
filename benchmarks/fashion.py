"""Fashion-MNIST: seconds per epoch and accuracy of trainkit and others. `python benchmarks/fashion.py`

Needs the data: `make fashion-mnist`.
"""

from __future__ import annotations

from dataclasses import replace

from contest import KERAS, Contender, contest, environment, installed, options, ratio, show, spread
from page import ROOT
from task import Task

TASK = Task(sizes=(784, 256, 128, 100, 10), batch=128, rule="adam", lr=1e-3, data="fashion_mnist", samples=60_000)
EPOCHS, THREADS = 2, 2

CONTENDERS = (
    Contender("bare PyTorch loop (autograd, optim.Adam), batches cut from tensors", "loops:bare"),
    Contender("trainkit", "ours:fit"),
    Contender("trainkit, native", "ours:fit", options={"engine": "native"}),
    Contender("the bare loop with optim.Adam(fused=True)", "loops:bare", options={"fused": True}),
    Contender("the bare loop with torch.compile on the model", "loops:compiled"),
    Contender("the bare loop over DataLoader(TensorDataset)", "loops:loader"),
    Contender("Lightning {}, bare", "lightning:bare", "lightning"),
    Contender("Keras {} on torch, bare", "keras:bare", "keras", env=KERAS["torch"]),
    Contender("Keras {} on JAX, bare", "keras:bare", "keras", env=KERAS["jax"]),
    Contender("skorch {}, bare", "skorch:bare", "skorch"),
    Contender("scikit-learn {}: MLPClassifier (its own initial weights)", "sklearn:fit", "scikit-learn"),
    Contender("JAX {}: jit of a step", "jax:step", "jax"),
    Contender("JAX {}: jit and scan over an epoch", "jax:scan", "jax"),
)


def main() -> None:
    rounds, page = options(__doc__, rounds=7)
    if not (ROOT / ".data" / TASK.data).is_dir():
        raise SystemExit("skipped Fashion-MNIST, no data: make fashion-mnist")
    chosen = installed(CONTENDERS)
    warm = replace(TASK, samples=10 * TASK.batch + TASK.samples % TASK.batch)  # ends with the same short batch
    results = contest(chosen, TASK, EPOCHS, rounds, THREADS, warm)
    times = [[r.seconds / EPOCHS for r in rs] for rs in results]
    accuracy = [[100 * r.accuracy for r in rs if r.accuracy is not None] for rs in results]
    rows = [[n, spread(t, 2), ratio(t, times[0]), spread(a, 1)] for n, t, a in zip(chosen, times, accuracy, strict=True)]
    header = (
        "contender",
        "seconds per epoch, median (min to max)",
        "ratio to the bare loop",
        f"accuracy in % after {EPOCHS} epochs",
    )
    note = (
        f"Net {'-'.join(map(str, TASK.sizes))} with ReLU, cross entropy, Adam with rate {TASK.lr}, batch {TASK.batch},"
        f" {TASK.samples} images, all from the same initial weights unless noted; {rounds} rounds of {EPOCHS} epochs in turn."
        f" {environment(THREADS)} Only the training loops are timed, not the tests on 10,000 images."
    )
    show("fashion", header, rows, note, page)


if __name__ == "__main__":
    main()
