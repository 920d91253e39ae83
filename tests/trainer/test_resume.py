"""A resumed run is the uninterrupted one to the last bit, from every step; what does not fit is refused and changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Callback,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    EarlyStopping,
    GradientNorms,
    Linear,
    LRScheduler,
    MSELoss,
    ReLU,
    Residual,
    RMSprop,
    Sequential,
    SignSGD,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.checkpoint.plain import to_plain
from trainkit.nn.module import Module
from trainkit.trainer.session import Session


class Keep(Callback):
    """A snapshot wherever a checkpoint could be taken: after each step, each epoch, and at the end."""

    def __init__(self) -> None:
        self.snapshots: list[dict[str, Any]] = []

    def on_checkpoint(self, session: Session) -> None:
        self.snapshots.append(to_plain(session.snapshot()))


class Jitter(Callback):
    """Draws from python's and torch's own generators after each step, and moves a weight by it."""

    def on_train_batch_end(self, session: Session) -> None:
        session.net.param()[0][0].view(-1)[0] += 0.01 * (random.random() + torch.rand(()).item() + random.gauss())


def drop_net() -> Module:
    return Sequential(Linear(2, 5), Tanh(), Dropout(0.4), Residual(Linear(5, 5), ReLU(), Dropout(0.2)), Linear(5, 2))


def points() -> Dataset:
    return disk(train=23, test=5)


Make = Callable[[], tuple[dict[str, Any], Callable[[Any], Any], list[Callback]]]


def everything() -> Any:
    callbacks = [
        ValidationSplit(0.2, every_n_steps=3),
        LRScheduler("step", warmup_steps=4, CosineAnnealingLR={"T_max": 9}),
        EarlyStopping(patience=3, restore_best=True),
        GradientNorms(),
        Jitter(),
    ]
    how = {"max_epochs": 5, "batch_size": 2, "accumulate": 2, "clip_norm": 0.5, "clip_value": 0.2}
    return how, lambda p: SGD(p, 0.3, momentum=0.9, nesterov=True, weight_decay=0.01), callbacks


def replicas() -> Any:
    callbacks = [
        ValidationSplit(0.3, stratify=True),
        LRScheduler(ReduceLROnPlateau={"patience": 0, "factor": 0.5}),
        EarlyStopping(patience=1, restore_best=True),
    ]
    how = {"max_epochs": 5, "batch_size": 5, "replicas": 3, "clip_norm": 0.7, "log_every_n_steps": 3}
    return how, lambda p: Adam(p, 0.2, amsgrad=True), callbacks


def descent() -> Any:
    return (
        {"max_epochs": 6, "batch_size": None, "max_steps": 5},
        lambda p: RMSprop(p, 0.02, momentum=0.5, centered=True),
        [Jitter()],
    )


def folded() -> Any:
    how = {"max_epochs": 4, "batch_size": 3, "accumulate": 2}
    return how, lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.01, accumulate_into_momentum=True), [ValidationSplit(0.2)]


def cycle() -> Any:
    callbacks = [LRScheduler("step", OneCycleLR={"max_lr": 0.05, "total_steps": 30}), ValidationSplit(0.1, every_n_epochs=2)]
    return {"max_epochs": 4, "batch_size": 7, "log_every_n_steps": 2}, lambda p: AdamW(p, 0.1), callbacks


def run(make: Make, resume: dict[str, Any] | None = None, *more: Callback, seed: int = 1) -> Trainer:
    random.seed(seed)
    torch.manual_seed(seed)
    how, optimizer, callbacks = make()
    net = drop_net().initialize(torch.Generator().manual_seed(3 if resume is None else 4))
    if how.get("replicas", 1) > 1:
        net.replicate(range(how["replicas"]))
    trainer = Trainer(**{"device": "cpu", "log_every_n_steps": 1} | how, callbacks=[*callbacks, *more])
    trainer.fit(net, CrossEntropyLoss(), optimizer(net.param()), points(), resume=resume)
    return trainer


def outcome(trainer: Trainer) -> dict[str, Any]:
    return {k: v for k, v in trainer.summary.items() if k != "wall_s"} | {"state": trainer.session.progress}


@pytest.mark.parametrize("make", [everything, replicas, descent, cycle, folded], ids=lambda make: make.__name__)
def test_resuming_at_any_step_is_exact(make: Make) -> None:
    keep = Keep()
    whole = run(make, None, keep)
    assert len(keep.snapshots) >= whole.session.progress.step
    for content in keep.snapshots:
        resumed = run(make, content, seed=2)
        assert outcome(resumed) == outcome(whole), content["state"]
        for slot in whole.session.optimizer.slots:
            assert torch.equal(resumed.session.optimizer.slots[slot], whole.session.optimizer.slots[slot])


def test_a_snapshot_disturbs_nothing() -> None:
    assert outcome(run(everything)) == outcome(run(everything, None, Keep()))


def test_the_run_depends_on_every_random_state() -> None:
    """What the exactness above is worth: with a random state of another run the resumed one ends elsewhere."""
    keep, other = Keep(), Keep()
    whole = run(everything, None, keep)
    run(everything, None, other, seed=2)
    content = keep.snapshots[6]
    for stream, foreign in (
        ("python", other.snapshots[6]["rng"]["python"]),
        ("torch", other.snapshots[6]["rng"]["torch"]),
        ("passes", torch.Generator().manual_seed(9).get_state().unsqueeze(0)),
    ):
        changed = {**content, "rng": {**content["rng"], stream: foreign}}
        assert outcome(run(everything, changed)) != outcome(whole), stream


def test_the_random_states_after_a_resume_are_the_runs() -> None:
    keep = Keep()
    run(everything, None, keep)
    after = (random.getstate(), torch.get_rng_state())
    run(everything, keep.snapshots[4], seed=7)
    assert random.getstate() == after[0]
    assert torch.equal(torch.get_rng_state(), after[1])


OPTIMIZERS: list[Callable[[Any], Any]] = [
    lambda p: SGD(p, 0.05),
    lambda p: SGD(p, 0.05, momentum=0.9, dampening=0.3),
    lambda p: SignSGD(p, 0.01, momentum=0.5),
    lambda p: Adam(p, 0.02),
    lambda p: Adagrad(p, 0.05, lr_decay=0.1, initial_accumulator_value=0.1),
    lambda p: RMSprop(p, 0.01),
]
SCHEDULES: list[dict[str, Any]] = [
    {"CosineAnnealingWarmRestarts": {"T_0": 2}},
    {"interval": "step", "CyclicLR": {"base_lr": 0.01, "max_lr": 0.05, "step_size_up": 3}},
    {"ReduceLROnPlateau": {"patience": 0}},
    {"warmup_steps": 5},
]


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_resuming_is_exact_whatever_the_configuration(data: st.DataObject) -> None:
    def draw(*choices: Any) -> Any:
        return data.draw(st.sampled_from(choices))

    optimizer, schedule, split = draw(*OPTIMIZERS), draw(None, *SCHEDULES), draw(None, 2, 4)
    patience, every = draw(None, 1, 2), draw(1, 2, 50)
    batch = draw(None, 3, 8)
    how = {
        "max_epochs": 3,
        "batch_size": batch,
        "accumulate": draw(1, 2, 3) if batch else 1,
        "clip_norm": draw(None, 0.3),
        "clip_value": draw(None, 0.1),
        "replicas": draw(1, 2),
        "max_steps": draw(None, 5),
        "min_epochs": draw(0, 2),
        "log_every_n_steps": every,
    }

    def make() -> Any:
        callbacks: list[Callback] = [ValidationSplit(0.3, every_n_steps=split)]
        callbacks += [LRScheduler(**schedule)] if schedule else []
        callbacks += [EarlyStopping(patience=patience, restore_best=True)] if patience else []
        return how, optimizer, callbacks

    keep = Keep()
    whole = run(make, None, keep)
    content = data.draw(st.sampled_from(keep.snapshots), label="from")
    assert outcome(run(make, content, seed=2)) == outcome(whole)


# -- what the configuration may change, and what it may not --------------------------------------------------------------


def snapshot_of(make: Make, k: int) -> dict[str, Any]:
    keep = Keep()
    run(make, None, keep)
    return next(s for s in keep.snapshots if s["state"]["step"] == k)


def test_more_epochs_continue_as_if_they_had_been_meant() -> None:
    def few() -> Any:
        how, optimizer, _ = cycle()
        return {**how, "max_epochs": 2}, optimizer, []

    def many() -> Any:
        how, optimizer, _ = cycle()
        return how, optimizer, []

    keep = Keep()
    run(few, None, keep)
    assert outcome(run(many, keep.snapshots[-1])) == outcome(run(many))


def simple(net: Module, optimizer: Any, resume: dict[str, Any] | None, **how: Any) -> Trainer:
    trainer = Trainer(**{"max_epochs": 2, "batch_size": 4, "device": "cpu"} | how, callbacks=[keep := Keep()])
    x = torch.linspace(-1, 1, 12).reshape(6, 2)
    trainer.keep = keep  # type: ignore[attr-defined]
    trainer.fit(net, MSELoss(), optimizer, tensors(x, x.sum(1)), resume=resume)
    return trainer


REFUSED: list[tuple[str, Callable[[], Module], Callable[[Any], Any], dict[str, Any], str]] = [
    (
        "a shape",
        lambda: Sequential(Linear(2, 4), Linear(4, 1)),
        lambda p: SGD(p, 0.1, momentum=0.9),
        {},
        r"0\.weight.*\(4, 2\).*\(3, 2\)",
    ),
    (
        "one more",
        lambda: Sequential(Linear(2, 3), Linear(3, 1), Linear(1, 1)),
        lambda p: SGD(p, 0.1, momentum=0.9),
        {},
        r"2\.weight",
    ),
    (
        "one less",
        lambda: Sequential(Linear(2, 3, bias=False), Linear(3, 1)),
        lambda p: SGD(p, 0.1, momentum=0.9),
        {},
        r"0\.bias",
    ),
    (
        "Adam",
        lambda: Sequential(Linear(2, 3), Linear(3, 1)),
        lambda p: Adam(p, 0.1),
        {},
        "optimizer: the state has m, Adam needs m, v",
    ),
    ("no momentum", lambda: Sequential(Linear(2, 3), Linear(3, 1)), lambda p: SGD(p, 0.1), {}, "has m, SGD needs none"),
    (
        "2 replicas",
        lambda: Sequential(Linear(2, 3), Linear(3, 1)),
        lambda p: SGD(p, 0.1, momentum=0.9),
        {"replicas": 2},
        "1 replicas.*is 2",
    ),
    (
        "samples per step",
        lambda: Sequential(Linear(2, 3), Linear(3, 1)),
        lambda p: SGD(p, 0.1, momentum=0.9),
        {"batch_size": 3},
        "4 samples per step",
    ),
]


@pytest.mark.parametrize(("net", "optimizer", "how", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_does_not_fit_is_refused_and_changes_nothing(
    net: Callable[[], Module], optimizer: Callable[[Any], Any], how: dict[str, Any], message: str
) -> None:
    first = Sequential(Linear(2, 3), Linear(3, 1))
    content = simple(first, SGD(first.param(), 0.1, momentum=0.9), None).keep.snapshots[0]  # type: ignore[attr-defined]
    assert content["state"]["batch"] == 1  # inside an epoch
    other = net()
    if how.get("replicas", 1) > 1:
        other.replicate([0, 1])
    chosen = optimizer(other.param())
    before = [p.clone() for p, _ in other.param()]
    with pytest.raises(UserError, match=message):
        simple(other, chosen, content, **how)
    assert all(torch.equal(p, b) for (p, _), b in zip(other.param(), before, strict=True))
    assert chosen.t == 0
    assert all(not slot.any() for slot in chosen.slots.values())


def test_other_data_inside_an_epoch_is_refused_with_both_numbers() -> None:
    content = snapshot_of(cycle, 2)

    def less() -> Any:
        how, optimizer, callbacks = cycle()
        return how, optimizer, [callbacks[0], ValidationSplit(0.5)]

    with pytest.raises(UserError, match="an epoch of 21 training samples, now there are 11"):
        run(less, content)


@pytest.mark.parametrize("change", [{"environment": []}, {"environment": {"mode": 7}}, {"state": 3}, {"metrics": None}])
def test_what_is_no_checkpoint_is_refused_part_by_part(change: dict[str, Any]) -> None:
    first = Sequential(Linear(2, 3), Linear(3, 1))
    content = simple(first, SGD(first.param(), 0.1), None).keep.snapshots[0]  # type: ignore[attr-defined]
    for broken, place in (({**content, **change}, next(iter(change))), ({}, "has no environment")):
        with pytest.raises(UserError, match=place):
            simple(first, SGD(first.param(), 0.1), broken)


def test_a_refusal_by_a_callback_changes_nothing_either() -> None:
    class Refuse(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"a": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise UserError("no")

    def make() -> Any:
        return {"max_epochs": 1, "batch_size": 8}, lambda p: Adam(p), [Refuse()]

    content = snapshot_of(make, 2)
    net = drop_net()
    before = [p.clone() for p, _ in net.param()]
    trainer = Trainer(max_epochs=1, batch_size=8, device="cpu", callbacks=[Refuse()])
    optimizer = Adam(net.param())
    with pytest.raises(UserError, match="no"):
        trainer.fit(net, CrossEntropyLoss(), optimizer, points(), resume=content)
    assert all(torch.equal(p, b) for (p, _), b in zip(net.param(), before, strict=True))
    assert (optimizer.t, trainer.session.progress.step) == (0, 0)


def test_a_callback_that_is_new_or_gone_is_no_obstacle() -> None:
    content = snapshot_of(cycle, 4)

    def without() -> Any:
        how, optimizer, callbacks = cycle()
        return how, optimizer, [callbacks[1], GradientNorms()]

    assert run(without, content).session.progress.epoch == 4
