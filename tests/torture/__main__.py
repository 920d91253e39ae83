"""`python -m torture` (`make torture`): every family at its full size, two at a time; `--only kills` runs one family.

`--write` puts each family's table between its marks in docs/reliability.md. The exit code is 1 if a case failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context

from page import ROOT, write

from .families import FAMILIES, LONGEST, family
from .tally import MAX_PRINTED, MEGABYTES, SECONDS, Tally

PAGE = ROOT / "docs" / "reliability.md"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--only", choices=FAMILIES, action="append", help="run this family alone")
    p.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    args = p.parse_args()
    failures = 0
    chosen = args.only or [*LONGEST, *(name for name in FAMILIES if name not in LONGEST)]
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = {pool.submit(family, name): name for name in chosen}
        for done in as_completed(futures):
            if error := done.exception():
                failures += 1
                print(f"-- {futures[done]} ended early: {error!r}", flush=True)
                continue
            name, tallies, seconds = done.result()
            print(f"-- {name}: {seconds:.0f} s", flush=True)
            for t in tallies:
                failures += len(t.failures)
                print(f"{t.runs:>6}  {t.case}" + (f": {len(t.failures)} failures, {measured(t)}" if t.runs else ""), flush=True)
                print(*(f"        {line}\n" for line in t.failures[:MAX_PRINTED]), sep="", end="", flush=True)
            if args.write:
                write(name, table(tallies, seconds), PAGE)
    if args.write:
        write("all", total(PAGE.read_text(encoding="utf-8")), PAGE)
    return 1 if failures else 0


def table(tallies: list[Tally], seconds: float) -> str:
    """Return a family's table: each case, what is expected, the number of runs and of failures, and the largest cost."""
    rows, before = [], ""
    for t in filter(lambda t: t.runs, tallies):
        expected, before = "the same" if t.expected == before else t.expected, t.expected
        rows.append(f"| {t.case} | {expected} | {t.runs:,} | {len(t.failures)} | {measured(t)} |")
    notes = [f"{t.case}." for t in tallies if not t.runs]
    limit = (
        [f"Above {SECONDS:g} s of CPU time or {MEGABYTES:g} MB a case counts as failed."]
        if any(t.slowest for t in tallies)
        else []
    )
    head = ["| case | expected | runs | failures | longest, largest |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", " ".join([*notes, *limit, f"{seconds:.0f} s in all."])])


def total(page: str) -> str:
    """Return the sum of the page's tables, in one line."""
    rows = [line.split(" | ")[-3:-1] for line in page.splitlines() if re.match(r"\| .* \| [\d,]+ \| \d+ \| ", line)]
    runs, failures = (sum(int(row[i].replace(",", "")) for row in rows) for i in (0, 1))
    minutes = sum(map(int, re.findall(r"(\d+) s in all\.$", page, re.MULTILINE))) / 60
    where = f"torch {version('torch')}, Python {platform.python_version()}, {os.cpu_count()} cores"
    where += f", {platform.system()}"
    return f"{runs:,} runs, of which {failures} failed, in {minutes:.0f} minutes, two families at a time. {where}."


def measured(t: Tally) -> str:
    """Return the longest time and the largest memory of a case, if they were measured."""
    return f"{t.slowest:.1f} s, {t.largest:.0f} MB" if t.slowest else "-"


if __name__ == "__main__":
    sys.exit(main())
