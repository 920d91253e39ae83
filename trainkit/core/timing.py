"""Measure the duration of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def seconds(call: Callable[[], Any]) -> float:
    """Return the shortest duration among 3 to 20 calls, which take at least 0.2 s together if 20 suffice."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 20 and sum(times) < 0.2):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
