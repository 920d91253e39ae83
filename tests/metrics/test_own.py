"""A user's own metrics: a class with a state, an object, a function of the whole split."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import make
from trainkit.metrics.task import Task

TASK = Task(None, 1, False, 0.5)
Y = torch.tensor([[1.0, 2.0, 9.0], [1.0, 3.0, 3.0]])
T = torch.tensor([1.0, 3.0, 3.0])


class LargestError:
    """The largest |y - t|, or that of a power of it."""

    maximize = False

    def __init__(self, power: int = 1) -> None:
        self.power, self.largest = power, -math.inf

    def update(self, y: Tensor, t: Tensor) -> None:
        self.largest = max(self.largest, float((y - t).abs().max()) ** self.power)

    def merge(self, other: LargestError) -> None:
        self.largest = max(self.largest, other.largest)

    def value(self) -> float:
        return self.largest


def median_error(y: Tensor, t: Tensor) -> Tensor:
    return (y - t).abs().median()


def test_a_class_and_a_function_are_evaluated_per_model_and_over_all_batches() -> None:
    made = MetricSet([make(LargestError), make(median_error), make("mae")], TASK, replicas=2)
    other = MetricSet([make(LargestError), make(median_error), make("mae")], TASK, replicas=2)
    made.update(Y[:, :1], T[:1])
    made.update(Y[:, 1:2], T[1:2])
    other.update(Y[:, 2:], T[2:])
    made.merge(other)
    values = made.values()
    assert values["largest_error"] == [6.0, 0.0]
    assert values["median_error"] == [1.0, 0.0]
    assert made.maximize == {"largest_error": False, "median_error": None, "mae": False}


def test_an_object_gives_its_arguments_to_every_model_and_stays_as_it_was() -> None:
    given = LargestError(power=2)
    made = MetricSet([make(given)], TASK, replicas=2)
    made.update(Y, T)
    assert made.values() == {"largest_error": [36.0, 0.0]}
    assert given.largest == -math.inf


def test_a_name_can_be_given() -> None:
    class Named(LargestError):
        name = "worst"

    assert make(Named).name == "worst"


def test_undefined_is_nan_with_a_reason() -> None:
    def undefined(y: Tensor, t: Tensor) -> float:
        return math.nan

    made = MetricSet([make(undefined)], TASK)
    assert made.reasons() == {"undefined": "there are no samples"}
    made.update(Y[:1], T)
    assert made.reasons() == {"undefined": "it returned NaN"}


class NoMerge:
    def update(self, y: Tensor, t: Tensor) -> None: ...

    def value(self) -> float:
        return 0.0


class NeedsArguments(LargestError):
    def __init__(self, power: int) -> None:
        super().__init__(power)


def one_argument(y: Tensor) -> float:
    return 0.0


REFUSED: list[tuple[Any, str]] = [
    (NoMerge, "metrics: class NoMerge has no merge; needs update(y, t), merge(other), value()"),
    (NoMerge(), "metrics: class NoMerge has no merge; needs update(y, t), merge(other), value()"),
    (NeedsArguments, "metrics: class NeedsArguments needs arguments; give an object, NeedsArguments(...)"),
    (one_argument, "metrics: function one_argument needs the arguments (y, t)"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_cannot_be_called_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make(given)
    assert str(error.value) == message


def test_a_function_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"metrics: a function without a name \(got .*\); write it with def"):
        make(lambda y, t: 0.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5", "metrics.returns: returned a str; needs one number"),
        (torch.ones(2), "metrics.returns: returned a Tensor of shape (2,); needs one number"),
        (None, "metrics.returns: returned a NoneType; needs one number"),
    ],
)
def test_a_result_that_is_not_a_number_is_an_error(value: Any, message: str) -> None:
    def returns(y: Tensor, t: Tensor) -> Any:
        return value

    made = MetricSet([make(returns)], TASK)
    made.update(Y[:1], T)
    with pytest.raises(UserError) as error:
        made.values()
    assert str(error.value) == message
