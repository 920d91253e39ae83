"""Which run, configuration and files the words of a command line name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.app.checkpoints import own_config, run_of
from trainkit.app.config import registry
from trainkit.app.config.files import compose
from trainkit.app.experiment import Experiment, load
from trainkit.checkpoint import list_checkpoints, load_run
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.files import path_of
from trainkit.core.folder import default_folder
from trainkit.trainer.predictions_csv import Which
from trainkit.trainer.run_folder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_imports(args: argparse.Namespace) -> None:
    for path in args.imports:
        registry.import_file(path)


def composed(args: argparse.Namespace) -> DictConfig:
    if not args.paths:
        raise UserError("no CONF; give a YAML file, for example conf/mlp.yaml")
    return compose(args.paths, args.overrides)


def configured(args: argparse.Namespace, run: RunFolder, content: dict[str, Any] | None) -> DictConfig:
    """Return the configuration of the given files, or else that of the run that continues."""
    if args.paths:
        return compose(args.paths, args.overrides)
    if content is None or (not run.new and (run.path / "config.yaml").is_file()):
        return compose([run.path / "config.yaml"], args.overrides, is_complete=True)
    return own_config(content, run.path, args.overrides)


def places(args: argparse.Namespace) -> tuple[RunFolder, Path | None]:
    """Return the run's folder, its own or a new one, and the run or checkpoint to continue, if any."""
    if args.resume is None:
        if not args.paths:
            raise UserError("fit: no CONF; give a YAML file, for example fit conf/mlp.yaml")
        folder = args.run_dir or default_run(args.paths[0])
        return RunFolder(folder, new=True, numbered=args.run_dir is None, configurations=args.paths), None
    origin = path_of(args.resume) if args.resume else args.run_dir or newest_run(args)
    if not origin.exists():
        raise UserError(f"resume: no {origin}; give a run's folder or a checkpoint")
    own = RunFolder(origin if origin.is_dir() else run_of(origin))
    if not own.marked:
        if origin.is_dir():
            fix = "name a run's folder, or a checkpoint and a new folder, --run-dir DIR"
            raise UserError(f"resume: {origin} is not a run's folder, it has no file {RunFolder.marker}; {fix}")
        if args.run_dir is None:
            raise UserError(f"resume: {origin} is not in a run's folder; give a new folder: --run-dir DIR")
    elif args.run_dir is None or (args.run_dir.exists() and args.run_dir.samefile(own.path)):
        return own, origin
    return RunFolder(args.run_dir, new=True, configurations=args.paths), origin


def default_run(conf: Path) -> Path:
    """Return `logs/<name>/<time>`, or `logs/<name>_runs/<time>` if `logs/<name>` is itself a run's folder."""
    folder = default_folder(conf.stem)
    return runs_beside(folder.parent) / folder.name if RunFolder(folder.parent).marked else folder


def runs_beside(run: Path) -> Path:
    return run.with_name(f"{run.name}_runs")


def newest_run(args: argparse.Namespace) -> Path:
    """Return the folder of the run of CONF that saved last, among those in the default folder, or that folder itself."""
    if not args.paths:
        raise UserError(
            "resume: no run; give one, for example --resume logs/mlp/2026-01-31_12-00-00, or a CONF to continue its newest run"
        )
    folder, conf = default_folder(args.paths[0].stem).parent, " ".join(map(str, args.paths))
    places = folder, *folder.glob("*"), *runs_beside(folder).glob("*")
    runs = [RunFolder(path) for path in places if RunFolder(path).marked]
    saved = {r.path: max(f.lstat().st_mtime_ns for f in files) for r in runs if (files := list_checkpoints(r.checkpoints))}
    found = {path: RunFolder(path).configurations() for path in sorted(saved, key=lambda p: saved[p], reverse=True)}
    wanted = [os.path.realpath(path) for path in args.paths]
    if (own := next((path for path, files in found.items() if files == wanted), None)) is not None:
        return own
    if (own := next((path for path, files in found.items() if files is None), None)) is None:
        other = next(((path, files) for path, files in found.items() if files), None)
        why = f"; its newest run, {other[0]}, is of {' '.join(map(os.path.relpath, other[1]))}" if other else ""
        raise UserError(f"resume: {folder} has no run of {conf} with a checkpoint{why}; give one: --resume RUN")
    terminal.print_stderr(f"resume: {own} does not name the file of its configuration; continued as a run of {conf}")
    return own


def resumed(origin: Path) -> dict[str, Any]:
    """Return the content of the checkpoint to continue from. If `origin` is a run's folder, this is its newest checkpoint."""
    file, content, skipped = load_run(origin)
    terminal.print_stderr(*(f"skipped: {line}" for text in skipped for line in text.split("\n")))
    state = content["state"]
    terminal.print_stdout(f"resuming {file}: epoch {state['epoch']}, step {state['step']}")
    return content


def loaded(args: argparse.Namespace) -> Experiment:
    """Return the experiment of RUN (or --run-dir) and --checkpoint."""
    runs: list[Path] = [p for p in args.paths if p != args.run_dir]
    if len(runs) > 1:
        raise UserError(f"{', '.join(map(str, runs))}: one RUN at a time")
    run: Path | None = runs[0] if runs else args.run_dir
    if run is None:
        raise UserError("no RUN; give a run's folder or a checkpoint, for example logs/mlp/2026-01-31_12-00-00")
    return load(run, *args.overrides, checkpoint=args.checkpoint, imports=args.imports)


def table_of_rows(args: argparse.Namespace) -> Path | None:
    """Return the file of rows to predict, if `args.paths` names one, and leave the other paths there: a run or a checkpoint.

    A file that is not a checkpoint holds rows, whatever its name. If no path is a run or a checkpoint, the first counts as one.
    """
    runs = [p for p in args.paths if p.is_dir() or p.suffix == ".pt"]
    if not runs and args.run_dir is None:
        runs = args.paths[:1]
    tables = [p for p in args.paths if p not in runs]
    if len(tables) > 1:
        raise UserError(f"{', '.join(map(str, tables))}: {len(tables)} files to predict; give one")
    args.paths = runs
    return tables[0] if tables else None


def which_replicas(text: str | None) -> Which:
    """Return the value of --replica."""
    if text is None or text == "all":
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise UserError(f"--replica: {text!r}; give the number of a replica, from 0, or all")
    return int(text)
