"""An optimizer sees one flat parameter buffer `p`, one flat gradient buffer `g`, and a flat buffer for each of its slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError, UserErrors
from trainkit.core.recorded import Recorded
from trainkit.core.validation import shown

from .arithmetic import RATE_LIMIT, Number, Rate, add, add_ratio, plus
from .flat_buffer import flatten, is_flat, spread


class Optimizer(Recorded):
    """Base: an author lists `slots` and `numbers`, and writes `apply`; the rest is shared.

    params: (parameter, gradient) pairs, as `net.param()` gives them; they become views of two flat buffers.
    lr: the learning rate, one number, or one for each replica (then every parameter has the replica axis in front).
    maximize: ascend instead.
    `given` are the numbers that replicas may differ in, a value for all or one each; the attribute of the same name is what
    `apply` computes with.
    """

    slots: tuple[str, ...] = ()
    holds_gradient = True  # False where g becomes something else in the backward pass (see `SGD`)
    numbers: tuple[str, ...] = ("lr",)  # what `apply` reads that may change between two steps, by attribute
    lr: Number

    def __init__(self, params: Iterable[tuple[Tensor, Tensor]], lr: Rate, maximize: bool = False, **given: Rate) -> None:
        self.pairs = list(params)
        if not self.pairs:
            raise UserError(f"{type(self).__name__}: no parameters; give net.param() of a net that has some")
        if len({id(p) for p, _ in self.pairs}) < len(self.pairs):
            raise UserError(f"{type(self).__name__}: a parameter is listed twice; net.param() lists each once")
        self.maximize = maximize
        self.t = 0  # updates done
        self.given: dict[str, list[float]] = {}
        self.still: Tensor | None = None  # the elements of replicas whose rate is 0
        self.bind()
        self.set_lr(lr)
        for name, value in given.items():
            self.set_number(name, value)
        self.configured = self.rates  # what a schedule starts from

    def bind(self) -> None:
        """Take the pairs into flat buffers, again after a net was moved or replicated; slots keep values where sizes agree."""
        self.p, self.g = flatten([p for p, _ in self.pairs]), flatten([g for _, g in self.pairs])
        for slot in self.slots:
            old: Tensor | None = self.__dict__.get(slot)
            kept = old.to(self.p) if old is not None and old.shape == self.p.shape else torch.zeros_like(self.p)
            setattr(self, slot, kept)
        for name in self.given:
            self._spread(name)

    @property
    def rates(self) -> list[float]:
        """The rate in use: one for all, or one a replica."""
        return self.given["lr"]

    def set_lr(self, lr: Rate) -> None:
        """The rate for the next updates: a number, or one for each replica. A rate of 0 leaves a replica as it is."""
        for r in lr if isinstance(lr, Sequence) else (lr,):
            if not 0 <= r < RATE_LIMIT:
                raise UserError(f"{type(self).__name__}: lr={r}; needs a finite number of at least 0")
        self.set_number("lr", lr)

    def set_number(self, name: str, value: Rate) -> None:
        """Set one of `given`: a number, or one for each replica."""
        values = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
        if isinstance(value, Sequence) and any(p.dim() == 0 or p.shape[0] != len(values) for p, _ in self.pairs):
            raise UserError(
                f"{type(self).__name__}: {len(values)} values of {name}; needs one number, or one for each of trainer.replicas"
            )
        self.given[name] = values
        self._spread(name)

    def _spread(self, name: str) -> None:
        """One number where all replicas agree, else a tensor with each element's."""
        values = self.given[name]
        value: Number = values[0]
        if len(set(values)) > 1:
            value = spread(torch.tensor(values, dtype=self.p.dtype, device=self.p.device), [p for p, _ in self.pairs])
        setattr(self, name, value)
        if name == "lr":
            self.still = value == 0 if isinstance(value, Tensor) and 0 in values else None

    def state(self) -> tuple[Tensor, ...]:
        """What a step changes in place: p, g and the slots."""
        return (self.p, self.g, *(getattr(self, slot) for slot in self.slots))

    def zero_grad(self) -> None:
        """Clear the gradients of a net built by hand. (The trainer owns its buffers and calls `begin`.)"""
        self._hold()
        self.begin()

    def begin(self) -> None:
        """Make g ready for the backward pass, which adds to it."""
        self.g.zero_()

    def step(self) -> None:
        """One update of a net built by hand. (The trainer owns its buffers and calls `update`.)"""
        self._hold()
        self.update()

    def _hold(self) -> None:
        """Bind again where the net was moved, or another optimizer took it into other buffers."""
        if not (is_flat(self.p, [p for p, _ in self.pairs]) and is_flat(self.g, [g for _, g in self.pairs])):
            self.bind()

    def update(self) -> None:
        """One update: p and the slots one step on, from g."""
        self.count()
        self.apply()

    def count(self) -> None:
        """What the host does of an update: t one on, and the `numbers` that follow from it."""
        self.t += 1

    def apply(self) -> None:
        """What the device does of an update: p and the slots one step on, from g and the `numbers`."""
        raise NotImplementedError(f"{type(self).__name__} has no apply")

    def descend(self, d: Tensor, scale: Number = 1.0) -> None:
        """p -= lr scale d; nothing where the rate is 0, as infinity times 0 would be NaN."""
        add(self.p, d if self.still is None else d.masked_fill(self.still, 0), -self.lr * scale)

    def descend_ratio(self, a: Tensor, b: Tensor, scale: Number = 1.0) -> None:
        """p -= lr scale a / b."""
        if self.still is None:
            add_ratio(self.p, a, b, -self.lr * scale)
        else:
            self.descend(a / b, scale)

    def gradient(self, weight_decay: Number | None) -> Tensor:
        """g, turned round to maximize, plus weight_decay p: decay as a penalty in the loss. Leaves the buffer as it is."""
        g = -self.g if self.maximize else self.g
        return g if weight_decay is None else plus(g, self.p, weight_decay)

    def state_dict(self) -> dict[str, Any]:
        """The count and copies of the slots. The rates are not state: they are the configuration's or the schedule's."""
        return {"t": self.t, **{slot: getattr(self, slot).clone() for slot in self.slots}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All or nothing. Raises UserError where the slots are not this optimizer's."""
        if wrong := self.mismatches(state):
            raise UserErrors(wrong)
        self.t = state["t"]
        for slot in self.slots:
            getattr(self, slot).copy_(state[slot])

    def mismatches(self, state: dict[str, Any]) -> list[str]:
        """How a state differs in its slots from this optimizer's, a line each."""
        name, has = type(self).__name__, sorted(set(state) - {"t"})
        if has != sorted(self.slots) or type(state.get("t")) is not int or state["t"] < 0:
            wanted, saved = ", ".join(self.slots) or "none", ", ".join(has) or "no slots"
            return [f"optimizer: the state has {saved}, {name} needs {wanted}; keep the optimizer it was saved by"]
        return [
            f"optimizer: {slot} has {s.numel() if isinstance(s, Tensor) else shown(s)} numbers, the net {self.p.numel()}"
            for slot, s in state.items()
            if slot != "t" and (not isinstance(s, Tensor) or s.shape != self.p.shape or not s.is_floating_point())
        ]

    def __repr__(self) -> str:
        rates = self.rates[0] if len(self.rates) == 1 else self.rates
        return f"{type(self).__name__}(lr={rates}, {self.p.numel()} parameters)"


def momentum_of(optimizer: Any) -> dict[str, Any]:
    """What a schedule may move beside the rate (CyclicLR, OneCycleLR): betas, or a momentum that is not 0."""
    if hasattr(optimizer, "betas"):
        return {"betas": optimizer.betas}
    momentum = optimizer.given.get("momentum", [0.0])
    return {"momentum": momentum[0]} if len(momentum) == 1 and momentum[0] else {}
