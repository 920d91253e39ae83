"""`python -m torture` (`make torture`): every family at its full size, two at a time; `--only kills` runs one family.

`--write` puts each family's table between its marks in docs/reliability.md. Exit code 1 where anything gave.
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
from .tally import MEGABYTES, MOST, SECONDS, Tally

PAGE = ROOT / "docs" / "reliability.md"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--only", choices=FAMILIES, action="append", help="this family alone")
    p.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    args = p.parse_args()
    gave = 0
    chosen = args.only or [*LONGEST, *(name for name in FAMILIES if name not in LONGEST)]
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = {pool.submit(family, name): name for name in chosen}
        for done in as_completed(futures):
            if error := done.exception():
                gave += 1
                print(f"-- {futures[done]} broke off: {error!r}", flush=True)
                continue
            name, tallies, seconds = done.result()
            print(f"-- {name}: {seconds:.0f} s", flush=True)
            for t in tallies:
                gave += len(t.gave)
                print(f"{t.tried:>6}  {t.attack}" + (f": {len(t.gave)} gave, {measured(t)}" if t.tried else ""), flush=True)
                print(*(f"        {line}\n" for line in t.gave[:MOST]), sep="", end="", flush=True)
            if args.write:
                write(name, table(tallies, seconds), PAGE)
    if args.write:
        write("all", total(PAGE.read_text(encoding="utf-8")), PAGE)
    return 1 if gave else 0


def table(tallies: list[Tally], seconds: float) -> str:
    """What was tried, what must hold, how often it was tried, how often it gave."""
    rows, before = [], ""
    for t in filter(lambda t: t.tried, tallies):
        holds, before = "the same" if t.holds == before else t.holds, t.holds
        rows.append(f"| {t.attack} | {holds} | {t.tried:,} | {len(t.gave)} | {measured(t)} |")
    notes = [f"{t.attack}." for t in tallies if not t.tried]
    limit = (
        [f"Above {SECONDS:g} s of CPU time or {MEGABYTES:g} MB an attack counts as giving."]
        if any(t.slowest for t in tallies)
        else []
    )
    head = ["| attack | what must hold | times | gave | longest, largest |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", " ".join([*notes, *limit, f"{seconds:.0f} s in all."])])


def total(page: str) -> str:
    """The sum of the page's tables."""
    rows = [line.split(" | ")[-3:-1] for line in page.splitlines() if re.match(r"\| .* \| [\d,]+ \| \d+ \| ", line)]
    tried, gave = (sum(int(row[i].replace(",", "")) for row in rows) for i in (0, 1))
    minutes = sum(map(int, re.findall(r"(\d+) s in all\.$", page, re.MULTILINE))) / 60
    where = f"torch {version('torch')}, Python {platform.python_version()}, {os.cpu_count()} cores"
    where += f", {platform.system()}"
    return f"{tried:,} attacks, {gave} of which gave, in {minutes:.0f} minutes, two families at once. {where}."


def measured(t: Tally) -> str:
    """The longest and the largest of an attack, where they were looked at."""
    return f"{t.slowest:.1f} s, {t.largest:.0f} MB" if t.slowest else "-"


if __name__ == "__main__":
    sys.exit(main())
