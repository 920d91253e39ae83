"""Save the run: last.pt always, best.pt by a metric, and the k best under names of their own."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from trainkit.checkpoint.file import Unreadable, load, save
from trainkit.checkpoint.template import COUNTERS, Template
from trainkit.core.errors import MAX_NAMES, UserError
from trainkit.core.files import delete, plain_name
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import COUNTER, OneOf, mismatches, require, short_repr
from trainkit.trainer.callback import Callback
from trainkit.trainer.session import Session

LAST, BEST, FINAL = "last.pt", "best.pt", "final.pt"
FIRST_SAVE_SECONDS = 0.02  # seconds of a save before the first one is measured
SPACING = 20  # saves are at least this many times as far apart as the last one took: 5 % of the time
Entry = tuple[float, str, int]  # score (the smaller the better), file name, step
ENTRY = (float, str, COUNTER)
STATE: dict[str, Any] = {"kept": [ENTRY], "gone": [ENTRY], "monitor": OneOf(None, str), "sign": float}


class Checkpoint(Callback):
    """Writes `checkpoints/last.pt`, the last completed step, every n epochs, n steps or n seconds, and at the end of the run.

    With none of the three said it saves at an epoch's end, as often as saving takes at most 5 % of the time: nets whose epoch
    lasts 2 ms would otherwise spend their life in fsync. With `monitor`, `best.pt` is the state at its best value (of the mean
    over replicas), and with save_top_k > 1 the k best are kept as `filename`, whose fields are epoch, step and any metric:
    "{epoch}-{val/loss:.3f}"; a name that is taken gets the step behind it. A state that ranks is kept in memory until the
    next save, and every file of one save is written together, last.pt at last, so a run that is killed and resumed ends with
    the same files. Values that are not finite never rank.
    A resumed run replaces a best.pt of the same metric by a better state only, even where best.pt is of a later step than the
    run resumes from. Files of later steps than the run resumes from (the k best of an abandoned future) stay in the folder and
    no longer rank. A checkpoint may be a stranger's: of the files that it lists, one is deleted only if the file itself says
    that it was saved under that name, at that step, for that score.
    Where a callback changes the parameters after the last step (early stopping's restore_best), `final.pt` holds them.
    All of it happens after the metric is known and the schedules have moved, so a file never holds a stale value.
    Errors: UserError naming path and cause where a file cannot be written; the file before it is kept.
    """

    needs_run_folder = True
    files = tuple(f"checkpoints/{name}" for name in (LAST, BEST, FINAL))

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        every_seconds: float | None = None,
        filename: str = "epoch{epoch}-step{step}",
    ) -> None:
        if mode not in ("min", "max"):
            raise UserError(f"Checkpoint: mode={mode!r}; needs min or max")
        for name, value in (("save_top_k", save_top_k), ("every_n_epochs", every_n_epochs), ("every_n_steps", every_n_steps)):
            if value is not None and value < (0 if name == "save_top_k" else 1):
                raise UserError(f"Checkpoint: {name}={value}; needs at least {0 if name == 'save_top_k' else 1}")
        if every_seconds is not None and not every_seconds > 0:
            raise UserError(f"Checkpoint: every_seconds={every_seconds}; needs a number above 0")
        self.monitor, self.sign, self.save_top_k = monitor, 1.0 if mode == "min" else -1.0, save_top_k
        self.every_n_epochs, self.every_n_steps, self.every_seconds = every_n_epochs, every_n_steps, every_seconds
        self.names = Template(filename)
        ranked = [] if save_top_k < 2 else [field for _, field, _ in self.names.parts if field and field not in COUNTERS]
        self.monitors = () if monitor is None else (monitor, *ranked)
        if filename in ("best", "last", "final"):
            raise UserError(
                f"Checkpoint: filename={filename!r}; best.pt, last.pt and final.pt are written anyway, choose another"
            )

    def setup(self, session: Session) -> None:
        self.ranked: list[Entry] = []  # what this run has ranked, best first
        self.waiting: dict[str, dict[str, Any]] = {}  # states that rank, by file name, not written yet
        self.to_delete: dict[str, Entry] = {}  # files that no longer rank, not deleted yet
        self.written: set[str] = set()  # files of this fit: they need no proof before they are deleted
        self.held: tuple[float, int] | None = None  # score and step of the best.pt that was there before this fit
        self.saved: tuple[int, int] | None = None  # (step, batch) of last.pt
        self.save_seconds, self.ended = FIRST_SAVE_SECONDS, time.monotonic()  # the last save: how long, and when

    def on_fit_start(self, session: Session) -> None:
        assert session.run is not None
        if self.monitor is not None:
            self.held = self._held(session.run.checkpoints / BEST)
        self._forget_others(session)

    def on_train_start(self, session: Session) -> None:
        assert session.run is not None
        folder = session.run.checkpoints
        self._delete_displaced(session)  # what a run that was killed between saving and deleting has left
        if self.ranked and self.ranked[0][1] != BEST and (self.held is None or self.ranked[0][0] < self.held[0]):
            source = folder / self.ranked[0][1]  # best.pt was lost
            if self._wrote(source, self.ranked[0]):
                save(load(source), folder / BEST)

    def on_checkpoint(self, session: Session) -> None:
        content = self._rank(session) if self.monitor is not None and session.metrics.updated else None
        if self._due(session):
            self.save(session, content)

    def next_step(self, step: int) -> int | None:
        n = self.every_n_steps
        return None if n is None else step - step % n + n

    def _due(self, session: Session) -> bool:
        state = session.progress
        if session.loop_ended:
            return bool(self.waiting) or self.saved != (state.step, state.batch)
        if self.every_seconds is not None and time.monotonic() - self.ended >= self.every_seconds:
            return True
        if state.batch:
            return self.every_n_steps is not None and state.step % self.every_n_steps == 0
        if self.every_n_epochs is not None:
            return state.epoch % self.every_n_epochs == 0
        automatic = self.every_n_steps is None and self.every_seconds is None
        return automatic and time.monotonic() - self.ended >= SPACING * self.save_seconds

    def on_test_end(self, session: Session) -> None:
        if session.params_replaced:
            assert session.run is not None
            save(session.snapshot(), session.run.checkpoints / FINAL)

    def save(self, session: Session, content: dict[str, Any] | None = None) -> None:
        """Write the files that rank, then last.pt; then delete what is no longer among the best.

        content: the snapshot of this moment, if there is one already. Each that waited is let go when it is written, so that a
        save needs the memory of one state beside those that wait.
        """
        assert session.run is not None
        began, folder = time.monotonic(), session.run.checkpoints
        for name in sorted(self.waiting, key=lambda name: name == BEST):  # what a file lists is there before it
            save(self.waiting[name], folder / name)
            del self.waiting[name]
            self.written.add(name)
        delete(folder / FINAL)  # of an earlier end, which last.pt leaves behind
        save(session.snapshot() if content is None else content, folder / LAST)
        self.saved = (session.progress.step, session.progress.batch)
        session.save_ended()
        self._delete_displaced(session)
        self.ended = time.monotonic()
        self.save_seconds = self.ended - began

    def _rank(self, session: Session) -> dict[str, Any] | None:
        """Put this state among the best, if it is one of them: its snapshot, which waits for the next save, else None."""
        assert self.monitor is not None
        if self.save_top_k == 0 or session.metrics.new(self.monitor) is None:
            return None
        score, step = self.sign * session.metrics.mean(self.monitor), session.progress.step
        if not math.isfinite(score) or (len(self.ranked) >= self.save_top_k and score >= self.ranked[-1][0]):
            return None
        best = not self.ranked or score < self.ranked[0][0]
        own = self._name(session) if self.save_top_k > 1 else BEST
        others = [e for e in self.ranked if not (best and e[1] == BEST)]
        ranked = sorted([*others, (score, own, step)], key=lambda e: e[0])
        self.ranked = ranked[: self.save_top_k]
        for entry in ranked[self.save_top_k :]:
            self.waiting.pop(entry[1], None)
            self.to_delete[entry[1]] = entry
        self.to_delete.pop(own, None)
        replaces = best and (self.held is None or score < self.held[0] or (score, step) == self.held)
        names = {own, BEST} if replaces else {own} - {BEST}
        if not names:
            return None
        content = session.snapshot()
        self.waiting.update(dict.fromkeys(names, content))
        return content

    def _name(self, session: Session) -> str:
        counters = {"epoch": session.progress.epoch, "step": session.progress.step}

        def value(metric: str) -> float:
            return session.metrics.mean(metric) if metric in session.metrics else math.nan  # it is still to come

        taken = {name for _, name, _ in self.ranked}
        return self.names.make(lambda field: counters[field] if field in counters else value(field), taken)

    def _delete_displaced(self, session: Session) -> None:
        """Delete the files that no longer rank; one of an earlier fit only if its content matches the entry."""
        assert session.run is not None
        left = []
        for name, entry in self.to_delete.items():
            path = session.run.checkpoints / name
            if name in self.written or self._wrote(path, entry):
                delete(path)
            elif os.path.lexists(path):
                left.append(name)
        self._say("not deleted, these are not the files that the checkpoint lists", left)
        self.to_delete = {}

    # -- what a resumed run finds ----------------------------------------------------------------------------------------

    def _held(self, path: Path) -> tuple[float, int] | None:
        """Score and step of best.pt, read from the file itself; None where it is missing, damaged or of another metric."""
        if path.is_symlink():
            return None
        try:
            content = load(path)
        except Unreadable:
            raise  # it may be better than all that is to come
        except UserError:
            return None
        ranked = self._kept_of(content)
        return (ranked[0][0], ranked[0][2]) if ranked and ranked[0][2] == content["state"]["step"] else None

    def _kept_of(self, content: dict[str, Any]) -> list[Entry]:
        """What a checkpoint lists as best by the same metric, whatever its callback's name was."""
        for state in content["callbacks"].values():
            if not mismatches(state, STATE, "") and (state["monitor"], state["sign"]) == (self.monitor, self.sign):
                return [(score, name, step) for score, name, step in state["kept"]]
        return []

    def _wrote(self, path: Path, entry: Entry) -> bool:
        """Whether the file at `path` is the one of `entry`, by its own content."""
        if path.is_symlink() or not path.is_file():
            return False
        try:
            content = load(path)
        except UserError:
            return False
        return content["state"]["step"] == entry[2] and entry in self._kept_of(content)

    def _forget_others(self, session: Session) -> None:
        """Forget listed files that are not in the run's folder, or cannot be this callback's."""
        assert session.run is not None
        folder = session.run.checkpoints
        there = {p.name for p in folder.iterdir() if p.is_file() and not p.is_symlink()} if folder.is_dir() else set()
        listed = [e for e in [*self.ranked, *self.to_delete.values()] if e[1] in there]
        ours = {e[1] for e in listed if self.names.makes(e[1])} | ({BEST} if self.held is not None else set())
        self._say("no longer ranked, filename does not make these names", {e[1] for e in listed} - ours - {BEST})
        ranked: dict[str, Entry] = {}
        for entry in sorted(self.ranked, key=lambda e: e[0]):
            if entry[1] in ours and entry[2] <= session.progress.step:
                ranked.setdefault(entry[1], entry)
        displaced = {e[1]: e for e in [*self.to_delete.values(), *list(ranked.values())[self.save_top_k :]]}
        self.ranked = list(ranked.values())[: self.save_top_k]
        still = {BEST, *(name for _, name, _ in self.ranked)}
        self.to_delete = {name: e for name, e in displaced.items() if name in ours - still}

    def _say(self, what: str, names: Iterable[str]) -> None:
        if names := sorted(names):
            more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            print_stderr(f"callbacks.{self.name}: {what}: {', '.join(names[:MAX_NAMES])}{more}")

    def state_dict(self) -> dict[str, Any]:
        to_delete = [list(self.to_delete[name]) for name in sorted(self.to_delete)]
        return {"kept": [list(e) for e in self.ranked], "gone": to_delete, "monitor": self.monitor, "sign": self.sign}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require(state, STATE, "state")
        for score, name, _ in [*state["kept"], *state["gone"]]:
            if not math.isfinite(score):
                raise UserError(f"state: the score of {short_repr(name)} is {score}; needs a finite number")
            plain_name(name)
        if (state["monitor"], state["sign"]) == (self.monitor, self.sign):
            self.ranked = [(score, name, step) for score, name, step in state["kept"]]
            self.to_delete = {name: (score, name, step) for score, name, step in state["gone"]}
        elif state["monitor"] is not None and self.monitor is not None:
            then = f"{short_repr(state['monitor'], '')} ({'min' if state['sign'] > 0 else 'max'})"
            now = f"{self.monitor} ({'min' if self.sign > 0 else 'max'})"
            print_stderr(f"callbacks.{self.name}: the checkpoint ranks by {then}, this run by {now}: best.pt is ranked again")
