"""An optimizer sees one flat parameter buffer `p`, one flat gradient buffer `g`, and a flat buffer for each of its slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, UserErrors
from ..flat import flatten, is_flat, spread
from ..pattern import shown

Rate = float | Sequence[float]


class Optimizer:
    """Base: an author lists `slots` and writes `update`; the rest is shared.

    params: (parameter, gradient) pairs, as `net.param()` gives them; they become views of two flat buffers.
    lr: the learning rate, one number, or one for each replica (then every parameter has the replica axis in front).
    maximize: ascend instead.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, params: Iterable[tuple[Tensor, Tensor]], lr: Rate, maximize: bool = False) -> None:
        self.pairs = list(params)
        if not self.pairs:
            raise UserError(f"{type(self).__name__}: no parameters; give net.param() of a net that has some")
        if len({id(p) for p, _ in self.pairs}) < len(self.pairs):
            raise UserError(f"{type(self).__name__}: a parameter is listed twice; net.param() lists each once")
        self.maximize = maximize
        self.t = 0  # updates done
        self.bind()
        self.set_lr(lr)
        self.configured = self.rates  # what a schedule starts from

    def bind(self) -> None:
        """Take the pairs into flat buffers, again after a net was moved or replicated; slots keep values where sizes agree."""
        self.p, self.g = flatten([p for p, _ in self.pairs]), flatten([g for _, g in self.pairs])
        for slot in self.slots:
            old: Tensor | None = self.__dict__.get(slot)
            kept = old.to(self.p) if old is not None and old.shape == self.p.shape else torch.zeros_like(self.p)
            setattr(self, slot, kept)
        if "rates" in self.__dict__:
            self._spread()

    def set_lr(self, lr: Rate) -> None:
        """The rate for the next updates: a number, or one for each replica. A rate of 0 leaves a replica as it is."""
        rates = [float(r) for r in lr] if isinstance(lr, Sequence) else [float(lr)]
        for r in rates:
            if not 0 <= r < 1e38:  # what a float32 holds
                raise UserError(f"{type(self).__name__}: lr={r}; needs a finite number of at least 0")
        if isinstance(lr, Sequence) and any(p.dim() == 0 or p.shape[0] != len(rates) for p, _ in self.pairs):
            raise UserError(
                f"{type(self).__name__}: {len(rates)} values of lr; needs one number, or one for each of trainer.replicas"
            )
        self.rates = rates
        self.lr = rates[0]
        self._spread()

    def _spread(self) -> None:
        self.by_element: Tensor | None = None  # the rate of each element of p, where replicas differ
        if len(set(self.rates)) > 1:
            rates = torch.tensor(self.rates, dtype=self.p.dtype, device=self.p.device)
            self.by_element = spread(rates, [p for p, _ in self.pairs])
            self.still = self.by_element == 0 if 0 in self.rates else None

    def zero_grad(self) -> None:
        """Clear the gradients of a net built by hand. (The trainer owns its buffers and clears `g`.)"""
        self._hold()
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
        """p and the slots one step on, from g; counts t."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def descend(self, d: Tensor, scale: float = 1.0) -> None:
        """p -= lr scale d."""
        if self.by_element is None:
            self.p.add_(d, alpha=-self.lr * scale)
        else:
            self.p.addcmul_(self._moving(d), self.by_element, value=-scale)

    def descend_ratio(self, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
        """p -= lr scale a / b."""
        if self.by_element is None:
            self.p.addcdiv_(a, b, value=-self.lr * scale)
        else:
            self.p.addcmul_(self._moving(a / b), self.by_element, value=-scale)

    def _moving(self, d: Tensor) -> Tensor:
        """d, but 0 where the rate is 0: infinity times 0 would be NaN."""
        return d if self.still is None else d.masked_fill(self.still, 0)

    def gradient(self, weight_decay: float) -> Tensor:
        """g, turned round to maximize, plus weight_decay p: decay as a penalty in the loss. Leaves the buffer as it is."""
        g = -self.g if self.maximize else self.g
        return g if weight_decay == 0 else g.add(self.p, alpha=weight_decay)

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
        return f"{type(self).__name__}(lr={self.lr if len(self.rates) == 1 else self.rates}, {self.p.numel()} parameters)"


def momentum_of(optimizer: Any) -> dict[str, Any]:
    """What a schedule may move beside the rate (CyclicLR, OneCycleLR): betas, or a momentum that is not 0."""
    if hasattr(optimizer, "betas"):
        return {"betas": optimizer.betas}
    return {"momentum": optimizer.momentum} if getattr(optimizer, "momentum", 0) else {}


def within(name: str, low: float, high: float = float("inf"), **values: float) -> None:
    """Refuse a hyper-parameter outside [low, high)."""
    for key, value in values.items():
        if not low <= value < high:
            bounds = f"at least {low:g}" if high == float("inf") else f"{low:g} up to, not with, {high:g}"
            raise UserError(f"{name}: {key}={value}; needs {bounds}")
