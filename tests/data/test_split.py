"""A held-out share is exactly that share, each class gives its own within one sample, and no class leaves training."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit.core.rng import generator
from trainkit.data.split import held_out, others


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
