"""The schedule of the learning rate: a function of the completed steps or epochs, or reductions at plateaus of a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import COUNTER, require, short_repr
from trainkit.optim.arithmetic import RATE_LIMIT
from trainkit.optim.optimizer import momentum_of
from trainkit.optim.schedule_arguments import asks_for_momentum, build, build_each, check, check_length
from trainkit.optim.schedules import SCHEDULERS, Plateau, ReduceLROnPlateau, Schedule, warm_up
from trainkit.trainer.callback import Callback, sign_of
from trainkit.trainer.session import Session

TRIED = 5_000  # rates that are checked before the first step: this takes a few milliseconds
TRIED_IN_ORDER = 50_000  # the same for a schedule that computes each rate from the previous one
FEWEST = 100  # epochs or steps that are checked even with many replicas
LONGEST_IN_ORDER = 10_000_000  # the most updates of such a schedule: a resume after them computes for half a minute

PLATEAU = {"rate": float, "base": float, "best": float, "bad_epochs": COUNTER, "cooldown": COUNTER}
EARLIER = {"schedule": str, "monitor": str, "advanced": COUNTER, "progress": [{str: Any}], "groups": [[{str: Any}]]}


class LRScheduler(Callback):
    """A schedule by torch's name and arguments: `LRScheduler(CosineAnnealingLR={"T_max": 100})`.

    interval: count the schedule's updates in epochs or in steps. warmup_steps: over this many steps the rate grows linearly
    to the schedule's rate. monitor: the metric of ReduceLROnPlateau, whose mode is that of the metric (max for an accuracy)
    unless it is given; with replicas, each has its own plateau.
    SequentialLR takes {schedulers: [{LinearLR: {...}}, ...], milestones: [...]}, ChainedScheduler {schedulers: [...]}.
    CyclicLR and OneCycleLR also change the momentum if the optimizer has one.

    The rate is a function of the completed epochs or steps and of the configured rate. A resumed run therefore uses its own
    configuration from the checkpoint's step on, even if the schedule or the rate was changed. The state of a plateau is saved:
    with another configured rate it keeps the factor by which the rate was reduced, with another metric only the rate.

    Raises UserError before the first step if a rate or momentum of the run would be invalid.
    """

    def __init__(
        self,
        interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/loss",
        warmup_steps: int = 0,
        **scheduler: Mapping[str, Any] | None,
    ) -> None:
        if interval not in ("epoch", "step"):
            fix = f"; write LRScheduler({interval}={{...}}) with its arguments" if str(interval) in SCHEDULERS else ""
            raise UserError(f"LRScheduler: interval={interval!r}; needs epoch or step{fix}")
        if warmup_steps < 0:
            raise UserError(f"LRScheduler: warmup_steps={warmup_steps}; needs 0 or more")
        given: dict[str, Mapping[str, Any]] = {name: v for name, v in scheduler.items() if v is not None}
        given = given or {name: {} for name in scheduler}  # null removes one that another replaces; alone it has its defaults
        if len(given) > 1 or not (given or warmup_steps):
            raise UserError(f"LRScheduler: {', '.join(given) or 'no scheduler'}; give one of {', '.join(SCHEDULERS)}")
        for name, arguments in given.items():
            check(name, arguments)
        self.interval, self.monitor, self.warmup_steps = interval, monitor, warmup_steps
        self.chosen: tuple[str, Mapping[str, Any]] = next(iter(given.items()), ("ConstantLR", {"factor": 1.0}))
        self.plateau = self.chosen[0] == "ReduceLROnPlateau"
        self.mode: Any = self.chosen[1].get("mode") if self.plateau else None
        self.monitors = (monitor,) if self.plateau else ()
        if interval == "epoch" and not warmup_steps:
            self.on_train_batch_end = super().on_train_batch_end  # type: ignore[method-assign]
        if interval == "step" or self.plateau:
            self.on_train_epoch_end = super().on_train_epoch_end  # type: ignore[method-assign]
        if not self.plateau:
            self.on_metrics = super().on_metrics  # type: ignore[method-assign]

    def setup(self, session: Session) -> None:
        self.restored: dict[str, Any] | None = None
        self.begun = False
        if self.plateau:
            sign = sign_of(session, self, self.monitor, self.mode)
            self.chosen = (self.chosen[0], {**self.chosen[1], "mode": "max" if sign < 0 else "min"})

    def on_fit_start(self, session: Session) -> None:
        if not self.begun:  # on_fit_start is called again after a rewind inside a fit
            self.start(session.optimizer.initial_lrs, session.replicas)
            self.moves_momentum = bool(momentum_of(session.optimizer))
            if not self.moves_momentum and (name := asks_for_momentum(*self.chosen)):
                fix = "give the optimizer a momentum, or set cycle_momentum=false"
                raise UserError(f"{name}: cycle_momentum needs an optimizer with momentum; {fix}")
            if not self.plateau:
                self._check_rates(session)
            self.begun = True
        if self.plateau and self.restored is not None and (line := self._restore(self.restored)):
            print_stderr(f"callbacks.{self.name}: {line}")
        self._apply(session)

    def start(self, rates: Sequence[float], replicas: int) -> None:
        """Build the schedule of each replica from the configured rates, one for all or one for each replica."""
        bases = [float(rates[r % len(rates)]) for r in range(replicas)]
        schedules: list[Any] = build_each(*self.chosen, replicas)
        if self.plateau:
            self.reducers: list[ReduceLROnPlateau] = schedules
            self.plateaus = [s.start(base) for s, base in zip(schedules, bases, strict=True)]
        else:
            self.schedules: list[tuple[Schedule, float]] = list(zip(schedules, bases, strict=True))

    # -- rates -----------------------------------------------------------------------------------------------------------

    def rates(self, step: int, updates: int) -> list[float]:
        """Return the rate of each replica for step number `step` (from 0) after `updates` of the schedule, with warm-up."""
        factor = warm_up(step, self.warmup_steps)
        if self.plateau:
            return [plateau.rate * factor for plateau in self.plateaus]
        unique = dict.fromkeys(self.schedules)  # most replicas share a schedule
        rates = {pair: self._rate(*pair, updates) * factor for pair in unique}
        return [rates[pair] for pair in self.schedules]

    def _rate(self, schedule: Schedule, base: float, k: int) -> float:
        try:
            return schedule.rate(k, base)
        except Exception as error:  # a user's function may raise anything
            text = (str(error).split("\n")[0] or "fails")[:200]
            kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
            raise UserError(f"{self.chosen[0]}: {kind}{text}") from error

    def curve(self, lr: float, epochs: int, steps_per_epoch: int) -> list[float]:
        """Return the rate of every step of a run, before training; that of ReduceLROnPlateau is constant."""
        if self.plateau:
            return [lr * warm_up(step, self.warmup_steps) for step in range(epochs * steps_per_epoch)]
        schedule = build(*self.chosen)
        size = 1 if self.interval == "step" else steps_per_epoch
        return [
            self._rate(schedule, lr, step // size) * warm_up(step, self.warmup_steps)
            for step in range(epochs * steps_per_epoch)
        ]

    def _updates(self, session: Session) -> int:
        return session.progress.step if self.interval == "step" else session.epochs_done

    def _apply(self, session: Session) -> None:
        """Give the optimizer the rates of the next step, and the momentum if the schedule changes it."""
        if not session.steps_left:
            return  # no step uses the rate after the last one
        k = self._updates(session)
        session.set_lr(self.rates(session.progress.step, k))
        momentum = None if self.plateau or not self.moves_momentum else self.schedules[0][0].momentum(k)
        if momentum is not None:
            optimizer: Any = session.optimizer
            if hasattr(optimizer, "betas"):
                optimizer.betas = (momentum, *optimizer.betas[1:])
            else:
                optimizer.set_number("momentum", momentum)

    def _check_rates(self, session: Session) -> None:
        """Raise UserError unless the optimizer accepts the rates and momenta of all updates from here to the run's end.

        In a long run only some updates are checked: the first TRIED, those where the schedule may turn, and a few between.
        """
        state, size, left = session.progress, session.steps_per_epoch, session.steps_left
        if not left:
            return
        first = self._updates(session)
        end = state.step + left if self.interval == "step" else state.epoch - (-(state.batch + left) // size)
        pairs = list(dict.fromkeys(self.schedules))
        for schedule, _ in pairs:
            check_length(schedule, end, self.interval)
        in_order = any(schedule.is_recursive for schedule, _ in pairs)
        if in_order and end > LONGEST_IN_ORDER:
            limit = f"at most {LONGEST_IN_ORDER:,} {self.interval}s (got {end:,})"
            problem = f"computes each rate from the previous one and supports {limit}"
            fix = f"use fewer {self.interval}s, or a schedule that computes the rate directly from the {self.interval}"
            raise UserError(f"{self.chosen[0]}: {problem}; {fix}")
        last = min(end, first + max((TRIED_IN_ORDER if in_order else TRIED) // len(pairs), FEWEST))
        tried = [*range(first, last)]
        if not in_order:
            turns = {k + d for schedule, _ in pairs for k in schedule.turns() for d in (-1, 0, 1)}
            tried += sorted(k for k in turns | {end * i // 8 for i in range(1, 8)} | {end - 1} if last <= k < end)
        for k in tried:
            for schedule, base in pairs:
                try:
                    self._check_update(schedule, base, k)
                except UserError as error:
                    raise UserError(f"{error}, at {self.interval} {k} of {end}; change its arguments") from error

    def _check_update(self, schedule: Schedule, base: float, k: int) -> None:
        rate = self._rate(schedule, base, k)
        if not 0 <= rate < RATE_LIMIT:
            raise UserError(f"{self.chosen[0]}: a rate of {rate:g}; needs at least 0 and less than {RATE_LIMIT:g}")
        momentum = schedule.momentum(k) if self.moves_momentum else None
        if momentum is not None and not 0 <= momentum < 1:
            raise UserError(f"{self.chosen[0]}: a momentum of {momentum:g}; needs at least 0 and less than 1")

    # -- hooks -----------------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, session: Session) -> None:
        if self.interval == "step" or session.progress.step <= self.warmup_steps:
            self._apply(session)

    def next_step(self, step: int) -> int | None:
        return step + 1 if self.interval == "step" or step < self.warmup_steps else None

    def on_train_epoch_end(self, session: Session) -> None:
        self._apply(session)

    def on_metrics(self, session: Session) -> None:
        values = session.metrics.new(self.monitor)
        if values is not None:
            replicas = zip(self.reducers, self.plateaus, values, strict=True)
            self.plateaus = [reducer.after(plateau, value) for reducer, plateau, value in replicas]
            self._apply(session)

    # -- the state of a plateau ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the plateaus, and mode and metric of their best values; {} for a schedule that is a function of the step."""
        if not self.plateau:
            return {}
        return {"monitor": self._monitored(), "plateaus": [dict(vars(plateau)) for plateau in self.plateaus]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if any(key in state for key in EARLIER if key != "monitor"):
            state = _from_earlier(state)
        if state:
            require(state, {"monitor": str, "plateaus": [PLATEAU]}, "state")
        for i, plateau in enumerate(state.get("plateaus", ())):
            if not 0 <= plateau["rate"] <= plateau["base"] < RATE_LIMIT:
                bounds = f"a number from 0 to the configured rate, {plateau['base']:g}, which is below {RATE_LIMIT:g}"
                raise UserError(f"state.plateaus[{i}].rate: {plateau['rate']:g}; needs {bounds}")
        self.restored = state  # the plateaus are built in on_fit_start

    def _monitored(self) -> str:
        """Return mode and metric of the plateau's best value and counts, as one text."""
        return f"{self.chosen[1].get('mode', 'min')} {self.monitor}"

    def _restore(self, state: dict[str, Any]) -> str:
        """Continue from the checkpoint's plateaus. Return a message for the user, or ''."""
        saved = [Plateau(**values) for values in state.get("plateaus", ())]
        if len(saved) != len(self.plateaus):
            return "the checkpoint has another schedule; the plateau starts over, from the configured rate"
        pairs = [(new, old.rebased(new.base)) for new, old in zip(self.plateaus, saved, strict=True)]
        if state["monitor"] == self._monitored():
            self.plateaus = [old for _, old in pairs]
            return ""
        self.plateaus = [Plateau(old.rate, old.base, new.best) for new, old in pairs]
        was, now = short_repr(state["monitor"], ""), short_repr(self._monitored(), "")
        return f"the monitor was {was}, now it is {now}; its best value and count are reset, the rate is kept"


def _from_earlier(state: dict[str, Any]) -> dict[str, Any]:
    """Convert the state of an earlier release, which stepped torch's schedulers. Return a plateau's state, else an empty one.

    The states of other schedules are not read: their rate is a function of the step.
    """
    require(state, EARLIER, "state")
    if not state["schedule"].startswith("(('ReduceLROnPlateau',"):
        return {}
    counts = {"best": float, "num_bad_epochs": COUNTER, "cooldown_counter": COUNTER}
    plateaus = []
    for i, (progress, groups) in enumerate(zip(state["progress"], state["groups"], strict=False)):
        require({k: v for k, v in progress.items() if k in counts}, counts, f"state.progress[{i}]")
        require(groups, ({"lr": float, "initial_lr": float},), f"state.groups[{i}]")
        plateaus.append(
            {
                "rate": groups[0]["lr"],
                "base": groups[0]["initial_lr"],
                "best": progress["best"],
                "bad_epochs": progress["num_bad_epochs"],
                "cooldown": progress["cooldown_counter"],
            }
        )
    return {"monitor": state["monitor"], "plateaus": plateaus}
