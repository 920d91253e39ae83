"""skorch: https://skorch.readthedocs.io."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint, EarlyStopping, TensorBoard
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from task import MOMENTUM, Result, Stopwatch, Task
from torch.utils.tensorboard import SummaryWriter


def bare(task: Task, epochs: int) -> Result:
    return train(task, epochs, train_split=None)


def full(task: Task, epochs: int) -> Result:
    x, t = task.train()
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        callbacks = [EarlyStopping(patience=10**6), Checkpoint(dirname=folder), TensorBoard(writer)]
        return train(task, epochs, train_split=predefined_split(Dataset(x[:100], t[:100])), callbacks=callbacks)


def train(task: Task, epochs: int, **more: Any) -> Result:
    rule = (
        {"optimizer": torch.optim.Adam}
        if task.rule == "adam"
        else {"optimizer": torch.optim.SGD, "optimizer__momentum": MOMENTUM}
    )
    net = NeuralNetClassifier(
        task.net(),
        criterion=torch.nn.CrossEntropyLoss,
        lr=task.lr,
        batch_size=task.batch,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        verbose=0,
        **rule,
        **more,
    )
    x, t = task.train()
    with Stopwatch() as watch:
        net.fit(x, t)
    return task.result(watch, epochs, net.module_)
