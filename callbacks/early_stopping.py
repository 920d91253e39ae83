"""Stop when a metric no longer improves."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from trainkit.core.errors import UserError, UserErrors
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import COUNTER, OneOf, require, short_repr
from trainkit.trainer.callback import Callback, sign_of
from trainkit.trainer.session import Session


class EarlyStopping(Callback):
    """Ends the run when `monitor` has not improved for `patience` checks. With replicas, each one stops separately.

    A check is made at each new value of the metric: after each epoch, or as often as validation runs. It tests, in this order:
    not finite (check_finite), beyond stopping_threshold, beyond divergence_threshold, improved by more than min_delta (in the
    metric's units, or with threshold_mode rel as a share of |best|). Otherwise the count of checks without an improvement
    grows. patience 0 has the effect of 1.
    start_from_epoch: the number of first epochs without checks.
    restore_best: end with the parameters of the best check of all, whatever min_delta is; a line gives their epoch.
    strict: a missing metric is an error. A stopped replica keeps its parameters and metrics while others train.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        patience: int = 3,
        min_delta: float = 0.0,
        threshold_mode: Literal["abs", "rel"] = "abs",
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
        start_from_epoch: int = 0,
        restore_best: bool = False,
        strict: bool = True,
    ) -> None:
        if mode not in (None, "min", "max") or threshold_mode not in ("abs", "rel"):
            raise UserError(f"EarlyStopping: mode={mode!r}, threshold_mode={threshold_mode!r}; need min or max, abs or rel")
        if patience < 0 or not 0 <= min_delta < math.inf or start_from_epoch < 0:
            given = f"patience={patience}, min_delta={min_delta}, start_from_epoch={start_from_epoch}"
            raise UserError(f"EarlyStopping: {given}; need finite numbers of at least 0")
        for name, value in (("stopping_threshold", stopping_threshold), ("divergence_threshold", divergence_threshold)):
            if value is not None and not math.isfinite(value):
                raise UserError(f"EarlyStopping: {name}={value}; needs a finite number, or leave it out")
        self.monitor, self.mode, self.patience = monitor, mode, max(patience, 1)
        self.min_delta, self.relative, self.check_finite = min_delta, threshold_mode == "rel", check_finite
        self.stopping_threshold, self.divergence_threshold = stopping_threshold, divergence_threshold
        self.start_from_epoch, self.restore_best = start_from_epoch, restore_best
        self.monitors = (monitor,) if strict else ()

    def setup(self, session: Session) -> None:
        self.sign = sign_of(session, self, self.monitor, self.mode)
        self.best: list[float] = [self.sign * math.inf] * session.replicas  # from which patience and min_delta count
        self.kept = list(self.best)  # the value of best_params, the best of all checks
        self.best_epochs = [0] * session.replicas  # of `best`, from 1; 0 if there is none
        self.kept_epochs = [0] * session.replicas
        self.wait_counts = [0] * session.replicas
        self.stopped: list[str] = [""] * session.replicas  # the reason, per replica
        self.was_stopped = [False] * session.replicas  # whether the checkpoint's run had stopped it by this callback
        self.best_params: dict[str, Tensor] = {}

    def on_fit_start(self, session: Session) -> None:
        if self.best_params and (wrong := session.net.state_errors(self.best_params)):
            raise UserErrors(wrong)
        active = list(session.progress.active)  # replicas stopped by other callbacks stay stopped
        for r, why in enumerate(self.stopped):  # a resumed run is checked by its current configuration
            if why == "patience":
                stays = self.wait_counts[r] >= self.patience
            else:
                stays = bool(why) and self.check(session.metrics[self.monitor][r], r)[0] == why
            if not stays or not session.can_stop:
                self.stopped[r] = ""
            if self.was_stopped[r]:
                active[r] = not self.stopped[r]
        session.set_active(active)
        if any(self.stopped) and not any(active):
            self._stop(session, [r for r, why in enumerate(self.stopped) if why])
            fix = f"raise callbacks.{self.name}.patience above {self.patience}" if "patience" in self.stopped else "change it"
            null = f"callbacks.{self.name}=null"
            advice = f"{fix}, or set {null} (in Python, trainkit.load(RUN, {null!r}))"
            print_stderr(f"callbacks.{self.name}: had ended this run; to train on, {advice}")

    def on_metrics(self, session: Session) -> None:
        values = session.metrics.new(self.monitor)
        if values is None or session.progress.epoch < self.start_from_epoch:
            return
        better_than_kept, ending = [], []
        for r, value in enumerate(values):
            if self.stopped[r] or not session.progress.active[r]:
                continue
            if math.isfinite(value) and self.sign * value < self.sign * self.kept[r]:
                self.kept[r], self.kept_epochs[r] = value, session.progress.epoch + 1
                better_than_kept.append(r)
            why, better = self.check(value, r)
            if better:
                self.best[r], self.wait_counts[r] = value, 0
                self.best_epochs[r] = session.progress.epoch + 1
            elif not why:
                self.wait_counts[r] += 1
                why = "patience" if self.wait_counts[r] >= self.patience else ""
            if why and session.can_stop:
                self.stopped[r] = why
                ending.append(r)
        if self.restore_best and better_than_kept:
            self._keep_params(session, better_than_kept)
        if ending:
            self._stop(session, ending)

    def check(self, value: float, r: int) -> tuple[str, bool]:
        """Return why replica r stops at `value` (empty if it goes on or waits), and whether the value is an improvement."""
        better = self.sign * value < self.sign * self.best[r] - self._delta(self.best[r])
        if self.check_finite and not math.isfinite(value):
            return "not finite", False
        if self.stopping_threshold is not None and self.sign * value < self.sign * self.stopping_threshold:
            return "threshold", better
        if self.divergence_threshold is not None and self.sign * value > self.sign * self.divergence_threshold:
            return "divergence", False
        return "", better

    def _delta(self, best: float) -> float:
        return self.min_delta * abs(best) if self.relative and math.isfinite(best) else self.min_delta

    def _stop(self, session: Session, replicas: list[int]) -> None:
        first = next(r for r, why in enumerate(self.stopped) if why)  # the same in a resumed run, whichever stopped last
        why, epoch = self.stopped[first], self.best_epochs[first]
        metric = f"{self.monitor} of replica {first}" if session.replicas > 1 else self.monitor
        best = f"{self.best[first]:.6g}{f' (epoch {epoch})' if epoch else ''}"
        message = {
            "patience": f"{metric} has not improved on {best} for {self.patience} checks",
            "threshold": f"{metric} is beyond stopping_threshold {self.stopping_threshold}",
            "divergence": f"{metric} is beyond divergence_threshold {self.divergence_threshold}",
            "not finite": f"{metric} is not finite",
        }[why]
        session.stop("early_stopping", message, [r in replicas for r in range(session.replicas)])

    def _keep_params(self, session: Session, replicas: list[int]) -> None:
        for name, p, _ in session.net.named_param():
            if session.net.replica_dims:
                kept = self.best_params[name] = self.best_params[name].to(p) if name in self.best_params else p.clone()
                kept[replicas] = p[replicas]
            else:
                self.best_params[name] = p.clone()

    def on_train_end(self, session: Session) -> None:
        improved = [r for r, value in enumerate(self.kept) if value != self.sign * math.inf]  # the others have no best_params
        if self.restore_best and self.best_params:
            session.params_replaced = True
            for name, p, _ in session.net.named_param():
                if session.net.replica_dims:
                    p[improved] = self.best_params[name].to(p)[improved]
                else:
                    p.copy_(self.best_params[name])
            if epochs := [self.kept_epochs[r] for r in improved if self.kept_epochs[r]]:  # an older checkpoint has none
                each = f"epochs {', '.join(map(str, epochs))}, one per replica" if len(epochs) > 1 else f"epoch {epochs[0]}"
                print_stderr(f"callbacks.{self.name}: restored the parameters of the best {self.monitor}, of {each}")

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "sign": self.sign,
            "best": self.best,
            "kept": self.kept,
            "best_epochs": self.best_epochs,
            "kept_epochs": self.kept_epochs,
            "waited": self.wait_counts,
            "stopped": self.stopped,
            "best_params": self.best_params,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        n, reasons = len(self.best), OneOf("", "patience", "threshold", "divergence", "not finite")
        lists = {"best": (float,) * n, "kept": (float,) * n, "waited": (COUNTER,) * n, "stopped": (reasons,) * n}
        lists |= {"best_epochs": (COUNTER,) * n, "kept_epochs": (COUNTER,) * n}
        unknown = {"best_epochs": [0] * n, "kept_epochs": [0] * n}
        state = {"kept": state["best"], **unknown, **state} if "best" in state else state  # older checkpoints lack these
        require(state, {"monitor": str, "sign": float, **lists, "best_params": {str: Tensor}}, "state")
        self.was_stopped = [bool(why) for why in state["stopped"]]
        if (state["monitor"], state["sign"]) != (self.monitor, self.sign):
            was = f"{'min' if state['sign'] > 0 else 'max'} {short_repr(state['monitor'], '')}"
            now = f"{'min' if self.sign > 0 else 'max'} {short_repr(self.monitor, '')}"
            print_stderr(f"callbacks.{self.name}: the monitor was {was}, now it is {now}; its best value and count are reset")
            return  # best value and parameters by another metric cannot be compared
        self.best, self.wait_counts, self.stopped = list(state["best"]), list(state["waited"]), list(state["stopped"])
        self.kept, self.best_params = list(state["kept"]), dict(state["best_params"])
        self.best_epochs, self.kept_epochs = list(state["best_epochs"]), list(state["kept_epochs"])
