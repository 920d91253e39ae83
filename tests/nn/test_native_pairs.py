"""The contract of the C++ pairs: each computes what the Python pair beside it does, and writes nothing else.

The reference is the Python pair in float64 on the same numbers. An error is measured in units of the last place of the largest
term of a result's formula (`terms_of`), since no order of operations is better than that where terms cancel. It may be LIMIT
units; in float32 also twice the error that the Python pair itself makes in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import mpmath
import pytest
import torch
from native_examples import CASES, LOSSES, MODULES, OPTIMIZERS
from native_pairs import Buffer, Case, Library, Named, made, native_loss, native_pass, native_update, python_pass, row_of
from torch import Tensor

from trainkit.nn import losses
from trainkit.nn.layers import activation, embedding
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim import Adagrad, Adam, Optimizer, RMSprop

LIMIT = 8  # units; at most 2.2 were seen for single numbers, and 6 for the sum of 215 that is a loss
EDGES = [0.0, 1e-9, -1e-9, 0.5, -0.5, 3.0, -6.0, 20.0, -20.0, 100.0, -100.0, 700.0, -700.0, math.inf, -math.inf, math.nan]
DTYPES = torch.float32, torch.float64


@cache
def compiled(dtype: torch.dtype) -> Library:
    return Library(CASES, dtype)


def of(part: dict[Any, list[Case]]) -> list[Any]:
    """Return the classes of a part, in each dtype."""
    return [pytest.param(cls, d, id=f"{cls.__name__}-{str(d)[6:]}") for d in DTYPES for cls in part]


def has_code(cls: type, base: type) -> Iterator[type]:
    """Yield the subclasses in trainkit of which some object has a C++ pair."""
    for sub in cls.__subclasses__():
        function = getattr(sub, "native_function", None)
        own = sub.native is not base.native and sub.native is not activation.Activation.native
        if sub.__module__.startswith("trainkit.") and (own or function not in (None, activation.Activation.native_function)):
            yield sub
        yield from has_code(sub, base)


def test_every_class_with_a_cpp_pair_has_an_example() -> None:
    assert set(has_code(Module, Module)) == set(MODULES)
    assert set(has_code(Loss, Loss)) == set(LOSSES)
    assert set(has_code(Optimizer, Optimizer)) == set(OPTIMIZERS)


def check(found: Named, python: Named, exact: Named, terms: Named) -> float:
    """Compare results; return the largest error in units.

    python: of the Python pair in the same dtype; exact: in float64; terms: the size of the largest term of each number.
    """
    worst = 0.0
    for name, a in found.items():
        b, truth = python[name], exact[name].double()
        b = torch.where(b.isnan() & truth.isinf(), truth.to(b.dtype), b)  # torch's float32 kernel of GELU at ∞
        assert torch.equal(a.isnan(), b.isnan()), f"{name} is NaN elsewhere"
        finite = b.isfinite()
        assert torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()), f"{name} is infinite elsewhere"
        info = torch.finfo(a.dtype)
        unit = info.eps * terms[name].double().abs() + info.tiny
        error, own = ((v.double() - truth).abs() for v in (a, b))
        units = torch.where(finite, (error - 2 * own).clamp(min=0) / unit, 0)
        worst = max(worst, float(units.max()) if units.numel() else 0)
    return worst


# -- modules -----------------------------------------------------------------------------------------------------------------


def inputs_of(module: Module, case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return x, with EDGES for an activation, dy, and gradients to which the pass adds."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(case.rows, case.features, generator=draw)
    if isinstance(module, activation.Activation) and not isinstance(module, activation.Softmax):
        x.view(-1)[: len(EDGES)] = torch.tensor(EDGES)
    if isinstance(module, embedding.EmbedColumns):
        for c, categories in enumerate(module.categories, case.features - len(module.categories)):
            x[:, c] = torch.randint(categories, (case.rows,), generator=draw)
    dy = torch.randn(module.fwd(x.to(dtype))[0].shape, generator=draw)
    return x.to(dtype), dy.to(dtype), [torch.randn(g.shape, generator=draw).to(dtype) for _, g in module.param()]


def terms_of(module: Module, x: Tensor, dy: Tensor, gradients: list[Tensor], exact: Named) -> Named:
    """Return the size of the largest term of each number of y, dx and the parameters' gradients."""
    if not isinstance(module, activation.Activation):
        parameters = [(p.abs(), g.clone()) for p, g in module.param()]
        return python_pass(module.with_parameters(parameters), x.abs(), dy.abs(), [g.abs() for g in gradients])
    y, dx, dy = exact["y"], exact["dx"], dy.abs()
    if isinstance(module, activation.LogSoftmax):
        return {"y": 1 + y.abs(), "dx": dy + y.exp() * dy.sum(1, keepdim=True)}
    if isinstance(module, activation.Softmax):
        return {"y": y, "dx": y * (dy + (dy * y).sum(1, keepdim=True))}
    near = x.clamp(-8, 8).abs()
    found: dict[type, tuple[Tensor, Tensor]] = {
        activation.Tanh: (y, dy),  # 1 - y²
        activation.Sigmoid: (y, dy * y),  # 1 - y
        activation.SiLU: (y, dy * torch.sigmoid(x) * (1 + x.abs())),
        activation.GELU: (x, dy * (1 + near**3 / 4)),  # 1 + erf, 1 + tanh, 1 - tanh²
    }
    return dict(zip(("y", "dx"), found.get(type(module), (y, dx)), strict=True))


@pytest.mark.parametrize(("cls", "dtype"), of(MODULES))
def test_a_pass_is_that_of_the_python_module(cls: type[Module], dtype: torch.dtype) -> None:
    for case in MODULES[cls]:
        module, wide = made(case, dtype), made(case, dtype).to(dtype=torch.float64)
        x, dy, gradients = inputs_of(module, case, dtype)
        found = native_pass(compiled(dtype), case, module, x, dy, gradients)
        python = python_pass(module, x, dy, gradients)
        doubles = x.double(), dy.double(), [g.double() for g in gradients]
        exact = python_pass(wide, *doubles)
        units = check(found, python, exact, terms_of(wide, *doubles, exact))
        assert units <= LIMIT, (module, case)


# -- losses ------------------------------------------------------------------------------------------------------------------


def targets_of(loss: Loss, case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return y, t, and the weights of the samples, of which the first is 0."""
    draw = torch.Generator().manual_seed(3)
    y = 3 * torch.randn(case.count, case.features, generator=draw)
    weight = torch.rand(case.count, generator=draw).to(dtype) if case.weighted else None
    if weight is not None and len(weight) > 1:
        weight[0] = 0
    if case.target in ("real", "binary"):
        t = torch.randn(y.shape, generator=draw)
        if case.target == "binary":
            t = t.sigmoid().round(decimals=1)  # 0 and 1 among them
        t[0, :2] = 0
        if type(loss) is losses.BCELoss:
            y = y.sigmoid()
            y.view(-1)[:4] = torch.tensor([0.0, 1.0, 1e-9, 1 - 1e-6])
        else:
            y.view(-1)[:5] = torch.tensor([0.0, 20.0, -20.0, 100.0, -700.0])
            y.view(-1)[4] = t.view(-1)[4] if case.target == "real" else -700.0
        return y.to(dtype), t.to(dtype), weight
    y[0, :4] = torch.tensor([20.0, -100.0, 700.0, 0.0])
    if case.target == "probabilities":
        t = torch.randn(y.shape, generator=draw).softmax(1).to(dtype)
        t[0] = torch.eye(case.features, dtype=dtype)[2]
        return y.to(dtype), t, weight
    t = torch.randint(case.features, (case.count,), generator=draw)
    if loss.ignore_index is not None and len(t) > 1:
        t[1] = loss.ignore_index
    y = y.to(dtype)
    return y if isinstance(loss, losses.CrossEntropyLoss) else y.log_softmax(1), t, weight


def python_loss(loss: Loss, y: Tensor, t: Tensor, *weight: Tensor) -> Named:
    value, saved = loss.fwd(y, t, *weight)
    return {"value": value, "dy": loss.bwd(saved)}


def terms_of_loss(loss: Loss, y: Tensor, t: Tensor, *weight: Tensor) -> Named:
    """Return the size of the largest term of the value and of each number of dy."""
    exact = python_loss(loss, y, t, *weight)
    value, dy = exact["value"].abs(), exact["dy"].abs()
    if isinstance(loss, losses.NLLLoss):
        value_of_ones, saved = losses.NLLLoss.fwd(loss, torch.full_like(y, -1), t, *weight)
        q, logp = losses.NLLLoss.bwd(loss, saved).abs(), y.log_softmax(1)  # q / norm
        p = logp.exp() * q.sum(1, keepdim=True) * (1 + logp.abs())  # the Python pair rounds log p
        return {"value": value + value_of_ones, "dy": p + q}  # log p = (y - max y) - log Σ e^(y - max y); p Σq - q
    if isinstance(loss, losses.BCEWithLogitsLoss):
        low, high = (python_loss(loss, torch.full_like(y, at), t, *weight)["dy"].abs() for at in (-800, 800))
        return {"value": value + (low * y.abs()).sum() + (high * y.abs()).sum(), "dy": dy + low + high}  # (1 - t), l σ(-y)
    return {"value": value, "dy": dy}


@pytest.mark.parametrize(("cls", "dtype"), of(LOSSES))
def test_a_loss_and_its_derivative_are_those_of_the_python_loss(cls: type[Loss], dtype: torch.dtype) -> None:
    for case in LOSSES[cls]:
        loss = made(case, dtype)
        y, t, weight = targets_of(loss, case, dtype)
        own = () if weight is None else (weight,)
        found = native_loss(compiled(dtype), case, y, t, weight)
        doubles = [v.double() if v.is_floating_point() else v for v in (y, t, *own)]
        exact, terms = python_loss(loss, *doubles), terms_of_loss(loss, *doubles)
        units = check(found, python_loss(loss, y, t, *own), exact, terms)
        assert units <= LIMIT, (loss, case)


@pytest.mark.parametrize(("cls", "dtype"), of(LOSSES))
def test_a_loss_is_nan_where_python_is_and_its_derivative_0_where_no_sample_counts(cls: type[Loss], dtype: torch.dtype) -> None:
    for case in LOSSES[cls]:
        loss = made(case, dtype)
        y, t, weight = targets_of(loss, case, dtype)
        if weight is not None:
            weight.zero_()
        elif getattr(loss, "ignore_index", None) is not None:
            t.fill_(loss.ignore_index)
        else:
            y[-1, -1] = math.nan
        python = python_loss(loss, y, t, *(() if weight is None else (weight,)))
        found = native_loss(compiled(dtype), case, y, t, weight)
        for name, expected in python.items():
            assert torch.equal(found[name].isnan(), expected.isnan()), (loss, case, name)
        if weight is not None or getattr(loss, "ignore_index", None) is not None:
            assert not found["dy"].any()


# -- optimizers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "dtype"), of(OPTIMIZERS))
def test_updates_are_those_of_the_python_optimizer(cls: type[Optimizer], dtype: torch.dtype) -> None:
    """Eight updates, the first included, at rates that change and once are 0; then one with a gradient that is not finite."""
    for case in OPTIMIZERS[cls]:
        lib, draw = compiled(dtype), torch.Generator().manual_seed(4)
        python, exact = made(case, dtype), made(case, torch.float64)
        state = [Buffer(lib.flat(s)) for s in python.state()]
        for rate in (0.01, 0.01, 0.02, 0.005, 0.0, 0.01, 0.03, 0.01):
            g = torch.randn(python.g.shape, generator=draw).to(dtype)
            for optimizer in (python, exact):
                optimizer.use_lr(rate)
                optimizer.g.copy_(g)
                optimizer.update()
            state[1].t.copy_(lib.flat(g))
            native_update(lib, case, state, row_of(python), python.t == 1)
            names, n = ["p", "g", *python.slots], python.p.numel()
            assert not any(s.t[n:].any() for s in state), "the padding is not 0"
            found, own, double = (
                dict(zip(names, tensors, strict=True)) for tensors in ([s.t[:n] for s in state], python.state(), exact.state())
            )
            units = check(found, own, double, {name: s.abs().max().expand(n) for name, s in double.items()})
            assert units <= LIMIT, (python, case)
        for g in (python.g, state[1].t):
            g[:3] = torch.tensor([math.nan, math.inf, -math.inf])
        python.update()
        native_update(lib, case, state, row_of(python), False)
        for name, s, own in zip(names, state, python.state(), strict=True):
            assert torch.equal(s.t[:n].isnan(), own.isnan()), (python, case, name)
            assert not s.t[n:].any(), "the padding is not 0"


@pytest.mark.parametrize("cls", [Adam, RMSprop, Adagrad])
def test_there_is_no_pair_where_eps_is_0_since_the_padding_would_be_nan(cls: Any) -> None:
    for dtype, eps, is_native in ((torch.float64, 0, False), (torch.float64, 1e-50, True), (torch.float32, 1e-50, False)):
        p, g = torch.zeros(3, dtype=dtype), torch.zeros(3, dtype=dtype)
        assert (cls([(p, g)], eps=eps).native() is not None) is is_native


# -- functions of numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_has_all_digits_of_the_normal_distribution_function_in_its_tail(dtype: torch.dtype) -> None:
    """x Φ(x) keeps its relative accuracy, where 1 + erf(x / √2) has lost its digits. The oracle computes with 30 digits."""
    case, lib = MODULES[activation.GELU][0], compiled(dtype)
    module, worst = made(case, dtype), 0.0
    lowest = -13.0 if dtype is torch.float32 else -37.0
    for x in torch.linspace(lowest, 9, 16 * 8, dtype=dtype).view(8, case.rows, case.features):
        y = native_pass(lib, case, module, x, torch.ones_like(x), [])["y"]
        with mpmath.workdps(30):
            for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True):
                worst = max(worst, abs(float(b / (a * mpmath.ncdf(a)) - 1)) if a else 0)
    assert worst <= 3 * torch.finfo(dtype).eps  # 1.3 and 1.6 were seen
