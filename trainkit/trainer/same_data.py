"""Checks that the data of a resumed or evaluated run is that of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from trainkit.core import terminal
from trainkit.core.errors import MAX_NAMES, UserError
from trainkit.core.validation import short_repr
from trainkit.data.check import SPLITS
from trainkit.data.dataset import Dataset
from trainkit.data.fingerprint import fingerprints
from trainkit.data.held_rows import corrected, drawn, held_rows, hold_out_again, later_rows

if TYPE_CHECKING:
    from .session import Session

OTHER_FILE = (
    "give other rows to test on a file of their own: data.test=FILE (and data.group=null or data.time=null, if it is set)"
)


def check_classes(had: Sequence[str] | None, has: Sequence[str] | None, whose: str) -> None:
    """Raise UserError where the data's classes `has` are not `had`, those of the training: outputs would name other classes.

    whose: where `had` is from, such as "the checkpoint's".
    """
    if (None if had is None else list(had)) != (None if has is None else list(has)):
        raise UserError(f"data: {whose} classes are {class_list(had)}, the data's {class_list(has)}; use the original data")


def changed_splits(session: Session, content: dict[str, Any], keys: Sequence[str] = ("x", "t", "weight")) -> list[str]:
    """Return the names of the splits whose numbers differ from the checkpoint's, or that its run did not have."""
    then, now = content["data"]["fingerprints"], session.fingerprints
    return [name for name in SPLITS if any(now.get(f"{name}.{key}") != then.get(f"{name}.{key}") for key in keys)]


def check_same(session: Session, content: dict[str, Any]) -> None:
    """Raise UserError where samples may have moved from the training split to another. Print which splits have changed.

    If only the training split has changed, the run continues, even inside an epoch: a NaN may have been corrected.
    """
    changed = changed_splits(session, content, ["x"])
    found = {"train"}
    if not _splits_otherwise(session, content):  # `keep_held_out` has found the rows of these
        found |= {name for name in drawn(session.data) if name in content["data"].get("held_out", {})}
    held = [SPLITS[name] for name in changed if name not in found and name in session.data.parts()]
    if "train" in changed and held:
        raise UserError(
            f"data: the training and {' and '.join(held)} splits, or data.scale, differ from the checkpoint's"
            f", so the {' and '.join(held)} split may contain training rows;"
            " use the original data, or start a new run"
        )
    print_changed(session, content, SPLITS)


def keep_held_out(session: Session, content: dict[str, Any], trains: bool) -> None:
    """Put the rows that the checkpoint's run held out into their splits again, where the data has other rows or another order.

    A line on stderr says so. Raises UserError if less than half of a split's rows are there, and in a run that `trains`, for
    rows that are not earlier than the first one that was held out by time.
    """
    data, known = session.data, content["data"]
    held = {name: rows for name, rows in known.get("held_out", {}).items() if name in drawn(data)}
    if not any(name in held for name in changed_splits(session, content, ["x"])):
        return
    if _splits_otherwise(session, content):
        return  # the callback that splits the data refuses its state, or `check_same` the data
    changed = corrected(data, held) if _has_as_many_rows(data, known) else None
    if changed is not None and all(2 * count <= len(held[name]) for name, count in changed.items()):
        for name, count in changed.items():
            if count:
                what = f"rows of the {SPLITS[name]} split with other values than in the training: {count} of {len(held[name])}"
                terminal.print_stderr(f"data: {what}; they stay held out, by their places")
        return
    if (again := hold_out_again(data, held)) is None:
        raise _may_contain_training_rows(next(name for name in changed_splits(session, content, ["x"]) if name in held))
    session.data, found = again
    counts = [
        f"the {SPLITS[name]} split {'the' if found[name] == len(rows) else f'{found[name]} of the'} {len(rows)} rows"
        for name, rows in held.items()
    ]
    if any(2 * found[name] < len(rows) for name, rows in held.items()):
        fix = f"use the original data, start a new run, or {OTHER_FILE}"
        raise UserError(f"data: is not the data of the training, it has for {' and for '.join(counts)} held out then; {fix}")
    terminal.print_stderr(
        f"data: has other rows, another order or another split than in the training; {' and '.join(counts)} held out then"
        " are held out again"
    )
    new = {name: held_rows(session.data).get(name, rows[:0])[found[name] :] for name, rows in held.items()}
    for name, rows in new.items():
        if len(rows):
            terminal.print_stderr(f"data: new rows in groups of the {SPLITS[name]} split, held out with them: {len(rows)}")
    if trains:
        _refuse_later_rows(session.data)
    session.fingerprints = fingerprints(session.data)
    session.held_out = {name: torch.cat([rows, new.get(name, rows[:0])]) for name, rows in known["held_out"].items()}


def check_held_out(session: Session, content: dict[str, Any]) -> None:
    """Raise UserError for a split to evaluate that was drawn from the training's rows and may now contain some of them.

    This is for checkpoints without the fingerprints of rows; `keep_held_out` uses those of the others.
    """
    known = content["data"].get("held_out", {})
    for name in changed_splits(session, content, ["x"]):
        if name in drawn(session.data) and name not in known:
            raise _may_contain_training_rows(name)


def _may_contain_training_rows(name: str) -> UserError:
    return UserError(
        f"data: the {SPLITS[name]} split differs from the checkpoint's, so it may contain training rows;"
        f" use the original data, or {OTHER_FILE}"
    )


def _refuse_later_rows(data: Dataset) -> None:
    """Raise UserError for training rows that are not earlier than the rows that were held out by time."""
    for name, count in later_rows(data).items():
        if count:
            raise UserError(
                f"data: {count} training rows are not earlier than the first row of the {SPLITS[name]} split, which has the"
                " last rows by time; remove them, or start a new run"
            )


def _splits_otherwise(session: Session, content: dict[str, Any]) -> bool:
    """Return whether a callback that splits the data has other settings than in the checkpoint, or is new."""
    return any(content["callbacks"].get(name, {}).get("settings") != now for name, now in session.split_settings.items())


def _has_as_many_rows(data: Dataset, known: dict[str, Any]) -> bool:
    """Return whether the rows from which splits are drawn are as many as the checkpoint's."""
    now = len(data.train) + sum(len(data.parts()[name]) for name in drawn(data))
    return bool(now == known["train"] + sum(map(len, known["held_out"].values())))


def print_changed(session: Session, content: dict[str, Any], names: Iterable[str]) -> None:
    """Print a line on stderr for each of the splits `names` that has changed since the checkpoint."""
    for name in changed_splits(session, content):
        if name in names:
            causes = "other numbers, rows or order, or data.scale was changed"
            terminal.print_stderr(f"data: the {SPLITS[name]} split has changed since the checkpoint ({causes})")


def check_columns(had: Dataset, has: Dataset, name: str) -> None:
    """Raise UserError where both have named inputs and these, or their numbers of categories, differ.

    had: the data of the training. has: other data, whose split `name` is evaluated.
    """
    if not (had.features and has.features) or (had.features, had.categories) == (has.features, has.categories):
        return
    fix = "give its rows or its file, which are then read as in the training"
    pairs = zip_longest(had.features, has.features, fillvalue="none")
    where = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if where is None:
        raise UserError(
            f"data: the {SPLITS[name]} split has {list(has.categories)} categories, the fit's has {list(had.categories)}; {fix}"
        )
    a, b = (short_repr(d.features[where]) if where < len(d.features) else "none" for d in (had, has))
    raise UserError(f"data: feature {where} of the {SPLITS[name]} split is {b}, that of the fit is {a}; {fix}")


def class_list(classes: Sequence[str] | None) -> str:
    """Return the names of the classes as text, the first MAX_NAMES of them."""
    names = [short_repr(c, "") for c in classes or ()]
    return ", ".join(names[:MAX_NAMES]) + (f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "") or "none"
