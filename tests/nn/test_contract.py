"""One contract for every module and every loss that trainkit defines. A new one without an example here fails."""

from __future__ import annotations

import copy
import importlib
import math
import pkgutil
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import trainkit.nn
from trainkit.core.errors import UserError
from trainkit.nn import losses
from trainkit.nn.gradcheck import gradcheck, gradcheck_loss
from trainkit.nn.layers import activation, container, dropout, embedding, linear, merge, reshape
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module, bwd_value, fwd_value

for _found in pkgutil.walk_packages(trainkit.nn.__path__, "trainkit.nn."):
    importlib.import_module(_found.name)


def concrete(base: type) -> Iterator[type]:
    for sub in base.__subclasses__():
        if sub.__module__.startswith("trainkit.") and sub.fwd is not base.fwd:
            yield sub
        yield from concrete(sub)


def _two_layers(join: Callable[..., Module]) -> Module:
    return join(linear.Linear(4, 3), activation.Tanh(), linear.Linear(3, 4))


class Coded(tuple[int, ...]):
    """A shape whose last columns hold codes: whole numbers below 4 and below 3."""

    limits = (4, 3)


def _table_net() -> Module:
    return container.Sequential(embedding.EmbedColumns([4, 3], 2), linear.Linear(6, 3), activation.Tanh())


# class: (constructor, the shape of x; a list of shapes where x is a tuple)
EXAMPLES: dict[type[Module], list[tuple[Callable[[], Module], Any]]] = {
    linear.Linear: [
        (lambda: linear.Linear(4, 3), (5, 4)),
        (lambda: linear.Linear(4, 3, bias=False), (5, 4)),
        (lambda: linear.Linear(4, 3), (5, 2, 4)),
    ],
    embedding.EmbedColumns: [
        (lambda: embedding.EmbedColumns([4, 3], 2), Coded((5, 4))),
        (lambda: embedding.EmbedColumns([4, 3], 3), Coded((5, 2))),
        (lambda: embedding.EmbedColumns([4, 3], 1), Coded((5, 2, 3))),
    ],
    activation.Identity: [(activation.Identity, (5, 4))],
    activation.ReLU: [(activation.ReLU, (5, 4))],
    activation.LeakyReLU: [(lambda: activation.LeakyReLU(0.3), (5, 4))],
    activation.Tanh: [(activation.Tanh, (5, 4))],
    activation.Sigmoid: [(activation.Sigmoid, (5, 4))],
    activation.ELU: [(lambda: activation.ELU(0.7), (5, 4))],
    activation.GELU: [(activation.GELU, (5, 4)), (lambda: activation.GELU("tanh"), (5, 4))],
    activation.SiLU: [(activation.SiLU, (5, 4))],
    activation.Softplus: [(lambda: activation.Softplus(2.0), (5, 4))],
    activation.Softmax: [(activation.Softmax, (5, 4)), (lambda: activation.Softmax(1), (5, 4, 2))],
    activation.LogSoftmax: [(activation.LogSoftmax, (5, 4)), (lambda: activation.LogSoftmax(1), (5, 4, 2))],
    dropout.Dropout: [(lambda: dropout.Dropout(0.4), (5, 4))],
    container.Sequential: [
        (lambda: _two_layers(container.Sequential), (5, 4)),
        (lambda: container.Sequential(activation.Tanh(), dropout.Dropout(0.4), linear.Linear(4, 2)), (5, 4)),
        (
            lambda: container.Sequential(
                merge.FanOut(2),
                container.Parallel(linear.Linear(4, 3), activation.Tanh()),
                activation.SiLU(),
                merge.Concat(),
            ),
            (5, 4),
        ),
        (lambda: container.Sequential(linear.Linear(4, 3), activation.Tanh(), linear.Linear(3, 2)), [(5, 4), (5, 4)]),
        (lambda: container.Sequential(container.Sequential(activation.Tanh(), linear.Linear(4, 3))), (5, 4)),
        (_table_net, Coded((5, 4))),
    ],
    container.Recompute: [
        (lambda: _two_layers(container.Recompute), (5, 4)),
        (lambda: container.Recompute(dropout.Dropout(0.4), linear.Linear(4, 2), dropout.Dropout(0.3)), (5, 4)),
    ],
    container.Residual: [(lambda: _two_layers(container.Residual), (5, 4))],
    container.Parallel: [(lambda: container.Parallel(linear.Linear(4, 3), activation.Tanh()), [(5, 4), (5, 2)])],
    merge.FanOut: [(lambda: merge.FanOut(3), (5, 4))],
    merge.Add: [(merge.Add, [(5, 4), (5, 4), (5, 4)])],
    merge.Concat: [(merge.Concat, [(5, 4), (5, 1)]), (lambda: merge.Concat(1), [(5, 4, 2), (5, 3, 2)])],
    reshape.Flatten: [(reshape.Flatten, (5, 4, 2)), (lambda: reshape.Flatten(2, -1), (5, 4, 2, 2))],
}
DRAWS = {dropout.Dropout}  # the modules that draw in a training pass; no other may

LOGITS = [(5, 4), (5, 4, 3)]
LOSSES: dict[type[Loss], list[tuple[dict[str, Any], str]]] = {
    losses.MSELoss: [({}, "real")],
    losses.L1Loss: [({}, "real")],
    losses.HuberLoss: [({}, "real"), ({"delta": 0.4}, "real")],
    losses.NLLLoss: [({}, "index"), ({"weight": [0.1, 0.2, 0.3, 0.7]}, "index"), ({"ignore_index": 1}, "index")],
    losses.CrossEntropyLoss: [
        ({}, "index"),
        ({}, "soft"),
        ({"weight": [0.1, 0.2, 0.3, 0.7]}, "soft"),
        ({"weight": [0.1, 0.2, 0.3, 0.7], "label_smoothing": 0.1, "ignore_index": 1}, "index"),
    ],
    losses.BCELoss: [({}, "binary"), ({"weight": 0.1}, "binary")],
    losses.BCEWithLogitsLoss: [({}, "binary"), ({"pos_weight": 0.3}, "binary")],
}


def test_every_module_and_every_loss_has_an_example() -> None:
    assert set(concrete(Module)) == set(EXAMPLES)
    assert set(concrete(Loss)) == set(LOSSES)


MODULE_CASES = [
    pytest.param(build, shape, id=f"{cls.__name__}-{i}")
    for cls, rows in EXAMPLES.items()
    for i, (build, shape) in enumerate(rows)
]
LOSS_CASES = [
    pytest.param(
        lambda cls=cls, kw=keywords, red=reduction: cls(reduction=red, **kw),
        kind,
        shape,
        id=f"{cls.__name__}-{i}-{reduction}-{len(shape)}d",
    )
    for cls, rows in LOSSES.items()
    for i, (keywords, kind) in enumerate(rows)
    for reduction in ("mean", "sum")
    for shape in LOGITS
]
over_modules = pytest.mark.parametrize(("build", "shape"), MODULE_CASES)
over_losses = pytest.mark.parametrize(("build", "kind", "shape"), LOSS_CASES)


# -- making values -----------------------------------------------------------------------------------------------------------


def made(build: Callable[[], Module], dtype: torch.dtype = torch.float64) -> Module:
    torch.manual_seed(0)
    return build().to(dtype=dtype)


def randn(shape: Any, seed: int = 1, dtype: torch.dtype = torch.float64) -> Any:
    draw = torch.Generator().manual_seed(seed)
    if isinstance(shape, list):
        return tuple(_drawn(s, draw).to(dtype) for s in shape)
    return _drawn(shape, draw).to(dtype)


def _drawn(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    for column, limit in enumerate(Coded.limits if isinstance(shape, Coded) else (), start=-len(Coded.limits)):
        x[..., column] = torch.randint(limit, shape[:-1], generator=draw)
    return x


def each(f: Callable[..., Tensor], *values: Any) -> Any:
    """f over a tensor, or over the tensors of a tuple, nested or not."""
    return tuple(each(f, *v) for v in zip(*values, strict=True)) if type(values[0]) is tuple else f(*values)


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples, lists, dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [t for v in value for t in tensors(v)]


def like(y: Any, seed: int = 2) -> Any:
    return randn([tuple(v.shape) for v in y] if type(y) is tuple else tuple(y.shape), seed, tensors(y)[0].dtype)


def fwd(module: Module, x: Any, seed: int = 3) -> tuple[Any, Any]:
    """A pass that draws what any other pass of this seed draws."""
    torch.manual_seed(seed)
    return fwd_value(module, x)


def gradients(module: Module) -> dict[str, Tensor]:
    return {name: g.clone() for name, _, g in module.named_param()}


def alone(module: Module, x: Any, dy: Any, seed: int = 3) -> tuple[Any, Any, dict[str, Tensor]]:
    module.zero_grad()
    y, saved = fwd(module, x, seed)
    dx = bwd_value(module, saved, dy)
    return y, dx, gradients(module)


def plain(net: Module) -> list[dict[str, Any]]:
    """What stands on each module, by identity, and a shallow copy of what is a container."""
    return [
        {k: (id(v), copy.copy(v) if isinstance(v, (list, dict, set)) else None) for k, v in vars(m).items()}
        for _, m in net.modules()
    ]


def held(net: Module) -> list[Tensor]:
    """Copies of the tensors that stand on the modules."""
    return [t.clone() for _, m in net.modules() for t in tensors(vars(m))]


# -- modules -----------------------------------------------------------------------------------------------------------------


@over_modules
def test_gradients_are_those_of_central_differences(build: Callable[[], Module], shape: Any) -> None:
    module = made(build)
    verdicts = gradcheck(module, randn(shape))
    names = [f"x[{i}]" for i in range(len(shape))] if isinstance(shape, list) else ["x"]
    assert [v.name for v in verdicts] == [*names, *(name for name, _, _ in module.named_param())]
    assert all(v.ok for v in verdicts), verdicts


@over_modules
def test_parameter_gradients_add_and_dx_does_not(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build), randn(shape)
    y, saved = fwd(module, x)
    dy = like(y)
    module.zero_grad()
    first = bwd_value(module, saved, dy)
    once = gradients(module)
    second = bwd_value(module, saved, dy)
    assert_close(second, first, rtol=0, atol=0)
    for name, g in gradients(module).items():
        assert once[name].abs().sum() > 0
        assert_close(g, 2 * once[name], rtol=1e-14, atol=1e-14)


@over_modules
def test_dx_has_the_shape_and_dtype_of_x(build: Callable[[], Module], shape: Any) -> None:
    for dtype in (torch.float32, torch.float64):
        module, x = made(build, dtype), randn(shape, dtype=dtype)
        y, saved = fwd(module, x)
        dx = bwd_value(module, saved, like(y))
        assert type(dx) is type(x)
        assert [(v.shape, v.dtype) for v in tensors(dx)] == [(v.shape, v.dtype) for v in tensors(x)]
        assert all(v.dtype == dtype for v in tensors(y))
        assert all(g.dtype == dtype for _, g in module.param())


@over_modules
@pytest.mark.parametrize("training", [True, False])
def test_a_pass_changes_nothing_on_the_module_and_nothing_it_was_given(
    build: Callable[[], Module], shape: Any, training: bool
) -> None:
    module, x = made(build).train(training), randn(shape)
    x_before, before, tensors_before = each(Tensor.clone, x), plain(module), held(module)
    y, saved = fwd(module, x)
    assert plain(module) == before
    assert_close(held(module), tensors_before, rtol=0, atol=0)
    y_before, saved_before = each(Tensor.clone, y), [t.clone() for t in tensors(saved)]
    dy = like(y)
    dy_before = each(Tensor.clone, dy)
    weights = {name: p.clone() for name, p, _ in module.named_param()}
    bwd_value(module, saved, dy)
    assert_close(x, x_before, rtol=0, atol=0)
    assert_close(y, y_before, rtol=0, atol=0)
    assert_close(dy, dy_before, rtol=0, atol=0)
    assert_close(tensors(saved), saved_before, rtol=0, atol=0)
    assert_close({name: p for name, p, _ in module.named_param()}, weights, rtol=0, atol=0)
    assert plain(module) == before


@over_modules
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_two_passes_may_be_in_flight_and_come_back_in_either_order(
    build: Callable[[], Module], shape: Any, order: tuple[int, int]
) -> None:
    module, x = made(build), [randn(shape, 1), randn(shape, 11)]
    dy = [like(fwd(module, x[0])[0], 2), like(fwd(module, x[0])[0], 12)]
    expected = [alone(module, x[i], dy[i], seed=i) for i in (0, 1)]
    module.zero_grad()
    passes = [fwd(module, x[i], seed=i) for i in (0, 1)]
    for i in order:
        assert_close(bwd_value(module, passes[i][1], dy[i]), expected[i][1], rtol=0, atol=0)
    for name, g in gradients(module).items():
        assert_close(g, expected[0][2][name] + expected[1][2][name], rtol=1e-13, atol=1e-13)


@over_modules
def test_grad_adds_what_bwd_adds(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build), randn(shape)
    y, saved = fwd(module, x)
    dy = like(y)
    _, _, expected = alone(module, x, dy)
    module.zero_grad()
    assert module.bwd_params(saved, dy) is None
    assert_close(gradients(module), expected, rtol=0, atol=0)


@over_modules
def test_a_module_of_one_input_maps_over_a_tuple(build: Callable[[], Module], shape: Any) -> None:
    module = made(build)
    if isinstance(shape, list) or any(m.accepts_tuple and type(m) is not container.Sequential for _, m in module.modules()):
        return  # it is mapped already, or wants all its inputs at once
    x = randn([shape, shape])
    module.eval()
    y, saved = fwd_value(module, x)
    dy = each(lambda v: torch.ones_like(v) * 0.5, y)
    module.zero_grad()
    dx = bwd_value(module, saved, dy)
    both = gradients(module)
    separate = [alone(module, x[i], dy[i]) for i in (0, 1)]
    assert_close(y, tuple(s[0] for s in separate), rtol=0, atol=0)
    assert_close(dx, tuple(s[1] for s in separate), rtol=0, atol=0)
    for name, g in both.items():
        assert_close(g, separate[0][2][name] + separate[1][2][name], rtol=1e-13, atol=1e-13)


def strided(v: Tensor) -> Tensor:
    """The same values, every other element of a transposed block of memory."""
    block = torch.full([2 * n for n in reversed(v.shape)], math.nan, dtype=v.dtype)
    view = block[tuple(slice(None, None, 2) for _ in v.shape)].permute(*reversed(range(v.dim())))
    return view.copy_(v)


@over_modules
def test_x_and_dy_need_not_be_contiguous(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build).eval(), randn(shape)
    dy = like(fwd(module, x)[0])
    expected = alone(module, x, dy)
    assert not any(v.is_contiguous() for v in tensors(each(strided, x)))
    assert_close(alone(module, each(strided, x), each(strided, dy)), expected, rtol=1e-13, atol=1e-13)
    one = each(lambda v: v.new_ones(()).expand(v.shape), dy)  # as the gradient of a sum comes: no stride at all
    assert_close(alone(module, x, one), alone(module, x, each(torch.ones_like, dy)), rtol=1e-13, atol=1e-13)


@over_modules
def test_a_batch_of_one_is_a_row_of_the_batch_and_a_batch_of_none_adds_nothing(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build).eval(), randn(shape)
    dy = like(fwd(module, x)[0])
    y, dx, _ = alone(module, x, dy)
    y1, dx1, _ = alone(module, each(lambda v: v[:1], x), each(lambda v: v[:1], dy))
    assert_close(y1, each(lambda v: v[:1], y), rtol=1e-13, atol=1e-13)
    assert_close(dx1, each(lambda v: v[:1], dx), rtol=1e-13, atol=1e-13)
    y0, dx0, g0 = alone(module, each(lambda v: v[:0], x), each(lambda v: v[:0], dy))
    assert [v.shape for v in tensors(y0)] == [(0, *v.shape[1:]) for v in tensors(y)]
    assert [v.shape for v in tensors(dx0)] == [(0, *v.shape[1:]) for v in tensors(dx)]
    assert all((g == 0).all() for g in g0.values())


@over_modules
def test_a_deep_copy_computes_the_same_and_shares_nothing(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build), randn(shape)
    dy = like(fwd(module, x)[0])
    expected = alone(module, x, dy)
    other = copy.deepcopy(module)
    assert_close(alone(other, x, dy), expected, rtol=0, atol=0)
    for p, g in other.param():
        p.fill_(7)
        g.fill_(7)
    assert_close(gradients(module), expected[2], rtol=0, atol=0)
    assert_close(alone(module, x, dy), expected, rtol=0, atol=0)
    if other.param():
        assert not torch.equal(tensors(fwd(other, x)[0])[0], tensors(expected[0])[0])  # its own w is what it reads


@over_modules
def test_its_repr_builds_it_again(build: Callable[[], Module], shape: Any) -> None:
    module = made(build)
    names = {cls.__name__: cls for cls in EXAMPLES}
    again = eval(repr(module), names)
    assert repr(again) == repr(module)
    assert {name: p.shape for name, p, _ in again.named_param()} == {name: p.shape for name, p, _ in module.named_param()}


@over_modules
def test_autograd_has_no_part_in_it(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build), randn(shape)
    dy = like(fwd(module, x)[0])
    expected = alone(module, x, dy)
    assert not any(t.requires_grad for t in tensors(expected))
    assert not any(t.requires_grad for _, saved in [fwd(module, x)] for t in tensors(saved))
    with torch.inference_mode():
        assert_close(alone(module, x, dy), expected, rtol=0, atol=0)
    assert not any(t.is_inference() for pair in module.param() for t in pair)
    with torch.inference_mode():
        within = made(build)
        assert_close(alone(within, x, dy), expected, rtol=0, atol=0)


@over_modules
def test_evaluation_draws_nothing_and_training_draws_only_where_it_says_so(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build), randn(shape)
    draws = any(type(m) in DRAWS for _, m in module.modules())
    for mode, may_draw in ((True, draws), (False, False)):
        module.train(mode)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        y, saved = fwd_value(module, x)
        bwd_value(module, saved, like(y))
        assert torch.equal(torch.get_rng_state(), before) != may_draw
    assert_close(fwd(module, x, 1)[0], fwd(module, x, 2)[0], rtol=0, atol=0)
    module.train()
    if draws:
        assert not torch.equal(tensors(fwd(module, x, 1)[0])[0], tensors(fwd(module, x, 2)[0])[0])


@over_modules
def test_the_stateful_pair_is_the_pure_pair(build: Callable[[], Module], shape: Any) -> None:
    module, x = made(build).eval(), randn(shape)
    dy = like(fwd_value(module, x)[0])
    expected = alone(module, x, dy)
    module.zero_grad()
    xs = x if type(x) is tuple else (x,)
    with pytest.raises(UserError, match=f"{type(module).__name__}.backward: nothing is saved; call forward first"):
        module.backward(dy)
    assert_close(module(*xs), expected[0], rtol=0, atol=0)
    with pytest.raises(UserError, match="call forward first"):  # a call keeps nothing
        module.backward(dy)
    assert_close(module.forward(*xs), expected[0], rtol=0, atol=0)
    assert_close(module.backward(*(dy if type(dy) is tuple else (dy,))), expected[1], rtol=0, atol=0)
    assert_close(gradients(module), expected[2], rtol=0, atol=0)
    with pytest.raises(UserError, match="call forward first"):  # once
        module.backward(dy)


class Live:
    """The most bytes of the activations that were alive at once: those of tensors made in a pass, by their memory."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def hold(self, t: Tensor) -> Tensor:
        size = t.numel() * t.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(t, self._free, size)
        return t

    def _free(self, size: int) -> None:
        self.now -= size


class Wide(Module):
    """y = 2x, a new tensor; saves y, and wants it back."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.live.hold(x * 2)
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return self.live.hold(dy * 2)


def peak(net: Callable[[Live], Module], n: int = 1000) -> float:
    """Of a training pass, in activations."""
    live = Live()
    module = net(live)
    y, saved = module.fwd(torch.ones(2, n // 2))
    dy = torch.ones_like(y)
    del y
    module.bwd_params(saved, dy)
    return live.most / (4 * n)


def test_activations_are_freed_as_the_backward_pass_goes_and_recomputed_ones_are_not_held() -> None:
    def chain(live: Live, k: int) -> list[Module]:
        return [linear.Linear(500, 500), *(Wide(live) for _ in range(k))]

    assert peak(lambda live: container.Sequential(*chain(live, 16))) <= 16 + 2, "not an activation and a gradient for each"
    parts = peak(lambda live: container.Sequential(*(container.Recompute(*chain(live, 4)) for _ in range(4))))
    assert parts <= 4 + 4 + 3, "the four inputs, the activations of one part, and what is in hand"


@pytest.mark.parametrize("replicas", [1, 3])
def test_recomputed_random_numbers_are_those_of_the_first_pass(replicas: int) -> None:
    def layers(n: int, m: int) -> list[Module]:
        return [linear.Linear(n, 6), dropout.Dropout(0.4), linear.Linear(6, m), dropout.Dropout(0.2)]

    found = []
    for join in (container.Sequential, container.Recompute):
        torch.manual_seed(0)
        net = container.Sequential(join(*layers(4, 3)), join(*layers(3, 2))).to(dtype=torch.float64)
        net = net.replicate(range(replicas)) if replicas > 1 else net
        for i, (_, m) in enumerate(net.modules()):
            if isinstance(m, dropout.Dropout):
                m.generators = tuple(torch.Generator().manual_seed(i % 2 + r) for r in range(replicas))
        x = randn((replicas, 5, 4) if replicas > 1 else (5, 4), 3)
        found.append([])
        for _ in range(3):
            y, saved = net.fwd(x)
            net.bwd_params(saved, like(y))
            found[-1] += [y, *(g.clone() for _, g in net.param())]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


# -- losses ------------------------------------------------------------------------------------------------------------------


def target(kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    y = randn(shape, 21, dtype)
    if kind == "index":
        return y.log_softmax(1), torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(22))
    t = randn(shape, 23, dtype)
    if kind == "binary":
        return y.sigmoid(), t.sigmoid()
    return y, (t.softmax(1) if kind == "soft" else t)


def loss_alone(made: Loss, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    value, saved = made.fwd(y, t)
    return value, made.bwd(saved)


@over_losses
def test_dy_is_that_of_central_differences(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    verdict = gradcheck_loss(build(), *target(kind, shape))
    assert verdict.ok, verdict


@over_losses
def test_a_loss_is_a_pure_pair(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    made = build()
    y, t = target(kind, shape)
    y2, t2 = y.flip(0), t.roll(1, 0)
    first, second = loss_alone(made, y, t), loss_alone(made, y2, t2)
    before = {k: v for k, v in vars(made).items() if k != "_casts"}
    kept = (y.clone(), t.clone())
    one, two = made.fwd(y, t), made.fwd(y2, t2)
    for (value, saved), (expected, dy) in [(two, second), (one, first), (one, first)]:  # bwd changes nothing it was given
        assert_close(made.bwd(saved), dy, rtol=0, atol=0)
        assert_close(value, expected, rtol=0, atol=0)
    assert_close((y, t), kept, rtol=0, atol=0)
    after = {k: v for k, v in vars(made).items() if k != "_casts"}
    assert before.keys() == after.keys()
    assert all(before[k] is after[k] for k in before)
    assert not torch.equal(first[1], second[1])


@over_losses
def test_a_loss_speaks_the_dtype_of_y_and_loses_no_digit_of_its_constants(
    build: Callable[[], Loss], kind: str, shape: tuple[int, ...]
) -> None:
    """A float32 pass, then a float64 one on the same loss: the second is that of a fresh loss."""
    made, exact = build(), loss_alone(build(), *target(kind, shape))
    value, dy = loss_alone(made, *target(kind, shape, torch.float32))
    assert value.dtype == dy.dtype == torch.float32
    assert value.shape == ()
    assert dy.shape == shape
    assert_close((value.double(), dy.double()), exact, rtol=1e-4, atol=1e-5)
    assert exact[0].dtype == exact[1].dtype == torch.float64
    assert_close(loss_alone(made, *target(kind, shape)), exact, rtol=0, atol=0)


@over_losses
def test_a_loss_takes_strided_tensors_inference_mode_deep_copies_and_any_batch(
    build: Callable[[], Loss], kind: str, shape: tuple[int, ...]
) -> None:
    made = build()
    y, t = target(kind, shape)
    expected = loss_alone(made, y, t)
    assert not any(v.requires_grad for v in expected)
    y_strided = strided(y)
    t_strided = strided(t) if t.is_floating_point() else torch.stack([t, t], -1)[..., 0]
    assert_close(loss_alone(made, y_strided, t_strided), expected, rtol=1e-13, atol=1e-13)
    with torch.inference_mode():
        assert_close(loss_alone(made, y, t), expected, rtol=0, atol=0)
        assert_close(loss_alone(build(), y, t), expected, rtol=0, atol=0)
    assert_close(loss_alone(copy.deepcopy(made), y, t), expected, rtol=0, atol=0)
    assert repr(made).startswith(f"{type(made).__name__}(reduction=")
    row = next(i for i in range(len(t)) if made.reduction == "sum" or kind != "index" or (t[i] != 1).any())  # one that counts
    value, dy = loss_alone(made, y[row : row + 1], t[row : row + 1])
    assert value.isfinite()
    assert dy.shape == (1, *shape[1:])
    assert loss_alone(made, y[:0], t[:0])[1].shape == (0, *shape[1:])
    assert made.reduction == "mean" or made(y[:0], t[:0]) == 0


@over_losses
def test_a_sum_over_the_batch_is_the_sum_of_its_rows(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    made = build()
    if made.reduction != "sum":
        return
    y, t = target(kind, shape)
    value, dy = loss_alone(made, y, t)
    rows = [loss_alone(made, y[i : i + 1], t[i : i + 1]) for i in range(len(y))]
    assert_close(value, sum(v for v, _ in rows), rtol=1e-13, atol=1e-13)
    assert_close(dy, torch.cat([d for _, d in rows]), rtol=1e-13, atol=1e-13)


@over_losses
def test_the_stateful_loss_is_the_pure_one_once(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    made = build()
    y, t = target(kind, shape)
    value, dy = loss_alone(made, y, t)
    with pytest.raises(UserError, match=f"{type(made).__name__}.backward: nothing is saved; call forward first"):
        made.backward()
    assert_close(made.forward(y, t), value, rtol=0, atol=0)
    assert_close(made.backward(), dy, rtol=0, atol=0)
    with pytest.raises(UserError, match="call forward first"):
        made.backward()


@pytest.mark.parametrize("cls", list(LOSSES), ids=lambda cls: cls.__name__)
def test_an_unknown_reduction_is_refused_with_the_known_ones(cls: type[Loss]) -> None:
    with pytest.raises(UserError, match=rf"{cls.__name__}: no reduction 'means'; did you mean 'mean'\? \(mean, sum\)"):
        cls(reduction="means")


@over_losses
def test_a_target_that_would_be_broadcast_or_cast_is_refused(
    build: Callable[[], Loss], kind: str, shape: tuple[int, ...]
) -> None:
    made = build()
    y, t = target(kind, shape)
    wrong = [t[:1], t.unsqueeze(-1)]
    wrong += [t.int(), t + shape[1], t - shape[1]] if kind == "index" else [t.long()]
    wrong += [t.double()] if type(made) is losses.NLLLoss else []
    for bad in wrong:
        with pytest.raises(UserError, match=type(made).__name__):
            made.forward(y, bad)
        with pytest.raises(UserError, match=type(made).__name__):
            made(y, bad)
