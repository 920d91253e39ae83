"""What a callback can hear. Override the hooks you need: one that nobody overrides costs nothing.

Monitors read at `on_metrics`, when every metric of the moment is there; writers write at `on_log`, after them; savers save at
`on_checkpoint`, last of all. So none of them can see a stale value, in whatever order the callbacks are listed.
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
LOGGING = HOOKS[1 : HOOKS.index("on_train_end")]  # where a metric that is added can still be monitored


class Callback(Recorded):
    """Base of all callbacks. `session.progress` is where the run is, `session.metrics` holds its metrics, `session.log`
    adds one.

    `name` is the name in the configuration; the session sets it, and keys the state in a checkpoint by it.
    """

    name = ""
    needs_run_folder = False  # True for one that writes into the run's folder: it needs one, and has no part in an evaluation
    handles_nonfinite = (
        False  # True for one that handles infinite numbers in the training data, which are then not refused at the start
    )
    monitors: tuple[str, ...] = ()  # metrics that it needs: a run that will have none of that name is refused
    # What it writes, by exact name in the folder (`events.out.tfevents`: a prefix). Two callbacks cannot share one.
    files: tuple[str, ...] = ()

    def setup(self, session: Session) -> None:
        """The data is there (`session.data`), not yet scaled or moved: split it here."""

    def on_fit_start(self, session: Session) -> None:
        """Everything is built; a resumed run's state is restored. Refuse here what cannot be trained: raise UserError.

        Nothing has been written yet, and nothing may be: a fit that is refused leaves the run's folder as it was.
        TerminateOnNaN calls it again, inside the fit, for callbacks with a state and on_train_batch_end, after it has put the
        run back to an earlier step."""

    def on_train_start(self, session: Session) -> None:
        """Nothing was refused, and the run's folder is there and locked: open files, write, delete."""

    def on_train_epoch_start(self, session: Session) -> None:
        """Before the first batch of an epoch (not again when a run resumes inside it)."""

    def on_train_batch_end(self, session: Session) -> None:
        """After each step. The loss is still on the device."""

    def on_losses(self, session: Session, rows: list[list[float]]) -> None:
        """Losses were fetched, whoever asked: as for on_step_log, before a validation inside an epoch, before a snapshot.
        `rows`: those since the last time, a step each, a replica each in it; the last is this step's."""

    def on_step_log(self, session: Session, losses: list[float]) -> None:
        """The losses were fetched: at the first step, every log_every_n_steps, the last of an epoch, and the last of all.
        `losses`: this step's, a replica each."""

    def on_validation_end(self, session: Session) -> None:
        """Validation metrics are there; add your own with `session.log`."""

    def on_train_epoch_end(self, session: Session) -> None:
        """Training and validation of an epoch are done; add your own metrics with `session.log`."""

    def on_metrics(self, session: Session) -> None:
        """All new metrics (`session.metrics.updated`) are known: decide. After each epoch and after a validation inside one."""

    def on_log(self, session: Session) -> None:
        """Write the new metrics (`session.metrics.updated`) down."""

    def on_checkpoint(self, session: Session) -> None:
        """Save, if it is time: after each step, after each epoch (then `session.progress.batch` is 0), and once after the last
        step, whatever ended the loop but an exception (then `session.loop_ended`)."""

    def on_save_end(self, session: Session) -> None:
        """`last.pt` of this moment is on the disk: a resumed run continues from here."""

    def on_train_end(self, session: Session) -> None:
        """No step follows, and no signal ended the run: the parameters may take their final form."""

    def on_test_end(self, session: Session) -> None:
        """The final metrics (`train/error`, `test/...`) are there."""

    def on_exception(self, session: Session, error: BaseException) -> None:
        """The fit breaks off with `error`."""

    def on_fit_end(self, session: Session) -> None:
        """The last hook, however the fit ended: close what you opened."""

    def adds_metrics(self, session: Session) -> Collection[str] | None:
        """The metrics that it adds with `session.log`, by name; None where that is not known, as of one of the user's own that
        overrides a hook in which it could. Say it, and a monitor of another name is refused before the first step."""
        own = type(self).__module__.startswith("trainkit.")
        return () if own or not any(overrides(self, hook) for hook in LOGGING) else None

    def next_step(self, step: int) -> int | None:
        """The step after `step` at whose end on_train_batch_end or on_checkpoint has something to do; None for no certain one.

        Compiled steps run up to there in one call, and the hooks are called at its end. A callback that does not say is asked
        after each step. (Only compiled steps ask: eager ones call the hooks each time.)
        """
        return step + 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep: dicts, lists, tensors, str, int, float, bool, None.

        Asked once before the first step too, before on_train_start, and for each state that ranks: it must change nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back; arguments of the configuration win over what was saved."""

    def __repr__(self) -> str:
        return described(self)


def overrides(callback: Callback, hook: str) -> bool:
    """Whether `callback` does anything at `hook`. An instance opts out by `self.hook = super().hook`."""
    method = getattr(callback, hook)
    return getattr(method, "__func__", method) is not getattr(Callback, hook)


def check_files(callbacks: Mapping[str, Callback]) -> list[str]:
    """The files of the run's folder that the callbacks write. Raises UserError where two would write the same one."""
    owner: dict[str, str] = {}
    for name, cb in callbacks.items():
        for file in cb.files:
            if file in owner:
                raise UserError(f"callbacks.{name}: writes {file}, as callbacks.{owner[file]} does; leave one of them out")
            owner[file] = name
    return list(owner)


def check_monitors(session: Session) -> None:
    """Raise UserErrors where callbacks monitor metrics that no epoch of this run will have.

    Nothing is refused where a callback does not say what it adds: `missing` is asked again after the first epoch.
    """
    known, added = known_metrics(session), [cb.adds_metrics(session) for cb in session.callbacks.values()]
    if None not in added and (found := missing(session, known)):
        raise UserErrors(line for _, line in found)
    if session.data.val is not None and not session.validation_is_due:
        for name, metric in [(n, m) for n, cb in session.callbacks.items() for m in cb.monitors if m.startswith("val/")]:
            terminal.print_stderr(
                f"callbacks.{name}: {short_repr(metric)} will not be measured: no validation is due before the run ends"
            )


def known_metrics(session: Session) -> set[str]:
    """The metrics of an epoch of this run: the trainer's, and those that callbacks say they add."""
    data, known = session.data, {"train/loss", "lr"}
    if data.val is not None:
        known |= {"val/loss"} | ({"val/error"} if data.classes is not None and data.val.label is not None else set())
    return known.union(*(cb.adds_metrics(session) or () for cb in session.callbacks.values()))


def missing(session: Session, known: Collection[str]) -> list[tuple[str, str]]:
    """Monitored metrics that are not among `known`, each with a line for the user."""
    found = []
    for name, metric in ((name, metric) for name, cb in session.callbacks.items() for metric in cb.monitors):
        if metric in known:
            continue
        why = ""
        if metric.startswith("val/") and session.data.val is None:
            why = "; add the callback validation_split"
        elif metric == "train/error" or metric.startswith("test/"):
            why = "; it is measured after the last step only"
        found.append((metric, f"callbacks.{name}: no metric {short_repr(metric)}{suggest(metric, sorted(known))}{why}"))
    return found


class CallbackError(RuntimeError):
    """A callback failed; the message says which, at which hook, epoch and step. The cause is its `__cause__`."""


def collect_hooks(session: Session, callbacks: Iterable[Callback]) -> dict[str, list[Callable[..., None]]]:
    """What to call at each hook: only callbacks that override it. Built once a fit."""
    return {hook: [_hook(session, cb, hook) for cb in callbacks if overrides(cb, hook)] for hook in HOOKS}


def _hook(session: Session, callback: Callback, hook: str) -> Callable[..., None]:
    """The callback's method at `hook`; an error leaves it with the callback's name, the hook, the epoch and the step."""
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
            if (why := os_error_message(error)) is not None:
                raise UserError(f"{place}: {why}") from error
            if (short := memory_error_message(error)) is not None:
                raise UserError(f"{place}: {short}: the net, the data, the batch or the replicas") from error
            raise CallbackError(f"{place}: {type(error).__name__}: {error}") from error

    return hook_method


def named(callbacks: Mapping[str, Callback] | Iterable[Callback]) -> dict[str, Callback]:
    """Callbacks by name; those of a list are named by their class, `EarlyStopping` becoming early_stopping."""
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
    """What is wrong with a callback's name, which messages show and checkpoints keep; else nothing."""
    if isinstance(name, str) and name and name.isprintable() and not set(name) & {"/", "\\"}:
        return ""
    return f"{name!r} is not a callback's name; needs printable text without / and \\"


WORDS = {
    "TensorBoard": "tensorboard",
    "TerminateOnNaN": "terminate_on_nan",
}  # as TensorBoard's command spells it, and as it is said


def snake(name: str) -> str:
    """CSVLog -> csv_logger, LRScheduler -> lr_scheduler, and WORDS."""
    if name in WORDS:
        return WORDS[name]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
