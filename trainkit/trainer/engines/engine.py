"""The engine of a fit: it takes the steps of an epoch, one by one from Python or many in a call.

`trainer.engine`: eager; native, in C++ that is generated for the net; graph, replays of one step on a CUDA device; auto, native
or graph where timed steps show that the run ends earlier. Where an engine cannot take the steps, they are eager, and a line on
stderr gives the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.nn.module import LayerError, Module

from . import auto
from .cuda_graph import CudaGraphEngine
from .native.engine import NativeEngine
from .step import Differentiable, Gradient, clipping, loss_and_grad, training_step

if TYPE_CHECKING:
    from trainkit.trainer.session import Session

    from .multi_step import MultiStepEngine

# Losses, (steps,) or (steps, r), of an eager step () or (r,); number of steps; samples of each; their summed weights, () or
# (r,), if they have any.
Call = tuple[Tensor, int, int, Tensor | None]


class StepEngine:
    """The steps of a fit. `epoch` takes those of an epoch; `name` is the engine in use."""

    def __init__(self, session: Session, engine: str) -> None:
        limits = session.settings.clip_norm, session.settings.clip_value
        self.session, self.optimizer, self.size = session, session.optimizer, session.step_size
        if session.settings.precision == "bf16" and session.device.type == "cpu":
            warn_if_slow()
        self.net = self._in_precision(session.net)
        self.step = training_step(self.net, session.loss, session.optimizer, session.settings.accumulate, *limits)
        self.name: Literal["eager", "native", "graph"] = "eager"
        self.multi_step: MultiStepEngine | None = None
        if engine == "eager" or session.steps_left < (auto.FEWEST if engine == "auto" else 1):
            return
        try:
            check_supported(session, engine)
            chosen = auto.faster(session, self.step, self._multi_step) if engine == "auto" else self._multi_step(engine)
        except Exception as error:  # a module whose step is captured may raise anything
            print_engine(f"{engine}: eager, since {reason(error)}")
            return
        if chosen is not None:
            self.multi_step, self.name = chosen, chosen.name

    def _in_precision(self, net: Module) -> Differentiable:
        """Return the net's passes in the precision of the settings."""
        if self.session.settings.precision == "full":
            return net
        from .bf16 import InBfloat16

        return InBfloat16(net)

    def epoch(self, epoch: int, first: int) -> Iterator[Call]:
        """Take the steps of an epoch from number `first` on: one by one, or in calls of `session.steps_until_next_event()`."""
        session, step, split = self.session, self.step, self.session.data.train
        axis = session.net.replica_dims
        if self.multi_step is None:
            for x, *targets in session.batches(epoch, first):
                weight = None if split.weight is None else targets[1].double().sum(-1)
                yield step(x, *targets), 1, x.shape[axis], weight
            return
        order = session.order(epoch)
        full = order.shape[axis] // self.size
        if self.optimizer.t == 0 and not self.multi_step.takes_every_step:  # the first update of a run may have another form
            yield step(*next(session.batches(epoch))).unsqueeze(0), 1, self.size, None
            first = 1
        while first < full:
            n = self.multi_step.max_steps_per_call(min(full - first, session.steps_until_next_event()))
            yield self.multi_step(order, first, n), n, self.size, self._weights(order, first * self.size, n, self.size)
            first += n
        if (left := order.shape[axis] - first * self.size) > 0:  # a smaller batch is left at the end
            if self.multi_step.takes_every_step:
                yield self.multi_step.rest(order, first), 1, left, self._weights(order, first * self.size, 1, left)
                return
            x, t = next(session.batches(epoch, first))
            yield step(x, t).unsqueeze(0), 1, x.shape[axis], None

    def _weights(self, order: Tensor, begin: int, steps: int, size: int) -> Tensor | None:
        """Return the summed weights of the samples of each step, (steps,) or (steps, r), from sample `begin` on."""
        weight = self.session.data.train.weight
        if weight is None:
            return None
        rows = order[..., begin : begin + steps * size].unflatten(-1, (steps, size))
        sums = weight[rows].double().sum(-1)
        return sums.T if sums.dim() == 2 else sums

    def _multi_step(self, engine: str) -> MultiStepEngine:
        session = self.session
        clip = clipping(session.net.replica_dims, session.settings.clip_norm, session.settings.clip_value)

        def gradient_of(net: Module) -> Gradient:
            return loss_and_grad(self._in_precision(net), session.loss, session.settings.accumulate)

        if engine == "native":
            return NativeEngine(session, gradient_of, clip)
        return CudaGraphEngine(session.net, session.optimizer, gradient_of, clip, session.data.train, self.size)


def warn_if_slow() -> None:
    """Print a line where products in bfloat16 are slower than in float32 on this processor."""
    from .bf16 import slowdown

    if (factor := slowdown()) > 1:
        terminal.print_stderr(
            f"trainer.precision bf16: a product takes {factor:.1f} times as long as in float32 on this processor"
        )


def check_supported(session: Session, engine: str) -> None:
    """Raise UserError where it is known without trying that many steps cannot be taken in a call."""
    if not session.optimizer.has_grad_buffer:
        raise UserError("SGD with accumulate_into_momentum has no gradient buffer, which is needed to check such a step")
    if not isinstance(session.data.train.x, Tensor):
        raise UserError("the data is not in memory")
    name = {"auto": "graph" if session.device.type == "cuda" else "native"}.get(engine, engine)
    if session.data.train.weight is not None and name == "graph":
        raise UserError("the samples have weights, which only eager and native steps take")
    if session.augment is not None:
        raise UserError("the samples are augmented")
    if session.settings.precision == "bf16" and name == "native":
        raise UserError("native steps do not round to bfloat16 where the passes of trainer.precision=bf16 do")


def reason(error: Exception) -> str:
    """Return one line about an error of the construction of an engine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, LayerError):  # of a pass that was captured; run eagerly, the layer may be valid
        return f"capturing failed, {text[:200]}"
    if isinstance(error, UserError):
        return text
    return f"capturing failed, {type(error).__name__}: {text[:200]}"


def print_engine(line: str) -> None:
    """Print a line about the engine on stderr."""
    terminal.print_stderr(f"trainer.engine {line}")
