"""Every optimizer against torch.optim on the inputs torch tests its own with, and against the paper where torch has none."""

from __future__ import annotations

import copy
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
from torch.testing._internal.common_optimizers import optim_db

import trainkit.optim
from trainkit.core.errors import UserError
from trainkit.nn.layers.activation import Tanh
from trainkit.nn.layers.container import Sequential
from trainkit.nn.layers.linear import Linear
from trainkit.nn.losses import CrossEntropyLoss
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.engines.step import training_step

for _found in pkgutil.walk_packages(trainkit.optim.__path__, "trainkit.optim."):
    importlib.import_module(_found.name)


def shipped(base: type[Optimizer]) -> dict[str, type[Optimizer]]:
    found = {}
    for sub in base.__subclasses__():
        if sub.__module__.startswith("trainkit."):
            found[sub.__name__] = sub
        found |= shipped(sub)
    return found


OURS = shipped(Optimizer)
TORCH_INPUTS = {info.optim_cls.__name__: info for info in optim_db}
DRIVEN = sorted(set(OURS) & set(TORCH_INPUTS))
STEPS = 30
SHAPES = [(4, 3), (3,), (2, 5), ()]

# torch's table says little of these; each entry names an argument that it leaves at its default
MORE: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    ],
    "Adam": [
        {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1},
        {"lr": 0.1, "betas": (0.0, 0.0)},
        {"lr": 0.1, "amsgrad": True, "betas": (0.9, 0.5)},
    ],
    "AdamW": [
        {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.5},
        {"lr": 0.1, "weight_decay": 0.0},
        {"lr": 0.1, "amsgrad": True, "betas": (0.9, 0.5)},
    ],
    "RMSprop": [{"lr": 0.1, "alpha": 0.5, "eps": 0.1, "momentum": 0.9}, {"lr": 0.1, "alpha": 0.0}],
    "Adagrad": [{"lr": 0.1, "eps": 0.1, "lr_decay": 0.5, "initial_accumulator_value": 2.0}],
    "SignSGD": [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "weight_decay": 0.3},
        {"lr": 0.1, "momentum": 0.5, "maximize": True},
    ],
}


def lack(name: str, keywords: dict[str, Any]) -> str:
    """Why torch's input cannot be given to ours, or ''."""
    if any(isinstance(v, Tensor) for v in keywords.values()):
        return "tensor lr"
    known = inspect.signature(OURS[name]).parameters
    return next((f"no argument {key!r}" for key in keywords if key not in known), "")


def start(seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=draw, dtype=torch.float64) for s in SHAPES]


def gradient(p: Tensor, step: int) -> Tensor:
    """Of a quadratic whose centre moves and whose curvature differs by element; now and then exactly 0."""
    if step % 7 == 3:
        return torch.zeros_like(p)
    curvature = torch.linspace(0.2, 2, max(p.numel(), 1), dtype=p.dtype)[: p.numel()].view(p.shape)
    return curvature * (p.detach() - torch.cos(torch.tensor(1.0 * step)))


def run(build: Callable[[Any], Any], torchs: bool, steps: int = STEPS) -> list[Tensor]:
    """The parameters after `steps` updates, from one and the same start."""
    params = start()
    if torchs:
        optimizer = build([p.requires_grad_() for p in params])
        for i in range(steps):
            for p in params:
                p.grad = gradient(p, i)
            optimizer.step()
        return [p.detach() for p in params]
    pairs = [(p, torch.zeros_like(p)) for p in params]
    optimizer = build(pairs)
    for i in range(steps):
        for p, g in pairs:
            g.copy_(gradient(p, i))
        optimizer.step()
    return params


def compare(name: str, keywords: dict[str, Any]) -> None:
    ours = run(lambda pairs: OURS[name](pairs, **keywords), torchs=False)
    theirs = run(lambda params: getattr(torch.optim, name)(params, **keywords), torchs=True)
    assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert all(not torch.equal(p, before) for p, before in zip(ours, start(), strict=True))


@pytest.mark.parametrize("name", DRIVEN)
def test_thirty_updates_are_torchs_on_torchs_inputs(name: str, witness: Any) -> None:
    done, skipped = 0, Counter[str]()
    info = TORCH_INPUTS[name]
    for sample in info.optim_inputs_func(device="cpu"):
        if reason := lack(name, sample.kwargs):
            skipped[reason] += 1
            continue
        compare(name, sample.kwargs)
        done += 1
    for variant in info.supported_impls:  # the same sums in another order, or by other kernels
        skipped[f"variant {variant}"] += 1
    assert done >= 5
    witness(f"optim.{name}", done, skipped)


@pytest.mark.parametrize("name", sorted(set(MORE) & set(DRIVEN)))
def test_thirty_updates_are_torchs_with_the_arguments_that_torchs_inputs_leave_alone(name: str, witness: Any) -> None:
    for keywords in MORE[name]:
        compare(name, keywords)
    witness(f"optim.{name} (own inputs)", len(MORE[name]), {})


def test_every_shipped_optimizer_has_a_judge() -> None:
    assert set(OURS) - set(DRIVEN) == {"SignSGD"}, "an optimizer that torch has not needs its paper's formula here"
    assert set(MORE) == set(OURS)


@pytest.mark.parametrize("name", DRIVEN)
def test_defaults_are_torchs(name: str) -> None:
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    for key, parameter in inspect.signature(OURS[name]).parameters.items():
        if key not in ("params", "accumulate_into_momentum"):  # the second is ours alone
            assert parameter.default == theirs[key].default, key


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("maximize", [False, True])
def test_signsgd_is_algorithms_1_and_2_of_bernstein_et_al(momentum: float, weight_decay: float, maximize: bool) -> None:
    """Signum: m ← β m + (1 - β) g, then x ← x - δ sign(m), from m = 0; signSGD is β = 0."""
    x, m = start(), [torch.zeros(s).double() for s in SHAPES]
    for i in range(STEPS):
        for k in range(len(x)):
            g = (-1 if maximize else 1) * gradient(x[k], i) + weight_decay * x[k]
            m[k] = momentum * m[k] + (1 - momentum) * g
            x[k] = x[k] - 0.1 * (m[k] > 0).double() + 0.1 * (m[k] < 0).double()
    keywords = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay, "maximize": maximize}
    assert_close(run(lambda pairs: OURS["SignSGD"](pairs, **keywords), torchs=False), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("flags", [{}, {"amsgrad": True}, {"maximize": True}])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_the_kernel_of_the_whole_update_and_its_lines_agree(name: str, flags: dict[str, Any], decay: float) -> None:
    net = Sequential(Linear(3, 4), Linear(4, 2)).to(dtype=torch.float64)
    at_once = OURS[name](net.param(), lr=0.05, weight_decay=decay, **flags)
    by_lines = OURS[name]([(p.clone(), g.clone()) for p, g in net.param()], lr=0.05, weight_decay=decay, **flags)
    by_lines.apply_update = by_lines._apply_formula  # type: ignore[attr-defined, method-assign]
    for i in range(20):
        of_net(net, i)
        by_lines.g.copy_(at_once.g)
        at_once.step()
        by_lines.update()
        for a, b in zip(at_once.state(), by_lines.state(), strict=True):
            assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adding_the_gradient_straight_to_the_momentum_is_the_same_update_in_one_buffer(decay: float, replicas: int) -> None:
    nets, steps = [], []
    for into in (False, True):
        torch.manual_seed(0)
        net = Sequential(Linear(3, 8), Tanh(), Linear(8, 2)).to(dtype=torch.float64)
        net = net.replicate(range(replicas)) if replicas > 1 else net
        momentum = [0.9, 0.5, 0.7] if replicas > 1 else 0.9
        optimizer = OURS["SGD"](net.param(), lr=0.05, momentum=momentum, weight_decay=decay, accumulate_into_momentum=into)
        loss = CrossEntropyLoss()
        loss.replica_dims = net.replica_dims
        nets.append((net, optimizer))
        steps.append(training_step(net, loss, optimizer, accumulate=2))
    (plain, _), (folded, optimizer) = nets
    folded.load_state_dict(plain.state_dict())
    for i in range(30):
        g = torch.Generator().manual_seed(i)
        shape = (replicas, 6) if replicas > 1 else (6,)
        x, t = torch.randn(*shape, 3, generator=g, dtype=torch.float64), torch.randint(0, 2, shape, generator=g)
        values = [step(x, t) for step in steps]
        assert_close(values[0], values[1], rtol=1e-11, atol=1e-13)
    for (p, _), (q, _) in zip(plain.param(), folded.param(), strict=True):
        assert_close(p, q, rtol=1e-10, atol=1e-12)
    assert optimizer.slots["m"].data_ptr() == optimizer.g.data_ptr() == folded.param()[0][1].data_ptr()
    assert_close(optimizer.state_dict()["m"], nets[0][1].state_dict()["m"], rtol=1e-10, atol=1e-12)
    folded.to(dtype=torch.float32)
    optimizer.bind()
    assert optimizer.slots["m"].dtype == torch.float32
    assert_close(optimizer.slots["m"].double(), nets[0][1].slots["m"], rtol=1e-6, atol=1e-7)


# -- replicas ----------------------------------------------------------------------------------------------------------------

EACH = [(name, keywords) for name in sorted(OURS) for keywords in ({"lr": 0.05}, *MORE[name])]
SOME = [
    *EACH,
    *((n, {"lr": 0.05, "weight_decay": 0.1}) for n in sorted(OURS)),
    ("RMSprop", {"lr": 0.05, "centered": True, "momentum": 0.5}),
]


def of_net(net: Any, i: int) -> None:
    for p, g in net.param():
        g.copy_(gradient(p, i) + torch.sin(3 * p))


def replicated() -> Sequential:
    return Sequential(Linear(3, 4), Linear(4, 2)).to(dtype=torch.float64).replicate([0, 1, 2])


OWN: list[tuple[str, dict[str, Any]]] = [
    *((name, {"weight_decay": [0.0, 0.1, 0.5]}) for name in sorted(OURS)),
    *((name, {"momentum": [0.9, 0.0, 0.5]}) for name in ("SGD", "SignSGD", "RMSprop")),
    ("SGD", {"momentum": [0.9, 0.3, 0.5], "weight_decay": [0.1, 0.0, 0.2], "nesterov": True}),
    ("SGD", {"momentum": [0.9, 0.3, 0.5], "dampening": 0.5}),
]


@pytest.mark.parametrize(("name", "keywords"), [*SOME, *OWN], ids=str)
def test_numbers_for_each_replica_are_that_many_separate_runs(name: str, keywords: dict[str, Any]) -> None:
    keywords = {**keywords, "lr": [0.01, 0.1, 0.05]}

    def of(r: int) -> dict[str, Any]:
        return {key: v[r] if isinstance(v, list) else v for key, v in keywords.items()}

    net = replicated()
    alone = []
    for r in range(3):
        one = Sequential(Linear(3, 4), Linear(4, 2)).to(dtype=torch.float64)
        one.load_state_dict({key: p[r] for key, p in net.state_dict().items()})
        alone.append(one)
    together = OURS[name](net.param(), **keywords)
    separate = [OURS[name](one.param(), **of(r)) for r, one in enumerate(alone)]
    for i in range(20):
        for (_, g), *others in zip(net.param(), *(one.param() for one in alone), strict=True):
            for r, (p_r, g_r) in enumerate(others):
                g_r.copy_(gradient(p_r, i) + 0.1 * r)
            g.copy_(torch.stack([g_r for _, g_r in others]))
        together.step()
        for optimizer in separate:
            optimizer.step()
    for (p, _), *others in zip(net.param(), *(one.param() for one in alone), strict=True):
        assert_close(p, torch.stack([p_r for p_r, _ in others]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "keywords"), SOME, ids=str)
def test_a_rate_of_0_leaves_a_replica_bit_for_bit_while_the_others_move(name: str, keywords: dict[str, Any]) -> None:
    net = replicated()
    before = net.state_dict()
    optimizer = OURS[name](net.param(), **{**keywords, "lr": [0.05, 0.0, 0.05]})
    for i in range(10):
        of_net(net, i)
        for _, g in net.param() if i > 6 else ():  # a replica that was stopped because it diverged
            g[1] = [torch.inf, torch.nan, -torch.inf][i - 7]
        optimizer.step()
    for key, p in net.state_dict().items():
        assert torch.equal(p[1].view(torch.int64), before[key][1].view(torch.int64))
        assert not torch.equal(p[0], before[key][0])
        assert not torch.equal(p[2], before[key][2])


@pytest.mark.parametrize(("name", "keywords"), SOME, ids=str)
def test_an_update_leaves_the_gradient_as_it_was(name: str, keywords: dict[str, Any]) -> None:
    for lr in (0.05, [0.05, 0.1, 0.2]):
        net = replicated()
        optimizer = OURS[name](net.param(), **{**keywords, "lr": lr})
        for i in range(2):
            of_net(net, i)
            before = optimizer.g.clone()
            optimizer.step()
            assert torch.equal(optimizer.g, before)


def test_a_rate_can_be_changed_between_updates_by_replica_and_back() -> None:
    net = replicated()
    p = net.param()[0][0]
    optimizer = OURS["SGD"](net.param(), lr=0.5)
    for lr, moved in [
        (0.5, [0.5, 0.5, 0.5]),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
        ([0.2, 0.2, 0.2], [0.2] * 3),
        (0.0, [0.0] * 3),
    ]:
        optimizer.set_lr(lr)
        before = p.clone()
        optimizer.g.fill_(1)
        optimizer.step()
        assert_close((before - p).mean((1, 2)), torch.tensor(moved, dtype=torch.float64), rtol=1e-12, atol=1e-13)


# -- state -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keywords"), SOME, ids=str)
def test_a_run_resumed_from_its_state_continues_bit_for_bit(name: str, keywords: dict[str, Any]) -> None:
    net = replicated()
    optimizer = OURS[name](net.param(), **keywords)
    for i in range(9):
        of_net(net, i)
        optimizer.step()
    weights, state = net.state_dict(), copy.deepcopy(optimizer.state_dict())
    resumed = replicated()
    resumed.load_state_dict(weights)
    after = OURS[name](resumed.param(), **keywords)
    after.load_state_dict(state)
    for i in range(9, 20):
        for n, o in ((net, optimizer), (resumed, after)):
            of_net(n, i)
            o.step()
    assert optimizer.t == after.t == 20
    for (key, p), (_, q) in zip(net.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(p, q), key
    assert torch.equal(torch.cat([p.flatten() for p, _ in net.param()]), optimizer.p)


@pytest.mark.parametrize(("name", "keywords"), EACH, ids=str)
def test_a_state_is_a_copy(name: str, keywords: dict[str, Any]) -> None:
    net = replicated()
    optimizer = OURS[name](net.param(), **keywords)
    of_net(net, 1)
    optimizer.step()
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    of_net(net, 2)
    optimizer.step()
    assert state.keys() == kept.keys()
    assert state["t"] == 1
    for slot in set(state) - {"t"}:
        assert torch.equal(state[slot], kept[slot])


def test_a_foreign_state_is_refused_whole() -> None:
    net = replicated()
    adam = OURS["Adam"](net.param())
    of_net(net, 1)
    adam.step()
    kept = adam.state_dict()
    other = Sequential(Linear(2, 2))
    for state, message in [
        (OURS["SGD"](other.param()).state_dict(), "Adam needs m, v"),
        (OURS["Adam"](other.param()).state_dict(), "m has 6 numbers, the net 78"),
        ({**kept, "m": torch.zeros_like(kept["m"]), "v": torch.zeros(3).double()}, "v has 3 numbers, the net 78"),
        ({"m": kept["m"], "v": kept["v"]}, "optimizer"),
    ]:
        with pytest.raises(UserError, match=message):
            adam.load_state_dict(state)
        assert adam.t == 1
        assert torch.equal(adam.slots["m"], kept["m"])
        assert torch.equal(adam.slots["v"], kept["v"])


# -- whose memory is it ------------------------------------------------------------------------------------------------------


def deep() -> Sequential:
    torch.manual_seed(0)
    return Sequential(*(Linear(3, 3) for _ in range(4))).to(dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "second"),
    [([0, 1], [1, 2, 3]), ([0, 2], [0, 1, 2, 3]), ([0, 1, 2, 3], [0, 1, 2, 3]), ([0, 1, 2], [3, 1]), ([3, 2], [2, 3])],
    ids=str,
)
def test_two_optimizers_over_overlapping_parts_of_a_net_take_turns_as_torchs_do(first: list[int], second: list[int]) -> None:
    net = deep()
    mirror = [torch.nn.Parameter(p.clone()) for p, _ in net.param()]
    parts = [[pair for i in part for pair in net[i].param()] for part in (first, second)]
    ours = [OURS["SGD"](parts[0], lr=0.1, momentum=0.9), OURS["Adam"](parts[1], lr=0.05)]
    theirs = [
        torch.optim.SGD([mirror[2 * i + k] for i in first for k in (0, 1)], lr=0.1, momentum=0.9),
        torch.optim.Adam([mirror[2 * i + k] for i in second for k in (0, 1)], lr=0.05),
    ]
    for i in range(8):
        for turn in (0, 1, 1) if i % 3 else (1, 0):
            for (p, g), q in zip(net.param(), mirror, strict=True):
                g.copy_(gradient(p, i))
                q.grad = gradient(q, i)
            ours[turn].step()
            theirs[turn].step()
        assert_close([p for p, _ in net.param()], [q.detach() for q in mirror], rtol=1e-12, atol=1e-13)
        for _, g in net.param():
            g.fill_(1)
        ours[i % 2].zero_grad()
        cleared = {id(g) for _, g in parts[i % 2]}
        for _, g in net.param():
            assert (g == 0).all() == (id(g) in cleared)


@pytest.mark.parametrize(("name", "keywords"), SOME, ids=str)
def test_a_net_moved_to_another_dtype_after_its_optimizer_was_made_trains_on_from_its_slots(
    name: str, keywords: dict[str, Any]
) -> None:
    """float32 for two updates of gradient ±1, then float64: the slots' values come along, and the rates lose no digit."""
    net = Sequential(Linear(3, 4)).replicate([0, 1, 2])
    rates = [0.1, 0.2, 0.3]
    optimizer = OURS[name](net.param(), **{**keywords, "lr": rates})
    reference = copy.deepcopy(net).to(dtype=torch.float64)
    expected = OURS[name](reference.param(), **{**keywords, "lr": rates})
    for i in range(10):
        if i == 2:
            net.to(dtype=torch.float64)
            net.load_state_dict(reference.state_dict())
            for slot in optimizer.slots:
                assert_close(optimizer.slots[slot].double(), expected.slots[slot], rtol=1e-6, atol=1e-7)
                optimizer.slots[slot].copy_(expected.slots[slot])
            for slot in optimizer.slots:  # what float32 holds of them, so that the rest can be exact
                expected.slots[slot].copy_(optimizer.slots[slot])
        for (p, g), (_, h) in zip(net.param(), reference.param(), strict=True):
            h.copy_(torch.cos(torch.arange(p.numel()) + i).sign().view(p.shape))
            g.copy_(h)
        optimizer.step()
        expected.step()
    assert optimizer.p.dtype == torch.float64
    for (p, g), (q, _) in zip(net.param(), reference.param(), strict=True):
        assert p.dtype == g.dtype == torch.float64
        assert_close(p, q, rtol=1e-13, atol=1e-14)


def test_a_moved_net_is_still_cleared_by_its_optimizer() -> None:
    net = deep()
    optimizer = OURS["SGD"](net.param())
    net.to(dtype=torch.float32)
    for _, g in net.param():
        g.fill_(1)
    optimizer.zero_grad()
    assert all((g == 0).all() for _, g in net.param())


def test_adagrads_accumulator_starts_at_its_value_and_not_again() -> None:
    """g = 1, v = 4, 5, 6: p moves by lr / √v."""
    p, g = torch.zeros(1).double(), torch.ones(1).double()
    optimizer = OURS["Adagrad"]([(p, g)], lr=1.0, initial_accumulator_value=3.0, eps=0.0)
    optimizer.step()
    optimizer.bind()
    optimizer.step()
    assert_close(p, torch.tensor([-1 / 2 - 1 / 5**0.5], dtype=torch.float64), rtol=1e-15, atol=0)


# -- refusals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("SGD", {"lr": -0.1}, "SGD: lr=-0.1; needs a finite number of at least 0"),
        ("SGD", {"lr": float("nan")}, "SGD: lr=nan"),
        ("SGD", {"lr": float("inf")}, "SGD: lr=inf"),
        ("SGD", {"lr": [0.1, -0.1, 0.1]}, "SGD: lr=-0.1"),
        ("SGD", {"lr": [0.1, 0.1]}, "2 values of lr for 3 replicas; needs one number, or one per replica"),
        ("SGD", {"momentum": [0.5, 0.5]}, "2 values of momentum for 3 replicas; needs one number, or one per replica"),
        ("SGD", {"lr": []}, "SGD: 0 values of lr"),
        ("SGD", {"lr": "0.01"}, "SGD: lr is '0.01'; needs a number, or a list with a number per replica"),
        ("Adam", {"lr": torch.tensor([0.1, 0.2, 0.3])}, r"Adam: lr is a tensor of float32 \(3,\); needs a number, or a list"),
        ("Adam", {"weight_decay": None}, "Adam: weight_decay is None; needs a number"),
        ("Adam", {"betas": 0.9}, "Adam: betas=0.9; needs two numbers"),
        ("SGD", {"momentum": [0.5, -0.5, 0.5]}, "SGD: momentum=-0.5; needs a number of at least 0"),
        ("SGD", {"momentum": [0.5, 0.0, 0.5], "dampening": 0.5}, "a replica without momentum needs dampening 0"),
        ("Adam", {"weight_decay": [0.0, -0.1, 0.0]}, "Adam: weight_decay=-0.1; needs a number of at least 0"),
        ("SGD", {"accumulate_into_momentum": True}, "accumulate_into_momentum needs a momentum above 0"),
        (
            "SGD",
            {"accumulate_into_momentum": True, "momentum": 0.9, "nesterov": True},
            "neither dampening, nesterov nor maximize",
        ),
        ("SGD", {"momentum": -0.5}, "SGD: momentum=-0.5; needs a number of at least 0"),
        ("SGD", {"nesterov": True}, "nesterov"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
        ("SignSGD", {"momentum": 1.0}, "momentum=1.0; needs a number of at least 0 and below 1"),
        ("Adam", {"betas": (1.0, 0.0)}, r"Adam: betas\[0\]=1.0"),
        ("AdamW", {"betas": (0.9, -0.1)}, r"AdamW: betas\[1\]=-0.1"),
        ("Adam", {"betas": (0.9,)}, "needs two numbers"),
        ("Adam", {"weight_decay": -1}, "Adam: weight_decay=-1"),
        ("Adam", {"eps": -1e-8}, "Adam: eps"),
        ("RMSprop", {"momentum": -1.0}, "RMSprop: momentum"),
        ("RMSprop", {"alpha": -1.0}, "RMSprop: alpha"),
        ("Adagrad", {"lr_decay": -0.5}, "Adagrad: lr_decay"),
        ("Adagrad", {"initial_accumulator_value": -0.5}, "Adagrad: initial_accumulator_value"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_and_bounds(name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OURS[name](replicated().param(), **keywords).step()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (Sequential(Linear(2, 2)), r"params is a Sequential, a net; give its parameters, net.param\(\)"),
        ([torch.zeros(2)], r"params holds a tensor of float32 \(2,\); give \(parameter, gradient\) pairs, net.param\(\)"),
        (0.1, "params holds 0.1; give"),
    ],
)
def test_what_is_not_pairs_of_tensors_is_refused(params: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"Adam: {message}"):
        OURS["Adam"](params)


def test_a_list_of_rates_waits_for_the_replicas() -> None:
    net = Sequential(Linear(3, 4), Linear(4, 2))
    optimizer = OURS["SGD"](net.param(), lr=[1.0, 2.0, 0.0])
    with pytest.raises(UserError, match="3 values of lr for 1 replica; needs one number"):
        optimizer.step()
    net.replicate([0, 1, 2])
    before = [p.clone() for p, _ in net.param()]
    for _, g in net.param():
        g.fill_(1)
    optimizer.step()
    for (p, _), q in zip(net.param(), before, strict=True):
        assert torch.equal(p, q - torch.tensor([1.0, 2.0, 0.0]).view(3, *[1] * (p.dim() - 1)))


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_net_without_parameters_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: no parameters"):
        OURS[name]([])
