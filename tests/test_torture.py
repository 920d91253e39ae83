"""`make torture` in small: every family of attacks with a few of its shots, the seeds fixed. What gives is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torture import (
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
    poison,
    readonly,
    refusals,
    resume,
    scores,
    tables,
    terminals,
)
from torture.tally import Tally, TooLong, watched

FEW: dict[str, Callable[[Path], list[Tally]]] = {
    "a failing call": lambda folder: crash.sweep(folder, 37, crash.MODES[:2]),
    "a kill at a call": lambda folder: crash.sweep(folder, 37, crash.MODES[2:]),
    "kills": lambda folder: kills.kills(folder, 5, per_run=5),
    "resumes": lambda folder: resume.trials(folder, ["tests/torture/resume.yaml"], ["eager"], 1, ["step", "save"]),
    "native steps": lambda folder: native.parity(folder, 1, 40, 72),
    "a limit": lambda folder: full.limits(folder, 2),
    "a full device": lambda folder: full.devices(folder, 4),
    "damage": lambda folder: flips.damage(folder, 60, 20, 20),
    "code": lambda folder: poison.code(folder, 0.005),
    "values": lambda folder: poison.values(folder, 0.004),
    "bombs": lambda folder: poison.bombs(folder, 5),
    "forged lists": lambda folder: forged.forgeries(folder, 12),
    "layouts": lambda folder: folders.layouts(folder, 17),
    "names": lambda folder: folders.names(folder, 7),
    "other models": lambda folder: folders.others(folder, 9),
    "refused resumes": lambda folder: refusals.resumes(folder, 12),
    "files of the user's": lambda folder: refusals.users(folder, 20),
    "poison": lambda folder: configs.poison(folder, 60),
    "mutations": lambda folder: configs.fuzz(folder, 60),
    "checks": lambda folder: checks.checks(folder, 12),
    "metrics": lambda folder: scores.scores(folder, 12),
    "a long run": lambda folder: load.long(folder, 20_000),
    "a second trainer": lambda folder: load.shared(folder, 6),
    "clocks": lambda folder: load.clocks(folder, 8),
    "a folder turns read-only": lambda folder: readonly.midway(folder, 7),
    "streams": lambda folder: terminals.streams(folder, 140),
    "terminals": lambda folder: terminals.columns(folder, (1, 20)),
    "tables": lambda folder: tables.files(folder, 9),
    "rare classes": lambda folder: tables.classes(folder, 11),
    "a large table": lambda folder: tables.large(folder, 100_000),
    "one signal": lambda folder: interrupts.once(folder, 281),
    "two signals": lambda folder: interrupts.twice(folder, 601),
    "signals in a rewind": lambda folder: interrupts.rewinding(folder, 31),
}


@pytest.mark.parametrize("family", FEW)
def test_nothing_gives(family: str, tmp_path: Path) -> None:
    for tally in FEW[family](tmp_path):
        assert tally.failures == [], tally.case
        assert tally.runs


def test_a_wait_is_no_work() -> None:
    with watched() as took:
        time.sleep(0.5)
    assert took[0] < 0.4


def test_work_is_measured() -> None:
    with watched() as took:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass
    assert took[0] >= 0.3


@pytest.mark.parametrize("hang", [lambda: time.sleep(60), lambda: all(True for _ in iter(int, 1))], ids=["waiting", "working"])
def test_what_does_not_come_back_is_given_up(hang: Callable[[], object]) -> None:
    with pytest.raises(TooLong), watched(0.2):
        hang()
