"""The learning rate over time, by the schedulers of torch.optim.lr_scheduler."""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.optim import lr_scheduler as torch_schedulers

from trainkit.callback import Callback
from trainkit.errors import UserError, near
from trainkit.optim.optimizer import momentum_of
from trainkit.pattern import COUNT, Either, accept, shown
from trainkit.trainer import Trainer

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
CALLABLE_ARGUMENTS = {"lr_lambda", "scale_fn"}
REPLAYED = 50_000  # rates of a changed schedule that a resume computes one after the other: a second
WRONG = (TypeError, ValueError, ArithmeticError)  # what torch raises at arguments it cannot use, some of it at the first step


class LRScheduler(Callback):
    """`LRScheduler(CosineAnnealingLR={"T_max": 100})`: torch's scheduler of that name, with its arguments.

    interval: step it after each epoch, or after each step. warmup_steps: the rate grows in equal parts up to the schedule's
    over so many steps. monitor: what ReduceLROnPlateau reads; with replicas each has a plateau of its own. SequentialLR takes
    {schedulers: [{LinearLR: {...}}, ...], milestones: [...]}, ChainedScheduler {schedulers: [...]}. CyclicLR and OneCycleLR
    move the momentum too, where the optimizer has one.
    The schedule's arguments are the configuration's, also after a resume; its progress is the checkpoint's.
    """

    def __init__(
        self,
        interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/loss",
        warmup_steps: int = 0,
        **scheduler: Mapping[str, Any],
    ) -> None:
        if interval not in ("epoch", "step"):
            raise UserError(f"LRScheduler: interval={interval!r}; needs epoch or step")
        if warmup_steps < 0:
            raise UserError(f"LRScheduler: warmup_steps={warmup_steps}; needs 0 or more")
        if len(scheduler) > 1 or not (scheduler or warmup_steps):
            raise UserError(f"LRScheduler: {', '.join(scheduler) or 'no scheduler'}; name one of {', '.join(SCHEDULERS)}")
        for name, arguments in scheduler.items():
            check(name, arguments)
        self.interval, self.monitor, self.warmup_steps = interval, monitor, warmup_steps
        self.chosen: tuple[str, Mapping[str, Any]] = next(iter(scheduler.items()), ("ConstantLR", {"factor": 1.0}))
        self.plateau = self.chosen[0] == "ReduceLROnPlateau"
        if interval == "epoch" and not warmup_steps:
            self.on_train_batch_end = super().on_train_batch_end  # type: ignore[method-assign]
        if interval == "step" or self.plateau:
            self.on_train_epoch_end = super().on_train_epoch_end  # type: ignore[method-assign]
        if not self.plateau:
            self.on_metrics = super().on_metrics  # type: ignore[method-assign]
        self.restored: dict[str, Any] | None = None
        self.advanced = 0  # epochs or steps of the schedule that are behind

    def setup(self, trainer: Trainer) -> None:
        self.restored = None

    def on_fit_start(self, trainer: Trainer) -> None:
        self.start(trainer.optimizer.configured, momentum_of(trainer.optimizer), trainer.replicas)
        if self.restored is not None:
            self._restore(self.restored, trainer)
        self._apply(trainer)

    def start(self, rates: Sequence[float], momentum: dict[str, Any], replicas: int) -> None:
        """Build the schedule from the configured rates: one group a replica, and for plateaus one scheduler a replica."""
        each = [float(rates[r % len(rates)]) for r in range(replicas)]
        groups = [[r] for r in each] if self.plateau else [each]
        self.carriers = [Carrier(g, momentum) for g in groups]
        try:
            self.schedulers = [build(carrier, *self.chosen) for carrier in self.carriers]
            self.advanced = 0
        except WRONG as error:
            raise UserError(f"{self.chosen[0]}: {error}") from error
        for group in (g for c in self.carriers for g in c.param_groups):
            group.setdefault("initial_lr", group["lr"])  # ReduceLROnPlateau alone has not noted it

    def on_train_batch_end(self, trainer: Trainer) -> None:
        if self.interval == "step" and not self.plateau:
            self.advance()
        if self.interval == "step" or trainer.state.step <= self.warmup_steps:
            self._apply(trainer)

    def next_step(self, step: int) -> int | None:
        return step + 1 if self.interval == "step" or step < self.warmup_steps else None

    def on_train_epoch_end(self, trainer: Trainer) -> None:
        self.advance()
        self._apply(trainer)

    def on_metrics(self, trainer: Trainer) -> None:
        values = trainer.fresh_metric(self.monitor)
        if values is not None:
            for scheduler, value in zip(self.schedulers, values, strict=True):
                scheduler.step(value)
            self._apply(trainer)

    def advance(self) -> None:
        """One epoch or step on."""
        self.advanced += 1
        try:
            for carrier, scheduler in zip(self.carriers, self.schedulers, strict=True):
                carrier.step()
                scheduler.step()
        except WRONG as error:
            raise UserError(f"{self.chosen[0]}: {error}") from error

    def rates(self, step: int) -> list[float]:
        """The rate of each replica for step number `step` (from 0), warm-up included."""
        grown = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return [group["lr"] * grown for carrier in self.carriers for group in carrier.param_groups]

    def curve(self, lr: float, epochs: int, steps_per_epoch: int) -> list[float]:
        """The rate of every step of a run, before training; ReduceLROnPlateau shows as constant."""
        self.start([lr], {"momentum": 0.9}, 1)  # any momentum: CyclicLR and OneCycleLR ask whether there is one
        rates = []
        for step in range(epochs * steps_per_epoch):
            rates += self.rates(step)
            if not self.plateau and (self.interval == "step" or (step + 1) % steps_per_epoch == 0):
                self.advance()
        return rates

    def _apply(self, trainer: Trainer) -> None:
        trainer.set_lr(self.rates(trainer.state.step))
        group = self.carriers[0].param_groups[0]
        optimizer: Any = trainer.optimizer
        if "momentum" in group:
            optimizer.set_number("momentum", group["momentum"])
        if "betas" in group:
            optimizer.betas = group["betas"]

    def state_dict(self) -> dict[str, Any]:
        return {
            "schedule": repr((self.chosen, self.interval)),
            "advanced": self.advanced,
            "progress": [progress(s) for s in self.schedulers],
            "groups": [
                [{k: list(g[k]) if k == "betas" else g[k] for k in MOVING if k in g} for g in c.param_groups]
                for c in self.carriers
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        group: dict[str, Any] = {"lr": float, "initial_lr": float}
        moving = Either(group, {**group, "momentum": float}, {**group, "betas": (float, float)})
        accept(state, {"schedule": str, "advanced": COUNT, "progress": [{str: Any}], "groups": [[moving]]}, "state")
        self.restored = state  # the schedule is built when the fit starts

    def _restore(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Go on where the checkpoint stood; a schedule that is configured otherwise now is run anew up to there."""
        then, steps, epochs = (
            "epoch" if state["schedule"].endswith("'epoch')") else "step",
            trainer.state.step,
            trainer.epochs_done,
        )
        done = {"step": steps, "epoch": epochs}[then]
        if state["advanced"] > done:
            raise contradiction("advanced", state["advanced"], f"the run has done {done} {then}s")
        configured = [[g["initial_lr"] for g in c.param_groups] for c in self.carriers]
        same = state["schedule"] == repr((self.chosen, self.interval)) and configured == [
            [g["initial_lr"] for g in c] for c in state["groups"]
        ]
        sizes = [len(c) for c in state["groups"]] == [len(c) for c in configured] and len(state["progress"]) == len(configured)
        if not sizes or (not same and not self.plateau):
            if not self.plateau:
                anew = steps if self.interval == "step" else trainer.state.epoch
                self._replay(state["advanced"] if then == self.interval else anew)
            return
        self.advanced = state["advanced"]
        most = steps + epochs if self.plateau else self.advanced  # a plateau counts validations
        for scheduler, saved in zip(self.schedulers, state["progress"], strict=True):
            set_progress(scheduler, saved, most)
        for carrier, saved_groups in zip(self.carriers, state["groups"], strict=True):
            for group, saved in zip(carrier.param_groups, saved_groups, strict=True):
                first = group["initial_lr"]
                group.update({k: tuple(v) if k == "betas" else v for k, v in saved.items()})
                if group["initial_lr"] not in (0, first):  # another rate is configured now: its share that was left stays
                    group["lr"] *= first / group["initial_lr"]
                group["initial_lr"] = first

    def _replay(self, n: int) -> None:
        """The first n epochs or steps of the schedule: one by one where that takes at most a second, else at once."""
        if n * sum(map(updates, self.schedulers)) > REPLAYED:
            if not all(map(jumps, self.schedulers)):
                cure = "resume with the schedule of the checkpoint, or with one whose rate follows from their number"
                raise UserError(f"{self.chosen[0]}: changed, and would be run anew over {n} {self.interval}s; {cure}")
            try:
                for carrier, scheduler in zip(self.carriers, self.schedulers, strict=True):
                    carrier.step()
                    jump(scheduler, n - 1)
            except WRONG as error:
                raise UserError(f"{self.chosen[0]}: {error}") from error
            self.advanced, n = n - 1, 1
        for _ in range(n):
            self.advance()


MOVING = ("lr", "initial_lr", "momentum", "betas")


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
    """Names against torch's signature. Raises UserError."""
    if name not in SCHEDULERS:
        raise UserError(f"LRScheduler: no scheduler {name!r}{near(name, SCHEDULERS)}")
    if not isinstance(arguments, Mapping):
        raise UserError(f"LRScheduler: {name}: {arguments!r}; needs its arguments as a mapping")
    parameters = inspect.signature(getattr(torch_schedulers, name)).parameters
    allowed = [p for p in parameters if p not in ("optimizer", "last_epoch", "verbose")]
    for key in arguments:
        if key not in allowed:
            raise UserError(f"{name}: no argument {key!r}{near(key, allowed)}")
        if key in CALLABLE_ARGUMENTS and not callable(arguments[key]) and arguments[key] is not None:
            raise UserError(f"{name}: {key} is a function, which only Python can give")
    required = [p for p in allowed if parameters[p].default is inspect.Parameter.empty]
    for key in required:
        if key not in arguments:
            raise UserError(f"{name}: needs {key} ({', '.join(allowed)})")
    for inner in arguments.get("schedulers", ()):
        if not isinstance(inner, Mapping) or len(inner) != 1:
            raise UserError(f"{name}.schedulers: {inner!r}; each is one scheduler with its arguments, {{LinearLR: {{...}}}}")
        check(*next(iter(inner.items())))


def build(carrier: Carrier, name: str, arguments: Mapping[str, Any]) -> Any:
    """torch's scheduler over the carrier's groups."""
    kwargs = dict(arguments)
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


def progress(scheduler: Any) -> dict[str, Any]:
    """What a scheduler has moved: its plain attributes that are no arguments of its own."""
    given = set(inspect.signature(type(scheduler)).parameters) - {"last_epoch"}
    plain = (int, float, str, bool, type(None))
    moved: dict[str, Any] = {k: v for k, v in vars(scheduler).items() if k not in given and isinstance(v, plain)}
    if hasattr(scheduler, "_schedulers"):
        moved["inner"] = [progress(s) for s in scheduler._schedulers]
    return moved


def set_progress(scheduler: Any, saved: Mapping[str, Any], most: int) -> None:
    """The progress that a checkpoint has, of at most so many epochs or steps."""
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
