"""How Python writes the arguments of C++ code, and what all of that code shares (`vector.h`)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trainkit.core.errors import UserError


def flag(value: object) -> str:
    """Return a truth value as C++."""
    return "true" if value else "false"


def number(value: float) -> str:
    """Return a number as C++, with all its digits. Raises UserError for one that is not finite."""
    if not math.isfinite(value):
        raise UserError(f"native steps take finite numbers (got {value})")
    return f"T({float(value)!r})"


def numbers(values: Iterable[float]) -> str:
    """Return numbers as a C++ array."""
    return "{" + ", ".join(map(number, values)) + "}"
