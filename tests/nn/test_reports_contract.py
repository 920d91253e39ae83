"""The contract that the five reports share, on nets built by hand: forward, backward, param, zero_grad, add, a loss, a step."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import trainkit
from trainkit import (
    SGD,
    Add,
    BCEWithLogitsLoss,
    Concat,
    CrossEntropyLoss,
    Dropout,
    FanOut,
    Flatten,
    LeakyReLU,
    Linear,
    Module,
    MSELoss,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
)
from trainkit.core.errors import UserError
from trainkit.nn.init import NAMES


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(net: Module) -> Any:
    return net.to(dtype=torch.float64)


def mlp() -> Sequential:
    torch.manual_seed(0)
    return double(Sequential(Linear(2, 25), ReLU(), Linear(25, 25), Tanh(), Linear(25, 2)))


def torch_mlp() -> torch.nn.Sequential:
    layers = [torch.nn.Linear(2, 25), torch.nn.ReLU(), torch.nn.Linear(25, 25), torch.nn.Tanh(), torch.nn.Linear(25, 2)]
    return torch.nn.Sequential(*layers).double()


# -- the loop of the reports -------------------------------------------------------------------------------------------------


def test_a_net_trained_by_hand_follows_torch_step_by_step() -> None:
    net, rival = mlp(), torch_mlp()
    rival.load_state_dict(net.state_dict())
    loss, optimizer = MSELoss(), SGD(net.param(), lr=0.1, momentum=0.9)
    torch_loss, torch_optimizer = torch.nn.MSELoss(), torch.optim.SGD(rival.parameters(), lr=0.1, momentum=0.9)
    for i in range(20):
        x, t = randn(10, 2, seed=i), randn(10, 2, seed=100 + i)
        net.zero_grad()
        value = loss.forward(net.forward(x), t)
        net.backward(loss.backward())
        optimizer.step()
        torch_optimizer.zero_grad()
        expected = torch_loss(rival(x), t)
        expected.backward()
        torch_optimizer.step()
        assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    for (p, g), q in zip(net.param(), rival.parameters(), strict=True):
        assert_close(p, q.detach(), rtol=1e-12, atol=1e-12)
        assert_close(g, q.grad, rtol=1e-12, atol=1e-12)


def test_one_step_by_hand() -> None:
    """w = 2, b = 1, x = 3, t = 5: y = 7, loss (7 - 5)² = 4, dy = 4, dw = 12, db = 4, dx = 8; lr 0.1: w = 0.8, b = 0.6."""
    layer = Linear(1, 1)
    layer.w.copy_(torch.tensor([[2.0]]))
    layer.b.copy_(torch.tensor([1.0]))
    net, loss = Sequential(layer), MSELoss()
    optimizer = SGD(net.param(), lr=0.1)
    y = net.forward(torch.tensor([[3.0]]))
    assert y.item() == 7
    assert loss.forward(y, torch.tensor([[5.0]])).item() == 4
    dx = net.backward(loss.backward())
    assert (layer.dw.item(), layer.db.item(), dx.item()) == (12, 4, 8)
    optimizer.step()
    assert_close((layer.w.item(), layer.b.item()), (0.8, 0.6), rtol=1e-6, atol=0)


def test_gradients_add_until_zero_grad_clears_them() -> None:
    net = mlp()
    x, dy = randn(4, 2), randn(4, 2, seed=1)
    sums = []
    for _ in range(3):
        net.forward(x)
        net.backward(dy)
        sums.append([g.clone() for _, g in net.param()])
    assert_close(sums[2], [3 * g for g in sums[0]], rtol=1e-13, atol=1e-13)
    net.zero_grad()
    assert all((g == 0).all() for _, g in net.param())


def test_param_lists_each_parameter_with_its_gradient_in_the_order_of_the_layers() -> None:
    first, last = Linear(2, 3), Linear(3, 1, bias=False)
    net = Sequential(first, ReLU(), Sequential(last))
    pairs = [(first.w, first.dw), (first.b, first.db), (last.w, last.dw)]
    assert [(id(p), id(g)) for p, g in net.param()] == [(id(p), id(g)) for p, g in pairs]
    assert [name for name, _, _ in net.named_param()] == ["0.weight", "0.bias", "2.0.weight"]
    assert all(p.shape == g.shape and (g == 0).all() for p, g in net.param())
    SGD(net.param())  # which moves them into its buffer: the attributes see it
    first.w.fill_(3)
    assert (net.param()[0][0] == 3).all()


def test_add_extends_a_net_and_what_was_added_is_trained() -> None:
    net = Sequential().add(Tanh()).add(Linear(2, 3), Sigmoid())
    assert len(net) == 3
    assert net.add(Linear(3, 1)) is net
    assert [type(net[i]).__name__ for i in range(4)] == ["Tanh", "Linear", "Sigmoid", "Linear"]
    same = Sequential(*net.layers)
    x = torch.ones(2, 2)
    for n in (net, same):
        n.zero_grad()
        y, saved = n.fwd(x)
        n.bwd_params(saved, torch.ones_like(y))
        assert all(g.abs().sum() > 0 for _, g in n[3].param())
        assert n[1].db.shape == (3,)
    with pytest.raises(UserError, match=r"Sequential.add: not a Module \(got 3\)"):
        net.add(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build",
    [
        lambda: [Tanh(), Linear(2, 3), Tanh(), Linear(3, 2)],
        lambda: [Sequential(Tanh()), Sequential(Tanh(), Linear(2, 3)), Linear(3, 2)],
        lambda: [Sequential(), Linear(2, 2)],
        lambda: [Residual(Linear(2, 2), Tanh()), Tanh()],
        lambda: [Tanh(), ReLU()],
        lambda: [FanOut(2), Parallel(Linear(2, 2), Tanh()), Add(), Linear(2, 2)],
    ],
)
def test_grad_alone_gives_every_parameter_what_backward_gives(build: Callable[[], list[Module]]) -> None:
    net = double(Sequential(*build()))
    x, dy = randn(4, 2), randn(4, 2, seed=1)
    net.forward(x)
    net.backward(dy)
    expected = [g.clone() for _, g in net.param()]
    net.zero_grad()
    net.bwd_params(net.fwd(x)[1], dy)
    assert_close([g for _, g in net.param()], expected, rtol=0, atol=0)


def test_an_inner_container_that_grows_later_is_trained_too() -> None:
    inner = Sequential()
    net = double(Sequential(Tanh(), inner, Linear(2, 1)))
    inner.add(double(Linear(2, 2)))
    net.bwd_params(net.fwd(randn(3, 2))[1], randn(3, 1))
    assert inner[0].dw.abs().sum() > 0


# -- sharing and tuples ------------------------------------------------------------------------------------------------------


def test_a_module_used_twice_adds_its_gradients_as_autograd_does() -> None:
    shared = double(Linear(3, 3))
    net = Sequential(shared, Tanh(), Sequential(shared), Sigmoid(), shared)
    assert len(net.param()) == 2
    w, b, x = (v.clone().requires_grad_() for v in (shared.w, shared.b, randn(5, 3)))
    y = torch.nn.functional.linear(x, w, b)
    y = torch.nn.functional.linear(torch.tanh(y), w, b)
    y = torch.nn.functional.linear(torch.sigmoid(y), w, b)
    dy = randn(5, 3, seed=1)
    dw, db, dx = torch.autograd.grad(y, [w, b, x], dy)
    assert_close(net.forward(x.detach()), y.detach(), rtol=1e-13, atol=1e-13)
    assert_close(net.backward(dy), dx, rtol=1e-13, atol=1e-13)
    assert_close((shared.dw, shared.db), (dw, db), rtol=1e-13, atol=1e-13)
    SGD(net.param(), lr=0.1).step()
    assert_close(shared.w, w.detach() - 0.1 * dw, rtol=1e-13, atol=1e-13)


def test_two_views_through_shared_weights_are_compared_as_autograd_does() -> None:
    """A pair of images, one digit net for both, and a comparison: the reports' weight sharing."""
    digit = double(Linear(4, 3))
    head = double(Linear(6, 1))
    net = Sequential(digit, Tanh(), Concat(), head)
    a, b, dy = randn(5, 4), randn(5, 4, seed=1), randn(5, 1, seed=2)
    leaves = [v.clone().requires_grad_() for v in (a, b, digit.w, digit.b, head.w, head.b)]
    xa, xb, w, c, v, d = leaves
    y = torch.cat([torch.tanh(xa @ w.T + c), torch.tanh(xb @ w.T + c)], 1) @ v.T + d
    expected = torch.autograd.grad(y, leaves, dy)
    assert_close(net.forward(a, b), y.detach(), rtol=1e-13, atol=1e-13)
    dx = net.backward(dy)
    assert type(dx) is tuple
    assert_close((*dx, digit.dw, digit.db, head.dw, head.db), expected, rtol=1e-13, atol=1e-13)


def test_tuples_go_in_and_come_out() -> None:
    net = double(Sequential(Linear(4, 3), LeakyReLU(0.1)))
    x = (randn(5, 4), randn(2, 4, seed=1))
    y = net.forward(*x)
    assert type(y) is tuple
    assert [v.shape for v in y] == [(5, 3), (2, 3)]
    dy = (randn(5, 3, seed=2), randn(2, 3, seed=3))
    dx = net.backward(*dy)
    pair = [g.clone() for _, g in net.param()]
    net.zero_grad()
    assert_close(net.forward(torch.cat(x)), torch.cat(y), rtol=1e-13, atol=1e-13)
    assert_close(net.backward(torch.cat(dy)), torch.cat(dx), rtol=1e-13, atol=1e-13)
    assert_close([g for _, g in net.param()], pair, rtol=1e-13, atol=1e-13)
    net.forward(x)  # a tuple as one argument is the same
    assert_close(net.backward(dy), dx, rtol=1e-13, atol=1e-13)


def test_branches_are_what_autograd_makes_of_them() -> None:
    left, right = double(Linear(3, 2)), double(Linear(3, 2))
    net = Sequential(FanOut(3), Parallel(left, Sequential(Tanh(), right), Sequential(Tanh(), left)), Add())
    leaves = [v.clone().requires_grad_() for v in (randn(4, 3), left.w, left.b, right.w, right.b)]
    x, w, b, v, c = leaves
    y = (x @ w.T + b) + (torch.tanh(x) @ v.T + c) + (torch.tanh(x) @ w.T + b)
    dy = randn(4, 2, seed=1)
    expected = torch.autograd.grad(y, leaves, dy)
    assert_close(net.forward(x.detach()), y.detach(), rtol=1e-13, atol=1e-13)
    assert_close((net.backward(dy), left.dw, left.db, right.dw, right.db), expected, rtol=1e-13, atol=1e-13)


def test_weights_are_set_by_hand() -> None:
    layer = Linear(2, 1)
    net = Sequential(layer)
    SGD(net.param())
    layer.w.copy_(torch.tensor([[1.0, 2.0]]))
    layer.b.copy_(torch.tensor([0.5]))
    assert net(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[11.5], [0.5]]


# -- names -------------------------------------------------------------------------------------------------------------------

PUBLIC = [name for home in ("nn", "optim") for name in trainkit._PUBLIC[home]]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_imports_from_trainkit(name: str) -> None:
    assert getattr(trainkit, name).__name__ == name
    assert name in dir(trainkit)
    assert name in trainkit.__all__


def test_the_public_names_are_all_modules_losses_and_optimizers_there_are() -> None:
    def below(base: type) -> set[str]:
        subs = {c for c in base.__subclasses__() if c.__module__.startswith("trainkit.")}
        return {c.__name__ for c in subs} | {name for c in subs for name in below(c)}

    for name in PUBLIC:
        getattr(trainkit, name)
    there = below(trainkit.Module) | below(trainkit.Loss) | below(trainkit.Optimizer)
    assert there - {"Activation", "Container"} == set(PUBLIC) - {"Module", "Loss", "Optimizer"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'trainkit' has no attribute 'Linera'"):
        trainkit.Linera  # noqa: B018


def test_importing_trainkit_does_not_load_torch() -> None:
    code = "import sys, trainkit; assert 'torch' not in sys.modules; trainkit.Linear; assert 'torch' in sys.modules"
    root = trainkit.__path__[0].rsplit("/", 1)[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# -- initial weights ---------------------------------------------------------------------------------------------------------

IN, OUT = 400, 600
LAWS: dict[str, tuple[float, float, float | None, float | None]] = {  # mean, deviation, and bounds where there are some
    "uniform": (0, 1 / math.sqrt(IN) / math.sqrt(3), -1 / math.sqrt(IN), 1 / math.sqrt(IN)),
    "unit_uniform": (0.5, 1 / math.sqrt(12), 0, 1),
    "standard": (0, 1, None, None),
    "xavier": (0, math.sqrt(2 / (IN + OUT)), None, None),
    "he": (0, math.sqrt(2 / IN), None, None),
    "fan_out": (0, math.sqrt(2 / OUT), None, None),
    "normal": (0, 0.3, None, None),
}


def test_every_initialisation_has_its_law_here() -> None:
    assert set(LAWS) == set(NAMES)


@pytest.mark.parametrize("init", LAWS)
def test_weights_are_drawn_from_the_named_law(init: Any) -> None:
    torch.manual_seed(3)
    w = Linear(IN, OUT, init=init, std=0.3).w.double()
    mean, deviation, low, high = LAWS[init]
    assert abs(w.mean().item() - mean) < 5 * deviation / math.sqrt(w.numel())
    assert abs(w.std().item() / deviation - 1) < 0.01
    kurtosis = ((w - w.mean()) / w.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(1.8 if low is not None else 3.0, abs=0.1)
    if low is not None and high is not None:
        assert low <= w.min() < low + 0.001 * (high - low)
        assert high - 0.001 * (high - low) < w.max() <= high


@pytest.mark.parametrize("init", LAWS)
def test_biases_are_drawn_like_weights_or_0_where_the_paper_has_them_so(init: Any) -> None:
    torch.manual_seed(3)
    b = Linear(4, 20000, init=init, std=0.3).b.double()
    if init in ("xavier", "he", "fan_out"):
        assert (b == 0).all()
        return
    deviation = {"uniform": 0.5 / math.sqrt(3), "unit_uniform": 1 / math.sqrt(12), "standard": 1.0, "normal": 0.3}[init]
    assert abs(b.std().item() / deviation - 1) < 0.03
    assert abs(b.mean().item() - (0.5 if init == "unit_uniform" else 0)) < 5 * deviation / math.sqrt(20000)


def test_the_default_law_is_torchs() -> None:
    torch.manual_seed(4)
    ours = Linear(7, 5)
    torch.manual_seed(4)
    theirs = torch.nn.Linear(7, 5)
    assert_close(ours.w, theirs.weight.detach())
    assert_close(ours.b, theirs.bias.detach())


@pytest.mark.parametrize("init", LAWS)
def test_a_generator_makes_a_draw_again(init: Any) -> None:
    net = Sequential(Linear(3, 4, init=init), Tanh(), Sequential(Linear(4, 2, init=init)))
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(draws))  # the global generator has no say
        draws.append(net.initialize(torch.Generator().manual_seed(seed)).state_dict())
    for name in draws[0]:
        assert torch.equal(draws[0][name], draws[1][name])
        assert name.endswith("bias") or not torch.equal(draws[0][name], draws[2][name])


def test_replicas_are_drawn_from_their_own_seeds_whatever_their_place() -> None:
    one, other = (Sequential(Linear(3, 4), Linear(4, 2)).replicate(seeds).state_dict() for seeds in ([5, 6, 7], [7, 5]))
    for name in one:
        assert torch.equal(one[name][0], other[name][1])
        assert torch.equal(one[name][2], other[name][0])
        assert not torch.equal(one[name][0], one[name][1])


# -- errors ------------------------------------------------------------------------------------------------------------------


class Stubborn(Tanh):
    can_replicate = False


@pytest.mark.parametrize(
    ("net", "x", "message"),
    [
        (lambda: Sequential(Linear(4, 256), ReLU(), Linear(300, 2)), (128, 4), "2.Linear: x is (128, 256), needs (n, 300)"),
        (lambda: Sequential(ReLU(), ReLU(), Linear(256, 2)), (128, 300), "2.Linear: x is (128, 300), needs (n, 256)"),
        (lambda: Linear(256, 2), (128, 300), "Linear: x is (128, 300), needs (n, 256)"),
        (lambda: Sequential(Sequential(Tanh(), Linear(3, 2))), (5, 4), "0.1.Linear: x is (5, 4), needs (n, 3)"),
        (lambda: Sequential(Linear(3, 2)).replicate([0, 1]), (2, 5, 4), "0.Linear: x is (2, 5, 4), needs (r, n, 3)"),
        (
            lambda: Sequential(Residual(Linear(3, 2))),
            (5, 3),
            "0.Residual: x is (5, 3), f(x) is (5, 2); both need the same shape",
        ),
        (
            lambda: Sequential(FanOut(2), Parallel(Linear(3, 2), Linear(3, 1)), Add()),
            (5, 3),
            "2.Add: x are (5, 2), (5, 1); all need the same shape",
        ),
        (lambda: Sequential(Add()), (5, 3), "0.Add: x is one tensor, needs a tuple; put FanOut before it"),
        (lambda: Sequential(Concat()), (5, 3), "0.Concat: x is one tensor, needs a tuple; put FanOut before it"),
        (
            lambda: Sequential(Parallel(Tanh(), Tanh())),
            (5, 3),
            "0.Parallel: x is one tensor, needs a tuple of 2; put FanOut(2) before it",
        ),
        (
            lambda: Sequential(FanOut(3), Parallel(Tanh(), Tanh())),
            (5, 3),
            "1.Parallel: x is a tuple of 3, needs a tuple of 2; put FanOut(2)",
        ),
    ],
)
def test_a_clash_of_shapes_names_the_place_the_shape_and_the_need(
    net: Callable[[], Module], x: tuple[int, ...], message: str
) -> None:
    made = net()
    for call in (made, made.forward):
        with pytest.raises(UserError) as error:
            call(torch.zeros(x))
        assert str(error.value).startswith(message)
    assert all(set(vars(m)).isdisjoint({"fwd", "bwd", "bwd_params"}) for _, m in made.modules())  # looking left no trace


def test_a_clash_of_dtypes_names_the_place() -> None:
    with pytest.raises(UserError, match=r"^1\.Linear: .*(dtype|Float|Double)"):
        Sequential(Tanh(), Linear(3, 2)).forward(torch.zeros(5, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Linear(0, 3), "Linear: in_features=0, out_features=3; both need at least 1"),
        (lambda: Linear(3, -1), "Linear: in_features=3, out_features=-1; both need at least 1"),
        (lambda: Linear(3, 3, init="xaver"), "Linear: no init 'xaver'; did you mean 'xavier'?"),  # type: ignore[arg-type]
        (lambda: Linear(3, 3, std=-1), "Linear: std=-1; needs 0 or more"),
        (lambda: Dropout(1.5), "Dropout: p=1.5; needs a probability from 0 to 1"),
        (lambda: FanOut(0), "FanOut: copies=0; needs at least 2"),
        (lambda: CrossEntropyLoss(label_smoothing=2), "CrossEntropyLoss: label_smoothing=2; needs a number from 0 to 1"),
        (lambda: trainkit.HuberLoss(delta=0), "HuberLoss: delta=0; needs a number above 0"),
        (lambda: trainkit.GELU("tan"), "GELU: approximate='tan'; choose from none, tanh"),
        (lambda: trainkit.Softplus(beta=0), "Softplus: beta=0; needs a number other than 0"),
        (lambda: Sequential(Stubborn()).replicate([0]), "model 0 Stubborn: cannot train replicas; set trainer.replicas=1"),
        (lambda: Linear(2, 2).replicate([0]).replicate([1]), "has a replica axis already; replicate a net once"),
        (
            lambda: CrossEntropyLoss(weight=[1.0])(torch.zeros(2, 3), torch.tensor([0, 1])),
            "weight: (1,); needs a number for each of the 3",
        ),
        (lambda: CrossEntropyLoss()(torch.zeros(2, 3), torch.tensor([0, 3])), "class index 3; y has classes 0 to 2"),
        (lambda: CrossEntropyLoss()(torch.zeros(2, 3), torch.tensor([0, -1])), "class index -1; y has classes 0 to 2"),
        (
            lambda: trainkit.BCELoss()(torch.tensor([1.5]), torch.tensor([1.0])),
            "BCELoss: y is outside [0, 1]; end the net with a Sigmoid",
        ),
        (lambda: trainkit.BCELoss()(torch.tensor([-0.5]), torch.tensor([1.0])), "BCELoss: y is outside [0, 1]"),
        (lambda: MSELoss()(torch.zeros(5, 1), torch.zeros(5)), "both need the same shape; give t.unsqueeze(-1)"),
        (lambda: MSELoss()(torch.zeros(5, 2), torch.zeros(5)), "end the net in one output, and give t.unsqueeze(-1)"),
        (lambda: MSELoss()(torch.zeros(5, 1), torch.zeros(5)), "MSELoss: y is (5, 1), t is (5,); both need the same shape"),
        (lambda: MSELoss()(torch.zeros(5, 2), torch.zeros(5, 1)), "same shape; the net has 2 outputs for 1 target: make them"),
        (lambda: MSELoss()(torch.zeros(5, 3), torch.zeros(5).long()), "t holds class indices: use CrossEntropyLoss, or set"),
        (
            lambda: trainkit.BCELoss()(torch.zeros(5, 1), torch.zeros(5).long()),
            "t holds class indices: set data.targets=binary",
        ),
        (lambda: BCEWithLogitsLoss()(torch.zeros(5, 2), torch.zeros(5).long()), "or set data.targets=onehot"),
        (
            lambda: CrossEntropyLoss()(torch.zeros(5, 2), torch.ones(5)),
            "probabilities need y's shape; for class indices give t.l",
        ),
        (lambda: CrossEntropyLoss()(torch.zeros(5, 2), torch.rand(5, 1)), "y's shape; for a regression use MSELoss"),
        (lambda: CrossEntropyLoss()(torch.zeros(5, 1), 9 * torch.ones(5, 1)), "always 1; for a regression use MSELoss"),
        (lambda: CrossEntropyLoss()(torch.zeros(5, 1), torch.ones(5, 1)), "always 1; use BCEWithLogitsLoss"),
        (
            lambda: trainkit.NLLLoss()(torch.zeros(5, 2), torch.ones(5)),
            "(data.targets: index); for class indices give t.long()",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_place_value_and_cure(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build()
    assert message in str(error.value)


def test_logits_may_lie_anywhere() -> None:
    assert BCEWithLogitsLoss()(torch.tensor([-7.5, 9.0]), torch.tensor([0.0, 1.0])).isfinite()


# -- state -------------------------------------------------------------------------------------------------------------------


def test_a_state_loads_into_the_same_torch_nn_sequential_and_back() -> None:
    net, rival = mlp(), torch_mlp()
    rival.load_state_dict(net.state_dict(), strict=True)
    x = randn(6, 2)
    assert_close(net(x), rival(x).detach(), rtol=1e-13, atol=1e-13)
    other = torch_mlp()
    net.load_state_dict(other.state_dict())
    assert_close(net(x), other(x).detach(), rtol=1e-13, atol=1e-13)
    inner = double(Sequential(Flatten(), Sequential(Linear(4, 3, bias=False), Tanh())))
    torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.Tanh())
    ).double().load_state_dict(inner.state_dict(), strict=True)


def test_a_state_is_a_copy_both_ways() -> None:
    net = mlp()
    state = net.state_dict()
    kept = {name: p.clone() for name, p in state.items()}
    for p, _ in net.param():
        p.add_(1)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    net.load_state_dict(state)
    for p in state.values():
        p.add_(1)
    assert all(torch.equal(p, kept[name]) for name, p in net.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("4.bias"), "model: 4.bias: in the net, not in the state"),
        (lambda s: s.update({"5.weight": torch.zeros(1)}), "model: 5.weight: in the state, not in the net"),
        (lambda s: s.update({"2.weight": torch.zeros(25, 24)}), "model: 2.weight: the net has (25, 25), the state (25, 24)"),
        (
            lambda s: s.update({"2.bias": torch.zeros(())}),
            "model: 2.bias: the net has (25,), the state ()",
        ),  # it would broadcast
        (lambda s: s.update({"0.w": s.pop("0.weight")}), "model: 0.weight: in the net, not in the state"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    net = mlp()
    before = net.state_dict()
    state = {name: p + 1 for name, p in before.items()}
    change(state)
    with pytest.raises(UserError) as error:
        net.load_state_dict(state)
    assert message in str(error.value)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
