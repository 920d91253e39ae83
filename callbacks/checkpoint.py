"""Save the run: last.pt always, best.pt by a metric, and the k best states under their own names."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from trainkit.checkpoint.file import BEST, FINAL, LAST, Unreadable, load, save
from trainkit.checkpoint.template import COUNTERS, Template
from trainkit.core.errors import MAX_NAMES, UserError
from trainkit.core.files import delete, plain_name
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import COUNTER, OneOf, mismatches, require, short_repr
from trainkit.trainer.callback import Callback, sign_of
from trainkit.trainer.session import Session

FIRST_SAVE_SECONDS = 0.02  # assumed duration of the first save
SPACING = 20  # the least time between saves, in durations of the last save: saving takes at most 5 % of the time
Entry = tuple[float, str, int]  # score (smaller is better), file name, step
ENTRY = (float, str, COUNTER)
STATE: dict[str, Any] = {"kept": [ENTRY], "gone": [ENTRY], "monitor": OneOf(None, str), "sign": float}


class Checkpoint(Callback):
    """Writer of `checkpoints/last.pt`, the last completed step, every n epochs, n steps or n seconds, and at the end of a run.

    By default it saves at an epoch's end, as often as possible while saving takes at most 5 % of the time. (An epoch may last
    only 2 ms.)
    monitor, mode: `best.pt` is the state at the best value of this metric, or of its mean over replicas, which is NaN if it is
    NaN for one.
    save_top_k: with more than 1, the k best states are kept in files named by `filename`. Its fields are epoch, step and any
    metric: "{epoch}-{val/loss:.3f}". If the name is taken, the step is appended. Non-finite values never rank.

    A state that ranks is kept in memory until the next save. All files of a save are written together, last.pt last, so a run
    that is killed and resumed ends with the same files. Saves come after the metrics and the schedules of their step.
    A resumed run replaces a best.pt of the same metric only by a better state, even if that best.pt is of a later step.
    Files of steps after the one from which the run resumes stay in the folder and no longer rank.
    A checkpoint may come from another source. A file that it lists is deleted only if the file itself holds the same name, step
    and score.
    Where a callback changes the parameters after the last step (early stopping's restore_best), `final.pt` holds them.
    Errors: UserError with path and cause where a file cannot be written; the previous file is kept.
    """

    needs_run_folder = saves_checkpoints = True
    files = tuple(f"checkpoints/{name}" for name in (LAST, BEST, FINAL))

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        save_top_k: int = 1,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        every_seconds: float | None = None,
        filename: str = "epoch{epoch}-step{step}",
    ) -> None:
        if mode not in (None, "min", "max"):
            raise UserError(f"Checkpoint: mode={mode!r}; needs min or max")
        for name, value in (("save_top_k", save_top_k), ("every_n_epochs", every_n_epochs), ("every_n_steps", every_n_steps)):
            if value is not None and value < (0 if name == "save_top_k" else 1):
                raise UserError(f"Checkpoint: {name}={value}; needs at least {0 if name == 'save_top_k' else 1}")
        if every_seconds is not None and not every_seconds > 0:
            raise UserError(f"Checkpoint: every_seconds={every_seconds}; needs a number above 0")
        self.monitor, self.mode, self.save_top_k = monitor, mode, save_top_k
        self.every_n_epochs, self.every_n_steps, self.every_seconds = every_n_epochs, every_n_steps, every_seconds
        self.names = Template(filename)
        ranked = [] if save_top_k < 2 else [field for _, field, _ in self.names.parts if field and field not in COUNTERS]
        self.monitors = () if monitor is None else (monitor, *ranked)
        if filename in ("best", "last", "final"):
            raise UserError(f"Checkpoint: filename={filename!r}; best.pt, last.pt and final.pt are reserved; choose another")

    def setup(self, session: Session) -> None:
        self.sign = 1.0 if self.monitor is None else sign_of(session, self, self.monitor, self.mode)
        self.ranked: list[Entry] = []  # the best states, best first
        self.waiting: dict[str, dict[str, Any]] = {}  # states to write at the next save, by file name
        self.to_delete: dict[str, Entry] = {}  # files that no longer rank, deleted after the next save
        self.written: set[str] = set()  # files of this fit: deleted without a check of their content
        self.held: tuple[float, int] | None = None  # score and step of the best.pt from before this fit
        self.saved: tuple[int, int] | None = None  # (step, batch) of last.pt
        self.reported_unranked = False  # whether a line has said that states are not ranked
        self.save_seconds, self.ended = FIRST_SAVE_SECONDS, time.monotonic()  # of the last save: duration, and end

    def on_fit_start(self, session: Session) -> None:
        assert session.run is not None
        if self.monitor is not None:
            self.held = self._held(session.run.checkpoints / BEST)
        self._forget_others(session)

    def on_train_start(self, session: Session) -> None:
        assert session.run is not None
        folder = session.run.checkpoints
        self._delete_displaced(session)  # a run may have been killed between saving and deleting
        if self.ranked and self.ranked[0][1] != BEST and (self.held is None or self.ranked[0][0] < self.held[0]):
            source = folder / self.ranked[0][1]  # best.pt is missing or worse: write it again
            if self._is_file_of(source, self.ranked[0]):
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
        """Write the states that rank, then last.pt; then delete the files that no longer rank.

        content: the snapshot of this step, if it exists already. Each waiting state is freed when it is written, so a save
        needs the memory of one state besides them.
        """
        assert session.run is not None
        began, folder = time.monotonic(), session.run.checkpoints
        for name in sorted(
            self.waiting, key=lambda name: name == BEST
        ):  # best.pt lists the others, so it is written after them
            save(self.waiting[name], folder / name)
            del self.waiting[name]
            self.written.add(name)
        delete(folder / FINAL)  # it belongs to an earlier end of the run
        save(session.snapshot() if content is None else content, folder / LAST)
        self.saved = (session.progress.step, session.progress.batch)
        session.save_ended()
        self._delete_displaced(session)
        self.ended = time.monotonic()
        self.save_seconds = self.ended - began

    def _rank(self, session: Session) -> dict[str, Any] | None:
        """Rank this state. If a file is to hold it, return its snapshot, which waits for the next save; else return None."""
        assert self.monitor is not None
        if self.save_top_k == 0 or session.metrics.new(self.monitor) is None:
            return None
        score, step = self.sign * session.metrics.mean(self.monitor), session.progress.step
        if not math.isfinite(score):
            self._print_unranked(session)
            return None
        if len(self.ranked) >= self.save_top_k and score >= self.ranked[-1][0]:
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

    def _print_unranked(self, session: Session) -> None:
        """Print once that states are not ranked, where the metric is finite for some replicas and not for others."""
        assert self.monitor is not None
        values = session.metrics[self.monitor]
        broken = [r for r, v in enumerate(values) if not math.isfinite(v)]
        if 0 < len(broken) < len(values) and not self.reported_unranked:
            self.reported_unranked = True
            print_stderr(
                f"callbacks.{self.name}: {self.monitor} is {values[broken[0]]:g} in replica {broken[0]}, and so is the mean:"
                f" states from step {session.progress.step} on are not ranked while it is"
            )

    def _name(self, session: Session) -> str:
        counters = {"epoch": session.progress.epoch, "step": session.progress.step}

        def value(metric: str) -> float:
            return session.metrics.mean(metric) if metric in session.metrics else math.nan  # not measured yet

        taken = {name for _, name, _ in self.ranked}
        return self.names.make(lambda field: counters[field] if field in counters else value(field), taken)

    def _delete_displaced(self, session: Session) -> None:
        """Delete the files that no longer rank; one of an earlier fit only if its content matches the entry."""
        assert session.run is not None
        remaining = []
        for name, entry in self.to_delete.items():
            path = session.run.checkpoints / name
            if name in self.written or self._is_file_of(path, entry):
                delete(path)
            elif os.path.lexists(path):
                remaining.append(name)
        self._print_files("not deleted, these are not the files that the checkpoint lists", remaining)
        self.to_delete = {}

    # -- the files of an earlier fit --------------------------------------------------------------------------------------

    def _held(self, path: Path) -> tuple[float, int] | None:
        """Return score and step of best.pt, read from the file; None where it is missing, damaged or of another metric."""
        if path.is_symlink():
            return None
        try:
            content = load(path)
        except Unreadable:
            raise  # it may be better than every state of this fit
        except UserError:
            return None
        ranked = self._ranked_in(content)
        return (ranked[0][0], ranked[0][2]) if ranked and ranked[0][2] == content["state"]["step"] else None

    def _ranked_in(self, content: dict[str, Any]) -> list[Entry]:
        """Return the entries that a checkpoint ranks by the same metric, under any name of the callback."""
        for state in content["callbacks"].values():
            if not mismatches(state, STATE, "") and (state["monitor"], state["sign"]) == (self.monitor, self.sign):
                return [(score, name, step) for score, name, step in state["kept"]]
        return []

    def _is_file_of(self, path: Path, entry: Entry) -> bool:
        """Return whether the file at `path` is that of `entry`, by its content."""
        if path.is_symlink() or not path.is_file():
            return False
        try:
            content = load(path)
        except UserError:
            return False
        return content["state"]["step"] == entry[2] and entry in self._ranked_in(content)

    def _forget_others(self, session: Session) -> None:
        """Drop entries whose file is not in the run's folder, or cannot be this callback's."""
        assert session.run is not None
        folder = session.run.checkpoints
        present = {p.name for p in folder.iterdir() if p.is_file() and not p.is_symlink()} if folder.is_dir() else set()
        listed = [e for e in [*self.ranked, *self.to_delete.values()] if e[1] in present]
        own = {e[1] for e in listed if self.names.makes(e[1])} | ({BEST} if self.held is not None else set())
        self._print_files("no longer ranked, since filename cannot produce these names", {e[1] for e in listed} - own - {BEST})
        ranked: dict[str, Entry] = {}
        for entry in sorted(self.ranked, key=lambda e: e[0]):
            if entry[1] in own and entry[2] <= session.progress.step:
                ranked.setdefault(entry[1], entry)
        displaced = {e[1]: e for e in [*self.to_delete.values(), *list(ranked.values())[self.save_top_k :]]}
        self.ranked = list(ranked.values())[: self.save_top_k]
        still_ranked = {BEST, *(name for _, name, _ in self.ranked)}
        self.to_delete = {name: e for name, e in displaced.items() if name in own - still_ranked}

    def _print_files(self, problem: str, names: Iterable[str]) -> None:
        if names := sorted(names):
            more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            print_stderr(f"callbacks.{self.name}: {problem}: {', '.join(names[:MAX_NAMES])}{more}")

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
            before = f"{short_repr(state['monitor'], '')} ({'min' if state['sign'] > 0 else 'max'})"
            now = f"{self.monitor} ({'min' if self.sign > 0 else 'max'})"
            print_stderr(f"callbacks.{self.name}: the checkpoint ranks by {before}, this run by {now}: best.pt is ranked again")
