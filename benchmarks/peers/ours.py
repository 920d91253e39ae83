"""trainkit."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from typing import Any

import torch
from page import ROOT
from task import MOMENTUM, Result, Stopwatch, Task, load

from trainkit import SGD, Adam, Callback, CrossEntropyLoss, Linear, Module, Optimizer, ReLU, Sequential, Trainer
from trainkit.app.config.build import build
from trainkit.app.config.files import compose, resolve
from trainkit.data.loader import batches, epoch_permutation
from trainkit.trainer.engines.step import training_step
from trainkit.trainer.session import Session


class Clock(Callback):
    """Times the loop: neither preparation nor final evaluation."""

    def __init__(self) -> None:
        self.watch = Stopwatch()

    def on_fit_start(self, session: Session) -> None:
        self.watch.__enter__()

    def on_train_end(self, session: Session) -> None:
        self.watch.__exit__()


def net_of(task: Task) -> Sequential:
    layers: list[Module] = [layer for n, m in pairwise(task.sizes) for layer in (Linear(n, m), ReLU())]
    net = Sequential(*layers[:-1])
    net.load_state_dict(task.net().state_dict())
    return net


def fit(
    task: Task,
    epochs: int,
    accumulate_into_momentum: bool = False,
    device: str = "cpu",
    engine: str = "eager",
    **trainer: Any,
) -> Result:
    """Trainer.fit; `trainer`: more arguments of Trainer."""
    net, clock = net_of(task), Clock()
    if task.rule == "adam":
        rule: Optimizer = Adam(net.param(), lr=task.lr)
    else:
        rule = SGD(net.param(), lr=task.lr, momentum=MOMENTUM, accumulate_into_momentum=accumulate_into_momentum)
    data = load(task).with_parts(test=None)
    made = Trainer(max_epochs=epochs, batch_size=task.batch, device=device, engine=engine, callbacks=[clock], **trainer)
    made.fit(net, CrossEntropyLoss(), rule, data)
    assert engine in ("auto", made.fitted().engine), made.fitted().engine
    models = trainer.get("replicas", 1)
    return task.result(clock.watch, epochs, net.forward if models == 1 else None, models)


def steps(task: Task, epochs: int) -> Result:
    """What `Trainer.fit` is built on: shuffle, gather, step; no loop of epochs and hooks, no metric."""
    net, part = net_of(task), load(task).train
    step = training_step(net, CrossEntropyLoss(), SGD(net.param(), lr=task.lr, momentum=MOMENTUM))
    with Stopwatch() as watch, torch.inference_mode():
        for epoch in range(epochs):
            for x, t in batches(part, epoch_permutation(0, epoch, len(part)), task.batch):
                step(x, t)
    return task.result(watch, epochs)


def conf(task: Task, epochs: int, overrides: tuple[str, ...] = (), models: int = 1, engine: str = "eager") -> Result:
    """A whole fit of conf/mlp.yaml with its own data: preparation, validation, files and final evaluation."""
    fixed = (f"trainer.max_epochs={epochs}", "trainer.device=cpu", f"trainer.engine={engine}")
    config = resolve(compose([ROOT / "conf" / "mlp.yaml"], [*fixed, *overrides]))
    with tempfile.TemporaryDirectory() as folder:
        parts = build(config)
        trainer = parts.trainer(run_dir=folder)
        optimizer, data = parts.optimizer(parts.net), parts.data()
        with Stopwatch() as watch:
            summary = trainer.fit(parts.net, parts.loss, optimizer, data)
    assert summary["epoch"] == epochs, summary
    assert trainer.fitted().engine == engine, trainer.fitted().engine
    return Result(watch.seconds, summary["step"] * models, None, watch.peak)
