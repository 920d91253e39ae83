"""`compare`: train configurations; write one table and a few figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from trainkit import interop
from trainkit.core.errors import UserError, escape_control
from trainkit.core.files import write
from trainkit.core.folder import Folder, default_folder
from trainkit.core.terminal import print_stderr, print_stdout
from trainkit.metrics.event_file import EVENTS
from trainkit.trainer import signals

from . import tables
from .grid import Plan, axes_of, planned
from .shared_data import SharedData
from .trial import Trial

if TYPE_CHECKING:
    import argparse

MAX_DRAWN = 12  # trials in one figure


class Stopped(BaseException):
    """A signal ended the training. It is a BaseException, so that no code handles it as an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def compare(args: argparse.Namespace) -> int:
    """Train each configuration, or each point of a grid over it; print the table; write it and the figures into a folder.

    The table has every finished trial, even if an error or a signal ends the command.
    """
    if not args.paths:
        raise UserError("compare: no CONF; give YAML files, for example compare conf/reports/cadei_*.yaml")
    if args.against is not None:
        interop.find(args.against)
        if args.grid:
            raise UserError("compare: --grid and --against cannot be combined; choose a point of the grid, then use --against")
    plans = plans_of(args)
    folder = Comparison(args.out or default_folder("compare"), numbered=args.out is None)
    folder.begin()
    done: list[Trial] = []
    code = 0
    try:
        with signals.noting(raise_stopped):
            train_all(plans, args.against, done)
    except (Stopped, signals.Interrupted) as stop:
        code = signals.exit_code(stop.number)
        print_stderr(f"stopped by {signals.name(stop.number)}; {len(done)} trial{'s' * (len(done) != 1)} done")
    finally:
        try:
            if done:
                report(done, folder.path, args.log, bool(args.grid))
            else:
                folder.undo()
        finally:
            folder.close()
    return code


class Comparison(Folder):
    """The folder of a comparison. It is made and locked before the training; no file in it is replaced."""

    kind, worker, marker = "comparison folder", "another comparison", ".trainkit-compare"
    files = ("compare.md", "compare.csv", "compare.json", "figures", EVENTS)

    def begin(self) -> None:
        """Make and lock the folder. Raises UserError for one that is in use, not writable, or holds a file to be written."""
        self._check()
        super().begin()
        try:
            self._check()  # again, since the lock is held only now
        except UserError:
            self.undo()
            raise

    def _check(self) -> None:
        existing = [] if self.numbered else self.there(self.files)
        if existing:
            raise UserError(f"comparison folder {self.path}: holds {existing[0]} already; choose another with --out")


def plans_of(args: argparse.Namespace) -> list[Plan]:
    """Return what to train. If there are several files, an error begins with the name of its file."""
    axes, shared = axes_of(args.grid), SharedData()
    several = len(args.paths) > 1
    plans: list[Plan] = []
    for path, name in zip(args.paths, names(args.paths), strict=True):
        with naming(str(path) if several else ""):
            plans += planned(path, args.overrides, axes, several, name, shared)
    return [replace(p, name=escape_control(p.name), points=[escape_control(point) for point in p.points]) for p in plans]


def names(paths: Sequence[Path]) -> list[str]:
    """Return the files' names without suffix, or their paths if names are equal. Raises UserError for a file given twice."""
    twice = next((p for i, p in enumerate(paths) if p in paths[:i]), None)
    if twice is not None:
        raise UserError(f"compare: {twice} is given twice; give each CONF once")
    stems = [p.stem for p in paths]
    return [stem if stems.count(stem) == 1 else str(p) for stem, p in zip(stems, paths, strict=True)]


def train_all(plans: Sequence[Plan], against: str | None, done: list[Trial]) -> None:
    """Train each plan. `done` always holds every finished trial, even while its reference is still training."""
    for i, plan in enumerate(plans):
        print_stderr(f"{i + 1} of {len(plans)}: {plan.name}")
        before = len(done)
        with naming(plan.name if len(plans) > 1 else ""):
            done[before:] = plan.run(against, done.append)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let errors begin with the name, unless it is empty."""
    try:
        yield
    except UserError as error:
        if not name:
            raise
        lines = str(error).split("\n")
        raise UserError("\n".join(x if x.startswith(name) else f"{name}: {x}" for x in lines)) from error


def raise_stopped(number: int) -> NoReturn:
    raise Stopped(number)


def report(trials: Sequence[Trial], folder: Path, log: bool, grid: bool) -> None:
    """Write `compare.md`, `.csv`, `.json`; print the table; draw the figures as PNG files and for TensorBoard."""
    from . import figures

    text = tables.markdown(trials)
    short = tables.of_grid(trials) if grid else text
    if grid:
        text = f"{short}\n\n{text}"
    try:
        for name, content in (("md", text + "\n"), ("csv", tables.as_csv(trials)), ("json", tables.as_json(trials))):
            write(content.encode(), folder / f"compare.{name}")
    finally:
        print_stdout(short)
    shown = trials if len(trials) <= MAX_DRAWN else tables.ranked(trials)[:MAX_DRAWN]
    files = "compare.md, compare.csv, compare.json"
    try:
        figures.write(figures.draw(shown, log), folder)
        files += ", figures/"
    except UserError as error:
        print_stderr(f"no figures: {error}")
    print_stdout("", f"{folder}: {files}")
