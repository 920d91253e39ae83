"""Initial weights by name. `in` is the number of inputs of a unit, `out` the number of units that an input goes to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Init = Literal["uniform", "standard", "xavier", "he", "fan_out", "unit_uniform", "normal"]
NAMES: tuple[str, ...] = get_args(Init)

_scale: dict[str, Callable[[int, int, float], float]] = {
    "standard": lambda n, m, std: 1.0,
    "xavier": lambda n, m, std: math.sqrt(2 / (n + m)),  # Glorot & Bengio 2010, eq. 12
    "he": lambda n, m, std: math.sqrt(2 / n),  # He et al. 2015, eq. 10
    "fan_out": lambda n, m, std: math.sqrt(2 / m),  # as he, for the variance in the backward pass: eq. 14
    "normal": lambda n, m, std: std,
}


def init_(p: Tensor, init: Init, fan_in: int, fan_out: int, std: float, generator: torch.Generator | None) -> None:
    """Draw `p` in place.

    uniform: U(±1/sqrt(in)), torch's default for Linear. unit_uniform: U[0, 1]. The others are normal with mean 0 and standard
    deviation 1 (standard), sqrt(2/(in + out)) (xavier), sqrt(2/in) (he), sqrt(2/out) (fan_out) or `std` (normal).
    """
    if init == "uniform":
        bound = 1 / math.sqrt(fan_in)
        p.uniform_(-bound, bound, generator=generator)
    elif init == "unit_uniform":
        p.uniform_(0, 1, generator=generator)
    else:
        p.normal_(0, _scale[init](fan_in, fan_out, std), generator=generator)
