"""Microseconds a training step: trainkit beside a bare PyTorch loop, on the reports' net. `python benchmarks/step.py`

The contenders take turns, round by round, in one process on one thread; the table shows each one's median and the median of its
ratio to the bare loop of the same round, since the speed of a shared machine drifts. `--write` puts the table into
docs/benchmarks.md and the README.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from trainkit import disk  # noqa: E402
from trainkit.build import build  # noqa: E402
from trainkit.config import compose, resolve  # noqa: E402
from trainkit.data.normalize import Normalizer  # noqa: E402

CONF = ROOT / "conf" / "mlp.yaml"
BATCH, LR, MOMENTUM = 50, 0.1, 0.9
Contender = Callable[[int], float]  # epochs -> microseconds a step


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


def torch_net() -> torch.nn.Sequential:
    n = torch.nn
    return n.Sequential(n.Linear(2, 25), n.ReLU(), n.Linear(25, 25), n.ReLU(), n.Linear(25, 25), n.ReLU(), n.Linear(25, 2))


def points() -> tuple[torch.Tensor, torch.Tensor]:
    data = disk(train=900)
    part = Normalizer.fit(data).apply(data.train)
    return part.x, part.t


def bare_loop(epochs: int) -> float:
    """What one writes by hand with autograd: no validation, no logging, no checkpoints."""
    net, loss, (x, t) = torch_net(), torch.nn.CrossEntropyLoss(), points()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    steps = 0
    began = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for xi, ti in zip(x[order].split(BATCH), t[order].split(BATCH), strict=True):
            optimizer.zero_grad()
            loss(net(xi), ti).backward()
            optimizer.step()
            steps += 1
    return (time.perf_counter() - began) / steps * 1e6


def lightning_full(epochs: int) -> float:
    """Lightning with most of what conf/mlp.yaml asks of trainkit; no schedule, no CSV, no bar."""
    import lightning
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = torch_net(), torch.nn.CrossEntropyLoss()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            loss = self.loss(self.net(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
            self.log("val/loss", self.loss(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM)

    x, t = points()
    train, val = TensorDataset(x, t), TensorDataset(x[:100], t[:100])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), open(os.devnull, "w") as n, redirect_stderr(n):
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=TensorBoardLogger(folder),
            callbacks=[EarlyStopping("val/loss", patience=10**6), ModelCheckpoint(folder, monitor="val/loss", save_last=True)],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        began = time.perf_counter()
        trainer.fit(Net(), DataLoader(train, BATCH, shuffle=True), DataLoader(val, 100))
        return (time.perf_counter() - began) / trainer.global_step * 1e6


def contenders() -> dict[str, tuple[Contender, float]]:
    """Name -> (contender, its share of the epochs: the slow ones run fewer)."""
    bare = ("callbacks={}", "data.train=900")  # as many as a split leaves the others
    chosen: dict[str, tuple[Contender, float]] = {
        "bare PyTorch loop (autograd, optim.SGD)": (bare_loop, 1.0),
        "trainkit, no callbacks": (trainkit(*bare), 1.0),
        "trainkit, all callbacks of conf/mlp.yaml": (trainkit(), 1.0),
        "trainkit, 30 replicas, no callbacks, a model": (trainkit(*bare, "trainer.replicas=30", models=30), 0.3),
    }
    try:
        chosen[f"Lightning {version('lightning')}: validation, early stopping, checkpoints, TensorBoard"] = (
            lightning_full,
            0.1,
        )
    except PackageNotFoundError:
        print("skipped: lightning is not installed (pip install -e '.[bench]')", file=sys.stderr)
    return chosen


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
        head = "# Measured speed\n\nWritten by `make bench`. The bare loop neither validates nor logs nor saves.\n\n"
        (ROOT / "docs" / "benchmarks.md").write_text(f"{head}{text}\n")
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition("<!-- speed -->\n")
        _, _, after = rest.partition("<!-- /speed -->")
        readme.write_text(f"{before}<!-- speed -->\n{text}\n<!-- /speed -->{after}")


if __name__ == "__main__":
    main()
