"""How exact a resume is in Lightning and in trainkit: `python benchmarks/resume.py` (extra `bench`).

Four epochs with shuffled data and dropout. A checkpoint is taken at the end of epoch 2 and one inside epoch 3; the script then
starts again with the same seed, as in a new process, and resumes. The table has the largest difference between the parameters
at the end and those of the uninterrupted run. `trainkit verify-resume CONF` tests trainkit with processes that are killed.
`--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from contest import missing, options, show
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import trainkit
from trainkit.checkpoint.plain import to_plain

EPOCHS, SAMPLES, BATCH, WIDTH, P, LR = 4, 900, 50, 25, 0.3, 0.1
EACH = SAMPLES // BATCH
END, INSIDE = 2 * EACH, 2 * EACH + 7
STOPS = {f"the end of epoch 2 (step {END})": END, f"inside epoch 3 (step {INSIDE})": INSIDE}


def points() -> tuple[Tensor, Tensor]:
    x = torch.rand(SAMPLES, 2, generator=torch.Generator().manual_seed(0))
    return x, ((x - 0.5).square().sum(1) < 0.16).long()


def of_lightning(folder: Path, resume: Path | None = None) -> tuple[Tensor, Tensor]:
    """Train with Lightning; return the parameters at the beginning and at the end."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # the import of Lightning sets it

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            nn = torch.nn
            self.net = nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU(), nn.Dropout(P), nn.Linear(WIDTH, 2))

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), LR, momentum=0.9)

    lightning.seed_everything(0, verbose=False)
    net = Net()
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    saves: list[Any] = []
    if resume is None:
        saves = [
            ModelCheckpoint(folder / "epochs", "{step}", every_n_epochs=1, save_on_train_epoch_end=True, save_top_k=-1),
            ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=1, save_top_k=-1),
        ]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": bool(saves)}
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=saves, **quiet)
    trainer.fit(net, DataLoader(TensorDataset(*points()), BATCH, shuffle=True), ckpt_path=resume)
    return before, torch.nn.utils.parameters_to_vector(net.parameters()).detach()


def saved(folder: Path, step: int) -> Path:
    """Return Lightning's checkpoint of a step. If an epoch ends there, it is the one of the epoch's end."""
    return folder / ("steps" if step % EACH else "epochs") / f"step={step}.ckpt"


class Keep(trainkit.Callback):
    """Keeps a snapshot after each of `steps`; if an epoch ends there, after the epoch's end."""

    def __init__(self, steps: Collection[int] = ()) -> None:
        self.steps = steps
        self.at: dict[int, dict[str, Any]] = {}

    def on_checkpoint(self, session: trainkit.Session) -> None:
        if session.progress.step in self.steps:
            self.at[session.progress.step] = to_plain(session.snapshot())


def of_trainkit(keep: Keep, resume: dict[str, Any] | None = None) -> tuple[Tensor, Tensor]:
    """Train with trainkit; return the parameters at the beginning and at the end."""
    net = trainkit.Sequential(
        trainkit.Linear(2, WIDTH), trainkit.ReLU(), trainkit.Dropout(P), trainkit.Linear(WIDTH, 2)
    ).initialize(torch.Generator().manual_seed(0))
    before = torch.cat([p.flatten() for p, _ in net.param()])
    trainer = trainkit.Trainer(max_epochs=EPOCHS, batch_size=BATCH, device="cpu", callbacks=[] if resume else [keep])
    optimizer = trainkit.SGD(net.param(), LR, momentum=0.9)
    trainer.fit(net, trainkit.CrossEntropyLoss(), optimizer, trainkit.tensors(*points()), resume=resume)
    return before, torch.cat([p.flatten() for p, _ in net.param()])


Pair = tuple[float, float]  # Lightning's and trainkit's


def trial(folder: Path, steps: Collection[int]) -> tuple[Pair, Pair, dict[int, Pair]]:
    """Return the largest change of a parameter in the run, and its difference in a repeated run and in each resumed run."""
    keep = Keep(steps)
    start, whole = of_lightning(folder)
    ours_start, ours = of_trainkit(keep)
    again = of_lightning(folder / "again")[1], of_trainkit(Keep())[1]
    resumed = {s: (of_lightning(folder, saved(folder, s))[1], of_trainkit(keep, keep.at[s])[1]) for s in steps}

    def both(theirs: Tensor, mine: Tensor) -> Pair:
        return float((theirs - whole).abs().max()), float((mine - ours).abs().max())

    return both(start, ours_start), both(*again), {step: both(*ends) for step, ends in resumed.items()}


def main() -> None:
    _, page = options(__doc__, rounds=1)
    if missing("lightning", "the comparison of resumed runs"):
        return
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        moved, again, resumed = trial(Path(name), list(STOPS.values()))
    ends = {"nothing: the run repeated": again, **{words: resumed[step] for words, step in STOPS.items()}}
    rows = [(words, f"{theirs:.2g}", f"{mine:.2g}") for words, (theirs, mine) in ends.items()]
    note = (
        "The largest difference of a final parameter from the uninterrupted run. Training changes a parameter by up to"
        f" {moved[0]:.2g} (Lightning) and {moved[1]:.2g} (trainkit)."
    )
    show("resume", ("resumed from", f"Lightning {version('lightning')}", "trainkit"), rows, note, page)


if __name__ == "__main__":
    main()
