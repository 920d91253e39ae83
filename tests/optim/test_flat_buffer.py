"""One buffer, many views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from trainkit.optim.flat_buffer import flatten, is_flat, norms, spread

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=7)


def tensors(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Numbers 0, 1, 2, ... through all of them, so that a place is known by its value."""
    count = iter(range(10**6))
    return [torch.tensor([float(next(count)) for _ in range(math.prod(s))]).reshape(s) for s in shapes]


@settings(deadline=None, max_examples=200)
@given(SHAPES)
def test_the_buffer_holds_every_value_in_order_and_the_tensors_keep_theirs(shapes: list[tuple[int, ...]]) -> None:
    given_, before = tensors(shapes), tensors(shapes)
    flat = flatten(given_)
    assert flat.tolist() == [float(i) for i in range(sum(math.prod(s) for s in shapes))]
    assert flat.is_contiguous()
    assert flat.dim() == 1
    for t, b in zip(given_, before, strict=True):
        assert torch.equal(t, b)
        assert t.is_contiguous()


@settings(deadline=None, max_examples=200)
@given(SHAPES)
def test_buffer_and_tensors_are_one_memory_both_ways(shapes: list[tuple[int, ...]]) -> None:
    given_ = tensors(shapes)
    flat = flatten(given_)
    flat.mul_(2)
    assert all(torch.equal(t, 2 * b) for t, b in zip(given_, tensors(shapes), strict=True))
    for t in given_:
        t.fill_(-1)
    assert (flat == -1).all()


@settings(deadline=None, max_examples=200)
@given(SHAPES, st.data())
def test_flattening_again_moves_nothing_and_a_part_is_a_stretch_of_the_same_memory(
    shapes: list[tuple[int, ...]], data: st.DataObject
) -> None:
    given_ = tensors(shapes)
    flat = flatten(given_)
    places = [t.data_ptr() for t in given_]
    assert flatten(given_).data_ptr() == flat.data_ptr()
    assert is_flat(flat, given_)
    first = data.draw(st.integers(0, len(shapes)))
    part = given_[first : data.draw(st.integers(first, len(shapes)))]
    stretch = flatten(part)
    assert [t.data_ptr() for t in given_] == places
    assert stretch.numel() == sum(t.numel() for t in part)
    stretch.fill_(-7)
    assert [bool((t == -7).all()) for t in part] == [True] * len(part)
    assert is_flat(stretch, part)
    assert int((flat == -7).sum()) == stretch.numel()


@settings(deadline=None, max_examples=100)
@given(SHAPES, st.randoms(use_true_random=False))
def test_another_order_is_another_buffer_with_the_same_values(shapes: list[tuple[int, ...]], random: object) -> None:
    given_ = tensors(shapes)
    flatten(given_)
    order = list(range(len(shapes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    flat = flatten([given_[i] for i in order])
    assert flat.tolist() == [v for i in order for v in tensors(shapes)[i].flatten().tolist()]
    flat.add_(1)
    assert all(torch.equal(t, b + 1) for t, b in zip(given_, tensors(shapes), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_buffer_has_the_tensors_dtype(dtype: torch.dtype) -> None:
    given_ = [t.to(dtype) for t in tensors([(2, 3), (), (4,)])]
    flat = flatten(given_)
    assert flat.dtype == dtype
    assert flat.shape == (11,)
    assert all(t.dtype == dtype for t in given_)


def test_strided_tensors_become_contiguous_views_with_their_values() -> None:
    given_ = [torch.arange(6.0).view(2, 3).T, torch.arange(8.0)[::2]]
    flat = flatten(given_)
    assert flat.tolist() == [0, 3, 1, 4, 2, 5, 0, 2, 4, 6]
    assert given_[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert is_flat(flat, given_)
    alone = torch.arange(6.0).view(2, 3).T
    assert flatten([alone]).tolist() == [0, 3, 1, 4, 2, 5]  # though it fills a stretch of memory


def test_tensors_that_read_one_memory_in_two_types_are_not_flat() -> None:
    block = torch.arange(4.0)
    assert is_flat(block, [block[:2], block[2:]])
    assert not is_flat(block, [block[:2], block.view(torch.int32)[2:]])


def test_a_holder_of_the_tensor_sees_it_moved_and_a_view_taken_before_does_not() -> None:
    a, b = tensors([(2, 2), (2,)])
    holder, view = [a], a[0]
    flatten([a, b]).fill_(9)
    assert holder[0].tolist() == [[9, 9], [9, 9]]
    assert view.tolist() == [0, 1]


def test_tensors_that_were_moved_away_are_not_flat_until_flattened_again() -> None:
    a, b, c = tensors([(2, 2), (3,), ()])
    flat = flatten([a, b, c])
    assert is_flat(flat, [a, b, c])
    assert is_flat(flat, [])
    assert not is_flat(flat, [b, c])
    assert not is_flat(flat, [b, a, c])
    assert not is_flat(flat.double(), [a, b, c])
    b.data = b.data.clone()
    assert not is_flat(flat, [a, b, c])
    again = flatten([a, b, c])
    assert again.data_ptr() != flat.data_ptr()
    assert again.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert not is_flat(flat, [a, b, c])
    for change in (torch.Tensor.double, lambda t: t.repeat(2).view(2, -1)):
        a, b = tensors([(2,), (3,)])
        flat = flatten([a, b])
        b.data = change(b.data)
        assert not is_flat(flat, [a, b])


def test_neighbours_in_memory_that_leave_a_gap_or_overlap_are_moved_together() -> None:
    block = torch.arange(10.0)
    gap = [block[0:3], block[4:6]]
    assert flatten(gap).tolist() == [0, 1, 2, 4, 5]
    overlap = [block[0:3], block[2:5]]
    assert flatten(overlap).tolist() == [0, 1, 2, 2, 3, 4]
    tiles = [block[1:3], block[3:6]]
    place = tiles[0].data_ptr()
    flat = flatten(tiles)
    assert (flat.data_ptr(), flat.tolist()) == (place, [1, 2, 3, 4, 5])


def test_a_value_for_each_replica_spreads_over_all_that_is_the_replicas() -> None:
    values = torch.tensor([10.0, 20.0])
    assert spread(values, [torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 1, 2)]).tolist() == [
        *[10, 10, 10, 20, 20, 20],
        *[10, 20],
        *[10, 10, 20, 20],
    ]
    assert spread(values, []).shape == (0,)


def test_norms_are_a_tensors_or_each_of_its_replicas() -> None:
    a, b = torch.tensor([[3.0, 4.0], [5.0, 12.0]]), torch.tensor([[[8.0], [15.0]], [[0.0], [0.0]]])
    assert_close(norms([a, b], replica_dims=0), torch.tensor([194.0**0.5, 17.0]))
    assert_close(norms([a, b], replica_dims=1), torch.tensor([[5.0, 13.0], [17.0, 0.0]]))
