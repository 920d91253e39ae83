"""`Module.with_parameters`: the same function over other parameters and gradients, and the module itself stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trainkit import Dropout, FanOut, Linear, Module, Parallel, Recompute, ReLU, Residual, Sequential, Tanh, UserError


class Named(Module):
    """Modules in a dict, one in a list in it, a weight of another module, and a bound method."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {"in": Linear(3, 3), "rest": [Linear(3, 3)]}
        self.tied, self.dtied = self.parts["in"].w, self.parts["in"].dw
        self.first = self.parts["in"].fwd

    def children(self) -> Any:
        yield from (("in", self.parts["in"]), ("rest", self.parts["rest"][0]))

    def fwd(self, x: Tensor) -> tuple[Tensor, Any]:
        h, a = self.first(x)
        y, b = self.parts["rest"][0].fwd(h @ self.tied)
        return y, (a, h, b)

    def bwd(self, saved: Any, dy: Tensor) -> Tensor:
        a, h, b = saved
        dz = self.parts["rest"][0].bwd(b, dy)
        self.dtied.add_(h.T @ dz)
        dx: Tensor = self.parts["in"].bwd(a, dz @ self.tied.T)
        return dx


def twice() -> Sequential:
    m = Linear(3, 3)
    return Sequential(m, Tanh(), m)


NETS = {
    "a chain": lambda: Sequential(Linear(3, 4), ReLU(), Linear(4, 2)),
    "a module twice": twice,
    "nested": lambda: Sequential(Residual(Linear(3, 3), Tanh()), FanOut(2), Parallel(Linear(3, 2), Sequential(Linear(3, 2)))),
    "recomputed, drawn": lambda: Sequential(Linear(3, 4), Recompute(Linear(4, 4), Dropout(0.4)), Dropout(0.2), Linear(4, 2)),
    "a module of one's own": lambda: Sequential(Named(), Linear(3, 2)),
}


def gradients(net: Module, x: Tensor) -> tuple[Any, list[Tensor]]:
    torch.manual_seed(3)
    net.zero_grad()
    y, saved = net.fwd(x)
    net.bwd_params(saved, tuple(map(torch.ones_like, y)) if isinstance(y, tuple) else torch.ones_like(y))
    return y, [g.clone() for _, g in net.param()]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_the_copy_is_the_same_function_of_the_parameters_it_is_given(name: str, replicas: int) -> None:
    if replicas > 1 and "own" in name:
        pytest.skip("it has no replicas")
    net = NETS[name]().initialize(torch.Generator().manual_seed(0)).to(dtype=torch.float64)
    net = net.replicate(range(replicas)) if replicas > 1 else net
    x = torch.randn(*([2] if replicas > 1 else []), 5, 3, dtype=torch.float64)
    other = NETS[name]().to(dtype=torch.float64)
    other = other.replicate([8, 9]) if replicas > 1 else other.initialize(torch.Generator().manual_seed(8))
    pairs = [(p.clone(), torch.zeros_like(p)) for p, _ in other.param()]
    before = [dict(vars(m)) for _, m in net.modules()]
    copied = net.with_parameters(pairs)
    assert [(n, type(m)) for n, m in copied.modules()] == [(n, type(m)) for n, m in net.modules()]
    assert all(p is q and g is h for (p, g), (q, h) in zip(copied.param(), pairs, strict=True))
    wanted, found = gradients(other, x), gradients(copied, x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    for values, (_, m) in zip(before, net.modules(), strict=True):
        assert all(vars(m)[k] is v for k, v in values.items())
        assert len(vars(m)) == len(values)
    assert not any(g.any() for _, g in net.param()), "the gradients of the module itself are not touched"


def test_modules_that_are_shared_stay_shared_and_generators_are_not_copied() -> None:
    net = Sequential(twice(), Dropout(0.5))
    net[1].generators = (torch.Generator(),)  # type: ignore[assignment]
    copied = net.with_parameters([(torch.ones_like(p), g) for p, g in net.param()])
    inner: Any = copied[0]
    assert inner[0] is inner[2]
    assert inner[0] is not net[0][0]  # type: ignore[index]
    assert copied[1].generators[0] is net[1].generators[0]  # type: ignore[attr-defined]
    copied.eval()
    assert all(m.training for _, m in net.modules())


class Hidden(Module):
    """A parameter in a list."""

    def __init__(self) -> None:
        self.ws = [self.parameter("weight", (2,))]

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.ws[0][0], x


class Enclosed(Module):
    """A module that nothing but a function holds."""

    def __init__(self) -> None:
        inner = Linear(2, 2)
        self.inner = lambda: inner

    def children(self) -> Any:
        yield "inner", self.inner()


def test_what_cannot_be_exchanged_is_told() -> None:
    hidden = Sequential(Hidden())
    assert hidden.with_parameters(hidden.param()).param()[0][0] is hidden.param()[0][0], "the same ones need no exchange"
    with pytest.raises(UserError, match=r"^0\.weight is not an attribute of its module; write self\.w, self\.dw = "):
        hidden.with_parameters([(p.clone(), g.clone()) for p, g in hidden.param()])
    enclosed = Sequential(Enclosed())
    with pytest.raises(UserError, match=r"^0\.inner is neither an attribute of its module nor in a list, tuple or dict"):
        enclosed.with_parameters([(p.clone(), g.clone()) for p, g in enclosed.param()])
    with pytest.raises(ValueError, match="zip"):
        hidden.with_parameters([])
