"""What each command does, with the words already parsed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from trainkit import checkpoint
from trainkit.app.config import registry
from trainkit.app.config.build import Parts, build, run_folder
from trainkit.app.config.files import compose, diff, override, parse, resolve, to_yaml
from trainkit.app.output import Output
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.files import plain_name
from trainkit.core.rng import seed_globals
from trainkit.data.dataset import Dataset, Split
from trainkit.trainer import capture, signals
from trainkit.trainer.callback import Callback, check_files
from trainkit.trainer.predictions import as_csv
from trainkit.trainer.run_folder import Run
from trainkit.trainer.setup import prepare_to_evaluate
from trainkit.trainer.summary import spread_of
from trainkit.trainer.trainer import Trainer

KEPT = ("data.normalize", "data.task", "data.categorical", "data.drop")  # a trained net needs its inputs as they were
NOT_FINITE = 3  # the exit code of a run that terminate_on_nan has ended


def fit(args: argparse.Namespace, more: Mapping[str, Callback] | None = None) -> int:
    """Train from a configuration, from the beginning or from a checkpoint; with `more` callbacks behind the configuration's."""
    _imports(args)
    run, origin = _places(args)
    with closing(run):  # locked at once where it goes on: what is read of it then is the last that was written
        run.open(going_on=origin is not None)
        content = None if origin is None else _resumed(origin)
        return _fit(args, run, content, more or {})


def _fit(args: argparse.Namespace, run: Run, content: dict[str, Any] | None, more: Mapping[str, Callback]) -> int:
    if args.paths:
        composed = compose(args.paths, args.overrides)
    elif content is None or (not run.new and (run.path / "config.yaml").is_file()):
        composed = compose([run.path / "config.yaml"], args.overrides)
    else:
        composed = _own_config(content, run.path, args.overrides)
    config = resolve(composed)
    parts = build(config)
    parts.callbacks.update(more)
    trainer = parts.trainer(config=to_yaml(composed))
    trainer.run = run
    run.open(check_files(parts.callbacks), going_on=content is not None)
    seed_globals(parts.seed)
    if content is not None:
        _tell_differences(content, config)
        for line in capture.differences(trainer, content):
            terminal.say(f"resumed under other conditions: {line}; bits may differ")
    data = _data(parts, content)
    summary = trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data, resume=content)
    try:
        terminal.tell(f"{summary['stop_words']}, in {summary['wall_s']:.1f} s; {run.path}")
        _print_metrics(summary["metrics"])
    except BrokenPipeError:
        terminal.hush(sys.stdout)  # the run is done, be it read or not: the exit code is its own
    if trainer.signal is not None:
        return signals.exit_code(trainer.signal)
    return NOT_FINITE if summary["stop_reason"] == "nan" else 0


def _data(parts: Parts, content: dict[str, Any] | None) -> Dataset:
    """The data, read as the checkpoint's was: the same columns, categories and classes in the same order."""
    schema = content["data"]["schema"] if content is not None else None
    return parts.data(schema=schema) if schema else parts.data()


def _places(args: argparse.Namespace) -> tuple[Run, Path | None]:
    """The run's folder, and the run or checkpoint that it continues, if any. A run goes on in its own folder or a new one."""
    if args.resume is None:
        if not args.paths:
            raise UserError("fit: no CONF; name a YAML file, fit conf/mlp.yaml")
        return Run(args.run_dir or run_folder(args.paths[0]), new=True, numbered=args.run_dir is None), None
    origin = Path(args.resume) if args.resume else args.run_dir or _newest_run(args)
    if not origin.exists():
        raise UserError(f"resume: no {origin}; name a run's folder or a checkpoint")
    own = Run(origin if origin.is_dir() else _run_of(origin))
    if not own.marked:
        if origin.is_dir():
            cure = "name a run's folder, or a checkpoint and where to go on: --run-dir DIR"
            raise UserError(f"resume: {origin} is not a run's folder, it has no file {Run.marker}; {cure}")
        if args.run_dir is None:
            raise UserError(f"resume: {origin} lies in no run's folder; say where to go on: --run-dir DIR")
    elif args.run_dir is None or (args.run_dir.exists() and args.run_dir.samefile(own.path)):
        return own, origin
    return Run(args.run_dir, new=True), origin


def _resumed(origin: Path) -> dict[str, Any]:
    """The checkpoint to continue from: of a run's folder its newest."""
    if origin.is_dir():
        file, content, skipped = checkpoint.newest(origin / "checkpoints")
        terminal.say(*(f"skipped: {line}" for text in skipped for line in text.split("\n")))
    else:
        file, content = origin, checkpoint.load(origin)
    state = content["state"]
    terminal.tell(f"resuming {file}: epoch {state['epoch']}, step {state['step']}")
    return content


def _newest_run(args: argparse.Namespace) -> Path:
    if not args.paths:
        raise UserError("resume: name a run, --resume logs/mlp/2026-01-31_12-00-00, or a CONF whose newest run to continue")
    folder = run_folder(args.paths[0]).parent
    runs = [Run(path) for path in folder.glob("*") if Run(path).marked]
    saved = {r.path: max(f.lstat().st_mtime_ns for f in files) for r in runs if (files := checkpoint.saved(r.checkpoints))}
    if not saved:
        raise UserError(f"resume: no run of {args.paths[0]} with a checkpoint in {folder}; name one, --resume RUN")
    return max(saved, key=lambda p: saved[p])


def _tell_differences(content: dict[str, Any], config: dict[str, Any]) -> None:
    """Print where the configuration differs from the checkpoint's, and which of the two is used."""
    if not content["config"]:
        return  # it was trained from Python
    for line in diff(resolve(parse(content["config"], "the checkpoint's configuration")), config):
        kept = "; the checkpoint's is kept" if line.partition(":")[0].partition("[")[0] in KEPT else ""
        terminal.tell(f"changed since the checkpoint: {line}{kept}")


def validate(args: argparse.Namespace) -> int:
    """Evaluate on the validation part."""
    return _measure(args, "val")


def test(args: argparse.Namespace) -> int:
    """Evaluate on the test part."""
    return _measure(args, "test")


def _measure(args: argparse.Namespace, name: str) -> int:
    trainer, file = _loaded(args, split=name == "val")
    part = trainer.data.parts().get(name)
    if part is None:
        cure = "callbacks: {validation_split: {}}" if name == "val" else "data with a test part"
        raise UserError(f"{file}: its data has no {name} part; train with {cure}")
    trainer.measure(name, part)
    terminal.tell(f"{file}, {len(part)} samples")
    _print_metrics({n: spread_of(v) for n, v in trainer.metrics.items()})
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write the outputs and answers for the test part, or for the rows of a CSV file, as CSV."""
    tables = [p for p in args.paths if p.name.endswith((".csv", ".csv.gz"))]
    args.paths = [p for p in args.paths if p not in tables]
    if len(tables) > 1:
        raise UserError(f"{', '.join(map(str, tables))}: one file to predict at a time")
    trainer, file = _loaded_for_table(args, tables[0]) if tables else _loaded(args)
    part, replicas = trainer.data.test, trainer.replicas
    if part is None:
        raise UserError(f"{file}: its data has no test part; name a CSV file to predict")
    out = Output(args.out or _run_of(file) / "predictions.csv", follow=args.out is not None)
    with out, closing(as_csv(trainer.net, trainer.loss, trainer.data, part.x, replicas)) as chunks:
        for chunk in chunks:
            out.write(chunk)
    (terminal.tell if out.descriptor is None else terminal.say)(f"{len(part)} samples by {file} -> {out.path}")
    return 0


def _loaded(args: argparse.Namespace, split: bool = False) -> tuple[Trainer, Path]:
    """A trainer with its data, split as it was if that is asked for, and a checkpoint's parameters; and the file."""
    file, content, config = _opened(args)
    callbacks = config.get("callbacks")
    if isinstance(callbacks, dict):
        config["callbacks"] = {k: v for k, v in callbacks.items() if split and _splits(k, v)}
    parts = build(config)
    trainer = parts.trainer()
    prepare_to_evaluate(trainer, parts.net, parts.loss, parts.optimizer(parts.net), _data(parts, content), content)
    return trainer, file


def _loaded_for_table(args: argparse.Namespace, table: Path) -> tuple[Trainer, Path]:
    """The same with the rows of a CSV file as its test part. The data it was trained on need not be there."""
    from trainkit.data.sources.csv import read_rows, refuse_infinite

    file, content, config = _opened(args)
    known = content["data"]
    if not known["schema"]:
        raise UserError(f"{table}: the run was not trained on a CSV file; predict its own test part, without a file")
    parts = build({**config, "callbacks": {}})
    trainer = parts.trainer()
    trainer.net = parts.net.to(trainer.device, trainer.dtype)
    trainer.net.load_state_dict(content["model"])
    trainer.loss = parts.loss
    x = read_rows(str(table), known["schema"]).x  # the targets, if the file has them, are not asked for
    raw = Dataset(
        train=Split(x, torch.zeros(len(x))), classes=tuple(known["classes"] or ()) or None, threshold=known["threshold"]
    )
    scaled = capture.normalizer(content, raw).apply(raw.train, trainer.dtype)
    refuse_infinite(str(table), known["schema"], x, scaled.x)
    rows = scaled.to(trainer.device, trainer.dtype)
    trainer.data = raw.with_parts(train=rows, test=rows)
    return trainer, file


def _opened(args: argparse.Namespace) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The checkpoint file that is meant, its content, and its configuration with the overrides."""
    for path in args.imports:
        registry.import_file(path)
    file = _checkpoint_file(args)
    content = checkpoint.load(file)
    return file, content, resolve(_own_config(content, file, args.overrides))


def _own_config(content: dict[str, Any], origin: Path, overrides: list[str]) -> DictConfig:
    """The configuration that a checkpoint carries."""
    if not content["config"]:
        raise UserError(f"{origin}: carries no configuration, it was trained from Python; load it from there")
    composed = parse(content["config"], f"{origin}, its configuration")
    for text in overrides:
        override(composed, text)
    return composed


def _splits(name: str, arguments: Any) -> bool:
    """Whether a callback of the configuration makes validation data; the others have no part in an evaluation."""
    key = name if name in registry.TABLE or not isinstance(arguments, dict) else next(iter(arguments), "")
    return key in ("validation_split", "ValidationSplit")


def _checkpoint_file(args: argparse.Namespace) -> Path:
    """The file that RUN (or --run-dir) and --checkpoint mean."""
    example = "name a run's folder or a checkpoint, logs/mlp/2026-01-31_12-00-00"
    given: list[Path] = [p for p in args.paths if p != args.run_dir]
    if len(given) > 1:
        raise UserError(f"{', '.join(map(str, given))}: one RUN at a time")
    run: Path | None = given[0] if given else args.run_dir
    if run is None:
        raise UserError(f"no RUN; {example}")
    if run.suffix == ".pt":
        return run
    if not run.is_dir():
        what = "a file, and no .pt" if run.is_file() else "no such run"
        raise UserError(f"{run}: {what}; {example}")
    wanted = args.checkpoint or ("final" if (run / "checkpoints" / "final.pt").exists() else "last")
    name = wanted if wanted.endswith(".pt") else f"{wanted}.pt"
    file = run / "checkpoints" / plain_name(name)
    if file.is_symlink():
        raise UserError(f"{file}: is a link and could lead elsewhere; name its target")
    if not file.exists():
        there = ", ".join(sorted(p.name for p in checkpoint.saved(run / "checkpoints"))) or "none"
        raise UserError(f"{file}: no such checkpoint; there are {there}")
    return file


def _run_of(file: Path) -> Path:
    """The folder of the run that a checkpoint belongs to by its place, or the folder that it lies in."""
    folder = file.parent
    if folder.absolute().name != "checkpoints":
        return folder
    return folder.parent if folder.name else Path("..")


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
    """What a checkpoint file holds."""
    from trainkit.checkpoint import inspection

    return inspection.show(*_files(args, "show", 1))


def checkpoint_verify(args: argparse.Namespace) -> int:
    """Whether a checkpoint file is whole, check by check."""
    from trainkit.checkpoint import inspection

    return inspection.verify(*_files(args, "verify", 1))


def checkpoint_diff(args: argparse.Namespace) -> int:
    """What differs between two checkpoint files."""
    from trainkit.checkpoint import inspection

    return inspection.diff(*_files(args, "diff", 2))


def _files(args: argparse.Namespace, verb: str, n: int) -> list[Path]:
    given: list[Path] = [*args.paths, *map(Path, args.overrides)]
    if len(given) != n:
        raise UserError(f"checkpoint {verb}: {len(given)} files; needs {n}, checkpoint {verb}{' logs/mlp/last.pt' * n}")
    return given


def check(args: argparse.Namespace) -> int:
    """All errors of a configuration; shapes; each derivative against central differences; two steps on trial.

    1 if a derivative is wrong.
    """
    from trainkit.app.rehearsal import untouched

    _imports(args)
    with untouched():
        return _check(_composed(args))


def _check(composed: DictConfig) -> int:
    from trainkit.app.rehearsal import begun, rehearse
    from trainkit.nn.gradcheck import TOLERANCE, gradcheck, gradcheck_loss
    from trainkit.nn.layers.container import Container
    from trainkit.nn.tracing import trace

    config = resolve(composed)
    parts = build(config)
    data = parts.data()
    trainer = begun(parts, data)
    x, t = _sample(trainer, 4)
    net = parts.net.to("cpu", torch.float64)
    rows = []
    calls = trace(net, x)
    for call in calls:
        if isinstance(call.module, Container) and type(call.module).__module__.startswith("trainkit."):
            continue  # ours are checked by their parts, and as wholes in the tests
        verdicts = gradcheck(call.module, call.given, elements=64)
        worst = max(verdicts, key=lambda v: v.error)
        rows.append((call.place, worst.name, worst.error))
    y = calls[-1].gave
    rows.append((f"loss.{type(parts.loss).__name__}", "y", gradcheck_loss(parts.loss, y, t).error))
    width = max(len(r[0]) for r in rows)
    for place, name, error in rows:
        print(f"{place:<{width}}  d{name:<8} {error:.1e}  {'ok' if error <= TOLERANCE else 'WRONG'}")
    try:
        print(rehearse(config, to_yaml(composed), data, trainer))
    except signals.Interrupted as stop:
        return signals.exit_code(stop.args[0])
    wrong = [r[0] for r in rows if not r[2] <= TOLERANCE]
    print(f"{len(rows) - len(wrong)} of {len(rows)} derivatives agree with central differences to {TOLERANCE:g}")
    return 1 if wrong else 0


def show(args: argparse.Namespace) -> int:
    """What a configuration amounts to."""
    from trainkit.nn import summary

    _imports(args)
    parts, trainer = _prepared(args)
    terminal.tell(summary.layers(parts.net, _sample(trainer, 1)[0], trainer), summary.outline(parts, trainer))
    return 0


def _prepared(args: argparse.Namespace) -> tuple[Parts, Trainer]:
    """Everything built and shapes checked on the first batch; nothing written."""
    parts = build(resolve(_composed(args)))
    trainer = parts.trainer()
    prepare_to_evaluate(trainer, parts.net, parts.loss, parts.optimizer(parts.net), parts.data(), None)
    return parts, trainer


def _composed(args: argparse.Namespace) -> DictConfig:
    if not args.paths:
        raise UserError("no CONF; name a YAML file, conf/mlp.yaml")
    return compose(args.paths, args.overrides)


def _sample(trainer: Trainer, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first n training samples on the CPU in float64, with the replica axis where there is one."""
    part = trainer.data.train.to(torch.device("cpu"), torch.float64)
    x, t = part.x[:n], part.t[:n]
    return (x.expand(trainer.replicas, *x.shape), t.expand(trainer.replicas, *t.shape)) if trainer.net.lead else (x, t)


def _imports(args: argparse.Namespace) -> None:
    for path in args.imports:
        registry.import_file(path)


def _print_metrics(metrics: dict[str, Any]) -> None:
    for name, value in sorted(metrics.items()):
        if isinstance(value, dict):
            mean, std = (("nan" if v is None else f"{v:.4g}") for v in (value["mean"], value["std"]))
            terminal.tell(f"  {name:<12} {mean} ± {std} over {len(value['values'])}")
        else:
            terminal.tell(f"  {name:<12} {'nan' if value is None else f'{value:.4g}'}")
