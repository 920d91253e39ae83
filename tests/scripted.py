"""Runs of a net with one weight, whose metric `score` is a script; and what is in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainkit import SGD, Callback, Dataset, Linear, MSELoss, Sequential, Trainer, tensors
from trainkit.checkpoint import file as checkpoint
from trainkit.trainer.session import Session


class Script(Callback):
    """Logs `score` at an epoch's end, and remembers the weight there."""

    def __init__(self, script: Sequence[Any]) -> None:
        self.script = script
        self.weights: list[float] = []

    def on_train_epoch_end(self, session: Session) -> None:
        session.log("score", self.script[session.progress.epoch])
        self.weights.append(session.net.param()[0][0].flatten()[0].item())


def line() -> Dataset:
    x = torch.linspace(-1, 1, 6).unsqueeze(1)
    return tensors(x, 2 * x)


def run(
    folder: Path, script: Sequence[Any], *callbacks: Callback, resume: bool = False, **how: Any
) -> tuple[Trainer, list[float]]:
    """Epochs of three steps, one for each entry of the script."""
    net = Sequential(Linear(1, 1, bias=False)).initialize(torch.Generator().manual_seed(0))
    scripted = Script(script)
    settings = {"max_epochs": len(script), "batch_size": 2, "device": "cpu", "run_dir": folder}
    trainer = Trainer(**settings | how, callbacks=[*callbacks, scripted])
    content = checkpoint.load(folder / "checkpoints" / "last.pt") if resume else None
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), line(), resume=content)
    return trainer, scripted.weights


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def weight(folder: Path, name: str) -> float:
    return checkpoint.load(folder / "checkpoints" / name)["model"]["0.weight"].flatten()[0].item()


def score_of(folder: Path, name: str) -> Any:
    return checkpoint.load(folder / "checkpoints" / name)["metrics"]["score"][0]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "checkpoints").iterdir()}


def but_gone(folder: Path) -> dict[str, bytes]:
    """The files without the list of those that are to be deleted: it depends on when a run was saved last."""
    found = {}
    for path in (folder / "checkpoints").iterdir():
        content = checkpoint.load(path)
        content["callbacks"]["checkpoint"]["gone"] = []
        found[path.name] = checkpoint.dump(content)
    return found
