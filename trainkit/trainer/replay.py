"""Back to an earlier step of the same fit, and the steps from there once more, one by one, to the same bits."""

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
    """A function that takes back what steps on trial change from here on: the optimizer's buffers, and every random state."""
    count, state = optimizer.t, [s.clone() for s in optimizer.state()]
    drawn = [(g, g.get_state()) for g in (*active_generators(net), torch.default_generator)]
    python = random.getstate()  # a user's module may draw from the global generators
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def back() -> None:
        optimizer.t = count
        for s, before in zip(optimizer.state(), state, strict=True):
            s.copy_(before)
        for g, before in drawn:
            g.set_state(before)
        random.setstate(python)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return back


class StepSideEffects:
    """What a fit's steps may move beside the optimizer's buffers: callbacks that are called after each step, random states."""

    def __init__(self, session: Session) -> None:
        modules = [m for _, m in session.net.modules()]
        self.callbacks = {name: cb for name, cb in session.callbacks.items() if overrides(cb, "on_train_batch_end")}
        self.generators = session.generators if any(hasattr(m, "generators") for m in modules) else ()
        others = [m for m in modules if not type(m).__module__.startswith("trainkit.")]
        self.foreign = bool(others or self.callbacks)  # nobody else moves rates, or draws from the global generators
        self.cuda = self.foreign and session.device.type == "cuda"


class StepCopy:
    """A copy of what the steps change, on their device: parameters, slots, counts, and what the movers have.

    Whoever else has a state has it since, if no epoch has ended and no validation was made.
    """

    def __init__(self, session: Session, movers: StepSideEffects) -> None:
        o: Any = session.optimizer
        self.movers, self.step, self.state = movers, session.progress.step, copy_lists(vars(session.progress))
        self.tensors, self.t = [s.clone() for s in changed(session)], o.t
        self.passes = [g.get_state() for g in movers.generators]
        if movers.foreign:
            self.callbacks = {name: to_plain(cb.state_dict()) for name, cb in movers.callbacks.items()}
            self.rates, self.given, self.betas = list(session.lr), dict(o.per_replica), getattr(o, "betas", None)
            self.python, self.torch = random.getstate(), torch.get_rng_state()
            self.cuda = torch.cuda.get_rng_state_all() if movers.cuda else []

    def restore(self, session: Session) -> None:
        """Put the session back to this state, and the movers: callbacks that have a state as in a run that is resumed."""
        o: Any = session.optimizer
        for s, kept in zip(changed(session), self.tensors, strict=True):
            s.copy_(kept)
        o.t = self.t
        vars(session.progress).update(copy_lists(self.state))
        for g, state in zip(self.movers.generators, self.passes, strict=True):
            g.set_state(state)
        if not self.movers.foreign:
            session.set_lr(session.lr)  # 0 for who stopped
            return
        for name, values in self.given.items():
            o.set_number(name, values if len(values) > 1 else values[0])
        if self.betas is not None:
            o.betas = self.betas
        session.set_lr(self.rates)
        for name, cb in self.movers.callbacks.items():
            if self.callbacks[name]:
                cb.load_state_dict(self.callbacks[name])
                cb.on_fit_start(session)
        random.setstate(self.python)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


def copy_lists(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, **{k: state[k][:] for k in ("samples", "loss_sum", "lr", "active")}}


def changed(session: Session) -> list[Tensor]:
    """The buffers that a step moves on: p and the slots. (g is a step's own.)"""
    p, _, *slots = session.optimizer.state()
    return [p, *slots]


def replay_steps(session: Session, kept: StepCopy, end: int) -> Generator[tuple[StepCopy, list[float]]]:
    """Take the steps from `kept` to step `end` of its epoch once more; after each, the state before it, and its losses."""
    kept.restore(session)
    state, looks = session.progress, session.next_steps
    session.next_steps = [lambda step: step + 1]  # compiled steps one by one too: their bits are the same
    assert session.engine is not None
    steps = session.engine.epoch(session.order(state.epoch), state.batch)
    try:
        while state.step < end:
            before = StepCopy(session, kept.movers)
            if state.batch == 0:
                session.begin_epoch()
            session.record_steps(*next(steps))
            session.call("on_train_batch_end")
            yield before, session.add_losses()[0]
    finally:
        session.next_steps = looks
