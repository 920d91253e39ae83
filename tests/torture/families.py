"""The families of cases at their full size."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import torch

from . import (
    checks,
    configs,
    crash,
    flips,
    folders,
    forged,
    full,
    interrupts,
    kills,
    load,
    native,
    notebook,
    poison,
    readonly,
    refusals,
    resume,
    scores,
    shapes,
    tables,
    terminals,
)
from .tally import Tally

FAMILIES: dict[str, Callable[[Path], list[Tally]]] = {  # in the order of the page
    "crash": crash.sweep,
    "kills": lambda folder: kills.kills(folder, 200),
    "resume": lambda folder: [*resume.trials(folder / "a"), *resume.beside(folder / "b")],
    "native": lambda folder: native.parity(folder, 100, 1000),
    "shapes": lambda folder: shapes.shapes(folder, 470, 120),
    "full": lambda folder: [*full.limits(folder / "a", 60), *full.devices(folder / "b"), *full.mounts(folder / "c", 20)],
    "flips": lambda folder: flips.damage(folder, 2000, 500, 500),
    "code": poison.code,
    "values": poison.values,
    "bombs": poison.bombs,
    "forged": lambda folder: forged.forgeries(folder, 2000),
    "folders": lambda folder: [*folders.layouts(folder / "a"), *folders.names(folder / "b"), *folders.others(folder / "c")],
    "refusals": lambda folder: [*refusals.resumes(folder / "a", 100), *refusals.users(folder / "b", 103)],
    "configs": configs.poison,
    "fuzz": lambda folder: configs.fuzz(folder, 2000),
    "checks": lambda folder: checks.checks(folder, 200),
    "metrics": lambda folder: scores.scores(folder, 1000),
    "load": lambda folder: [
        *load.long(folder / "a"),
        *load.shared(folder / "b"),
        *load.clocks(folder / "c"),
        *readonly.mounted(folder / "d"),
        *readonly.midway(folder / "e"),
        *terminals.streams(folder / "f"),
        *terminals.columns(folder / "g"),
        *tables.files(folder / "h"),
        *tables.classes(folder / "i"),
        *tables.large(folder / "j"),
    ],
    "signals": lambda folder: [
        *interrupts.once(folder / "a", 2),
        *interrupts.twice(folder / "b", 4),
        *interrupts.rewinding(folder / "c", 2),
        *interrupts.compiling(folder / "d"),
        *interrupts.anywhen(folder / "e", 100, 20),
        *notebook.notebook(folder / "f"),
    ],
}
LONGEST = (  # these begin first
    "metrics",
    "native",
    "shapes",
    "forged",
    "load",
    "signals",
    "resume",
    "configs",
    "values",
    "kills",
    "crash",
    "fuzz",
)


def family(name: str) -> tuple[str, list[Tally], float]:
    """Run a family in a new folder; return its name, its tallies and its seconds. The folder remains if a case failed."""
    torch.set_num_threads(1)
    folder, began = Path(mkdtemp(prefix=f"torture-{name}-")), time.monotonic()
    tallies = FAMILIES[name](folder)
    if not any(t.failures for t in tallies):
        rmtree(folder, ignore_errors=True)
    return name, tallies, time.monotonic() - began
