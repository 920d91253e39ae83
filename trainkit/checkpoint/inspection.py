"""A look into checkpoint files: what one holds, whether it is whole, what differs between two.

A file may be a stranger's: it is read by `checkpoint.load` alone, its words are escaped, and what is printed is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from trainkit.checkpoint import file as checkpoint
from trainkit.core.diff import NUMBERS, gaps, largest_first
from trainkit.core.errors import MOST, UserError, escaped
from trainkit.core.validation import shown

from .digest import digest

FEW = 10  # differences listed of a part


def show(path: Path, configuration: Callable[[str], str]) -> int:
    """Print what a checkpoint holds. configuration: its configuration, given as text, in one line."""
    content = checkpoint.load(path)
    state, data, made = content["state"], content["data"], content["environment"]
    model = content["model"]
    say(f"{path}: format {content['format']}, {path.stat().st_size:,} bytes")
    say(f"stands at epoch {state['epoch']}, step {state['step']}, batch {state['batch']}, replicas {len(state['active'])}")
    say(f"configuration: {configuration(content['config'])}")
    classes = "none" if data["classes"] is None else str(len(data["classes"]))
    say(f"data: {data['train']} samples to train, {data['batch']} a step, classes: {classes}")
    say(f"parameters: {sum(p.numel() for p in model.values()):,} numbers, sha256 {digest(model.items())}")
    rows((name, described(p)) for name, p in model.items())
    slots = {k: v for k, v in content["optimizer"].items() if k != "t"}
    say(f"optimizer: after {shown(content['optimizer'].get('t'))} steps, slots:{'' if slots else ' none'}")
    rows((name, described(v)) for name, v in slots.items())
    say(f"callbacks:{'' if content['callbacks'] else ' none'}")
    rows((name, ", ".join(f"{shown(k, '')} {brief(v)}" for k, v in s.items())) for name, s in content["callbacks"].items())
    say(f"metrics:{'' if content['metrics'] else ' none'}")
    rows((name, brief(values)) for name, values in content["metrics"].items())
    versions = ", ".join(f"{shown(k, '')} {shown(v, '')}" for k, v in made["versions"].items())
    where = ", ".join(f"{k} {shown(v, '')}" for k, v in made.items() if k != "versions")
    say(f"made with {versions}; {where}")
    return 0


def verify(path: Path) -> int:
    """Each check of `checkpoint.load` with its verdict; 1 with the reason, if one fails."""
    left = list(checkpoint.CHECKS)

    def passed() -> None:
        say(f"ok         {left.pop(0)}")

    try:
        checkpoint.load(path, passed)
    except UserError as error:
        if len(left) == len(checkpoint.CHECKS):
            raise  # there is no file to judge
        say(f"FAILED     {left.pop(0)}")
        for check in left:
            say(f"not made   {check}")
        for line in str(error).split("\n"):
            say(line, most=1000)
        return 1
    say(f"{path}: whole")
    return 0


def diff(a: Path, b: Path) -> int:
    """What differs, part by part, the largest first; 1 if anything does."""
    x, y = checkpoint.load(a), checkpoint.load(b)
    differ = 0
    for part in dict.fromkeys([*x, *y]):
        try:
            found = largest_first(gaps({part: x.get(part)}, {part: y.get(part)}))
        except RecursionError:
            raise UserError(f"{part}: nested too deep to compare") from None
        if found:
            say(f"{part}: {len(found)} difference{'s' * (len(found) > 1)}")
        for gap in found[:FEW]:
            say(f"  {gap.place}: {gap.words}")
        if len(found) > FEW:
            say(f"  and {len(found) - FEW} more")
        differ += bool(found)
    say(f"{differ} of {len(x)} parts differ" if differ else "no bit differs")
    return 1 if differ else 0


def rows(items: Iterable[tuple[str, str]]) -> None:
    """A line for each name, up to a bound."""
    listed = [(shown(name, ""), words) for name, words in items]
    width = max((len(name) for name, _ in listed[:MOST]), default=0)
    for name, words in listed[:MOST]:
        say(f"  {name:<{width}}  {words}")
    if len(listed) > MOST:
        say(f"  and {len(listed) - MOST} more")


def described(p: Any) -> str:
    """Type, shape and norm of a tensor."""
    if not isinstance(p, Tensor):
        return brief(p)
    norm = f", norm {float(p.double().norm()):.6g}" if p.dtype in NUMBERS else ""
    return f"{str(p.dtype).removeprefix('torch.')} {tuple(p.shape)}{norm}"


def brief(value: Any) -> str:
    """A value in a few words; of a short list its values."""
    if isinstance(value, (list, tuple)) and len(value) <= 3:
        return "[" + ", ".join(map(shown, value)) + "]"
    return shown(value)


def say(line: str, most: int = 300) -> None:
    line = escaped(line).rstrip()
    print(line if len(line) <= most else f"{line[:most]}...")
