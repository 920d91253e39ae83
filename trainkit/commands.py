"""What each command does, with the words already parsed."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from . import checkpoint, registry, signals, snapshot, streams
from .build import Parts, build, run_folder
from .callback import Callback
from .config import compose, diff, override, parse, resolve, to_yaml
from .data.dataset import Dataset, Part
from .errors import UserError, escaped
from .evaluate import answers
from .evaluate import predict as outputs_of
from .prepare import prepare_to_evaluate
from .rng import seed_globals
from .run import Run, plain_name
from .summary import spread_of
from .trainer import Trainer

NOT_FINITE = 3  # the exit code of a run that terminate_on_nan has ended


def fit(args: argparse.Namespace, more: Mapping[str, Callback] | None = None) -> int:
    """Train from a configuration, from the beginning or from a checkpoint; with `more` callbacks behind the configuration's."""
    _imports(args)
    content, folder = _resumed(args) if args.resume is not None else (None, None)
    if folder is None:
        if not args.paths:
            raise UserError("fit: no CONF; name a YAML file, fit conf/mlp.yaml")
        folder = args.run_dir or run_folder(args.paths[0])
        if Run(folder).taken():
            raise UserError(f"run folder {folder}: holds a run already; continue it, --resume {folder}, or choose another")
    if args.paths:
        composed = compose(args.paths, args.overrides)
    elif (folder / "config.yaml").is_file() or content is None:
        composed = compose([folder / "config.yaml"], args.overrides)
    else:
        composed = _own_config(content, folder, args.overrides)
    config = resolve(composed)
    parts = build(config)
    parts.callbacks.update(more or {})
    trainer = parts.trainer(run_dir=folder, config=to_yaml(composed))
    seed_globals(parts.seed)
    if content is not None:
        _tell_differences(content, config)
        for line in snapshot.differences(trainer, content):
            streams.say(f"resumed under other conditions: {line}; bits may differ")
    assert trainer.run is not None
    data = _data(parts, content)
    optimizer = parts.optimizer(parts.net)
    new = not folder.exists()
    trainer.run.open(new=content is None)
    try:
        summary = trainer.fit(parts.net, parts.loss, optimizer, data, resume=content)
    except BaseException:
        if new and trainer.state.step == 0:
            trainer.run.discard()
        raise
    try:
        print(escaped(f"{summary['stop_words']}, in {summary['wall_s']:.1f} s; {folder}"))
        _print_metrics(summary["metrics"])
        sys.stdout.flush()
    except BrokenPipeError:
        streams.hush(sys.stdout)  # the run is done, be it read or not: the exit code is its own
    if trainer.signal is not None:
        return signals.exit_code(trainer.signal)
    return NOT_FINITE if summary["stop_reason"] == "nan" else 0


def _data(parts: Parts, content: dict[str, Any] | None) -> Dataset:
    """The data, read as the checkpoint's was: the same columns, categories and classes in the same order."""
    schema = content["data"]["schema"] if content is not None else None
    return parts.data(schema=schema) if schema else parts.data()


def _resumed(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The checkpoint to continue from and its run's folder."""
    path = Path(args.resume) if args.resume else args.run_dir or _newest_run(args)
    if not path.exists():
        raise UserError(f"resume: no {path}; name a run's folder or a checkpoint")
    if path.is_dir():
        if not (path / "checkpoints").is_dir():
            raise UserError(f"resume: {path} has no folder checkpoints; name a run's folder or a checkpoint")
        file, content, skipped = checkpoint.newest(path / "checkpoints")
        for line in skipped:
            streams.say(*(f"skipped: {escaped(part)}" for part in line.split("\n")))
        folder = args.run_dir or path
    else:
        file, content = path, checkpoint.load(path)
        folder = args.run_dir or (path.parent.parent if path.parent.name == "checkpoints" else path.parent)
    state = content["state"]
    print(escaped(f"resuming {file}: epoch {state['epoch']}, step {state['step']}"))
    return content, folder


def _newest_run(args: argparse.Namespace) -> Path:
    if not args.paths:
        raise UserError("resume: name a run, --resume logs/mlp/2026-01-31_12-00-00, or a CONF whose newest run to continue")
    folder = Path("logs") / args.paths[0].stem
    runs = folder.glob("*/checkpoints")
    saved = {run: max(file.lstat().st_mtime_ns for file in files) for run in runs if (files := checkpoint.saved(run))}
    if not saved:
        raise UserError(f"resume: no run of {args.paths[0]} with a checkpoint in {folder}; name one, --resume RUN")
    return max(saved, key=lambda p: saved[p]).parent


def _tell_differences(content: dict[str, Any], config: dict[str, Any]) -> None:
    """Print what the configuration says otherwise than the checkpoint's; the configuration wins."""
    if not content["config"]:
        return  # it was trained from Python
    for line in diff(resolve(parse(content["config"], "the checkpoint's configuration")), config):
        print(escaped(f"changed since the checkpoint: {line}"))


def validate(args: argparse.Namespace) -> int:
    """Evaluate on the validation part."""
    return _measure(args, "val")


def test(args: argparse.Namespace) -> int:
    """Evaluate on the test part."""
    return _measure(args, "test")


def _measure(args: argparse.Namespace, name: str) -> int:
    trainer, file = _loaded(args, split=name == "val")
    part: Part | None = getattr(trainer.data, name)
    if part is None:
        cure = "callbacks: {validation_split: {}}" if name == "val" else "data with a test part"
        raise UserError(f"{file}: its data has no {name} part; train with {cure}")
    trainer.measure(name, part)
    print(escaped(f"{file}, {len(part)} samples"))
    _print_metrics({n: spread_of(v) for n, v in trainer.metrics.items()})
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write the outputs and answers for the test part, or for the rows of a CSV file, as CSV."""
    tables = [p for p in args.paths if p.name.endswith((".csv", ".csv.gz"))]
    args.paths = [p for p in args.paths if p not in tables]
    if len(tables) > 1:
        raise UserError(f"{', '.join(map(str, tables))}: one file to predict at a time")
    trainer, file = _loaded_for_table(args, tables[0]) if tables else _loaded(args)
    part, classes, replicas = trainer.data.test, trainer.data.classes, trainer.replicas
    if part is None:
        raise UserError(f"{file}: its data has no test part; name a CSV file to predict")
    y = outputs_of(trainer.net, part.x, 1024, replicas)
    answer = answers(y, trainer.loss, trainer.data, trainer.net.lead) if classes is not None else None
    out = args.out or _run_of(file) / "predictions.csv"
    rows = y.reshape(replicas, len(part), -1).tolist()
    named = None if answer is None else answer.reshape(replicas, -1).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["replica"] if replicas > 1 else []
    writer.writerow([*head, "sample", *(f"y{i}" for i in range(len(rows[0][0]))), *(["answer"] if named else [])])
    for r in range(replicas):
        for i, values in enumerate(rows[r]):
            said = [_class(classes, named[r][i])] if named is not None and classes is not None else []
            writer.writerow([*([r] if head else []), i, *values, *said])
    try:
        checkpoint.write(text.getvalue().encode(), out)
    except UserError as error:
        raise UserError(f"{error}; choose another with --out") from error
    print(escaped(f"{len(part)} samples by {file} -> {out}"))
    return 0


def _class(classes: tuple[str, ...], k: int) -> str:
    """The name of class k; a net may have more outputs than there are names."""
    return classes[k] if k < len(classes) else str(k)


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
    from .data.table import read_rows

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
        train=Part(x, torch.zeros(len(x))), classes=tuple(known["classes"] or ()) or None, threshold=known["threshold"]
    )
    rows = snapshot.normalizer(content, raw).apply(raw.train).to(trainer.device, trainer.dtype)
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
    return file.parent.parent if file.parent.name == "checkpoints" else file.parent


def compare(args: argparse.Namespace) -> int:
    """Train several configurations side by side."""
    from .compare import compare

    _imports(args)
    return compare(args)


def verify_resume(args: argparse.Namespace) -> int:
    """Interrupt and resume a configuration's run, and compare it with the uninterrupted one."""
    from .verify import verify_resume

    return verify_resume(args)


def checkpoint_show(args: argparse.Namespace) -> int:
    """What a checkpoint file holds."""
    from . import contents

    return contents.show(*_files(args, "show", 1))


def checkpoint_verify(args: argparse.Namespace) -> int:
    """Whether a checkpoint file is whole, check by check."""
    from . import contents

    return contents.verify(*_files(args, "verify", 1))


def checkpoint_diff(args: argparse.Namespace) -> int:
    """What differs between two checkpoint files."""
    from . import contents

    return contents.diff(*_files(args, "diff", 2))


def _files(args: argparse.Namespace, verb: str, n: int) -> list[Path]:
    given: list[Path] = [*args.paths, *map(Path, args.overrides)]
    if len(given) != n:
        raise UserError(f"checkpoint {verb}: {len(given)} files; needs {n}, checkpoint {verb}{' logs/mlp/last.pt' * n}")
    return given


def check(args: argparse.Namespace) -> int:
    """All errors of a configuration; shapes; each derivative against central differences; two steps on trial.

    1 if a derivative is wrong.
    """
    from .rehearsal import untouched

    _imports(args)
    with untouched():
        return _check(_composed(args))


def _check(composed: DictConfig) -> int:
    from .differences import TOLERANCE, gradcheck, gradcheck_loss
    from .nn.container import Container
    from .nn.watch import trace
    from .rehearsal import begun, rehearse

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
    from . import report

    _imports(args)
    parts, trainer = _prepared(args)
    print(report.layers(parts.net, _sample(trainer, 1)[0], trainer))
    print(report.outline(parts, trainer))
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
            print(f"  {name:<12} {mean} ± {std} over {len(value['values'])}")
        else:
            print(f"  {name:<12} {'nan' if value is None else f'{value:.4g}'}")
