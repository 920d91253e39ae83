"""The learning rate over time, by the schedulers of torch.optim.lr_scheduler."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trainkit.core.errors import UserError
from trainkit.core.terminal import say
from trainkit.core.validation import COUNT, Either, accept, shown
from trainkit.optim.optimizer import RATE_LIMIT, momentum_of
from trainkit.optim.schedules import (
    MOVING,
    SCHEDULERS,
    Carrier,
    build,
    check,
    check_length,
    contradiction,
    described,
    jump,
    jumps,
    places,
    progress,
    rate,
    refused,
    set_progress,
    updates,
)
from trainkit.trainer.callback import Callback
from trainkit.trainer.engines.select import steps_left
from trainkit.trainer.trainer import Trainer

REPLAYED = 50_000  # rates of a changed schedule that a resume computes one after the other: a second
TRIED = 5_000  # rates of a schedule that are tried one after the other before the first step: some 40 ms
FEWEST = 100  # epochs or steps that are tried however many replicas there are


class LRScheduler(Callback):
    """`LRScheduler(CosineAnnealingLR={"T_max": 100})`: torch's scheduler of that name, with its arguments.

    interval: step it after each epoch, or after each step. warmup_steps: the rate grows in equal parts up to the schedule's
    over so many steps. monitor: what ReduceLROnPlateau reads; with replicas each has a plateau of its own. SequentialLR takes
    {schedulers: [{LinearLR: {...}}, ...], milestones: [...]}, ChainedScheduler {schedulers: [...]}. CyclicLR and OneCycleLR
    move the momentum too, where the optimizer has one.
    The schedule's arguments are the configuration's, also after a resume; its progress is the checkpoint's. A schedule that
    the checkpoint does not have is replayed up to the checkpoint's step; a plateau cannot be replayed and starts over.
    A copy of the schedule is run to the end of the run before the first step: UserError where it would fail on the way.
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
        self.monitors = (monitor,) if self.plateau else ()
        if interval == "epoch" and not warmup_steps:
            self.on_train_batch_end = super().on_train_batch_end  # type: ignore[method-assign]
        if interval == "step" or self.plateau:
            self.on_train_epoch_end = super().on_train_epoch_end  # type: ignore[method-assign]
        if not self.plateau:
            self.on_metrics = super().on_metrics  # type: ignore[method-assign]
        self.restored: dict[str, Any] | None = None
        self.advanced = 0  # epochs or steps of the schedule that are behind

    def setup(self, trainer: Trainer) -> None:
        self.restored, self.tried = None, False

    def on_fit_start(self, trainer: Trainer) -> None:
        if not self.tried:  # a rewind inside a fit comes here again
            self._try(trainer)
            self.tried = True
        if line := self._begin(trainer):
            say(f"callbacks.{self.name}: {line}")
        self._apply(trainer)

    def _begin(self, trainer: Trainer) -> str:
        """Build the schedule and bring it to where the run is. Return what to say of it, or ''."""
        self.start(trainer.optimizer.configured, momentum_of(trainer.optimizer), trainer.replicas)
        if self.restored is not None:
            return self._restore(self.restored, trainer)
        done = self._done(trainer)
        if self.plateau or not done:
            return ""
        self._replay(done)
        return f"the checkpoint has no state of it; replayed over {done} {self.interval}s"

    def _done(self, trainer: Trainer) -> int:
        """Epochs or steps of the run that are behind the schedule."""
        return trainer.state.step if self.interval == "step" else trainer.state.epoch

    def _try(self, trainer: Trainer) -> None:
        """Run a copy of the schedule to the end of the run. Raises UserError where it fails, or gives an invalid rate.

        TRIED rates are computed one after the other; behind them a schedule that can jump is tried where it may turn, and at
        some places between. A plateau is given a metric that never improves.
        """
        state, size, left = trainer.state, trainer.steps_per_epoch, steps_left(trainer)
        if not left:
            return
        epochs, steps = state.epoch + (state.batch + left) // size, state.step + left
        end, used, unit = epochs, state.epoch - (-(state.batch + left) // size), str(self.interval)
        if self.plateau:
            end = used = epochs + steps // (trainer.validate_every_n_steps or steps + 1)
            unit = "check"
        elif self.interval == "step":
            end = used = steps
        if not self.plateau:
            check_length(*self.chosen, end, unit)
        trial = copy.copy(self)
        trial._begin(trainer)
        done = trial.schedulers[0].last_epoch if self.plateau else trial.advanced
        if done >= used:
            return
        can_jump = not self.plateau and all(map(jumps, trial.schedulers))
        most = (TRIED if can_jump or self.plateau else REPLAYED) // sum(map(updates, trial.schedulers))
        last = min(end, done + max(most, FEWEST))
        stops = [*range(done + 1, last + 1)]
        if can_jump:
            turns = {k + d for k in places(*self.chosen) for d in (0, 1)} | {end * i // 8 for i in range(1, 9)}
            stops += sorted(k for k in turns if last < k <= end)
        k = done
        try:
            trial._check_rates()
            for k in stops:
                if self.plateau:
                    for scheduler in trial.schedulers:
                        scheduler.step(1.0)
                elif k == trial.advanced + 1:
                    trial.advance()
                else:
                    trial._jump(k)
                if k < used:
                    trial._check_rates()
        except Exception as error:  # whatever torch, or a function of the user's, raises
            why = error if isinstance(error, UserError) else refused(self.chosen[0], error)
            raise UserError(f"{why}, at {unit} {k} of {end}; change its arguments") from error

    def _check_rates(self) -> None:
        """Raise UserError unless the optimizer takes the rates, and the momentum where the schedule moves it."""
        for group in (g for c in self.carriers for g in c.param_groups):
            if not 0 <= rate(group) < RATE_LIMIT:
                raise UserError(f"{self.chosen[0]}: a rate of {rate(group):g}; needs a finite number of at least 0")
            if "base_momentum" in group and not 0 <= (momentum := group.get("betas", [group.get("momentum")])[0]) < 1:
                raise UserError(f"{self.chosen[0]}: a momentum of {momentum:g}; needs at least 0 and less than 1")

    def start(self, rates: Sequence[float], momentum: dict[str, Any], replicas: int) -> None:
        """Build the schedule from the configured rates: one group a replica, and for plateaus one scheduler a replica."""
        each = [float(rates[r % len(rates)]) for r in range(replicas)]
        groups = [[r] for r in each] if self.plateau else [each]
        self.carriers = [Carrier(g, momentum) for g in groups]
        self.advanced = 0
        try:
            self.schedulers = [build(carrier, *self.chosen) for carrier in self.carriers]
        except UserError:
            raise
        except Exception as error:  # whatever torch raises at arguments that it cannot use
            raise UserError(f"{refused(self.chosen[0], error)}; change its arguments") from error
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
        except Exception as error:
            raise refused(self.chosen[0], error) from error

    def rates(self, step: int) -> list[float]:
        """The rate of each replica for step number `step` (from 0), warm-up included."""
        grown = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return [rate(group) * grown for carrier in self.carriers for group in carrier.param_groups]

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
        if not steps_left(trainer):
            return  # no step uses the rate after the last one, which may be below 0
        trainer.set_lr(self.rates(trainer.state.step))
        group = self.carriers[0].param_groups[0]
        optimizer: Any = trainer.optimizer
        if "base_momentum" not in group:  # the momentum is the configuration's
            return
        if "betas" in group:
            optimizer.betas = group["betas"]
        else:
            optimizer.set_number("momentum", group["momentum"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "schedule": self._described(),
            "monitor": self._monitored(),
            "advanced": self.advanced,
            "progress": [progress(s) for s in self.schedulers],
            "groups": [
                [{k: list(g[k]) if k == "betas" else float(g[k]) for k in MOVING if k in g} for g in c.param_groups]
                for c in self.carriers
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        group: dict[str, Any] = {"lr": float, "initial_lr": float}
        moving = Either(group, {**group, "momentum": float}, {**group, "betas": (float, float)})
        accept(
            state, {"schedule": str, "monitor": str, "advanced": COUNT, "progress": [{str: Any}], "groups": [[moving]]}, "state"
        )
        self.restored = state  # the schedule is built when the fit starts

    def _described(self) -> str:
        return repr(((self.chosen[0], described(self.chosen[1])), self.interval))

    def _monitored(self) -> str:
        """What a plateau's best and its count are of."""
        return f"{self.chosen[1].get('mode', 'min')} {self.monitor}" if self.plateau else ""

    def _restore(self, state: dict[str, Any], trainer: Trainer) -> str:
        """Go on from the checkpoint; a schedule whose configuration has changed is replayed up to the checkpoint's step.

        Return what to say of it, or ''.
        """
        then = "epoch" if state["schedule"].endswith("'epoch')") else "step"
        done = {"step": trainer.state.step, "epoch": trainer.epochs_done}
        if state["advanced"] > done[then]:
            raise contradiction("advanced", state["advanced"], f"the run has done {done[then]} {then}s")
        groups = [g for c in self.carriers for g in c.param_groups]
        saved_groups = [g for c in state["groups"] for g in c]
        was_plateau = state["schedule"].startswith("(('ReduceLROnPlateau',")
        same = state["schedule"] == self._described() or (self.plateau and was_plateau)
        same = same and (len(saved_groups), len(state["progress"])) == (len(groups), len(self.schedulers))
        if not self.plateau:
            same = same and [g["initial_lr"] for g in groups] == [g["initial_lr"] for g in saved_groups]
        if not same:
            if self.plateau:
                return "the checkpoint has another schedule; the plateau starts over, from the configured rate"
            self._replay(self._done(trainer))
            return ""
        self.advanced = state["advanced"]
        most = sum(done.values()) if self.plateau else self.advanced  # a plateau counts validations
        anew = self.plateau and state["monitor"] not in ("", self._monitored())
        for scheduler, saved in zip(self.schedulers, state["progress"], strict=True):
            if not anew:
                set_progress(scheduler, saved, most)
        for group, saved in zip(groups, saved_groups, strict=True):
            first = group["initial_lr"]
            moved = MOVING if "base_momentum" in group else ("lr", "initial_lr")
            group.update({k: tuple(v) if k == "betas" else v for k, v in saved.items() if k in moved})
            if group["initial_lr"] not in (0, first):  # another rate is configured now: its share that was left stays
                group["lr"] *= first / group["initial_lr"]
            group["initial_lr"] = first
        was, now = shown(state["monitor"], ""), shown(self._monitored(), "")
        return f"the monitor was {was}, now it is {now}; its best value and count are reset, the rate is kept" if anew else ""

    def _jump(self, n: int) -> None:
        """To n epochs or steps of the schedule: to the one before by torch's closed form, then one more."""
        try:
            for carrier, scheduler in zip(self.carriers, self.schedulers, strict=True):
                carrier.step()
                jump(scheduler, n - 1)
        except Exception as error:
            raise refused(self.chosen[0], error) from error
        self.advanced = n - 1
        self.advance()

    def _replay(self, n: int) -> None:
        """The first n epochs or steps of the schedule: one by one where that takes at most a second, else at once."""
        if n * sum(map(updates, self.schedulers)) > REPLAYED:
            if not all(map(jumps, self.schedulers)):
                cure = "resume with the schedule of the checkpoint, or with one whose rate follows from their number"
                raise UserError(f"{self.chosen[0]}: changed, and would be replayed over {n} {self.interval}s; {cure}")
            self._jump(n)
            return
        for _ in range(n):
            self.advance()
