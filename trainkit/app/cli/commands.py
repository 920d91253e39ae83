"""The commands, one function each. Their arguments are parsed in `main`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.app.config import registry
from trainkit.app.config.build import build
from trainkit.app.config.files import compose, in_one_line, resolve, to_yaml
from trainkit.app.experiment import Experiment, exit_code, load, own_config, run_of
from trainkit.app.prediction_output import Output
from trainkit.checkpoint import list_checkpoints, load_run
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.folder import default_folder
from trainkit.core.text_table import text_table
from trainkit.data.dataset import Dataset, Split
from trainkit.metrics.statistics import json_summary
from trainkit.trainer import signals
from trainkit.trainer.predictions_csv import as_csv
from trainkit.trainer.run_folder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig


def fit(args: argparse.Namespace) -> int:
    """Train from a configuration, from the beginning or from a checkpoint."""
    _imports(args)
    run, origin = _places(args)
    # A run that continues is locked before it is read, so that no other process changes it in between.
    with run.opened(going_on=origin is not None):
        content = None if origin is None else _resumed(origin)
        experiment = Experiment(_configured(args, run, content), content)
        trainer, summary = experiment.train(run)
    try:
        terminal.print_stdout(f"{summary['stop_words']}, in {summary['wall_s']:.1f} s; {run.path}")
        _print_metrics(summary["metrics"], trainer.fitted().data)
    except BrokenPipeError:
        terminal.silence(sys.stdout)  # the run is complete, so its exit code is returned
    return exit_code(trainer, summary)


def _configured(args: argparse.Namespace, run: RunFolder, content: dict[str, Any] | None) -> DictConfig:
    """Return the configuration of the given files, or else that of the run that continues."""
    if args.paths:
        return compose(args.paths, args.overrides)
    if content is None or (not run.new and (run.path / "config.yaml").is_file()):
        return compose([run.path / "config.yaml"], args.overrides)
    return own_config(content, run.path, args.overrides)


def _places(args: argparse.Namespace) -> tuple[RunFolder, Path | None]:
    """Return the run's folder, its own or a new one, and the run or checkpoint to continue, if any."""
    if args.resume is None:
        if not args.paths:
            raise UserError("fit: no CONF; give a YAML file, for example fit conf/mlp.yaml")
        return RunFolder(args.run_dir or default_folder(args.paths[0].stem), new=True, numbered=args.run_dir is None), None
    origin = Path(args.resume).expanduser() if args.resume else args.run_dir or _newest_run(args)
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
    return RunFolder(args.run_dir, new=True), origin


def _resumed(origin: Path) -> dict[str, Any]:
    """Return the content of the checkpoint to continue from. If `origin` is a run's folder, this is its newest checkpoint."""
    file, content, skipped = load_run(origin)
    terminal.print_stderr(*(f"skipped: {line}" for text in skipped for line in text.split("\n")))
    state = content["state"]
    terminal.print_stdout(f"resuming {file}: epoch {state['epoch']}, step {state['step']}")
    return content


def _newest_run(args: argparse.Namespace) -> Path:
    if not args.paths:
        raise UserError(
            "resume: no run; give one, for example --resume logs/mlp/2026-01-31_12-00-00, or a CONF to continue its newest run"
        )
    folder = default_folder(args.paths[0].stem).parent
    runs = [RunFolder(path) for path in folder.glob("*") if RunFolder(path).marked]
    saved = {r.path: max(f.lstat().st_mtime_ns for f in files) for r in runs if (files := list_checkpoints(r.checkpoints))}
    if not saved:
        raise UserError(f"resume: {folder} has no run of {args.paths[0]} with a checkpoint; give one: --resume RUN")
    return max(saved, key=lambda p: saved[p])


def validate(args: argparse.Namespace) -> int:
    """Evaluate a run on its validation data."""
    return _evaluate(args, "val")


def test(args: argparse.Namespace) -> int:
    """Evaluate a run on its test data."""
    return _evaluate(args, "test")


def _evaluate(args: argparse.Namespace, name: str) -> int:
    experiment = _loaded(args)
    session = experiment.session(name)
    split: Split | None = getattr(session.data, name)
    if split is None:
        fix = "callbacks: {validation_split: {}}" if name == "val" else "data with a test split"
        raise UserError(f"{experiment.file}: its data has no {name} split; train with {fix}")
    metrics = session.evaluate_split(name)
    terminal.print_stdout(f"{experiment.file}, {len(split)} samples")
    _print_metrics({f"{name}/{metric}": json_summary(values) for metric, values in metrics.items()}, session.data)
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write the outputs and predictions for the test split, or for the rows of a CSV file, as CSV."""
    tables = [p for p in args.paths if p.name.endswith((".csv", ".csv.gz"))]
    args.paths = [p for p in args.paths if p not in tables]
    if len(tables) > 1:
        raise UserError(f"{', '.join(map(str, tables))}: {len(tables)} files to predict; give one")
    experiment = _loaded(args)
    session = experiment.session_for_table(tables[0]) if tables else experiment.session("test")
    file, split = experiment.file, session.data.test
    assert file is not None
    if split is None:
        raise UserError(f"{file}: its data has no test split; give a CSV file to predict")
    out = Output(args.out or run_of(file) / "predictions.csv", follow=args.out is not None)
    lines = as_csv(session.net, session.loss, session.data, split.x, session.replicas, session.normalizer.unscale)
    with out, closing(lines) as chunks:
        for chunk in chunks:
            out.write(chunk)
    (terminal.print_stdout if out.descriptor is None else terminal.print_stderr)(
        f"{len(split)} samples predicted by {file} -> {out.path}"
    )
    return 0


def _loaded(args: argparse.Namespace) -> Experiment:
    """Return the experiment of RUN (or --run-dir) and --checkpoint."""
    runs: list[Path] = [p for p in args.paths if p != args.run_dir]
    if len(runs) > 1:
        raise UserError(f"{', '.join(map(str, runs))}: one RUN at a time")
    run: Path | None = runs[0] if runs else args.run_dir
    if run is None:
        raise UserError("no RUN; give a run's folder or a checkpoint, for example logs/mlp/2026-01-31_12-00-00")
    return load(run, *args.overrides, checkpoint=args.checkpoint, imports=args.imports)


def compare(args: argparse.Namespace) -> int:
    """Train several configurations side by side."""
    from trainkit.app.compare.command import compare

    _imports(args)
    return compare(args)


def verify_resume(args: argparse.Namespace) -> int:
    """Interrupt and resume a configuration's run, and compare it with the uninterrupted one."""
    from trainkit.app.verify_resume.verify import verify_resume

    return verify_resume(args)


def checkpoint_show(args: argparse.Namespace) -> int:
    """Print what a checkpoint file holds."""
    from trainkit.checkpoint import inspection

    (file,) = _files(args, "show", 1)
    return inspection.show(file, in_one_line)


def checkpoint_verify(args: argparse.Namespace) -> int:
    """Check that a checkpoint file is complete and valid; print each check."""
    from trainkit.checkpoint import inspection

    return inspection.verify(*_files(args, "verify", 1))


def checkpoint_diff(args: argparse.Namespace) -> int:
    """Print what differs between two checkpoint files."""
    from trainkit.checkpoint import inspection

    return inspection.diff(*_files(args, "diff", 2))


def _files(args: argparse.Namespace, verb: str, n: int) -> list[Path]:
    files: list[Path] = [*args.paths, *map(Path, args.overrides)]
    if len(files) != n:
        raise UserError(f"checkpoint {verb}: {len(files)} files; needs {n}, checkpoint {verb}{' logs/mlp/last.pt' * n}")
    return files


def check(args: argparse.Namespace) -> int:
    """Find all errors of a configuration, compare each derivative with finite differences, and train two trial steps.

    Return 1 if a derivative is wrong.
    """
    from trainkit.app.rehearsal import untouched

    _imports(args)
    with untouched():
        return _check(_composed(args))


def _check(composed: DictConfig) -> int:
    from trainkit.app.check import derivatives, is_right
    from trainkit.app.rehearsal import begun, rehearse
    from trainkit.nn.gradcheck import TOLERANCE

    config = resolve(composed)
    parts = build(config)
    data = parts.data()
    session = begun(parts, data)
    found = derivatives(session)
    cells = [(d[0], f"d{d[1]}", f"{d[2]:.1e}", "ok" if is_right(d) else "WRONG") for d in found]
    print(*text_table(cells), sep="\n")
    try:
        print(rehearse(config, to_yaml(composed), data, session))
    except signals.Interrupted as stop:
        return signals.exit_code(stop.number)
    right = sum(map(is_right, found))
    print(f"{right} of {len(found)} derivatives agree with central differences to {TOLERANCE:g}")
    return 0 if right == len(found) else 1


def show(args: argparse.Namespace) -> int:
    """Print layers, shapes, costs, hooks and the learning rate of a configuration."""
    from trainkit.app.check import sample
    from trainkit.app.cli.show import outline, planned
    from trainkit.nn.summary import layers

    _imports(args)
    parts = build(resolve(_composed(args)))
    session = planned(parts)
    net, slots = session.net, len(session.optimizer.slots)
    terminal.print_stdout(layers(net, sample(session, 1)[0], slots, session.replicas), outline(parts, session))
    return 0


def _composed(args: argparse.Namespace) -> DictConfig:
    if not args.paths:
        raise UserError("no CONF; give a YAML file, for example conf/mlp.yaml")
    return compose(args.paths, args.overrides)


def _imports(args: argparse.Namespace) -> None:
    for path in args.imports:
        registry.import_file(path)


def _print_metrics(metrics: dict[str, Any], data: Dataset) -> None:
    """Print a line per metric; beside an accuracy, that of always predicting the most frequent class."""
    for name, value in sorted(metrics.items()):
        if isinstance(value, dict):
            mean, std = (("nan" if v is None else f"{v:.4g}") for v in (value["mean"], value["std"]))
            text = f"{mean} ± {std} over {len(value['values'])} replicas"
        else:
            text = "nan" if value is None else f"{value:.4g}"
        split, _, metric = name.partition("/")
        share = data.parts()[split].majority() if metric == "accuracy" and split in data.parts() else None
        beside = "" if share is None else f" (the most frequent class: {share:.4g})"
        terminal.print_stdout(f"  {name:<16} {text}{beside}")
