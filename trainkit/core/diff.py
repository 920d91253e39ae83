"""Differences between two plain values, bit by bit, each with its place and size."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .validation import short_repr

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)  # dtypes with a |a - b|


@dataclass(frozen=True)
class Difference:
    """One difference. place: `model.0.weight`. words: both values, in one line. size: the largest |a - b|, else infinity."""

    place: str
    words: str
    size: float = math.inf


def differences(a: Any, b: Any, place: str = "") -> list[Difference]:
    """Return the differences of two plain values (see `checkpoint/plain.py`), in their order; [] if all bits are equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for key in dict.fromkeys([*a, *b]):
            here = f"{place}.{short_repr(key, '')}" if place else short_repr(key, "")
            if key in a and key in b:
                found += differences(a[key], b[key], here)
            else:
                where, value = ("first", a[key]) if key in a else ("second", b[key])
                found.append(Difference(here, f"only in the {where}: {short_repr(value)}"))
        return found
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        found = []
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            found += differences(x, y, f"{place}[{i}]")
        return found
    if isinstance(a, Tensor) and isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape):
        return _tensor_difference(a, b, place)
    if type(a) is type(b) and (same(a, b) if isinstance(a, float) else not isinstance(a, (list, Tensor)) and a == b):
        return []
    if isinstance(a, str) and isinstance(b, str) and "\n" in a + b:
        return [Difference(place, _first_line_difference(a, b))]
    numbers = all(isinstance(v, (int, float)) for v in (a, b))
    size = _distance(float(a), float(b)) if numbers else math.inf
    return [Difference(place, f"{short_repr(a)} and {short_repr(b)}", size)]


def same(a: float, b: float) -> bool:
    """Return whether two numbers have the same bits: a NaN equals itself, and 0 differs from -0."""
    return struct.pack("<d", a) == struct.pack("<d", b)


def by_size(found: Iterable[Difference]) -> list[Difference]:
    """Return the differences, the largest first."""
    return sorted(found, key=lambda difference: -difference.size)


def _tensor_difference(a: Tensor, b: Tensor, place: str) -> list[Difference]:
    n = a.numel()
    bits = [t.detach().contiguous().view(-1).view(torch.uint8) for t in (a, b)] if n else []
    if not n or torch.equal(*bits):
        return []
    at = (bits[0] != bits[1]).view(n, -1).any(1).nonzero().squeeze(1)
    index = [int(i) for i in torch.unravel_index(at[0], a.shape)] if a.dim() else []
    if a.dtype not in NUMBERS:
        return [Difference(place, f"{len(at)} of {n} differ, first at {index}")]
    x, y = (t.detach().contiguous().view(-1)[at] for t in (a, b))
    size = float((x.double() - y.double()).abs().nan_to_num(math.inf).max())
    values = " and ".join(f"{t[0].item():.9g}" for t in (x, y))
    by = "only in bits (the sign of a zero, the payload of a NaN)" if size == 0 else f"by up to {size:.3g}"
    return [Difference(place, f"{len(at)} of {n} differ, {by}, first at {index}: {values}", size)]


def _first_line_difference(a: str, b: str) -> str:
    x, y = a.splitlines(), b.splitlines()
    i = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
    p, q = (short_repr(t[i]) if i < len(t) else "nothing" for t in (x, y))
    return f"line {i + 1}: {p} and {q}"


def _distance(a: float, b: float) -> float:
    return math.inf if math.isnan(a - b) else abs(a - b)
