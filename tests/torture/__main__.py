"""`python -m torture` (`make torture`): every family at its full size, two at a time; the table goes into docs/reliability.md.

`--only kills` runs one family and writes nothing. Exit code 1 where anything gave.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context

from page import ROOT, write

from .families import FAMILIES, LONGEST, family
from .tally import MEGABYTES, MOST, SECONDS, Tally

def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--only", choices=FAMILIES, action="append", help="this family alone; nothing is written")
    p.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    args = p.parse_args()
    chosen = args.only or [*LONGEST, *(name for name in FAMILIES if name not in LONGEST)]
    found: dict[str, list[Tally]] = {}
    began = time.monotonic()
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(family, name) for name in chosen]):
            name, found[name], seconds = done.result()
            print(f"-- {name}: {seconds:.0f} s", flush=True)
            for t in found[name]:
                print(f"{t.tried:>6}  {t.attack}: {len(t.gave)} gave; at most {t.slowest:.2f} s, {t.largest:.0f} MB", flush=True)
                print(*(f"        {line}\n" for line in t.gave[:MOST]), sep="", end="", flush=True)
    tallies = [t for name in FAMILIES for t in found.get(name, [])]
    gave = sum(len(t.gave) for t in tallies)
    tried, minutes = sum(t.tried for t in tallies), (time.monotonic() - began) / 60
    text = table(tallies, tried, gave, minutes)
    print(f"\n{text}")
    if args.write and not args.only:
        write("torture", text, ROOT / "docs" / "reliability.md")
    return 1 if gave else 0


def table(tallies: list[Tally], tried: int, gave: int, minutes: float) -> str:
    rows = [f"| {t.attack} | {t.tried:,} | {t.holds} | {len(t.gave)} | {slowest(t)} |" for t in tallies if t.tried]
    left = [f"{t.attack}." for t in tallies if not t.tried]
    note = (
        f"{tried:,} attacks in {minutes:.0f} minutes, {gave} of which gave. A time or memory that is shown was measured, and counts as giving above"
        f" {SECONDS:g} s or {MEGABYTES:g} MB. torch {version('torch')}, Python {platform.python_version()}, {os.cpu_count()} cores,"
        f" {platform.system()} {platform.machine()}."
    )
    head = ["| attack | times | what must hold | gave | at most |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", " ".join([note, *left])])


def slowest(t: Tally) -> str:
    return f"{t.slowest:.1f} s, {t.largest:.0f} MB" if t.largest else f"{t.slowest:.1f} s" if t.slowest else "-"


if __name__ == "__main__":
    sys.exit(main())
