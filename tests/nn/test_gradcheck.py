"""The checker can say no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainkit.nn.gradcheck import TOLERANCE, GradcheckResult, gradcheck, gradcheck_loss
from trainkit.nn.layers import Add, Parallel, Sequential
from trainkit.nn.layers.activation import ELU, LeakyReLU, ReLU, Tanh
from trainkit.nn.layers.dropout import Dropout
from trainkit.nn.layers.linear import Linear
from trainkit.nn.losses import L1Loss, MSELoss
from trainkit.nn.module import Module


class Planted(Linear):
    """A Linear with an error in one derivative."""

    def __init__(self, in_x: Callable[[Tensor], Tensor] = lambda d: d, in_w: float = 1.0, in_b: float = 1.0) -> None:
        super().__init__(3, 2)
        self.in_x, self.in_w, self.in_b = in_x, in_w, in_b

    def bwd(self, saved: Any, dy: Tensor) -> Tensor:
        w, b = self.dw.clone(), self.db.clone()
        dx = super().bwd(saved, dy)
        self.dw.copy_(w + self.in_w * (self.dw - w))
        self.db.copy_(b + self.in_b * (self.db - b))
        return self.in_x(dx)


def one_element(factor: float) -> Callable[[Tensor], Tensor]:
    def change(d: Tensor) -> Tensor:
        d = d.clone()
        d.view(-1)[d.abs().argmax()] *= factor
        return d

    return change


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def refused(module: Any, x: Any = X) -> list[str]:
    torch.manual_seed(1)
    return [v.name for v in gradcheck(module, x) if not v.ok]


def seeded(build: Callable[[], Any]) -> Any:
    torch.manual_seed(2)
    return build()


def test_a_right_module_passes_with_room_to_spare() -> None:
    verdicts = gradcheck(seeded(Planted), X)
    assert [v.name for v in verdicts] == ["x", "weight", "bias"]
    assert all(v.error < TOLERANCE / 100 for v in verdicts)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: Planted(in_x=lambda d: 1.01 * d), ["x"]),
        (lambda: Planted(in_x=lambda d: 0.99 * d), ["x"]),
        (lambda: Planted(in_x=one_element(1.01)), ["x"]),
        (lambda: Planted(in_x=lambda d: -d), ["x"]),
        (lambda: Planted(in_x=torch.zeros_like), ["x"]),
        (lambda: Planted(in_w=1.01), ["weight"]),
        (lambda: Planted(in_b=1.01), ["bias"]),
        (lambda: Planted(in_w=0.0), ["weight"]),
        (lambda: Planted(in_b=-1.0), ["bias"]),
        (lambda: Planted(in_x=lambda d: d * torch.nan), ["x"]),
        (lambda: Planted(in_x=one_element(torch.nan)), ["x"]),
        (lambda: Planted(in_x=one_element(torch.inf)), ["x"]),
        (lambda: Planted(in_w=torch.nan), ["weight"]),
        (lambda: Planted(in_b=torch.inf), ["bias"]),
        (lambda: Planted(in_x=lambda d: d[:1]), ["x"]),
        (lambda: Planted(in_x=lambda d: d.sum(0)), ["x"]),
        (lambda: Planted(in_x=lambda d: torch.cat([d, d])), ["x"]),
        (lambda: Planted(in_x=lambda d: d.T), ["x"]),
    ],
)
def test_a_wrong_derivative_is_refused_by_the_name_of_its_tensor(build: Callable[[], Any], names: list[str]) -> None:
    assert refused(seeded(build)) == names


def test_an_error_deep_in_a_net_is_refused_in_all_that_it_reaches_and_nothing_else() -> None:
    net = seeded(lambda: Sequential(Linear(3, 3), Tanh(), Planted(in_w=1.01), Tanh()))
    assert refused(net) == ["2.weight"]
    net = seeded(lambda: Sequential(Linear(3, 3), Tanh(), Planted(in_x=lambda d: 1.01 * d), Tanh()))
    assert refused(net) == ["x", "0.weight", "0.bias"]


def test_each_input_of_a_tuple_is_named() -> None:
    net = seeded(lambda: Parallel(Linear(3, 2), Planted(in_x=lambda d: 1.01 * d)))
    assert refused(net, (X, X)) == ["x[1]"]
    assert [v.name for v in gradcheck(Add(), (X, X))] == ["x[0]", "x[1]"]


class NanForward(Tanh):
    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, saved = super().fwd(x)
        return y * torch.nan, saved


class Forgetful(Tanh):
    """Its gradient holds for training alone, and it draws without a generator of its own."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().fwd(x + 0.1 * torch.rand(x.shape))


def test_a_nan_in_the_forward_pass_is_refused() -> None:
    assert refused(NanForward()) == ["x"]


def test_a_module_whose_passes_draw_different_numbers_is_refused() -> None:
    assert refused(Forgetful()) == ["x"]


def test_a_random_module_with_a_generator_is_reseeded_and_passes() -> None:
    assert refused(seeded(lambda: Sequential(Linear(3, 4), Dropout(0.5), Tanh()))) == []


@pytest.mark.parametrize("module", [ReLU(), LeakyReLU(0.2), ELU(0.5)], ids=repr)
def test_inputs_on_a_kink_are_moved_off_it(module: Any) -> None:
    assert refused(module, torch.tensor([[0.0, 1e-9, -1e-7, 1e-4, -1.0, 1.0]])) == []


class RowMax(Module):
    """The largest of each row; `pick` says which of equal ones has the derivative 1, or all of them (wrong)."""

    def __init__(self, pick: str) -> None:
        self.pick = pick

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.amax(1, keepdim=True), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        ties = (x == x.amax(1, keepdim=True)).to(x.dtype)
        if self.pick == "first":
            ties = ties * (ties.cumsum(1) == 1)
        elif self.pick == "shares":
            ties = ties / ties.sum(1, keepdim=True)
        return (2.0 if self.pick == "twice" else -1.0 if self.pick == "negative" else 1.0) * ties * dy


@pytest.mark.parametrize(
    ("pick", "ok"), [("first", True), ("shares", True), ("all", True), ("twice", False), ("negative", False)]
)
def test_at_a_tie_each_value_between_the_slopes_of_both_sides_is_a_derivative(pick: str, ok: bool) -> None:
    x = torch.tensor([[1.0, 1.0, 0.0], [2.0, 3.0, 3.0]])
    assert all(result.ok for result in gradcheck(RowMax(pick), x)) is ok


@pytest.mark.parametrize(("pick", "ok"), [("first", True), ("all", True), ("twice", False)])
def test_where_both_sides_have_one_slope_it_is_the_derivative(pick: str, ok: bool) -> None:
    assert all(result.ok for result in gradcheck(RowMax(pick), torch.tensor([[1.0, 4.0, 0.0]]))) is ok


def test_what_it_is_given_stays_as_it_was() -> None:
    net, x = seeded(lambda: Sequential(Linear(3, 2), ReLU())), torch.zeros(2, 3)
    before = net.state_dict()
    net.param()[0][1].fill_(5)
    gradcheck(net, x)
    assert (x == 0).all()
    assert all(torch.equal(p, before[name]) and p.dtype == torch.float32 for name, p in net.state_dict().items())
    assert (net.param()[0][1] == 5).all()


class Wrong(MSELoss):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(reduction="sum")
        self.change = change

    def bwd(self, d: Tensor) -> Tensor:
        return self.change(super().bwd(d))


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        (lambda d: d, True),
        (lambda d: 1.01 * d, False),
        (one_element(0.99), False),
        (lambda d: d * torch.nan, False),
        (one_element(torch.inf), False),
        (lambda d: d[:1], False),
    ],
)
def test_a_wrong_derivative_of_a_loss_is_refused(change: Callable[[Tensor], Tensor], ok: bool) -> None:
    assert gradcheck_loss(Wrong(change), X, X.flip(0)).ok == ok


def test_a_loss_is_not_asked_at_its_kink() -> None:
    assert gradcheck_loss(L1Loss(), X, X).ok


@pytest.mark.parametrize(
    ("error", "ok"), [(0.0, True), (TOLERANCE, True), (1.01e-6, False), (float("inf"), False), (float("nan"), False)]
)
def test_a_verdict_is_yes_up_to_the_tolerance(error: float, ok: bool) -> None:
    assert GradcheckResult("x", error).ok == ok
