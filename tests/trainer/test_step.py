"""One step by hand; ten losses of the reports' net against autograd; parts, clips and short batches against the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainkit import (
    SGD,
    BCEWithLogitsLoss,
    Callback,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    Linear,
    MSELoss,
    ReLU,
    Sequential,
    Split,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.app.config.build import build
from trainkit.app.config.files import compose, resolve
from trainkit.core.rng import generator
from trainkit.data.loader import batches, epoch_permutation
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.trainer.engines.step import training_step
from trainkit.trainer.session import Session

ROOT = Path(__file__).parents[2]


def one_weight(w: float, b: float) -> Sequential:
    net = Sequential(Linear(1, 1)).to(dtype=torch.float64)
    net.load_state_dict({"0.weight": torch.tensor([[w]]).double(), "0.bias": torch.tensor([b]).double()})
    return net


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_one_step_by_hand() -> None:
    # y = 2 x + 1 is 3 and 7 at x = 1, 3; the targets are 2 and 3, so d = 1, 4 and the loss (1 + 16) / 2 = 8.5
    # dw = (2/2) (1·1 + 4·3) = 13, db = 1 + 4 = 5; at lr 0.1: w = 2 - 1.3 = 0.7, b = 1 - 0.5 = 0.5
    net = one_weight(2.0, 1.0)
    step = training_step(net, MSELoss(), SGD(net.param(), lr=0.1))
    assert step(column(1, 3), column(2, 3)).item() == 8.5
    (w, dw), (b, db) = net.param()
    assert (dw.item(), db.item()) == (13, 5)
    assert (w.item(), b.item()) == pytest.approx((0.7, 0.5))
    # y = 1.2 and 2.6, d = -0.8 and -0.4: the loss is (0.64 + 0.16) / 2 = 0.4
    # the old gradient is gone: dw = -0.8 - 1.2, db = -0.8 - 0.4
    assert step(column(1, 3), column(2, 3)).item() == pytest.approx(0.4)
    assert (dw.item(), db.item()) == pytest.approx((-2.0, -1.2))


@pytest.mark.parametrize(
    ("limits", "dw", "db"),
    [
        ({"clip_value": 6.0}, 6, 5),
        ({"clip_norm": 6.5}, 13 * 6.5 / 194**0.5, 5 * 6.5 / 194**0.5),  # 13² + 5² = 194
        ({"clip_norm": 100.0}, 13, 5),
        ({"clip_value": 5.0, "clip_norm": 1.0}, 0.5**0.5, 0.5**0.5),  # the value first
    ],
)
def test_the_clipped_step_by_hand(limits: dict[str, float], dw: float, db: float) -> None:
    net = one_weight(2.0, 1.0)
    training_step(net, MSELoss(), SGD(net.param(), lr=0.1), **limits)(column(1, 3), column(2, 3))
    assert [g.item() for _, g in net.param()] == pytest.approx([dw, db], rel=1e-6)


def test_the_sum_of_losses_steps_n_times_as_far() -> None:
    net = one_weight(2.0, 1.0)
    value = training_step(net, MSELoss("sum"), SGD(net.param(), lr=0.1))(column(1, 3), column(2, 3))
    assert value.item() == 17
    assert [g.item() for _, g in net.param()] == [26, 10]


# -- golden losses -------------------------------------------------------------------------------------------------------


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step_log(self, session: Session, losses: list[float]) -> None:
        self.seen += losses


def test_the_first_ten_losses_of_the_reports_net_are_autograds() -> None:
    """Everything but the initial weights is made anew here: data, split, scaling, order, net, loss, momentum."""
    overrides = ["trainer.dtype=float64", "trainer.max_steps=10", "trainer.log_every_n_steps=1", "trainer.device=cpu"]
    config = resolve(compose([ROOT / "conf" / "mlp.yaml"], overrides))
    config["callbacks"] = {"validation_split": config["callbacks"]["validation_split"]}
    parts = build(config)
    layers = [nn.Linear(2, 25), nn.ReLU(), nn.Linear(25, 25), nn.ReLU(), nn.Linear(25, 25), nn.ReLU(), nn.Linear(25, 2)]
    rival = nn.Sequential(*layers).double()
    rival.load_state_dict(parts.net.state_dict())
    trainer = parts.trainer()
    losses = Losses()
    trainer.callbacks["losses"] = losses
    trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), parts.data())

    data = disk(1000, 1000).train
    held = torch.randperm(1000, generator=generator(0, "validation_split", 1000))[:100]
    train = torch.tensor([i for i in range(1000) if i not in set(held.tolist())])
    x, t = data.x[train].double(), data.t[train]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    optimizer = torch.optim.SGD(rival.parameters(), lr=0.1, momentum=0.9)
    at = epoch_permutation(0, 0, 900)
    wanted = []
    for k in range(10):
        batch = at[50 * k : 50 * k + 50]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(rival(x[batch]), t[batch])
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    assert losses.seen == pytest.approx(wanted, rel=1e-11)
    for (_, p, _), q in zip(parts.net.named_param(), rival.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=1e-9, atol=1e-12)
    assert wanted[9] < wanted[0] < 0.8


# -- parts of a batch ----------------------------------------------------------------------------------------------------

LOSSES: list[tuple[Loss, bool]] = [
    (MSELoss(), False),
    (MSELoss("sum"), False),
    (L1Loss(), False),
    (HuberLoss("sum", delta=0.3), False),
    (CrossEntropyLoss(), True),
    (CrossEntropyLoss("sum", label_smoothing=0.1), True),
    (BCEWithLogitsLoss(), False),
]


def batch(n: int, classes: bool, replicas: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(n)
    replica_dims = (replicas,) if replicas else ()
    x = torch.randn(*replica_dims, n, 3, generator=draw, dtype=torch.float64)
    t = (
        torch.randint(2, (*replica_dims, n), generator=draw)
        if classes
        else torch.rand(*replica_dims, n, 2, generator=draw, dtype=torch.float64)
    )
    return x, t


def fresh(replicas: int = 0) -> Sequential:
    net = Sequential(Linear(3, 4), Tanh(), Linear(4, 2)).initialize(torch.Generator().manual_seed(0))
    return (net.replicate(range(replicas)) if replicas else net).to(dtype=torch.float64)


@pytest.mark.parametrize("replicas", [0, 2])
@pytest.mark.parametrize(("loss", "classes"), LOSSES, ids=[repr(loss) for loss, _ in LOSSES])
def test_the_parts_of_a_batch_add_up_to_the_batch(loss: Loss, classes: bool, replicas: int) -> None:
    x, t = batch(10, classes, replicas)
    loss.replica_dims = 1 if replicas else 0
    try:
        results = []
        for accumulate in (1, 2, 3, 4, 10, 16):  # 3 and 4 leave a shorter last part, 16 is more parts than samples
            net = fresh(replicas)
            value = training_step(net, loss, SGD(net.param(), 0.1, momentum=0.9), accumulate)(x, t)
            results.append([value, *(p for p, _ in net.param()), *(g for _, g in net.param())])
    finally:
        loss.replica_dims = 0
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 3), (6, 2), (2, 6)])
def test_accumulation_in_a_run_is_the_run_of_the_big_batch(batch_size: int, accumulate: int) -> None:
    x, t = batch(29, False)  # steps of 12, 12 and 5 samples

    def params(**how: Any) -> list[Tensor]:
        net = fresh()
        trainer = Trainer(max_epochs=3, dtype="float64", device="cpu", **how)
        trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), tensors(x, t))
        assert trainer.session.progress.step == 9
        return [p for p, _ in net.param()]

    ours = params(batch_size=batch_size, accumulate=accumulate)
    torch.testing.assert_close(ours, params(batch_size=12), rtol=1e-12, atol=1e-14)


def test_without_a_batch_size_it_is_gradient_descent() -> None:
    x, t = batch(11, False)
    net, rival = fresh(), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    rival.load_state_dict(net.state_dict())
    trainer = Trainer(max_epochs=7, batch_size=None, dtype="float64", device="cpu")
    trainer.fit(net, MSELoss(), SGD(net.param(), 0.5), tensors(x, t))
    assert trainer.session.progress.step == 7
    for _ in range(7):
        rival.zero_grad()
        nn.functional.mse_loss(rival(x), t).backward()
        with torch.no_grad():
            for p in rival.parameters():
                p -= 0.5 * p.grad
    for (p, _), q in zip(net.param(), rival.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach(), rtol=1e-10, atol=1e-13)


# -- clipping ------------------------------------------------------------------------------------------------------------

LIMITS: list[tuple[float | None, float | None]] = [(0.1, None), (None, 0.02), (1e6, None), (None, 1e6)]


@pytest.mark.parametrize(("norm", "value"), LIMITS)
@pytest.mark.parametrize("replicas", [0, 3])
def test_clipping_is_torchs(norm: float | None, value: float | None, replicas: int) -> None:
    x, t = batch(8, False, replicas)
    if replicas:
        x[1] *= 10  # each replica has a norm of its own
    free, clipped = fresh(replicas), fresh(replicas)
    loss = MSELoss()
    loss.replica_dims = 1 if replicas else 0
    training_step(free, loss, SGD(free.param(), 0.1))(x, t)
    training_step(clipped, loss, SGD(clipped.param(), 0.1), 1, norm, value)(x, t)
    for r in range(replicas or 1):
        leaves = []
        for _, g in free.param():
            leaf = nn.Parameter(torch.zeros_like(g[r] if replicas else g))
            leaf.grad = (g[r] if replicas else g).clone()
            leaves.append(leaf)
        if norm is not None:
            nn.utils.clip_grad_norm_(leaves, norm)
        if value is not None:
            nn.utils.clip_grad_value_(leaves, value)
        for leaf, (_, g) in zip(leaves, clipped.param(), strict=True):
            torch.testing.assert_close(g[r] if replicas else g, leaf.grad, rtol=1e-12, atol=0)


# -- batches -------------------------------------------------------------------------------------------------------------


def test_batches_follow_the_order_and_can_begin_anywhere() -> None:
    part = Split(torch.arange(7.0).unsqueeze(1), torch.arange(7.0).unsqueeze(1) * 10)
    at = torch.tensor([6, 0, 5, 1, 4, 2, 3])
    seen = [(x.flatten().tolist(), t.flatten().tolist()) for x, t in batches(part, at, 3)]
    assert seen == [([6, 0, 5], [60, 0, 50]), ([1, 4, 2], [10, 40, 20]), ([3], [30])]
    assert [x.flatten().tolist() for x, _ in batches(part, at, 3, first=1)] == [[1, 4, 2], [3]]
    rows = torch.stack([at, at.flip(0)])
    assert [x.squeeze(2).tolist() for x, _ in batches(part, rows, 4, first=1)] == [[[4, 2, 3], [1, 5, 0, 6][1:]]]


def test_a_large_epoch_is_gathered_in_pieces_and_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Split(torch.randn(50, 3), torch.randn(50, 1))
    at = torch.randperm(50)
    whole = [x for x, _ in batches(part, at, 4)]
    monkeypatch.setattr(
        "trainkit.data.loader.GATHER_BYTES", 400
    )  # a batch takes 16 rows of 12 bytes, four of them its own: two batches a piece
    pieces = [x for x, _ in batches(part, at, 4)]
    assert len(pieces) == 13
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_the_loss_of_an_epoch_weighs_a_short_batch_by_its_samples() -> None:
    # y = 0 for ever (lr 0): squared errors 1, 1, 1, 1, 36 in batches of 4 and 1; the mean is 40 / 5 = 8, not (1 + 36) / 2
    x, t = torch.zeros(5, 1), torch.tensor([1.0, 1, 1, 1, 6]).unsqueeze(1)
    for loss in (MSELoss(), MSELoss("sum")):
        net = one_weight(0.0, 0.0)
        trainer = Trainer(max_epochs=1, batch_size=4, device="cpu")
        trainer.fit(net, loss, SGD(net.param(), 0.0), tensors(x, t))
        assert trainer.summary["metrics"]["train/loss"] == 8


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    class Noise(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            torch.rand(3)

    def inputs(seed: int, *callbacks: Callback) -> list[list[float]]:
        seen: list[list[float]] = []

        class Spy(Module):
            def fwd(self, x: Tensor) -> tuple[Tensor, None]:
                if self.training:
                    seen.append(x.flatten().tolist())
                return x, None

            def bwd(self, saved: None, dy: Tensor) -> Tensor:
                return dy

        net = Sequential(Spy(), Linear(1, 1))
        x = torch.arange(6.0).unsqueeze(1)
        trainer = Trainer(max_epochs=3, batch_size=6, seed=seed, device="cpu", callbacks=callbacks)
        trainer.fit(net, MSELoss(), SGD(net.param(), 0.01), tensors(x, x))
        return seen

    first = inputs(0)
    assert first == inputs(0, Noise())
    assert first == [epoch_permutation(0, epoch, 6).float().tolist() for epoch in range(3)]
    assert len({tuple(row) for row in first}) == 3
    assert all(sorted(row) == [0, 1, 2, 3, 4, 5] for row in first)
    assert inputs(1) != first


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"max_epochs": -1}, "trainer.max_epochs: -1"),
    ({"batch_size": 0}, "trainer.batch_size: 0"),
    ({"accumulate": 0}, "trainer.accumulate: 0"),
    ({"batch_size": None, "accumulate": 2}, "trainer.accumulate"),
    ({"clip_norm": 0.0}, "trainer.clip_norm: 0"),
    ({"clip_value": float("nan")}, "trainer.clip_value: nan"),
    ({"replicas": 0}, "trainer.replicas: 0"),
    ({"dtype": "float16"}, "trainer.dtype: float16"),
    ({"device": "tpu"}, "trainer.device: 'tpu'"),
    ({"device": "cuda:99"}, "trainer.device: 'cuda:99' is not available"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trainer(**arguments)


UNFIT: list[tuple[Callable[[], Module], Loss, str]] = [
    (lambda: Sequential(Linear(3, 2)), MSELoss(), r"0\.Linear.*\(2, 2\).*\(n, 3\)"),
    (lambda: Sequential(Linear(2, 3)), MSELoss(), r"loss, on the train split: MSELoss: y is \(9, 3\), t is \(9, 1\)"),
    (
        lambda: Sequential(Linear(2, 2)),
        CrossEntropyLoss(),
        r"loss, on the train split: CrossEntropyLoss: y is \(9, 2\), t is \(9, 1\)",
    ),
    (lambda: Sequential(Linear(2, 4), ReLU(), Linear(5, 1)), MSELoss(), r"2\.Linear"),
]


@pytest.mark.parametrize(("net", "loss", "message"), UNFIT)
def test_shapes_are_told_before_the_first_step(net: Callable[[], Module], loss: Loss, message: str) -> None:
    made = net()
    with pytest.raises(UserError, match=message):
        Trainer(device="cpu").fit(made, loss, SGD(made.param()), tensors(torch.randn(9, 2), torch.rand(9, 1)))


def test_an_empty_training_part_is_told() -> None:
    net = Sequential(Linear(2, 1))
    with pytest.raises(UserError, match="leaves 0 to train and 1 to validate"):
        Trainer(device="cpu", callbacks=[ValidationSplit(0.6)]).fit(
            net, MSELoss(), SGD(net.param()), tensors(torch.randn(1, 2), torch.rand(1, 1))
        )
