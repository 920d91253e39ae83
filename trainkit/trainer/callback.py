"""The hooks of a callback. Override those you need: a hook that no callback overrides costs nothing.

Callbacks that decide read metrics at `on_metrics`, when all new metrics are known. Those that write do so at `on_log`, and
those that save do so last, at `on_checkpoint`. So no callback sees an old value, whatever the order of the callbacks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trainkit.core import terminal
from trainkit.core.errors import UserError, UserErrors, memory_error_message, os_error_message, suggest
from trainkit.core.recorded import Recorded, described
from trainkit.core.validation import short_repr

if TYPE_CHECKING:
    from .session import Session

HOOKS = (
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_end",
    "on_losses",
    "on_step_log",
    "on_validation_end",
    "on_train_epoch_end",
    "on_metrics",
    "on_log",
    "on_checkpoint",
    "on_save_end",
    "on_train_end",
    "on_test_end",
    "on_exception",
    "on_fit_end",
)
LOGGING = HOOKS[1 : HOOKS.index("on_train_end")]  # a metric that is added at one of these can still be monitored


class Callback(Recorded):
    """The base of all callbacks. Each hook receives the session of the fit: `session.progress` is where the run is,
    `session.metrics` holds its metrics, and `session.log` adds one.

    `name` is the name in the configuration. The trainer sets it; a checkpoint holds the callback's state under it.
    """

    name = ""
    needs_run_folder = False  # True for a callback that writes into the run's folder; evaluations leave it out
    saves_checkpoints = False  # True for a callback that saves the whole state: its size is checked before the first step
    # True for a callback that handles infinite numbers in the training data: they are then not refused at the start.
    handles_nonfinite = False
    monitors: tuple[str, ...] = ()  # metrics that it reads: a run that will not have them is refused
    # The files that it writes in the run's folder, by name; `*` matches any text. Two callbacks cannot share one.
    files: tuple[str, ...] = ()

    def setup(self, session: Session) -> None:
        """Split the data here: `session.data` is loaded, and not yet scaled or moved to the device."""

    def on_fit_start(self, session: Session) -> None:
        """Raise UserError here for what cannot be trained. Everything is built, and a resumed run's state is restored.

        Write nothing here: a fit that is refused leaves the run's folder as it was.
        TerminateOnNaN restores an earlier step inside a fit. It then calls this hook again for each callback that has a state
        and overrides on_train_batch_end.
        """

    def on_train_start(self, session: Session) -> None:
        """Open, write and delete files from here on: no check refused the fit, and the run's folder exists and is locked."""

    def on_train_epoch_start(self, session: Session) -> None:
        """Called before the first batch of an epoch (not again when a run resumes inside it)."""

    def on_train_batch_end(self, session: Session) -> None:
        """Called after each step. The loss is still on the device."""

    def on_losses(self, session: Session, rows: list[list[float]]) -> None:
        """Called when losses were fetched: when on_step_log is called, before a validation inside an epoch, before a snapshot.

        rows: the losses since the last call, a row per step with a loss per replica; the last row is this step's.
        """

    def on_step_log(self, session: Session, losses: list[float]) -> None:
        """Called when losses were fetched: at the first step, every log_every_n_steps, and at the last of an epoch or run.

        losses: this step's, one per replica.
        """

    def on_validation_end(self, session: Session) -> None:
        """Called when the validation metrics are known; add your own with `session.log`."""

    def on_train_epoch_end(self, session: Session) -> None:
        """Called after training and validation of an epoch; add your own metrics with `session.log`."""

    def on_metrics(self, session: Session) -> None:
        """Decide by the new metrics (`session.metrics.updated`). Called after each epoch and after a validation inside one."""

    def on_log(self, session: Session) -> None:
        """Write the new metrics (`session.metrics.updated`)."""

    def on_checkpoint(self, session: Session) -> None:
        """Save if a save is due. Called after each step, and after each epoch (then `session.progress.batch` is 0).

        It is also called once after the last step (then `session.loop_ended` is true), unless an exception ended the loop.
        """

    def on_save_end(self, session: Session) -> None:
        """Called when `last.pt` of this step is on the disk: a resumed run continues from here."""

    def on_train_end(self, session: Session) -> None:
        """Change the parameters to their final values, if at all. No step follows. Not called where a signal ended the run."""

    def on_test_end(self, session: Session) -> None:
        """Called when the final metrics (`train/error`, `test/...`) are known."""

    def on_exception(self, session: Session, error: BaseException) -> None:
        """Called when `error` ends the fit."""

    def on_fit_end(self, session: Session) -> None:
        """Close what you opened. This is the last hook, called however the fit ended."""

    def adds_metrics(self, session: Session) -> Collection[str] | None:
        """Return the names of the metrics that the callback adds with `session.log`, or None where they are not known.

        None is the default for a user's callback that overrides a hook in which it could add one. With the names known, a
        monitor of another name is refused before the first step.
        """
        own = type(self).__module__.startswith("trainkit.")
        return () if own or not any(overrides(self, hook) for hook in LOGGING) else None

    def next_step(self, step: int) -> int | None:
        """Return the next step after `step` at which on_train_batch_end or on_checkpoint has work to do; None if none is known.

        Native steps run up to that step in one call, and the hooks are called at its end. By default it is the following
        step. Eager steps do not use it: they call the hooks after each step.
        """
        return step + 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the callback: dicts, lists, tensors, str, int, float, bool, None.

        It is also called before on_train_start, and for each state that ranks: it must change nothing.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state. Where a saved argument differs from the configuration, use the configuration."""

    def __repr__(self) -> str:
        return described(self)


def overrides(callback: Callback, hook: str) -> bool:
    """Return whether `callback` overrides `hook`. An instance opts out by `self.hook = super().hook`."""
    method = getattr(callback, hook)
    return getattr(method, "__func__", method) is not getattr(Callback, hook)


def without_folder(callbacks: Mapping[str, Callback]) -> tuple[dict[str, Callback], list[str]]:
    """Return the callbacks that can run without a run's folder, and the names of the others."""
    left_out = [name for name, cb in callbacks.items() if cb.needs_run_folder]
    return {name: cb for name, cb in callbacks.items() if name not in left_out}, left_out


def check_files(callbacks: Mapping[str, Callback]) -> list[str]:
    """Return the files of the run's folder that the callbacks write. Raises UserError where two would write the same one."""
    owner: dict[str, str] = {}
    for name, cb in callbacks.items():
        for file in cb.files:
            if file in owner:
                raise UserError(f"callbacks.{name}: writes {file}, as callbacks.{owner[file]} does; leave one of them out")
            owner[file] = name
    return list(owner)


def check_monitors(session: Session) -> None:
    """Raise UserErrors where callbacks monitor metrics that no epoch of this run will have, or of unknown direction.

    Where the metrics that a callback adds are not known, the check is made after the first epoch instead.
    """
    known, added = known_metrics(session), [cb.adds_metrics(session) for cb in session.callbacks.values()]
    if None not in added and (found := missing(session, known)):
        raise UserErrors(line for _, line in found)
    if session.undirected:
        raise UserErrors(session.undirected)
    if session.data.val is not None and not session.validation_is_due:
        for name, metric in [(n, m) for n, cb in session.callbacks.items() for m in cb.monitors if m.startswith("val/")]:
            terminal.print_stderr(
                f"callbacks.{name}: {short_repr(metric)} will not be measured: no validation is due before the run ends"
            )


def sign_of(session: Session, callback: Callback, monitor: str, mode: str | None) -> float:
    """Return 1 if smaller values of a metric are better, else -1. mode: min, max, or None to ask the metric.

    A metric whose direction is not known is refused before the first step (`check_monitors`). A mode that contradicts the
    metric is printed.
    """
    known, place = session.maximizes(monitor), f"callbacks.{callback.name}: monitor={short_repr(monitor)}"
    if mode is None and known is None:
        session.undirected.append(f"{place}: whether larger values are better is not known; set mode=min or mode=max")
    maximize = known if mode is None else mode == "max"
    if known is not None and maximize != known:
        better = "larger" if known else "smaller"
        terminal.print_stderr(f"{place}, mode={mode}: of this metric, {better} values are better")
    return -1.0 if maximize else 1.0


def known_metrics(session: Session) -> set[str]:
    """Return the metrics of an epoch of this run: the trainer's, and those of `Callback.adds_metrics`."""
    known = {"train/loss", "lr"}
    if session.data.val is not None:
        known |= {f"val/{name}" for name in session.maximize}
    return known.union(*(cb.adds_metrics(session) or () for cb in session.callbacks.values()))


def missing(session: Session, known: Collection[str]) -> list[tuple[str, str]]:
    """Return the monitored metrics that are not among `known`, each with its error message."""
    found = []
    for name, metric in ((name, metric) for name, cb in session.callbacks.items() for metric in cb.monitors):
        if metric in known:
            continue
        advice = ""
        if metric.startswith("val/") and session.data.val is None:
            advice = "; add the callback validation_split"
        elif metric.startswith("test/") or metric in {f"train/{name}" for name in session.maximize}:
            advice = "; it is measured only after the last step"
        found.append((metric, f"callbacks.{name}: no metric {short_repr(metric)}{suggest(metric, sorted(known))}{advice}"))
    return found


class CallbackError(RuntimeError):
    """The error of a callback. Its message names the callback, hook, epoch and step; `__cause__` is the original error."""


def collect_hooks(session: Session, callbacks: Iterable[Callback]) -> dict[str, list[Callable[..., None]]]:
    """Return the methods to call at each hook: those of callbacks that override it. Built once per fit."""
    return {hook: [_hook(session, cb, hook) for cb in callbacks if overrides(cb, hook)] for hook in HOOKS}


def _hook(session: Session, callback: Callback, hook: str) -> Callable[..., None]:
    """Return the callback's method at `hook`, whose errors name the callback, the hook, the epoch and the step."""
    method = getattr(callback, hook)

    def hook_method(*args: Any) -> None:
        try:
            method(session, *args)
        except CallbackError:
            raise
        except Exception as error:
            place = f"callbacks.{callback.name} {hook}, epoch {session.progress.epoch + 1}, step {session.progress.step}"
            if isinstance(error, UserError):
                raise UserError(f"{place}: {error}") from error
            if (message := os_error_message(error)) is not None:
                raise UserError(f"{place}: {message}") from error
            if (message := memory_error_message(error)) is not None:
                raise UserError(f"{place}: {message}: the net, the data, the batch or the replicas") from error
            raise CallbackError(f"{place}: {type(error).__name__}: {error}") from error

    return hook_method


def named(callbacks: Mapping[str, Callback] | Iterable[Callback]) -> dict[str, Callback]:
    """Return the callbacks by name. Those of a list are named after their class: `EarlyStopping` becomes early_stopping."""
    if isinstance(callbacks, Mapping):
        made = dict(callbacks)
    elif isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise UserError(f"callbacks: {callbacks!r}; needs a list of callbacks, or a mapping from names to callbacks")
    else:
        made = {}
        for cb in callbacks:
            name = base = snake(type(cb).__name__)
            k = 2
            while name in made:
                name, k = f"{base}_{k}", k + 1
            made[name] = cb
    for name, cb in made.items():
        if not isinstance(cb, Callback):
            raise UserError(f"callbacks: {cb!r} is not a Callback; give an object, EarlyStopping()")
        if wrong := bad_name(name):
            raise UserError(f"callbacks.{name}: {wrong}")
        cb.name = name
    return made


def bad_name(name: Any) -> str:
    """Return what is wrong with a callback's name, which messages and checkpoints contain; an empty text for a valid one."""
    if isinstance(name, str) and name and name.isprintable() and not set(name) & {"/", "\\"}:
        return ""
    return f"{name!r} is not a callback's name; needs printable text without / and \\"


# Names that the rule of `snake` would split otherwise.
WORDS = {"TensorBoard": "tensorboard", "TerminateOnNaN": "terminate_on_nan"}


def snake(name: str) -> str:
    """Return a class name in snake case: CSVLogger -> csv_logger, LRScheduler -> lr_scheduler, and those of WORDS."""
    if name in WORDS:
        return WORDS[name]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
