"""Nets, losses, optimizers and settings drawn at random, for comparing the native engine with the eager one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from trainkit import (
    ELU,
    GELU,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    HuberLoss,
    Identity,
    L1Loss,
    LeakyReLU,
    Linear,
    LogSoftmax,
    Loss,
    Module,
    MSELoss,
    NLLLoss,
    ReLU,
    Residual,
    RMSprop,
    Sequential,
    Sigmoid,
    SignSGD,
    SiLU,
    Softmax,
    Softplus,
    Split,
    Tanh,
    Trainer,
)

ELEMENTWISE: list[Callable[[], Module]] = [
    ReLU,
    lambda: LeakyReLU(0.2),
    Tanh,
    Sigmoid,
    lambda: ELU(0.7),
    GELU,
    lambda: GELU("tanh"),
    SiLU,
    lambda: Softplus(2.0),
]
LAYERS = [*ELEMENTWISE, Identity, lambda: Dropout(0.3), Softmax, LogSoftmax]
KINDS = (
    "logits",
    "weighted logits",
    "log-probabilities",
    "squares",
    "absolutes",
    "huber",
    "probabilities",
    "binary logits",
    "class probabilities",
)


def trained(seed: int, engine: Any, dtype: str = "float64", epochs: int = 10, threads: int = 1) -> tuple[Trainer, str]:
    """Return a trainer fitted on the case of `seed`, and what the case is."""
    r = random.Random(seed)
    inputs, width = r.choice([1, 2, 3, 5, 8, 17]), r.choice([1, 3, 4, 7, 16, 25, 33])
    kind = r.choice(KINDS)
    of_classes = kind in KINDS[:3]
    outputs = r.choice([2, 3, 5]) if of_classes or kind == "class probabilities" else r.choice([1, 2, 3])
    shared = Linear(width, width)
    body: list[Callable[[], Module]] = [
        lambda: Linear(width, width, bias=r.random() < 0.7),
        lambda: Residual(Linear(width, width), r.choice(ELEMENTWISE)()),
        lambda: shared,
        lambda: Sequential(Linear(width, width), Tanh()),
        *LAYERS[:3],
    ]
    layers = [Linear(inputs, width, bias=r.random() < 0.8), r.choice(LAYERS)()]
    layers += [r.choice(body)() for _ in range(r.randint(0, 3))]
    layers += [Linear(width, outputs)]
    layers += [LogSoftmax()] if kind == "log-probabilities" else [Sigmoid()] if kind == "probabilities" else []
    net = Sequential(*layers)
    loss = made_loss(r, kind, outputs)
    n, draw = r.choice([40, 57]), torch.Generator().manual_seed(seed)
    x = torch.randn(n, inputs, generator=draw, dtype=torch.float64)
    if of_classes:
        t = torch.randint(0, outputs, (n,), generator=draw)
    elif kind == "class probabilities":
        t = torch.randn(n, outputs, generator=draw, dtype=torch.float64).softmax(1)
    elif kind in KINDS[6:]:
        t = torch.randint(0, 2, (n, outputs), generator=draw).double()
    else:
        t = torch.randn(n, outputs, generator=draw, dtype=torch.float64)
    replicas = r.choice([1, 1, 3])
    settings = {
        "accumulate": r.choice([1, 1, 2]),
        "clip_norm": r.choice([None, None, 0.5]),
        "clip_value": r.choice([None, 0.05]),
    }
    net.initialize(torch.Generator().manual_seed(0))
    if replicas > 1:
        net.replicate(list(range(replicas)))
    optimizer = made_optimizer(r, net)
    common: dict[str, Any] = {"max_epochs": epochs, "dtype": dtype, "threads": threads, "device": "cpu"}
    trainer = Trainer(engine=engine, replicas=replicas, **common, **settings)
    weight = torch.rand(n, generator=draw, dtype=torch.float64) if r.random() < 0.3 else None
    trainer.fit(net, loss, optimizer, Dataset(Split(x, t, weight=weight)))
    what = f"{net}, {loss}, {type(optimizer).__name__}, {replicas} replicas, {settings}, weights: {weight is not None}"
    return trainer, what


def made_loss(r: random.Random, kind: str, outputs: int) -> Loss:
    reduction = r.choice(["mean", "mean", "sum"])
    weight = [r.random() + 0.1 for _ in range(outputs)]
    smoothing, ignored, positive = r.choice([0, 0.1]), r.choice([None, 1]), r.choice([None, 2.0])
    made: dict[str, Callable[[], Loss]] = {
        "logits": lambda: CrossEntropyLoss(reduction),
        "weighted logits": lambda: CrossEntropyLoss(reduction, weight=weight, label_smoothing=smoothing, ignore_index=ignored),
        "class probabilities": lambda: CrossEntropyLoss(reduction, weight=weight, label_smoothing=smoothing),
        "log-probabilities": lambda: NLLLoss(reduction, weight=weight),
        "squares": lambda: MSELoss(reduction),
        "absolutes": lambda: L1Loss(reduction),
        "huber": lambda: HuberLoss(reduction, delta=0.5),
        "probabilities": lambda: BCELoss(reduction, weight=weight),
        "binary logits": lambda: BCEWithLogitsLoss(reduction, pos_weight=positive),
    }
    return made[kind]()


def made_optimizer(r: random.Random, net: Module) -> Any:
    lr, flag, half = r.choice([0.001, 0.01]), r.random() < 0.5, r.choice([0, 0.5])
    rules: list[Callable[[], Any]] = [
        lambda: SGD(net.param(), lr=lr),
        lambda: SGD(net.param(), lr=lr, momentum=0.9, nesterov=flag, weight_decay=0.01),
        lambda: SGD(net.param(), lr=lr, momentum=0.9, dampening=0.3, maximize=flag),
        lambda: SignSGD(net.param(), lr=lr, momentum=half, weight_decay=0.01),
        lambda: Adam(net.param(), lr=lr, amsgrad=flag, weight_decay=0.01),
        lambda: AdamW(net.param(), lr=lr),
        lambda: RMSprop(net.param(), lr=lr, centered=flag, momentum=half),
        lambda: Adagrad(net.param(), lr=lr, lr_decay=0.01),
    ]
    return r.choice(rules)()


def distance(a: Trainer, b: Trainer) -> float:
    """Return the largest difference of a parameter, relative to the largest parameter of its tensor; infinity at other NaN."""
    worst = 0.0
    for (p, _), (q, _) in zip(a.fitted().net.param(), b.fitted().net.param(), strict=True):
        if not torch.equal(p.isfinite(), q.isfinite()):
            return float("inf")
        worst = max(worst, float((p - q).nan_to_num().abs().max() / (1e-3 + p.nan_to_num().abs().max())))
    return worst
