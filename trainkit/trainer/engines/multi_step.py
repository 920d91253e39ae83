"""Many training steps in one call, what its two kinds share: compiled code (`compiled.py`) and a CUDA graph (`graphed.py`).

All that a step does happens on the device, from gathering the batch to noting its loss. What the host does between steps, the
rate and the numbers that follow from the count of updates, is read from a table. One body serves any number of steps, so that
the bits of a run do not depend on where its calls begin and end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import Split
from trainkit.nn.layers.container import Recompute
from trainkit.nn.module import Module
from trainkit.optim.flat_buffer import spread
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.replay import undoing

from .step import Gradient
from .swap import Home

CHUNK = 64  # steps of a call at most
PATIENCE = 0.1  # seconds of one call at most, so that a signal or a bar need not wait longer
LOSS, GRADIENT, UPDATE = 1e-4, 1e-3, 1e-5  # how far such a step may be from eager (see `Many._check`)


class Many:
    """`steps(order, first, count) -> losses`: the steps number `first` and following of an epoch, (count,) or (count, r).

    Moves the optimizer's buffers on, in place; the gradient buffer holds the last step's. A kind of it writes `make` and `run`.
    Construction makes what runs and checks one step against eager. Raises UserError where it differs, and what `make` raises.
    """

    kind = ""  # in messages

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer,
        gradient: Gradient,
        clip: Callable[[], Callable[[], None] | None],
        part: Split,
        size: int,
    ) -> None:
        """gradient: of a batch (see `step.py`); clip: makes the clipping of the optimizer's gradient, or None.
        part: all samples; size: of a batch."""
        self.net, self.optimizer, self.gradient, self.clip, self.size = net, optimizer, gradient, clip, size
        assert isinstance(part.x, Tensor)  # no MappedRows
        self.x, self.t = part.x, part.t
        self.replicas = optimizer.pairs[0][0].shape[:1] if net.lead else ()
        # In float64: 1 - β of a float32 β has lost half of its digits.
        self.table = optimizer.p.new_zeros(CHUNK, len(optimizer.numbers), *self.replicas, dtype=torch.float64)
        self.rows: list[Any] = []  # what the table holds
        self.losses = optimizer.p.new_zeros(CHUNK, *self.replicas)
        self.seconds = 0.0  # of a step, in the call before
        order = torch.arange(len(part), device=part.x.device).expand(*self.replicas, len(part)).clone()
        back = undoing(net, optimizer)
        try:
            self.make(order)
        finally:
            back()
        self._check(order, back)

    def __call__(self, order: Tensor, first: int, count: int) -> Tensor:
        rows = self._rows(count)
        if rows != self.rows[:count]:
            self.table[:count] = torch.tensor(rows, dtype=self.table.dtype)
            self.rows = rows
        began = time.perf_counter()
        losses = self.run(order, first, count)
        self.seconds = (time.perf_counter() - began) / count
        return losses

    def make(self, order: Tensor) -> None:
        """What `run` needs. May take steps, with any order like `order`: they are undone."""
        raise NotImplementedError(f"{type(self).__name__} has no make")

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        """The losses of those steps, taken with the numbers in the table's first rows."""
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def fitting(self, count: int) -> int:
        """At most `count` steps: as many as a call takes, and does in PATIENCE."""
        return max(1, min(count, CHUNK, int(PATIENCE / self.seconds) if self.seconds else 1))

    def batch(self, i: Tensor, x: Tensor, t: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """(x, t) of step `i`."""
        rows = order.index_select(self.net.lead, torch.arange(self.size, device=order.device) + i * self.size)
        return x[rows], t[rows]

    def numbers(self, row: Tensor) -> dict[str, Any]:
        """What the optimizer computes with in a step, by attribute, from a row of the table."""
        o = self.optimizer
        now: dict[str, Any] = dict(zip(o.numbers, row.unbind(0), strict=True))
        if self.replicas:
            own = [p for p, _ in o.pairs]
            now = {k: spread(v.to(o.p.dtype), own) if k in o.given else v[0] for k, v in now.items()}
        return {**now, "still": now["lr"] == 0 if self.replicas else None, "t": 2}  # the first update is eager's

    def passing_once(self, which: Callable[[Recompute], bool]) -> list[tuple[Home, Any]]:
        """What makes a Recompute a Sequential where `which` says so: its second pass would draw anew."""
        found = [m for _, m in self.net.modules() if isinstance(m, Recompute) and which(m)]
        return [((vars(m), name), getattr(super(Recompute, m), name)) for m in found for name in ("fwd", "bwd", "grad")]

    def _check(self, order: Tensor, back: Callable[[], None]) -> None:
        """One step beside eager, undone by `back` afterwards: the loss, the gradient, and what the update makes of it."""
        o = self.optimizer

        def again() -> None:
            back()
            o.t = max(o.t, 1)  # not the first update, which is eager's

        again()
        rows = order.narrow(self.net.lead, 0, self.size)
        o.begin()
        loss = self.gradient(self.x[rows], self.t[rows])
        if (clip := self.clip()) is not None:
            clip()
        gradient = o.g.clone()
        again()
        found = self(order, 0, 1)[0].clone()
        state = [s.clone() for s in o.state()]
        again()
        o.g.copy_(state[1])
        o.update()
        wanted = [s.clone() for s in o.state()]
        back()
        for name, a, b, limit in (
            ("loss", found, loss, LOSS),
            ("gradient", state[1], gradient, GRADIENT),
            *(("update", a, b, UPDATE) for a, b in zip(state, wanted, strict=True)),
        ):
            scale = float(b.abs().nan_to_num(0).max())
            apart = float((a - b).abs().nan_to_num(0).max())
            if apart > limit * scale or not torch.equal(a.isfinite(), b.isfinite()):
                raise UserError(f"the {self.kind} {name} differs from eager's by {apart:.1e} of {scale:.1e}")

    def _rows(self, count: int) -> list[Any]:
        """The optimizer's numbers for each of its next updates, which are counted."""
        o = self.optimizer
        if type(o).count is Optimizer.count:  # none follows from the count
            o.t += count
            return [self._row()] * count
        rows = []
        for _ in range(count):
            o.count()
            rows.append(self._row())
        return rows

    def _row(self) -> list[Any]:
        """The optimizer's numbers for the update that `count` has just prepared, one each or one a replica."""
        o = self.optimizer
        if not self.replicas:
            return [o.given[name][0] if name in o.given else getattr(o, name) for name in o.numbers]
        r = self.replicas[0]
        given = {name: v if len(v) > 1 else v * r for name, v in o.given.items()}
        return [given[name] if name in given else [getattr(o, name)] * r for name in o.numbers]
