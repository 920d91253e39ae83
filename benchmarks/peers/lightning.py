"""Lightning: https://lightning.ai/docs/pytorch/stable."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from task import Result, Stopwatch, Task
from torch.utils.data import DataLoader, TensorDataset


class Net(lightning.LightningModule):
    def __init__(self, task: Task, log: bool) -> None:
        super().__init__()
        self.net, self.loss, self.task, self.logs = task.net(), torch.nn.CrossEntropyLoss(), task, log

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = self.loss(self.net(batch[0]), batch[1])
        if self.logs:
            self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val/loss", self.loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.task.optimizer(self.parameters())


def bare(task: Task, epochs: int) -> Result:
    return train(task, epochs, None, logger=False, enable_checkpointing=False)


def full(task: Task, epochs: int) -> Result:
    """Most of what conf/mlp.yaml asks of trainkit; no schedule, no CSV, no bar."""
    x, t = task.train()
    with tempfile.TemporaryDirectory() as folder:
        stop, save = EarlyStopping("val/loss", patience=10**6), ModelCheckpoint(folder, monitor="val/loss", save_last=True)
        val = DataLoader(TensorDataset(x[:100], t[:100]), 100)
        return train(task, epochs, val, logger=TensorBoardLogger(folder), callbacks=[stop, save])


def train(task: Task, epochs: int, val: Any, **more: Any) -> Result:
    warnings.simplefilter("ignore")
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **more
    )
    net = Net(task, log=val is not None)
    with Stopwatch() as watch:
        trainer.fit(net, DataLoader(TensorDataset(*task.train()), task.batch, shuffle=True), val)
    return task.result(watch, epochs, net.net)
