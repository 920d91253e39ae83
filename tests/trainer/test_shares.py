"""Means are put together by what they count: samples, or the weights of their classes."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from trainkit import (
    SGD,
    CrossEntropyLoss,
    EarlyStopping,
    Linear,
    Loss,
    LRScheduler,
    MSELoss,
    NLLLoss,
    Sequential,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.data.dataset import Dataset
from trainkit.trainer.engines.step import training_step
from trainkit.trainer.evaluation import evaluate

LOSSES = {
    "weights": CrossEntropyLoss(weight=[1.0, 5.0, 0.1]),
    "a weight of 0": CrossEntropyLoss(weight=[0.0, 5.0, 0.0]),  # parts of classes 0 and 2 alone have no mean of their own
    "a smoothed weight of 0": CrossEntropyLoss(weight=[0.0, 5.0, 0.0], label_smoothing=0.2),  # but they have a sum
    "ignored": CrossEntropyLoss(ignore_index=1),
    "weights and ignored": CrossEntropyLoss(weight=[1.0, 5.0, 0.1], ignore_index=2),
    "smoothed weights": CrossEntropyLoss(weight=[1.0, 5.0, 0.1], label_smoothing=0.2),
    "sum": CrossEntropyLoss("sum", weight=[1.0, 5.0, 0.1]),
}


def sample(n: int = 22) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(n, 4, generator=draw, dtype=torch.float64), torch.randint(0, 3, (n,), generator=draw)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("parts", [4, 22])
def test_parts_of_a_batch_add_up_to_it_whatever_the_classes_weigh(loss: Loss, parts: int, replicas: int) -> None:
    values, gradients = [], []
    for accumulate in (1, parts):
        net = Sequential(Linear(4, 3)).to(dtype=torch.float64)
        net = net.replicate(range(replicas)) if replicas > 1 else net.initialize(torch.Generator().manual_seed(0))
        loss.replica_dims = net.replica_dims
        optimizer = SGD(net.param(), lr=0.0)
        x, t = sample()
        if replicas > 1:
            x, t = x.expand(replicas, *x.shape), torch.stack([t.roll(r) for r in range(replicas)])
        values.append(training_step(net, loss, optimizer, accumulate=accumulate)(x, t))
        gradients.append(optimizer.g.clone())
    loss.replica_dims = 0
    torch.testing.assert_close(values[0].double(), values[1].double(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [loss for name, loss in LOSSES.items() if name != "sum"])
def test_the_loss_of_a_part_does_not_depend_on_the_batches(loss: Loss) -> None:
    net = Sequential(Linear(4, 3)).to(dtype=torch.float64)
    data = tensors(*sample())
    whole = evaluate(net, loss, data, data.train, 22).metrics
    in_batches = evaluate(net, loss, data, data.train, 5).metrics
    assert whole["loss"] == pytest.approx(in_batches["loss"], rel=1e-12)


def test_the_kernel_and_the_formulas_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, t = sample()
    y = x[:, :3].double()
    weights: tuple[list[float] | None, ...] = (None, [1.0, 2.0, 3.0])
    for kind, reduction, weight, ignored in product((NLLLoss, CrossEntropyLoss), ("mean", "sum"), weights, (None, 0, 1, -100)):
        loss = kind(reduction=reduction, weight=weight, ignore_index=ignored)
        for target in (t, torch.ones_like(t)):  # all of it is ignored with ignore_index=1
            value, saved = loss.fwd(y, target)
            with monkeypatch.context() as patch:
                patch.setattr(NLLLoss, "_suits_kernel", lambda *_: False)
                value_, saved_ = loss.fwd(y, target)
            assert type(saved) is not type(saved_)
            torch.testing.assert_close(value, value_, rtol=1e-13, atol=1e-14, equal_nan=True)
            torch.testing.assert_close(loss.bwd(saved), loss.bwd(saved_), rtol=1e-13, atol=1e-14)


def fit(*callbacks: object, data: Dataset | None = None, **how: int) -> Trainer:
    net = Sequential(Linear(2, 8), Tanh(), Linear(8, 2)).initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(batch_size=10, device="cpu", callbacks=callbacks, **how)  # type: ignore[arg-type]
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=5.0), data or disk(60, 20))
    return trainer


def test_after_restore_best_the_summary_is_that_of_the_restored_parameters() -> None:
    trainer = fit(ValidationSplit(0.2), EarlyStopping("val/loss", patience=99, restore_best=True), max_epochs=12)
    assert trainer.session.data.val is not None
    assert trainer.session.metrics["val/loss"] == trainer.session.evaluate(trainer.session.data.val)["loss"]
    assert trainer.session.metrics["val/loss"] == trainer.callbacks["early_stopping"].best  # type: ignore[attr-defined]


def test_lr_is_the_rate_of_the_last_step_not_of_the_next() -> None:
    trainer = fit(LRScheduler(interval="step", StepLR={"step_size": 1, "gamma": 0.5}), max_epochs=1)
    assert trainer.session.metrics["lr"] == [5.0 * 0.5**5]  # six steps: the last one's rate was halved five times


def test_a_run_that_ends_inside_its_first_epoch_has_a_loss() -> None:
    assert "train/loss" in fit(max_epochs=5, max_steps=2).summary["metrics"]


def test_a_run_that_diverges_says_since_when() -> None:
    net = Sequential(Linear(1, 1))
    x = torch.linspace(-1, 1, 60).unsqueeze(1)
    trainer = Trainer(batch_size=10, device="cpu", max_epochs=3)
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=1e20), tensors(x, 2 * x))  # squares its error at each step
    since = "train/loss has not been finite since epoch 1, try a lower lr"
    assert since in trainer.summary["stop_words"]
    resumed = Trainer(batch_size=10, device="cpu", max_epochs=4)
    resumed.fit(net, MSELoss(), SGD(net.param(), lr=1e20), tensors(x, 2 * x), resume=trainer.session.snapshot())
    assert since in resumed.summary["stop_words"]
    assert "not finite" not in fit(max_epochs=2).summary["stop_words"]


def test_a_validation_part_that_is_there_is_not_replaced() -> None:
    data = disk(60, 20)
    with pytest.raises(UserError, match="validation split already"):
        fit(ValidationSplit(0.2), data=data.with_parts(val=data.test), max_epochs=1)


def test_one_class_cannot_be_told_from_others() -> None:
    with pytest.raises(UserError, match="use BCEWithLogitsLoss"):
        CrossEntropyLoss().forward(torch.zeros(3, 1), torch.ones(3, 1))


def test_a_batch_in_parts_of_which_one_or_all_are_ignored_has_no_nan() -> None:
    for t in (torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 1, 1])):
        net = Sequential(Linear(4, 3)).to(dtype=torch.float64).initialize(torch.Generator().manual_seed(0))
        optimizer = SGD(net.param(), lr=0.0)
        value = training_step(net, CrossEntropyLoss(ignore_index=1), optimizer, accumulate=2)(sample(4)[0], t)
        assert value.isfinite()
        assert optimizer.g.isfinite().all()


def test_a_loss_whose_sum_is_not_its_mean_times_its_batch_weight_is_refused() -> None:
    class Mean(MSELoss):
        def fwd(self, y: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (y - t).square().mean(), y - t

    net = Sequential(Linear(2, 1))
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"loss: Mean with reduction=sum gives .*override batch_weight"):
        Trainer(max_epochs=1, device="cpu").fit(net, Mean(), SGD(net.param(), 0.1), tensors(x, x.sum(1)))
