"""Every schedule against torch's of that name: 1,000 updates over drawn arguments; after a resume the very same numbers."""

from __future__ import annotations

import inspect
import math
import random
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as reference

from trainkit import UserError
from trainkit.optim.schedule_arguments import build, build_each, check, check_length
from trainkit.optim.schedules import (
    SCHEDULERS,
    SCHEDULES,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LinearLR,
    OneCycleLR,
    Plateau,
    PolynomialLR,
    ReduceLROnPlateau,
    Schedule,
    warm_up,
)
from trainkit.optim.schedules.base import power

UPDATES = 1000
Arguments = dict[str, Any]


def torchs(name: str, arguments: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    """torch's schedule; those inside are built first, in their order."""
    kwargs = dict(arguments)
    if "schedulers" in kwargs:
        kwargs["schedulers"] = [torchs(of, given, optimizer) for inner in kwargs["schedulers"] for of, given in inner.items()]
    if name == "ChainedScheduler":
        return reference.ChainedScheduler(kwargs["schedulers"], optimizer)
    return getattr(reference, name)(optimizer, **kwargs)


def an_optimizer(base: float, **settings: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], base, **settings)
    optimizer.step()  # a scheduler warns where it is stepped before the optimizer
    return optimizer


def expected(name: str, arguments: Mapping[str, Any], base: float, updates: int = UPDATES) -> tuple[list[float], list[float]]:
    """The rates and momenta that torch's schedule gives, one update after the other."""
    optimizer = an_optimizer(base, momentum=0.9)
    group, scheduler = optimizer.param_groups[0], torchs(name, arguments, optimizer)
    optimizer.step()
    rates, momenta = [], []
    for _ in range(updates):
        rates.append(float(group["lr"]))
        momenta.append(float(group["momentum"]))
        scheduler.step()
    return rates, momenta


def rates(schedule: Schedule, base: float, updates: int = UPDATES) -> list[float]:
    return [schedule.rate(k, base) for k in range(updates)]


def assert_close(ours: list[float], theirs: list[float], scale: float) -> None:
    """Relative 1e-12. Where torch's recursion should give 0 but is rounded (LinearLR down to 0), 1e-15 of `scale`."""
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15 * scale), f"after {k} updates: {a!r}, torch has {b!r}"


# -- drawn arguments -----------------------------------------------------------------------------------------------------

COUNTS = st.sampled_from([1, 2, 3, 7, 30, 100, 333, 999, 1500]) | st.integers(1, 1200)
SHARES = st.floats(0.01, 1.0)
GAMMAS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.005]) | st.floats(0.9, 1.01)
BASES = st.sampled_from([0.1, 1.0, 3.0]) | st.floats(1e-4, 10)
MINIMA = st.sampled_from([0.0, 0.001, 20.0])  # the last is above every base


def halves_every_ten(k: int) -> float:
    return 0.5 if k % 10 == 9 else 1.02


def falls(k: int) -> float:
    return 1 / (1 + 0.1 * k)


SIMPLE: dict[str, st.SearchStrategy[Arguments]] = {
    "StepLR": st.fixed_dictionaries({"step_size": COUNTS, "gamma": GAMMAS}),
    "MultiStepLR": st.fixed_dictionaries(
        {"milestones": st.lists(st.integers(0, 1200), max_size=6).map(sorted), "gamma": GAMMAS}
    ),
    "ConstantLR": st.fixed_dictionaries({"factor": SHARES, "total_iters": COUNTS}),
    "LinearLR": st.fixed_dictionaries({"start_factor": SHARES, "end_factor": SHARES | st.just(0.0), "total_iters": COUNTS}),
    "ExponentialLR": st.fixed_dictionaries({"gamma": GAMMAS}),
    "PolynomialLR": st.fixed_dictionaries({"total_iters": COUNTS, "power": st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3])}),
    # With another eta_min torch's recursion is worse than 1e-12 behind a minimum, which has a test of its own below.
    "CosineAnnealingLR": st.fixed_dictionaries({"T_max": COUNTS})
    | st.fixed_dictionaries({"T_max": st.just(UPDATES), "eta_min": MINIMA}),
    "CosineAnnealingWarmRestarts": st.fixed_dictionaries({"T_0": COUNTS, "T_mult": st.integers(1, 4), "eta_min": MINIMA}),
    "LambdaLR": st.just({"lr_lambda": falls}),
    "MultiplicativeLR": st.just({"lr_lambda": halves_every_ten}),
}
CYCLES: dict[str, st.SearchStrategy[Arguments]] = {
    "CyclicLR": st.fixed_dictionaries(
        {
            "base_lr": st.floats(1e-3, 0.1),
            "max_lr": st.floats(1e-3, 1.0),
            "step_size_up": COUNTS,
            "step_size_down": COUNTS | st.none(),
            "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]),
            "gamma": st.floats(0.9, 1.0),
            "scale_fn": st.sampled_from([None, falls]),
            "scale_mode": st.sampled_from(["cycle", "iterations"]),
            "cycle_momentum": st.booleans(),
        }
    ),
    "OneCycleLR": st.fixed_dictionaries(
        {
            "max_lr": st.floats(1e-3, 1.0),
            "total_steps": st.sampled_from([UPDATES, UPDATES + 1, 1700]),
            "pct_start": st.sampled_from([0.0, 0.3, 0.5, 1.0]) | st.floats(0, 1),
            "three_phase": st.booleans(),
            "anneal_strategy": st.sampled_from(["cos", "linear"]),
            "cycle_momentum": st.booleans(),
            "base_momentum": st.floats(0, 0.9),
            "div_factor": st.floats(1, 100),
            "final_div_factor": st.floats(1, 1e5),
        }
    ),
}


def one_of(strategies: Mapping[str, st.SearchStrategy[Arguments]]) -> st.SearchStrategy[Arguments]:
    return st.one_of([st.fixed_dictionaries({name: strategy}) for name, strategy in strategies.items()])


@st.composite
def sequences(draw: st.DrawFn) -> Arguments:
    schedulers = draw(st.lists(one_of(SIMPLE), min_size=1, max_size=4))
    n = len(schedulers) - 1
    return {
        "schedulers": schedulers,
        "milestones": sorted(draw(st.lists(st.integers(1, 900), min_size=n, max_size=n, unique=True))),
    }


SEVERAL: dict[str, st.SearchStrategy[Arguments]] = {
    "SequentialLR": sequences(),
    "ChainedScheduler": st.fixed_dictionaries(
        {"schedulers": st.lists(one_of({**SIMPLE, "SequentialLR": sequences()}), min_size=1, max_size=3)}
    ),
}
DRAWN = {**SIMPLE, **CYCLES, **SEVERAL}
torchs_own = settings(max_examples=60, deadline=None, derandomize=True)


def test_every_schedule_of_torch_is_here_and_is_drawn() -> None:
    classes = {n: c for n, c in vars(reference).items() if inspect.isclass(c) and issubclass(c, reference.LRScheduler)}
    assert set(SCHEDULERS) == set(classes) - {"LRScheduler", "_LRScheduler"}
    assert set(SCHEDULERS) == {*DRAWN, "ReduceLROnPlateau"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_names_order_and_defaults_of_arguments_are_torchs(name: str) -> None:
    def of(function: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.default) for p in parameters if p.name not in ("optimizer", "last_epoch", "verbose")]

    assert of(SCHEDULES[name]) == of(getattr(reference, name))


# -- against torch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
@torchs_own
@given(data=st.data(), base=BASES)
def test_a_thousand_rates_and_momenta_are_torchs(name: str, data: st.DataObject, base: float) -> None:
    arguments = data.draw(DRAWN[name])
    check(name, arguments)
    schedule = build(name, arguments)
    theirs, momenta = expected(name, arguments, base)
    assert_close(rates(schedule, base), theirs, max(base, *map(abs, theirs)))
    ours = [schedule.momentum(k) for k in range(UPDATES)]
    if arguments.get("cycle_momentum"):
        assert_close([m or 0.0 for m in ours], momenta, 1.0)
    else:
        assert set(ours) == {None}


@pytest.mark.parametrize("name", DRAWN)
@torchs_own
@given(data=st.data(), base=BASES)
def test_a_resume_at_any_update_gives_the_very_same_numbers(name: str, data: st.DataObject, base: float) -> None:
    arguments = data.draw(DRAWN[name])
    whole = rates(build(name, arguments), base)
    resumed = build(name, arguments)
    for k in data.draw(st.lists(st.integers(0, UPDATES - 1), min_size=1, max_size=5)):
        assert resumed.rate(k, base) == whole[k]  # in any order: what a schedule keeps is a cache
        assert build(name, arguments).rate(k, base) == whole[k]


@torchs_own
@given(T_max=COUNTS, eta_min=MINIMA | st.floats(0, 1), base=BASES)
def test_cosine_annealing_past_its_minimum_is_torchs_closed_form(T_max: int, eta_min: float, base: float) -> None:
    """Up to the first minimum it is torch's recursion to 1e-12.

    Behind each minimum the recursion multiplies what was rounded there: lr - eta_min, of some 1e-17, grows by up to
    (2 T_max / π)² until the next maximum, to 1e-11 of the rate. The closed form is free of that.
    """
    ours, scale = rates(CosineAnnealingLR(T_max, eta_min), base), max(base, eta_min)
    theirs, _ = expected("CosineAnnealingLR", {"T_max": T_max, "eta_min": eta_min}, base)
    falling = min(T_max, UPDATES - 1) + 1
    assert ours[:falling] == pytest.approx(theirs[:falling], rel=1e-12, abs=1e-12 * scale)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-9 * scale)
    optimizer = an_optimizer(base)
    scheduler = reference.CosineAnnealingLR(optimizer, T_max, eta_min)
    closed = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a step to a given epoch, which is the closed form, is deprecated
        for k in range(UPDATES):
            scheduler.step(k)
            closed.append(float(optimizer.param_groups[0]["lr"]))
    assert ours == pytest.approx(closed, rel=1e-12, abs=1e-12 * scale)


# -- several -------------------------------------------------------------------------------------------------------------

LINEAR = {"LinearLR": {"start_factor": 0.1, "total_iters": 20}}
EXPONENTIAL = {"ExponentialLR": {"gamma": 0.99}}
COSINE = {"CosineAnnealingLR": {"T_max": 300}}
STEPS = {"StepLR": {"step_size": 50, "gamma": 0.5}}
CYCLE = {"CyclicLR": {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 17, "mode": "triangular2"}}


def test_a_sequence_inside_a_sequence_is_the_flat_one() -> None:
    """torch's own counts one update too many in a sequence inside a sequence: the flat one is the reference."""
    inner = {"SequentialLR": {"schedulers": [LINEAR, EXPONENTIAL], "milestones": [40]}}
    nested = build("SequentialLR", {"schedulers": [inner, COSINE], "milestones": [300]})
    theirs, _ = expected("SequentialLR", {"schedulers": [LINEAR, EXPONENTIAL, COSINE], "milestones": [40, 300]}, 0.1)
    assert_close(rates(nested, 0.1), theirs, 0.1)
    later = build("SequentialLR", {"schedulers": [COSINE, inner], "milestones": [300]})
    theirs, _ = expected("SequentialLR", {"schedulers": [COSINE, LINEAR, EXPONENTIAL], "milestones": [300, 340]}, 0.1)
    assert_close(rates(later, 0.1), theirs, 0.1)


def test_a_chain_inside_a_chain_is_the_flat_one() -> None:
    chain = {"ChainedScheduler": {"schedulers": [EXPONENTIAL, LINEAR]}}
    theirs, _ = expected("ChainedScheduler", {"schedulers": [EXPONENTIAL, LINEAR, COSINE, STEPS]}, 0.1)
    for schedulers in ([chain, COSINE, STEPS], [EXPONENTIAL, {"ChainedScheduler": {"schedulers": [LINEAR, COSINE]}}, STEPS]):
        assert_close(rates(build("ChainedScheduler", {"schedulers": schedulers}), 0.1), theirs, 0.1)


@pytest.mark.parametrize("milestone", [1, 100])
def test_a_chain_inside_a_sequence_counts_from_its_beginning(milestone: int) -> None:
    """torch counts one update too many in a chain that is first, and fails at one that is not."""
    chain = {"ChainedScheduler": {"schedulers": [EXPONENTIAL, COSINE, LINEAR]}}
    alone, _ = expected("ChainedScheduler", chain["ChainedScheduler"], 0.1)
    before, _ = expected("StepLR", STEPS["StepLR"], 0.1)
    first = build("SequentialLR", {"schedulers": [chain, STEPS], "milestones": [milestone]})
    assert_close(rates(first, 0.1), alone[:milestone] + before[: UPDATES - milestone], 0.1)
    later = build("SequentialLR", {"schedulers": [STEPS, chain], "milestones": [milestone]})
    assert_close(rates(later, 0.1), before[:milestone] + alone[: UPDATES - milestone], 0.1)


@pytest.mark.parametrize(
    "schedulers", [[STEPS, CYCLE], [STEPS, CYCLE, EXPONENTIAL], [STEPS, EXPONENTIAL, CYCLE]], ids=lambda s: str(len(s))
)
def test_a_cycle_in_a_sequence_has_torchs_momentum_before_in_and_after_it(schedulers: list[Arguments]) -> None:
    arguments = {"schedulers": schedulers, "milestones": [100, 333][: len(schedulers) - 1]}
    schedule = build("SequentialLR", arguments)
    theirs, momenta = expected("SequentialLR", arguments, 0.1)
    assert_close(rates(schedule, 0.1), theirs, 0.1)
    assert [schedule.momentum(k) for k in range(UPDATES)] == pytest.approx(momenta, rel=1e-12)


def test_a_cycle_in_a_chain_has_torchs_momentum() -> None:
    arguments = {"schedulers": [CYCLE, EXPONENTIAL]}
    theirs, momenta = expected("ChainedScheduler", arguments, 0.1)
    schedule = build("ChainedScheduler", arguments)
    assert_close(rates(schedule, 0.1), theirs, 0.1)
    assert [schedule.momentum(k) for k in range(UPDATES)] == pytest.approx(momenta, rel=1e-12)


def test_a_cycle_in_a_sequence_leaves_the_rate_of_the_others_alone() -> None:
    """In torch OneCycleLR overwrites the rate that all others of the list start from."""
    arguments = {"schedulers": [STEPS, {"OneCycleLR": {"max_lr": 9.0, "total_steps": 500}}, STEPS], "milestones": [100, 600]}
    ours = rates(build("SequentialLR", arguments), 0.1)
    alone, _ = expected("StepLR", STEPS["StepLR"], 0.1)
    assert_close(ours[:100], alone[:100], 0.1)
    assert_close(ours[600:], alone[:400], 0.1)


def test_a_product_in_a_sequence_goes_on_from_the_rate_before_it_in_a_chain_too() -> None:
    product = {"MultiplicativeLR": {"lr_lambda": lambda k: 0.3 if k == 0 else 0.999}}
    sequence = {"schedulers": [LINEAR, product], "milestones": [100]}
    for name, arguments in (
        ("SequentialLR", sequence),
        ("ChainedScheduler", {"schedulers": [{"SequentialLR": sequence}, COSINE]}),
    ):
        theirs, _ = expected(name, arguments, 0.1)
        assert_close(rates(build(name, arguments), 0.1), theirs, 0.1)


def test_a_milestone_of_0_skips_a_schedule() -> None:
    arguments = {"schedulers": [STEPS, {"MultiplicativeLR": {"lr_lambda": halves_every_ten}}], "milestones": [0]}
    theirs, _ = expected("SequentialLR", arguments, 0.1)
    assert_close(rates(build("SequentialLR", arguments), 0.1), theirs, 0.1)


# -- numbers that a person can check -------------------------------------------------------------------------------------


def test_rates_end_exactly_where_they_should() -> None:
    for start in (0.1, 1 / 3, 0.7):
        assert LinearLR(start, 0.0, 7).rate(7, 0.1) == 0
        assert LinearLR(start, 1.0, 7).rate(7, 0.1) == 0.1
    assert PolynomialLR(7).rate(7, 0.1) == PolynomialLR(7).rate(10**9, 0.1) == 0
    assert CosineAnnealingLR(7).rate(7, 0.1) == CosineAnnealingLR(7).rate(7 + 14 * 10**12, 0.1) == 0
    assert CosineAnnealingLR(7, 0.5).rate(0, 0.1) == 0.1  # eta_min above the rate: it rises
    assert CosineAnnealingLR(7, 0.5).rate(7, 0.1) == 0.5


def test_a_far_update_takes_no_longer_than_a_near_one() -> None:
    assert CosineAnnealingLR(1000).rate(2000 * 10**12 + 5, 0.1) == CosineAnnealingLR(1000).rate(5, 0.1)
    assert CyclicLR(0.1, 0.2, 3, 4).rate(7 * 10**12 + 5, 0.1) == CyclicLR(0.1, 0.2, 3, 4).rate(5, 0.1)
    restarts = CosineAnnealingWarmRestarts(10, 2)  # period i begins after 10 (2^i - 1) updates
    assert restarts.rate(10 * (2**40 - 1), 0.1) == 0.1
    assert restarts.rate(10 * (2**40 - 1) - 1, 0.1) < 1e-20


def test_a_factor_of_0_holds_the_net_and_lets_it_go() -> None:
    """torch divides by the factor, and fails."""
    schedule = build("ConstantLR", {"factor": 0, "total_iters": 3})
    assert rates(schedule, 0.1, 5) == [0, 0, 0, 0.1, 0.1]
    chain = build(
        "ChainedScheduler", {"schedulers": [{"ConstantLR": {"factor": 0, "total_iters": 3}}, {"ExponentialLR": {"gamma": 0.5}}]}
    )
    assert rates(chain, 1.0, 5) == [0, 0, 0, 0.125, 0.0625]


def test_a_cycle_peaks_ends_and_stays() -> None:
    cycle = OneCycleLR(1.0, total_steps=11, pct_start=5 / 11, anneal_strategy="linear", div_factor=5, final_div_factor=2)
    assert rates(cycle, 0.0, 5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert cycle.rate(10, 0.0) == cycle.rate(11, 0.0) == cycle.rate(10**9, 0.0) == pytest.approx(0.1)
    at_once = OneCycleLR(1.0, total_steps=10, pct_start=0.1)  # a rise of no length, at which torch divides by 0
    assert at_once.rate(0, 0.0) == 1.0


PEAKS = [
    {"CyclicLR": {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 217, "step_size_down": 100}},
    {"OneCycleLR": {"max_lr": 0.2, "total_steps": UPDATES, "pct_start": 0.437}},
    {"CosineAnnealingLR": {"T_max": 411, "eta_min": 0.5}},
    {"SequentialLR": {"schedulers": [STEPS, LINEAR, CYCLE], "milestones": [333, 777]}},
]


@pytest.mark.parametrize("schedule", PEAKS, ids=lambda s: next(iter(s)))
def test_the_largest_and_the_smallest_rate_are_where_a_schedule_turns(schedule: Arguments) -> None:
    ((name, arguments),) = schedule.items()
    made = build(name, arguments)
    places = {k + d for k in (1, *made.turns(), UPDATES - 2) for d in (-1, 0, 1)}
    found, every = [made.rate(k, 0.1) for k in places if 0 <= k < UPDATES], rates(made, 0.1)
    assert (min(found), max(found)) == (min(every), max(every))


def test_powers_beyond_a_float_are_infinite() -> None:
    assert power(1e40, 10) == math.inf
    assert power(0.0, 0) == 1
    assert CyclicLR(0.1, 0.2, 5, mode="triangular2").rate(10**6 + 5, 0.0) == 0.1  # 2^-(10^5) is 0; torch overflows


def test_warm_up_grows_in_equal_parts_to_1() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warm_up(0, 0) == 1


# -- the plateau ---------------------------------------------------------------------------------------------------------

PLATEAUS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.sampled_from([0.0, 0.1, 0.5, 0.9]),
        "patience": st.integers(0, 4),
        "threshold": st.sampled_from([0.0, 1e-4, 0.1, 1.0]),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 3),
        "min_lr": st.sampled_from([0.0, 1e-3, 10.0]),
        "eps": st.sampled_from([1e-8, 1e-2]),
    }
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(arguments=PLATEAUS, seed=st.integers(0, 10**6), base=BASES, at=st.integers(0, 199))
def test_a_plateau_is_torchs_and_goes_on_from_its_plain_state(arguments: Arguments, seed: int, base: float, at: int) -> None:
    draw = random.Random(seed)
    values = [draw.choice([draw.gauss(0, 1), draw.gauss(-k / 50, 0.1), 1.0, -1.0, math.nan, math.inf]) for k in range(200)]
    optimizer = an_optimizer(base)
    scheduler = reference.ReduceLROnPlateau(optimizer, **arguments)
    reducer = ReduceLROnPlateau(**arguments)
    state = reducer.start(base)
    for k, value in enumerate(values):
        if k == at:
            state = Plateau(**dict(vars(state)))
        scheduler.step(value)
        state = reducer.after(state, value)
        theirs = (optimizer.param_groups[0]["lr"], scheduler.best, scheduler.num_bad_epochs, scheduler.cooldown_counter)
        assert (state.rate, state.best, state.bad_epochs, state.cooldown) == theirs


def test_a_plateau_with_another_base_keeps_its_share() -> None:
    assert Plateau(0.025, 0.1, 3.0, 1, 2).rebased(0.2) == Plateau(0.05, 0.2, 3.0, 1, 2)
    assert Plateau(0.025, 0.1, 3.0).rebased(0.1).rate == 0.025
    assert Plateau(0.0, 0.0, 3.0).rebased(0.1).rate == 0.1


# -- arguments -----------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[str, Arguments, str]] = [
    ("StepLR", {"step_size": 0}, r"StepLR\.step_size: 0; needs a finite number of at least 1"),
    ("ConstantLR", {"factor": 2}, r"ConstantLR\.factor: 2; needs a number of at most 1"),
    ("LinearLR", {"start_factor": 0}, r"LinearLR\.start_factor: 0; needs a number above 0"),
    ("LinearLR", {"end_factor": 1.5}, r"LinearLR\.end_factor: 1\.5; needs a number of at most 1"),
    ("OneCycleLR", {"max_lr": 0.1, "epochs": 9}, "OneCycleLR: needs total_steps, or epochs and steps_per_epoch"),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "div_factor": 0}, r"OneCycleLR\.div_factor: 0; needs a number above 0"),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "pct_start": 1.5}, r"OneCycleLR\.pct_start: 1\.5; needs .* at most 1"),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, "base_momentum": [0.8, 0.9]}, r"OneCycleLR\.base_momentum: .*a number"),
    ("ReduceLROnPlateau", {"factor": 1.0}, r"ReduceLROnPlateau\.factor: 1\.0; needs a number below 1"),
    ("ReduceLROnPlateau", {"mode": "triangular"}, r"ReduceLROnPlateau\.mode: 'triangular'"),
    ("MultiStepLR", {"milestones": [5, 2]}, "needs them in ascending order"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), MISTAKES)
def test_arguments_outside_of_their_range_are_refused(name: str, arguments: Arguments, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(name, arguments)


def test_all_mistakes_of_a_sequence_are_told_at_once() -> None:
    inner = [{"StepLR": {"step_size": 0}}, {"LinearLR": {"end_factor": 2, "start": 1}}]
    with pytest.raises(UserError) as error:
        check("SequentialLR", {"schedulers": inner, "milestones": ["1"], "gamma": 1})
    assert len(str(error.value).split("\n")) == 5


def test_replicas_may_have_a_value_each() -> None:
    arguments = {"base_lr": 0.0, "max_lr": [0.1, 0.2], "step_size_up": 1}
    assert [s.rate(1, 9.0) for s in build_each("CyclicLR", arguments, 2)] == [0.1, 0.2]
    nested = {
        "schedulers": [{"CyclicLR": arguments}, {"LambdaLR": {"lr_lambda": [lambda k: 2, lambda k: 3]}}],
        "milestones": [5],
    }
    assert [s.rate(5, 1.0) for s in build_each("SequentialLR", nested, 2)] == [2, 3]
    with pytest.raises(
        UserError, match=r"CyclicLR\.max_lr: 2 values; needs one value, or one per replica \(trainer\.replicas=3\)"
    ):
        build_each("SequentialLR", nested, 3)
    one, other = build_each("StepLR", {"step_size": 1}, 2)
    assert one is other


def test_a_cycle_that_ends_too_soon_is_found_in_its_place() -> None:
    cycle = {"OneCycleLR": {"max_lr": 1, "total_steps": 5}}
    schedule = build("SequentialLR", {"schedulers": [cycle, STEPS, cycle], "milestones": [5, 9]})
    check_length(schedule, 14, "epoch")
    with pytest.raises(UserError, match="total_steps=5 is less than the 6 epochs that it must cover; set total_steps=6"):
        check_length(schedule, 15, "epoch")
    with pytest.raises(UserError, match="total_steps=5 is less than the 7 steps"):
        check_length(build("ChainedScheduler", {"schedulers": [STEPS, cycle]}), 7, "step")
