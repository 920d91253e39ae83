"""torch's learning-rate schedules over a stand-in for an optimizer: arguments checked, built, moved on, and their progress."""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch.optim import lr_scheduler as torch_schedulers

from trainkit.app.config.signature import check_value
from trainkit.core.errors import UserError, UserErrors, near
from trainkit.core.validation import Either, accept, shown

SCHEDULERS = (
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "ChainedScheduler",
    "LambdaLR",  # these two take a function, so they are for Python only
    "MultiplicativeLR",
)
FUNCTIONS = ("lr_lambda", "scale_fn")
LENGTHS = ("step_size", "T_max", "T_0", "total_iters", "step_size_up", "step_size_down", "total_steps", "epochs")
COUNTS = (*LENGTHS, "T_mult", "steps_per_epoch")  # whole numbers of at least 1; all other numbers are at least 0
EACH = float | list[float]  # one number, or one for each group
TYPES: dict[str, Any] = {  # of each argument, by torch's documentation: not every release has annotations that can be read
    **dict.fromkeys(COUNTS, int),
    **dict.fromkeys(("patience", "cooldown"), int),
    **dict.fromkeys(("gamma", "factor", "start_factor", "end_factor", "power", "eta_min", "threshold", "eps"), float),
    **dict.fromkeys(("pct_start", "div_factor", "final_div_factor"), float),
    **dict.fromkeys(("base_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"), EACH),
    **dict.fromkeys(("cycle_momentum", "three_phase"), bool),
    "milestones": list[int],
    "mode": Literal["min", "max", "triangular", "triangular2", "exp_range"],
    "threshold_mode": Literal["rel", "abs"],
    "anneal_strategy": Literal["cos", "linear"],
    "scale_mode": Literal["cycle", "iterations"],
}
MOVING = ("lr", "initial_lr", "momentum", "betas")
DERIVED = ("mode_worse", "default_min_lr")  # attributes of a plateau that follow from its arguments


class Carrier(torch.optim.Optimizer):
    """What a torch scheduler needs of an optimizer: groups with rates. It updates nothing.

    Optimizer.__init__ is left out: it would load torch._dynamo, which takes longer than training conf/mlp.yaml.
    """

    def __init__(self, rates: Sequence[float], momentum: dict[str, Any]) -> None:
        self.defaults = {"lr": rates[0], **momentum}
        self.state = defaultdict(dict)
        self.param_groups = [{"params": [torch.zeros(1)], "lr": r, **momentum} for r in rates]

    def step(self, closure: Any = None) -> Any:
        """Only torch's own count of updates goes on: a scheduler warns where there was none."""


def check(name: str, arguments: Mapping[str, Any]) -> None:
    """A schedule's name, and the names, types and ranges of its arguments. Raises UserErrors with all that is wrong."""
    if name not in SCHEDULERS:
        raise UserError(f"LRScheduler: no scheduler {shown(name)}{near(str(name), SCHEDULERS)}")
    if not isinstance(arguments, Mapping):
        raise UserError(f"LRScheduler: {name}: {shown(arguments)}; needs its arguments as a mapping")
    parameters = inspect.signature(getattr(torch_schedulers, name)).parameters
    allowed = [p for p in parameters if p not in ("optimizer", "last_epoch", "verbose")]
    errors = []
    for key, value in arguments.items():
        if key not in allowed:
            errors.append(f"{name}: no argument {shown(key)}{near(str(key), allowed)}")
        elif value is not None or parameters[key].default is not None:
            errors += _check_argument(f"{name}.{key}", key, list(value) if isinstance(value, (tuple, range)) else value)
    if missing := [p for p in allowed if parameters[p].default is inspect.Parameter.empty and p not in arguments]:
        errors.append(f"{name}: needs {', '.join(missing)} ({', '.join(allowed)})")
    if errors:
        raise UserErrors(errors)
    if name == "SequentialLR" and len(arguments["milestones"]) != len(arguments["schedulers"]) - 1:
        n = len(arguments["schedulers"])
        raise UserError(f"{name}.milestones: {len(arguments['milestones'])} of them; {n} schedulers need {n - 1}")


def _check_argument(place: str, key: str, value: Any) -> list[str]:
    """What is wrong with one argument, a line each."""
    if key in FUNCTIONS:
        functions = value if isinstance(value, list) else [value]
        return (
            [] if all(map(callable, functions)) else [f"{place.replace('.', ': ')} is a function, which only Python can give"]
        )
    if key == "schedulers":
        return _check_inner(place, value)
    if wrong := check_value(value, TYPES.get(key, Any), place):
        return wrong
    numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, (int, float))]
    least = 1 if key in COUNTS else 0
    if odd := [v for v in numbers if not least <= v < math.inf]:
        return [f"{place}: {odd[0]}; needs a finite number of at least {least}"]
    if key == "milestones" and any(a > b for a, b in pairwise(value)):
        return [f"{place}: {shown(str(value), '')}; needs them in ascending order"]
    return []


def _check_inner(place: str, value: Any) -> list[str]:
    """The schedules that a schedule is made of."""
    if not isinstance(value, list) or not value:
        return [f"{place}: {shown(value)}; needs a list of schedulers, [{{LinearLR: {{...}}}}, ...]"]
    errors = []
    for inner in value:
        if not isinstance(inner, Mapping) or len(inner) != 1:
            errors.append(f"{place}: {shown(inner)}; each is one scheduler with its arguments, {{LinearLR: {{...}}}}")
        elif "ReduceLROnPlateau" in inner:
            errors.append(f"{place}: ReduceLROnPlateau reads a metric and cannot be one of several; use it alone")
        else:
            try:
                check(*next(iter(inner.items())))
            except UserError as error:
                errors += str(error).split("\n")
    return errors


def inner_of(name: str, arguments: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], int]]:
    """The schedules that one is made of: name, arguments, and after how many epochs or steps each begins."""
    inner = arguments.get("schedulers", ())
    begins = [0, *arguments["milestones"]] if name == "SequentialLR" else [0] * len(inner)
    return [(*next(iter(schedule.items())), begin) for schedule, begin in zip(inner, begins, strict=True)]


def check_length(name: str, arguments: Mapping[str, Any], updates: int, interval: str) -> None:
    """Refuse a OneCycleLR, alone or among others, that ends before the `updates` epochs or steps that it is to last."""
    if name == "OneCycleLR":
        total = arguments.get("total_steps") or (arguments.get("epochs") or 0) * (arguments.get("steps_per_epoch") or 0)
        if 0 < total < updates:
            short = f"OneCycleLR: total_steps={total} is less than the {updates} {interval}s that it has to last"
            raise UserError(f"{short}; give total_steps={updates}, or train for fewer")
    inner = inner_of(name, arguments)
    for i, (of, given, begin) in enumerate(inner):
        end = min(updates, inner[i + 1][2] - 1) if name == "SequentialLR" and i + 1 < len(inner) else updates
        check_length(of, given, end - begin, interval)


def places(name: str, arguments: Mapping[str, Any], begin: int = 0) -> Iterator[int]:
    """Where a schedule may turn: after as many epochs or steps as its arguments name, counted from its `begin`."""
    for key, value in arguments.items():
        if TYPES.get(key) in (int, list[int]) and value is not None:
            yield from (begin + v for v in (value if isinstance(value, Sequence) else [value]))
    for of, given, start in inner_of(name, arguments):
        yield from places(of, given, begin + start)


def refused(name: str, error: Exception) -> UserError:
    """What torch, or a function of the user's, raises at arguments that it cannot use, in one line."""
    text = (str(error).split("\n")[0] or "fails")[:200]
    return UserError(f"{name}: {text if isinstance(error, (TypeError, ValueError)) else f'{type(error).__name__}: {text}'}")


def build(carrier: Carrier, name: str, arguments: Mapping[str, Any]) -> Any:
    """torch's scheduler over the carrier's groups."""
    kwargs: dict[str, Any] = {k: float(v) if TYPES.get(k) is float else v for k, v in arguments.items()}  # pct_start: 1
    if name in ("CyclicLR", "OneCycleLR") and not ({"momentum", "betas"} & set(carrier.defaults)):
        if kwargs.get("cycle_momentum"):
            raise UserError(
                f"{name}: cycle_momentum needs an optimizer with momentum; give it one, or set cycle_momentum=false"
            )
        kwargs["cycle_momentum"] = False
    if "schedulers" in kwargs:
        kwargs["schedulers"] = [build(carrier, *next(iter(inner.items()))) for inner in kwargs["schedulers"]]
    if name == "ChainedScheduler":
        return torch_schedulers.ChainedScheduler(kwargs["schedulers"], carrier)
    return getattr(torch_schedulers, name)(carrier, **kwargs)


def described(value: Any) -> Any:
    """Arguments as a checkpoint compares them: a function by its name, since its repr has an address."""
    if isinstance(value, Mapping):
        return {k: described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    return getattr(value, "__qualname__", type(value).__qualname__) if callable(value) else value


def rate(group: Mapping[str, Any]) -> float:
    """A group's rate: 0 where the recursion of a schedule that ends at 0 was rounded to less."""
    lr = float(group["lr"])
    return 0.0 if -1e-9 * group["initial_lr"] < lr < 0 else lr


def progress(scheduler: Any) -> dict[str, Any]:
    """What a scheduler has moved: its plain attributes that are not its arguments."""
    given = {*inspect.signature(type(scheduler)).parameters, *DERIVED} - {"last_epoch"}
    plain = (int, float, str, bool, type(None))
    moved: dict[str, Any] = {k: v for k, v in vars(scheduler).items() if k not in given and isinstance(v, plain)}
    if hasattr(scheduler, "_schedulers"):
        moved["inner"] = [progress(s) for s in scheduler._schedulers]
    return moved


def set_progress(scheduler: Any, saved: Mapping[str, Any], most: int) -> None:
    """The progress that a checkpoint has, of at most `most` epochs or steps."""
    own = progress(scheduler)
    number: dict[type, Any] = {bool: bool, str: str, type(None): Either(None, float)}
    kinds = {k: number.get(type(v), float) for k, v in own.items() if k != "inner"}
    accept({k: v for k, v in saved.items() if k in kinds}, {k: p for k, p in kinds.items() if k in saved}, "state.progress")
    if "last_epoch" in own and not saved.get("last_epoch", 0) <= most:
        raise contradiction("progress.last_epoch", saved["last_epoch"], f"the schedule has gone on at most {most} times")
    for key, value in saved.items():
        if key == "inner":
            accept(value, [{str: Any}] if "inner" in own and len(value) == len(own["inner"]) else (), "state.progress.inner")
            for inner, inner_saved in zip(scheduler._schedulers, value, strict=True):
                set_progress(inner, inner_saved, most)
        elif key in own:
            setattr(scheduler, key, value)


def contradiction(name: str, value: Any, known: str) -> UserError:
    return UserError(f"state.{name}: the checkpoint has {shown(value)}, but {known}; take another checkpoint of the run")


def updates(scheduler: Any) -> int:
    """The rates that a step computes, or more."""
    inner = getattr(scheduler, "_schedulers", None)
    return len(scheduler.optimizer.param_groups) if inner is None else sum(map(updates, inner))


def jumps(scheduler: Any) -> bool:
    """Whether the rate after n steps follows from n: not where it is a product of what functions or other schedules gave."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        return all(map(jumps, scheduler._schedulers))
    return not isinstance(scheduler, (torch_schedulers.ChainedScheduler, torch_schedulers.MultiplicativeLR))


def jump(scheduler: Any, n: int) -> None:
    """Where n steps from the beginning lead, at once: by torch's closed form where the steps are a recursion."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        i = bisect_right(scheduler._milestones, n)
        jump(scheduler._schedulers[i], n - (scheduler._milestones[i - 1] if i else 0))
        scheduler.last_epoch = n
    elif isinstance(scheduler, torch_schedulers.CosineAnnealingWarmRestarts):
        scheduler.step(n)
    else:
        scheduler._update_lr(n)
