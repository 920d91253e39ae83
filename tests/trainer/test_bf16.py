"""Passes in bfloat16 give torch's gradients in bfloat16; what is added up, kept and saved stays wide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tape import Tape
from torch import Tensor, nn

from trainkit import (
    SGD,
    Adam,
    Callback,
    CrossEntropyLoss,
    Dropout,
    EmbedColumns,
    L1Loss,
    Linear,
    Module,
    Recompute,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.nn.tracing import traced
from trainkit.trainer.engines import bf16, cuda_graph
from trainkit.trainer.engines.bf16 import InBfloat16
from trainkit.trainer.engines.step import loss_and_grad
from trainkit.trainer.session import Session

NETS: dict[str, Callable[[], Module]] = {
    "a chain": lambda: Sequential(Linear(2, 16), ReLU(), Linear(16, 16), Tanh(), Linear(16, 2)),
    "a sum": lambda: Sequential(Linear(2, 16), Residual(Linear(16, 16), Tanh()), Linear(16, 2)),
    "twice the same": lambda: (lambda m: Sequential(Linear(2, 16), m, Tanh(), m, Linear(16, 2)))(Linear(16, 16)),
    "a chain twice": lambda: Sequential(Linear(2, 16), Recompute(Linear(16, 16), Tanh()), Linear(16, 2)),
}
EPS = 2.0**-8  # half a unit in the last place of bfloat16, relative


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "slowdown", lambda: 0.5)


def points(n: int = 40) -> tuple[Tensor, Tensor]:
    part = disk(n, 0, seed=3).train
    return part.x, part.t


def gradients(net: Any, whole: Module, accumulate: int = 1) -> Tensor:
    x, t = points()
    whole.zero_grad()
    loss_and_grad(net, CrossEntropyLoss(), accumulate)(x, t)
    return torch.cat([g.flatten() for _, g in whole.param()])


def fit(*callbacks: Callback, resume: Any = None, dropout: float = 0.2, **trainer: Any) -> Trainer:
    net = Sequential(Linear(2, 16), ReLU(), Dropout(dropout), Linear(16, 2)).initialize(torch.Generator().manual_seed(0))
    t = Trainer(**{"max_epochs": 3, "batch_size": 7, "device": "cpu", "precision": "bf16", "callbacks": callbacks, **trainer})
    t.fit(net, CrossEntropyLoss(), Adam(net.param(), lr=0.01), disk(60, 20), resume)
    return t


def test_the_gradients_are_those_of_torch_in_bfloat16() -> None:
    net = NETS["a chain"]().initialize(torch.Generator().manual_seed(1))
    layers = [nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)]
    theirs = nn.Sequential(*layers)
    theirs.load_state_dict(net.state_dict())
    theirs.bfloat16()
    x, t = points()
    with torch.enable_grad():
        nn.functional.cross_entropy(theirs(x.bfloat16()).float(), t).backward()  # type: ignore[no-untyped-call]
    wanted = torch.cat([p.grad.float().flatten() for p in theirs.parameters() if p.grad is not None])
    found = gradients(InBfloat16(net), net)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=4 * EPS, atol=4 * EPS * float(wanted.abs().max()))


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("name", NETS)
def test_the_gradients_are_the_wide_ones_but_for_rounding(name: str, accumulate: int) -> None:
    net = NETS[name]().initialize(torch.Generator().manual_seed(2))
    wide, narrow = gradients(net, net), gradients(InBfloat16(net), net, accumulate)
    apart = float((wide - narrow).norm() / wide.norm())
    assert 0 < apart < 8 * EPS, "rounded, by some digits of bfloat16"


def test_replicas_have_the_gradients_of_each_alone() -> None:
    nets = [NETS["a chain"]().replicate([seed]) for seed in (4, 5)]
    both = NETS["a chain"]().replicate([4, 5])
    x, t = points()
    for net in (*nets, both):
        loss = CrossEntropyLoss()
        loss.replica_dims = 1
        r = net.param()[0][0].shape[0]
        loss_and_grad(InBfloat16(net), loss)(x.expand(r, *x.shape), t.expand(r, *t.shape))
    for i, net in enumerate(nets):
        for (_, g), (_, one) in zip(both.param(), net.param(), strict=True):
            torch.testing.assert_close(g[i], one[0], rtol=4 * EPS, atol=4 * EPS * float(one.abs().max()))


def test_a_step_too_small_for_bfloat16_is_not_lost() -> None:
    net = Sequential(Linear(1, 1, bias=False))
    (w, _), *_ = net.param()
    w.fill_(1.0)
    data = tensors(torch.ones(1, 1), torch.zeros(1, 1))
    trainer = Trainer(max_epochs=10, batch_size=1, device="cpu", precision="bf16")
    trainer.fit(net, L1Loss(), SGD(net.param(), lr=1e-4), data)  # dw = 1 in each step
    assert w.item() == pytest.approx(1 - 10e-4, abs=1e-6)
    assert w.bfloat16().item() == 1.0


def test_parts_of_a_batch_are_added_up_wide() -> None:
    net = Sequential(Linear(1, 1, bias=False))
    x, t = torch.tensor([[1.0], [2.0**-9]]), torch.full((2, 1), -9.0)
    loss_and_grad(InBfloat16(net), L1Loss("sum"), 2)(x, t)
    assert net.param()[0][1].item() == 1 + 2.0**-9


def test_a_run_resumes_to_the_same_bit_and_keeps_its_numbers_wide() -> None:
    class Snapshots(Callback):
        def __init__(self) -> None:
            self.taken: list[Any] = []

        def on_checkpoint(self, session: Session) -> None:
            self.taken.append(session.snapshot())

    each = Snapshots()
    whole = fit(each, ValidationSplit(0.2))
    assert {v.dtype for v in each.taken[0]["model"].values()} == {torch.float32}
    rest = fit(Snapshots(), ValidationSplit(0.2), resume=each.taken[5])
    assert all(torch.equal(a, b) for a, b in zip(whole.session.optimizer.state(), rest.session.optimizer.state(), strict=True))
    full = fit(ValidationSplit(0.2), precision="full")
    assert not torch.equal(full.session.optimizer.p, whole.session.optimizer.p)
    assert whole.session.metrics["val/loss"][0] == pytest.approx(full.session.metrics["val/loss"][0], rel=0.1)


def test_a_captured_step_rounds_as_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "captured", Tape.captured)
    captured = fit(engine="graph")
    assert captured.session.engine == "graph"
    torch.testing.assert_close(captured.session.optimizer.p, fit().session.optimizer.p, rtol=1e-3, atol=1e-5)


def test_native_steps_leave_it_to_eager_ones_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(engine="native")
    assert trainer.session.engine == "eager"
    said = capsys.readouterr().err
    assert said == (
        "trainer.engine native: eager, since native steps do not round to bfloat16 where the passes of"
        " trainer.precision=bf16 do\n"
    )
    assert torch.equal(trainer.session.optimizer.p, fit().session.optimizer.p)


def test_a_slow_processor_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fit(max_epochs=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(bf16, "slowdown", lambda: 300.0)
    fit(max_epochs=1)
    said = "trainer.precision bf16: a product takes 300.0 times as long as in float32 on this processor\n"
    assert capsys.readouterr().err == said


def test_another_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.precision: fp8; choose full or bf16"):
        Trainer(precision="fp8")  # type: ignore[arg-type]


def test_two_passes_may_be_in_flight() -> None:
    net = Sequential(Linear(2, 8), Recompute(Linear(8, 8), Tanh(), Dropout(0.3)), Linear(8, 2)).initialize(
        torch.Generator().manual_seed(0)
    )
    narrow = InBfloat16(net)
    (x, t), loss, found = points(), CrossEntropyLoss(), []
    for nested in (False, True):
        torch.manual_seed(5)
        net.zero_grad()
        halves: list[Any] = []
        for xi, ti in zip(x.split(20), t.split(20), strict=True):
            y, saved = narrow.fwd(xi)
            halves.append((saved, loss.bwd(loss.fwd(y, ti)[1])))
            if not nested:
                narrow.bwd_params(*halves.pop())
        for half in halves:
            narrow.bwd_params(*half)
        found.append([g.clone() for _, g in net.param()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_is_set_on_a_module_later_holds_for_the_passes_and_a_look_into_the_net_does_not_disturb_them() -> None:
    net = Sequential(Linear(2, 8), Dropout(0.5), Linear(8, 2)).initialize(torch.Generator().manual_seed(0))
    narrow, (x, _) = InBfloat16(net), points()
    assert not torch.equal(narrow.fwd(x)[0], narrow.fwd(x)[0])
    net.eval()
    plain = narrow.fwd(x)[0]
    assert torch.equal(plain, narrow.fwd(x)[0])
    net.train()
    net[1].p = 0.0  # type: ignore[assignment]
    assert torch.equal(plain, narrow.fwd(x)[0])
    with traced(net, lambda call: None):
        assert torch.equal(plain, narrow.fwd(x)[0])
    assert torch.equal(plain, narrow.fwd(x)[0])
    net.param()[0][0].mul_(2)
    assert not torch.equal(plain, narrow.fwd(x)[0])
    assert {p.dtype for p, _ in net.param()} == {torch.float32}


def test_codes_that_bfloat16_would_round_are_refused() -> None:
    InBfloat16(Sequential(EmbedColumns([257], 2), Linear(2, 1)))
    with pytest.raises(UserError, match=r"0.EmbedColumns has a column of 258 categories, bfloat16 holds 257"):
        InBfloat16(Sequential(EmbedColumns([258], 2), Linear(2, 1)))
