"""A session: the objects and the state of one fit, which every hook of a callback receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.core.counters import EpochDraws
from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr
from trainkit.core.text_table import text_table
from trainkit.data import check
from trainkit.data.dataset import Dataset, Split
from trainkit.data.loader import batches, epoch_permutation
from trainkit.data.sources.adopt import as_split
from trainkit.data.tables import as_numbers, ignored_columns
from trainkit.data.transforms.augment import Augmenter
from trainkit.data.transforms.normalize import Normalizer
from trainkit.metrics.confusion_matrix import MAX_CLASSES, ConfusionMatrix
from trainkit.metrics.log import MetricLog
from trainkit.metrics.metric_set import MetricSet
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

from . import capture
from .callback import HOOKS, Callback, collect_hooks, named, overrides
from .device import find_device
from .evaluation import OF_CLASSES, PASS, Evaluation, Metrics, evaluate, metric_set, predict_rows
from .progress import Progress, StopReason
from .run_folder import RunFolder
from .same_data import check_classes
from .settings import Settings
from .shapes import check_inputs, check_shapes
from .signals import Interrupted
from .step_losses import Fetched, StepLosses

if TYPE_CHECKING:
    from .engines.engine import StepEngine

DEFAULT_EPOCHS = 100  # of a run without max_epochs and max_steps
EACH_STEP = ("on_train_batch_end", "on_checkpoint")


class Session:
    """The objects and the state of one fit. Every hook of a callback receives it.

    settings: the trainer's. device, dtype, seeds (one per replica), replicas: derived from them.
    net, loss, optimizer: as `fit` received them; a session that only evaluates has no optimizer.
    data: the splits; from `on_fit_start` on scaled and on the device.
    normalizer: how inputs are scaled. generators: those of the passes (Dropout's masks), one per replica.
    progress: where the run is. metrics: the latest values. run: its folder, or None. config: its configuration as text.
    engine: eager, compile or graph, once the fit has begun. step_engine: the object that takes the steps.

    After its fit a session can be pickled. The trainer keeps it for `validate`, `test`, `predict` and `save`.
    """

    def __init__(
        self,
        settings: Settings,
        net: Module,
        loss: Loss,
        optimizer: Optimizer | None,
        data: Dataset,
        callbacks: Mapping[str, Callback] | None = None,
        run: RunFolder | None = None,
        config: str = "",
    ) -> None:
        self.settings = settings
        self.device, self.dtype = find_device(settings.device), getattr(torch, settings.dtype)
        self.replicas, self.seeds = settings.replicas, settings.replica_seeds()
        self.net, self.loss, self._optimizer, self.data = net, loss, optimizer, data
        self.source = data.source  # what the data was read from, before it is split
        self.callbacks = named(callbacks or {})
        self.run, self.config = run, config
        self.normalizer = Normalizer.identity()
        self.augment: Augmenter | None = None  # of the training samples, where the data asks for it
        self.fingerprints: dict[str, str] = {}  # of the splits before they are scaled (see `data/fingerprint.py`)
        self.held_out: dict[str, Tensor] = {}  # fingerprints of the rows that training must not see (`data/held_rows.py`)
        self.split_settings: dict[str, Any] = {}  # of the callbacks that have split the data, by name
        self.generators: tuple[torch.Generator, ...] = ()
        self.progress, self.metrics = Progress(), MetricLog()
        self.undefined: set[str] = set()  # metrics for which a line has said why they are undefined
        self.table_options: Mapping[str, Any] = {}  # how rows to predict are read otherwise than those of the training
        self._told: set[tuple[str, ...]] = {()}  # columns of rows to predict of which a line has said that they are ignored
        self.undirected: list[str] = []  # monitors of which it is not known whether larger values are better
        self._confusion: dict[str, tuple[int, ConfusionMatrix | None]] = {}  # of each split's last evaluation, with its step
        self.maximize: dict[str, bool | None] = {"loss": False}  # the metrics of a split, and whether larger is better
        self.history: list[dict[str, Any]] = []
        self.step_engine: StepEngine | None = None
        self.engine: str = settings.engine  # eager, compile or graph, once the fit has begun
        self.validated_step: int | None = None  # of the last validation in this fit
        self.validate_every_n_epochs: int = 1  # ValidationSplit sets this and the next
        self.validate_every_n_steps: int | None = None
        self.stopping: StopReason | None = None
        self.loop_ended = False
        self.params_replaced = False  # set by a callback that changes the parameters after the last step
        self.rolled_back = False  # set by a callback that restores an earlier step: the loop ends there
        self.last_is_ahead = False  # the fit resumes from a step before that of last.pt, which the next save replaces
        self.failed: UserError | None = None  # raised at the end of the fit, after its state is saved
        self.signal: int | None = None
        self._losses = StepLosses()  # of the steps since the last fetch
        self.lr: list[float] = []  # the schedule's rates, one per replica; the optimizer has 0 for one that has stopped
        self._connect()

    def _connect(self) -> None:
        """Collect the hooks: those that no callback overrides cost nothing."""
        self.hooks = collect_hooks(self, self.callbacks.values())
        with_steps = [cb for cb in self.callbacks.values() if any(overrides(cb, hook) for hook in EACH_STEP)]
        self.next_steps: list[Callable[[int], int | None]] = [cb.next_step for cb in with_steps]

    @property
    def optimizer(self) -> Optimizer:
        if self._optimizer is None:
            raise UserError("session: it only evaluates and has no optimizer")
        return self._optimizer

    # -- the learning rate -----------------------------------------------------------------------------------------------

    def set_lr(self, rates: Sequence[float]) -> None:
        """Set the learning rate of each replica from the next step on. A replica that has stopped keeps 0."""
        self.lr = list(rates)
        used = [rate if active else 0.0 for rate, active in zip(rates, self.progress.active, strict=True)]
        self.optimizer.use_lr(used if len(set(used)) > 1 else used[0])

    # -- metrics ---------------------------------------------------------------------------------------------------------

    def log(self, name: str, value: float | Sequence[float]) -> None:
        """Set a metric: one number, or one per replica. A replica that has stopped keeps its value."""
        self.metrics.log(name, value, self.progress.active)

    def evaluate(self, split: Split, interruptible: bool = False) -> Metrics:
        """Return loss and metrics of the net on `split`, which is scaled and on the device. Print once why one is undefined.

        interruptible: leave the evaluation with Interrupted if a signal has arrived. A hook's own evaluation is completed: the
        hooks of a step are not called again in the resumed run.
        """
        return self._evaluated(split, interruptible).metrics

    def measure(self, name: str, split: Split, interruptible: bool = False) -> Metrics:
        """Do what `evaluate` does, and keep the confusion matrix as that of the split `name`."""
        found = self._evaluated(split, interruptible)
        self._confusion[name] = (self.progress.step, found.confusion)
        return found.metrics

    def _evaluated(self, split: Split, interruptible: bool = False) -> Evaluation:
        size = self.evaluation_size(split)
        found = evaluate(
            self.net,
            self.loss,
            self.data,
            split,
            size,
            self.replicas,
            self.settings.made_metrics(),
            self.check_interrupt if interruptible else lambda: None,
            self.normalizer.unscale,
        )
        for name, why in found.undefined.items():
            if name not in self.undefined:
                self.undefined.add(name)
                print_stderr(f"metrics: {name} is nan: {why}")
        return found

    def known_confusion(self, name: str) -> ConfusionMatrix | None:
        """Return the confusion matrix of the split `name` if it was evaluated after the last step and has classes."""
        step, matrix = self._confusion.get(name, (None, None))
        return matrix if step == self.progress.step else None

    def confusion_matrix(self, name: str, data: Dataset | None = None) -> ConfusionMatrix:
        """Return the confusion matrix of the net on the run's split `name`, or on that of `data`, which is not scaled yet.

        Raises UserError as `evaluate_split` does, and unless each sample is of one of at most 100 classes.
        """
        matrix = None if data is not None else self.known_confusion(name)
        if matrix is None:
            matrix = self._evaluated(self._split(name, data)).confusion
        if matrix is None:
            raise UserError(f"confusion matrix: needs one class per sample, of at most {MAX_CLASSES} classes")
        return matrix

    def metric_set(self, y: Tensor) -> MetricSet:
        """Return the metrics of an evaluation, without samples yet, for outputs like y (r, n, ...).

        Raises UserErrors for a metric that does not fit the data.
        """
        return metric_set(self.settings.made_metrics(), self.loss, self.data, y)

    def maximizes(self, metric: str) -> bool | None:
        """Return whether larger values of a metric are better; None if that is not known."""
        known = {"loss": False, **{m.name: m.maximize for m in (*OF_CLASSES, *self.settings.made_metrics())}}
        name = metric.partition("/")[2]
        return known.get(name, known.get(name.partition("/")[0]))  # f1/a is the F1 of class a

    def evaluation_size(self, split: Split) -> int:
        """Return how many samples of `split` an evaluation passes through the net at once."""
        return max(self.settings.batch_size or len(split), PASS)

    def evaluate_and_log(self, name: str, split: Split, interruptible: bool = False) -> None:
        """Evaluate the net on `split` and log `name/loss` and so on. interruptible: as in `evaluate`."""
        for metric, values in self.measure(name, split, interruptible).items():
            self.log(f"{name}/{metric}", values)

    def evaluate_split(self, name: str, data: Any = None) -> Metrics:
        """Return loss and metrics on the run's val or test split, or on that of `data`, which is not scaled yet.

        `data` is evaluated as it is given: no callback splits it. The signal that ended the fit does not end an evaluation.
        Raises UserError where there is no such split, or where `data` does not fit the net.
        """
        split = self._split(name, data)
        return self.measure(name, split) if data is None else self.evaluate(split)

    def _split(self, name: str, data: Any) -> Split:
        """Return the run's split `name`, or that of other data, scaled and on the device."""
        data = None if data is None else as_split(data, name, self.data)
        split: Split | None = getattr(self.data if data is None else data, name)
        if split is None:
            fix = f"give Dataset({name}=...) or tensors(..., {name}=...)"
            if data is None:
                fix = "train with ValidationSplit()" if name == "val" else "give data with a test split"
            raise UserError(f"data: has no {name} split; {fix}")
        return split if data is None else self._prepared(name, split, data)

    def _prepared(self, name: str, split: Split, data: Dataset) -> Split:
        """Return `split`, the split `name` of other data, checked, scaled and on the device."""
        features = tuple(split.x.shape[1:])
        if self.features not in (None, features):
            raise UserError(
                f"data: a sample of the {name} split is {features}, the fit's is {self.features}; give data of that shape"
            )
        check_classes(self.data.classes, data.classes, "the fit's")
        spans = check.check_raw(data, (name,), self.dtype, self.normalizer.fill, data, (), lambda rows: True)
        check.check_scaled(data, spans, self.normalizer.scale, self.dtype, data, lambda rows: True)
        scaled = self.normalizer.apply(split, self.dtype).to(self.device, self.dtype)
        if len(scaled):
            whole = data.with_parts(**{name: scaled})
            check_inputs(self.net, whole, (name,))
            check_shapes(self.net, self.loss, whole, (name,), self.replicas)
        return scaled

    @property
    def features(self) -> tuple[int, ...] | None:
        """The shape of a sample, or None if it is not known: without data, only a scaling per feature tells it."""
        if len(self.data.train):
            return tuple(self.data.train.x.shape[1:])
        return tuple(self.normalizer.mean.shape) or None

    def predict(self, x: Any) -> Tensor:
        """Return outputs for rows in the data's own units; see `Predictor.predict`."""
        x, ignored = as_numbers(x, self.data.schema, self.table_options)
        if ignored not in self._told:  # once: a service asks again and again
            self._told.add(ignored)
            print_stderr(*ignored_columns("predict", ignored))
        return predict_rows(self.net, self.normalizer, x, self.features, self.dtype, self.replicas)

    # -- the end of the run ----------------------------------------------------------------------------------------------

    @property
    def can_stop(self) -> bool:
        """Whether min_epochs are complete, so that `stop` has an effect."""
        return self.epochs_done >= self.settings.min_epochs

    def set_active(self, replicas: Sequence[bool]) -> None:
        """Set which replicas train. The others keep their parameters and metrics."""
        self.progress.active = list(replicas)
        self.set_lr(self.lr)

    def stop(self, reason: str, message: str, replicas: Sequence[bool] | None = None, force: bool = False) -> None:
        """End the run after this epoch or step. With `replicas`, stop only those marked; their parameters stay as they are.

        Ignored before min_epochs (call it again later), unless `force`, which also replaces a reason given before.
        """
        if not (self.can_stop or force):
            return
        if replicas is not None:
            self.set_active([a and not r for a, r in zip(self.progress.active, replicas, strict=True)])
            if any(self.progress.active):
                return
        if force or self.stopping is None:
            self.stopping = StopReason(reason, message)

    # -- where the run is ------------------------------------------------------------------------------------------------

    @property
    def step_size(self) -> int:
        """The samples of one step."""
        samples, settings = len(self.data.train), self.settings
        return samples if settings.batch_size is None else min(samples, settings.batch_size * settings.accumulate)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // self.step_size)

    @property
    def max_epochs(self) -> int:
        """The epochs of the whole run: the setting, or else as many as max_steps need, or else DEFAULT_EPOCHS."""
        settings = self.settings
        if settings.max_epochs is not None:
            return settings.max_epochs
        return DEFAULT_EPOCHS if settings.max_steps is None else -(-settings.max_steps // self.steps_per_epoch)

    @property
    def epochs_done(self) -> int:
        """Epochs whose steps are all taken, including the one that is just ending."""
        return self.progress.epoch + (self.progress.batch == self.steps_per_epoch)

    @property
    def steps_left(self) -> int:
        """The steps up to max_epochs or max_steps."""
        progress, settings = self.progress, self.settings
        left = max(0, self.max_epochs - progress.epoch) * self.steps_per_epoch - progress.batch
        return left if settings.max_steps is None else max(0, min(left, settings.max_steps - progress.step))

    @property
    def validation_is_due(self) -> bool:
        """Whether a validation comes before the planned end of the run."""
        size, progress, left = self.steps_per_epoch, self.progress, self.steps_left
        last = progress.step + left
        epochs = progress.epoch + (progress.batch + left) // size
        inside, each = self.validate_every_n_steps, self.validate_every_n_epochs
        return epochs // each > progress.epoch // each or (inside is not None and last // inside > progress.step // inside)

    def steps_until_next_event(self) -> int:
        """Return how many steps an engine may take in one call: up to the next step after which a hook has work to do."""
        progress, fetched = self.progress, self.hooks["on_losses"] or self.hooks["on_step_log"]
        every = (self.settings.log_every_n_steps if fetched else None, self.validate_every_n_steps)
        ends = [progress.step - progress.step % n + n for n in every if n]
        ends += [
            e for e in (self.settings.max_steps, *(next_step(progress.step) for next_step in self.next_steps)) if e is not None
        ]
        return max(1, min(ends, default=progress.step + self.steps_per_epoch) - progress.step)

    def order(self, epoch: int) -> Tensor:
        """Return the order of the training samples in an epoch: (n,), or (r, n) with a row per replica."""
        n = len(self.data.train)
        rows = [epoch_permutation(seed, epoch, n) for seed in self.seeds]
        return (torch.stack(rows) if self.net.replica_dims else rows[0]).to(self.device)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batch of each step of an epoch from number `first` on, as the seeds, epoch and number alone make it."""
        draws = EpochDraws(tuple(self.seeds), epoch)
        return batches(self.data.train, self.order(epoch), self.step_size, first, draws, self.augment)

    # -- steps and their losses ------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Clear the epoch's sums and call on_train_epoch_start."""
        self.progress.begin_epoch(self.replicas, self.data.train.weight is not None)
        self.call("on_train_epoch_start")

    def record_steps(self, losses: Tensor, steps: int, samples: int, weight: Tensor | None = None) -> None:
        """Count `steps` steps of `samples` samples each; their losses, and their summed weights, stay on the device."""
        self._losses.add(losses, steps, samples, weight)
        progress = self.progress
        progress.lr = self.lr
        progress.step += steps
        progress.batch += steps

    def fetch_losses(self, log: bool = True) -> None:
        """Copy the new losses to the host (this waits for the device); call on_losses and, if `log`, on_step_log."""
        if not self._losses:
            return
        rows = self.add_losses().losses
        self.call("on_losses", rows)
        if log and not self.rolled_back:
            self.call("on_step_log", rows[-1])

    def add_losses(self) -> Fetched:
        """Add the new losses to the epoch's sums, in float64, and return them."""
        fetched = self._losses.fetch(self.net.replica_dims, self.loss.reduction)
        self.progress.add_losses(*fetched)
        return fetched

    # -- hooks, signals, state -------------------------------------------------------------------------------------------

    def call(self, hook: str, *args: Any) -> None:
        """Call every callback that overrides `hook`, in the order of the configuration."""
        for method in self.hooks[hook]:
            method(*args)

    def save_ended(self) -> None:
        """Call on_save_end. The callback that has written `last.pt` calls this."""
        if self.last_is_ahead:  # until now a resume would have used the earlier last.pt, and its configuration
            self.write_config()
        self.call("on_save_end")

    def write_config(self) -> None:
        """Write config.yaml, if there is a folder and a configuration."""
        if self.run is not None and self.config:
            self.run.write_text("config.yaml", self.config)

    def note_signal(self, number: int) -> None:
        """Store the number of a signal: the loop ends after the current step."""
        self.signal = number

    def check_interrupt(self) -> None:
        """Raise Interrupted if a signal has arrived. Called between the batches of an evaluation."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def snapshot(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as a checkpoint holds it."""
        self.fetch_losses(log=False)
        return capture.capture(self)

    def show_hooks(self) -> str:
        """Return a table of the hooks in the order of a run, each with the callbacks that override it."""
        rows = [(hook, ", ".join(n for n, cb in self.callbacks.items() if overrides(cb, hook)) or "-") for hook in HOOKS]
        return "\n".join(text_table(rows, indent="  "))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without engine and hooks: a pickled session holds the trained net, its data and its metrics."""
        return {k: v for k, v in vars(self).items() if k not in ("hooks", "next_steps", "step_engine", "_losses")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.step_engine, self._losses = None, StepLosses()
        self._connect()
