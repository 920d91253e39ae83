"""The arithmetic of a run's steps and epochs, against taking them one by one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainkit.trainer.progress import Progress
from trainkit.trainer.run_length import RunLength
from trainkit.trainer.settings import Settings

SOME = st.none() | st.integers(1, 12)


def at(step: int, size: int) -> Progress:
    progress = Progress()
    progress.step, (progress.epoch, progress.batch) = step, divmod(step, size)
    return progress


@given(
    n=st.integers(1, 30),
    batch=SOME,
    accumulate=st.integers(1, 3),
    epochs=st.integers(1, 6),
    limit=st.none() | st.integers(1, 60),
    start=st.integers(0, 40),
    each=st.integers(1, 4),
    inside=SOME,
)
def test_the_steps_left_and_the_next_validation_are_those_of_a_count(
    n: int, batch: int | None, accumulate: int, epochs: int, limit: int | None, start: int, each: int, inside: int | None
) -> None:
    how: dict[str, Any] = {"batch_size": batch, "accumulate": accumulate if batch else 1}
    length = RunLength(n, Settings(max_epochs=epochs, max_steps=limit, **how))
    size = len(range(0, n, n if batch is None else batch * how["accumulate"]))
    assert length.steps_per_epoch == size
    end = epochs * size if limit is None else min(limit, epochs * size)
    progress = at(start, size)
    assert length.steps_left(progress) == len(range(start, end))
    validated = [s for s in range(start + 1, end + 1) if s % (size * each) == 0 or (inside and s % inside == 0)]
    assert length.validation_is_due(progress, each, inside) == bool(validated)


@given(step=st.integers(0, 50), every=st.lists(SOME, max_size=3), limit=st.none() | st.integers(51, 90), n=st.integers(1, 20))
def test_the_next_event_is_the_first_multiple_or_the_limit(
    step: int, every: list[int | None], limit: int | None, n: int
) -> None:
    length = RunLength(n, Settings(max_epochs=9, max_steps=limit, batch_size=1))
    events = [s for s in range(step + 1, 200) if s == limit or any(k and s % k == 0 for k in every)]
    expected = events[0] - step if events else n
    assert length.steps_until_next_event(step, every, []) == expected
    assert length.steps_until_next_event(step, every, [lambda now: now + 1]) == 1
