"""`compare`: configurations trained side by side, in one table and a few figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import signals, tables
from .build import run_folder
from .checkpoint import write
from .errors import UserError
from .grid import axis, planned
from .trial import Trial

DRAWN = 12  # trials in one figure, at most


def compare(args: argparse.Namespace) -> int:
    """Train each configuration, or each point of a grid over it; print the table; write it and the figures into a folder."""
    if not args.paths:
        raise UserError("compare: no CONF; name YAML files, compare conf/reports/cadei_*.yaml")
    axes = [axis(text) for text in args.grid]
    if args.against is not None and axes:
        raise UserError("compare: --grid and --against do not go together; choose a point, then hold it against the rival")
    plans = [p for path in args.paths for p in planned(path, args.overrides, axes, several=len(args.paths) > 1)]
    folder = made(args.out or run_folder(Path("compare")))
    done: list[Trial] = []
    code = 0
    try:
        for i, plan in enumerate(plans):
            print(f"{i + 1} of {len(plans)}: {plan.name}", file=sys.stderr)
            done += plan.run(args.against)
    except signals.Interrupted as stop:
        code = signals.exit_code(stop.args[0])
        print(f"{signals.name(stop.args[0])} came; {len(done)} trials are done", file=sys.stderr)
    if done:
        report(done, folder, args.log, bool(axes))
    return code


def made(folder: Path) -> Path:
    """The folder, made before anything is trained. Raises UserError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made, {error.strerror}; choose another with --out") from error
    return folder


def report(trials: Sequence[Trial], folder: Path, log: bool, grid: bool) -> None:
    """Print the table; write `compare.md`, `.csv`, `.json`, and the figures as PNG files and for TensorBoard."""
    from . import figures

    text = tables.markdown(trials)
    if grid:
        text = f"{tables.of_grid(trials)}\n\n{text}"
        print(tables.of_grid(trials))
    else:
        print(text)
    for name, content in (("md", text + "\n"), ("csv", tables.as_csv(trials)), ("json", tables.as_json(trials))):
        write(content.encode(), folder / f"compare.{name}")
    shown = trials if len(trials) <= DRAWN else tables.ranked(trials)[:DRAWN]
    try:
        figures.write(figures.draw(shown, log), folder)
    except UserError as error:
        print(f"no figures: {error}", file=sys.stderr)
    print(f"\n{folder}: compare.md, compare.csv, compare.json, figures/")
