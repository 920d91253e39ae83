"""Stop at the first step with a non-finite number, and print its place in that step."""

from __future__ import annotations

import math
from contextlib import closing

import torch

from trainkit.checkpoint.file import BEFORE_NAN, save
from trainkit.core.terminal import print_stderr
from trainkit.optim.flat_buffer import unflatten
from trainkit.trainer import replay
from trainkit.trainer.callback import Callback
from trainkit.trainer.nonfinite import locate, nonfinite_replicas
from trainkit.trainer.progress import Progress
from trainkit.trainer.replay import StepCopy, StepSideEffects
from trainkit.trainer.session import Session


class TerminateOnNaN(Callback):
    """Ends the run at the first step whose loss, parameters or slots are not finite; the message names layer and phase.

    The numbers are checked at the steps where losses are fetched. There the state is also copied (on the device: p, slots,
    counts, random states). If a number is not finite, the steps since the copy are taken again, one by one. The first step
    that makes the state non-finite is then taken with a check of every tensor.
    The run ends with the state before that step; the last checkpoint and `before_nan.pt` in the run's folder hold it.
    With replicas, only the one with the non-finite number stops. It keeps its parameters from before that step, and a line on
    stderr reports it. When the last replica stops, the run ends.
    min_epochs is ignored. Infinite numbers in the data are not refused at the start: the step that takes one reports it.
    """

    handles_nonfinite = True
    files = (BEFORE_NAN,)

    def on_train_start(self, session: Session) -> None:
        self.side_effects = StepSideEffects(session)
        self.kept, self.checked_step = StepCopy(session, self.side_effects), session.progress.step

    def on_losses(self, session: Session, rows: list[list[float]]) -> None:
        self.checked_step = session.progress.step
        if wrong := nonfinite_replicas(session, session.progress.loss_sum):
            with torch.inference_mode():
                self._stop(session, wrong, rows)

    def on_checkpoint(self, session: Session) -> None:
        if self.checked_step != session.progress.step or session.loop_ended:
            return
        if session.progress.batch < session.steps_per_epoch:  # else the end of the epoch follows, and is copied
            self.kept, self.checked_step = StepCopy(session, self.side_effects), -1

    def next_step(self, step: int) -> int | None:
        return None  # on_checkpoint copies the state only where losses were fetched

    def _stop(self, session: Session, wrong: list[int], rows: list[list[float]]) -> None:
        """Stop the replicas `wrong`; end the run if no other replica trains."""
        now, end = StepCopy(session, self.side_effects), session.progress.step
        before: dict[int, StepCopy] = {}
        with closing(replay.replay_steps(session, self.kept, end)) as steps:
            for kept, losses in steps:
                before |= {r: kept for r in nonfinite_replicas(session, losses) if r in wrong and r not in before}
                if len(before) == len(wrong):
                    break
        sums = now.state["loss_sum"]
        messages = {r: self._message(session, r, before.get(r), rows, end, math.isfinite(sums[r])) for r in wrong}
        before = {r: before.get(r, self.kept) for r in wrong}
        others = [active and r not in wrong for r, active in enumerate(now.state["active"])]
        last = max(kept.step for kept in before.values())
        ending = [r for r in wrong if before[r].step == last and not any(others)]
        (before[ending[0]] if ending else now).restore(session)
        stopped, own = [r for r in wrong if r not in ending], [p for p, _ in session.optimizer.pairs]
        for r in stopped:
            for s, old in zip(replay.carried_buffers(session), before[r].tensors, strict=True):
                for v, o in zip(unflatten(s, own), unflatten(old, own), strict=True):
                    v[r].copy_(o[r])
            session.progress.restore_sums(r, Progress(**before[r].state))
            print_stderr(messages[r])
        session.set_active([active and r not in stopped for r, active in enumerate(session.progress.active)])
        if ending:
            session.rolled_back = True
            saved = ""
            if session.run is not None:
                save(session.snapshot(), session.run.file(BEFORE_NAN))
                saved = f"; {BEFORE_NAN} is the state before that step"
            session.stop("nan", "\n".join(messages[r] for r in ending) + saved, force=True)

    def _message(
        self, session: Session, r: int, before: StepCopy | None, rows: list[list[float]], end: int, finite_losses: bool
    ) -> str:
        """Return the message for replica r: its step, and the place in it."""
        losses = [(end - len(rows) + 1 + i, row[r]) for i, row in enumerate(rows)]
        wrong = [] if finite_losses else [(step, loss) for step, loss in losses if not math.isfinite(loss)]
        first, loss = (wrong or losses[-1:])[0]
        step = first if before is None else before.step + 1
        text = f"step {step:,}, epoch {self.kept.state['epoch'] + 1}: "
        text = f"replica {r}, {text}" if session.replicas > 1 else text
        if before is None:
            what = f"the loss is {loss}" if wrong else "the parameters or slots are not finite"
            return f"{text}{what}, but repeating the steps from step {self.kept.step:,} gives finite numbers"
        before.restore(session)
        found = locate(session, r)
        if found is not None:
            return text + found
        names = ", ".join(self.side_effects.callbacks)
        if session.engine != "eager":
            where = "native code" if session.engine == "native" else "the captured step"
            return f"{text}numbers are not finite in {where}; the same step in eager mode gives finite numbers"
        return f"{text}numbers are not finite{f' after the step: caused by a callback ({names})' if names else ''}"
