"""A progress bar on the terminal or in a notebook."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tqdm import tqdm

from trainkit.core.terminal import print_stderr
from trainkit.trainer.callback import Callback
from trainkit.trainer.session import Session

FORMAT = "{desc} {percentage:3.0f}%|{bar:8}| {elapsed}<{remaining} {rate_fmt}{postfix}"  # the metrics before tqdm's own counts


class Bar(tqdm):  # type: ignore[type-arg]  # it is generic for type checkers alone
    """tqdm's bar without tqdm's thread, and with a monotonic clock, since the system clock may jump."""

    monitor_interval = 0

    def __init__(self, total: int, step: int) -> None:
        super().__init__(
            total=total,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            bar_format=FORMAT,
            mininterval=0.1,
            miniters=1,
            delay=1e-9,  # first drawn by refresh() below, with the monotonic clock
        )
        self.dynamic_ncols: Any = terminal_width
        self._time = time.monotonic
        self.start_t = self.last_print_t = self._time()
        self.refresh()


def notebook_bar(total: int, step: int) -> Any:
    """Return a bar of widgets if the code runs in the kernel of a notebook and ipywidgets is installed, else None."""
    try:
        if "IPKernelApp" not in sys.modules["IPython"].get_ipython().config:
            return None  # IPython in a terminal
        from tqdm.notebook import IProgress, tqdm_notebook  # type: ignore[attr-defined]
    except (KeyError, AttributeError, ImportError):
        return None
    if IProgress is None:
        return None

    class NotebookBar(tqdm_notebook):  # type: ignore[type-arg]
        monitor_interval = 0  # as in `Bar`

        def display(
            self,
            msg: str | None = None,
            pos: int | None = None,
            close: bool = False,
            bar_style: str | None = None,
            check_delay: bool = True,
        ) -> None:
            """Draw the bar. One that is closed before its end stays blue, not tqdm's red: early stopping is not a failure."""
            super().display(msg, pos, close, "info" if bar_style == "danger" else bar_style, check_delay)

    return NotebookBar(total=total, initial=step, unit="step", bar_format=FORMAT.replace("{bar:8}", "{bar}"), mininterval=0.1)


def terminal_width(file: Any) -> tuple[int | None, None]:
    """Return tqdm's size of the terminal: the columns of a bar that does not wrap (None if unknown), and None for the lines."""
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max(1, columns - 1) if columns else None, None


class ProgressBar(Callback):
    """A bar over the run's steps: widgets in a notebook with ipywidgets, else on stderr.

    If stderr is not a terminal, plain lines, at most one per `every_seconds`.
    """

    def __init__(self, every_seconds: float = 1.0) -> None:
        self.every_seconds = every_seconds
        self.bar: Any = None  # a bar of tqdm

    def on_train_start(self, session: Session) -> None:
        total = session.max_epochs * session.steps_per_epoch
        if session.settings.max_steps is not None:
            total = min(total, session.settings.max_steps)
        self.shown, self.printed, self.printed_step = "", -float("inf"), -1
        self.bar = notebook_bar(total, session.progress.step)
        if self.bar is None and sys.stderr.isatty():
            self.bar = Bar(total, session.progress.step)

    def on_step_log(self, session: Session, losses: list[float]) -> None:
        if self.bar is not None:
            self.bar.set_description_str(f"epoch {session.progress.epoch + 1}/{session.max_epochs}", refresh=False)
            self.bar.update(session.progress.step - self.bar.n)

    def on_log(self, session: Session) -> None:
        names = [n for n in ("train/loss", "val/loss", "val/error") if n in session.metrics]
        self.shown = ", ".join(f"{n} {session.metrics.mean(n):.3g}" for n in names)
        if self.bar is not None:
            self.bar.set_postfix_str(self.shown, refresh=False)
        elif time.monotonic() - self.printed >= self.every_seconds:
            self._print_line(session)

    def on_fit_end(self, session: Session) -> None:
        if self.bar is not None:
            self.bar.update(session.progress.step - self.bar.n)
            self.bar.refresh()
            self.bar.close()
            self.bar = None
        elif getattr(self, "shown", "") and self.printed_step != session.progress.step:
            self._print_line(session)

    def _print_line(self, session: Session) -> None:
        self.printed, self.printed_step = time.monotonic(), session.progress.step
        print_stderr(f"epoch {session.epochs_done}/{session.max_epochs}, step {session.progress.step}: {self.shown}")
