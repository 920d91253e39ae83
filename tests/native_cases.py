"""Nets, losses, optimizers and settings drawn at random, for comparing the native engine with the eager one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainkit import (
    ELU,
    GELU,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    BCELoss,
    BCEWithLogitsLoss,
    Callback,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    EmbedColumns,
    Flatten,
    HuberLoss,
    Identity,
    L1Loss,
    LeakyReLU,
    Linear,
    LogSoftmax,
    Loss,
    LRScheduler,
    Module,
    MSELoss,
    NLLLoss,
    ReLU,
    Residual,
    RMSprop,
    Sequential,
    Session,
    Sigmoid,
    SignSGD,
    SiLU,
    Softmax,
    Softplus,
    Split,
    Tanh,
    Trainer,
)
from trainkit.core.rng import generator
from trainkit.optim.optimizer import momentum_of

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
    *("logits", "weighted logits", "log-probabilities", "squares", "absolutes", "huber", "probabilities", "binary logits"),
    "class probabilities",
)
CATEGORIES = [3, 5]
SCHEDULES: list[dict[str, Any]] = [
    {"StepLR": {"step_size": 4}},
    {"CosineAnnealingLR": {"T_max": 100}, "interval": "step"},
    {"OneCycleLR": {"max_lr": 0.02, "total_steps": 1000}, "interval": "step"},  # changes the momentum too
]
Inputs = Literal["numbers", "codes", "images"]


@dataclass
class Case:
    """What a seed draws. A net is trained once: `drawn` makes it again."""

    seed: int
    net: Sequential
    loss: Loss
    optimizer: Callable[[Sequence[tuple[Tensor, Tensor]], Any], Any]  # of the parameters and the rate
    data: Dataset
    replicas: int
    rates: list[float]  # one per replica; the last one may be 0
    stops: int | None  # the epoch after which the first of several replicas stops
    schedule: dict[str, Any] | None  # of LRScheduler
    settings: dict[str, Any]

    def __str__(self) -> str:
        made = self.optimizer(self.net.param(), self.rates[0])
        rest = f"{self.replicas} replicas of rates {self.rates}, stopped: {self.stops}, {self.schedule}, {self.settings}"
        weighted = self.data.train.weight is not None
        return f"case {self.seed}: {self.net}, {self.loss}, {type(made).__name__}, {rest}, weights: {weighted}"


def drawn(seed: int) -> Case:
    """Return the case of `seed`."""
    r = random.Random(seed)
    inputs: Inputs = r.choice(["numbers", "numbers", "numbers", "codes", "images"])
    features = {"numbers": r.choice([1, 2, 3, 5, 8, 17]), "codes": r.choice([2, 5]), "images": 12}[inputs]
    width, kind = r.choice([1, 3, 4, 7, 16, 25, 33]), r.choice(KINDS)
    outputs = r.choice([2, 3, 5]) if kind in (*KINDS[:3], KINDS[8]) else r.choice([1, 2, 3])
    n, draw = r.choice([40, 57]), torch.Generator().manual_seed(seed)
    x, t = samples(n, inputs, features, draw), targets(n, kind, outputs, draw)
    weight = torch.rand(n, generator=draw, dtype=torch.float64) if r.random() < 0.3 else None
    if weight is not None:
        weight[:3] = 0
    replicas, lr = r.choice([1, 1, 3]), r.choice([0.001, 0.01])
    batch = r.choice([None, 5, 8, 16])
    return Case(
        seed,
        made_net(r, inputs, features, width, outputs, kind),
        made_loss(r, kind, outputs),
        made_optimizer(r),
        Dataset(Split(x, t, weight=weight)),
        replicas,
        r.choice([[lr] * replicas, [lr * (r + 1) for r in range(replicas - 1)] + [0.0 if replicas > 1 else lr]]),
        r.choice([None, 3]),
        copy.deepcopy(r.choice([None, None, *SCHEDULES])),
        {
            "batch_size": batch,
            "accumulate": 1 if batch is None else r.choice([1, 1, 2, 3]),
            "clip_norm": r.choice([None, None, 0.5]),
            "clip_value": r.choice([None, 0.05]),
        },
    )


def samples(n: int, inputs: Inputs, features: int, draw: torch.Generator) -> Tensor:
    """Return n rows of numbers; of numbers and two columns of codes; or images."""
    x = torch.randn(n, features, generator=draw, dtype=torch.float64)
    if inputs == "codes":
        codes = [torch.randint(0, k, (n, 1), generator=draw) for k in CATEGORIES]
        x = torch.cat([x[:, len(CATEGORIES) :], *codes], 1)
    return x.view(n, 3, 4) if inputs == "images" else x


def targets(n: int, kind: str, outputs: int, draw: torch.Generator) -> Tensor:
    if kind in KINDS[:3]:
        return torch.randint(0, outputs, (n,), generator=draw)
    if kind == "class probabilities":
        return torch.randn(n, outputs, generator=draw, dtype=torch.float64).softmax(1)
    if kind in KINDS[6:]:
        return torch.randint(0, 2, (n, outputs), generator=draw).double()
    return torch.randn(n, outputs, generator=draw, dtype=torch.float64)


def made_net(r: random.Random, inputs: Inputs, features: int, width: int, outputs: int, kind: str) -> Sequential:
    shared = Linear(width, width)
    body: list[Callable[[], Module]] = [
        lambda: Linear(width, width, bias=r.random() < 0.7),
        lambda: Residual(Linear(width, width), r.choice(ELEMENTWISE)()),
        lambda: shared,
        lambda: Sequential(Linear(width, width), Tanh()),
        *LAYERS[:3],
    ]
    layers: list[Module] = {
        "numbers": lambda: list[Module](),
        "codes": lambda: [EmbedColumns(CATEGORIES, r.choice([1, 3, 8]))],
        "images": lambda: [Flatten()],
    }[inputs]()
    for embedding in filter(lambda m: isinstance(m, EmbedColumns), layers):
        features += len(CATEGORIES) * (embedding.dim - 1)  # type: ignore[attr-defined]
    layers += [Linear(features, width, bias=r.random() < 0.8), r.choice(LAYERS)()]
    layers += [r.choice(body)() for _ in range(r.randint(0, 3))]
    layers += [Linear(width, outputs)]
    return Sequential(
        *layers, *([LogSoftmax()] if kind == "log-probabilities" else [Sigmoid()] if kind == "probabilities" else [])
    )


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


def made_optimizer(r: random.Random) -> Callable[[Sequence[tuple[Tensor, Tensor]], Any], Any]:
    flag, half = r.random() < 0.5, r.choice([0, 0.5])
    rules: list[Callable[[Any, Any], Any]] = [
        lambda p, lr: SGD(p, lr=lr),
        lambda p, lr: SGD(p, lr=lr, momentum=0.9, nesterov=flag, weight_decay=0.01),
        lambda p, lr: SGD(p, lr=lr, momentum=0.9, dampening=0.3, maximize=flag),
        lambda p, lr: SignSGD(p, lr=lr, momentum=half, weight_decay=0.01),
        lambda p, lr: Adam(p, lr=lr, amsgrad=flag, weight_decay=0.01),
        lambda p, lr: AdamW(p, lr=lr),
        lambda p, lr: RMSprop(p, lr=lr, centered=flag, momentum=half),
        lambda p, lr: Adagrad(p, lr=lr, lr_decay=0.01),
    ]
    return r.choice(rules)


class Losses(Callback):
    """Keeps the losses of all steps, and stops the first of several replicas after an epoch."""

    def __init__(self, stops: int | None) -> None:
        self.stops, self.rows = stops, list[list[float]]()

    def on_losses(self, session: Session, rows: list[list[float]]) -> None:
        self.rows += rows

    def on_train_epoch_end(self, session: Session) -> None:
        if session.epochs_done == self.stops and session.replicas > 1:
            session.stop("stopped", "as drawn", [r == 0 for r in range(session.replicas)])


@dataclass
class Trained:
    """The result of a fit: the engine, the losses (steps, replicas), and the parameters, float64 copies with a replica axis."""

    engine: str
    losses: Tensor
    parameters: list[Tensor]

    def replica(self, r: int) -> Trained:
        return Trained(self.engine, self.losses[:, r : r + 1], [p[r : r + 1] for p in self.parameters])

    def equals(self, other: Trained) -> bool:
        """Return whether all bits are the same (any NaN is the same as another)."""
        pairs = zip([self.losses, *self.parameters], [other.losses, *other.parameters], strict=True)
        return all(torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan()) for a, b in pairs)


def trained(
    seed: int,
    engine: Any,
    dtype: str = "float64",
    steps: int = 60,
    alone: int | None = None,
    threads: int = 1,
    around: Callable[[Case], AbstractContextManager[object]] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Train the case of `seed`. alone: only this replica; around(case): a context for the fit."""
    case = drawn(seed)
    seeds, rates = list(range(case.replicas)), case.rates
    if alone is not None:
        seeds, rates = [alone], [rates[alone]]
    net = case.net.replicate(seeds) if len(seeds) > 1 else case.net.initialize(generator(seeds[0], "init"))
    optimizer = case.optimizer(net.param(), rates if len(set(rates)) > 1 else rates[0])
    losses = Losses(case.stops)
    if cycle := (case.schedule or {}).get("OneCycleLR"):
        cycle["cycle_momentum"] = bool(momentum_of(optimizer))
    schedule = [] if case.schedule is None else [LRScheduler(**case.schedule)]
    trainer = Trainer(
        max_steps=steps,
        dtype=dtype,  # type: ignore[arg-type]
        engine=engine,
        replicas=len(seeds),
        seeds=seeds,
        threads=threads,
        device="cpu",
        callbacks=[losses, *schedule, *callbacks],
        **case.settings,
    )
    with nullcontext() if around is None else around(case):
        trainer.fit(net, case.loss, optimizer, case.data)
    parameters = [p.double() if len(seeds) > 1 else p.double().unsqueeze(0) for p, _ in net.param()]
    return Trained(trainer.fitted().engine, torch.tensor(losses.rows, dtype=torch.float64), parameters)


def distance(a: Trained, b: Trained) -> float:
    """Return the largest difference of a loss or a parameter, relative to its size; infinity where others are not finite.

    The size of a loss is its own, that of a parameter the largest of its tensor's; both plus 0.001.
    """
    worst = 0.0
    for p, q in zip([a.losses, *a.parameters], [b.losses, *b.parameters], strict=True):
        if p.shape != q.shape or not torch.equal(p.isfinite(), q.isfinite()):
            return float("inf")
        difference, size = (p - q).nan_to_num().abs(), q.nan_to_num().abs()
        if q is not b.losses:
            difference, size = difference.flatten(1).amax(1), size.flatten(1).amax(1)
        worst = max(worst, float((difference / (size + 1e-3)).max()))
    return worst
