"""The second judge of a derivative: torch.nn under autograd, on torch's own test inputs and on ours where torch has none.

Every module and loss that trainkit ships is driven here; what torch's table (`module_db`) lacks has its reference below.
A skip is a lack (an argument we do not take), never a difference, and is counted.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.testing._internal.common_modules import module_db

import trainkit.nn
from trainkit.core.errors import UserError
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module

for _found in pkgutil.walk_packages(trainkit.nn.__path__, "trainkit.nn."):
    importlib.import_module(_found.name)


def shipped(base: type) -> dict[str, type]:
    """Every class below `base` that trainkit itself defines and that computes something, by name."""
    found = {}
    for sub in base.__subclasses__():
        if sub.__module__.startswith("trainkit.") and sub.fwd is not base.fwd:
            found[sub.__name__] = sub
        found |= shipped(sub)
    return found


MODULES, LOSSES = shipped(Module), shipped(Loss)
OURS = MODULES | LOSSES
TORCH_INPUTS = {info.module_cls.__name__: info for info in module_db}
DRIVEN = sorted(set(OURS) & set(TORCH_INPUTS))
CLOSE = {torch.float64: {"rtol": 1e-11, "atol": 1e-12}, torch.float32: {"rtol": 2e-5, "atol": 2e-6}}


def same(ours: Any, theirs: Any, dtype: torch.dtype = torch.float64) -> None:
    assert_close(ours, theirs, equal_nan=True, **CLOSE[dtype])


# -- torch's constructor arguments as ours -----------------------------------------------------------------------------------


def arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Our keywords for torch's arguments, and the lack ('' for none)."""
    given = dict(inspect.signature(getattr(torch.nn, name)).bind(*args, **kwargs).arguments)
    if given.get("reduction") == "none":
        return {}, "reduction='none'"
    known = inspect.signature(OURS[name]).parameters
    if missing := [key for key in given if key not in known]:
        return {}, f"no argument {missing[0]!r}"
    return given, ""


def inputs(name: str, dtype: torch.dtype, training: bool, seed: int = 0) -> list[Any]:
    torch.manual_seed(seed)
    info = TORCH_INPUTS[name]
    return info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training)


def given(sample: Any) -> list[Tensor]:
    return [*sample.forward_input.args, *sample.forward_input.kwargs.values()]


# -- one comparison ----------------------------------------------------------------------------------------------------------


def compare_module(ours: Module, theirs: Callable[..., Tensor], x: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """y, dx and every parameter's gradient (twice: they add), with a random dy."""
    parameters = dict(theirs.named_parameters()) if isinstance(theirs, torch.nn.Module) else {}
    leaves = [xi.detach().clone().requires_grad_() for xi in x]
    expected = theirs(*leaves)
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    gradients = torch.autograd.grad(expected, [*leaves, *parameters.values()], dy)
    ours.zero_grad()
    for times in (1, 2):
        y = ours.forward(*x)
        dx = ours.backward(dy)
        same(y, expected.detach(), dtype)
        same(dx if type(dx) is tuple else (dx,), gradients[: len(x)], dtype)
        own = {name: g for name, _, g in ours.named_param()}
        assert list(own) == list(parameters)
        for name, g in zip(parameters, gradients[len(x) :], strict=True):
            same(own[name], times * g, dtype)


def compare_loss(ours: Loss, theirs: Callable[..., Tensor], y: Tensor, t: Tensor, dtype: torch.dtype) -> None:
    leaf = y.detach().clone().requires_grad_()
    expected = theirs(leaf, t.detach())
    (dy,) = torch.autograd.grad(expected, leaf)
    same(ours.forward(y.detach(), t.detach()), expected.detach(), dtype)
    same(ours.backward(), dy, dtype)
    same(ours(y.detach(), t.detach()), expected.detach(), dtype)


def compare(name: str, ours: Any, theirs: torch.nn.Module, sample: list[Tensor], dtype: torch.dtype) -> None:
    if name in LOSSES:
        compare_loss(ours, theirs, *sample, dtype)
        return
    ours.to(dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    compare_module(ours, theirs, tuple(sample), dtype)


# -- torch's inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", DRIVEN)
def test_values_and_gradients_are_torchs_on_torchs_inputs(name: str, dtype: torch.dtype, training: bool, witness: Any) -> None:
    run, skipped = 0, Counter[str]()
    for sample in inputs(name, dtype, training):
        build = sample.constructor_input
        keywords, lack = arguments(name, build.args, build.kwargs)
        if lack:
            skipped[lack] += 1
            continue
        theirs = getattr(torch.nn, name)(*build.args, **build.kwargs).to(dtype).train(training)
        ours = OURS[name](**keywords)
        if name in MODULES:
            ours.train(training)
        compare(name, ours, theirs, given(sample), dtype)
        run += 1
    assert run > 0
    witness(f"nn.{name}", run, skipped)


def test_every_shipped_module_and_loss_has_a_judge() -> None:
    without = set(OURS) - set(DRIVEN) - set(OWN_REFERENCES) - {name for name, *_ in MORE}
    assert not without, f"{without}: neither in module_db nor with a reference in this file"
    assert len(DRIVEN) >= 18


# -- inputs that torch's table lacks: arguments, ranks, and the ends of the number line ---------------------------------------

ENDS = torch.tensor([-800.0, -100.0, -20.5, -3.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 3.0, 20.5, 100.0, 800.0])
WEIGHT = [0.1, 0.0, 2.0]

MORE: list[tuple[str, dict[str, Any], Callable[[Callable[..., Tensor]], tuple[Tensor, ...]]]] = [
    *[
        (name, keywords, lambda r: (ENDS.double(),))
        for name, keywords in [
            ("Identity", {}),
            ("ReLU", {}),
            ("LeakyReLU", {}),
            ("LeakyReLU", {"negative_slope": -0.2}),
            ("Tanh", {}),
            ("Sigmoid", {}),
            ("ELU", {}),
            ("ELU", {"alpha": 0.3}),
            ("GELU", {}),
            ("GELU", {"approximate": "tanh"}),
            ("SiLU", {}),
            ("Softplus", {}),
            ("Softplus", {"beta": 3.0, "threshold": 2.0}),
            ("Softmax", {"dim": 0}),
            ("LogSoftmax", {"dim": 0}),
        ]
    ],
    ("Softmax", {"dim": 1}, lambda r: (r(4, 5, 3),)),
    ("LogSoftmax", {"dim": 1}, lambda r: (r(4, 5, 3),)),
    ("Softmax", {"dim": -1}, lambda r: (10 * r(4, 5, 3),)),
    ("LogSoftmax", {"dim": -1}, lambda r: (10 * r(4, 5, 3),)),
    ("Linear", {"in_features": 3, "out_features": 5}, lambda r: (r(4, 2, 6, 3),)),
    ("Linear", {"in_features": 3, "out_features": 5, "bias": False}, lambda r: (r(4, 2, 3),)),
    ("Linear", {"in_features": 1, "out_features": 1}, lambda r: (r(1, 1),)),
    ("Linear", {"in_features": 3, "out_features": 5}, lambda r: (r(0, 2, 3),)),
    ("Flatten", {}, lambda r: (r(4, 2, 3, 5),)),
    ("Flatten", {"start_dim": 0, "end_dim": 1}, lambda r: (r(4, 2, 3, 5),)),
    ("Flatten", {"start_dim": 2}, lambda r: (r(4, 2, 3, 5),)),
    ("Flatten", {"start_dim": -3, "end_dim": -2}, lambda r: (r(4, 2, 3, 5),)),
    ("Dropout", {"p": 0.0}, lambda r: (r(4, 3),)),
    ("Dropout", {"p": 1.0}, lambda r: (r(4, 3),)),
    *[
        (name, {"reduction": reduction, **keywords}, sample)
        for reduction in ("mean", "sum")
        for name, keywords, sample in [
            ("MSELoss", {}, lambda r: (r(4, 3), r(4, 3))),
            ("L1Loss", {}, lambda r: (torch.cat([r(4, 3), torch.zeros(1, 3).double()]), torch.zeros(5, 3).double())),
            ("HuberLoss", {"delta": 0.3}, lambda r: (ENDS.double(), 0.1 * r(13))),
            ("HuberLoss", {"delta": 2.0}, lambda r: (torch.tensor([-2.0, 0.0, 2.0, 5.0]).double(), torch.zeros(4).double())),
            ("BCELoss", {"weight": [0.1, 2.0, 0.0]}, lambda r: (r(4, 3).sigmoid(), r(4, 3).sigmoid())),
            ("BCEWithLogitsLoss", {}, lambda r: (ENDS.double(), r(13).sigmoid())),
            ("BCEWithLogitsLoss", {"pos_weight": 3.0}, lambda r: (ENDS.double(), r(13).sigmoid())),
            ("BCEWithLogitsLoss", {"pos_weight": [0.1, 2.0, 7.0]}, lambda r: (5 * r(4, 3), r(4, 3).sigmoid())),
            (
                "BCEWithLogitsLoss",
                {"weight": [0.1, 2.0, 0.0], "pos_weight": [0.1, 2.0, 7.0]},
                lambda r: (5 * r(4, 3), r(4, 3).gt(0).double()),
            ),
            ("NLLLoss", {"weight": WEIGHT}, lambda r: (r(6, 3).log_softmax(1), torch.tensor([0, 1, 2, 2, 0, 0]))),
            (
                "NLLLoss",
                {"weight": WEIGHT, "ignore_index": 0},
                lambda r: (r(6, 3).log_softmax(1), torch.tensor([0, 1, 2, 2, 0, 0])),
            ),
            ("NLLLoss", {"ignore_index": -100}, lambda r: (r(3, 3), torch.tensor([-100, -100, -100]))),
            ("CrossEntropyLoss", {}, lambda r: (200 * r(6, 3), torch.tensor([0, 1, 2, 2, 0, 0]))),
            ("CrossEntropyLoss", {"ignore_index": 1}, lambda r: (r(3, 3), torch.tensor([1, 1, 1]))),
            (
                "CrossEntropyLoss",
                {"weight": WEIGHT, "label_smoothing": 0.2},
                lambda r: (r(6, 3), torch.tensor([0, 1, 2, 2, 0, 0])),
            ),
            (
                "CrossEntropyLoss",
                {"weight": WEIGHT, "label_smoothing": 0.2, "ignore_index": 2},
                lambda r: (r(6, 3, 4), torch.tensor([0, 1, 2, 2, 0, 0]).repeat(4, 1).T),
            ),
            ("CrossEntropyLoss", {"weight": WEIGHT}, lambda r: (r(6, 3, 2), r(6, 3, 2).softmax(1))),
            ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.2}, lambda r: (r(6, 3), r(6, 3).softmax(1))),
            ("CrossEntropyLoss", {}, lambda r: (r(6, 3), r(6, 3))),  # targets that sum to anything
            ("CrossEntropyLoss", {}, lambda r: (r(3), r(3).softmax(0))),
            ("CrossEntropyLoss", {}, lambda r: (r(0, 3), torch.zeros(0, dtype=torch.int64))),
        ]
    ],
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_values_and_gradients_are_torchs_on_arguments_and_extremes_that_torchs_inputs_lack(
    dtype: torch.dtype, witness: Any
) -> None:
    draw = torch.Generator().manual_seed(2)
    run = Counter[str]()
    for name, keywords, sample in MORE:
        values = [
            v.to(dtype) if v.is_floating_point() else v for v in sample(lambda *s: torch.randn(s, generator=draw).double())
        ]
        tensors = {k: torch.tensor(v, dtype=dtype) if k in ("weight", "pos_weight") else v for k, v in keywords.items()}
        compare(name, OURS[name](**keywords), getattr(torch.nn, name)(**tensors).to(dtype), values, dtype)
        run[name] += 1
    for name, n in run.items():
        witness(f"nn.{name} (own inputs)", n, {})


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss"])
def test_a_class_ruled_out_by_minus_infinity_costs_nothing_while_it_is_not_the_target(name: str) -> None:
    y = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, -torch.inf, 0.1]]).double()
    y = y if name == "CrossEntropyLoss" else y.log_softmax(1)
    for keywords in ({}, {"ignore_index": 1}, {"weight": [1.0, 2.0, 3.0]}):
        tensors = {k: torch.tensor(v).double() if k == "weight" else v for k, v in keywords.items()}
        for target in ([0, 2], [1, 0]):
            ours, theirs = OURS[name](**keywords), getattr(torch.nn, name)(**tensors)
            compare_loss(ours, theirs, y, torch.tensor(target), torch.float64)
            assert ours(y, torch.tensor(target)).isfinite()
    assert OURS[name]()(y, torch.tensor([2, 0])) == torch.inf  # and is an infinite surprise where it is


def test_the_cross_entropy_of_certainty_is_cut_off_as_torch_cuts_it() -> None:
    y, t = torch.tensor([0.0, 1.0, 0.0, 1.0]).double(), torch.tensor([0.0, 1.0, 1.0, 0.0]).double()
    leaf = y.clone().requires_grad_()
    expected = torch.nn.BCELoss(reduction="sum")(leaf, t)
    expected.backward()
    ours = LOSSES["BCELoss"](reduction="sum")
    assert ours.forward(y, t) == expected == 200  # log 0 is -100
    assert_close(ours.backward(), leaf.grad, rtol=1e-8, atol=0)  # torch's 1e-12 is a float32 constant
    assert leaf.grad.tolist()[:2] == [0, 0]


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss"])
def test_an_ignored_sample_counts_nothing_even_where_a_class_of_it_is_ruled_out(name: str) -> None:
    y = torch.tensor([[-torch.inf, 2.0, 1.0], [0.5, -torch.inf, 0.1], [0.3, 0.2, 0.1]]).double()
    y = y if name == "CrossEntropyLoss" else y.log_softmax(1)
    for keywords in ({"ignore_index": 1}, {"ignore_index": -100}):
        t = torch.tensor([keywords["ignore_index"]] * 2 + [2])
        compare_loss(OURS[name](**keywords), getattr(torch.nn, name)(**keywords), y, t, torch.float64)
        assert OURS[name](**keywords)(y, t).isfinite()


# -- what torch's table does not hold ----------------------------------------------------------------------------------------


def _linear(w: Tensor, b: Tensor) -> torch.nn.Linear:
    theirs = torch.nn.Linear(*reversed(w.shape)).double()
    theirs.weight.data, theirs.bias.data = w, b
    return theirs


class _Chain(torch.nn.Module):
    """torch's mirror of a container over Linear(3, 3), Tanh, Linear(3, 3): names 0.weight, ..., 2.bias."""

    def __init__(self, join: Callable[..., Tensor], *layers: torch.nn.Module) -> None:
        super().__init__()
        self.join = join
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)

    def forward(self, *x: Tensor) -> Tensor:
        return self.join(list(self.children()), *x)


def _run(layers: list[torch.nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _stack(keywords: dict[str, Any], *x: Tensor) -> Tensor:
    return torch.cat(x, **keywords)


def _three(ours: Callable[..., Any]) -> Callable[[], Module]:
    return lambda: ours(trainkit.Linear(3, 3), trainkit.Tanh(), trainkit.Linear(3, 3))


def _torch_three() -> list[torch.nn.Module]:
    return [torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)]


def _fan_out(k: int) -> torch.nn.Module:
    return _Chain(lambda layers, x: torch.stack([x] * k))


class _Embedded(torch.nn.Module):
    """Numbers, then F.embedding of each code column in a table of its own, which are one parameter."""

    def __init__(self, limits: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.limits = limits
        self.weight = torch.nn.Parameter(torch.randn(sum(limits), dim))

    def forward(self, x: Tensor) -> Tensor:
        numbers, codes = x[..., : -len(self.limits)], x[..., -len(self.limits) :].detach().long()
        tables = self.weight.split(list(self.limits))
        return torch.cat([numbers, *(torch.nn.functional.embedding(codes[..., c], w) for c, w in enumerate(tables))], -1)


class _Coded(tuple[int, ...]):
    """A shape whose last columns are codes below these limits."""

    def __new__(cls, limits: tuple[int, ...], *shape: int) -> Any:
        made = super().__new__(cls, shape)
        made.limits = limits
        return made


def _input(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    limits = getattr(shape, "limits", ())
    for column, limit in enumerate(limits, start=-len(limits)):
        x[..., column] = torch.randint(limit, shape[:-1], generator=draw)
    return x


def _embedding(limits: tuple[int, ...], dim: int, *shapes: tuple[int, ...]) -> Any:
    return lambda: MODULES["EmbedColumns"](limits, dim), lambda: _Embedded(limits, dim), [_Coded(limits, *s) for s in shapes]


# name: (ours, theirs, the inputs' shapes); a tuple that ours gives is stacked to be compared, see below
OWN_REFERENCES: dict[str, list[tuple[Callable[[], Module], Callable[[], torch.nn.Module], list[tuple[int, ...]]]]] = {
    "Sequential": [
        (_three(MODULES["Sequential"]), lambda: _Chain(_run, *_torch_three()), [(5, 3)]),
        (lambda: MODULES["Sequential"](), lambda: _Chain(_run), [(5, 3)]),
    ],
    "Recompute": [(_three(MODULES["Recompute"]), lambda: _Chain(_run, *_torch_three()), [(5, 3)])],
    "Residual": [
        (_three(MODULES["Residual"]), lambda: _Chain(lambda layers, x: x + _run(layers, x), *_torch_three()), [(5, 3)])
    ],
    "Parallel": [
        (
            lambda: MODULES["Parallel"](MODULES["Linear"](3, 2), MODULES["Tanh"](), MODULES["Linear"](4, 2, bias=False)),
            lambda: _Chain(
                lambda layers, *x: torch.stack([f(v) for f, v in zip(layers, x, strict=True)]),
                torch.nn.Linear(3, 2),
                torch.nn.Tanh(),
                torch.nn.Linear(4, 2, bias=False),
            ),
            [(5, 3), (5, 2), (5, 4)],
        )
    ],
    "EmbedColumns": [
        _embedding((4, 3), 2, (6, 4)),
        _embedding((4, 3), 3, (50, 2)),  # no numbers, and rows that are read many times
        _embedding((7, 1, 5), 1, (6, 2, 5)),
    ],
    "FanOut": [(lambda k=k: MODULES["FanOut"](k), lambda k=k: _fan_out(k), [(5, 3)]) for k in (2, 3, 4)],
    "Add": [(lambda: MODULES["Add"](), lambda: _Chain(lambda layers, *x: sum(x)), [(5, 3)] * k) for k in (2, 3)],
    "Concat": [
        (lambda: MODULES["Concat"](), lambda: _Chain(lambda layers, *x: torch.cat(x, -1)), [(5, 3), (5, 1), (5, 4)]),
        (lambda: MODULES["Concat"](1), lambda: _Chain(lambda layers, *x: torch.cat(x, 1)), [(5, 3, 2), (5, 1, 2)]),
        (lambda: MODULES["Concat"](0), lambda: _Chain(lambda layers, *x: torch.cat(x, 0)), [(5, 3), (2, 3)]),
    ],
}


class _Stacked(Module):
    """y of `inner`, a tuple, stacked to one tensor; dy taken apart again."""

    accepts_tuple = True

    def __init__(self, inner: Module) -> None:
        self.inner = inner

    def fwd(self, x: Any) -> tuple[Any, Any]:
        y, saved = self.inner.fwd(x)
        return (torch.stack(y), (saved, True)) if type(y) is tuple else (y, (saved, False))

    def bwd(self, saved: Any, dy: Any) -> Any:
        return self.inner.bwd(saved[0], tuple(dy) if saved[1] else dy)

    def named_param(self) -> Any:
        return self.inner.named_param()


@pytest.mark.parametrize("name", sorted(OWN_REFERENCES))
def test_containers_and_plumbing_are_what_autograd_makes_of_their_formula(name: str, witness: Any) -> None:
    for ours, theirs, shapes in OWN_REFERENCES[name]:
        draw = torch.Generator().manual_seed(3)
        reference = theirs().double()
        module = ours().to(dtype=torch.float64)
        module.load_state_dict(reference.state_dict())
        x = tuple(_input(s, draw) for s in shapes)
        compare_module(_Stacked(module), reference, x, torch.float64)
    witness(f"nn.{name} (own reference)", len(OWN_REFERENCES[name]), {})


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_a_share_of_1_minus_p_and_scales_it_so_that_the_mean_stays(p: float, witness: Any) -> None:
    module = MODULES["Dropout"](p)
    module.generators = (torch.Generator().manual_seed(4),)
    x = 1 + torch.rand(200, 500, dtype=torch.float64)
    y = module.forward(x)
    kept = y != 0
    share = kept.double().mean().item()
    assert abs(share - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    same(y, torch.where(kept, x / (1 - p), 0))
    dy = torch.randn(x.shape, dtype=torch.float64)
    same(module.backward(dy), torch.where(kept, dy / (1 - p), 0))
    rows, columns = kept.double().mean(1), kept.double().mean(0)  # no pattern along an axis
    assert rows.std() < 3 * (p * (1 - p) / 500) ** 0.5
    assert columns.std() < 3 * (p * (1 - p) / 200) ** 0.5
    assert torch.equal(module.eval().forward(x), x)
    assert torch.equal(module.backward(dy), dy)
    witness("nn.Dropout (own reference)", 1, {})


# -- replicas ----------------------------------------------------------------------------------------------------------------

R = 3
REPLICATED: dict[str, list[tuple[dict[str, Any] | Callable[[], Module], list[tuple[int, ...]]]]] = {
    "Linear": [
        ({"in_features": 3, "out_features": 5}, [(4, 3)]),
        ({"in_features": 3, "out_features": 5}, [(4, 2, 3)]),
        ({"in_features": 3, "out_features": 5, "bias": False}, [(2, 2, 2, 3)]),
    ],
    "Softmax": [({"dim": 0}, [(4, 3)]), ({"dim": 1}, [(4, 3, 2)]), ({"dim": -2}, [(4, 3, 2)])],
    "LogSoftmax": [({"dim": 0}, [(4, 3)]), ({"dim": 1}, [(4, 3, 2)]), ({"dim": -2}, [(4, 3, 2)])],
    "Flatten": [({}, [(4, 3, 2)]), ({"start_dim": 0, "end_dim": 1}, [(4, 3, 2)]), ({"start_dim": -2}, [(4, 3, 2)])],
    "Identity": [({}, [(4, 3)])],
    "Dropout": [({"p": 0.4}, [(4, 3)])],
    **{name: [(ours, shapes) for ours, _, shapes in rows] for name, rows in OWN_REFERENCES.items()},
}


def _alone(build: Callable[[], Any], state: dict[str, Tensor], r: int) -> Any:
    one = build().to(dtype=torch.float64)
    one.load_state_dict({name: p[r] for name, p in state.items()})
    return one


def compare_replicas(build: Callable[[], Module], x: list[tuple[Tensor, ...]]) -> None:
    """R inputs stacked, through one replicated module, equal R modules: y, dx, and every parameter's gradient."""
    together = build().to(dtype=torch.float64).replicate(range(R))
    state = together.state_dict()
    for m in [m for _, m in together.modules() if hasattr(m, "generators")]:
        m.generators = tuple(torch.Generator().manual_seed(10 + r) for r in range(R))
    alone = [_alone(build, state, r) for r in range(R)]
    for r, one in enumerate(alone):
        for m in [m for _, m in one.modules() if hasattr(m, "generators")]:
            m.generators = (torch.Generator().manual_seed(10 + r),)
    y = together.forward(*(torch.stack(values) for values in zip(*x, strict=True)))
    outputs = y if type(y) is tuple else (y,)
    draw = torch.Generator().manual_seed(5)
    dy = tuple(torch.randn(o.shape, generator=draw, dtype=torch.float64) for o in outputs)
    dx = together.backward(dy if type(y) is tuple else dy[0])
    for r, one in enumerate(alone):
        y_r = one.forward(*x[r])
        dx_r = one.backward(tuple(d[r] for d in dy) if type(y) is tuple else dy[0][r])
        same(tuple(o[r] for o in outputs), y_r if type(y_r) is tuple else (y_r,))
        same(tuple(d[r] for d in (dx if type(dx) is tuple else (dx,))), dx_r if type(dx_r) is tuple else (dx_r,))
        for (name, _, g), (_, _, g_r) in zip(together.named_param(), one.named_param(), strict=True):
            assert g.shape == (R, *g_r.shape), name
            same(g[r], g_r)


def compare_replicas_loss(build: Callable[[], Loss], samples: list[list[Tensor]]) -> None:
    together, alone = build(), [build() for _ in samples]
    together.replica_dims = 1
    values = together.forward(*(torch.stack(v) for v in zip(*samples, strict=True)))
    dy = together.backward()
    same(values, torch.stack([one.forward(*s) for one, s in zip(alone, samples, strict=True)]))
    same(dy, torch.stack([one.backward() for one in alone]))


@pytest.mark.parametrize("name", DRIVEN)
def test_three_replicas_are_three_modules_on_torchs_inputs(name: str, witness: Any) -> None:
    run, skipped = 0, Counter[str]()
    for samples in zip(*(inputs(name, torch.float64, True, seed) for seed in range(R)), strict=True):
        keywords, lack = arguments(name, samples[0].constructor_input.args, samples[0].constructor_input.kwargs)
        x = [[v.detach() for v in given(s)] for s in samples]
        if not lack and "dim" in keywords and x[0][0].dim() == 0:
            lack = "a replica's scalar has no axis"
        if lack:
            skipped[lack] += 1
            continue
        build = lambda keywords=keywords: OURS[name](**keywords)  # noqa: E731
        if name in LOSSES:
            compare_replicas_loss(build, x)
        else:
            compare_replicas(build, [tuple(v) for v in x])
        run += 1
    assert run > 0
    witness(f"nn.{name} (replicas)", run, skipped)


@pytest.mark.parametrize("name", sorted(REPLICATED))
def test_three_replicas_are_three_modules(name: str) -> None:
    for made, shapes in REPLICATED[name]:
        build = made if callable(made) else lambda made=made: OURS[name](**made)
        draw = torch.Generator().manual_seed(6)
        compare_replicas(build, [tuple(_input(s, draw) for s in shapes) for _ in range(R)])


def test_three_replicas_are_three_losses_with_their_own_norms() -> None:
    draw = torch.Generator().manual_seed(7)
    for name, keywords, sample in MORE:
        if name in LOSSES:
            samples = [list(sample(lambda *s: torch.randn(s, generator=draw).double())) for _ in range(R)]
            if (
                not samples[0][1].is_floating_point() and samples[0][1].numel()
            ):  # other classes, so other norms, in each replica
                samples[1][1], samples[2][1] = samples[1][1].flip(0), torch.full_like(samples[2][1], 2)
            compare_replicas_loss(lambda name=name, keywords=keywords: OURS[name](**keywords), samples)


def test_every_shipped_module_and_loss_is_replicated() -> None:
    can_replicate = {name for name, cls in MODULES.items() if cls.can_replicate} | set(LOSSES)
    assert not can_replicate - set(DRIVEN) - set(REPLICATED)


@pytest.mark.parametrize("name", ["BCELoss", "BCEWithLogitsLoss"])
@pytest.mark.parametrize("shape", [(6, 1), (6, 3), (6,)])
@pytest.mark.parametrize("weights", [[1.0, 5.0], [2.0], [1.0, 2.0, 3.0], [1.0] * 6])
def test_weights_that_torch_cannot_broadcast_to_y_are_refused(name: str, shape: tuple[int, ...], weights: list[float]) -> None:
    y, t = torch.full(shape, 0.25), torch.ones(shape)
    for argument in ("weight", "pos_weight")[: 1 + (name == "BCEWithLogitsLoss")]:
        theirs = getattr(torch.nn, name)(**{argument: torch.tensor(weights)})
        ours = OURS[name](**{argument: weights})
        try:
            expected = float(theirs(y, t))
        except RuntimeError:
            with pytest.raises(UserError, match=f"^{name}: {argument} has {len(weights)} numbers, y has"):
                ours(y, t)
        else:
            assert float(ours(y, t)) == pytest.approx(expected, rel=1e-6)
