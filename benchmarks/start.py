"""What a process costs before and beside its steps: `python benchmarks/start.py`

Whole processes in turn, on one thread: importing torch, `trainkit --help`, a fit of conf/mlp.yaml with no step and with all,
and the same net in Lightning. `--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from page import write

ROOT = Path(__file__).parents[1]
FIT = ["-m", "trainkit", "fit", "conf/mlp.yaml", "callbacks.early_stopping=null"]
LIGHTNING = "import sys; sys.path.insert(0, 'benchmarks'); import peers; peers.lightning_full(100)"


def seconds(arguments: list[str], folder: str) -> float:
    """A whole process of this Python, from the top of the repository."""
    if "fit" in arguments:
        arguments = [*arguments, "--run-dir", tempfile.mkdtemp(dir=folder) + "/run"]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return time.perf_counter() - began


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--write", action="store_true")
    args = p.parse_args()
    chosen = {
        'python -c "import torch"': ["-c", "import torch"],
        "python -m trainkit --help": ["-m", "trainkit", "--help"],
        "trainkit fit conf/mlp.yaml, no step": [*FIT, "trainer.max_epochs=0"],
        "trainkit fit conf/mlp.yaml, 1800 steps": FIT,
    }
    if find_spec("lightning") is not None:
        chosen["Lightning, the same net and 1800 steps"] = ["-c", LIGHTNING]
    else:
        print("skipped: lightning is not installed (pip install -e '.[bench]')", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        for r in range(args.rounds + 1):
            for name, arguments in chosen.items():
                took = seconds(arguments, folder)
                if r:  # the first round fills the disk's cache
                    times[name].append(took)
    base = next(iter(times.values()))
    lines = ["| process | seconds, median (min to max) | ratio to importing torch |", "|---|---|---|"]
    for name, values in times.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        lines.append(f"| {name} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) | {ratio:.2f} |")
    text = "\n".join([*lines, "", f"{args.rounds} rounds in turn, one thread."])
    print(text)
    if args.write:
        write("start", text)


if __name__ == "__main__":
    main()
