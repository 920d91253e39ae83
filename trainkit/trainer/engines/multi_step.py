"""Many training steps in one call, what its two kinds share: compiled code (`compiled.py`) and a CUDA graph (`cuda_graph.py`).

All that a step does happens on the device, from gathering the batch to noting its loss. What the host does between steps, the
rate and the scalars that follow from the count of updates, is read from a table. One body serves any number of steps, so that
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
from trainkit.nn.module import Module
from trainkit.optim.flat_buffer import spread
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.replay import undoing

from .step import Clip, Gradient

MAX_STEPS = 64  # steps of a call at most
MAX_SECONDS = 0.1  # seconds of one call at most, so that a signal or a bar need not wait longer
LOSS, GRADIENT, UPDATE = 1e-4, 1e-3, 1e-5  # how far such a step may be from eager (see `MultiStepEngine._check`)


class MultiStepEngine:
    """`steps(order, first, count) -> losses`: the steps number `first` and following of an epoch, (count,) or (count, r).

    Moves the optimizer's buffers on, in place; the gradient buffer holds the last step's. A kind of it writes `build` and
    `run`. Construction makes what runs and checks one step against eager. Raises UserError where it differs, and what `build`
    raises.
    """

    kind = ""  # in messages

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer,
        gradient_of: Callable[[Module], Gradient],
        clip: Clip | None,
        part: Split,
        size: int,
    ) -> None:
        """gradient_of: what computes a batch's gradient for the net, or for a copy of it (`loss_and_grad` of `step.py`).
        clip: see `clipping`. part: all samples; size: of a batch."""
        self.net, self.optimizer, self.gradient_of, self.clip, self.size = net, optimizer, gradient_of, clip, size
        assert isinstance(part.x, Tensor)  # no MappedRows
        self.x, self.t = part.x, part.t
        self.replicas = optimizer.pairs[0][0].shape[:1] if net.replica_dims else ()
        # In float64: 1 - β of a float32 β has lost half of its digits.
        self.table = optimizer.p.new_zeros(MAX_STEPS, len(optimizer.scalar_names), *self.replicas, dtype=torch.float64)
        self.rows: list[Any] = []  # what the table holds
        self.losses = optimizer.p.new_zeros(MAX_STEPS, *self.replicas)
        self.seconds = 0.0  # of a step, in the call before
        order = torch.arange(len(part), device=part.x.device).expand(*self.replicas, len(part)).clone()
        back = undoing(net, optimizer)
        try:
            self.build(order)
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

    def build(self, order: Tensor) -> None:
        """What `run` needs. May take steps, with any order like `order`: they are undone."""
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        """The losses of those steps, taken with the scalars in the table's first rows."""
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def max_steps_per_call(self, count: int) -> int:
        """At most `count` steps: as many as a call takes, and does in MAX_SECONDS."""
        return max(1, min(count, MAX_STEPS, int(MAX_SECONDS / self.seconds) if self.seconds else 1))

    def batch(self, i: Tensor, x: Tensor, t: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """(x, t) of step `i`."""
        rows = order.index_select(self.net.replica_dims, torch.arange(self.size, device=order.device) + i * self.size)
        return x[rows], t[rows]

    def scalars(self, row: Tensor) -> dict[str, Any]:
        """What an update of the optimizer computes with, from a row of the table."""
        o = self.optimizer
        now: dict[str, Any] = dict(zip(o.scalar_names, row.unbind(0), strict=True))
        if self.replicas:
            own = [p for p, _ in o.pairs]
            now = {k: spread(v.to(o.p.dtype), own) if k in o.per_replica else v[0] for k, v in now.items()}
        frozen = now["lr"] == 0 if self.replicas else None
        return {**o.scalars, **now, "frozen": frozen, "t": 2}  # the first update is eager's

    def _check(self, order: Tensor, back: Callable[[], None]) -> None:
        """One step beside eager, undone by `back` afterwards: the loss, the gradient, and what the update makes of it."""
        o = self.optimizer

        def again() -> None:
            back()
            o.t = max(o.t, 1)  # not the first update, which is eager's

        again()
        rows = order.narrow(self.net.replica_dims, 0, self.size)
        o.prepare_grad()
        loss = self.gradient_of(self.net)(self.x[rows], self.t[rows])
        if self.clip is not None:
            self.clip(o.g, [g for _, g in o.pairs])
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
        """The optimizer's scalars for each of its next updates, which are counted."""
        o = self.optimizer
        if type(o).advance is Optimizer.advance:  # none follows from the count
            o.t += count
            return [self._row()] * count
        rows = []
        for _ in range(count):
            o.advance()
            rows.append(self._row())
        return rows

    def _row(self) -> list[Any]:
        """The optimizer's scalars for the update that `advance` has just prepared, one each or one a replica."""
        o = self.optimizer
        if not self.replicas:
            return [o.per_replica[name][0] if name in o.per_replica else o.scalars[name] for name in o.scalar_names]
        r = self.replicas[0]
        own = {name: v if len(v) > 1 else v * r for name, v in o.per_replica.items()}
        return [own[name] if name in own else [o.scalars[name]] * r for name in o.scalar_names]
