"""Whether the data of a resumed or evaluated run is that of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from trainkit.core import terminal
from trainkit.core.errors import MAX_NAMES, UserError
from trainkit.core.validation import short_repr
from trainkit.data.check import SPLITS
from trainkit.data.dataset import Dataset

if TYPE_CHECKING:
    from .session import Session


def check_data(content: dict[str, Any], data: Dataset) -> None:
    """Refuse data with other classes than the checkpoint's: its outputs would be read as something else."""
    had, has = content["data"]["classes"], data.classes
    if had != (None if has is None else list(has)):
        raise UserError(f"data: the checkpoint's classes are {class_list(had)}, the data's {class_list(has)}; keep the data")


def changed_parts(session: Session, content: dict[str, Any], keys: Sequence[str] = ("x", "t")) -> list[str]:
    """The parts of the data whose numbers are not those that the checkpoint's run had, or that it did not have."""
    then, now = content["data"]["fingerprints"], session.fingerprints
    return [name for name in SPLITS if any(now.get(f"{name}.{key}") != then.get(f"{name}.{key}") for key in keys)]


def check_same(session: Session, content: dict[str, Any]) -> None:
    """Refuse data of which samples may have moved from the training part to another; say in a line which part has changed.

    A training part that has changed alone is taken, inside an epoch too: a row may have been mended after a NaN.
    """
    other = changed_parts(session, content, ["x"])
    held = [SPLITS[name] for name in other if name != "train" and name in session.data.parts()]
    if "train" in other and held:
        raise UserError(
            f"data: the training and the {' and '.join(held)} part have changed since the checkpoint"
            f" (or data.scale was changed), so the {' and '.join(held)} part may hold rows that were trained on;"
            " keep the data as it was, or start a new run"
        )
    print_changed(session, content, SPLITS)


def print_changed(session: Session, content: dict[str, Any], names: Iterable[str]) -> None:
    """A line on stderr for each of the parts `names` that has changed since the checkpoint."""
    for name in changed_parts(session, content):
        if name in names:
            why = "other numbers, rows or order, or data.scale was changed"
            terminal.print_stderr(f"data: the {SPLITS[name]} part has changed since the checkpoint ({why})")


def class_list(classes: Sequence[str] | None) -> str:
    names = [short_repr(c, "") for c in classes or ()]
    return ", ".join(names[:MAX_NAMES]) + (f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "") or "none"
