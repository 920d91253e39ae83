"""How far two states are apart: plain values against plain values, bit by bit, each difference with its place and size."""

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
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)  # with a size to tell


@dataclass(frozen=True)
class Difference:
    """place: `model.0.weight`. size: the largest |a - b|, infinite where no number tells it. words: both, in a line."""

    place: str
    words: str
    size: float = math.inf


def differences(a: Any, b: Any, place: str = "") -> list[Difference]:
    """What differs between two plain values (see `checkpoint.plain`), in their order; [] if every bit is the same."""
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
        return _tensors(a, b, place)
    if type(a) is type(b) and (same(a, b) if isinstance(a, float) else not isinstance(a, (list, Tensor)) and a == b):
        return []
    if isinstance(a, str) and isinstance(b, str) and "\n" in a + b:
        return [Difference(place, _texts(a, b))]
    numbers = all(isinstance(v, (int, float)) for v in (a, b))
    return [Difference(place, f"{short_repr(a)} and {short_repr(b)}", _size(float(a), float(b)) if numbers else math.inf)]


def same(a: float, b: float) -> bool:
    """Whether two numbers are the same bits: a NaN is itself, and 0 is not -0."""
    return struct.pack("<d", a) == struct.pack("<d", b)


def by_size(found: Iterable[Difference]) -> list[Difference]:
    return sorted(found, key=lambda gap: -gap.size)


def _tensors(a: Tensor, b: Tensor, place: str) -> list[Difference]:
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
    by = "in bits alone (signs of zero, kinds of NaN)" if size == 0 else f"by up to {size:.3g}"
    return [Difference(place, f"{len(at)} of {n} differ, {by}, first at {index}: {values}", size)]


def _texts(a: str, b: str) -> str:
    x, y = a.splitlines(), b.splitlines()
    i = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
    p, q = (short_repr(t[i]) if i < len(t) else "nothing" for t in (x, y))
    return f"line {i + 1}: {p} and {q}"


def _size(a: float, b: float) -> float:
    return math.inf if math.isnan(a - b) else abs(a - b)
