"""What torch's own test inputs drove, printed at the end of a run: a table of counts, and of what was left out and why."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
torch.set_num_threads(1)  # nets this small only lose by more, and the workers of xdist share the cores
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; the tests and their children need it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take long, or one worker would still run them when the others have nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What has been imported is not searched again by each garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled libraries are kept for these tests alone, by all processes of xdist together."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture
def witness(record_property: Any) -> Any:
    """`witness(name, run, skipped)`: a row of the table. It travels with the test's report, from xdist's workers too."""
    return lambda name, run, skipped: record_property("witness", [name, run, dict(skipped)])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows: dict[str, tuple[int, Counter[str]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if key == "witness":
                    name, run, skipped = value
                    before, reasons = rows.get(name, (0, Counter()))
                    rows[name] = (before + run, reasons + Counter(skipped))
    if not rows:
        return
    terminalreporter.write_sep("-", "torch's inputs: run, and skipped by reason")
    for name in sorted(rows):
        run, reasons = rows[name]
        terminalreporter.write_line(f"{name:<34}{run:>5}   {'; '.join(f'{n} {why}' for why, n in sorted(reasons.items()))}")
    total = sum(run for run, _ in rows.values())
    terminalreporter.write_line(f"{'all':<34}{total:>5}   {sum(sum(r.values()) for _, r in rows.values())} skipped")
