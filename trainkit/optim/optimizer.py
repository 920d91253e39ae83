"""The base of all optimizers: one flat buffer of parameters `p`, one of gradients `g`, and one for each slot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainkit.core.cpp import flag, number
from trainkit.core.errors import UserError, UserErrors
from trainkit.core.recorded import Recorded
from trainkit.core.validation import short_repr

from .arithmetic import RATE_LIMIT, Number, Rate, Scalars, add_scaled, add_scaled_, addcdiv_, values_of
from .flat_buffer import flatten, is_flat, spread


class Optimizer(Recorded):
    """Base of optimizers: an author lists `slot_names` and `scalar_names`, and writes `apply_update`; the rest is shared.

    params: (parameter, gradient) pairs, as from `net.param()`; they become views of two flat buffers.
    lr: the learning rate, one number, or a list with one per replica. The net may get its replicas later, by a fit.
    maximize: ascend the gradient.
    `initial_lrs`: the rates from which a fit starts, those of the constructor or of `set_lr`.
    `per_replica` holds the hyperparameters in which replicas may differ, one value for all or one per replica. `scalars` holds
    the numbers of the next update: these hyperparameters, what `advance` computes, `t`, and `frozen`. The last marks the
    elements of replicas with the rate 0, or is None.
    Raises UserError without parameters, for anything but pairs of tensors, or for a parameter that is listed twice.
    """

    slot_names: tuple[str, ...] = ()
    scalar_names: tuple[str, ...] = ("lr",)  # the scalars that may change between updates, without `t` and `frozen`
    has_grad_buffer = True  # False if the backward pass adds to a slot, not to a gradient (see `SGD`)

    def __init__(self, params: Iterable[tuple[Tensor, Tensor]], lr: Rate, maximize: bool = False, **per_replica: Rate) -> None:
        self.pairs = _pairs(params, type(self).__name__)
        if not self.pairs:
            raise UserError(f"{type(self).__name__}: no parameters; give net.param() of a net that has some")
        if len({id(p) for p, _ in self.pairs}) < len(self.pairs):
            raise UserError(f"{type(self).__name__}: a parameter is listed twice; net.param() lists each once")
        self.maximize = maximize
        self.t = 0  # updates done
        self.slots: dict[str, Tensor] = {}
        self.scalars: dict[str, Any] = {"t": 0, "frozen": None}
        self.per_replica: dict[str, list[float]] = {}
        self.bind()
        self.set_lr(lr)
        for name, value in per_replica.items():
            self.set_number(name, value)

    def bind(self) -> None:
        """Move the pairs into flat buffers. Called again after a net was moved or replicated.

        A slot keeps its values if its size is unchanged.
        """
        self.p, self.g = flatten([p for p, _ in self.pairs]), flatten([g for _, g in self.pairs])
        old, self.slots = self.slots, {}
        for name in self.slot_names:
            kept = name in old and old[name].shape == self.p.shape
            self.slots[name] = old[name].to(self.p) if kept else torch.zeros_like(self.p)
        for name in self.per_replica:
            self._spread(name)

    def set_lr(self, lr: Rate) -> None:
        """Set the rate from which a fit and its schedule start: one number, or one per replica."""
        self.use_lr(lr)
        self.initial_lrs = self.per_replica["lr"]

    def use_lr(self, lr: Rate) -> None:
        """Set the rate of the next updates: one number, or one per replica. A rate of 0 leaves a replica unchanged."""
        for r in values_of(type(self).__name__, "lr", lr):
            if not 0 <= r < RATE_LIMIT:
                raise UserError(f"{type(self).__name__}: lr={r}; needs a finite number of at least 0")
        self.set_number("lr", lr)

    def set_number(self, name: str, value: Rate) -> None:
        """Set one of `per_replica`: one number, or one per replica. `check_replicas` checks how many."""
        self.per_replica[name] = [float(v) for v in values_of(type(self).__name__, name, value)]
        self._spread(name)

    def check_replicas(self, replicas: int) -> None:
        """Raise UserError where a hyperparameter has neither one value nor one per replica."""
        for name, values in self.per_replica.items():
            if len(values) not in (1, replicas):
                found = f"{len(values)} values of {name} for {replicas} replica{'s' * (replicas != 1)}"
                raise UserError(f"{type(self).__name__}: {found}; needs one number, or one per replica (trainer.replicas)")

    def _axis(self) -> int:
        """Return the size of the leading axis that all parameters share, or 1 if they share none."""
        sizes = {p.shape[0] if p.dim() else 1 for p, _ in self.pairs}
        return sizes.pop() if len(sizes) == 1 else 1

    def _spread(self, name: str) -> None:
        """Set the scalar `name`: one number if all replicas have the same, else a tensor with one number per element.

        Without their replica axis the parameters have no such tensor yet: `bind` sets it, and `step` refuses an update.
        """
        values = self.per_replica[name]
        value: Number = values[0]
        if len(set(values)) > 1 and self._axis() == len(values):
            value = spread(torch.tensor(values, dtype=self.p.dtype, device=self.p.device), [p for p, _ in self.pairs])
        self.scalars[name] = value
        if name == "lr":
            self.scalars["frozen"] = value == 0 if isinstance(value, Tensor) and 0 in values else None

    def state(self) -> tuple[Tensor, ...]:
        """Return the tensors that a step changes in place: p, g and the slots."""
        return (self.p, self.g, *self.slots.values())

    def zero_grad(self) -> None:
        """Set the gradients to zero, in a training loop of your own. (The trainer calls `prepare_grad`.)"""
        self._rebind_if_moved()
        self.prepare_grad()

    def prepare_grad(self) -> None:
        """Make g ready for the backward pass, which adds to it."""
        self.g.zero_()

    def step(self) -> None:
        """Do one update, in a training loop of your own. (The trainer calls `update`.)

        Raises UserError for a list of values if the net does not have as many replicas (`net.replicate(seeds)`).
        """
        self._rebind_if_moved()
        if any(len(values) > 1 for values in self.per_replica.values()):
            self.check_replicas(self._axis())
        self.update()

    def _rebind_if_moved(self) -> None:
        """Bind again if the net was moved, or if another optimizer moved it into other buffers."""
        if not (is_flat(self.p, [p for p, _ in self.pairs]) and is_flat(self.g, [g for _, g in self.pairs])):
            self.bind()

    def update(self) -> None:
        """Do one update of p and the slots from g."""
        self.advance()
        self.apply_update(self.p, self.g, self.slots, self.scalars)

    def advance(self) -> None:
        """Do the host's part of an update: increase t by one, and compute the scalars that depend on it."""
        self.t += 1
        self.scalars["t"] = self.t

    def apply_update(self, p: Tensor, g: Tensor, slots: dict[str, Tensor], scalars: Scalars) -> None:
        """Do the device's part of an update: change p and the slots in place, from g and the scalars.

        A function of its arguments: of self it reads only settings that never change, and no buffer. Does not change g.
        """
        raise NotImplementedError(f"{type(self).__name__} has no apply_update")

    def descend(self, p: Tensor, d: Tensor, scalars: Scalars, scale: Number = 1.0) -> None:
        """Compute p -= lr scale d, but leave p unchanged where the rate is 0, since infinity times 0 would be NaN."""
        frozen = scalars["frozen"]
        add_scaled_(p, d if frozen is None else d.masked_fill(frozen, 0), -scalars["lr"] * scale)

    def descend_ratio(self, p: Tensor, a: Tensor, b: Tensor, scalars: Scalars, scale: Number = 1.0) -> None:
        """Compute p -= lr scale a / b, as `descend` does."""
        if scalars["frozen"] is None:
            addcdiv_(p, a, b, -scalars["lr"] * scale)
        else:
            self.descend(p, a / b, scalars, scale)

    def gradient(self, p: Tensor, g: Tensor, weight_decay: Number | None) -> Tensor:
        """Return g, or -g to maximize, plus weight_decay p: the gradient of the loss with an L2 penalty. Does not change g."""
        g = -g if self.maximize else g
        return g if weight_decay is None else add_scaled(g, p, weight_decay)

    def native(self) -> str | None:
        """Return the declaration of the C++ pair of `apply_update` as a member `@`, or None if it has none."""
        return None

    @staticmethod
    def native_update(name: str, flags: Iterable[object], *numbers: float) -> str:
        """Return the declaration of the update `name<flags...>{numbers...}`."""
        return f"{name}<{', '.join(map(flag, flags))}> @{{{', '.join(map(number, numbers))}}};"

    def state_dict(self) -> dict[str, Any]:
        """Return t and copies of the slots. The rates are not part: the configuration or the schedule sets them."""
        return {"t": self.t, **{name: slot.clone() for name, slot in self.slots.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy t and the slots in. Raises UserError, and copies nothing, if the slots are not this optimizer's."""
        if wrong := self.state_errors(state):
            raise UserErrors(wrong)
        self.t = state["t"]
        for name, slot in self.slots.items():
            slot.copy_(state[name])

    def state_errors(self, state: dict[str, Any]) -> list[str]:
        """Return how a state's slots differ from this optimizer's, one line per difference."""
        name, has = type(self).__name__, sorted(set(state) - {"t"})
        if has != sorted(self.slots) or type(state.get("t")) is not int or state["t"] < 0:
            needed, saved = ", ".join(self.slots) or "none", ", ".join(has) or "no slots"
            return [f"optimizer: the state has {saved}, {name} needs {needed}; use the optimizer that saved it"]
        return [
            f"optimizer: {slot} has {s.numel() if isinstance(s, Tensor) else short_repr(s)} numbers, the net {self.p.numel()}"
            for slot, s in state.items()
            if slot != "t" and (not isinstance(s, Tensor) or s.shape != self.p.shape or not s.is_floating_point())
        ]

    def __repr__(self) -> str:
        lrs = self.per_replica["lr"]
        rates = lrs[0] if len(lrs) == 1 else lrs
        return f"{type(self).__name__}(lr={rates}, {self.p.numel()} parameters)"


def _pairs(params: Any, name: str) -> list[tuple[Tensor, Tensor]]:
    """Return `params` as a list. Raises UserError unless it holds (parameter, gradient) pairs."""
    if hasattr(params, "param"):
        raise UserError(f"{name}: params is a {type(params).__name__}, a net; give its parameters, net.param()")
    pairs = list(params) if isinstance(params, Iterable) and not isinstance(params, (str, Tensor)) else [params]
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(t, Tensor) for t in pair)):
            raise UserError(f"{name}: params holds {short_repr(pair)}; give (parameter, gradient) pairs, net.param()")
    return pairs


def momentum_of(optimizer: Any) -> dict[str, Any]:
    """Return what CyclicLR and OneCycleLR may change besides the rate: betas, or a momentum that is not 0."""
    if hasattr(optimizer, "betas"):
        return {"betas": optimizer.betas}
    momentum = optimizer.per_replica.get("momentum", [0.0])
    return {"momentum": momentum[0]} if len(momentum) == 1 and momentum[0] else {}
