"""The loop over epochs and steps, from the session's progress on. `Trainer.fit` shows it as pseudocode."""

from __future__ import annotations

import math

from trainkit.core.errors import UserErrors
from trainkit.data.dataset import Split

from . import signals
from .callback import known_metrics, missing
from .progress import StopReason
from .session import Session


def train(session: Session) -> None:
    """Take the steps up to the end of the run: a limit of the settings, a stop by a callback, or a signal."""
    progress, settings = session.progress, session.settings
    after_step, save = session.hooks["on_train_batch_end"], session.hooks["on_checkpoint"]
    every, inside = settings.log_every_n_steps, session.validate_every_n_steps
    engine = session.step_engine
    assert engine is not None
    if progress.validation_pending:
        _validate_inside(session)
        session.call("on_checkpoint")
        session.metrics.updated.clear()
    if progress.batch == session.steps_per_epoch and session.signal is None:
        _end_epoch(session)
    while not _ended(session):
        if progress.batch == 0:
            session.begin_epoch()
        last = session.steps_per_epoch
        for losses, steps, samples, weight in engine.epoch(progress.epoch, progress.batch):
            session.record_steps(losses, steps, samples, weight)
            for hook in after_step:
                hook()
            if progress.step % every == 0 or progress.step == 1 or progress.batch == last:
                session.fetch_losses()
            if inside and progress.step % inside == 0 and not (progress.batch == last and _validates(session)):
                _validate_inside(session)
            if session.stopping or progress.step == settings.max_steps:
                session.fetch_losses()  # the callbacks that write need the last step's loss
            for hook in save:
                hook()
            if session.metrics.updated:
                session.metrics.updated.clear()
            if session.signal is not None or session.stopping or progress.step == settings.max_steps:
                break
        if session.signal is not None:
            break
        if progress.batch == last:
            _end_epoch(session)


def finish(session: Session) -> None:
    """Evaluate all splits with the final parameters, unless a signal ended the run."""
    if session.signal is not None:
        name = signals.name(session.signal)
        session.stopping = StopReason(name, f"stopped by {name}; continue with --resume")
        return
    session.call("on_train_end")
    if any(session.progress.samples) and "train/loss" not in session.metrics:
        session.metrics["train/loss"] = session.progress.mean_loss()  # the run ended inside its first epoch
    try:
        final = session.measure("train", session.data.train, interruptible=True)
        del final["loss"]  # train/loss is the mean over the epoch's steps
        for name, values in final.items():
            session.log(f"train/{name}", values)
        if session.data.test is not None:
            session.evaluate_and_log("test", session.data.test, interruptible=True)
        is_measured = session.validated_step == session.progress.step and not session.params_replaced
        if session.data.val is not None and not is_measured:  # the last validation was at another step or of other parameters
            last = session.measure("val", session.data.val, interruptible=True)
            if session.params_replaced or _is_validated(session):  # the curves have a point of this step
                session.metrics.update({f"val/{name}": values for name, values in last.items()})
            else:
                for name, values in last.items():
                    session.log(f"val/{name}", values)
    except signals.Interrupted:
        finish(session)
        return
    session.call("on_test_end")
    session.metrics.updated.clear()


def _ended(session: Session) -> bool:
    if session.signal is not None or session.stopping:
        return True
    progress, settings = session.progress, session.settings
    if settings.max_steps is not None and progress.step >= settings.max_steps:
        session.stopping = StopReason("max_steps", f"{progress.step} steps were taken")
    elif progress.epoch >= session.max_epochs:
        session.stopping = StopReason("max_epochs", f"{progress.epoch} epochs are complete")
    return session.stopping is not None


def _end_epoch(session: Session) -> None:
    """End the epoch whose steps are all taken: metrics, decisions, records, and last the checkpoint."""
    progress = session.progress
    session.fetch_losses()
    if session.data.val is not None and _validates(session) and not _validated(session, session.data.val):
        return  # interrupted: the resumed run begins with this validation
    session.log("train/loss", session.progress.mean_loss())
    if progress.first_nonfinite_epoch is None and not all(map(math.isfinite, session.metrics["train/loss"])):
        progress.first_nonfinite_epoch = session.epochs_done
    session.log("lr", progress.lr)
    session.call("on_train_epoch_end")
    _publish(session)
    values = {
        name: v[0] if len(v) == 1 else v for name, v in sorted(session.metrics.items()) if name in session.metrics.updated
    }
    session.history.append({"epoch": session.epochs_done, "step": progress.step, **values})
    progress.epoch, progress.batch = progress.epoch + 1, 0
    session.call("on_checkpoint")
    session.metrics.updated.clear()


def _publish(session: Session) -> None:
    """Pass new metrics to callbacks that decide, then to those that write. End the run if a monitored one does not exist."""
    session.call("on_metrics")
    session.call("on_log")
    if "train/loss" not in session.metrics:
        return  # no epoch is complete yet
    val_to_come = session.data.val is not None and not any(m.startswith("val/") for m in session.metrics)
    known = {*session.metrics, *known_metrics(session)}
    if lines := [line for m, line in missing(session, known) if not (val_to_come and m.startswith("val/"))]:
        session.failed = UserErrors(f"{line}; the run ends after step {session.progress.step}" for line in lines)
        session.metrics.updated.clear()  # nothing is ranked by a metric that does not exist
        session.stop("error", str(session.failed), force=True)


def _validates(session: Session) -> bool:
    """Return whether a validation is due at the end of this epoch."""
    return (session.progress.epoch + 1) % session.validate_every_n_epochs == 0


def _is_validated(session: Session) -> bool:
    """Return whether this run, or the one that it resumes, was validated after the last step."""
    progress, inside = session.progress, session.validate_every_n_steps
    at_epoch_end = progress.batch == 0 and progress.epoch % session.validate_every_n_epochs == 0
    return at_epoch_end or (inside is not None and progress.step % inside == 0)


def _validate_inside(session: Session) -> None:
    session.fetch_losses(log=False)  # check the losses for NaN before the validation uses this net
    if session.rolled_back:
        return
    session.progress.validation_pending = True
    if session.data.val is not None and _validated(session, session.data.val):
        session.progress.validation_pending = False
        _publish(session)


def _validated(session: Session, split: Split) -> bool:
    """Validate on `split`. Return False where a signal interrupted it."""
    try:
        session.evaluate_and_log("val", split, interruptible=True)
    except signals.Interrupted:
        return False
    session.validated_step = session.progress.step
    session.call("on_validation_end")
    return True
