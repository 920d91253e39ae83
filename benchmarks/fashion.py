"""Fashion-MNIST: seconds an epoch and the accuracy that they bring, trainkit beside others. `python benchmarks/fashion.py`

Needs the data: `make fashion-mnist`.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from contest import KERAS, Contender, contest, environment, installed, options, ratio, spread, table
from page import write
from task import Task

TASK = Task(sizes=(784, 256, 128, 100, 10), batch=128, rule="adam", lr=1e-3, data="fashion_mnist", samples=60_000)
EPOCHS, THREADS = 2, 2

CONTENDERS = (
    Contender("bare PyTorch loop (autograd, optim.Adam), batches cut from tensors", "loops:bare"),
    Contender("trainkit", "ours:fit"),  # options={"mode": "compile"} would be trainer.mode=compile
    Contender("the bare loop with torch.compile on the model", "loops:compiled"),
    Contender("the bare loop over DataLoader(TensorDataset)", "loops:loader"),
    Contender("Lightning {}, bare", "lightning:bare", "lightning"),
    Contender("Keras {} on torch, bare", "keras:bare", "keras", env=KERAS["torch"]),
    Contender("Keras {} on JAX, bare", "keras:bare", "keras", env=KERAS["jax"]),
    Contender("skorch {}, bare", "skorch:bare", "skorch"),
    Contender("scikit-learn {}: MLPClassifier (its own first weights)", "sklearn:fit", "scikit-learn"),
    Contender("JAX {}: jit and scan over an epoch", "jax:scan", "jax"),
)


def main() -> None:
    args = options(__doc__, rounds=3)
    chosen = installed(CONTENDERS)
    warm = replace(TASK, samples=10 * TASK.batch + TASK.samples % TASK.batch)  # ends with the same short batch
    results = contest(chosen, TASK, EPOCHS, args.rounds, THREADS, warm)
    times = [[r.seconds / EPOCHS for r in rs] for rs in results]
    accuracy = [100 * statistics.median(r.accuracy for r in rs if r.accuracy is not None) for rs in results]
    rows = [
        [name, spread(t, 2), ratio(t, times[0]), f"{a:.1f} %"] for name, t, a in zip(chosen, times, accuracy, strict=True)
    ]
    note = (
        f"Net {'-'.join(map(str, TASK.sizes))} with ReLU, cross entropy, Adam with rate {TASK.lr}, batch {TASK.batch}, {TASK.samples}"
        f" images, float32, CPU, {THREADS} threads for everybody; {args.rounds} rounds of {EPOCHS} epochs in turn, all from the same"
        f" first weights but where said. Tests are not timed. {environment()}"
    )
    text = table(("what", "seconds an epoch, median (min to max)", "ratio to the bare loop", "test accuracy"), rows, note)
    print(text)
    if args.write:
        write("fashion", text)


if __name__ == "__main__":
    main()
