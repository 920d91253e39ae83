"""Checkpoints with forged lists and numbers and valid checksums: they list the user's files, repeated names, any step."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from .poison import LAST, fire, parts, prepare, put, stored
from .tally import Tally, inside, shot

OURS = {"last.pt", "best.pt", "final.pt", "epoch1-step4.pt", "epoch2-step8.pt"}  # the run's own: two epochs of four steps
LONE = Path("theirs.pt")
USERS = ("notes.txt", "other.pt", "epoch5-step20.pt", "epoch9-step36.pt", "last.pt.bak", "x.pt")
SAVER = ("callbacks", "checkpoint")
NAMES = [
    *USERS, "last.pt", "best.pt", "final.pt", "epoch1-step4.pt", "epoch2-step8.pt", "link.pt", "config.yaml", "../config.yaml",
    "../../conf.yaml", "../../outside.pt", "epoch1-step4-step4.pt", "epoch01-step4.pt", "epoch1-step4.pt.pt",
    "epoch\u0663-step4.pt", "epoch1-step4.pt\n", "-x.pt", ".lock", "", "a" * 250 + ".pt", "\x1b]0;x\x07.pt",
]  # fmt: skip
NUMBERS: list[Any] = [
    -1, 0, 1, 4, 8, 20, 2**31, 2**53 - 1, 2**53, 2**63 - 1, -(2**63), 0.0, -0.0, 5e-324, -1e308, 1e308, float("nan"),
    float("inf"), float("-inf"), True, None, "3", [],
]  # fmt: skip
HARMLESS = "exit 0 or 2, no traceback; no file but the run's own is changed or deleted; at most 2 s of CPU time and 200 MB"


def forgeries(folder: Path, count: int, seed: int = 0) -> list[Tally]:
    """`count` mutations, each as the last.pt of a run and as a single file that is resumed into a new folder."""
    run = Tally("last.pt with forged lists and numbers and a valid checksum, resumed among the user's files", HARMLESS)
    lone = Tally("the same as a single file, resumed into a new folder", HARMLESS)
    draw = random.Random(seed)
    with inside(folder), patch.object(os, "fsync", lambda handle: None):  # thousands of runs
        content = prepare()
        users_files()
        for i in range(count):
            name, forged = mutation(content, draw)
            body = stored(forged)
            fresh()
            LAST.write_bytes(body)
            before = tree()
            fire(run, f"{i}: {name}", ("fit", "--resume", "run", "trainer.max_epochs=3"), codes=(0, 2))
            check(run, f"{i}: {name}", before)
            shutil.rmtree("new", ignore_errors=True)
            LONE.write_bytes(body)
            before = tree()
            fire(lone, f"{i}: {name}", ("fit", "--resume", LONE, "--run-dir", "new", "trainer.max_epochs=3"), codes=(0, 2))
            check(lone, f"{i}: {name}", before, own="new/")
    return [run, lone]


def users_files() -> None:
    """Add notes, links, and checkpoints of another run, one with a name that this run's template makes."""
    shutil.rmtree("theirs", ignore_errors=True)
    made = shot(
        "fit", "conf.yaml", "--run-dir", "theirs", "seed=5", "callbacks.checkpoint.save_top_k=9", "trainer.max_epochs=5"
    )
    assert made.code == 0, made.err
    theirs = Path("theirs/checkpoints/epoch5-step20.pt")  # a name that the run's template makes too
    folder = Path("made/checkpoints")
    for name in USERS:
        if not (folder / name).exists():
            shutil.copy(theirs, folder / name) if name.endswith(".pt") else (folder / name).write_text("mine")
    Path("outside.pt").write_text("mine")
    (folder / "link.pt").symlink_to(Path("outside.pt").resolve())


def fresh() -> None:
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree("made", "run", symlinks=True)


def tree() -> dict[str, Any]:
    """Return the content of every file and link, other than those of new runs."""
    return {
        str(p): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for top in ("run", "made", "outside.pt", "conf.yaml", str(LONE))
        for p in ([Path(top)] if Path(top).is_file() else sorted(Path(top).rglob("*")))
        if p.is_symlink() or p.is_file()
    }


def check(tally: Tally, name: str, before: dict[str, Any], own: str = "run/") -> None:
    """Count a failure if a file that is not the run's own has changed."""
    after = tree()
    changed = [p for p in before if after.get(p) != before[p] and not (p.startswith(own) and is_ours(p))]
    if changed:
        tally.failures.append(f"{name}: changed or deleted: {sorted(changed)}")


def is_ours(path: str) -> bool:
    """Return whether the run may replace or delete it: its logs, and its own checkpoints."""
    if "/checkpoints/" not in path:
        return True
    return path.rsplit("/", 1)[-1] in OURS


# -- what is forged --------------------------------------------------------------------------------------------------------


def mutation(content: dict[str, Any], draw: random.Random) -> tuple[str, dict[str, Any]]:
    """Forge one to three places of a checkpoint; return what was done, and the content."""
    words = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        name = draw.choice(list(FORGE))
        with suppress(AttributeError, KeyError, TypeError):  # an earlier one has removed this place
            content = FORGE[name](content, draw)
            words.append(name)
    return ", ".join(words), content


def entry(draw: random.Random) -> list[Any]:
    score = draw.choice((-1e308, -1.0, 0.0, 0.1, 9.0, 1e308, *NUMBERS) if draw.random() < 0.3 else (-1.0, 0.1, 9.0))
    step = draw.choice(NUMBERS if draw.random() < 0.3 else [0, 4, 8, 20])
    return [score, draw.choice(NAMES), step]


def lists(key: str) -> Callable[[dict[str, Any], random.Random], dict[str, Any]]:
    """Return a forger of a list: a short one of any names, or a long one of few names or of names that the template makes."""

    def forge(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
        kind = draw.randrange(6)
        if kind < 3:
            value: list[Any] = [entry(draw) for _ in range(draw.randrange(1, 6))]
        elif kind == 3:
            value = [[0.5 + i, draw.choice(NAMES[:12]), 4] for i in range(draw.choice((100, 20_000)))]
        elif kind == 4:
            value = [[float(i), f"epoch{i}-step{4 * i}.pt", 4 * i] for i in range(draw.choice((100, 20_000)))]
        else:
            value = draw.choice([[draw.choice(NAMES)], [[0.5, draw.choice(NAMES)]] * 3, [None] * 50_000, {"a": 1}, "x" * 1000])
        return put(content, (*SAVER, key), value)

    return forge


def honest(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Change a score or a step in the run's own list, or move it from one list to the other."""
    kept = [list(e) for e in content["callbacks"]["checkpoint"]["kept"] if len(e) == 3]
    if not kept:
        return content
    draw.choice(kept)[draw.choice((0, 2))] = draw.choice(NUMBERS)
    return put(put(content, (*SAVER, "kept"), []), (*SAVER, draw.choice(("kept", "gone"))), kept)


def foreign(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """List the user's file of another run by its name and step, with a score that makes it the first to be deleted."""
    content = put(content, ("state", "step"), draw.choice((8, 20, 10**6)))
    return put(
        content,
        (*SAVER, draw.choice(("kept", "gone"))),
        [[draw.choice((9e9, -9e9, 0.5)), "epoch5-step20.pt", draw.choice((4, 20))]],
    )


def numbers(*place: str) -> Callable[[dict[str, Any], random.Random], dict[str, Any]]:
    """Return a forger that replaces one number below `place` by an odd one."""

    def forge(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
        below: Any = content
        for key in place:
            below = below.get(key, {})
        found = [p for p in parts(below) if p]
        return put(content, (*place, *draw.choice(found)), draw.choice(NUMBERS)) if found else content

    return forge


def longer(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Make any list long, or repeat it."""
    found = [p for p in parts(content) if isinstance(at(content, p), list)]
    place = draw.choice(found)
    value = at(content, place)
    return put(content, place, (value or [0.0]) * draw.choice((2, 1000, 50_000 // max(1, len(value)))))


def at(content: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        content = content[key]
    return content


FORGE: dict[str, Callable[[dict[str, Any], random.Random], dict[str, Any]]] = {
    "kept": lists("kept"),
    "gone": lists("gone"),
    "its own list": honest,
    "a file of another run": foreign,
    "checkpoint": numbers("callbacks", "checkpoint"),
    "counters": numbers("state"),
    "early stopping": numbers("callbacks", "early_stopping"),
    "csv_logger": numbers("callbacks", "csv_logger"),
    "a schedule": numbers("callbacks", "lr_scheduler"),
    "callbacks": numbers("callbacks"),
    "metrics": numbers("metrics"),
    "data": numbers("data"),
    "a long list": longer,
}
