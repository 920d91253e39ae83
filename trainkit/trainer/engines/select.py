"""How the steps of an epoch run: one by one from Python, or many in a call.

`trainer.engine`: eager; compile, after some ten seconds of compiling; auto, compile where timed eager steps say that it pays;
graph, replays of one step on a CUDA device. What cannot be compiled or captured runs eagerly, and one line says why.
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

Call = tuple[Tensor, int, int]  # losses of some steps, (steps,) or (steps, r) and alike; how many steps; samples of each

# `auto` compiles where SAVED * (dispatch of the steps left) > COMPILE. All three are measured: docs/decisions.md.
COMPILE = 10.0  # seconds to compile a net of a few layers that is not in the compiler's cache
SAVED = 0.7  # the share of a step's dispatch that compiling saves
DOMINANT = 0.5  # the share of a step that dispatch must have: where products dominate, compiled steps may be slower
SMALLEST = 2  # samples of half a batch: a smaller one says nothing of its arithmetic


class StepEngine:
    """The steps of a fit. `epoch` runs those of an epoch; `kind` is how."""

    def __init__(self, session: Session, engine: str) -> None:
        limits = session.settings.clip_norm, session.settings.clip_value
        self.session, self.optimizer, self.part, self.size = session, session.optimizer, session.data.train, session.step_size
        if session.settings.precision == "bf16" and session.device.type == "cpu":
            say_if_slow()
        self.net = self._in_precision(session.net)
        self.step = training_step(self.net, session.loss, session.optimizer, session.settings.accumulate, *limits)
        self.kind: Literal["eager", "compile", "graph"] = "eager"
        self.many: MultiStepEngine | None = None
        left = session.steps_left
        if engine == "eager" or left == 0:
            return
        try:
            refuse(session, engine)
            if engine == "auto" and not self._worth_while(left):
                return
            chosen: Literal["compile", "graph"] = "graph" if engine == "graph" else "compile"
            self.many = self._together(chosen)
            self.kind = chosen
        except Exception as error:  # whatever a compiler, or a module that cannot be traced, comes up with
            say(f"{engine}: eager, since {reason(error, 'capturing' if engine == 'graph' else 'compiling')}")

    def _in_precision(self, net: Module) -> Differentiable:
        """The net's passes in the precision of the settings."""
        if self.session.settings.precision == "full":
            return net
        from .bf16 import InBfloat16

        return InBfloat16(net)

    def epoch(self, order: Tensor, first: int) -> Iterator[Call]:
        """The steps of an epoch from number `first` on: one by one, or as many in a call as the session looks ahead."""
        axis, step = order.dim() - 1, self.step
        if self.many is not None:
            full = order.shape[axis] // self.size
            if self.optimizer.t == 0:  # the very first update may be of another form
                yield step(*next(batches(self.part, order, self.size))).unsqueeze(0), 1, self.size
                first = 1
            while first < full:
                n = self.many.max_steps_per_call(min(full - first, self.session.steps_until_next_event()))
                yield self.many(order, first, n), n, self.size
                first += n
            if first * self.size == order.shape[axis]:  # no odd batch at the end
                return
            x, t = next(batches(self.part, order, self.size, first))
            yield step(x, t).unsqueeze(0), 1, x.shape[axis]
            return
        for x, t in batches(self.part, order, self.size, first):
            yield step(x, t), 1, x.shape[axis]

    def join(self, losses: list[Tensor]) -> Tensor:
        """The losses of calls, (steps,) or (steps, r)."""
        return torch.stack(losses) if self.many is None else torch.cat(losses)

    def _together(self, engine: Literal["compile", "graph"]) -> MultiStepEngine:
        from . import compiled, cuda_graph

        kind = compiled.CompiledEngine if engine == "compile" else cuda_graph.CudaGraphEngine
        t = self.session
        clip = clipping(t.net.replica_dims, t.settings.clip_norm, t.settings.clip_value)

        def gradient_of(net: Module) -> Gradient:
            return loss_and_grad(self._in_precision(net), t.loss, t.settings.accumulate)

        return kind(t.net, t.optimizer, gradient_of, clip, self.part, self.size)

    def _worth_while(self, left: int) -> bool:
        """Whether compiled steps, compiling included, are done sooner, as far as eager steps tell; print the choice."""
        saved = self._saving(left)
        if saved <= COMPILE:
            say(f"auto: eager; compiling takes some {COMPILE:.0f} s and would save {saved:.1f} s of {left:,} steps")
        else:
            say(f"auto: compile; it takes some {COMPILE:.0f} s and saves some {saved:.0f} s of {left:,} steps")
        return saved > COMPILE

    def _saving(self, left: int) -> float:
        """Seconds that `left` compiled steps would save, by the time of eager ones, which are undone; 0 where their arithmetic
        dominates.

        A step of n samples takes a + b n. Compiling saves the share SAVED of `a`, which is Python and the dispatch of kernels;
        b n is their arithmetic: the same products and convolutions, compiled or not. a = 2 time(n / 2) - time(n)."""
        x, t = next(batches(self.part, self.session.order(0), self.size))
        replica_dims, half = self.session.net.replica_dims, self.size // 2
        back = undoing(self.session.net, self.optimizer)
        try:
            whole = a = seconds(lambda: self.step(x, t).tolist())  # which waits for a CUDA device
            if half >= SMALLEST and SAVED * left * whole > COMPILE:  # else there is no need to look closer
                xs, ts = aligned(x.narrow(replica_dims, 0, half)), aligned(t.narrow(replica_dims, 0, half))
                a = min(whole, 2 * seconds(lambda: self.step(xs, ts).tolist()) - whole)
        finally:
            back()
        return SAVED * left * a if a >= DOMINANT * whole else 0.0


def say_if_slow() -> None:
    """Tell the user where the processor is slow at products in bfloat16."""
    from .bf16 import slowdown

    if (times := slowdown()) > 1:
        terminal.print_stderr(
            f"trainer.precision bf16: a product takes {times:.1f} times as long as in float32 on this processor"
        )


def refuse(session: Session, engine: str) -> None:
    """Raise UserError where a step can be neither compiled nor captured, by what is known beforehand."""
    if not session.optimizer.has_grad_buffer:
        raise UserError("SGD with accumulate_into_momentum has no gradient of its own, by which such a step is checked")
    if not isinstance(session.data.train.x, Tensor):
        raise UserError("the data is streamed from its file")
    if session.settings.precision == "bf16" and engine != "graph":
        raise UserError("compiled code does not round to bfloat16 where the passes of trainer.precision=bf16 do")


def reason(error: Exception, what: str) -> str:
    """What went wrong in compiling or capturing, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, LayerError):  # of a pass that was traced or captured: eager, the layer may be right
        return f"{what} failed, {text[:200]}"
    if isinstance(error, UserError):
        return text
    if "compiler" in type(error).__name__.lower() or "compiler" in text.lower():
        return "no C++ compiler was found (install g++, or set CXX)"
    return f"{what} failed, {type(error).__name__}: {text[:200]}"


def say(line: str) -> None:
    """Tell the user on stderr, as the bar does."""
    terminal.print_stderr(f"trainer.engine {line}")
