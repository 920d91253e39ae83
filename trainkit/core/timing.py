"""How long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def seconds(call: Callable[[], Any]) -> float:
    """The shortest of some calls: at least 3, at most 20, and a fifth of a second."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 20 and sum(times) < 0.2):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
