"""The formulas of the activations' docstrings in plain lines, beside torch's kernels that the modules call; and their bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from trainkit.nn.layers import activation
from trainkit.nn.module import Module

Formula = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]  # y of x; dx of x and dy


# -- the formulas: each reads as its docstring --------------------------------------------------------------------------------


def identity() -> Formula:
    return lambda x: x, lambda x, dy: dy


def relu() -> Formula:
    return lambda x: torch.where(x <= 0, 0, x), lambda x, dy: torch.where(x <= 0, 0, dy)


def leaky_relu(a: float) -> Formula:
    return lambda x: torch.where(x > 0, x, a * x), lambda x, dy: torch.where(x > 0, dy, a * dy)


def tanh() -> Formula:
    return torch.tanh, lambda x, dy: dy * (1 - torch.tanh(x) ** 2)


def sigmoid() -> Formula:
    return torch.sigmoid, lambda x, dy: dy * torch.sigmoid(x) * (1 - torch.sigmoid(x))


def elu(a: float) -> Formula:
    return (
        lambda x: torch.where(x > 0, x, a * torch.expm1(x)),
        lambda x, dy: torch.where(x > 0, dy, dy * a * torch.exp(x)),
    )


def gelu() -> Formula:
    def density(x: Tensor) -> Tensor:
        return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

    return lambda x: x * torch.special.ndtr(x), lambda x, dy: dy * (torch.special.ndtr(x) + x * density(x))


def gelu_tanh() -> Formula:
    def u(x: Tensor) -> Tensor:
        return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)

    def dx(x: Tensor, dy: Tensor) -> Tensor:
        h, du = torch.tanh(u(x)), math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
        return dy * ((1 + h) / 2 + x * (1 - h * h) * du / 2)

    return lambda x: x * (1 + torch.tanh(u(x))) / 2, dx


def silu() -> Formula:
    def dx(x: Tensor, dy: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return dy * s * (1 + x * (1 - s))

    return lambda x: x * torch.sigmoid(x), dx


def softplus(beta: float, threshold: float) -> Formula:
    return (
        lambda x: torch.where(beta * x > threshold, x, torch.log1p(torch.exp(beta * x)) / beta),
        lambda x, dy: torch.where(beta * x > threshold, dy, dy * torch.sigmoid(beta * x)),
    )


def softmax(dim: int) -> Formula:
    def y(x: Tensor) -> Tensor:
        e = torch.exp(x - x.amax(dim, keepdim=True))
        return e / e.sum(dim, keepdim=True)

    return y, lambda x, dy: y(x) * (dy - (dy * y(x)).sum(dim, keepdim=True))


def log_softmax(dim: int) -> Formula:
    def y(x: Tensor) -> Tensor:
        x = x - x.amax(dim, keepdim=True)
        return x - torch.log(torch.exp(x).sum(dim, keepdim=True))

    return y, lambda x, dy: dy - torch.exp(y(x)) * dy.sum(dim, keepdim=True)


# our module, torch's, the formula
CASES: list[tuple[Module, torch.nn.Module, Formula]] = [
    (activation.Identity(), torch.nn.Identity(), identity()),
    (activation.ReLU(), torch.nn.ReLU(), relu()),
    (activation.LeakyReLU(), torch.nn.LeakyReLU(), leaky_relu(0.01)),
    (activation.LeakyReLU(-0.3), torch.nn.LeakyReLU(-0.3), leaky_relu(-0.3)),
    (activation.LeakyReLU(0), torch.nn.LeakyReLU(0), leaky_relu(0)),
    (activation.Tanh(), torch.nn.Tanh(), tanh()),
    (activation.Sigmoid(), torch.nn.Sigmoid(), sigmoid()),
    (activation.ELU(), torch.nn.ELU(), elu(1)),
    (activation.ELU(0.7), torch.nn.ELU(0.7), elu(0.7)),
    (activation.ELU(-0.7), torch.nn.ELU(-0.7), elu(-0.7)),
    (activation.GELU(), torch.nn.GELU(), gelu()),
    (activation.GELU("tanh"), torch.nn.GELU("tanh"), gelu_tanh()),
    (activation.SiLU(), torch.nn.SiLU(), silu()),
    (activation.Softplus(), torch.nn.Softplus(), softplus(1, 20)),
    (activation.Softplus(2.0, 5.0), torch.nn.Softplus(2.0, 5.0), softplus(2, 5)),
    (activation.Softplus(-1.5, 0.0), torch.nn.Softplus(-1.5, 0.0), softplus(-1.5, 0)),
    (activation.Softmax(), torch.nn.Softmax(-1), softmax(-1)),
    (activation.Softmax(1), torch.nn.Softmax(1), softmax(1)),
    (activation.LogSoftmax(), torch.nn.LogSoftmax(-1), log_softmax(-1)),
    (activation.LogSoftmax(1), torch.nn.LogSoftmax(1), log_softmax(1)),
]
over_all = pytest.mark.parametrize(("ours", "theirs", "formula"), CASES, ids=[repr(ours) for ours, *_ in CASES])
ELEMENTWISE = [case for case in CASES if not isinstance(case[0], activation.Softmax)]
over_elementwise = pytest.mark.parametrize(
    ("ours", "theirs", "formula"), ELEMENTWISE, ids=[repr(ours) for ours, *_ in ELEMENTWISE]
)

# Both ends of the number line, both zeros, where exp and Φ run out of digits, and both sides of each threshold above.
HALF = [0.0, 5e-324, 1e-300, 1e-9, 0.1, 1.0, 2.4999, 2.5, 2.5001, 8.3, 19.9999, 20.0, 20.0001, 38.6, 100.0, 708.0, 746.0]
EDGES = torch.tensor([math.nan, *HALF, *(-x for x in HALF), 1e100, -1e100, 1e154, math.inf, -math.inf], dtype=torch.float64)


def same_bits(a: Tensor, b: Tensor) -> None:
    """Signs of zeros included; of NaN, only that both are."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    assert a.dtype == b.dtype
    differ = (a.contiguous().view(bits) != b.contiguous().view(bits)) & ~(a.isnan() & b.isnan())
    assert not differ.any(), f"{a[differ][:5].tolist()} and {b[differ][:5].tolist()}"


def compare_bits(ours: Module, theirs: torch.nn.Module, x: Tensor, dy: Tensor) -> None:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    expected = theirs(leaf)
    (dx,) = torch.autograd.grad(expected, leaf, dy)
    y, saved = ours.fwd(x)
    same_bits(y, expected.detach())
    same_bits(ours.bwd(saved, dy), dx)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the claims ---------------------------------------------------------------------------------------------------------------


def test_every_activation_has_its_formula() -> None:
    defined = {v for v in vars(activation).values() if isinstance(v, type) and v.__module__ == activation.__name__}
    assert {type(ours) for ours, *_ in CASES} == defined - {activation.Activation}


@over_all
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_a_kernel_computes_its_formula(ours: Module, theirs: torch.nn.Module, formula: Formula, scale: float) -> None:
    x, dy = scale * randn(6, 5, 4), randn(6, 5, 4, seed=1)
    y, saved = ours.fwd(x)
    assert_close(y, formula[0](x), rtol=1e-13, atol=1e-15)
    assert_close(ours.bwd(saved, dy), formula[1](x, dy), rtol=1e-12, atol=1e-15)


@over_elementwise
def test_a_kernel_computes_its_formula_at_the_ends_and_at_the_seams(
    ours: Module, theirs: torch.nn.Module, formula: Formula
) -> None:
    dy = torch.full_like(EDGES, -1.5)
    y, saved = ours.fwd(EDGES)
    assert_close(y, formula[0](EDGES), rtol=1e-13, atol=1e-15, equal_nan=True)
    assert_close(ours.bwd(saved, dy), formula[1](EDGES, dy), rtol=1e-12, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("ours", [activation.Softmax(), activation.LogSoftmax()], ids=repr)
def test_a_softmax_of_huge_logits_is_its_formula(ours: Module) -> None:
    """And a row with NaN or +inf is NaN; a class ruled out by -inf has probability 0."""
    rows = [[1e300, -1e300, 0.0], [800.0, 799.0, -800.0], [-math.inf, 0.0, 1.0], [math.nan, 0.0, 1.0], [math.inf, 0.0, 1.0]]
    x, dy = torch.tensor(rows, dtype=torch.float64), randn(5, 3)
    y_formula, dx_formula = (softmax if type(ours) is activation.Softmax else log_softmax)(-1)
    y, saved = ours.fwd(x)
    assert_close(y, y_formula(x), rtol=1e-13, atol=1e-15, equal_nan=True)
    assert_close(ours.bwd(saved, dy), dx_formula(x, dy), rtol=1e-12, atol=1e-15, equal_nan=True)
    assert y[3:].isnan().all()


@over_all
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(50, 25), (7, 3, 5), (3, 128, 33)], ids=str)
def test_values_and_gradients_have_the_bits_of_torch_nn_under_autograd(
    ours: Module, theirs: torch.nn.Module, formula: Formula, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    compare_bits(ours, theirs, (3 * randn(*shape)).to(dtype), randn(*shape, seed=1).to(dtype))


@over_all
def test_the_bits_are_torchs_at_the_ends_too_and_for_strided_and_empty_tensors(
    ours: Module, theirs: torch.nn.Module, formula: Formula
) -> None:
    for dtype in (torch.float64, torch.float32):
        edges = EDGES.to(dtype).repeat(2)[:77].view(7, 11)  # full vectors of the processor, and a rest
        dy = randn(7, 11, seed=2).to(dtype)
        compare_bits(ours, theirs, edges, dy)
        compare_bits(ours, theirs, edges.t(), dy.t())
        compare_bits(ours, theirs, edges, dy[:1, :1].expand(7, 11))
        compare_bits(ours, theirs, edges[:0], dy[:0])


@over_all
def test_a_replica_is_the_module_alone_to_rounding(ours: Module, theirs: torch.nn.Module, formula: Formula) -> None:
    """`dim` does not count the replica axis. Not to the bit: the rest of a tensor that fills no vector of the processor is
    computed by the kernel's scalar code, and stacked replicas leave another rest."""
    x, dy = randn(3, 6, 5, 4), randn(3, 6, 5, 4, seed=1)
    together = eval(repr(ours), vars(activation)).replicate(range(3))
    y, saved = together.fwd(x)
    dx = together.bwd(saved, dy)
    for r in range(3):
        y_r, saved_r = ours.fwd(x[r])
        assert_close(y[r], y_r, rtol=1e-14, atol=1e-15)
        assert_close(dx[r], ours.bwd(saved_r, dy[r]), rtol=1e-13, atol=1e-15)


@over_all
def test_a_traced_pair_computes_the_same(ours: Module, theirs: torch.nn.Module, formula: Formula) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def pair(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        y, saved = ours.fwd(x)
        return y, ours.bwd(saved, dy)

    x, dy = randn(6, 5), randn(6, 5, seed=1)
    graph = make_fx(pair)(torch.zeros(6, 5).double(), torch.zeros(6, 5).double())
    for traced, eager in zip(graph(x, dy), pair(x, dy), strict=True):
        same_bits(traced, eager)
