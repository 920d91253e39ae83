"""R replicas are R runs alone: replica r is the run of seed + r, in every net, loss and optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainkit import (
    ELU,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Add,
    BCELoss,
    BCEWithLogitsLoss,
    Callback,
    Concat,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    EarlyStopping,
    EmbedColumns,
    FanOut,
    HuberLoss,
    L1Loss,
    Linear,
    LogSoftmax,
    LRScheduler,
    MSELoss,
    NLLLoss,
    Parallel,
    ReLU,
    Residual,
    RMSprop,
    Sequential,
    Sigmoid,
    SignSGD,
    Softmax,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.core.rng import generator
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.trainer.session import Session

R, SEED = 4, 5


def classes() -> Dataset:
    return disk(train=22, test=9)


def real() -> Dataset:
    x = torch.randn(22, 2, generator=generator(0, "x"), dtype=torch.float64)
    return tensors(x[:15], (x * x)[:15], test=(x[15:], (x * x)[15:]))


def binary() -> Dataset:
    return disk(train=22, test=9, targets="binary")


def onehot() -> Dataset:
    return disk(train=22, test=9, targets="onehot")


def mlp(*end: Module, out: int = 2) -> Module:
    return Sequential(Linear(2, 6), Tanh(), Linear(6, out), *end)


NETS: dict[str, Callable[[], Module]] = {
    "mlp": mlp,
    "dropout": lambda: Sequential(Dropout(0.1), Linear(2, 8), ReLU(), Dropout(0.5), Linear(8, 2)),
    "residual": lambda: Sequential(Linear(2, 4), Residual(Linear(4, 4), ELU(), Dropout(0.3), Linear(4, 4)), Linear(4, 2)),
    "branches": lambda: Sequential(
        FanOut(2),
        Parallel(Linear(2, 3), Sequential(Linear(2, 3), Sigmoid())),
        Concat(),
        FanOut(2),
        Parallel(Linear(6, 2, bias=False), Linear(6, 2, init="he")),
        Add(),
    ),
}
LOSSES: dict[str, tuple[Callable[[], Loss], Callable[[], Module], Callable[[], Dataset]]] = {
    "MSELoss": (MSELoss, mlp, real),
    "MSELoss sum": (lambda: MSELoss("sum"), mlp, real),
    "L1Loss": (L1Loss, mlp, real),
    "HuberLoss": (lambda: HuberLoss(delta=0.4), mlp, real),
    "CrossEntropyLoss": (CrossEntropyLoss, mlp, classes),
    "CrossEntropyLoss sum": (lambda: CrossEntropyLoss("sum"), mlp, classes),
    "CrossEntropyLoss weighted": (lambda: CrossEntropyLoss(weight=[0.2, 0.8], label_smoothing=0.1), mlp, classes),
    "CrossEntropyLoss one-hot": (CrossEntropyLoss, mlp, onehot),
    "NLLLoss": (NLLLoss, lambda: mlp(LogSoftmax()), classes),
    "BCELoss": (BCELoss, lambda: mlp(Sigmoid(), out=1), binary),
    "BCELoss softmax": (BCELoss, lambda: mlp(Softmax()), onehot),
    "BCEWithLogitsLoss": (lambda: BCEWithLogitsLoss(pos_weight=2.0), lambda: mlp(out=1), binary),
}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: SGD(p, 0.1),
    "SGD momentum": lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SignSGD": lambda p: SignSGD(p, 0.01, momentum=0.8),
    "Adam": lambda p: Adam(p, 0.05, amsgrad=True, weight_decay=0.01),
    "AdamW": lambda p: AdamW(p, 0.05),
    "RMSprop": lambda p: RMSprop(p, 0.02, momentum=0.5, centered=True),
    "Adagrad": lambda p: Adagrad(p, 0.05, lr_decay=0.1),
}


def run(
    make: Callable[[], Module],
    loss: Loss,
    optimizer: Callable[[Any], Any],
    data: Dataset,
    seed: int,
    replicas: int,
    callbacks: Callable[[], list[Callback]] = list,
    **how: Any,
) -> Trainer:
    net = make()
    if replicas > 1:
        net.replicate([seed + r for r in range(replicas)])
    else:
        net.initialize(generator(seed, "init"))
    trainer = Trainer(
        **{"max_epochs": 3, "batch_size": 4, "dtype": "float64", "device": "cpu"} | how,
        seed=seed,
        replicas=replicas,
        callbacks=callbacks(),
    )
    trainer.fit(net, loss, optimizer(net.param()), data)
    return trainer


def compare(
    make: Callable[[], Module],
    loss: Callable[[], Loss],
    optimizer: Callable[[Any], Any],
    data: Callable[[], Dataset],
    callbacks: Callable[[], list[Callback]] = list,
    **how: Any,
) -> None:
    together = run(make, loss(), optimizer, data(), SEED, R, callbacks, **how)
    metrics = together.summary["metrics"]
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for r in range(R):
        alone = run(make, loss(), optimizer, data(), SEED + r, 1, callbacks, **how)
        for (name, p, _), (_, q, _) in zip(together.session.net.named_param(), alone.session.net.named_param(), strict=True):
            torch.testing.assert_close(
                p[r], q, rtol=1e-9, atol=1e-12, msg=lambda m, name=name, r=r: f"{name} of replica {r}: {m}"
            )
        for name, value in alone.summary["metrics"].items():
            values[name].append(value)
    assert set(metrics) == set(values)
    for name, of_runs in values.items():
        assert metrics[name]["values"] == pytest.approx(of_runs, rel=1e-9), name
        mean = sum(of_runs) / R
        assert metrics[name]["mean"] == pytest.approx(mean, rel=1e-9)
        assert metrics[name]["std"] == pytest.approx(
            math.sqrt(sum((v - mean) ** 2 for v in of_runs) / (R - 1)), rel=1e-6, abs=1e-12
        )
    assert metrics["train/loss"]["std"] > 0


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_every_net(net: Callable[[], Module]) -> None:
    compare(net, CrossEntropyLoss, OPTIMIZERS["SGD momentum"], classes, clip_norm=0.5)


@pytest.mark.parametrize(("loss", "net", "data"), LOSSES.values(), ids=LOSSES)
def test_every_loss(loss: Callable[[], Loss], net: Callable[[], Module], data: Callable[[], Dataset]) -> None:
    compare(net, loss, lambda p: SGD(p, 0.02), data)


def coded() -> Dataset:
    x = torch.randn(31, 4, generator=generator(0, "x"), dtype=torch.float64)
    x[:, 2], x[:, 3] = torch.arange(31) % 3, torch.arange(31) % 5
    return tensors(x[:22], (x[:22, 0] > 0).long(), test=(x[22:], (x[22:, 0] > 0).long()))


def test_columns_of_codes() -> None:
    net = lambda: Sequential(EmbedColumns([3, 5], 2), Linear(6, 5), Tanh(), Linear(5, 2))  # noqa: E731
    compare(net, CrossEntropyLoss, OPTIMIZERS["SGD momentum"], coded)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(optimizer: Callable[[Any], Any]) -> None:
    compare(NETS["dropout"], CrossEntropyLoss, optimizer, classes)


HOW: list[dict[str, Any]] = [
    {"accumulate": 2, "clip_value": 0.05},
    {"accumulate": 3, "clip_norm": 0.1, "clip_value": 0.05},
    {"batch_size": None},
    {"max_steps": 12},  # two epochs of six steps
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_every_way_of_stepping(how: dict[str, Any]) -> None:
    compare(NETS["dropout"], CrossEntropyLoss, lambda p: SGD(p, 0.1), classes, **how)


def test_with_a_split_and_schedules() -> None:
    def callbacks() -> list[Callback]:
        return [ValidationSplit(0.3), LRScheduler(warmup_steps=3, ReduceLROnPlateau={"patience": 0, "factor": 0.3})]

    compare(mlp, CrossEntropyLoss, OPTIMIZERS["SGD"], classes, callbacks, max_epochs=6)


def test_a_rate_of_its_own_for_each_replica() -> None:
    rates = [0.01, 0.1, 0.3, 0.0]
    together = run(mlp, MSELoss(), lambda p: SGD(p, rates, momentum=0.9), real(), SEED, R)
    for r, lr in enumerate(rates):
        alone = run(mlp, MSELoss(), lambda p, lr=lr: SGD(p, lr, momentum=0.9), real(), SEED + r, 1)
        for (p, _), (q, _) in zip(together.session.net.param(), alone.session.net.param(), strict=True):
            torch.testing.assert_close(p[r], q, rtol=1e-9, atol=1e-12)
    assert together.summary["metrics"]["lr"]["values"] == rates


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_0_leaves_a_replica_as_it_was_drawn(name: str) -> None:
    first = mlp().replicate([SEED, SEED + 1]).to(dtype=torch.float64)
    cls = type(OPTIMIZERS[name](mlp().param()))
    together = run(mlp, MSELoss(), lambda p: cls(p, [0.0, 0.1]), real(), SEED, 2)
    for (p, _), (q, _) in zip(together.session.net.param(), first.param(), strict=True):
        assert torch.equal(p[0], q[0])
        assert not torch.equal(p[1], q[1])


def test_the_standard_deviation_divides_by_n_minus_1() -> None:
    class Known(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            session.log("known", [1.0, 2.0, 3.0, 6.0])  # mean 3, squares 4 + 1 + 0 + 9 = 14, 14 / 3

    metrics = run(mlp, MSELoss(), OPTIMIZERS["SGD"], real(), 0, R, lambda: [Known()], max_epochs=1).summary["metrics"]
    assert metrics["known"] == {"mean": 3.0, "std": math.sqrt(14 / 3), "values": [1.0, 2.0, 3.0, 6.0]}


def test_numbers_too_large_to_square_do_not_stop_a_run() -> None:
    class Huge(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            session.log("huge", [1e200, -1e200])
            session.log("broken", [math.nan, 1.0])

    metrics = run(mlp, MSELoss(), OPTIMIZERS["SGD"], real(), 0, 2, lambda: [Huge()], max_epochs=1).summary["metrics"]
    assert metrics["huge"] == {"mean": 0.0, "std": None, "values": [1e200, -1e200]}
    assert metrics["broken"] == {"mean": None, "std": None, "values": [None, 1.0]}


def test_the_clip_is_each_replicas_own() -> None:
    """A replica with a gradient a thousand times as large leaves its neighbours' steps alone."""

    class Blow(Callback):
        def __init__(self, r: int) -> None:
            self.r = r

        def on_fit_start(self, session: Session) -> None:
            for p, _ in session.net.param():
                p[self.r] *= 1000

    quiet = run(mlp, MSELoss(), OPTIMIZERS["SGD"], real(), SEED, 2, clip_norm=0.01)
    loud = run(mlp, MSELoss(), OPTIMIZERS["SGD"], real(), SEED, 2, lambda: [Blow(1)], clip_norm=0.01)
    for (p, _), (q, _) in zip(quiet.session.net.param(), loud.session.net.param(), strict=True):
        assert torch.equal(p[0], q[0])


def test_a_replica_that_stops_inside_the_first_epoch_has_the_loss_of_its_own_steps() -> None:
    def stops() -> list[Callback]:
        return [ValidationSplit(0.2, every_n_steps=2), EarlyStopping("val/loss", patience=1, min_delta=0.01)]

    together = run(mlp, CrossEntropyLoss(), OPTIMIZERS["Adam"], classes(), SEED, R, stops, batch_size=1, max_epochs=1)
    assert len(set(together.session.progress.samples)) > 1  # they stopped at steps of their own
    compare(mlp, CrossEntropyLoss, OPTIMIZERS["Adam"], classes, stops, batch_size=1, max_epochs=1)


def test_the_trainer_replicates_a_plain_net() -> None:
    nets = [Sequential(Linear(2, 2)), Sequential(Linear(2, 2)).replicate([3, 4])]
    params: list[list[Tensor]] = []
    for net in nets:
        Trainer(max_epochs=2, replicas=2, seed=3, device="cpu").fit(net, MSELoss(), SGD(net.param(), 0.1), real())
        params.append([p for p, _ in net.param()])
    assert all(torch.equal(a, b) for a, b in zip(*params, strict=True))


def test_rates_for_other_than_the_replicas_are_refused() -> None:
    net = Sequential(Linear(2, 2))
    for given in ({"lr": [0.1, 0.2, 0.3]}, {"lr": 0.1, "momentum": [0.1, 0.2, 0.3]}):
        with pytest.raises(UserError, match=f"SGD: 3 values of {list(given)[-1]} for 2 replicas; needs one number"):
            Trainer(max_epochs=1, replicas=2, device="cpu").fit(net, MSELoss(), SGD(net.param(), **given), real())


def test_a_plain_nets_optimizer_may_have_a_value_for_each_replica() -> None:
    values: dict[str, list[float]] = {"lr": [0.1, 0.02], "momentum": [0.0, 0.9], "weight_decay": [0.1, 0.0]}
    net = Sequential(Linear(2, 2))
    Trainer(max_epochs=2, replicas=2, seed=3, device="cpu").fit(net, MSELoss(), SGD(net.param(), **values), real())
    for r in range(2):
        single = Sequential(Linear(2, 2)).replicate([3 + r])
        own = {name: v[r] for name, v in values.items()}
        Trainer(max_epochs=2, seed=3 + r, device="cpu").fit(single, MSELoss(), SGD(single.param(), **own), real())
        for (p, _), (q, _) in zip(net.param(), single.param(), strict=True):
            torch.testing.assert_close(p[r], q[0])
