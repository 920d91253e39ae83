"""Foreign run folders: links, devices, folders in place of files; names that lead elsewhere; other models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from unittest.mock import patch

from trainkit.checkpoint import file as checkpoint

from .poison import CONF, HARMLESS, LAST, fire, fresh, prepare, stored
from .tally import Tally, inside, shot

PRECIOUS = Path("precious")


def check_precious(tally: Tally, name: str) -> None:
    """Count a failure if a file outside the run has changed."""
    held = {p.name: p.read_bytes() if p.is_file() else None for p in PRECIOUS.iterdir()} if PRECIOUS.is_dir() else {}
    if held != {"keep": b"keep", "model.pt": Path("made/checkpoints/last.pt").read_bytes()}:
        tally.failures.append(f"{name}: a file outside the run was changed: {sorted(held)}")


def guard() -> None:
    shutil.rmtree(PRECIOUS, ignore_errors=True)
    PRECIOUS.mkdir()
    (PRECIOUS / "keep").write_bytes(b"keep")
    shutil.copy("made/checkpoints/last.pt", PRECIOUS / "model.pt")


def link(name: str, target: str) -> Callable[[], None]:
    def make() -> None:
        path = Path("run", name)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.symlink_to(target if target.startswith("/") else Path(target).resolve())

    return make


def folder_for(name: str) -> Callable[[], None]:
    def make() -> None:
        Path("run", name).unlink(missing_ok=True)
        Path("run", name).mkdir()
        Path("run", name, "x").write_text("x")

    return make


def pipe_for(name: str) -> Callable[[], None]:
    def make() -> None:
        Path("run", name).unlink(missing_ok=True)
        os.mkfifo(Path("run", name))

    return make


FILES = ("checkpoints/last.pt", "checkpoints/best.pt", "checkpoints/final.pt", "config.yaml", "summary.json", ".trainkit-run")
TEMPORARIES = ("checkpoints/.tmp-1-last.pt", ".tmp-1-config.yaml", f"checkpoints/.tmp-{os.getpid()}-last.pt")
LAYOUTS: dict[str, Callable[[], None]] = {
    **{f"{n} a link to a file": link(n, "precious/keep") for n in (*FILES, *TEMPORARIES)},
    **{f"{n} a link to a checkpoint": link(n, "precious/model.pt") for n in FILES[:3]},
    **{f"{n} a link to itself": link(n, f"run/{n}") for n in (*FILES, *TEMPORARIES)},
    **{f"{n} a link to nothing": link(n, "precious/new") for n in (*FILES, *TEMPORARIES)},
    **{f"{n} a link to a folder": link(n, "precious") for n in (*FILES, *TEMPORARIES, "checkpoints")},
    **{f"{n} a link to /dev/zero": link(n, "/dev/zero") for n in (*FILES, *TEMPORARIES)},
    **{f"{n} a folder": folder_for(n) for n in (*FILES, *TEMPORARIES)},
    **{f"{n} a pipe": pipe_for(n) for n in (*FILES[:5], *TEMPORARIES)},
}


def layouts(folder: Path, every: int = 1) -> list[Tally]:
    tally = Tally(
        "links, devices, pipes and folders among the files of a run", f"{HARMLESS}; no file outside the run is changed"
    )
    with inside(folder):
        prepare()
        for name, make in list(LAYOUTS.items())[::every]:
            for words in (
                ("fit", "--resume", "run", "trainer.max_epochs=3"),
                ("test", "run"),
                ("fit", "conf.yaml", "--resume"),
            ):
                fresh()
                guard()
                shutil.rmtree("logs", ignore_errors=True)
                make()
                if words[-1] == "--resume":  # the newest run of conf.yaml
                    Path("logs/conf").mkdir(parents=True)
                    Path("run").rename("logs/conf/run")
                fire(tally, name, words, codes=(0, 2))
                check_precious(tally, name)
    return [tally]


TEMPLATES = [
    "../x", "/tmp/x", "a/b", "..", ".", "", "-x", ".x", "a\\b", "a\0b", "{epoch}/../../x", "{val/loss}/x",
    "{epoch.__class__}", "{epoch!r}", "{epoch:99999d}", "{epoch:{step}}", "{0}", "{}", "{", "}", "{nothing}",
    "{epoch.__init__.__globals__}", "last", "best", "final", "x" * 300, "{val/loss:.99f}" * 9, "\x1b]0;x\x07", "é" * 130,
    "{val/loss:s}", "{epoch:c}", "~/x", "$HOME", "%s", "a\nb", "nul", "x.pt/../y", "{epoch[0]}", "{__import__('os')}",
]  # fmt: skip
RUN_DIRS = [
    "/dev/null/x", "/proc/x", "/dev/full", "x" * 300, "a/" * 3000, "conf.yaml", "conf.yaml/x", "-x", "~x", "a\nb", "\x1b[2J",
    "a\0b", "\udcff", "é", "with space", "$HOME", "${oc.env:HOME}", ".", "", "precious/keep", "link", "*", "[", "a=b",
]  # fmt: skip


def names(folder: Path, every: int = 1) -> list[Tally]:
    templates = Tally("names for checkpoints: paths, attributes, templates", HARMLESS)
    runs = Tally("names for a run's folder", HARMLESS)
    with inside(folder):
        content = prepare()
        guard()
        before = tree()
        for name in TEMPLATES[::every]:
            shutil.rmtree("new", ignore_errors=True)
            text = CONF.replace("every_n_epochs: 1", f"every_n_epochs: 1, filename: {quoted(name)}")
            Path("named.yaml").write_text(text, encoding="utf-8")
            fire(templates, repr(name), ("fit", "named.yaml", "--run-dir", "new"), codes=(0, 2))
            for where in ("kept", "gone"):
                fresh()
                own = {**content["callbacks"]["checkpoint"], where: [name] if where == "gone" else [[9.0, name], [9.5, name]]}
                LAST.write_bytes(stored({**content, "callbacks": {**content["callbacks"], "checkpoint": own}}))
                fire(templates, f"{where} {name!r}", ("fit", "--resume", "run", "trainer.max_epochs=3"), codes=(0, 2))
            fresh()
            fire(templates, f"--checkpoint {name!r}", ("test", "run", f"--checkpoint={name}"), codes=(0, 2))
        shutil.rmtree("new", ignore_errors=True)
        if (after := tree()) != before:
            templates.failures.append(f"files appeared or vanished: {sorted(after ^ before)}")
        Path("link").unlink(missing_ok=True)
        Path("link").symlink_to("precious")
        for name in RUN_DIRS[::every]:
            with inside(Path("elsewhere")):
                shutil.copy("../conf.yaml", "conf.yaml")
                fire(runs, repr(name[:40]), ("fit", "conf.yaml", f"--run-dir={name}"), codes=(0, 2))
            shutil.rmtree("elsewhere")
        check_precious(runs, "run folders")
    return [templates, runs]


def tree() -> set[str]:
    """Return the paths beside the run."""
    skip = ("run", "named.yaml", "new")
    return {str(p) for p in Path().rglob("*") if p.parts[0] not in skip}


def quoted(text: str) -> str:
    """Return a YAML text in double quotes."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


NETS = {
    "the net": ("", ""),
    "wider": ("[2, 4]}, ReLU, {Dropout: 0.1}, {Linear: [4, 2]}", "[2, 5]}, ReLU, {Dropout: 0.1}, {Linear: [5, 2]}"),
    "deeper": ("ReLU, {Dropout: 0.1},", "ReLU, {Linear: [4, 4]}, {Dropout: 0.1},"),
    "no bias": ("{Linear: [4, 2]}", "{Linear: {in_features: 4, out_features: 2, bias: false}}"),
    "two replicas": ("{max_epochs: 2,", "{max_epochs: 2, replicas: 2,"),
    "Adam": ("{SGD: {lr: 0.1, momentum: 0.9}}", "{Adam: {lr: 0.1}}"),
    "one output": ("{Linear: [4, 2]}]\nloss: CrossEntropyLoss", "{Linear: [4, 1]}]\nloss: BCEWithLogitsLoss"),
    "more samples": ("train: 40", "train: 60"),
    "another split": ("validation_split: {}", "validation_split: {fraction: 0.5}"),
}


def others(folder: Path, every: int = 1) -> list[Tally]:
    """Resume each run with the configuration of another."""
    tally = Tally("the checkpoint of another model, optimizer or data", f"{HARMLESS}; a refused one leaves the run unchanged")
    with inside(folder), patch.object(os, "fsync", lambda handle: None):
        prepare()
        for name, (old, new) in NETS.items():
            assert old in CONF, name
            text = CONF.replace(old, new) if old else CONF
            text = text.replace("test: 10", "test: 10, targets: binary") if name == "one output" else text
            Path(f"{name}.yaml").write_text(text)
            made = shot("fit", f"{name}.yaml", "--run-dir", name)
            assert made.code == 0, made.err
        for a, b in list(permutations(NETS, 2))[::every]:
            shutil.rmtree("run")
            shutil.copytree(a, "run")
            before = {p: p.read_bytes() for p in Path("run/checkpoints").iterdir()}
            seen = shot("fit", f"{b}.yaml", "--resume", "run")
            wrong = seen.wrong(0, 2)
            if seen.code == 2 and {p: p.read_bytes() for p in Path("run/checkpoints").iterdir()} != before:
                wrong = "the run was changed"
            if (
                seen.code == 0
                and checkpoint.load(LAST)["model"].keys() != checkpoint.load(Path(b, *LAST.parts[1:]))["model"].keys()
            ):
                wrong = "continued with another model"
            tally.count(f"{a} as {b}: {wrong}" if wrong else tally.measure(seen.seconds, seen.megabytes))
    return [tally]
