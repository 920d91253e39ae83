"""Statistics over replicas."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.metrics.statistics import std, summarize

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_the_deviation_is_that_of_the_standard_library(values: list[float]) -> None:
    assert std(values) == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-9)


@given(NUMBERS, st.integers(2, 50))
def test_equal_values_deviate_by_nothing(value: float, n: int) -> None:
    assert std([value] * n) == summarize([value] * n)["std"] == 0.0


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.nan, math.nan], [math.inf, math.inf], [1.0, math.inf]])
def test_a_deviation_with_numbers_that_are_not_finite_is_not_finite(values: list[float]) -> None:
    assert not math.isfinite(std(values))
