"""Save the run: last.pt always, best.pt by a metric, and the k best under names of their own."""

from __future__ import annotations

import math
import re
import string
import time
from pathlib import Path
from typing import Any, Literal

from trainkit.callback import Callback
from trainkit.checkpoint import dump, write
from trainkit.errors import UserError
from trainkit.run import plain_name
from trainkit.trainer import Trainer

_SPEC = re.compile(r"0?\d{0,2}(\.\d{1,2})?[deEfFgG]?")


class Checkpoint(Callback):
    """Writes `checkpoints/last.pt` every n epochs, n steps or n seconds, and at the end of the run: the last completed step.

    With `monitor`, `best.pt` is the state at its best value (of the mean over replicas), and with save_top_k > 1 the k best are kept
    as `filename`, whose fields are epoch, step and any metric: "{epoch}-{val/loss:.3f}". Values that are not finite never rank.
    All of it happens after the metric is known and the schedules have moved, so a file never holds a stale value.
    Errors: UserError naming path and cause where a file cannot be written; the file before it is kept.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        every_n_epochs: int | None = 1,
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
        self.every_n_epochs, self.every_n_steps, self.every_seconds, self.filename = every_n_epochs, every_n_steps, every_seconds, filename
        for field, spec in self._fields():
            if not re.fullmatch(r"[\w/.-]+", field) or not _SPEC.fullmatch(spec):
                raise UserError(f"Checkpoint: filename={filename!r}, field {{{field}:{spec}}}; needs names like {{epoch}} or {{val/loss:.3f}}")

    def setup(self, trainer: Trainer) -> None:
        self.kept: list[list[Any]] = []  # [score, file name], best first; the score is the smaller the better
        self.saved: tuple[int, int] | None = None  # (step, batch) of last.pt
        self.broken = False
        self.clock = time.monotonic()
        if trainer.run is None:
            raise UserError("needs a run folder to save in; give the trainer a run_dir")

    def on_checkpoint(self, trainer: Trainer) -> None:
        state = trainer.state
        due = (self.every_n_steps and state.batch and state.step % self.every_n_steps == 0) or (
            self.every_n_epochs and not state.batch and state.epoch % self.every_n_epochs == 0
        )
        if self.every_seconds and not due and time.monotonic() - self.clock >= self.every_seconds:
            due = True
        if due:
            self.save(trainer)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.broken = True  # perhaps in the middle of a step: what is on the disk is better

    def on_fit_end(self, trainer: Trainer) -> None:
        if not self.broken and self.saved != (trainer.state.step, trainer.state.batch):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write what is due, the named file first, then best.pt, then last.pt; then delete what is no longer among the best."""
        assert trainer.run is not None
        folder, before = trainer.run.checkpoints, (list(self.kept), self.saved)
        names, gone = self._rank(trainer)
        self.saved = (trainer.state.step, trainer.state.batch)
        try:
            data = dump(trainer.snapshot())  # with this save in it
            for name in [*names, "last.pt"]:
                write(data, folder / name)
        except BaseException:
            self.kept, self.saved = before
            raise
        for name in gone:
            (folder / name).unlink(missing_ok=True)
        self.clock = time.monotonic()

    def _rank(self, trainer: Trainer) -> tuple[list[str], list[str]]:
        """The files this state deserves beside last.pt, and those it displaces; `kept` is brought up to date."""
        if self.monitor is None or self.save_top_k == 0:
            return [], []
        if trainer.fresh_metric(self.monitor) is None:
            return [], []
        score = self.sign * trainer.metric(self.monitor)
        if not math.isfinite(score):
            return [], []
        first = not self.kept or score < self.kept[0][0]
        if len(self.kept) >= self.save_top_k and score >= self.kept[-1][0]:
            return [], []
        own = self._name(trainer) if self.save_top_k > 1 else "best.pt"
        ranked = sorted([*(k for k in self.kept if k[1] != own), [score, own]], key=lambda k: k[0])
        self.kept, gone = ranked[: self.save_top_k], ranked[self.save_top_k :]
        names = [own, "best.pt"] if first and self.save_top_k > 1 else [own]
        return names, [name for _, name in gone]

    def _name(self, trainer: Trainer) -> str:
        values: dict[str, Any] = {"epoch": trainer.state.epoch, "step": trainer.state.step}
        text = ""
        for literal, field, spec, _ in string.Formatter().parse(self.filename):
            text += literal
            if field is not None:
                text += format(values[field] if field in values else trainer.metric(field), spec or "")
        return plain_name(f"{text}.pt")

    def _fields(self) -> list[tuple[str, str]]:
        try:
            return [(field, spec or "") for _, field, spec, _ in string.Formatter().parse(self.filename) if field is not None]
        except ValueError as error:
            raise UserError(f"Checkpoint: filename={self.filename!r}: {error}") from None

    def best_path(self, trainer: Trainer) -> Path | None:
        """The file of the best state so far."""
        return trainer.run.checkpoints / "best.pt" if trainer.run is not None and self.kept else None

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept, "monitor": self.monitor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["monitor"] == self.monitor:  # scores of another metric say nothing
            self.kept = [list(k) for k in state["kept"]][: self.save_top_k]
