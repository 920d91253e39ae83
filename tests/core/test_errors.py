"""The name that an error suggests."""

from __future__ import annotations

import pytest

from trainkit.core.errors import suggest

NAMES = ["max_epochs", "min_epochs", "max_steps", "batch_size", "lr"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("epochs", "max_epochs"), ("steps", "max_steps"), ("min_epoch", "min_epochs"), ("Batchsize", "batch_size"), ("LR", "lr")],
)
def test_the_suggestion_is_the_first_name_with_this_word_or_the_nearest(given: str, meant: str) -> None:
    assert suggest(given, NAMES) == f"; did you mean {meant!r}? ({', '.join(NAMES)})"


def test_nothing_is_suggested_where_no_name_is_near() -> None:
    assert suggest("gpus", NAMES) == f"; ({', '.join(NAMES)})"
    assert suggest("gpus", []) == "; (none)"
