"""Many training steps in one call: the base of native code (`native/`) and of a CUDA graph (`cuda_graph.py`).

The whole step runs on the device, from gathering the batch to storing its loss. The learning rate and the scalars that depend
on the number of updates are computed on the host beforehand, and read from a table. The code of a step is the same for any
number of steps, so the bits of a run do not depend on where its calls begin and end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import Split
from trainkit.nn.module import Module
from trainkit.optim.flat_buffer import spread
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.replay import undoing

from .step import Clip, Gradient

MAX_STEPS = 64  # steps per call
MAX_SECONDS = 0.1  # per call: a signal or the progress bar waits no longer
LOSS, GRADIENT, UPDATE = 1e-4, 1e-3, 1e-5  # tolerances relative to eager steps (see `MultiStepEngine._check`)


class MultiStepEngine:
    """`steps(order, first, count) -> losses`: takes `count` steps of an epoch from number `first`; (count,) or (count, r).

    Updates the optimizer's buffers in place; the gradient buffer then holds the last step's gradient. Subclasses override
    `build` and `run`. The constructor builds the code and compares one step with the eager one. It raises UserError where they
    differ, and the errors of `build`.
    """

    name: Literal["native", "graph"]
    adjective = ""  # of its steps, in messages
    takes_every_step = False  # False if the first step of a run, and the smaller batch at an epoch's end, are taken eagerly

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer,
        gradient_of: Callable[[Module], Gradient],
        clip: Clip | None,
        split: Split,
        size: int,
    ) -> None:
        """Build and check the steps.

        gradient_of: returns the function of a batch's gradient, for the net or a copy (`loss_and_grad` of `step.py`).
        clip: see `clipping`. split: the training samples; size: that of a batch.
        """
        self.net, self.optimizer, self.gradient_of, self.clip, self.size = net, optimizer, gradient_of, clip, size
        assert isinstance(split.x, Tensor)  # not MappedRows
        self.x, self.t, self.weight = split.x, split.t, split.weight
        self.replicas = optimizer.pairs[0][0].shape[:1] if net.replica_dims else ()
        # In float64, since 1 - β of a float32 β has only half of its digits.
        self.table = optimizer.p.new_zeros(MAX_STEPS, len(optimizer.scalar_names), *self.replicas, dtype=torch.float64)
        self.rows: list[Any] = []  # the content of the table
        self.losses = optimizer.p.new_zeros(MAX_STEPS, *self.replicas)
        self.seconds = 0.0  # per step, in the previous call
        order = torch.arange(len(split), device=split.x.device).expand(*self.replicas, len(split)).clone()
        undo = undoing(net, optimizer)
        try:
            self.build(order)
        finally:
            undo()
        self._check(order, undo)

    def __call__(self, order: Tensor, first: int, count: int) -> Tensor:
        self.fill_table(count)
        began = time.perf_counter()
        losses = self.run(order, first, count)
        self.seconds = (time.perf_counter() - began) / count
        return losses

    def fill_table(self, count: int) -> None:
        """Write the scalars of the next updates into the table, and count these updates."""
        rows = self._rows(count)
        if rows != self.rows[:count]:
            self.table[:count] = torch.tensor(rows, dtype=self.table.dtype)
            self.rows = rows

    def rest(self, order: Tensor, first: int) -> Tensor:
        """Take the step of an epoch's last, smaller batch, number `first`, if the engine takes every step."""
        raise NotImplementedError(f"{type(self).__name__} has no rest")

    def build(self, order: Tensor) -> None:
        """Make what `run` needs. May take steps, with any order of the shape of `order`: they are undone."""
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        """Take `count` steps with the scalars in the table's first rows, and return their losses."""
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def max_steps_per_call(self, count: int) -> int:
        """Return how many of `count` steps to take in one call: at most MAX_STEPS, and about MAX_SECONDS."""
        return max(1, min(count, MAX_STEPS, int(MAX_SECONDS / self.seconds) if self.seconds else 1))

    def batch(self, i: Tensor, x: Tensor, t: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x, t) of step `i`."""
        rows = order.index_select(self.net.replica_dims, torch.arange(self.size, device=order.device) + i * self.size)
        return x[rows], t[rows]

    def scalars(self, row: Tensor) -> dict[str, Any]:
        """Return the scalars of an update of the optimizer, from a row of the table."""
        o = self.optimizer
        now: dict[str, Any] = dict(zip(o.scalar_names, row.unbind(0), strict=True))
        if self.replicas:
            own = [p for p, _ in o.pairs]
            now = {k: spread(v.to(o.p.dtype), own) if k in o.per_replica else v[0] for k, v in now.items()}
        frozen = now["lr"] == 0 if self.replicas else None
        return {**o.scalars, **now, "frozen": frozen, "t": 2}  # any t but 1: the first update is taken eagerly

    def _check(self, order: Tensor, undo: Callable[[], None]) -> None:
        """Compare one step with the eager one: the loss, the gradient, and the update by the same gradient. Undo both.

        The update that is expected is computed in float64: torch's kernel for Adam on a GPU rounds 1 - β to float32.
        """
        o = self.optimizer

        def reset() -> None:
            undo()
            o.t = max(o.t, 1)  # not the first update, which is taken eagerly

        reset()
        rows = order.narrow(self.net.replica_dims, 0, self.size)
        o.prepare_grad()
        batch = [v[rows] for v in (self.x, self.t, self.weight) if v is not None]
        loss = self.gradient_of(self.net)(*batch)
        if self.clip is not None:
            self.clip(o.g, [g for _, g in o.pairs])
        gradient = o.g.clone()
        reset()
        found = self(order, 0, 1)[0].clone()
        state = [s.clone() for s in o.state()]
        reset()
        o.advance()
        p, slots = o.p.to(torch.float64, copy=True), {name: slot.to(torch.float64, copy=True) for name, slot in o.slots.items()}
        scalars = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in o.scalars.items()}
        o.apply_update(p, state[1].double(), slots, scalars)
        expected = [p, state[1], *slots.values()]
        undo()
        for name, a, b, limit in (
            ("loss", found, loss, LOSS),
            ("gradient", state[1], gradient, GRADIENT),
            *(("update", a, b, UPDATE) for a, b in zip(state, expected, strict=True)),
        ):
            scale = float(b.abs().nan_to_num(0).max())
            difference = float((a - b).abs().nan_to_num(0).max())
            if difference > limit * scale or not torch.equal(a.isfinite(), b.isfinite()):
                raise UserError(f"the {self.adjective} {name} differs from eager's by {difference:.1e} of {scale:.1e}")

    def _rows(self, count: int) -> list[Any]:
        """Return the optimizer's scalars for each of its next `count` updates, and count these."""
        o = self.optimizer
        if type(o).advance is Optimizer.advance:  # no scalar depends on the count
            o.t += count
            return [self._row()] * count
        rows = []
        for _ in range(count):
            o.advance()
            rows.append(self._row())
        return rows

    def _row(self) -> list[Any]:
        """Return the optimizer's scalars for the update that `advance` has prepared: a number each, or a list per replica."""
        o = self.optimizer
        if not self.replicas:
            return [o.per_replica[name][0] if name in o.per_replica else o.scalars[name] for name in o.scalar_names]
        r = self.replicas[0]
        own = {name: v if len(v) > 1 else v * r for name, v in o.per_replica.items()}
        return [own[name] if name in own else [o.scalars[name]] * r for name in o.scalar_names]
