"""Event files for TensorBoard: `tensorboard --logdir logs`."""

from __future__ import annotations

import json
import stat
import time
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from trainkit.checkpoint.digest import digest
from trainkit.core.errors import UserError
from trainkit.core.validation import COUNTER, require, short_repr
from trainkit.metrics.event_file import EVENTS, EventFile
from trainkit.metrics.statistics import mean, std
from trainkit.trainer import event_summaries
from trainkit.trainer.callback import Callback
from trainkit.trainer.run_folder import RunFolder
from trainkit.trainer.session import Session

Point = tuple[int, str, float]  # step, tag, value


class TensorBoard(Callback):
    """Writer of event files in the run's folder. The x axis is the step; the epoch is a scalar of its own.

    Metrics are written when they are new, under the names and with the values of metrics.csv: train/loss is the mean over an
    epoch's steps. train/loss_step is the loss of a step: the first, every log_every_n_steps, and the last of each epoch.
    With replicas a scalar is their mean, and `val/loss_std` their standard deviation.
    At the start: the configuration and the net's layers as text, and the charts of the tab Custom Scalars, in which the curves
    of a metric on training, validation and test data are together. At the end, once: the configuration's scalars with the
    final metrics (HPARAMS), and the confusion matrices of the validation and test data as pictures.
    histograms_every_n_epochs: weights and gradients of each parameter, off by default.

    A resumed run continues the same curves. Its file begins with an event that hides what was written after its checkpoint.
    Then follow the scalars of the checkpoint's step if that step was not complete. The state holds them, so no event file is
    read. If a run resumes from a step before last.pt, it creates its file after its first save: until then a further resume
    would continue from last.pt. Meanwhile its events are kept in memory, and its scalars also in the state.
    """

    needs_run_folder = True
    files = (EVENTS,)

    def __init__(self, histograms_every_n_epochs: int | None = None) -> None:
        if histograms_every_n_epochs is not None and histograms_every_n_epochs < 1:
            raise UserError(f"TensorBoard: histograms_every_n_epochs={histograms_every_n_epochs}; needs at least 1")
        self.histograms_every_n_epochs = histograms_every_n_epochs
        self.writer: EventFile | None = None
        self.is_held = False

    def setup(self, session: Session) -> None:
        self.session, self.writer = session, None
        self.since: int | None = None  # events of this step and later ones are hidden when the fit begins
        self.points: list[Point] = []  # the scalars of the last step that has any; while is_held, those of later steps too
        self.waiting: list[Event] = []  # events not written to a file yet
        self.summary: dict[str, Any] = {}  # summary.json of a resumed run that had ended
        self.is_held = False

    def on_train_start(self, session: Session) -> None:
        assert session.run is not None
        step = session.progress.step
        self.is_held = session.last_is_ahead
        if step == 0 or not session.run.continues:
            self._purge(0)  # the events of a run that saved nothing
            self._first_page(session)
        else:
            self.summary = last_summary(session.run) if self.since is not None else {}
            self._purge(step + 1 if self.since is None or self._is_ended() else self.since)
        if not self.is_held:
            self._open()

    def on_step_log(self, session: Session, losses: list[float]) -> None:
        self._log(session.progress.step, {"train/loss_step": losses})

    def on_log(self, session: Session) -> None:
        new = {name: session.metrics[name] for name in sorted(session.metrics.updated)}
        self._log(session.progress.step, {**new, "epoch": [float(session.epochs_done)]})
        every, at_end = self.histograms_every_n_epochs, "train/loss" in session.metrics.updated
        if every and at_end and session.epochs_done % every == 0:
            for summary in event_summaries.histograms(session):
                self._add(summary, session.progress.step)

    def on_test_end(self, session: Session) -> None:
        step = session.progress.step
        no_step_taken = self.since == step + 1  # since the run was resumed
        is_written = no_step_taken and self._is_ended()
        if no_step_taken and not is_written and self.points:
            self._purge(step)  # a run that was killed at its end may have written some of these
        names = session.metrics.updated - set(self.summary["metrics"]) if is_written else session.metrics.updated
        for tag, value in scalars({name: session.metrics[name] for name in sorted(names)}):
            self._add(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step)
        if not is_written:
            pictures = [event_summaries.confusion_picture(session, name) for name in ("val", "test")]
            for summary in (*event_summaries.hparams(session), *(p for p in pictures if p is not None)):
                self._add(summary, step)

    def on_save_end(self, session: Session) -> None:
        if self.is_held:
            self._open()

    def on_exception(self, session: Session, error: BaseException) -> None:
        self.is_held = False  # nothing was saved: the curves still belong to last.pt

    def on_fit_end(self, session: Session) -> None:
        if self.is_held:
            self._open()
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def state_dict(self) -> dict[str, Any]:
        """Return `since`, the first step that is not complete, and `points`: step, tag (an index into `tags`) and value."""
        if self.writer is not None:
            self.writer.flush()  # before the checkpoint, so that a kill after it loses no event
        state, since, points = self.session.progress, self.since, self.points
        if not self.is_held:
            since = state.step + (state.batch == 0)
            points = [point for point in points if point[0] == state.step]
        tags = {tag: i for i, tag in enumerate(dict.fromkeys(tag for _, tag, _ in points))}
        rows = [(step, tags[tag], value) for step, tag, value in points]
        return {"since": since, "tags": list(tags), "points": torch.tensor(rows, dtype=torch.float64).view(-1, 3)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require(state, {"since": COUNTER, "tags": [str], "points": torch.float64}, "state")
        tags, points = state["tags"], state["points"]
        "".join(tags).encode()  # raises for a tag that an event cannot hold
        if points.dim() != 2 or points.shape[1] != 3:
            raise UserError(f"state.points: {short_repr(points)}; needs rows of 3")
        limits = torch.tensor([COUNTER.stop, len(tags)])
        if not ((points[:, :2] >= 0) & (points[:, :2] < limits) & (points[:, :2] % 1 == 0)).all():
            raise UserError("state.points: needs whole steps, and indices into state.tags")
        self.since = state["since"]
        self.points = [(int(step), tags[int(i)], value) for step, i, value in points.tolist()]

    def _open(self) -> None:
        """Create the event file and write the waiting events."""
        run = self.session.run
        assert run is not None
        self.writer, self.is_held = EventFile(run.path), False
        for event in self.waiting:
            self.writer.add_event(event)
        self.waiting = []

    def _is_ended(self) -> bool:
        """Return whether the resumed run had ended at this step with these parameters: then its final metrics are written."""
        if self.summary.get("step") != self.session.progress.step:
            return False
        return bool(self.summary.get("params_sha256") == digest((name, p) for name, p, _ in self.session.net.named_param()))

    def _first_page(self, session: Session) -> None:
        """Write what is known before the first step: the configuration, the net, and which curves share a chart."""
        if session.config:
            self._add(event_summaries.preformatted("config", session.config), 0)
        self._add(event_summaries.preformatted("net", event_summaries.net_table(session)), 0)
        self._add(event_summaries.charts(session), 0)

    def _write(self, event: Event) -> None:
        if self.writer is None:
            self.waiting.append(event)
        else:
            self.writer.add_event(event)

    def _add(self, summary: Summary, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def _purge(self, since: int) -> None:
        """Hide the events of earlier files from step `since` on, and write those that the state holds again."""
        self.since = since
        self._write(Event(wall_time=time.time(), step=since, session_log=SessionLog(status=SessionLog.START)))
        for step, tag, value in self.points:
            if step >= since:
                self._add(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step)

    def _log(self, step: int, metrics: dict[str, list[float]]) -> None:
        values = scalars(metrics)
        if not self.is_held and self.points and self.points[-1][0] != step:
            self.points = []
        self.points += [(step, tag, value) for tag, value in values]
        self._add(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values]), step)


def scalars(metrics: dict[str, list[float]]) -> list[tuple[str, float]]:
    """Return tag and value of each metric: its mean over the replicas, and their standard deviation."""
    found = []
    for name, values in metrics.items():
        found.append((name, mean(values)))
        if len(values) > 1:
            found.append((f"{name}_std", std(values)))
    return found


def last_summary(run: RunFolder) -> dict[str, Any]:
    """Return summary.json if the run came to its end and has written no event since; else {}."""
    path = run.file("summary.json")
    try:
        info = path.lstat()
        later = any(file.lstat().st_mtime_ns > info.st_mtime_ns for file in run.path.glob(EVENTS))
        if later or not stat.S_ISREG(info.st_mode):
            return {}
        summary = json.loads(path.read_bytes())
        require([summary["stop_reason"], summary["metrics"]], (str, {str: Any}), "summary")
        return {} if summary["stop_reason"].startswith("SIG") else dict(summary)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # the file may hold anything
        return {}
