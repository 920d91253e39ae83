"""Scalars for TensorBoard: `tensorboard --logdir logs`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from trainkit.callback import Callback
from trainkit.errors import UserError
from trainkit.events import EventFile
from trainkit.summary import deviation
from trainkit.trainer import Trainer


class TensorBoard(Callback):
    """Writes event files into the run's folder. The x axis is the step; the epoch is a scalar of its own.

    train/loss at the first step, every log_every_n_steps, and the last of each epoch; other metrics when they are new; with
    replicas their mean, and their deviation as `val/loss_std`. The configuration as text; hyper-parameters with the final
    metrics, once, at the end.
    histograms_every_n_epochs: weights and gradients of each parameter, off by default.
    A resumed run continues the same curves: what was written after its checkpoint is marked as purged.
    """

    writes = True
    files = ("events.out.tfevents",)

    def __init__(self, histograms_every_n_epochs: int | None = None) -> None:
        if histograms_every_n_epochs is not None and histograms_every_n_epochs < 1:
            raise UserError(f"TensorBoard: histograms_every_n_epochs={histograms_every_n_epochs}; needs at least 1")
        self.histograms_every_n_epochs = histograms_every_n_epochs
        self.writer: EventFile | None = None

    def on_train_start(self, trainer: Trainer) -> None:
        assert trainer.run is not None
        self.there = scalars_at(trainer.state.step, trainer.run.path) if trainer.state.step else set()
        self.there_at = trainer.state.step
        self.writer = EventFile(trainer.run.path)
        if trainer.state.step:
            purge = Event(wall_time=time.time(), step=trainer.state.step + 1, session_log=SessionLog(status=SessionLog.START))
            self.writer.add_event(purge)
        elif trainer.config:
            from torch.utils.tensorboard.summary import text

            fenced = "\n".join(f"    {line}" for line in trainer.config.splitlines())
            self._add(text("config", fenced), 0)

    def on_step_log(self, trainer: Trainer, losses: list[float]) -> None:
        self._scalars(trainer.state.step, {"train/loss": losses})

    def on_log(self, trainer: Trainer) -> None:
        new = {name: trainer.metrics[name] for name in sorted(trainer.fresh) if name != "train/loss"}  # that one stands by step
        self._scalars(trainer.state.step, {**new, "epoch": [float(trainer.epochs_done)]})
        every = self.histograms_every_n_epochs
        if every and trainer.state.batch == trainer.steps_per_epoch and trainer.epochs_done % every == 0:
            self._histograms(trainer)

    def on_test_end(self, trainer: Trainer) -> None:
        there = self.there if self.there_at == trainer.state.step else set()  # the run had ended before it was resumed
        self._scalars(trainer.state.step, {name: trainer.metrics[name] for name in sorted(trainer.fresh - there)})
        if not trainer.fresh & there:
            self._hparams(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def state_dict(self) -> dict[str, Any]:
        if self.writer is not None:
            self.writer.flush()  # what the checkpoint's step is behind is on the disk before the checkpoint
        return {}

    def _scalars(self, step: int, metrics: dict[str, list[float]]) -> None:
        values = []
        for name, of_replicas in metrics.items():
            values.append(Summary.Value(tag=name, simple_value=sum(of_replicas) / len(of_replicas)))
            if len(of_replicas) > 1:
                values.append(Summary.Value(tag=f"{name}_std", simple_value=deviation(of_replicas)))
        self._add(Summary(value=values), step)

    def _add(self, summary: Summary, step: int) -> None:
        assert self.writer is not None
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _histograms(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard.summary import histogram

        for name, p, g in trainer.net.named_param():
            for group, tensor in (("weights", p), ("gradients", g))[: 1 + trainer.optimizer.holds_gradient]:
                finite = tensor[tensor.isfinite()].cpu().double().numpy()
                if finite.size:
                    self._add(histogram(f"{group}/{name}", finite, bins=30), trainer.state.step)  # as many as are shown

    def _hparams(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard.summary import hparams

        finals = {name: trainer.metric(name) for name in trainer.metrics if name.startswith(("test/", "val/"))}
        chosen: dict[str, bool | str | float | int] = {
            "optimizer": type(trainer.optimizer).__name__,
            "lr": trainer.optimizer.configured[0],
            "batch_size": trainer.batch_size or len(trainer.data.train),
            "seed": trainer.seed,
        }
        for part in hparams(chosen, finals):  # the metrics are named only: their values are the curves' last points
            self._add(part, trainer.state.step)


def scalars_at(step: int, folder: Path) -> set[str]:
    """The tags that the event files of `folder` hold a scalar of at `step`."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = [str(path) for path in folder.glob("events.out.tfevents.*")]
    events = (event for file in files for event in LegacyEventFileLoader(file).Load() if event.step == step)
    return {value.tag for event in events for value in event.summary.value if value.HasField("simple_value")}
