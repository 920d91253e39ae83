"""A session: the objects and the state of one fit, which every hook of a callback receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.core.counters import EpochDraws
from trainkit.core.errors import UserError
from trainkit.core.text_table import text_table
from trainkit.data.dataset import Dataset, Split
from trainkit.data.loader import batches, epoch_permutation
from trainkit.data.transforms.augment import Augmenter
from trainkit.metrics.log import MetricLog
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

from . import capture
from .callback import HOOKS, Callback, collect_hooks, named, overrides
from .evaluator import Evaluator
from .progress import StopReason
from .run_folder import RunFolder
from .run_length import RunLength
from .settings import Settings
from .step_losses import Fetched, StepLosses

if TYPE_CHECKING:
    from .engines.engine import StepEngine

EACH_STEP = ("on_train_batch_end", "on_checkpoint")


class Session(Evaluator):
    """The objects and the state of one fit. Every hook of a callback receives it.

    settings: the trainer's. device, dtype, seeds (one per replica), replicas: derived from them.
    net, loss, optimizer: as `fit` received them; a session that only evaluates has no optimizer.
    data: the splits; from `on_fit_start` on scaled and on the device.
    normalizer: how inputs are scaled. generators: those of the passes (Dropout's masks), one per replica.
    progress: where the run is. metrics: the latest values. run: its folder, or None. config: its configuration as text.
    engine: eager, native or graph, once the fit has begun. step_engine: the object that takes the steps.

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
        super().__init__(settings, net, loss, data)
        self.seeds, self._optimizer = settings.replica_seeds(), optimizer
        self.source = data.source  # what the data was read from, before it is split
        self.callbacks = named(callbacks or {})
        self.run, self.config = run, config
        self.augment: Augmenter | None = None  # of the training samples, where the data asks for it
        self.fingerprints: dict[str, str] = {}  # of the splits before they are scaled (see `data/fingerprint.py`)
        self.held_out: dict[str, Tensor] = {}  # fingerprints of the rows that training must not see (`data/held_rows.py`)
        self.split_settings: dict[str, Any] = {}  # of the callbacks that have split the data, by name
        self.saved_callbacks: Mapping[str, Any] = {}  # the states of the callbacks in the checkpoint, during `setup`
        self.generators: tuple[torch.Generator, ...] = ()
        self.metrics = MetricLog()
        self.undirected: list[str] = []  # monitors of which it is not known whether larger values are better
        self.history: list[dict[str, Any]] = []
        self.step_engine: StepEngine | None = None
        self.engine: str = settings.engine  # eager, native or graph, once the fit has begun
        self.max_threads = (
            1  # for work whose bits do not depend on it: the trainer's number, or torch's before the fit chose one
        )
        self.validated_step: int | None = None  # of the last validation in this fit
        self.validate_every_n_epochs: int = 1  # ValidationSplit sets this and the next
        self.validate_every_n_steps: int | None = None
        self.stopping: StopReason | None = None
        self.loop_ended = False
        self.params_replaced = False  # set by a callback that changes the parameters after the last step
        self.rolled_back = False  # set by a callback that restores an earlier step: the loop ends there
        self.last_is_ahead = False  # the fit resumes from a step before that of last.pt, which the next save replaces
        self.failed: UserError | None = None  # raised at the end of the fit, after its state is saved
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

    def evaluate_and_log(self, name: str, split: Split, interruptible: bool = False) -> None:
        """Evaluate the net on `split` and log `name/loss` and so on. interruptible: as in `evaluate`."""
        for metric, values in self.measure(name, split, interruptible).items():
            self.log(f"{name}/{metric}", values)

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
    def length(self) -> RunLength:
        """How many samples, steps and epochs the run has."""
        return RunLength(len(self.data.train), self.settings)

    @property
    def step_size(self) -> int:
        """The samples of one step."""
        return self.length.step_size

    @property
    def steps_per_epoch(self) -> int:
        return self.length.steps_per_epoch

    @property
    def max_epochs(self) -> int:
        """The epochs of the whole run."""
        return self.length.max_epochs

    @property
    def epochs_done(self) -> int:
        """Epochs whose steps are all taken, including the one that is just ending."""
        return self.length.epochs_done(self.progress)

    @property
    def steps_left(self) -> int:
        """The steps up to max_epochs or max_steps."""
        return self.length.steps_left(self.progress)

    @property
    def validation_is_due(self) -> bool:
        """Whether a validation comes before the planned end of the run."""
        return self.length.validation_is_due(self.progress, self.validate_every_n_epochs, self.validate_every_n_steps)

    def steps_until_next_event(self) -> int:
        """Return how many steps an engine may take in one call: up to the next step after which a hook has work to do."""
        fetched = self.hooks["on_losses"] or self.hooks["on_step_log"]
        every = self.settings.log_every_n_steps if fetched else None, self.validate_every_n_steps
        return self.length.steps_until_next_event(self.progress.step, every, self.next_steps)

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
