"""The reference implementation of `compare --against torch` repeats the same run, for nets drawn at random and every option."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import trainkit
from trainkit import (
    ELU,
    GELU,
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
    EmbedColumns,
    FanOut,
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
    Parallel,
    Recompute,
    ReLU,
    Residual,
    RMSprop,
    Sequential,
    Sigmoid,
    SignSGD,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    interop,
    tensors,
)
from trainkit.app.config import registry
from trainkit.interop import torch_nn
from trainkit.optim.optimizer import momentum_of
from trainkit.trainer.session import Session

reference = interop.find("torch")
STEPS = 200

# -- experiments drawn at random -----------------------------------------------------------------------------------------------

ACTIVATIONS: list[Callable[[], Module]] = [
    ReLU,
    Tanh,
    Sigmoid,
    SiLU,
    GELU,
    Identity,
    Softmax,
    LogSoftmax,
    lambda: GELU("tanh"),
    lambda: LeakyReLU(0.2),
    lambda: ELU(0.7),
    lambda: Softplus(2.0, threshold=3.0),
    lambda: Dropout(0.0),
]


@dataclass
class Experiment:
    """What a configuration says, drawn. `seed` names it."""

    seed: int
    net: Sequential
    loss: Loss
    optimizer: type[trainkit.Optimizer]
    settings: dict[str, Any]
    how: dict[str, Any]
    data: Dataset

    def run(self, *callbacks: Callback, **how: Any) -> tuple[Trainer, dict[str, Tensor]]:
        """Trained by trainkit: the trainer, and the parameters it started from."""
        start = self.net.state_dict()
        how = {"dtype": "float64", "device": "cpu", "max_epochs": 10**6, "max_steps": STEPS, "seed": self.seed} | self.how | how
        trainer = Trainer(**how, callbacks=callbacks)
        trainer.fit(self.net, self.loss, self.optimizer(self.net.param(), **self.settings), self.data)
        return trainer, start


def block(draw: random.Random, width: int) -> tuple[list[Module], int]:
    """Some layers for an input of `width` numbers, and their output's width."""
    out, bias, f = draw.randint(1, 6), draw.random() < 0.8, lambda: draw.choice(ACTIVATIONS)()
    shared = Linear(width, width)
    kinds: dict[str, tuple[list[Module], int]] = {
        "chain": ([Linear(width, out, bias=bias), f()], out),
        "residual": ([Residual(Linear(width, width), f())], width),
        "sum": ([FanOut(3), Parallel(Linear(width, width), Identity(), Sequential(Linear(width, width), f())), Add()], width),
        "mapped": ([FanOut(), Linear(width, out), f(), Residual(f()), Concat()], 2 * out),
        "shared": ([shared, f(), shared, f()], width),
        "again": ([Recompute(Linear(width, width), f())], width),
    }
    return kinds[draw.choices(list(kinds), [6, 1, 1, 1, 1, 1])[0]]


def targets(draw: random.Random, samples: int) -> tuple[Loss, list[Module], int, Tensor]:
    """A loss, what the net ends in for it, the net's outputs, and targets."""
    torch.manual_seed(draw.randrange(10**9))
    reduction, outputs = draw.choice(["mean", "sum"]), draw.randint(2, 4)
    weight = draw.choice([None, [0.5 + draw.random() for _ in range(outputs)]])
    ignored = draw.choice([None, None, 0])
    real = torch.randn(samples, outputs, dtype=torch.float64)
    index = torch.arange(samples) % outputs
    smoothing = draw.choice([0.0, 0.1])
    return draw.choice(
        [
            (MSELoss(reduction), [], outputs, real),
            (L1Loss(reduction), [], outputs, real),
            (HuberLoss(reduction, delta=0.5), [], outputs, real),
            (NLLLoss(reduction, weight, ignored), [LogSoftmax()], outputs, index),
            (CrossEntropyLoss(reduction, weight, smoothing, ignored), [], outputs, index),
            (CrossEntropyLoss(reduction, weight, smoothing), [], outputs, real.softmax(1)),
            (BCELoss(reduction, weight), [Sigmoid()], outputs, real.sigmoid()),
            (BCEWithLogitsLoss(reduction, weight, draw.choice([None, 2.0])), [], outputs, real.gt(0).double()),
        ]
    )


def updates(draw: random.Random) -> tuple[type[trainkit.Optimizer], dict[str, Any]]:
    """An optimizer with calm settings, so that rounding does not grow to a difference.

    A short memory of squares is not calm: near a minimum g / sqrt(v) is then of size 1 however small g is, the iterates jump
    over the minimum for ever, and trainkit itself ends elsewhere when its start is moved by the last bit.
    """
    rate, some = 10 ** draw.uniform(-3, -2), {"weight_decay": draw.choice([0.0, 0.01]), "maximize": draw.random() < 0.1}
    if some["maximize"]:
        rate /= 30  # away from every minimum, the faster the further
    nesterov = draw.random() < 0.3
    adam = {
        "lr": rate,
        "betas": [draw.uniform(0.5, 0.9), draw.uniform(0.99, 0.999)],
        "eps": draw.choice([1e-8, 1e-3]),
        "amsgrad": draw.random() < 0.5,
    }
    return draw.choice(
        [
            (SGD, {"lr": 3 * rate, **some}),
            (SGD, {"lr": rate, "momentum": 0.9, "nesterov": nesterov, "dampening": 0 if nesterov else 0.3, **some}),
            (Adam, {**adam, **some}),
            (AdamW, {**adam, **some}),
            (RMSprop, {"lr": rate / 3, "centered": draw.random() < 0.3, "momentum": draw.choice([0, 0.5]), **some}),
            (Adagrad, {"lr": rate, "lr_decay": 0.01, "initial_accumulator_value": draw.choice([0, 0.1]), **some}),
        ]
    )


def drawn(seed: int) -> Experiment:
    draw = random.Random(seed)
    samples, features = draw.randint(30, 50), draw.randint(1, 4)
    loss, end, outputs, t = targets(draw, samples)
    layers: list[Module] = [Flatten()] if features == 4 else []
    width = features
    if features == 2:
        layers, width = [EmbedColumns([3], 2)], 3  # the second column is a code
    for _ in range(draw.choice([0, 1, 1, 1, 2])):
        more, width = block(draw, width)
        layers += more
    net = (
        Sequential(*layers, Linear(width, outputs), *end)
        .initialize(torch.Generator().manual_seed(seed))
        .to(dtype=torch.float64)
    )
    x = torch.randn(samples, features, dtype=torch.float64)
    if features == 2:
        x[:, 1] = torch.arange(samples) % 3
    x = x.view(samples, 2, 2) if features == 4 else x
    optimizer, settings = updates(draw)
    batch = draw.choice([None, *range(1, 13)])
    if loss.reduction == "sum":
        settings["lr"] /= batch or samples
    how = {
        "batch_size": batch,
        "accumulate": draw.choice([1, 1, 1, 1, 1, 1, 2, 3]) if batch else 1,
        "clip_norm": draw.choice([None, None, None, 0.5]),
        "clip_value": draw.choice([None, None, None, 0.1]),
    }
    held = samples // 4
    return Experiment(seed, net, loss, optimizer, settings, how, tensors(x[held:], t[held:], test=(x[:held], t[:held])))


def repeated(trainer: Trainer, start: dict[str, Tensor], rates: list[float] | None = None) -> reference.ReferenceResult:
    """The run again by the reference, at these rates (None: the configured one) and the configured momentum."""
    steps = trainer.session.progress.step
    rates = [trainer.session.optimizer.initial_lrs[0]] * steps if rates is None else rates
    return reference.fit(trainer.session, start, rates, [{}] * steps)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of an element; NaN where one is."""
    assert list(a) == list(b)
    return float(torch.cat([(a[name] - b[name]).flatten() for name in a]).abs().max())


@pytest.mark.parametrize("seed", range(50))
def test_a_net_drawn_at_random_ends_at_autograds_parameters(seed: int) -> None:
    """In every parameter to 1e-9 after 200 steps in float64, and so in every metric."""
    experiment = drawn(seed)
    trainer, start = experiment.run()
    other = repeated(trainer, start)
    ours = trainer.session.net.state_dict()
    assert apart(ours, other.state) < 1e-9, experiment
    assert trainer.session.progress.step == STEPS
    assert apart(ours, start) > 1e-5, experiment  # moved ten thousand times as far as they may differ
    for name in ("train", "test"):
        for metric, (value,) in trainer.session.evaluate(getattr(trainer.session.data, name)).items():
            assert other.metrics.pop(f"{name}/{metric}") == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert not other.metrics


def test_the_draws_hold_all_that_is_mirrored() -> None:
    seen: set[type] = set()
    for experiment in map(drawn, range(100)):
        seen |= {type(m) for _, m in experiment.net.modules()} | {type(experiment.loss), experiment.optimizer}
    mirrored = {*torch_nn.LAYERS, *torch_nn.CONTAINERS, *torch_nn.LOSSES, *torch_nn.OPTIMIZERS}
    assert not mirrored - seen


@pytest.mark.parametrize("seed", range(10))
def test_a_rate_one_percent_off_is_seen(seed: int) -> None:
    experiment = drawn(seed)
    trainer, start = experiment.run(max_steps=20)
    off = [1.01 * experiment.settings["lr"]] * 20
    assert apart(trainer.session.net.state_dict(), repeated(trainer, start, off).state) > 1e-7


# -- the course of a run -------------------------------------------------------------------------------------------------------


class Watch(Callback):
    """The settings of each step, and the steps after which there was a validation. Stands before the schedule."""

    def on_fit_start(self, session: Session) -> None:
        self.rates: list[float] = []
        self.momenta: list[dict[str, Any]] = []
        self.validated: list[int] = []

    def on_train_batch_end(self, session: Session) -> None:
        self.rates += session.progress.lr
        self.momenta.append(momentum_of(session.optimizer))

    def on_validation_end(self, session: Session) -> None:
        self.validated.append(session.progress.step)


def small(optimizer: type[trainkit.Optimizer] = SGD, *layers: Module, **settings: Any) -> Experiment:
    """30 samples in batches of 4, a tanh net."""
    draw = torch.Generator().manual_seed(0)
    net = Sequential(Linear(3, 4), Tanh(), *layers, Linear(4, 2)).initialize(draw).to(dtype=torch.float64)
    x, t = torch.randn(30, 3, generator=draw).double(), torch.arange(30) % 2
    return Experiment(0, net, CrossEntropyLoss(), optimizer, {"lr": 0.05, **settings}, {"batch_size": 4}, tensors(x, t))


SCHEDULES: list[tuple[LRScheduler, type[trainkit.Optimizer], dict[str, Any]]] = [
    (LRScheduler(CosineAnnealingLR={"T_max": 8}), SGD, {}),
    (LRScheduler(CosineAnnealingLR={"T_max": 60}, interval="step", warmup_steps=9), Adam, {}),
    (LRScheduler(ConstantLR={"factor": 0.5, "total_iters": 1000}), SGD, {}),  # one rate, and not the configured one
    (LRScheduler(ReduceLROnPlateau={"patience": 0, "threshold": 1.0}), RMSprop, {}),
    (LRScheduler(OneCycleLR={"max_lr": 0.1, "total_steps": 61}, interval="step"), SGD, {"momentum": 0.9}),
    (LRScheduler(OneCycleLR={"max_lr": 0.1, "total_steps": 61}), Adam, {}),
]


@pytest.mark.parametrize(
    ("schedule", "optimizer", "settings"), SCHEDULES, ids=[f"{s.chosen[0]}-{o.__name__}" for s, o, _ in SCHEDULES]
)
def test_with_a_schedules_rates_it_is_the_same_run(
    schedule: LRScheduler, optimizer: type[trainkit.Optimizer], settings: dict[str, Any]
) -> None:
    watch = Watch()
    trainer, start = small(optimizer, **settings).run(ValidationSplit(0.2), watch, schedule, max_steps=60)
    ours = trainer.session.net.state_dict()
    assert apart(ours, reference.fit(trainer.session, start, watch.rates, watch.momenta).state) < 1e-9
    assert apart(ours, repeated(trainer, start).state) > 1e-3


def test_a_run_that_early_stopping_ended_is_as_long_and_has_its_rate() -> None:
    stop = trainkit.EarlyStopping("val/loss", divergence_threshold=0.0)  # at the first check; the rate is 0 from then on
    trainer, start = small().run(ValidationSplit(0.2), stop)
    other = repeated(trainer, start)
    assert trainer.session.progress.step == 6
    assert apart(trainer.session.net.state_dict(), other.state) < 1e-9


def test_it_validates_where_the_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, seen, done = Watch(), [], 0
    split = ValidationSplit(0.2, every_n_epochs=2, every_n_steps=5)  # an epoch has 6 steps, so both are due at step 60
    trainer, start = small().run(watch, split, max_steps=64)
    train, evaluate = reference.train, reference.evaluate

    def counting_train(net: Any, loss: Any, update: Any, batches: Any, **how: Any) -> None:
        nonlocal done
        batches = list(batches)
        done += len(batches)
        train(net, loss, update, batches, **how)

    def noting_evaluate(net: Any, loss: Any, session: Session, part: Any) -> Any:
        seen.append((done, part is session.data.val))
        return evaluate(net, loss, session, part)

    monkeypatch.setattr(reference, "train", counting_train)
    monkeypatch.setattr(reference, "evaluate", noting_evaluate)
    repeated(trainer, start)
    assert watch.validated == [5, 10, 12, 15, 20, 24, 25, 30, 35, 36, 40, 45, 48, 50, 55, 60]
    assert seen == [*((step, True) for step in watch.validated), (64, False), (64, True)]


def test_where_a_part_is_ignored_the_shares_are_the_same() -> None:
    """Six samples a step in three parts, of which the first has only classes that count nothing."""
    experiment = small()
    order = trainkit.data.loader.epoch_permutation(0, 0, 30)
    t = torch.arange(30) % 2
    t[order[:2]] = 2
    experiment.net.add(Linear(2, 3).initialize(torch.Generator().manual_seed(1)).to(dtype=torch.float64))
    experiment.data = tensors(experiment.data.train.x, t)
    for loss in (CrossEntropyLoss(ignore_index=2), CrossEntropyLoss(weight=[0.3, 2, 1], label_smoothing=0.1, ignore_index=2)):
        experiment.loss = loss
        trainer, start = experiment.run(max_steps=20, batch_size=2, accumulate=3)
        assert apart(trainer.session.net.state_dict(), repeated(trainer, start).state) < 1e-9


def test_scaled_targets_are_measured_in_their_units_on_both_sides() -> None:
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = 5000 + 300 * x[:, 0]
    data = tensors(x[:30], t[:30], test=(x[30:], t[30:]), normalize="quantile", normalize_target=True)
    net = Sequential(Linear(3, 4), Tanh(), Linear(4, 1)).to(dtype=torch.float64)
    experiment = Experiment(0, net, MSELoss(), SGD, {"lr": 0.1}, {"batch_size": 5, "metrics": ["rmse"]}, data)
    trainer, start = experiment.run()
    other = repeated(trainer, start)
    assert other.metrics["test/rmse"] == pytest.approx(trainer.test()["test/rmse"], rel=1e-9)
    assert other.metrics["test/loss"] == pytest.approx(trainer.test()["test/loss"], rel=1e-9)
    assert other.metrics["test/rmse"] > 10 * other.metrics["test/loss"] ** 0.5


def test_in_float32_it_differs_by_rounding() -> None:
    trainer, start = small().run(dtype="float32", max_steps=20)
    other = repeated(trainer, start)
    assert {p.dtype for p in other.state.values()} == {torch.float32}
    assert apart(trainer.session.net.state_dict(), other.state) < 1e-5


# -- what it leaves as it was --------------------------------------------------------------------------------------------------


def modes() -> tuple[bool, bool, list[int]]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_the_callers_autograd_mode_and_random_stream_are_restored(mode: Callable[[], AbstractContextManager[Any]]) -> None:
    with mode():
        experiment = small()
        experiment.loss = CrossEntropyLoss(weight=[0.3, 0.7])
        trainer, start = experiment.run(ValidationSplit(0.2), max_steps=20)
        before = modes()
        other = repeated(trainer, start)
        assert modes() == before
        assert apart(trainer.session.net.state_dict(), other.state) < 1e-9
        assert not any(p.requires_grad for p in other.state.values())
        trainer.session.loss = Own()
        with pytest.raises(UserError):
            repeated(trainer, start)
        assert modes() == before


def test_with_dropout_it_is_a_function_of_the_seed() -> None:
    trainer, start = small(SGD, Dropout(0.5)).run(max_steps=20)
    first, second = repeated(trainer, start), repeated(trainer, start)
    assert apart(first.state, second.state) == 0
    assert first.metrics == second.metrics


# -- what it has ---------------------------------------------------------------------------------------------------------------


class Square(Module):
    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * x, x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return 2 * x * dy


class Own(MSELoss):
    pass


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Linear": (3, 2),
    "EmbedColumns": ([3, 2], 4),
    "Sequential": (Tanh(),),
    "Recompute": (Tanh(),),
    "Residual": (Tanh(),),
    "Parallel": (Tanh(),),
}


def refusal(mirror: Callable[[Any], Any], name: str, *arguments: Any) -> str:
    """What is said where it is refused, '' where it is mirrored."""
    try:
        mirror(getattr(trainkit, name)(*arguments))
    except UserError as error:
        return str(error)
    return ""


def test_every_class_is_mirrored_or_refused_by_name() -> None:
    """All that a configuration can name; of these torch lacks one."""
    pairs, params = Linear(3, 2).param(), [torch.zeros(1)]
    said = {name: refusal(torch_nn.module, name, *ARGUMENTS.get(name, ())) for name in registry.LAYERS}
    said |= {name: refusal(torch_nn.criterion, name) for name in registry.LOSSES}
    said |= {name: refusal(lambda ours: torch_nn.optimizer(ours, params), name, pairs) for name in registry.OPTIMIZERS}
    assert [name for name, words in said.items() if words] == ["SignSGD"]
    assert all(f" {name}: torch has no such " in words for name, words in said.items() if words)


def test_what_torch_has_not_is_refused_by_place_and_class() -> None:
    net = Sequential(Linear(2, 2), Residual(Tanh(), Square()))
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: torch_nn.module(net), "model 1.1 Square: torch has no such layer"),
        (lambda: torch_nn.module(Square()), "model Square: torch has no such layer"),
        (lambda: torch_nn.criterion(Own()), "loss Own: torch has no such loss"),
        (lambda: torch_nn.optimizer(SignSGD(net.param()), []), "optimizer SignSGD: torch has no such optimizer"),
    ]
    for call, words in cases:
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value) == f"compare --against torch: {words}; run without --against"


def test_a_net_without_branches_is_plain_torch() -> None:
    twice = Linear(3, 3)
    theirs = torch_nn.module(Sequential(twice, Sequential(twice, ReLU())))
    assert repr(theirs) == repr(
        torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()))
    )
    assert theirs[0] is theirs[1][0]


def test_an_unknown_reference_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no reference implementation 'tourch'; did you mean 'torch'\? \(torch\)"):
        interop.find("tourch")
    assert set(interop.TITLES) == set(interop.REFERENCES)
    assert interop.find("torch") is reference
    assert reference.__name__ == "trainkit.interop.torch_reference"
