"""How exact a resume is elsewhere: `python benchmarks/resume_peer.py` (extra `bench`).

Four epochs with shuffled data and dropout. A checkpoint is taken at the end of epoch 2 and one inside epoch 3; the script then
begins anew, with the same seed, as a user's would in a new process, and resumes. What is printed is the largest difference
between the parameters at the end and those of the uninterrupted run, beside the largest step that a parameter went in all.
`trainkit verify-resume CONF` makes the trial for trainkit, with processes that are killed.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import trainkit
from trainkit.checkpoint import plain

EPOCHS, SAMPLES, BATCH, WIDTH, P, LR = 4, 900, 50, 25, 0.3, 0.1
EACH = SAMPLES // BATCH
END, INSIDE = 2 * EACH, 2 * EACH + 7
STOPS = {f"the end of epoch 2 (step {END})": END, f"inside epoch 3 (step {INSIDE})": INSIDE}


def points() -> tuple[Tensor, Tensor]:
    x = torch.rand(SAMPLES, 2, generator=torch.Generator().manual_seed(0))
    return x, ((x - 0.5).square().sum(1) < 0.16).long()


class Net(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.net = nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU(), nn.Dropout(P), nn.Linear(WIDTH, 2))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), LR, momentum=0.9)


def of_lightning(folder: Path, resume: Path | None = None) -> tuple[Tensor, Tensor]:
    """The parameters at the beginning and at the end."""
    lightning.seed_everything(0, verbose=False)
    net = Net()
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    saves: list[Any] = []
    if resume is None:
        saves = [
            ModelCheckpoint(folder, "{step}", every_n_epochs=2, save_on_train_epoch_end=True, save_top_k=-1),
            ModelCheckpoint(folder, "{step}", every_n_train_steps=INSIDE, save_top_k=-1),
        ]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": bool(saves)}
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=saves, **quiet)
    trainer.fit(net, DataLoader(TensorDataset(*points()), BATCH, shuffle=True), ckpt_path=resume)
    return before, torch.nn.utils.parameters_to_vector(net.parameters()).detach()


class Keep(trainkit.Callback):
    """A snapshot after each step that is asked for, once its epoch has ended where it ends there."""

    def __init__(self) -> None:
        self.at: dict[int, dict[str, Any]] = {}

    def on_checkpoint(self, trainer: trainkit.Trainer) -> None:
        if trainer.state.step in STOPS.values():
            self.at[trainer.state.step] = plain(trainer.snapshot())


def of_trainkit(keep: Keep, resume: dict[str, Any] | None = None) -> tuple[Tensor, Tensor]:
    net = trainkit.Sequential(trainkit.Linear(2, WIDTH), trainkit.ReLU(), trainkit.Dropout(P), trainkit.Linear(WIDTH, 2)).draw(
        torch.Generator().manual_seed(0)
    )
    before = torch.cat([p.flatten() for p, _ in net.param()])
    trainer = trainkit.Trainer(max_epochs=EPOCHS, batch_size=BATCH, device="cpu", callbacks=[] if resume else [keep])
    optimizer = trainkit.SGD(net.param(), LR, momentum=0.9)
    trainer.fit(net, trainkit.CrossEntropyLoss(), optimizer, trainkit.tensors(*points()), resume=resume)
    return before, torch.cat([p.flatten() for p, _ in net.param()])


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print("| resumed from | Lightning " + version("lightning") + " | trainkit |\n|---|---|---|")
    keep = Keep()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start, whole = of_lightning(folder)
        ours_start, ours = of_trainkit(keep)
        again = of_lightning(folder / "again")[1], of_trainkit(Keep())[1]
        print(f"| nothing: the whole run again | {apart(again[0], whole):.2g} | {apart(again[1], ours):.2g} |")
        for words, step in STOPS.items():
            theirs = of_lightning(folder, folder / f"step={step}.ckpt")[1]
            mine = of_trainkit(keep, keep.at[step])[1]
            print(f"| {words} | {apart(theirs, whole):.2g} | {apart(mine, ours):.2g} |")
    print(f"\nLargest difference of a parameter at the end; the whole run moved one by {apart(whole, start):.2g}", end=" ")
    print(f"(Lightning) and {apart(ours, ours_start):.2g} (trainkit).")


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


if __name__ == "__main__":
    main()
