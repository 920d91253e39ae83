"""The others on the net of the reports: the same layers, data size, batch and rule; each as its own documentation has it.

A contender takes a number of epochs and returns microseconds a step (and model). What compiles does so in a call before that.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from trainkit import disk
from trainkit.data.normalize import Normalizer

BATCH, LR, MOMENTUM = 50, 0.1, 0.9
REPLICAS = 30
Contender = Callable[[int], float]  # epochs -> microseconds a step


def torch_net() -> torch.nn.Sequential:
    n = torch.nn
    return n.Sequential(n.Linear(2, 25), n.ReLU(), n.Linear(25, 25), n.ReLU(), n.Linear(25, 25), n.ReLU(), n.Linear(25, 2))


def points() -> tuple[torch.Tensor, torch.Tensor]:
    data = disk(train=900)
    part = Normalizer.fit(data).apply(data.train)
    return part.x, part.t


def bare_loop(epochs: int, net: torch.nn.Module | None = None) -> float:
    """What one writes by hand with autograd: no validation, no logging, no checkpoints."""
    net, loss, (x, t) = net or torch_net(), torch.nn.CrossEntropyLoss(), points()
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


def compiled_loop(epochs: int) -> float:
    """The same with torch.compile on the model."""
    return bare_loop(epochs, compiled_net())


@cache
def compiled_net() -> Any:
    return torch.compile(torch_net())


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


def skorch_bare(epochs: int) -> float:
    from skorch import NeuralNetClassifier

    x, t = points()
    net = NeuralNetClassifier(
        torch_net(),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=MOMENTUM,
        lr=LR,
        batch_size=BATCH,
        max_epochs=epochs,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
    )
    began = time.perf_counter()
    net.fit(x, t)
    return (time.perf_counter() - began) / (epochs * len(x) // BATCH) * 1e6


def sklearn_mlp(epochs: int) -> float:
    from sklearn.neural_network import MLPClassifier

    x, t = (v.numpy() for v in points())
    net = MLPClassifier(
        (25, 25, 25),
        solver="sgd",
        alpha=0.0,
        batch_size=BATCH,
        learning_rate_init=LR,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=10**6,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        began = time.perf_counter()
        net.fit(x, t)
        return (time.perf_counter() - began) / (epochs * len(x) // BATCH) * 1e6


@cache
def jax_functions() -> dict[str, Any]:
    """init(key), and a step, an epoch by scan, an epoch of many models by vmap, each jitted."""
    import jax
    import jax.numpy as jnp

    def init(key: Any) -> Any:
        sizes = ((2, 25), (25, 25), (25, 25), (25, 2))
        keys = jax.random.split(key, len(sizes))
        layers = [
            (jax.random.uniform(k, s, minval=-1, maxval=1) / s[0] ** 0.5, jnp.zeros(s[1]))
            for k, s in zip(keys, sizes, strict=True)
        ]
        return layers, jax.tree.map(jnp.zeros_like, layers)

    def loss(layers: Any, x: Any, t: Any) -> Any:
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        logp = jax.nn.log_softmax(x @ layers[-1][0] + layers[-1][1])
        return -jnp.take_along_axis(logp, t[:, None], axis=1).mean()

    def step(state: Any, batch: Any) -> Any:
        layers, m = state
        value, g = jax.value_and_grad(loss)(layers, *batch)
        m = jax.tree.map(lambda mi, gi: MOMENTUM * mi + gi, m, g)
        return (jax.tree.map(lambda p, mi: p - LR * mi, layers, m), m), value

    def epoch(state: Any, x: Any, t: Any, order: Any) -> Any:
        return jax.lax.scan(step, state, (x[order].reshape(-1, BATCH, 2), t[order].reshape(-1, BATCH)))

    many = jax.vmap(epoch, in_axes=(0, None, None, 0))
    return {
        "init": init,
        "init_many": jax.vmap(init),
        "step": jax.jit(step, donate_argnums=0),
        "epoch": jax.jit(epoch, donate_argnums=0),
        "many": jax.jit(many, donate_argnums=0),
    }


def jax_step(epochs: int) -> float:
    """jit of a step, called for each batch."""
    import jax
    import numpy as np

    f, (x, t) = jax_functions(), (v.numpy() for v in points())
    draw = np.random.default_rng(0)
    state = f["init"](jax.random.key(0))
    state, value = f["step"](state, (x[:BATCH], t[:BATCH]))
    value.block_until_ready()
    began = time.perf_counter()
    for _ in range(epochs):
        order = draw.permutation(len(x))
        for i in range(0, len(x), BATCH):
            rows = order[i : i + BATCH]
            state, value = f["step"](state, (x[rows], t[rows]))
    value.block_until_ready()
    return (time.perf_counter() - began) / (epochs * len(x) // BATCH) * 1e6


def jax_epochs(models: int) -> Contender:
    """jit of scan over an epoch; of many models at once by vmap."""

    def run(epochs: int) -> float:
        import jax
        import numpy as np

        f, (x, t) = jax_functions(), (jax.numpy.asarray(v.numpy()) for v in points())
        draw, key = np.random.default_rng(0), jax.random.key(0)
        epoch, state = (
            (f["epoch"], f["init"](key)) if models == 1 else (f["many"], f["init_many"](jax.random.split(key, models)))
        )

        def order() -> Any:
            rows = np.stack([draw.permutation(len(x)) for _ in range(models)])
            return rows[0] if models == 1 else rows

        state, values = epoch(state, x, t, order())
        values.block_until_ready()
        began = time.perf_counter()
        for _ in range(epochs):
            state, values = epoch(state, x, t, order())
        values.block_until_ready()
        return (time.perf_counter() - began) / (epochs * len(x) // BATCH) / models * 1e6

    return run


def peers() -> dict[str, tuple[Contender, float]]:
    """Name -> (contender, its share of the epochs: the slow ones run fewer). One that is not installed is told and left out."""
    every: tuple[tuple[str, str, Contender, float], ...] = (
        ("torch", "the bare loop with torch.compile on the model", compiled_loop, 1.0),
        ("lightning", "Lightning {}: validation, early stopping, checkpoints, TensorBoard", lightning_full, 0.1),
        ("skorch", "skorch {}, bare", skorch_bare, 0.2),
        ("scikit-learn", "scikit-learn {}: MLPClassifier", sklearn_mlp, 0.5),
        ("jax", "JAX {}: jit of a step", jax_step, 1.0),
        ("jax", "JAX {}: jit and scan over an epoch", jax_epochs(1), 1.0),
        ("jax", f"JAX {{}}: vmap and scan, {REPLICAS} models, a model", jax_epochs(REPLICAS), 0.3),
    )
    there: dict[str, tuple[Contender, float]] = {}
    for package, name, contender, share in every:
        try:
            there[name.format(version(package))] = contender, share
        except PackageNotFoundError:
            print(f"skipped, {package} is not installed: {name.format('')}", file=sys.stderr)
    return there
