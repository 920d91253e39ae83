"""A held-out share is exactly that share, each class gives its own within one sample, and no class leaves training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit.core.errors import UserError
from trainkit.core.rng import generator
from trainkit.data.split import group_codes, held_out, others, times


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=20), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_each_class_gives_its_share_within_one_sample_and_keeps_one(counts: list[int], share: float, seed: int) -> None:
    label = torch.repeat_interleave(torch.tensor(counts))
    n = len(label)
    label = label[torch.randperm(n, generator=generator(seed, "test"))]
    out = held_out(n, share, generator(seed), label)
    held = label[out].bincount(minlength=len(counts)).tolist()
    assert out.tolist() == sorted(set(out.tolist()))
    assert all(k < count for k, count in zip(held, counts, strict=True))
    for k, count in zip(held, counts, strict=True):
        assert k == count - 1 or abs(k - count * share) <= 1
    full = [k == count - 1 for k, count in zip(held, counts, strict=True)]
    assert len(out) == round(share * n) or any(full), "only a class that may give no more makes the whole smaller"
    assert len(out) <= round(share * n)


def test_ten_classes_of_fifteen_at_a_tenth_give_fifteen_as_in_scikit_learn() -> None:
    for count, classes, share, wanted in ((15, 10, 0.1, 15), (14, 10, 0.1, 14), (4, 20, 0.1, 8), (3, 3, 0.5, 4)):
        label = torch.arange(classes).repeat_interleave(count)
        assert len(held_out(len(label), share, generator(0), label)) == wanted


def test_a_class_of_one_stays_in_training_and_the_others_give_for_it() -> None:
    label = torch.tensor([0] * 100 + [1])
    out = held_out(101, 0.6, generator(0), label)
    assert len(out) == 61
    assert 100 not in out
    assert len(held_out(3, 0.5, generator(0), torch.arange(3))) == 0


def test_without_classes_it_is_a_share_of_all() -> None:
    out = held_out(10, 0.25, generator(0))
    assert len(out) == round(2.5)
    assert sorted([*out.tolist(), *others(10, out).tolist()]) == list(range(10))


@given(groups=st.lists(st.integers(0, 9), min_size=1, max_size=80), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_group_is_on_one_side_and_the_share_is_near(groups: list[int], share: float, seed: int) -> None:
    n = len(groups)
    out = held_out(n, share, generator(seed), group=group_codes([f"g{k}" for k in groups]))
    assert out.tolist() == sorted(set(out.tolist()))
    held = {groups[i] for i in out.tolist()}
    kept = {groups[i] for i in others(n, out).tolist()}
    assert not held & kept
    assert kept, "a group stays"
    sizes = [groups.count(k) for k in set(groups)]
    assert len(out) - share * n < max(sizes) / 2 + 1e-9
    if len(kept) > 1:
        assert share * n - len(out) < max(sizes)


def test_groups_are_drawn_by_the_seed() -> None:
    groups = torch.arange(20).repeat(3)
    first, same, other = (held_out(60, 0.3, generator(seed), group=groups).tolist() for seed in (0, 0, 1))
    assert first == same != other
    assert len(first) == 18


@given(when=st.lists(st.integers(-5, 30), min_size=1, max_size=60), share=st.floats(0.01, 0.99))
def test_the_last_samples_are_held_out_and_equal_times_stay_together(when: list[int], share: float) -> None:
    n = len(when)
    out = held_out(n, share, generator(0), time=times([str(w) for w in when])).tolist()
    kept = others(n, torch.tensor(out, dtype=torch.long)).tolist()
    if out and kept:
        assert max(when[i] for i in kept) < min(when[i] for i in out)
    assert len(out) <= round(share * n)
    if len(set(when)) == n:
        assert len(out) == round(share * n)


def test_times_are_numbers_if_all_are_and_else_days() -> None:
    assert times(["10", "9", "1e1"]).tolist() == [10, 9, 10]
    days = np.array(["2024-10-01", "1969-12-31"], "datetime64[D]").astype(int)
    assert times(["2024-10-01", "1969-12-31"]).tolist() == days.tolist()
    assert times(["2024-01-02T00:30+01:00", "2024-01-01 23:30", "2024-01-01"]).diff().tolist() == pytest.approx([0, -23.5 / 24])
    for text in ("28.01.2024", "2024-1-9", "12", "noon"):
        with pytest.raises(UserError, match=rf"time: '{text}', of sample 1, is not an ISO 8601 date"):
            times(["2024-01-01", text])
