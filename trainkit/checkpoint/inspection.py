"""Show a checkpoint file, check that it is undamaged, and compare two.

A file may come from an untrusted source: only `checkpoint.load` reads it, its texts are escaped, and the output is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from trainkit.checkpoint import file as checkpoint
from trainkit.core.diff import NUMBERS, by_size, differences
from trainkit.core.errors import MAX_NAMES, UserError, escape_control
from trainkit.core.text_table import text_table
from trainkit.core.validation import short_repr

from .digest import digest

MAX_DIFFERENCES = 10  # listed per entry of the checkpoint


def show(path: Path, configuration: Callable[[str], str]) -> int:
    """Print what a checkpoint holds. configuration: summarizes the text of its configuration in one line."""
    content = checkpoint.load(path)
    state, data, environment = content["state"], content["data"], content["environment"]
    model = content["model"]
    print_line(f"{path}: format {content['format']}, {path.stat().st_size:,} bytes")
    print_line(
        f"position: epoch {state['epoch']}, step {state['step']}, batch {state['batch']}, replicas {len(state['active'])}"
    )
    print_line(f"configuration: {configuration(content['config'])}")
    classes = "none" if data["classes"] is None else str(len(data["classes"]))
    print_line(f"data: {data['train']} training samples, {data['batch']} per step, classes: {classes}")
    print_line(f"parameters: {sum(p.numel() for p in model.values()):,} numbers, sha256 {digest(model.items())}")
    rows((name, tensor_summary(p)) for name, p in model.items())
    slots = {k: v for k, v in content["optimizer"].items() if k != "t"}
    print_line(f"optimizer: after {short_repr(content['optimizer'].get('t'))} steps, slots:{'' if slots else ' none'}")
    rows((name, tensor_summary(v)) for name, v in slots.items())
    print_line(f"callbacks:{'' if content['callbacks'] else ' none'}")
    rows(
        (name, ", ".join(f"{short_repr(k, '')} {value_summary(v)}" for k, v in s.items()))
        for name, s in content["callbacks"].items()
    )
    print_line(f"metrics:{'' if content['metrics'] else ' none'}")
    rows((name, value_summary(values)) for name, values in content["metrics"].items())
    versions = ", ".join(f"{short_repr(k, '')} {short_repr(v, '')}" for k, v in environment["versions"].items())
    where = ", ".join(f"{k} {short_repr(v, '')}" for k, v in environment.items() if k != "versions")
    print_line(f"written with {versions}; {where}")
    return 0


def verify(path: Path) -> int:
    """Print the result of each check of `checkpoint.load`. Return 0, or 1 if a check fails, after printing the reason."""
    remaining = list(checkpoint.CHECKS)

    def passed() -> None:
        print_line(f"ok         {remaining.pop(0)}")

    try:
        checkpoint.load(path, passed)
    except UserError as error:
        if len(remaining) == len(checkpoint.CHECKS):
            raise  # no file could be read
        print_line(f"FAILED     {remaining.pop(0)}")
        for check in remaining:
            print_line(f"not run    {check}")
        for line in str(error).split("\n"):
            print_line(line, most=1000)
        return 1
    print_line(f"{path}: valid")
    return 0


def diff(a: Path, b: Path) -> int:
    """Print the differences of two checkpoints, entry by entry, the largest first. Return 1 if there are any, else 0."""
    x, y = checkpoint.load(a), checkpoint.load(b)
    differ = 0
    for key in dict.fromkeys([*x, *y]):
        try:
            found = by_size(differences({key: x.get(key)}, {key: y.get(key)}))
        except RecursionError:
            raise UserError(f"{key}: nested too deep to compare") from None
        if found:
            print_line(f"{key}: {len(found)} difference{'s' * (len(found) > 1)}")
        for difference in found[:MAX_DIFFERENCES]:
            print_line(f"  {difference.place}: {difference.words}")
        if len(found) > MAX_DIFFERENCES:
            print_line(f"  and {len(found) - MAX_DIFFERENCES} more")
        differ += bool(found)
    print_line(f"{differ} of {len(x)} entries differ" if differ else "no bit differs")
    return 1 if differ else 0


def rows(items: Iterable[tuple[str, str]]) -> None:
    """Print one line per name, MAX_NAMES or fewer."""
    listed = [(short_repr(name, ""), summary) for name, summary in items]
    for line in text_table(listed[:MAX_NAMES], indent="  "):
        print_line(line)
    if len(listed) > MAX_NAMES:
        print_line(f"  and {len(listed) - MAX_NAMES} more")


def tensor_summary(p: Any) -> str:
    """Return the dtype, shape and norm of a tensor."""
    if not isinstance(p, Tensor):
        return value_summary(p)
    norm = f", norm {float(p.double().norm()):.6g}" if p.dtype in NUMBERS else ""
    return f"{str(p.dtype).removeprefix('torch.')} {tuple(p.shape)}{norm}"


def value_summary(value: Any) -> str:
    """Return a value in a few words; a list of 3 values or fewer in full."""
    if isinstance(value, (list, tuple)) and len(value) <= 3:
        return "[" + ", ".join(map(short_repr, value)) + "]"
    return short_repr(value)


def print_line(line: str, most: int = 300) -> None:
    line = escape_control(line).rstrip()
    print(line if len(line) <= most else f"{line[:most]}...")
