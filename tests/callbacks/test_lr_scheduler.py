"""LRScheduler against torch: the rate of every step is the one torch's scheduler gives a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as judge

from trainkit import (
    SGD,
    Adam,
    Callback,
    CrossEntropyLoss,
    Dataset,
    Linear,
    LRScheduler,
    MSELoss,
    RMSprop,
    Sequential,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.checkpoint.plain import to_plain
from trainkit.optim.optimizer import Optimizer
from trainkit.optim.schedules import SCHEDULERS
from trainkit.trainer.session import Session

LR, EPOCHS, A_EPOCH = 0.1, 12, 3
STEPS = EPOCHS * A_EPOCH  # 36

# every name of torch.optim.lr_scheduler; the plateau, which reads a metric, stands below
CASES: list[tuple[str, Mapping[str, Any]]] = [
    ("StepLR", {"step_size": 4, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 7, 7, 11], "gamma": 0.3}),
    ("ConstantLR", {"factor": 0.25, "total_iters": 5}),
    ("LinearLR", {"start_factor": 0.2, "end_factor": 0.9, "total_iters": 9}),
    ("ExponentialLR", {"gamma": 0.93}),
    ("PolynomialLR", {"total_iters": 10, "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.001}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.01}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3, "step_size_down": 4, "mode": "triangular2"}),
    (
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 2, "cycle_momentum": False, "mode": "exp_range", "gamma": 0.9},
    ),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 40}),
    ("OneCycleLR", {"max_lr": 0.3, "epochs": 10, "steps_per_epoch": 4, "anneal_strategy": "linear", "three_phase": True}),
    (
        "SequentialLR",
        {
            "schedulers": [{"LinearLR": {"start_factor": 0.1, "total_iters": 4}}, {"ExponentialLR": {"gamma": 0.8}}],
            "milestones": [5],
        },
    ),
    (
        "SequentialLR",
        {
            "schedulers": [{"ConstantLR": {}}, {"CosineAnnealingWarmRestarts": {"T_0": 2}}, {"StepLR": {"step_size": 2}}],
            "milestones": [2, 7],
        },
    ),
    (
        "ChainedScheduler",
        {"schedulers": [{"ExponentialLR": {"gamma": 0.9}}, {"ConstantLR": {"factor": 0.1, "total_iters": 4}}]},
    ),
    ("LambdaLR", {"lr_lambda": lambda k: 1 / (1 + k)}),
    ("MultiplicativeLR", {"lr_lambda": lambda k: 0.9 if k % 2 else 1.05}),
]
IDS = [f"{name}{i}" for i, (name, _) in enumerate(CASES)]
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], Callable[..., torch.optim.Optimizer]]] = {
    "SGD with momentum": (lambda p: SGD(p, LR, momentum=0.9), lambda p: torch.optim.SGD(p, LR, momentum=0.9)),
    "SGD": (lambda p: SGD(p, LR), lambda p: torch.optim.SGD(p, LR)),
    "Adam": (lambda p: Adam(p, LR, betas=(0.8, 0.99)), lambda p: torch.optim.Adam(p, LR, betas=(0.8, 0.99))),
    "RMSprop": (lambda p: RMSprop(p, LR, momentum=0.5), lambda p: torch.optim.RMSprop(p, LR, momentum=0.5)),
}


class Watch(Callback):
    """What each step used; listed before the scheduler, it looks before the next rate is set. Snapshots of every step."""

    def __init__(self, snapshots: bool = False) -> None:
        self.rates: list[list[float]] = []
        self.momentum: list[Any] = []
        self.kept: dict[int, dict[str, Any]] = {}
        if not snapshots:
            self.on_checkpoint = super().on_checkpoint  # type: ignore[method-assign]

    def on_train_batch_end(self, session: Session) -> None:
        self.rates.append(list(session.optimizer.per_replica["lr"]))
        self.momentum.append(getattr(session.optimizer, "betas", session.optimizer.scalars.get("momentum")))

    def on_checkpoint(self, session: Session) -> None:
        if session.progress.batch:
            self.kept[session.progress.step] = to_plain(session.snapshot())


class Script(Callback):
    def __init__(self, values: list[Any], name: str = "score") -> None:
        self.values, self.metric = values, name

    def on_train_epoch_end(self, session: Session) -> None:
        session.log(self.metric, self.values[session.progress.epoch])


class Refuses(Callback):
    def on_train_start(self, session: Session) -> None:
        raise UserError("stopped")


def points() -> Dataset:
    x = torch.linspace(-1, 1, 2 * A_EPOCH).unsqueeze(1)
    return tensors(x, 3 * x + 1)


def run(
    scheduler: LRScheduler | None,
    *more: Callback,
    optimizer: str = "SGD with momentum",
    lr: float | None = None,
    epochs: int = EPOCHS,
    resume: dict[str, Any] | None = None,
    snapshots: bool = False,
    replicas: int = 1,
) -> tuple[Watch, Trainer]:
    watch = Watch(snapshots)
    net = Sequential(Linear(1, 1)).initialize(torch.Generator().manual_seed(0))
    callbacks = [watch, *([scheduler] if scheduler else []), *more]
    trainer = Trainer(
        max_epochs=epochs,
        batch_size=2,
        device="cpu",
        dtype="float64",
        callbacks=callbacks,
        replicas=replicas,
        log_every_n_steps=1,
    )
    chosen = OPTIMIZERS[optimizer][0](net.param())
    if lr is not None:
        chosen = SGD(net.param(), lr, momentum=0.9)
    trainer.fit(net, MSELoss(), chosen, points(), resume=resume)
    return watch, trainer


def torchs(name: str, arguments: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    kwargs = dict(arguments)
    if "schedulers" in kwargs:
        kwargs["schedulers"] = [torchs(*next(iter(s.items())), optimizer) for s in kwargs["schedulers"]]
    if name == "ChainedScheduler":
        return judge.ChainedScheduler(kwargs["schedulers"])
    return getattr(judge, name)(optimizer, **kwargs)


def wanted(name: str, arguments: Mapping[str, Any], interval: str, optimizer: str) -> tuple[list[float], list[Any]]:
    """Rates and momenta that torch's own loop uses."""
    p = nn.Parameter(torch.zeros(1))
    theirs = OPTIMIZERS[optimizer][1]([p])
    scheduler = torchs(name, arguments, theirs)
    rates, momenta = [], []
    for step in range(STEPS):
        group = theirs.param_groups[0]
        rates.append(group["lr"])
        momenta.append(group.get("betas", group.get("momentum")))
        p.grad = torch.ones(1)
        theirs.step()
        if interval == "step" or step % A_EPOCH == A_EPOCH - 1:
            scheduler.step()
    return rates, momenta


def test_no_scheduler_of_torch_is_left_out() -> None:
    theirs = {n for n in dir(judge) if isinstance(getattr(judge, n), type) and issubclass(getattr(judge, n), judge.LRScheduler)}
    assert set(SCHEDULERS) == theirs - {"LRScheduler", "_LRScheduler"}
    assert {name for name, _ in CASES} | {"ReduceLROnPlateau"} == set(SCHEDULERS)
    assert len(SCHEDULERS) == 15


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_every_rate_is_torchs(name: str, arguments: Mapping[str, Any], interval: Any) -> None:
    watch, _ = run(LRScheduler(interval, **{name: arguments}))
    rates, momenta = wanted(name, arguments, interval, "SGD with momentum")
    assert [r for (r,) in watch.rates] == pytest.approx(rates, rel=1e-12)  # torch's recursions round at each update
    assert watch.momentum == pytest.approx(momenta, rel=1e-12)
    assert len(set(rates)) > 1


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_cycled_momentum_reaches_the_optimizer(name: str, optimizer: str) -> None:
    arguments = next(a for n, a in CASES if n == name)
    watch, _ = run(LRScheduler("step", **{name: arguments}), optimizer=optimizer)
    rates, momenta = wanted(name, arguments, "step", optimizer)
    assert [r for (r,) in watch.rates] == pytest.approx(rates, rel=1e-12)
    torch.testing.assert_close(torch.tensor(watch.momentum), torch.tensor(momenta), rtol=1e-12, atol=0)
    assert len(set(momenta)) > 2


@pytest.mark.parametrize("optimizer", ["SGD with momentum", "Adam", "RMSprop"])
def test_the_weights_under_a_cycled_momentum_are_torchs(optimizer: str) -> None:
    arguments = {"max_lr": 0.05, "total_steps": STEPS + 1}
    data = points()
    net = Sequential(Linear(1, 1)).initialize(torch.Generator().manual_seed(0)).to(dtype=torch.float64)
    rival = nn.Sequential(nn.Linear(1, 1, dtype=torch.float64))
    rival.load_state_dict(net.state_dict())
    trainer = Trainer(
        max_epochs=STEPS, batch_size=None, device="cpu", dtype="float64", callbacks=[LRScheduler("step", OneCycleLR=arguments)]
    )
    trainer.fit(net, MSELoss(), OPTIMIZERS[optimizer][0](net.param()), data)
    theirs = OPTIMIZERS[optimizer][1](rival.parameters())
    scheduler = judge.OneCycleLR(theirs, **arguments)
    for _ in range(STEPS):
        theirs.zero_grad()
        nn.functional.mse_loss(rival(data.train.x.double()), data.train.t.double()).backward()
        theirs.step()
        scheduler.step()
    for (p, _), q in zip(net.param(), rival.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=1e-10, atol=1e-12)


def test_an_optimizer_without_momentum_cycles_its_rate_alone() -> None:
    for name in ("CyclicLR", "OneCycleLR"):
        arguments = next(a for n, a in CASES if n == name)
        watch, _ = run(LRScheduler("step", **{name: arguments}), optimizer="SGD")
        rates, _ = wanted(name, {**arguments, "cycle_momentum": False}, "step", "SGD")
        assert [r for (r,) in watch.rates] == pytest.approx(rates, rel=1e-12)
        assert set(watch.momentum) == {0.0}
        with pytest.raises(UserError, match="cycle_momentum needs an optimizer with momentum"):
            run(LRScheduler("step", **{name: {**arguments, "cycle_momentum": True}}), optimizer="SGD")


# -- the plateau ---------------------------------------------------------------------------------------------------------

PLATEAUS: list[tuple[dict[str, Any], list[float]]] = [
    # torch counts bad epochs beyond patience: with patience 1 the second bad one lowers the rate
    ({"patience": 1, "factor": 0.5}, [9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9]),
    ({"patience": 0, "factor": 0.1, "cooldown": 2, "min_lr": 0.005}, [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
    ({"patience": 1, "mode": "max", "threshold": 0.5, "threshold_mode": "abs"}, [1, 1.4, 1.6, 2, 2.2, 2.4, 2.6, 3, 3, 3, 3, 3]),
    ({"patience": 2}, [5, math.nan, 4, math.nan, math.nan, math.nan, 3, 3, 3, 3, 3, 3]),
]


@pytest.mark.parametrize(("arguments", "values"), PLATEAUS)
def test_a_plateau_counts_as_torch_does(arguments: dict[str, Any], values: list[float]) -> None:
    watch, _ = run(LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", **arguments}), Script(values))
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], LR)
    scheduler = judge.ReduceLROnPlateau(theirs, **arguments)
    rates = []
    for value in values:
        rates += [theirs.param_groups[0]["lr"]] * A_EPOCH
        theirs.step()
        scheduler.step(value)
    assert [r for (r,) in watch.rates] == rates
    assert len(set(rates)) > 1


def test_patience_1_lowers_the_rate_at_the_second_bad_epoch() -> None:
    watch, _ = run(
        LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", "patience": 1, "factor": 0.5}), Script([9] * 6), epochs=6
    )
    assert [r for (r,) in watch.rates[::A_EPOCH]] == [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]


def test_each_replica_has_a_plateau_of_its_own() -> None:
    script = Script([(9, 9), (9, 8), (9, 7), (9, 6)])
    watch, _ = run(
        LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", "patience": 0, "factor": 0.5}),
        script,
        epochs=4,
        replicas=2,
    )
    assert watch.rates[::A_EPOCH] == [[0.1], [0.1], [0.05, 0.1], [0.025, 0.1]]


def test_a_plateau_reads_its_metric_wherever_it_is_listed() -> None:
    """The scheduler stands before the callback that logs, and still sees this epoch's value."""
    watch, _ = run(
        LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", "patience": 0, "factor": 0.5}),
        Script([1, 2, 3]),
        epochs=3,
    )
    assert [r for (r,) in watch.rates[::A_EPOCH]] == [0.1, 0.1, 0.05]
    with pytest.raises(UserError, match="no metric 'scor'"):
        run(LRScheduler(monitor="scor", ReduceLROnPlateau={"mode": "min"}), Script([1]), epochs=1)


# -- warm-up -------------------------------------------------------------------------------------------------------------


def test_warm_up_grows_in_equal_parts() -> None:
    watch, _ = run(LRScheduler(warmup_steps=4), epochs=2)
    assert [r for (r,) in watch.rates] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_warm_up_scales_the_schedule(interval: Any) -> None:
    plain_watch, _ = run(LRScheduler(interval, ExponentialLR={"gamma": 0.9}))
    warm_watch, _ = run(LRScheduler(interval, warmup_steps=7, ExponentialLR={"gamma": 0.9}))
    grown = [min(1, (k + 1) / 7) for k in range(STEPS)]
    assert [r for (r,) in warm_watch.rates] == [r * g for (r,), g in zip(plain_watch.rates, grown, strict=True)]


# -- resuming ------------------------------------------------------------------------------------------------------------

RESUMED = [*CASES, ("ReduceLROnPlateau", {"mode": "min", "patience": 1, "factor": 0.7, "cooldown": 1})]


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(("name", "arguments"), RESUMED, ids=[*IDS, "ReduceLROnPlateau"])
def test_a_resumed_run_is_the_uninterrupted_one(name: str, arguments: Mapping[str, Any], interval: Any) -> None:
    def parts() -> tuple[LRScheduler, Script]:
        return LRScheduler(interval, "score", 5, **{name: arguments}), Script([9, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7, 7])

    whole, trainer = run(*parts(), snapshots=True)
    for k in (2, 10, 25):  # inside an epoch each; the first inside the warm-up
        rest, resumed = run(*parts(), resume=whole.kept[k])
        assert rest.rates == whole.rates[k:]
        assert rest.momentum == whole.momentum[k:]
        assert resumed.summary["params_sha256"] == trainer.summary["params_sha256"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("CosineAnnealingLR", {"T_max": 12}), ("CosineAnnealingLR", {"T_max": 20})),
        (("CosineAnnealingLR", {"T_max": 12}), ("StepLR", {"step_size": 3})),
        (("StepLR", {"step_size": 3}), ("StepLR", {"step_size": 3, "gamma": 0.5})),
    ],
)
def test_a_schedule_changed_on_resume_is_the_new_one_from_there(before: Any, after: Any) -> None:
    old, _ = run(LRScheduler(**dict([before])), snapshots=True)
    new, _ = run(LRScheduler(**dict([after])))
    rest, _ = run(LRScheduler(**dict([after])), resume=old.kept[17])
    assert rest.rates == new.rates[17:]


def test_a_rate_changed_on_resume_is_the_new_one_from_there() -> None:
    schedule: dict[str, Any] = {"CosineAnnealingLR": {"T_max": 12}}
    old, _ = run(LRScheduler(**schedule), snapshots=True)
    new, _ = run(LRScheduler(**schedule), lr=0.02)
    rest, _ = run(LRScheduler(**schedule), lr=0.02, resume=old.kept[17])
    assert rest.rates == new.rates[17:]
    bare, _ = run(None, lr=0.02, resume=old.kept[17])  # without a schedule: the configured rate
    assert bare.rates == [[0.02]] * (STEPS - 17)


def test_a_plateau_keeps_its_share_of_a_rate_changed_on_resume() -> None:
    arguments: dict[str, Any] = {"patience": 0, "factor": 0.5}
    old, _ = run(LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", **arguments}), Script([9] * 12), snapshots=True)
    assert old.rates[8] == [0.05]
    rest, _ = run(
        LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", **arguments}),
        Script([1] * 12),
        lr=0.02,
        resume=old.kept[8],
    )
    assert rest.rates[0] == [0.01]


def test_an_interval_changed_on_resume_counts_in_the_new_one() -> None:
    schedule: dict[str, Any] = {"ExponentialLR": {"gamma": 0.9}}
    old, _ = run(LRScheduler("step", **schedule), snapshots=True)
    new, _ = run(LRScheduler("epoch", **schedule))
    rest, _ = run(LRScheduler("epoch", **schedule), resume=old.kept[17], snapshots=True)
    assert rest.rates == new.rates[17:]
    again, _ = run(LRScheduler("epoch", **schedule), resume=rest.kept[26])
    assert again.rates == new.rates[26:]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_every_schedule_that_comes_on_resume_is_where_it_would_be(
    name: str, arguments: Mapping[str, Any], interval: Any, replicas: int
) -> None:
    old, _ = run(LRScheduler(interval, StepLR={"step_size": 5}), snapshots=True, replicas=replicas)
    new, _ = run(LRScheduler(interval, **{name: arguments}), replicas=replicas)
    for k in (2, 7, 10, 17, 22, 25):
        rest, _ = run(LRScheduler(interval, **{name: arguments}), resume=old.kept[k], replicas=replicas)
        assert rest.rates == new.rates[k:]
        assert rest.momentum == new.momentum[k:]


def test_a_function_of_the_step_has_no_state() -> None:
    old, _ = run(LRScheduler(CosineAnnealingLR={"T_max": 12}), snapshots=True)
    assert old.kept[17]["callbacks"]["lr_scheduler"] == {}


FORGED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda s: s["plateaus"][0].update(rate=0.2),
        r"plateaus\[0\]\.rate: 0\.2; needs a number from 0 to the configured rate, 0\.1",
    ),
    (lambda s: s["plateaus"][0].update(rate=-0.1), r"plateaus\[0\]\.rate: -0\.1; needs a number from 0"),
    (lambda s: s["plateaus"][0].update(rate=math.nan), r"plateaus\[0\]\.rate: nan"),
    (lambda s: s["plateaus"][0].update(rate=1e300, base=1e300), r"plateaus\[0\]\.rate: 1e\+300; .* which is below 1e\+38"),
    (lambda s: s["plateaus"][0].update(bad_epochs=-1), r"plateaus\[0\]\.bad_epochs: -1; needs a whole number from 0"),
    (lambda s: s["plateaus"][0].update(best="x"), r"plateaus\[0\]\.best: 'x'; needs a number"),
    (lambda s: s["plateaus"][0].pop("cooldown"), r"plateaus\[0\]: has no cooldown"),
    (lambda s: s.update(plateaus=3), r"plateaus: 3; needs a list"),
    (lambda s: s.update(more=3), " more is not known"),
]


@pytest.mark.parametrize(("forge", "message"), FORGED)
def test_a_state_that_no_plateau_has_is_refused(forge: Callable[[dict[str, Any]], object], message: str) -> None:
    def plateau() -> LRScheduler:
        return LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", "patience": 0})

    old, _ = run(plateau(), Script([9] * 12), snapshots=True)
    forge(old.kept[17]["callbacks"]["lr_scheduler"])
    with pytest.raises(UserError, match=f"resume: callbacks.lr_scheduler: state[.:]{message}"):
        run(plateau(), Script([9] * 12), resume=old.kept[17])


# -- checkpoints of releases that stepped torch's schedulers ----------------------------------------------------------------


def earlier(name: str, arguments: Mapping[str, Any], monitor: str, values: list[float], updates: int) -> dict[str, Any]:
    """The state that such a release saved: the plain attributes of torch's scheduler, and the group that it moved."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], LR)
    scheduler = torchs(name, arguments, optimizer)
    optimizer.step()
    for i in range(updates):
        scheduler.step(*values[i : i + 1])
    plain_types = (int, float, str, bool, type(None))
    group = optimizer.param_groups[0]
    return {
        "schedule": repr(((name, arguments), "epoch")),
        "monitor": monitor,
        "advanced": 0 if values else updates,
        "progress": [{k: v for k, v in vars(scheduler).items() if isinstance(v, plain_types)}],
        "groups": [[{"lr": group["lr"], "initial_lr": LR}]],
    }


def test_an_earlier_plateau_goes_on_where_it_was() -> None:
    arguments: dict[str, Any] = {"patience": 1, "factor": 0.7, "cooldown": 1}
    scores = [9.0, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7, 7]
    whole, _ = run(LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", **arguments}), Script(scores), snapshots=True)
    for k in (2, 10, 17, 25):
        epoch = k // A_EPOCH
        state = earlier("ReduceLROnPlateau", arguments, "min score", scores[:epoch], epoch)
        resume = {**whole.kept[k], "callbacks": {**whole.kept[k]["callbacks"], "lr_scheduler": state}}
        rest, _ = run(
            LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", **arguments}), Script(scores), resume=resume
        )
        assert rest.rates == whole.rates[k:]


@pytest.mark.parametrize(("name", "arguments"), [CASES[0], CASES[6], CASES[7]])
def test_an_earlier_state_of_a_function_of_the_step_is_not_needed(name: str, arguments: Mapping[str, Any]) -> None:
    whole, _ = run(LRScheduler(**{name: arguments}), snapshots=True)
    state = earlier(name, arguments, "", [], 17 // A_EPOCH)
    resume = {**whole.kept[17], "callbacks": {**whole.kept[17]["callbacks"], "lr_scheduler": state}}
    rest, _ = run(LRScheduler(**{name: arguments}), resume=resume)
    assert rest.rates == whole.rates[17:]


EARLIER_FORGED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda s: s["groups"][0][0].update(lr="x"), r"groups\[0\]\[0\]\.lr: 'x'; needs a number"),
    (lambda s: s["groups"][0][0].update(lr=9.0), r"plateaus\[0\]\.rate: 9; needs"),
    (lambda s: s["progress"][0].update(num_bad_epochs=-1), r"progress\[0\]\.num_bad_epochs: -1"),
    (lambda s: s["progress"][0].pop("best"), r"progress\[0\]: has no best"),
    (lambda s: s.pop("advanced"), "has no advanced"),
    (lambda s: s.update(schedule=3), "schedule: 3; needs text"),
]


@pytest.mark.parametrize(("forge", "message"), EARLIER_FORGED)
def test_a_damaged_earlier_state_is_refused(forge: Callable[[dict[str, Any]], object], message: str) -> None:
    state = earlier("ReduceLROnPlateau", {"patience": 1}, "min score", [9.0, 8], 2)
    forge(state)
    with pytest.raises(UserError, match=f"state.?.?{message}"):
        LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", "patience": 1}).load_state_dict(state)


# -- the curve before training, and mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=IDS)
def test_the_curve_is_what_the_run_uses(name: str, arguments: Mapping[str, Any], interval: Any) -> None:
    scheduler = LRScheduler(interval, warmup_steps=4, **{name: arguments})
    curve = scheduler.curve(LR, EPOCHS, A_EPOCH)
    watch, _ = run(scheduler)
    assert curve == [r for (r,) in watch.rates]


def test_a_curve_may_cycle_the_momentum() -> None:
    arguments = {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3, "cycle_momentum": True}
    assert max(LRScheduler("step", CyclicLR=arguments).curve(LR, 2, 3)) == 0.2


def test_the_rate_is_a_metric() -> None:
    _, trainer = run(LRScheduler(StepLR={"step_size": 1, "gamma": 0.5}), epochs=3)
    assert trainer.summary["metrics"]["lr"] == 0.025  # the last epoch's


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, "no scheduler; give one of StepLR"),
    ({"StepLR": {"step_size": 1}, "ExponentialLR": {"gamma": 0.9}}, "StepLR, ExponentialLR; give one of"),
    ({"CosineLR": {}}, "no scheduler 'CosineLR'"),
    ({"CosineAnnealing": {}}, "did you mean 'CosineAnnealingLR'"),
    ({"StepLR": 3}, "needs its arguments as a mapping"),
    ({"StepLR": {}}, r"StepLR: needs step_size \(step_size, gamma\)"),
    ({"StepLR": {"stepsize": 3}}, "no argument 'stepsize'; did you mean 'step_size'"),
    ({"StepLR": {"step_size": 3, "last_epoch": 2}}, "no argument 'last_epoch'"),
    ({"LambdaLR": {"lr_lambda": "os.system"}}, "lr_lambda is a function, which only Python can give"),
    ({"SequentialLR": {"schedulers": ["StepLR"], "milestones": []}}, "needs one scheduler with its arguments"),
    ({"SequentialLR": {"schedulers": [{"StepLr": {}}], "milestones": []}}, "did you mean 'StepLR'"),
    ({"interval": "batch", "StepLR": {"step_size": 3}}, "interval='batch'; needs epoch or step"),
    ({"warmup_steps": -1}, "warmup_steps=-1"),
    ({"OneCycleLR": {"max_lr": 0.1}}, "OneCycleLR: needs total_steps, or epochs and steps_per_epoch"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_told_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LRScheduler(**arguments)


def test_a_refusal_before_the_first_step_names_the_callback() -> None:
    with pytest.raises(UserError, match=r"callbacks\.lr_scheduler on_fit_start.*OneCycleLR.*total_steps"):
        run(LRScheduler(OneCycleLR={"max_lr": 0.1, "total_steps": EPOCHS - 1}))


# -- the trial before the first step -------------------------------------------------------------------------------------

TRIALS: list[tuple[str, dict[str, Any], str]] = [
    ("epoch", {"StepLR": {"step_size": "three"}}, r"StepLR\.step_size: 'three'; needs a whole number"),
    ("epoch", {"StepLR": {"step_size": True}}, r"StepLR\.step_size: true"),
    ("epoch", {"StepLR": {"step_size": 0}}, r"StepLR\.step_size: 0; needs a finite number of at least 1"),
    ("epoch", {"ExponentialLR": {"gamma": -0.5}}, r"ExponentialLR\.gamma: -0\.5"),
    ("epoch", {"ExponentialLR": {"gamma": 1j}}, r"ExponentialLR\.gamma: 1j; needs a number"),
    ("epoch", {"ExponentialLR": {"gamma": 1e5}}, r"a rate of 1e\+39; .*, at epoch 8 of 12; change its arguments"),
    (
        "step",
        {"OneCycleLR": {"max_lr": 0.1, "total_steps": 6}},
        "total_steps=6 is less than the 36 steps .*; set total_steps=36",
    ),
    ("epoch", {"ReduceLROnPlateau": {"mode": "most"}}, r"ReduceLROnPlateau\.mode: 'most'"),
    (
        "epoch",
        {"ReduceLROnPlateau": {"min_lr": [0.1, 0.2]}},
        r"ReduceLROnPlateau\.min_lr: 2 values; needs one value, or one per replica \(trainer\.replicas=1\)",
    ),
    ("epoch", {"LambdaLR": {"lr_lambda": lambda k: {}[k]}}, "LambdaLR: KeyError: 0"),
    ("epoch", {"LambdaLR": {"lr_lambda": lambda k: 1 if k < 5 else math.nan}}, "a rate of nan; .*, at epoch 5 of 12"),
    ("epoch", {"LambdaLR": {"lr_lambda": lambda k: 1j}}, "LambdaLR: .*complex.*, at epoch 0 of 12"),
    ("step", {"CyclicLR": {"base_lr": 0.1, "max_lr": 0.2, "max_momentum": 1.5}}, "a momentum of 1.5; needs at least 0"),
    (
        "epoch",
        {
            "SequentialLR": {
                "schedulers": [{"StepLR": {"step_size": 1}}, {"OneCycleLR": {"max_lr": 1, "total_steps": 5}}],
                "milestones": [4],
            }
        },
        "total_steps=5 is less than the 8 epochs",
    ),
]


@pytest.mark.parametrize(("interval", "schedule", "message"), TRIALS)
def test_a_schedule_that_would_fail_on_the_way_is_refused_before_the_first_step(
    interval: Any, schedule: dict[str, Any], message: str
) -> None:
    watch = Watch()
    with pytest.raises(UserError, match=message):
        run(LRScheduler(interval, "train/loss", **schedule), watch)
    assert watch.rates == []


@pytest.mark.parametrize(
    ("name", "arguments", "place"),
    [
        ("ExponentialLR", {"gamma": 1.002}, r"\d+ of 300000"),
        ("StepLR", {"step_size": 290_000, "gamma": 1e40}, "290000 of 300000"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1e39, "step_size_up": 200_000}, r"\d+ of 300000"),
        ("LambdaLR", {"lr_lambda": lambda k: -1 if k == 299_999 else 1}, "299999 of 300000"),
    ],
)
def test_a_failure_far_behind_is_found_without_all_steps_before_it(name: str, arguments: Any, place: str) -> None:
    with pytest.raises(UserError, match=f"{name}: .*, at step {place}; change"):
        run(LRScheduler("step", **{name: arguments}), epochs=100_000)


def test_a_long_product_is_tried_over_its_beginning_alone() -> None:
    """Its rates follow from one another: 50,000 are computed before the first step, not all."""
    asked: list[int] = []

    def fades(k: int) -> float:
        asked.append(k)
        return 0.999

    with pytest.raises(UserError, match=r"MultiplicativeLR: a rate of .*, at step \d+ of 300000"):
        run(LRScheduler("step", MultiplicativeLR={"lr_lambda": lambda k: 1.01}), epochs=100_000)
    with pytest.raises(UserError, match="stopped"):
        run(LRScheduler("step", MultiplicativeLR={"lr_lambda": fades}), Refuses(), epochs=100_000)
    assert asked == [*range(1, 50_000)]
    with pytest.raises(UserError, match=r"MultiplicativeLR: computes each rate from .* \(got 10,000,002\); use fewer steps"):
        run(LRScheduler("step", MultiplicativeLR={"lr_lambda": fades}), epochs=3_333_334)


def test_a_schedule_may_end_at_0_and_with_the_run() -> None:
    linear, _ = run(LRScheduler("step", LinearLR={"start_factor": 0.1, "end_factor": 0, "total_iters": 5}))
    assert linear.rates[5:] == [[0.0]] * (STEPS - 5)
    for arguments in ({"anneal_strategy": "linear"}, {"pct_start": 1}):  # torch's own divides by 0 behind the last step
        cycle, _ = run(LRScheduler("step", OneCycleLR={"max_lr": 0.1, "total_steps": STEPS, **arguments}))
        assert min(cycle.rates)[0] >= 0


def test_a_rate_of_0_for_some_epochs_trains_nothing_and_then_all() -> None:
    watch, _ = run(LRScheduler(ConstantLR={"factor": 0, "total_iters": 7}))
    assert watch.rates == [[0.0]] * 7 * A_EPOCH + [[LR]] * 5 * A_EPOCH


def test_a_function_is_asked_for_the_epochs_of_the_run_and_no_other() -> None:
    asked: list[int] = []

    def halves(k: int) -> float:
        asked.append(k)
        return float(0.5**k)

    watch, _ = run(LRScheduler(LambdaLR={"lr_lambda": halves}), epochs=3)
    assert asked == [0, 1, 2] * 2  # before the first step, then in the run
    assert watch.rates[::A_EPOCH] == [[0.1], [0.05], [0.025]]


# -- resumed with another configuration ------------------------------------------------------------------------------------


def test_a_plateau_of_another_metric_keeps_the_rate_and_begins_its_count_anew(capsys: pytest.CaptureFixture[str]) -> None:
    """The old metric's best of 0 would let no value of the new one count as better."""
    arguments: dict[str, Any] = {"patience": 1, "factor": 0.5}
    old, _ = run(LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", **arguments}), Script([0] * 12), snapshots=True)
    assert old.rates[17] == [0.025]
    rising, falling = list(range(12)), [20 - k for k in range(12)]
    for name, values, mode in (("other", falling, "min"), ("other", rising, "max"), ("score", rising, "max")):
        plateau = LRScheduler(monitor=name, ReduceLROnPlateau={**arguments, "mode": mode})
        rest, _ = run(plateau, Script(values, name), resume=old.kept[17])
        assert set(map(tuple, rest.rates)) == {(0.025,)}
        assert f"the monitor was min score, now it is {mode} {name}; its best" in capsys.readouterr().err


@pytest.mark.parametrize(
    "before",
    [
        {"ReduceLROnPlateau": {"mode": "min", "patience": 0, "factor": 0.1}},
        {"StepLR": {"step_size": 1}},
        {"warmup_steps": 3},
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize(("name", "arguments"), [CASES[0], CASES[12], CASES[14]])
def test_whatever_the_schedule_was_the_new_one_is_run_anew_up_to_there(
    before: Any, interval: Any, name: str, arguments: Any
) -> None:
    scheduler = LRScheduler(monitor="score", **before) if before else None
    old, _ = run(scheduler, Script([9] * 12), snapshots=True)
    new, _ = run(LRScheduler(interval, **{name: arguments}))
    rest, _ = run(LRScheduler(interval, **{name: arguments}), resume=old.kept[17])
    assert rest.rates == new.rates[17:]


def test_a_plateau_that_was_another_schedule_begins_at_the_configured_rate(capsys: pytest.CaptureFixture[str]) -> None:
    old, _ = run(LRScheduler(StepLR={"step_size": 1}), snapshots=True)
    rest, _ = run(
        LRScheduler(monitor="score", ReduceLROnPlateau={"mode": "min", "patience": 99}), Script([9] * 12), resume=old.kept[17]
    )
    assert set(map(tuple, rest.rates)) == {(LR,)}
    assert "the plateau starts over, from the configured rate" in capsys.readouterr().err


@pytest.mark.parametrize("schedule", [{"StepLR": {"step_size": 3}}, {"ReduceLROnPlateau": {}}], ids=str)
def test_a_momentum_changed_on_resume_is_the_new_one(schedule: dict[str, Any]) -> None:
    old, _ = run(LRScheduler(monitor="train/loss", **schedule), snapshots=True, optimizer="RMSprop")
    OPTIMIZERS["RMSprop of another momentum"] = (lambda p: RMSprop(p, LR, momentum=0.25), OPTIMIZERS["RMSprop"][1])
    rest, _ = run(LRScheduler(monitor="train/loss", **schedule), resume=old.kept[17], optimizer="RMSprop of another momentum")
    assert set(rest.momentum) == {0.25}


@pytest.mark.parametrize(("monitor", "lowered"), [("val/loss", True), ("val/accuracy", False), ("val/error", True)])
def test_a_plateau_takes_its_direction_from_the_metric(monitor: str, lowered: bool) -> None:
    """Each metric rises in every epoch: of these, only an accuracy improves."""

    class Rising(Callback):
        def on_validation_end(self, session: Session) -> None:
            session.log(monitor, float(session.progress.epoch))

    scheduler = LRScheduler(monitor=monitor, ReduceLROnPlateau={"patience": 0, "factor": 0.5})
    net = Sequential(Linear(2, 2))
    trainer = Trainer(max_epochs=3, callbacks=[ValidationSplit(0.5), scheduler, Rising()], device="cpu")
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), 0.1), disk(20))
    assert (trainer.fitted().lr[0] < 0.1) is lowered


def test_a_plateau_of_a_metric_of_unknown_direction_needs_a_mode(capsys: pytest.CaptureFixture[str]) -> None:
    message = "callbacks.lr_scheduler: monitor='score': whether larger values are better is not known; set mode=min or mode=max"
    with pytest.raises(UserError, match=message):
        run(LRScheduler(monitor="score", ReduceLROnPlateau={}), Script([1]), epochs=1)
    run(LRScheduler(monitor="train/loss", ReduceLROnPlateau={"mode": "max"}), epochs=1)
    line = "callbacks.lr_scheduler: monitor='train/loss', mode=max: of this metric, smaller values are better"
    assert line in capsys.readouterr().err
