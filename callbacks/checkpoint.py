"""Save the run: last.pt always, best.pt by a metric, and the k best under names of their own."""

from __future__ import annotations

import math
import re
import string
import time
from typing import Any, Literal

from trainkit.callback import Callback
from trainkit.checkpoint import delete, load, plain, save
from trainkit.errors import UserError
from trainkit.pattern import Either, accept
from trainkit.run import plain_name
from trainkit.trainer import Trainer

GUESS = 0.02  # seconds of a save before the first one is measured
SPACING = 20  # saves are at least this many times as far apart as the last one took: 5 % of the time
_SPEC = re.compile(r"0?\d{0,2}(\.\d{1,2})?[deEfFgG]?")


class Checkpoint(Callback):
    """Writes `checkpoints/last.pt`, the last completed step, every n epochs, n steps or n seconds, and at the end of the run.

    With none of the three said it saves at an epoch's end, as often as saving takes at most 5 % of the time: nets whose epoch
    lasts 2 ms would otherwise spend their life in fsync. With `monitor`, `best.pt` is the state at its best value (of the mean
    over replicas), and with save_top_k > 1 the k best are kept as `filename`, whose fields are epoch, step and any metric:
    "{epoch}-{val/loss:.3f}"; a name that is taken gets the step behind it. A state that ranks is kept in memory until the
    next save, and every file of one save is written together, last.pt at last, so a run that is killed and resumed ends with
    the same files. Values that are not finite never rank.
    Where a callback changes the parameters after the last step (early stopping's restore_best), `final.pt` holds them.
    All of it happens after the metric is known and the schedules have moved, so a file never holds a stale value.
    Errors: UserError naming path and cause where a file cannot be written; the file before it is kept.
    """

    writes = True
    files = ("checkpoints/last.pt", "checkpoints/best.pt")

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
        self.every_n_epochs, self.every_n_steps, self.every_seconds, self.filename = (
            every_n_epochs,
            every_n_steps,
            every_seconds,
            filename,
        )
        for field, spec in self._fields():
            if not re.fullmatch(r"[\w/.-]+", field) or not _SPEC.fullmatch(spec):
                wanted = "needs names like {epoch} or {val/loss:.3f}"
                raise UserError(f"Checkpoint: filename={filename!r}, field {{{field}:{spec}}}; {wanted}")
        ranked = [field for field, _ in self._fields() if field not in ("epoch", "step")] if save_top_k > 1 else []
        self.monitors = () if monitor is None else (monitor, *ranked)
        plain_name("".join(literal + ("" if field is None else "0") for literal, field, _, _ in _parsed(filename)) + ".pt")
        if filename in ("best", "last", "final"):
            raise UserError(
                f"Checkpoint: filename={filename!r}; best.pt, last.pt and final.pt are written anyway, choose another"
            )

    def setup(self, trainer: Trainer) -> None:
        self.kept: list[list[Any]] = []  # [score, file name], best first; the score is the smaller the better
        self.waiting: dict[str, dict[str, Any]] = {}  # states that rank, by file name, not written yet
        self.gone: set[str] = set()  # files that no longer rank, not deleted yet
        self.saved: tuple[int, int] | None = None  # (step, batch) of last.pt
        self.took, self.ended = GUESS, time.monotonic()  # the last save: how long, and when

    def on_train_start(self, trainer: Trainer) -> None:
        assert trainer.run is not None
        self._delete_gone(trainer)  # what a run that was killed between saving and deleting has left
        delete(trainer.run.checkpoints / "final.pt")
        if any(self._step_of(trainer, name) > trainer.state.step for _, name in self.kept):
            self.kept = []  # another folder, or a future that this run gave up: its files are no longer the best of this one
        elif self.kept and self._step_of(trainer, "best.pt") != self._step_of(trainer, self.kept[0][1]):
            save(load(trainer.run.checkpoints / self.kept[0][1]), trainer.run.checkpoints / "best.pt")  # of a save half done

    def on_checkpoint(self, trainer: Trainer) -> None:
        if self.monitor is not None and trainer.fresh:
            self._rank(trainer)
        if self._due(trainer):
            self.save(trainer)

    def next_step(self, step: int) -> int | None:
        n = self.every_n_steps
        return None if n is None else step - step % n + n

    def _due(self, trainer: Trainer) -> bool:
        state = trainer.state
        if trainer.loop_ended:
            return bool(self.waiting) or self.saved != (state.step, state.batch)
        if self.every_seconds is not None and time.monotonic() - self.ended >= self.every_seconds:
            return True
        if state.batch:
            return self.every_n_steps is not None and state.step % self.every_n_steps == 0
        if self.every_n_epochs is not None:
            return state.epoch % self.every_n_epochs == 0
        automatic = self.every_n_steps is None and self.every_seconds is None
        return automatic and time.monotonic() - self.ended >= SPACING * self.took

    def on_test_end(self, trainer: Trainer) -> None:
        if trainer.restored:
            assert trainer.run is not None
            save(trainer.snapshot(), trainer.run.checkpoints / "final.pt")

    @staticmethod
    def _step_of(trainer: Trainer, name: str) -> float:
        """The step a file was saved at; infinite for none that can be read."""
        assert trainer.run is not None
        try:
            return float(load(trainer.run.checkpoints / name)["state"]["step"])
        except UserError:
            return math.inf

    def save(self, trainer: Trainer) -> None:
        """Write the files that rank, then last.pt; then delete what is no longer among the best."""
        assert trainer.run is not None
        began, folder, before = time.monotonic(), trainer.run.checkpoints, self.saved
        self.saved = (trainer.state.step, trainer.state.batch)
        try:
            named = sorted(self.waiting.items(), key=lambda item: item[0] == "best.pt")  # what a file lists is there before it
            for name, content in [*named, ("last.pt", trainer.snapshot())]:
                save(content, folder / name)
        except BaseException:
            self.saved = before
            raise
        self.waiting = {}
        trainer.call("on_save_end")
        self._delete_gone(trainer)
        self.ended = time.monotonic()
        self.took = self.ended - began

    def _delete_gone(self, trainer: Trainer) -> None:
        assert trainer.run is not None
        for name in self.gone:
            delete(trainer.run.checkpoints / name)
        self.gone = set()

    def _rank(self, trainer: Trainer) -> None:
        """Put this state among the best, if it is one of them; its bytes wait for the next save."""
        assert self.monitor is not None
        if self.save_top_k == 0 or trainer.fresh_metric(self.monitor) is None:
            return
        score = self.sign * trainer.metric(self.monitor)
        if not math.isfinite(score) or (len(self.kept) >= self.save_top_k and score >= self.kept[-1][0]):
            return
        best = not self.kept or score < self.kept[0][0]
        own = self._name(trainer) if self.save_top_k > 1 else "best.pt"
        others = [k for k in self.kept if not (best and k[1] == "best.pt")]
        ranked = sorted([*others, [score, own]], key=lambda k: k[0])
        self.kept = ranked[: self.save_top_k]
        for _, name in ranked[self.save_top_k :]:
            self.waiting.pop(name, None)
            self.gone.add(name)
        self.gone.discard(own)
        content = plain(trainer.snapshot())
        self.waiting.update({own: content, "best.pt": content} if best else {own: content})

    def _name(self, trainer: Trainer) -> str:
        values: dict[str, Any] = {"epoch": trainer.state.epoch, "step": trainer.state.step}
        text = ""
        for literal, field, spec, _ in _parsed(self.filename):
            text += literal
            if field is not None:
                value = values[field] if field in values else trainer.metric(field)
                try:
                    text += format(value, spec or "")
                except ValueError as error:
                    raise UserError(f"filename={self.filename!r}: {error}") from None
        taken = any(name == f"{text}.pt" for _, name in self.kept)
        return plain_name(f"{text}-step{trainer.state.step}.pt" if taken else f"{text}.pt")

    def _fields(self) -> list[tuple[str, str]]:
        return [(field, spec or "") for _, field, spec, _ in _parsed(self.filename) if field is not None]

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept, "gone": sorted(self.gone), "monitor": self.monitor, "sign": self.sign}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        accept(state, {"kept": [(float, str)], "gone": [str], "monitor": Either(None, str), "sign": float}, "state")
        kept = [[score, plain_name(name)] for score, name in state["kept"]]  # files that will be deleted: never outside
        if (state["monitor"], state["sign"]) == (self.monitor, self.sign):  # scores of another metric say nothing
            self.kept = kept[: self.save_top_k]
            self.gone = {plain_name(n) for n in [*state["gone"], *(n for _, n in kept[self.save_top_k :])]} - {"best.pt"}


def _parsed(filename: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(filename))
    except ValueError as error:
        raise UserError(f"Checkpoint: filename={filename!r}: {error}") from None
