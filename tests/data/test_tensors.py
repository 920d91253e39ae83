"""Tensors as data: the dtype of `t` says what is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit.core.errors import UserError
from trainkit.data.sources.tensors import tensors

X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
LABEL = torch.tensor([2, 0, 1])
HOT = torch.eye(3)[LABEL]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integers_are_class_indices(dtype: torch.dtype) -> None:
    data = tensors(X, LABEL.to(dtype))
    assert data.classes == ("0", "1", "2")
    assert data.train.t.dtype == torch.int64
    assert torch.equal(data.train.t, LABEL)
    assert data.train.label is data.train.t


def test_bools_are_two_classes() -> None:
    assert tensors(X, LABEL > 0).classes == ("0", "1")


def test_classes_are_counted_or_named() -> None:
    assert tensors(X, LABEL, classes=4).classes == ("0", "1", "2", "3")
    assert tensors(X, LABEL, classes=["a", "b", "c"]).classes == ("a", "b", "c")


def test_parts_are_those_that_are_there_by_name() -> None:
    data = tensors(torch.zeros(3, 2), torch.zeros(3), test=(torch.ones(2, 2), torch.ones(2)))
    assert list(data.parts()) == ["train", "test"]
    assert data.parts()["test"] is data.test
    assert list(data.with_parts(val=data.test).parts()) == ["train", "val", "test"]
    both = tensors(X, LABEL, test=(X[:2], LABEL[:2]), val=(X[1:], LABEL[1:]))
    assert both.val is not None
    assert (list(both.parts()), both.val.t.tolist()) == (["train", "val", "test"], [0, 1])
    with pytest.raises(UserError, match=r"data.val: x is float32 of shape \(3, 1\), that of the training split"):
        tensors(X, LABEL, val=(X[:, :1], LABEL))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.sampled_from([0.0, -1.0, 0.1]))
def test_one_hot_rows_give_back_their_labels(labels: list[int], low: float) -> None:
    label = torch.tensor(labels)
    hot = torch.where(torch.eye(5)[label] > 0, 1.0, low)
    data = tensors(torch.zeros(len(labels), 2), hot, classes=5)
    assert torch.equal(data.train.label, label)  # type: ignore[arg-type]
    assert data.train.t is hot
    assert data.threshold is None


def test_one_column_for_two_classes_is_cut_in_the_middle() -> None:
    data = tensors(X, torch.tensor([[1.0], [-1.0], [1.0]]), classes=["no", "yes"])
    assert data.train.label is not None
    assert data.train.label.tolist() == [1, 0, 1]
    assert data.threshold == 0.0


def test_other_floats_are_a_regression() -> None:
    data = tensors(X, HOT)
    assert data.classes is None
    assert data.train.label is None
    assert tensors(X, torch.tensor([1.0, 2.0, 3.0])).train.t.shape == (3, 1)


def test_integer_inputs_become_floats_unscaled() -> None:
    x = tensors(torch.tensor([[255], [0]], dtype=torch.uint8), torch.tensor([0, 1])).train.x
    assert x.dtype == torch.float32
    assert x.tolist() == [[255.0], [0.0]]
    assert tensors(X.double(), LABEL).train.x.dtype == torch.float64


def test_missing_numbers_stay() -> None:
    assert tensors(X * float("nan"), LABEL).train.x.isnan().all()


def test_a_test_pair_is_read_like_the_training_pair() -> None:
    data = tensors(X, LABEL, test=(X[:1], LABEL[:1]), normalize="feature")
    assert data.test is not None
    assert data.test.t.tolist() == [2]
    assert data.normalize == "feature"


Z = torch.zeros
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "x is no tensor": (lambda: tensors([[1.0]], LABEL), "data.train: x is a list; pass a tensor, such as torch.as_tensor"),  # type: ignore[arg-type]
    "x is complex": (lambda: tensors(Z(3, 2, dtype=torch.complex64), LABEL), r"x is complex64 of shape \(3, 2\)"),
    "t is complex": (lambda: tensors(X, Z(3, dtype=torch.complex64)), "t is complex64"),
    "x is empty": (lambda: tensors(Z(0, 2), LABEL), r"x is float32 of shape \(0, 2\); needs shape \(n, ...\)"),
    "x has no dimension": (lambda: tensors(Z(()), LABEL), r"of shape \(\)"),
    "t is empty": (lambda: tensors(X, Z(3, 0)), r"t is float32 of shape \(3, 0\)"),
    "lengths": (lambda: tensors(X, LABEL[:2]), "3 inputs, 2 targets"),
    "integers in a column": (lambda: tensors(X, LABEL[:, None]), r"t is int64 of shape \(3, 1\); .* t.squeeze\(1\)"),
    "a label below 0": (lambda: tensors(X, LABEL - 1), r"data.t: label -1 at index 1 is outside 0 to 1"),
    "a label without a name": (lambda: tensors(X, LABEL, classes=2), "label 2 at index 0 is outside 0 to 1; give each class"),
    "numbers for labels": (lambda: tensors(X, LABEL + 2**40), "label 1099511627778 .* if these are regression targets"),
    "one-hot of another width": (lambda: tensors(X, HOT, classes=4), r"float32 of shape \(3, 3\) for 4 classes"),
    "test of another width": (lambda: tensors(X, LABEL, test=(Z(1, 3), LABEL[:1])), r"data.test: x is .* \(1, 3\)"),
    "test of another kind": (lambda: tensors(X, LABEL, test=(X, Z(3))), "data.test: t is float32"),
    "a test label of its own": (
        lambda: tensors(X, LABEL, test=(X, LABEL + 1)),
        "data.test: label 3 at index 0 is outside 0 to 2",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()
