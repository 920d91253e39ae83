"""The trainer: it owns the loop and where the run stands; callbacks do everything else."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from trainkit.core.errors import UserError, UserErrors, near
from trainkit.core.rng import order
from trainkit.data.dataset import Dataset, Split
from trainkit.data.transforms.normalize import Normalizer
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import RATE_LIMIT, Optimizer

from . import capture, signals, threads
from .callback import HOOKS, Callback, check_files, check_monitors, known_metrics, listeners, missing, named, overrides
from .device import find_device
from .engines.select import Mode, Steps, steps_left
from .evaluation import Metrics, evaluate
from .progress import State, Stop
from .run_folder import Run
from .setup import prepare
from .summary import summarize


class Trainer:
    """Trains a net: `Trainer(max_epochs=20, callbacks=[EarlyStopping("val/loss")]).fit(net, loss, optimizer, data)`.

    max_epochs, max_steps: where to end; min_epochs: no callback stops before it.
    batch_size: samples of one pass, or None for all of them (gradient descent). accumulate: passes of one step, whose batch is
    then batch_size * accumulate samples. clip_norm, clip_value: limits of the gradient (see `step.py`).
    replicas: models trained at once, replica r being the run of seed + r, or of seeds[r]. seed: of the data's order, of
    Dropout, and of the replicas' weights.
    device: auto (cuda where there is one), cpu, cuda, cuda:1. dtype: of parameters and data.
    precision: of the passes; full, as dtype says, or bf16, in bfloat16 over parameters of that type (see `precision.py`).
    mode: eager, step by step; compile, many steps in a call of compiled code; auto, what is sooner done; graph, replays of a
        step captured on a CUDA device (see `modes.py`).
    threads: torch's, during a fit; None: one if its products are small, else all (see `cores.py`).
    log_every_n_steps: how often losses are fetched from the device. callbacks: a mapping by name, or a list.
    run_dir: the run's folder; None leaves no files. `fit` raises UserError where the folder holds another run or files that are
    not a run's. config: the text that is saved with every checkpoint.
    """

    def __init__(
        self,
        max_epochs: int = 100,
        min_epochs: int = 0,
        max_steps: int | None = None,
        batch_size: int | None = 32,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        replicas: int = 1,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        device: str = "auto",
        dtype: Literal["float32", "float64"] = "float32",
        precision: Literal["full", "bf16"] = "full",
        mode: Mode = "eager",
        threads: int | None = None,
        log_every_n_steps: int = 50,
        callbacks: Mapping[str, Callback] | Iterable[Callback] = (),
        run_dir: str | Path | None = None,
        config: str = "",
    ) -> None:
        for name, value, least in (
            ("max_epochs", max_epochs, 0),
            ("min_epochs", min_epochs, 0),
            ("max_steps", max_steps, 0),
            ("batch_size", batch_size, 1),
            ("accumulate", accumulate, 1),
            ("replicas", replicas, 1),
            ("log_every_n_steps", log_every_n_steps, 1),
            ("threads", threads, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"trainer.{name}: {value}; needs at least {least}")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not 0 < limit < RATE_LIMIT:
                raise UserError(f"trainer.{name}: {limit}; needs a number above 0 and below {RATE_LIMIT:g}")
        if threads is not None and threads > (most := os.cpu_count() or 1):
            raise UserError(f"trainer.threads: {threads}; this machine has {most} cores; give at most so many, or leave it out")
        if batch_size is None and accumulate > 1:
            raise UserError("trainer.accumulate: with batch_size null a step is one pass over all samples; give a batch_size")
        if dtype not in ("float32", "float64"):
            raise UserError(f"trainer.dtype: {dtype}; choose float32 or float64")
        if precision not in ("full", "bf16"):
            raise UserError(f"trainer.precision: {precision}; choose full or bf16")
        if mode not in get_args(Mode):
            raise UserError(f"trainer.mode: {mode}; choose {', '.join(get_args(Mode))}")
        self.max_epochs, self.min_epochs, self.max_steps = max_epochs, min_epochs, max_steps
        self.batch_size, self.accumulate, self.clip_norm, self.clip_value = batch_size, accumulate, clip_norm, clip_value
        if seeds is not None and len(seeds) != replicas:
            raise UserError(f"trainer.seeds: {len(seeds)} seeds for {replicas} replicas; needs one for each")
        self.replicas, self.seed, self.log_every_n_steps = replicas, seed, log_every_n_steps
        self.seeds = [seed + r for r in range(replicas)] if seeds is None else list(seeds)
        self.device, self.dtype = find_device(device), getattr(torch, dtype)
        self.precision, self.mode = precision, mode
        self.threads = threads
        self.running: Mode = mode  # eager, compile or graph, once a fit has begun
        self.callbacks = named(callbacks)
        self.run = None if run_dir is None else Run(Path(run_dir))
        self.config = config
        self.state = State()
        self.metrics: Metrics = {}  # the latest value of each metric, a replica each
        self.fresh: set[str] = set()  # metrics that no on_log has seen yet
        self.validate_every_n_epochs: int = 1  # ValidationSplit sets these two
        self.validate_every_n_steps: int | None = None
        self.stopping: Stop | None = None
        self.loop_ended = False
        self.restored = False  # set by a callback that changes the parameters after the last step
        self.rewound = False  # set by a callback that puts the state back to an earlier step: the loop ends there
        self.going_back = False  # the fit resumes an earlier state than the folder's last.pt, which the next save replaces
        self.failed: UserError | None = None  # what the fit ends with once its state is saved
        self.signal: int | None = None
        self.summary: dict[str, Any] = {}

    # -- what callbacks use ----------------------------------------------------------------------------------------------

    net: Module
    loss: Loss
    optimizer: Optimizer
    data: Dataset
    normalizer: Normalizer
    fingerprints: dict[str, str]  # of the data before they are scaled, by part (see `data/fingerprint.py`)
    generators: tuple[torch.Generator, ...]  # of the passes: Dropout's masks, a replica each
    step_size: int  # samples of one step

    @property
    def lr(self) -> list[float]:
        """The learning rates in use, a replica each."""
        return self._rates

    def set_lr(self, rates: Sequence[float]) -> None:
        """The rate of each replica from the next step on; a replica that has stopped keeps 0."""
        self._rates = list(rates)
        used = [r if a else 0.0 for r, a in zip(rates, self.state.active, strict=True)]
        self.optimizer.set_lr(used if len(set(used)) > 1 else used[0])

    def log(self, name: str, value: float | Sequence[float]) -> None:
        """Set a metric, one number or one a replica. A replica that has stopped keeps the value it had."""
        values = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)] * self.replicas
        old = self.metrics.get(name, values)
        self.metrics[name] = [v if a else o for v, o, a in zip(values, old, self.state.active, strict=True)]
        self.fresh.add(name)

    def metric(self, name: str) -> float:
        """The mean of a metric over the replicas where it is finite. Raises UserError listing the metrics there are."""
        if name not in self.metrics:
            raise UserError(f"no metric {name!r}{near(name, sorted(self.metrics))}")
        values = [v for v in self.metrics[name] if math.isfinite(v)]
        return sum(values) / len(values) if values else math.nan

    def fresh_metric(self, name: str) -> list[float] | None:
        """The values of a metric if they are new at this moment, else None. (`Callback.monitors` makes one that never comes
        an error.)"""
        return self.metrics[name] if name in self.fresh else None

    @property
    def may_stop(self) -> bool:
        """Whether min_epochs are done, so that `stop` has an effect."""
        return self.epochs_done >= self.min_epochs

    def activate(self, replicas: Sequence[bool]) -> None:
        """Say which replicas train; the others keep their parameters and metrics."""
        self.state.active = list(replicas)
        self.set_lr(self._rates)

    def stop(self, reason: str, words: str, replicas: Sequence[bool] | None = None, at_once: bool = False) -> None:
        """End the run after this epoch or step; with `replicas`, only for those marked, whose parameters stay as they are.

        Does nothing before min_epochs, whoever wants to stop says so again; unless `at_once`, which is the reason whatever
        others say.
        """
        if not (self.may_stop or at_once):
            return
        if replicas is not None:
            self.activate([a and not r for a, r in zip(self.state.active, replicas, strict=True)])
            if any(self.state.active):
                return
        if at_once or self.stopping is None:
            self.stopping = Stop(reason, words)

    @property
    def epochs_done(self) -> int:
        """Epochs whose steps are all done, the one that is just ending included."""
        return self.state.epoch + (self.state.batch == self.steps_per_epoch)

    @property
    def validation_is_due(self) -> bool:
        """Whether a validation comes before the planned end of the run."""
        size, state = self.steps_per_epoch, self.state
        last = state.step + steps_left(self)
        epochs = state.epoch + (state.batch + steps_left(self)) // size
        inside, each = self.validate_every_n_steps, self.validate_every_n_epochs
        return epochs // each > state.epoch // each or (inside is not None and last // inside > state.step // inside)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // self.step_size)

    # -- fit -------------------------------------------------------------------------------------------------------------

    def fit(
        self, net: Module, loss: Loss, optimizer: Optimizer, data: Dataset, resume: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Train `net` in place and return the summary (see `summary.py`).

            prepare data, net and optimizer; restore `resume`        setup
            refuse monitors of metrics that will not come
                                                                     on_fit_start (may refuse; nothing is written yet)
            make the run's folder
                                                                     on_train_start
            for each epoch:                                          on_train_epoch_start
                for each batch:
                    step: zero, forward, loss, backward, clip, update
                                                                     on_train_batch_end, on_losses, on_step_log
                    validate, if it is due inside the epoch          on_validation_end, on_metrics, on_log
                                                                     on_checkpoint (on_save_end after each save)
                validate, if it is due                               on_validation_end, on_train_epoch_end
                                                                     on_metrics, on_log, on_checkpoint
                                                                     on_checkpoint, on_train_end
            evaluate the training and test parts                     on_test_end, on_fit_end

        `resume`: the content of a checkpoint; the run goes on from there to the same bits.
        SIGINT and SIGTERM end it after the current step with everything saved; `fit` then returns as usual.
        Raises UserError where the folder holds another run or files that are not a run's. A fit that fails before its first
        step removes the folder it made.
        """
        files = self.connect(net, loss, optimizer, data)
        began, first_step = time.perf_counter(), 0
        try:
            if self.run is not None:
                self.run.open(files, going_on=resume is not None)
            with signals.noting(self._note), threads.restored():
                try:
                    self.begin(resume, self.mode if resume is None else capture.mode(self, resume))
                    first_step = self.state.step
                    if self.run is not None:
                        self.run.begin()
                        if not self.going_back:
                            self._write_config()
                    self.call("on_train_start")
                    with torch.inference_mode():
                        self._loop()
                        self._fetch_losses(log=False)  # those that a signal has left
                    self.loop_ended = True
                    self.call("on_checkpoint")
                    if self.failed is not None:
                        raise self.failed
                    self._finish()
                except BaseException as error:
                    self.call("on_exception", error)
                    raise
                finally:
                    self.call("on_fit_end")
                assert self.stopping is not None
                self.summary = summarize(self, time.perf_counter() - began)
                if self.run is not None:
                    self.run.write_text("summary.json", json.dumps(self.summary, indent=2) + "\n")
        except BaseException:
            if self.run is not None and self.state.step == first_step:
                self.run.discard()
            raise
        finally:
            if self.run is not None:
                self.run.close()
        return self.summary

    def save_ended(self) -> None:
        """`last.pt` of this moment is on the disk: called by the callback that wrote it."""
        if self.going_back:  # until now a resume would have continued from the old last.pt
            self._write_config()
        self.call("on_save_end")

    def _write_config(self) -> None:
        if self.run is not None and self.config:
            self.run.write_text("config.yaml", self.config)

    def connect(self, net: Module, loss: Loss, optimizer: Optimizer, data: Dataset) -> list[str]:
        """Take what is to be trained, and build the table of hooks; the files that the callbacks write.

        Raises UserError where callbacks do not go together.
        """
        for name, cb in self.callbacks.items():
            if cb.writes and self.run is None:
                raise UserError(f"callbacks.{name}: needs a run folder to write in; give the trainer a run_dir")
        files = check_files(self.callbacks)
        self.hooks = listeners(self, self.callbacks.values())
        each_step = ("on_train_batch_end", "on_checkpoint")
        self.looks = [cb.next_step for cb in self.callbacks.values() if any(overrides(cb, hook) for hook in each_step)]
        self.net, self.loss, self.optimizer, self.data = net, loss, optimizer, data
        self.stopping, self.signal, self.loop_ended = None, None, False
        self.restored = self.rewound = False
        self.failed = None
        self._losses: list[Tensor] = []  # of the steps since they were fetched, on the device
        self._counts: list[tuple[int, int]] = []  # and of how many steps each is, of how many samples
        return files

    def begin(self, resume: dict[str, Any] | None, mode: Mode) -> None:
        """All of a fit that may refuse; nothing is written. (`check` begins a run too.)"""
        prepare(self, resume)
        check_monitors(self)
        threads.use(threads.chosen(self, resume))
        self.going_back = resume is not None and self.run is not None and self.run.is_ahead(self.state.step, self.state.epoch)
        with torch.inference_mode():
            self.steps = Steps(self, mode)
        self.running = self.steps.mode
        if resume is not None and not steps_left(self):
            self.running = capture.mode_of(resume)  # that of the steps, which are all done
        self.call("on_fit_start")
        if any(cb.writes and overrides(cb, "on_checkpoint") for cb in self.callbacks.values()):
            capture.check_room(self)

    def _loop(self) -> None:
        """The epochs and steps of `fit`, from where `self.state` stands."""
        state = self.state
        after_step, save = self.hooks["on_train_batch_end"], self.hooks["on_checkpoint"]
        every, inside = self.log_every_n_steps, self.validate_every_n_steps
        if state.pending:
            self._validate_inside()
            self.call("on_checkpoint")
            self.fresh.clear()
        if state.batch == self.steps_per_epoch and self.signal is None:
            self._end_epoch()
        while not self._ended():
            if state.batch == 0:
                self.begin_epoch()
            last = self.steps_per_epoch
            for losses, steps, samples in self.steps.epoch(self.order(state.epoch), state.batch):
                self.note(losses, steps, samples)
                for hear in after_step:
                    hear()
                if state.step % every == 0 or state.step == 1 or state.batch == last:
                    self._fetch_losses()
                if inside and state.step % inside == 0 and not (state.batch == last and self._validates()):
                    self._validate_inside()
                if self.stopping or state.step == self.max_steps:
                    self._fetch_losses()  # the last step's, for the records
                for hear in save:
                    hear()
                if self.fresh:
                    self.fresh.clear()
                if self.signal is not None or self.stopping or state.step == self.max_steps:
                    break
            if self.signal is not None:
                break
            if state.batch == last:
                self._end_epoch()

    def begin_epoch(self) -> None:
        self.state.loss_sum, self.state.samples = [0.0] * self.replicas, [0] * self.replicas
        self.call("on_train_epoch_start")

    def note(self, losses: Tensor, steps: int, samples: int) -> None:
        """So many steps of so many samples each are done; their losses stay on the device."""
        self._losses.append(losses)
        self._counts.append((steps, samples))
        state = self.state
        state.lr = self._rates
        state.step += steps
        state.batch += steps

    def ahead(self) -> int:
        """How many steps may be taken at once: up to where somebody looks."""
        state, heard = self.state, self.hooks["on_losses"] or self.hooks["on_step_log"]
        every = (self.log_every_n_steps if heard else None, self.validate_every_n_steps)
        ends = [state.step - state.step % n + n for n in every if n]
        ends += [end for end in (self.max_steps, *(look(state.step) for look in self.looks)) if end is not None]
        return max(1, min(ends, default=state.step + self.steps_per_epoch) - state.step)

    def order(self, epoch: int) -> Tensor:
        """The order of the training samples: (n,), or (r, n) with a row a replica."""
        n = len(self.data.train)
        rows = [order(seed, epoch, n) for seed in self.seeds]
        return (torch.stack(rows) if self.net.lead else rows[0]).to(self.device)

    def _ended(self) -> bool:
        if self.signal is not None or self.stopping:
            return True
        if self.state.epoch >= self.max_epochs:
            self.stopping = Stop("max_epochs", f"{self.state.epoch} epochs are done")
        elif self.max_steps is not None and self.state.step >= self.max_steps:
            self.stopping = Stop("max_steps", f"{self.state.step} steps are done")
        return self.stopping is not None

    def _end_epoch(self) -> None:
        """Metrics, decisions, records and at last the checkpoint of the epoch whose steps are done."""
        state = self.state
        self._fetch_losses()
        if self.data.val is not None and self._validates() and not self._validated(self.data.val):
            return  # interrupted: the resumed run begins here again
        self.log("train/loss", self._mean_loss())
        if state.first_nonfinite_epoch is None and not all(map(math.isfinite, self.metrics["train/loss"])):
            state.first_nonfinite_epoch = self.epochs_done
        self.log("lr", state.lr)
        self.call("on_train_epoch_end")
        self._publish()
        state.epoch, state.batch = state.epoch + 1, 0
        self.call("on_checkpoint")
        self.fresh.clear()

    def _mean_loss(self) -> list[float]:
        """The loss of this epoch's steps, a mean over their samples; of a replica that had stopped before it, NaN."""
        return [s / n if n else math.nan for s, n in zip(self.state.loss_sum, self.state.samples, strict=True)]

    def _publish(self) -> None:
        """New metrics to callbacks that decide, then to those that write. Ends the run if a monitored metric does not exist."""
        self.call("on_metrics")
        self.call("on_log")
        if "train/loss" not in self.metrics:
            return  # no epoch is done yet
        awaited = self.data.val is not None and not any(m.startswith("val/") for m in self.metrics)
        known = {*self.metrics, *known_metrics(self)}
        if lines := [line for m, line in missing(self, known) if not (awaited and m.startswith("val/"))]:
            self.failed = UserErrors(f"{line}; the run ends after step {self.state.step}" for line in lines)
            self.fresh.clear()  # nothing is ranked by what is not there
            self.stop("error", str(self.failed), at_once=True)

    def _validates(self) -> bool:
        """Whether a validation is due at the end of this epoch."""
        return (self.state.epoch + 1) % self.validate_every_n_epochs == 0

    def _validate_inside(self) -> None:
        self._fetch_losses(log=False)  # nobody decides by a net that nobody has looked at
        if self.rewound:
            return
        self.state.pending = True
        if self.data.val is not None and self._validated(self.data.val):
            self.state.pending = False
            self._publish()

    def _validated(self, part: Split) -> bool:
        """Validate; False where a signal came in between."""
        try:
            self.measure("val", part)
        except signals.Interrupted:
            return False
        self.call("on_validation_end")
        return True

    def measure(self, name: str, part: Split) -> None:
        """Evaluate the net on `part` and log `name/loss` and `name/error`."""
        for metric, values in self.evaluate(part).items():
            self.log(f"{name}/{metric}", values)

    def evaluate(self, part: Split) -> Metrics:
        """Loss and error of the net as it is, on `part`."""
        size = max(self.batch_size or len(part), 1024)
        return evaluate(self.net, self.loss, self.data, part, size, self.replicas, self._pause)

    def _fetch_losses(self, log: bool = True) -> None:
        """Bring the losses since the last time to the host (waits for the device), and to those who listen."""
        if not self._losses:
            return
        rows = self.add_losses()
        self.call("on_losses", rows)
        if log and not self.rewound:
            self.call("on_step_log", rows[-1])

    def add_losses(self) -> list[list[float]]:
        """Add the losses since the last time to the epoch's, one by one, in float64; a row a step."""
        counts, state = [samples for steps, samples in self._counts for _ in range(steps)], self.state
        losses = self.steps.join(self._losses).double().reshape(len(counts), -1)
        if self.loss.reduction == "sum":
            losses /= torch.tensor(counts, dtype=losses.dtype, device=losses.device).unsqueeze(1)
        values: list[list[float]] = losses.tolist()
        self._losses, self._counts = [], []
        trained = [r for r, active in enumerate(state.active) if active]
        for row, n in zip(values, counts, strict=True):
            for r in trained:
                state.samples[r] += n
                state.loss_sum[r] += row[r] * n
        return values

    def _finish(self) -> None:
        """The last evaluation, unless a signal wants the run gone."""
        if self.signal is not None:
            self.stopping = Stop(signals.name(self.signal), f"{signals.name(self.signal)} came; --resume continues")
            return
        self.call("on_train_end")
        if any(self.state.samples) and "train/loss" not in self.metrics:
            self.metrics["train/loss"] = self._mean_loss()  # the run ended inside its first epoch
        try:
            final = self.evaluate(self.data.train)
            if "error" in final:
                self.log("train/error", final["error"])
            if self.data.test is not None:
                self.measure("test", self.data.test)
            if self.restored and self.data.val is not None:  # the summary is that of the parameters that the run ends with
                self.metrics.update({f"val/{name}": values for name, values in self.evaluate(self.data.val).items()})
        except signals.Interrupted:
            self._finish()
            return
        self.call("on_test_end")
        self.fresh.clear()

    # -- signals and hooks -----------------------------------------------------------------------------------------------

    def call(self, hook: str, *args: Any) -> None:
        """Every callback that overrides `hook`, in the order of the configuration."""
        for hear in self.hooks[hook]:
            hear(*args)

    def _note(self, number: int) -> None:
        self.signal = number

    def _pause(self) -> None:
        if self.signal is not None:
            raise signals.Interrupted

    # -- the end ---------------------------------------------------------------------------------------------------------

    def show_loop(self) -> str:
        """Who does what when: the hooks in the order of a run, with the callbacks that override each."""
        width = max(map(len, HOOKS))
        rows = (f"  {h:<{width}}  {', '.join(n for n, cb in self.callbacks.items() if overrides(cb, h)) or '-'}" for h in HOOKS)
        return "\n".join(rows)

    def snapshot(self) -> dict[str, Any]:
        """Everything a resumed run needs, as a checkpoint holds it."""
        self._fetch_losses(log=False)
        return capture.take(self)
