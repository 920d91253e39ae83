"""An epoch of a fit that is given a DataLoader, against loops over that DataLoader itself. `python benchmarks/loader.py`"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO

import torch
from contest import environment, options, ratio, show, spread
from page import ROOT
from torch.utils.data import DataLoader, Dataset, TensorDataset

import trainkit

PAGE = ROOT / "docs" / "datasets.md"
EPOCHS = 3
SIZES = ((2_000, 20, 32), (20_000, 784, 128))  # samples, features, batch


class Pairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A map-style dataset over tensors."""

    def __init__(self, x: torch.Tensor, t: torch.Tensor) -> None:
        self.x, self.t = x, t

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i], self.t[i]


def iterate(loader: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    """Take the batches of EPOCHS epochs, and do nothing with them."""
    for _ in range(EPOCHS):
        for _ in loader:
            pass


def train(loader: DataLoader[tuple[torch.Tensor, ...]], features: int) -> None:
    """The bare loop: torch.nn, autograd and torch.optim."""
    net = torch.nn.Sequential(torch.nn.Linear(features, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    optimizer, loss = torch.optim.SGD(net.parameters(), lr=0.1), torch.nn.CrossEntropyLoss()
    for _ in range(EPOCHS):
        for x, t in loader:
            optimizer.zero_grad()
            loss(net(x), t).backward()
            optimizer.step()


def fit(loader: DataLoader[tuple[torch.Tensor, ...]], features: int) -> None:
    """A complete fit of the same net, final evaluation included."""
    net = trainkit.Sequential(trainkit.Linear(features, 32), trainkit.ReLU(), trainkit.Linear(32, 2))
    trainer = trainkit.Trainer(max_epochs=EPOCHS, threads=1, device="cpu")
    with redirect_stderr(StringIO()):
        trainer.fit(net, trainkit.CrossEntropyLoss(), trainkit.SGD(net.param(), lr=0.1), loader)


def main() -> None:
    rounds, page = options(__doc__, rounds=7)
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    rows = []
    for n, features, batch in SIZES:
        x, t = torch.randn(n, features, generator=g), torch.randint(2, (n,), generator=g)
        memory = DataLoader(TensorDataset(x, t), batch, shuffle=True)
        one_by_one = DataLoader(Pairs(x, t), batch, shuffle=True)
        contenders: dict[str, Callable[[], None]] = {
            "loop over DataLoader(TensorDataset), no training": lambda memory=memory: iterate(memory),
            "bare PyTorch loop over it": lambda memory=memory, k=features: train(memory, k),
            "trainkit, fit(..., that DataLoader)": lambda memory=memory, k=features: fit(memory, k),
            "trainkit, fit(..., DataLoader of a map-style dataset)": lambda loader=one_by_one, k=features: fit(loader, k),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for i in range(rounds + 1):
            for name, run in contenders.items():
                begin = time.perf_counter()
                run()
                if i:  # the first round warms up
                    times[name].append((time.perf_counter() - begin) / EPOCHS * 1000)
            print(f"  {n} x {features}: round {i}", file=sys.stderr)
        base = next(iter(times.values()))
        rows += [[name, f"{n:,} x {features}, batch {batch}", spread(v), ratio(v, base)] for name, v in times.items()]
    header = ("contender", "data", "ms per epoch, median (min to max)", "ratio to the loop without training")
    note = (
        f"A net of two linear layers, 32 wide. {rounds} rounds in turn of {EPOCHS} epochs; a fit with its preparation and final"
        f" evaluation. {environment(1)}"
    )
    show("loader", header, rows, note, page and PAGE)


if __name__ == "__main__":
    main()
