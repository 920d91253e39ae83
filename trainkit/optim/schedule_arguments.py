"""Check the arguments of schedules in a configuration (names, types and ranges), and build the schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any, get_type_hints

from trainkit.core.errors import UserError, UserErrors, suggest
from trainkit.core.validation import check_value, short_repr

from .schedules import SCHEDULERS, SCHEDULES, ChainedScheduler, OneCycleLR, Schedule, SequentialLR

FUNCTIONS = ("lr_lambda", "scale_fn")
PER_REPLICA = ("base_lr", "max_lr", "min_lr", "lr_lambda")  # one value, or a list with one per replica
LENGTHS = ("step_size", "T_max", "T_0", "total_iters", "step_size_up", "step_size_down", "total_steps", "epochs")
COUNTS = (*LENGTHS, "T_mult", "steps_per_epoch")  # whole numbers of at least 1; all other numbers are at least 0
ABOVE_0 = ("LinearLR.start_factor", "OneCycleLR.div_factor", "OneCycleLR.final_div_factor")
AT_MOST_1 = ("ConstantLR.factor", "LinearLR.start_factor", "LinearLR.end_factor", "OneCycleLR.pct_start")
BELOW_1 = ("ReduceLROnPlateau.factor",)


def check(name: str, arguments: Mapping[str, Any]) -> None:
    """Check a schedule's name, and the names, types and ranges of its arguments. Raises UserErrors with all errors."""
    if name not in SCHEDULES:
        raise UserError(f"LRScheduler: no scheduler {short_repr(name)}{suggest(str(name), SCHEDULERS)}")
    if not isinstance(arguments, Mapping):
        raise UserError(f"LRScheduler: {name}: {short_repr(arguments)}; needs its arguments as a mapping")
    parameters = {f.name: f for f in fields(SCHEDULES[name]) if f.init}
    hints = get_type_hints(SCHEDULES[name])
    errors = []
    for key, value in arguments.items():
        if key not in parameters:
            errors.append(f"{name}: no argument {short_repr(key)}{suggest(str(key), parameters)}")
        elif value is not None or parameters[key].default is not None:
            plain = list(value) if isinstance(value, (tuple, range)) else value
            errors += _check_argument(f"{name}.{key}", key, plain, hints[key])
    if missing := [p for p, f in parameters.items() if f.default is MISSING and p not in arguments]:
        errors.append(f"{name}: needs {', '.join(missing)} ({', '.join(parameters)})")
    if errors:
        raise UserErrors(errors)
    if name == "SequentialLR" and len(arguments["milestones"]) != len(arguments["schedulers"]) - 1:
        n = len(arguments["schedulers"])
        raise UserError(f"{name}.milestones: {len(arguments['milestones'])} of them; {n} schedulers need {n - 1}")
    if name == "OneCycleLR" and not OneCycleLR(**arguments).length:
        raise UserError(f"{name}: needs total_steps, or epochs and steps_per_epoch")


def _check_argument(place: str, key: str, value: Any, hint: Any) -> list[str]:
    """Return the errors in one argument, one line per error."""
    if key in FUNCTIONS:
        functions = value if isinstance(value, list) and key in PER_REPLICA else [value]
        return (
            [] if all(map(callable, functions)) else [f"{place.replace('.', ': ')} is a function, which only Python can give"]
        )
    if key == "schedulers":
        return _check_inner(place, value)
    if wrong := check_value(value, hint | list[hint] if key in PER_REPLICA else hint, place):
        return wrong
    numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, (int, float))]
    least = 1 if key in COUNTS else 0
    if odd := [v for v in numbers if not least <= v < math.inf]:
        return [f"{place}: {odd[0]}; needs a finite number of at least {least}"]
    if place in ABOVE_0 and value == 0:
        return [f"{place}: {value}; needs a number above 0"]
    if (place in AT_MOST_1 and value > 1) or (place in BELOW_1 and value >= 1):
        return [f"{place}: {value}; needs a number {'of at most' if place in AT_MOST_1 else 'below'} 1"]
    if key == "milestones" and any(a > b for a, b in pairwise(value)):
        return [f"{place}: {short_repr(str(value), '')}; needs them in ascending order"]
    return []


def _check_inner(place: str, value: Any) -> list[str]:
    """Return the errors in the schedules inside a schedule, one line per error."""
    if not isinstance(value, list) or not value:
        return [f"{place}: {short_repr(value)}; needs a list of schedulers, [{{LinearLR: {{...}}}}, ...]"]
    errors = []
    for inner in value:
        if not isinstance(inner, Mapping) or len(inner) != 1:
            errors.append(f"{place}: {short_repr(inner)}; needs one scheduler with its arguments, {{LinearLR: {{...}}}}")
        elif "ReduceLROnPlateau" in inner:
            errors.append(f"{place}: ReduceLROnPlateau reads a metric and cannot be one of several; use it alone")
        else:
            try:
                check(*next(iter(inner.items())))
            except UserError as error:
                errors += str(error).split("\n")
    return errors


def build(name: str, arguments: Mapping[str, Any], replica: int = 0) -> Any:
    """Return the schedule of one replica, a Schedule or a ReduceLROnPlateau. `check` has accepted the arguments."""
    hints = get_type_hints(SCHEDULES[name])
    kwargs: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in PER_REPLICA and isinstance(value, (list, tuple)):
            value = value[replica]
        if key == "schedulers":
            value = [build(of, inner_arguments, replica) for inner in value for of, inner_arguments in inner.items()]
        kwargs[key] = float(value) if hints[key] is float else list(value) if key == "milestones" else value
    return SCHEDULES[name](**kwargs)


def build_each(name: str, arguments: Mapping[str, Any], replicas: int) -> list[Any]:
    """Return the schedule of each replica: the same object for all, unless an argument is a list with one value per replica.

    Raises UserError if such a list has another length.
    """
    lists = list(_lists(name, arguments))
    for place, n in lists:
        if n != replicas:
            raise UserError(f"{place}: {n} values; needs one value, or one per replica (trainer.replicas={replicas})")
    return [build(name, arguments, r) for r in range(replicas)] if lists else [build(name, arguments)] * replicas


def _lists(name: str, arguments: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the places of the arguments that have one value per replica, each with its number of values."""
    own = [(f"{name}.{k}", len(v)) for k, v in arguments.items() if k in PER_REPLICA and isinstance(v, (list, tuple))]
    return own + [pair for inner in arguments.get("schedulers", ()) for pair in _lists(*next(iter(inner.items())))]


def asks_for_momentum(name: str, arguments: Mapping[str, Any]) -> str | None:
    """Return the name of the schedule, this one or one inside, with cycle_momentum true; None if there is none."""
    if name in ("CyclicLR", "OneCycleLR") and arguments.get("cycle_momentum"):
        return name
    inner = (asks_for_momentum(*next(iter(inner.items()))) for inner in arguments.get("schedulers", ()))
    return next((n for n in inner if n), None)


def check_length(schedule: Schedule, updates: int, unit: str) -> None:
    """Raise UserError if a OneCycleLR, also inside another schedule, is shorter than its `updates`. unit: epoch or step."""
    if isinstance(schedule, OneCycleLR) and schedule.length < updates:
        problem = f"OneCycleLR: total_steps={schedule.length} is less than the {updates} {unit}s that it must cover"
        raise UserError(f"{problem}; set total_steps={updates}, or train for fewer {unit}s")
    if isinstance(schedule, ChainedScheduler):
        for inner in schedule.schedulers:
            check_length(inner, updates, unit)
    if isinstance(schedule, SequentialLR):
        begins = [0, *schedule.milestones]
        for inner, begin, end in zip(schedule.schedulers, begins, [*schedule.milestones, updates], strict=True):
            check_length(inner, min(end, updates) - begin, unit)
