"""Restore an earlier step of the same fit, and take the steps from there again, one by one, to the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.checkpoint.plain import to_plain
from trainkit.nn.layers.container import active_generators
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

from .callback import overrides

if TYPE_CHECKING:
    from .session import Session


def undoing(net: Module, optimizer: Optimizer) -> Callable[[], None]:
    """Return a function that undoes what trial steps change: the optimizer's buffers and all random states."""
    count, state = optimizer.t, [s.clone() for s in optimizer.state()]
    drawn = [(g, g.get_state()) for g in (*active_generators(net), torch.default_generator)]
    python = random.getstate()  # a user's module may draw from the global generators
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def undo() -> None:
        optimizer.t = count
        for s, before in zip(optimizer.state(), state, strict=True):
            s.copy_(before)
        for g, before in drawn:
            g.set_state(before)
        random.setstate(python)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return undo


class StepSideEffects:
    """What the steps of a fit may change besides the optimizer's buffers: callbacks called after each step, random states."""

    def __init__(self, session: Session) -> None:
        modules = [m for _, m in session.net.modules()]
        self.callbacks = {name: cb for name, cb in session.callbacks.items() if overrides(cb, "on_train_batch_end")}
        self.generators = session.generators if any(hasattr(m, "generators") for m in modules) else ()
        others = [m for m in modules if not type(m).__module__.startswith("trainkit.")]
        self.foreign = bool(others or self.callbacks)  # only these change rates, or draw from the global generators
        self.cuda = self.foreign and session.device.type == "cuda"


class StepCopy:
    """A copy of what the steps change, on the same device: parameters, slots, counts, and the side effects.

    Between two steps nothing else changes, unless an epoch ends or a validation runs between them.
    """

    def __init__(self, session: Session, side_effects: StepSideEffects) -> None:
        o: Any = session.optimizer
        self.side_effects, self.step, self.state = side_effects, session.progress.step, copy_lists(vars(session.progress))
        self.tensors, self.t = [s.clone() for s in carried_buffers(session)], o.t
        self.passes = [g.get_state() for g in side_effects.generators]
        if side_effects.foreign:
            self.callbacks = {name: to_plain(cb.state_dict()) for name, cb in side_effects.callbacks.items()}
            self.rates, self.per_replica, self.betas = list(session.lr), dict(o.per_replica), getattr(o, "betas", None)
            self.python, self.torch = random.getstate(), torch.get_rng_state()
            self.cuda = torch.cuda.get_rng_state_all() if side_effects.cuda else []

    def restore(self, session: Session) -> None:
        """Put the session back to this state. Callbacks that have a state are restored as in a resumed run."""
        o: Any = session.optimizer
        for s, kept in zip(carried_buffers(session), self.tensors, strict=True):
            s.copy_(kept)
        o.t = self.t
        vars(session.progress).update(copy_lists(self.state))
        for g, state in zip(self.side_effects.generators, self.passes, strict=True):
            g.set_state(state)
        if not self.side_effects.foreign:
            session.set_lr(session.lr)  # sets the rate of replicas that have stopped to 0
            return
        for name, values in self.per_replica.items():
            o.set_number(name, values if len(values) > 1 else values[0])
        if self.betas is not None:
            o.betas = self.betas
        session.set_lr(self.rates)
        for name, cb in self.side_effects.callbacks.items():
            if self.callbacks[name]:
                cb.load_state_dict(self.callbacks[name])
                cb.on_fit_start(session)
        random.setstate(self.python)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


def copy_lists(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the attributes of a `Progress`, its lists copied too."""
    return {**state, **{k: v[:] for k, v in state.items() if isinstance(v, list)}}


def carried_buffers(session: Session) -> list[Tensor]:
    """Return the buffers that carry over from step to step: p and the slots. (Each step computes g again.)"""
    p, _, *slots = session.optimizer.state()
    return [p, *slots]


def replay_steps(session: Session, kept: StepCopy, end: int) -> Generator[tuple[StepCopy, list[float]]]:
    """Take the steps from `kept` to step `end` of its epoch again. Yield after each the state before it, and its losses.

    The loss of a step whose samples all have weight 0 is 0, as it does not count.
    """
    kept.restore(session)
    state, next_steps = session.progress, session.next_steps
    session.next_steps = [lambda step: step + 1]  # native steps too are taken one by one: their bits are the same
    assert session.step_engine is not None
    steps = session.step_engine.epoch(state.epoch, state.batch)
    try:
        while state.step < end:
            before = StepCopy(session, kept.side_effects)
            if state.batch == 0:
                session.begin_epoch()
            session.record_steps(*next(steps))
            session.call("on_train_batch_end")
            yield before, session.add_losses().counted()[0]
    finally:
        session.next_steps = next_steps
