"""The commands, one function each. Their arguments are parsed in `main`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.app.checkpoints import run_of
from trainkit.app.config.build import build
from trainkit.app.config.files import in_one_line, resolve, to_yaml
from trainkit.app.experiment import Experiment, exit_code
from trainkit.app.prediction_output import Output
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.text_table import text_table
from trainkit.data.dataset import Split
from trainkit.metrics.interpretation import Interpretation
from trainkit.metrics.statistics import json_summary
from trainkit.trainer import signals
from trainkit.trainer.predictions_csv import as_csv, is_header
from trainkit.trainer.predictor import check_replica

from .metrics import print_confusion, print_metrics
from .runs import composed, configured, loaded, places, resumed, run_imports, table_of_rows, which_replicas

if TYPE_CHECKING:
    from omegaconf import DictConfig


def fit(args: argparse.Namespace) -> int:
    """Train from a configuration, from the beginning or from a checkpoint."""
    run_imports(args)
    run, origin = places(args)
    # A run that continues is locked before it is read, so that no other process changes it in between.
    with run.opened(going_on=origin is not None):
        content = None if origin is None else resumed(origin)
        experiment = Experiment(configured(args, run, content), content)
        trainer, summary = experiment.train(run)
    try:
        terminal.print_stdout(f"{summary['stop_words']}, in {summary['wall_s']:.1f} s; {run.path}")
        print_metrics(summary["metrics"], trainer.fitted().data)
    except BrokenPipeError:
        terminal.silence(sys.stdout)  # the run is complete, so its exit code is returned
    return exit_code(trainer, summary)


def validate(args: argparse.Namespace) -> int:
    """Evaluate a run on its validation data."""
    return _evaluate(args, "val")


def test(args: argparse.Namespace) -> int:
    """Evaluate a run on its test data."""
    return _evaluate(args, "test")


def _evaluate(args: argparse.Namespace, name: str) -> int:
    experiment = loaded(args)
    session = experiment.session(name)
    split: Split | None = getattr(session.data, name)
    if split is None:
        fix = "callbacks: {validation_split: {}}" if name == "val" else "data with a test split"
        raise UserError(f"{experiment.file}: its data has no {name} split; train with {fix}")
    metrics = session.measure(name, split)
    terminal.print_stdout(f"{experiment.file}, {len(split)} samples")
    print_metrics({f"{name}/{metric}": json_summary(values) for metric, values in metrics.items()}, session.data)
    if (matrix := session.known_confusion(name)) is not None:
        print_confusion(matrix, weighted=split.weight is not None)
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write the predictions for the test split, or for the rows of a file, as CSV."""
    table = table_of_rows(args)
    which = which_replicas(args.replica)
    experiment = loaded(args)
    session, with_truth = experiment.session_for_rows(table) if table else (experiment.session("test"), True)
    checkpoint, split, data = experiment.file, session.data.test, session.data
    assert checkpoint is not None
    if split is None:
        raise UserError(f"{checkpoint}: its data has no test split; give a file to predict")
    if isinstance(which, int):
        check_replica(which, session.replicas)
    targets = Interpretation.of(session.loss, data).targets
    path = args.out or run_of(checkpoint) / "predictions.csv"
    out = Output(path, lambda line: is_header(line, targets), follow=args.out is not None)
    if table and args.out is None and path.exists():
        terminal.print_stderr(f"{path}: the predictions in it are replaced; keep them with --out FILE")
    unscale = session.normalizer.unscale
    lines = as_csv(session.net, session.loss, data, split, session.replicas, which, args.raw, with_truth, unscale)
    with out, closing(lines) as chunks:
        for chunk in chunks:
            out.write(chunk)
    (terminal.print_stdout if out.descriptor is None else terminal.print_stderr)(
        f"{len(split)} samples predicted by {checkpoint} -> {out.path}"
    )
    return 0


def compare(args: argparse.Namespace) -> int:
    """Train several configurations side by side."""
    from trainkit.app.compare.command import compare

    run_imports(args)
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

    run_imports(args)
    with untouched():
        return _check(composed(args))


def _check(composed: DictConfig) -> int:
    from trainkit.app.check import derivatives, is_right
    from trainkit.app.rehearsal import begun, rehearse
    from trainkit.nn.gradcheck import TOLERANCE

    config = resolve(composed)
    parts = build(config)
    data = parts.data()
    session = begun(parts, data)
    found = derivatives(session)
    print("error of each derivative, beyond what rounding explains:")
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

    run_imports(args)
    parts = build(resolve(composed(args)))
    session = planned(parts)
    net, slots = session.net, len(session.optimizer.slots)
    terminal.print_stdout(layers(net, sample(session, 1)[0], slots, session.replicas), outline(parts, session))
    return 0
