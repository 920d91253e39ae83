"""The multiply-adds of a step and nothing else, in registers, as fast as one core does them."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from task import Result, Stopwatch, Task

from trainkit.trainer.engines.native.compiler import compile_library

SOURCE = """
using T = float;
#include "core/cpp/vector.h"
constexpr int W = VECTOR_BYTES / sizeof(T), CHAINS = 12;  // more than a multiply-add takes cycles
extern "C" T multiply_adds(long count) {
  Vec<W> a = Vec<W>{} + T(0.999), b = Vec<W>{} + T(0.001), sum[CHAINS] = {};
  for (long k = 0; k < count; k += CHAINS * W)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * a + b;
  for (int i = 1; i < CHAINS; i++) sum[0] += sum[i];
  return sum[0][0];
}
"""


def multiply_adds(task: Task) -> int:
    """Return those of a step's products: y = x wᵀ, dw = dyᵀ x and, except in the first layer, dx = dy w."""
    per_layer = [task.batch * n * m for n, m in pairwise(task.sizes)]
    return 3 * sum(per_layer) - per_layer[0]


@cache
def compiled() -> Any:
    f = ctypes.CDLL(str(compile_library(SOURCE, Path(mkdtemp())))).multiply_adds
    f.argtypes, f.restype = [ctypes.c_long], ctypes.c_float
    return f


def registers(task: Task, epochs: int) -> Result:
    f, count = compiled(), multiply_adds(task) * epochs * -(-task.samples // task.batch)
    with Stopwatch() as watch:
        f(count)
    return task.result(watch, epochs)
