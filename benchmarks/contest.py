"""Contenders in turn, round by round, since the speed of a shared machine drifts; and the tables of their results.

Each contender has its own process, since threads and Keras's backend are settings of a process.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from page import PAGE, write
from task import Result, Task


@dataclass(frozen=True)
class Contender:
    """A row of a table, and the function that is timed.

    name: of the row, with {} for the version of `package`. function: "module:name" in peers/, called with a task, epochs and
    options. share: of the epochs; slow contenders run fewer.
    """

    name: str
    function: str
    package: str = "torch"
    share: float = 1.0
    env: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def load(self) -> None:
        import_module(f"peers.{self.function.partition(':')[0]}")

    def __call__(self, task: Task, epochs: int) -> Result:
        module, _, name = self.function.partition(":")
        return getattr(import_module(f"peers.{module}"), name)(task, max(1, round(epochs * self.share)), **self.options)


KERAS = {name: {"KERAS_BACKEND": name} for name in ("torch", "jax")}


def missing(package: str, name: str) -> bool:
    """Return whether a package is not installed, and print it."""
    if find_spec({"scikit-learn": "sklearn"}.get(package, package)) is not None:
        return False
    print(f"skipped, {package} is not installed: {name}", file=sys.stderr)
    return True


def installed(contenders: Iterable[Contender]) -> dict[str, Contender]:
    """Return the contenders by name, without those whose package is not installed."""
    return {c.name.format(version(c.package)): c for c in contenders if not missing(c.package, c.name)}


def silence() -> None:
    """Send the output of this process to /dev/null."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


@contextmanager
def process(env: dict[str, str], threads: int) -> Iterator[Callable[..., Any]]:
    """Start a new silent process; return a function that calls another one there."""
    one = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"} if threads == 1 else {}
    with patch.dict(os.environ, {"OMP_NUM_THREADS": str(threads), **one, **env}):
        pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=silence)
        pool.submit(int)  # starts the process, with this environment
    with pool:
        yield lambda f, *args: pool.submit(f, *args).result()


def contest(chosen: dict[str, Contender], task: Task, epochs: int, rounds: int, threads: int, warm: Task) -> list[list[Result]]:
    """Return the results of each contender, round by round.

    Each first trains two epochs of `warm`, so that code is compiled before the measurement.
    """
    results: list[list[Result]] = [[] for _ in chosen]
    with ExitStack() as stack:
        calls = [stack.enter_context(process(c.env, threads)) for c in chosen.values()]
        for call, (name, c) in zip(calls, chosen.items(), strict=True):
            print(f"  {name}", file=sys.stderr)
            call(c, warm, 2)
        for _ in range(rounds):
            for call, c, own in zip(calls, chosen.values(), results, strict=True):
                own.append(call(c, task, epochs))
    return results


def alone(c: Contender, threads: int, function: Callable[..., Any], *args: Any) -> Any:
    """Return function(c, *args), called in a new process that has loaded the contender's module."""
    with process(c.env, threads) as call:
        call(c.load)
        return call(function, c, *args)


# -- tables ----------------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return `median (min to max)`."""
    median, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return f"{median} ({low} to {high})"


def ratio(values: Sequence[float], base: Sequence[float], digits: int = 2) -> str:
    """Return the median of the ratios to the base of the same round."""
    return f"{statistics.median(v / b for v, b in zip(values, base, strict=True)):.{digits}f}"


def show(section: str, header: Sequence[str], rows: Iterable[Sequence[str]], note: str, page: Path | None) -> None:
    """Print a table, and write it into its section of `page`."""
    lines = ["| " + " | ".join(line) + " |" for line in (header, *rows)]
    lines.insert(1, "|---" * len(header) + "|")
    text = "\n".join([*lines, "", note])
    print(text, end="\n\n")
    if page is not None:
        write(section, text, page)


def environment(threads: int) -> str:
    """Return dtype, device, threads, versions and cores as a sentence."""
    words = f"float32, CPU, {threads} thread{'s' * (threads > 1)}. torch {version('torch')}, Python {platform.python_version()}"
    return f"{words}, {os.cpu_count()} cores, {platform.machine()}."


def options(doc: str | None, rounds: int) -> tuple[int, Path | None]:
    """Return the number of rounds and the page to write, from the command line."""
    p = argparse.ArgumentParser(description=doc)
    p.add_argument("--rounds", type=int, default=rounds)
    p.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    args = p.parse_args()
    return args.rounds, PAGE if args.write else None
