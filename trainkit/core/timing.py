"""Measure the duration of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def seconds(call: Callable[[], Any]) -> float:
    """Return the shortest duration of several calls: at least 3, then more until they took 0.2 s or 20 were made."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 20 and sum(times) < 0.2):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
