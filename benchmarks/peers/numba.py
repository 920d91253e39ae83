"""numba: https://numba.pydata.org. A step of plain loops, which it compiles before the clock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from task import MOMENTUM, Result, Stopwatch, Task

DRAW = np.random.default_rng(0)


@njit(fastmath=True)
def linear(x: Any, w: Any, b: Any, y: Any, is_last: bool) -> None:
    """y = x w + b for w (in, out), with ReLU unless it is the last layer."""
    for n in range(x.shape[0]):
        for o in range(b.shape[0]):
            y[n, o] = b[o]
        for i in range(w.shape[0]):
            for o in range(w.shape[1]):
                y[n, o] += x[n, i] * w[i, o]
        if not is_last:
            for o in range(b.shape[0]):
                y[n, o] = max(y[n, o], np.float32(0))


@njit(fastmath=True)
def cross_entropy(y: Any, t: Any) -> None:
    """y becomes its derivative, (softmax y - onehot t) / n."""
    for n in range(y.shape[0]):
        top = y[n].max()
        total = np.float32(0)
        for c in range(y.shape[1]):
            y[n, c] = np.exp(y[n, c] - top)
            total += y[n, c]
        for c in range(y.shape[1]):
            y[n, c] = (y[n, c] / total - (c == t[n])) / y.shape[0]


@njit(fastmath=True)
def linear_backward(x: Any, w: Any, dy: Any, dw: Any, db: Any, dx: Any, needs_dx: bool) -> None:
    dw[:] = 0
    db[:] = 0
    for n in range(x.shape[0]):
        for i in range(w.shape[0]):
            total = np.float32(0)
            for o in range(w.shape[1]):
                dw[i, o] += x[n, i] * dy[n, o]
                total += w[i, o] * dy[n, o]
            if needs_dx:
                dx[n, i] = total if x[n, i] > 0 else 0
        for o in range(w.shape[1]):
            db[o] += dy[n, o]


@njit(fastmath=True)
def descend(p: Any, m: Any, g: Any, lr: float) -> None:
    p, m, g = p.ravel(), m.ravel(), g.ravel()
    for i in range(p.shape[0]):
        m[i] = np.float32(MOMENTUM) * m[i] + g[i]
        p[i] -= np.float32(lr) * m[i]


@njit(fastmath=True)
def epoch(
    x: Any, t: Any, order: Any, size: int, lr: float, ws: Any, bs: Any, mws: Any, mbs: Any, dws: Any, dbs: Any, ys: Any
) -> None:
    """ys: the inputs of each layer and the outputs, (size, width)."""
    last = len(ws) - 1
    for first in range(0, len(order), size):
        rows = min(size, len(order) - first)
        targets = t[order[first : first + rows]]
        for n in range(rows):
            ys[0][n] = x[order[first + n]]
        for k in range(len(ws)):
            linear(ys[k][:rows], ws[k], bs[k], ys[k + 1][:rows], k == last)
        cross_entropy(ys[last + 1][:rows], targets)
        for k in range(last, -1, -1):
            linear_backward(ys[k][:rows], ws[k], ys[k + 1][:rows], dws[k], dbs[k], ys[k][:rows], k > 0)
        for k in range(len(ws)):
            descend(ws[k], mws[k], dws[k], lr)
            descend(bs[k], mbs[k], dbs[k], lr)


def loops(task: Task, epochs: int) -> Result:
    p = [np.ascontiguousarray(v.detach().numpy().T) for v in task.net().parameters()]
    ws, bs = tuple(p[::2]), tuple(p[1::2])
    zeros = [tuple(np.zeros_like(v) for v in vs) for vs in (ws, bs, ws, bs)]
    ys = tuple(np.empty((task.batch, k), np.float32) for k in task.sizes)
    x, t = (v.numpy() for v in task.train())

    def run() -> None:
        epoch(x, t, DRAW.permutation(task.samples), task.batch, task.lr, ws, bs, *zeros, ys)

    run()
    with Stopwatch() as watch:
        for _ in range(epochs):
            run()
    return task.result(watch, epochs)
