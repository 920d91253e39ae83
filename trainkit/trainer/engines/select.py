"""The choice of the engine: steps one by one from Python, or many in a call.

`trainer.engine`: eager; compile, after about ten seconds of compiling; auto, compile where timed eager steps show that it is
faster; graph, replays of one step on a CUDA device. A step that cannot be compiled or captured runs eagerly, and a line on
stderr gives the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.timing import seconds
from trainkit.data.loader import aligned, batches
from trainkit.nn.module import LayerError, Module
from trainkit.trainer.replay import undoing

from .step import Differentiable, Gradient, clipping, loss_and_grad, training_step

if TYPE_CHECKING:
    from trainkit.trainer.session import Session

    from .multi_step import MultiStepEngine

Call = tuple[Tensor, int, int]  # the losses of a call; its number of steps; the samples of each step

# `auto` compiles where SAVED * (dispatch of the steps left) > COMPILE. These constants are measured: docs/decisions.md.
COMPILE = 10.0  # seconds to compile a net of a few layers that is not in the compiler's cache
SAVED = 0.7  # the share of a step's dispatch that compiling saves
DOMINANT = 0.5  # the least share of dispatch in a step: where products dominate, compiled steps may be slower
SMALLEST = 2  # samples of half a batch: the time of fewer does not measure its arithmetic


class StepEngine:
    """The steps of a fit. `epoch` takes those of an epoch; `kind` is the engine in use."""

    def __init__(self, session: Session, engine: str) -> None:
        limits = session.settings.clip_norm, session.settings.clip_value
        self.session, self.optimizer, self.split, self.size = session, session.optimizer, session.data.train, session.step_size
        if session.settings.precision == "bf16" and session.device.type == "cpu":
            warn_if_slow()
        self.net = self._in_precision(session.net)
        self.step = training_step(self.net, session.loss, session.optimizer, session.settings.accumulate, *limits)
        self.kind: Literal["eager", "compile", "graph"] = "eager"
        self.multi_step: MultiStepEngine | None = None
        left = session.steps_left
        if engine == "eager" or left == 0:
            return
        try:
            check_supported(session, engine)
            if engine == "auto" and not self._is_worthwhile(left):
                return
            chosen: Literal["compile", "graph"] = "graph" if engine == "graph" else "compile"
            self.multi_step = self._multi_step(chosen)
            self.kind = chosen
        except Exception as error:  # the compiler, or a module that cannot be traced, may raise anything
            print_engine(f"{engine}: eager, since {reason(error, 'capturing' if engine == 'graph' else 'compiling')}")

    def _in_precision(self, net: Module) -> Differentiable:
        """Return the net's passes in the precision of the settings."""
        if self.session.settings.precision == "full":
            return net
        from .bf16 import InBfloat16

        return InBfloat16(net)

    def epoch(self, order: Tensor, first: int) -> Iterator[Call]:
        """Take the steps of an epoch from number `first` on: one by one, or in calls of `session.steps_until_next_event()`."""
        axis, step = order.dim() - 1, self.step
        if self.multi_step is not None:
            full = order.shape[axis] // self.size
            if self.optimizer.t == 0:  # the first update of a run may have another form
                yield step(*next(batches(self.split, order, self.size))).unsqueeze(0), 1, self.size
                first = 1
            while first < full:
                n = self.multi_step.max_steps_per_call(min(full - first, self.session.steps_until_next_event()))
                yield self.multi_step(order, first, n), n, self.size
                first += n
            if first * self.size == order.shape[axis]:  # no smaller batch is left at the end
                return
            x, t = next(batches(self.split, order, self.size, first))
            yield step(x, t).unsqueeze(0), 1, x.shape[axis]
            return
        for x, t in batches(self.split, order, self.size, first):
            yield step(x, t), 1, x.shape[axis]

    def join(self, losses: list[Tensor]) -> Tensor:
        """Return the losses of several calls as one tensor, (steps,) or (steps, r)."""
        return torch.stack(losses) if self.multi_step is None else torch.cat(losses)

    def _multi_step(self, engine: Literal["compile", "graph"]) -> MultiStepEngine:
        from . import compiled, cuda_graph

        kind = compiled.CompiledEngine if engine == "compile" else cuda_graph.CudaGraphEngine
        session = self.session
        clip = clipping(session.net.replica_dims, session.settings.clip_norm, session.settings.clip_value)

        def gradient_of(net: Module) -> Gradient:
            return loss_and_grad(self._in_precision(net), session.loss, session.settings.accumulate)

        return kind(session.net, session.optimizer, gradient_of, clip, self.split, self.size)

    def _is_worthwhile(self, left: int) -> bool:
        """Return whether compiling and compiled steps take less time than eager ones, by estimate; print the choice."""
        saved = self._saving(left)
        if saved <= COMPILE:
            print_engine(f"auto: eager; compiling takes about {COMPILE:.0f} s and would save {saved:.1f} s in {left:,} steps")
        else:
            print_engine(f"auto: compile; it takes about {COMPILE:.0f} s and saves about {saved:.0f} s in {left:,} steps")
        return saved > COMPILE

    def _saving(self, left: int) -> float:
        """Return the seconds that compiling would save over `left` steps, or 0 where arithmetic dominates a step.

        Times eager steps, and undoes them. A step of n samples takes a + b n. `a` is Python and the dispatch of kernels, of
        which compiling saves the share SAVED. b n is the arithmetic of products and convolutions, the same if compiled.
        a = 2 time(n / 2) - time(n).
        """
        x, t = next(batches(self.split, self.session.order(0), self.size))
        replica_dims, half = self.session.net.replica_dims, self.size // 2
        undo = undoing(self.session.net, self.optimizer)
        try:
            whole = a = seconds(lambda: self.step(x, t).tolist())  # tolist waits for a CUDA device
            if half >= SMALLEST and SAVED * left * whole > COMPILE:  # else compiling cannot pay
                xs, ts = aligned(x.narrow(replica_dims, 0, half)), aligned(t.narrow(replica_dims, 0, half))
                a = min(whole, 2 * seconds(lambda: self.step(xs, ts).tolist()) - whole)
        finally:
            undo()
        return SAVED * left * a if a >= DOMINANT * whole else 0.0


def warn_if_slow() -> None:
    """Print a line where products in bfloat16 are slower than in float32 on this processor."""
    from .bf16 import slowdown

    if (factor := slowdown()) > 1:
        terminal.print_stderr(
            f"trainer.precision bf16: a product takes {factor:.1f} times as long as in float32 on this processor"
        )


def check_supported(session: Session, engine: str) -> None:
    """Raise UserError where it is known without trying that the steps cannot be compiled or captured."""
    if not session.optimizer.has_grad_buffer:
        raise UserError("SGD with accumulate_into_momentum has no gradient buffer, which is needed to check such a step")
    if not isinstance(session.data.train.x, Tensor):
        raise UserError("the data is streamed from its file")
    if session.settings.precision == "bf16" and engine != "graph":
        raise UserError("compiled code does not round to bfloat16 where the passes of trainer.precision=bf16 do")


def reason(error: Exception, what: str) -> str:
    """Return one line about an error of compiling or capturing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, LayerError):  # of a pass that was traced or captured; run eagerly, the layer may be valid
        return f"{what} failed, {text[:200]}"
    if isinstance(error, UserError):
        return text
    if "compiler" in type(error).__name__.lower() or "compiler" in text.lower():
        return "no C++ compiler was found (install g++, or set CXX)"
    return f"{what} failed, {type(error).__name__}: {text[:200]}"


def print_engine(line: str) -> None:
    """Print a line about the engine on stderr."""
    terminal.print_stderr(f"trainer.engine {line}")
