"""`apply_update` is a function of its arguments: it changes what it is given, and no buffer of the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainkit import SGD, Adagrad, Adam, AdamW, Linear, Optimizer, RMSprop, Sequential, SignSGD

RATES = [0.1, 0.0, 0.2]
DECAY = [0.1, 0.2, 0.0]
RULES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "SGD": (SGD, {}),
    "SGD with momentum": (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": DECAY, "maximize": True}),
    "SGD with dampening": (SGD, {"momentum": 0.9, "dampening": 0.2}),
    "SGD into momentum": (SGD, {"momentum": [0.9, 0.5, 0.1], "accumulate_into_momentum": True}),
    "SignSGD": (SignSGD, {"momentum": [0.9, 0.5, 0.1], "weight_decay": 0.1}),
    "Adam": (Adam, {"weight_decay": DECAY, "amsgrad": True}),
    "AdamW": (AdamW, {"maximize": True}),
    "RMSprop": (RMSprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    "Adagrad": (Adagrad, {"lr_decay": 0.1, "weight_decay": DECAY}),
}


@pytest.mark.parametrize("lr", [0.1, RATES], ids=["one rate", "rates"])
@pytest.mark.parametrize("name", RULES)
def test_an_update_of_other_buffers_is_that_of_the_optimizers_own_and_leaves_those_alone(name: str, lr: Any) -> None:
    rule, settings = RULES[name]
    net = Sequential(Linear(3, 4), Linear(4, 2)).replicate(range(3))
    optimizer: Optimizer = rule(net.param(), lr=lr, **settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):  # the first update may be of another form
        optimizer.g.copy_(torch.randn(optimizer.g.shape, generator=generator))
        p, g = optimizer.p.clone(), optimizer.g.clone()
        slots = {slot: buffer.clone() for slot, buffer in optimizer.slots.items()}
        before = [s.clone() for s in optimizer.state()]
        optimizer.advance()
        scalars = {n: s.clone() if isinstance(s, torch.Tensor) else s for n, s in optimizer.scalars.items()}
        own = {n: vars(optimizer).pop(n) for n in ("p", "g", "slots", "scalars", "t", "pairs", "per_replica")}
        given = g.clone()
        optimizer.apply_update(p, g, slots, scalars)
        vars(optimizer).update(own)
        assert torch.equal(g, given)
        assert all(torch.equal(a, b) for a, b in zip(optimizer.state(), before, strict=True))
        optimizer.apply_update(optimizer.p, optimizer.g, optimizer.slots, optimizer.scalars)
        assert torch.equal(p, optimizer.p)
        assert all(torch.equal(slots[n], s) for n, s in optimizer.slots.items())
        assert not torch.equal(p, before[0])


def test_buffers_and_numbers_are_found_again_after_a_move_and_a_new_rate() -> None:
    net = Sequential(Linear(2, 2))
    optimizer = Adam(net.param())
    optimizer.update()
    m = optimizer.slots["m"]
    net.to(dtype=torch.float64)
    optimizer.bind()
    assert optimizer.slots["m"].dtype == torch.float64
    assert torch.equal(optimizer.slots["m"], m.double())
    optimizer.set_lr(0.5)
    optimizer.betas = (0.5, 0.6)
    assert [optimizer.scalars[n] for n in ("lr", "beta1", "beta2", "t")] == [0.5, 0.5, 0.6, 1]
    assert set(optimizer.scalar_names) < set(optimizer.scalars)
