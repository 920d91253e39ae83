"""A sample of weight 2 counts as two equal rows, one of weight 0 as none, in every loss; class weights multiply."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_contract import over_losses, target
from torch import Tensor
from torch.testing import assert_close

from trainkit.core.errors import UserError
from trainkit.nn import losses
from trainkit.nn.gradcheck import gradcheck_loss
from trainkit.nn.losses import Loss

COUNTS = torch.tensor([2, 0, 1, 3, 1])
WEIGHT = torch.tensor([0.5, 0.0, 2.25, 1.0, 0.3], dtype=torch.float64)


def weighted(loss: Loss, y: Tensor, t: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    value, saved = loss.fwd(y, t, weight)
    return value, loss.bwd(saved)


@over_losses
def test_whole_weights_are_repeated_rows(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    loss = build()
    y, t = target(kind, shape)
    value, dy = weighted(loss, y, t, COUNTS.double())
    rows = torch.arange(len(y)).repeat_interleave(COUNTS)
    expected, saved = loss.fwd(y[rows], t[rows])
    assert_close(value, expected, rtol=1e-13, atol=1e-14)
    assert_close(dy, torch.zeros_like(y).index_add(0, rows, loss.bwd(saved)), rtol=1e-13, atol=1e-14)
    assert_close(
        torch.as_tensor(loss.batch_weight(t, COUNTS.double())),
        torch.as_tensor(loss.batch_weight(t[rows])).double(),
        rtol=1e-14,
        atol=0,
    )


@over_losses
def test_weights_of_1_change_nothing(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    loss = build()
    y, t = target(kind, shape)
    value, saved = loss.fwd(y, t)
    assert_close(weighted(loss, y, t, torch.ones(len(y)).double()), (value, loss.bwd(saved)), rtol=1e-14, atol=1e-14)


@over_losses
def test_dy_is_that_of_central_differences(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    verdict = gradcheck_loss(build(), *target(kind, shape), WEIGHT)
    assert verdict.ok, verdict


@over_losses
def test_each_replica_has_its_own_weights(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    many, one = build(), build()
    many.replica_dims = 1
    y, t = target(kind, shape)
    y, t, weight = torch.stack([y, y.flip(0)]), torch.stack([t, t.roll(1, 0)]), torch.stack([WEIGHT, WEIGHT.flip(0)])
    value, dy = weighted(many, y, t, weight)
    for r in range(2):
        assert_close((value[r], dy[r]), weighted(one, y[r], t[r], weight[r]), rtol=1e-13, atol=1e-14)


@over_losses
def test_a_mean_is_its_sum_over_the_batch_weight_and_of_no_weight_nan_with_a_gradient_of_0(
    build: Callable[[], Loss], kind: str, shape: tuple[int, ...]
) -> None:
    loss = build()
    y, t = target(kind, shape)
    if loss.reduction == "mean":
        total = loss.summed().fwd(y, t, WEIGHT)[0]
        assert_close(loss.fwd(y, t, WEIGHT)[0], total / loss.batch_weight(t, WEIGHT), rtol=1e-13, atol=0)
    value, dy = weighted(loss, y, t, torch.zeros(len(y)).double())
    assert math.isnan(value) if loss.reduction == "mean" else value == 0
    assert not dy.any()


@over_losses
def test_float32_stays_float32(build: Callable[[], Loss], kind: str, shape: tuple[int, ...]) -> None:
    value, dy = weighted(build(), *target(kind, shape, torch.float32), WEIGHT.float())
    assert value.dtype == dy.dtype == torch.float32


OF_CLASS = torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=torch.float64)
TORCH: dict[str, tuple[Loss, str, Callable[..., Tensor]]] = {
    "MSELoss": (losses.MSELoss(), "real", lambda y, t: F.mse_loss(y, t, reduction="none").mean(1)),
    "L1Loss": (losses.L1Loss(), "real", lambda y, t: F.l1_loss(y, t, reduction="none").mean(1)),
    "HuberLoss": (losses.HuberLoss(), "real", lambda y, t: F.huber_loss(y, t, reduction="none").mean(1)),
    "NLLLoss": (losses.NLLLoss(), "index", lambda y, t: F.nll_loss(y, t, reduction="none")),
    "CrossEntropyLoss": (losses.CrossEntropyLoss(), "index", lambda y, t: F.cross_entropy(y, t, reduction="none")),
    "soft": (losses.CrossEntropyLoss(), "soft", lambda y, t: F.cross_entropy(y, t, reduction="none")),
    "BCELoss": (losses.BCELoss(), "binary", lambda y, t: F.binary_cross_entropy(y, t, reduction="none").mean(1)),
    "BCEWithLogitsLoss": (
        losses.BCEWithLogitsLoss(),
        "binary",
        lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none").mean(1),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_the_mean_is_that_of_torchs_losses_per_sample_and_dy_that_of_autograd(name: str) -> None:
    loss, kind, per_sample = TORCH[name]
    y, t = target(kind, (5, 4))
    leaf = y.clone().requires_grad_()
    with torch.enable_grad():
        expected = (WEIGHT * per_sample(leaf, t)).sum() / WEIGHT.sum()
    (grad,) = torch.autograd.grad(expected, leaf)
    assert_close(weighted(loss, y, t, WEIGHT), (expected.detach(), grad), rtol=1e-12, atol=1e-14)


def test_sample_and_class_weights_multiply() -> None:
    y, t = target("index", (5, 4))
    each = F.nll_loss(y, t, reduction="none")
    both = WEIGHT * OF_CLASS[t]
    loss = losses.NLLLoss(weight=OF_CLASS.tolist())
    assert_close(loss(y, t, WEIGHT), (both * each).sum() / both.sum(), rtol=1e-13, atol=0)


def test_a_loss_that_is_not_finite_counts_nothing_at_weight_0() -> None:
    y, t = torch.tensor([[-math.inf, 0.0], [-1.0, -0.5]]), torch.tensor([0, 0])
    weight = torch.tensor([0.0, 2.0])
    assert losses.NLLLoss()(y, t, weight) == 1.0
    assert losses.MSELoss()(y, torch.zeros(2, 2), weight) == pytest.approx((1 + 0.25) / 2)


@pytest.mark.parametrize("weight", [torch.ones(4), torch.ones(5, 1), torch.ones(5, dtype=torch.int64)])
def test_weights_that_are_not_one_number_for_each_sample_are_refused(weight: Any) -> None:
    y, t = target("real", (5, 4))
    for call in (losses.MSELoss(), losses.MSELoss().forward):
        with pytest.raises(UserError, match=r"MSELoss: the sample weights are .*; needs floating numbers of shape \(5,\)"):
            call(y, t, weight)
