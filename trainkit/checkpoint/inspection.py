"""A look into checkpoint files: what one holds, whether it is whole, what differs between two.

A file may be a stranger's: it is read by `checkpoint.load` alone, its words are escaped, and what is printed is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from trainkit.checkpoint import file as checkpoint
from trainkit.core.diff import NUMBERS, by_size, differences
from trainkit.core.errors import MAX_NAMES, UserError, escape_control
from trainkit.core.validation import short_repr

from .digest import digest

MAX_DIFFERENCES = 10  # differences listed of a part


def show(path: Path, configuration: Callable[[str], str]) -> int:
    """Print what a checkpoint holds. configuration: its configuration, given as text, in one line."""
    content = checkpoint.load(path)
    state, data, made = content["state"], content["data"], content["environment"]
    model = content["model"]
    print_line(f"{path}: format {content['format']}, {path.stat().st_size:,} bytes")
    print_line(
        f"stands at epoch {state['epoch']}, step {state['step']}, batch {state['batch']}, replicas {len(state['active'])}"
    )
    print_line(f"configuration: {configuration(content['config'])}")
    classes = "none" if data["classes"] is None else str(len(data["classes"]))
    print_line(f"data: {data['train']} samples to train, {data['batch']} a step, classes: {classes}")
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
    versions = ", ".join(f"{short_repr(k, '')} {short_repr(v, '')}" for k, v in made["versions"].items())
    where = ", ".join(f"{k} {short_repr(v, '')}" for k, v in made.items() if k != "versions")
    print_line(f"made with {versions}; {where}")
    return 0


def verify(path: Path) -> int:
    """Each check of `checkpoint.load` with its verdict; 1 with the reason, if one fails."""
    left = list(checkpoint.CHECKS)

    def passed() -> None:
        print_line(f"ok         {left.pop(0)}")

    try:
        checkpoint.load(path, passed)
    except UserError as error:
        if len(left) == len(checkpoint.CHECKS):
            raise  # there is no file to judge
        print_line(f"FAILED     {left.pop(0)}")
        for check in left:
            print_line(f"not made   {check}")
        for line in str(error).split("\n"):
            print_line(line, most=1000)
        return 1
    print_line(f"{path}: whole")
    return 0


def diff(a: Path, b: Path) -> int:
    """What differs, part by part, the largest first; 1 if anything does."""
    x, y = checkpoint.load(a), checkpoint.load(b)
    differ = 0
    for part in dict.fromkeys([*x, *y]):
        try:
            found = by_size(differences({part: x.get(part)}, {part: y.get(part)}))
        except RecursionError:
            raise UserError(f"{part}: nested too deep to compare") from None
        if found:
            print_line(f"{part}: {len(found)} difference{'s' * (len(found) > 1)}")
        for gap in found[:MAX_DIFFERENCES]:
            print_line(f"  {gap.place}: {gap.words}")
        if len(found) > MAX_DIFFERENCES:
            print_line(f"  and {len(found) - MAX_DIFFERENCES} more")
        differ += bool(found)
    print_line(f"{differ} of {len(x)} parts differ" if differ else "no bit differs")
    return 1 if differ else 0


def rows(items: Iterable[tuple[str, str]]) -> None:
    """A line for each name, up to a bound."""
    listed = [(short_repr(name, ""), words) for name, words in items]
    width = max((len(name) for name, _ in listed[:MAX_NAMES]), default=0)
    for name, words in listed[:MAX_NAMES]:
        print_line(f"  {name:<{width}}  {words}")
    if len(listed) > MAX_NAMES:
        print_line(f"  and {len(listed) - MAX_NAMES} more")


def tensor_summary(p: Any) -> str:
    """Type, shape and norm of a tensor."""
    if not isinstance(p, Tensor):
        return value_summary(p)
    norm = f", norm {float(p.double().norm()):.6g}" if p.dtype in NUMBERS else ""
    return f"{str(p.dtype).removeprefix('torch.')} {tuple(p.shape)}{norm}"


def value_summary(value: Any) -> str:
    """A value in a few words; of a short list its values."""
    if isinstance(value, (list, tuple)) and len(value) <= 3:
        return "[" + ", ".join(map(short_repr, value)) + "]"
    return short_repr(value)


def print_line(line: str, most: int = 300) -> None:
    line = escape_control(line).rstrip()
    print(line if len(line) <= most else f"{line[:most]}...")
