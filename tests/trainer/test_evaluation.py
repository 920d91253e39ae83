"""Metrics of a part: a mean a sample, in whatever batches; the share of wrong answers by hand; nothing left changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainkit import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    Linear,
    LogSoftmax,
    MSELoss,
    NLLLoss,
    Sequential,
    Sigmoid,
    Split,
    tensors,
)
from trainkit.metrics.classification import predicted_classes
from trainkit.nn.losses import Loss
from trainkit.trainer.evaluation import evaluate, predict


def passing(n: int = 1) -> Sequential:
    """y = x."""
    net = Sequential(Linear(n, n, bias=False))
    net.load_state_dict({"0.weight": torch.eye(n)})
    return net


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("loss", [MSELoss(), MSELoss("sum")], ids=repr)
def test_the_loss_is_the_mean_a_sample_whatever_the_batches(loss: Loss, size: int) -> None:
    # y - t = 0, 1, 2, 3, 4: squares 0 + 1 + 4 + 9 + 16 = 30, a mean of 6
    part = Split(torch.arange(5.0).unsqueeze(1), torch.zeros(5, 1))
    assert evaluate(passing(), loss, Dataset(part), part, size).metrics == {"loss": [6.0]}


def test_replicas_have_a_value_each() -> None:
    net = Sequential(Linear(1, 1, bias=False)).replicate([0, 1])
    net.param()[0][0].copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1))
    part = Split(torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, 1))
    loss = MSELoss()
    loss.replica_dims = 1
    # (1 + 4 + 9) / 3, and 4 times that
    assert evaluate(net, loss, Dataset(part), part, 2, 2).metrics["loss"] == pytest.approx([14 / 3, 56 / 3])


ANSWERS: list[tuple[Loss, list[list[float]], float | None, list[int]]] = [
    (CrossEntropyLoss(), [[1, 2, 0], [3, 0, 0], [0, 0, 9]], None, [1, 0, 2]),
    (NLLLoss(), [[-1, -2], [-3, -1]], None, [0, 1]),
    (BCEWithLogitsLoss(), [[-0.1], [0.1], [0.0]], 0.5, [0, 1, 0]),  # logits: above 0
    (BCELoss(), [[0.4], [0.6], [0.5]], None, [0, 1, 0]),  # probabilities: above 1/2
    (MSELoss(), [[-0.1], [0.1], [0.6]], 0.0, [0, 1, 1]),  # targets -1 and 1: above the middle
    (MSELoss(), [[0.2, 0.1], [0.1, 0.2]], None, [0, 1]),
]


@pytest.mark.parametrize(("loss", "y", "threshold", "wanted"), ANSWERS)
def test_the_answer(loss: Loss, y: list[list[float]], threshold: float | None, wanted: list[int]) -> None:
    data = Dataset(Split(torch.zeros(1, 1), torch.zeros(1, 1)), classes=("a", "b"), threshold=threshold)
    assert predicted_classes(torch.tensor(y), loss, data).tolist() == wanted
    twice = torch.tensor([y, y])
    assert predicted_classes(twice, loss, data, replica_dims=1).tolist() == [wanted, wanted]


def test_the_error_is_the_share_of_wrong_answers() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    data = tensors(x, torch.tensor([0, 0, 0, 1]))  # the second is wrong
    for size in (1, 3, 4):
        assert evaluate(passing(2), CrossEntropyLoss(), data, data.train, size).metrics["error"] == [0.25]


def test_without_classes_there_is_no_error() -> None:
    data = tensors(torch.zeros(2, 1), torch.zeros(2, 1))
    assert set(evaluate(passing(), MSELoss(), data, data.train, 2).metrics) == {"loss"}


def test_nothing_that_training_sees_is_changed() -> None:
    net = Sequential(Linear(2, 3), Dropout(0.5), Linear(3, 2), LogSoftmax())
    before = [(p.clone(), g.clone()) for p, g in net.param()]
    data = tensors(torch.randn(7, 2), torch.randint(2, (7,)), classes=2)
    state = torch.get_rng_state()
    values = [evaluate(net, NLLLoss(), data, data.train, size).metrics["loss"] for size in (2, 7)]
    assert values[0] == pytest.approx(values[1])  # Dropout is off
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for _, m in net.modules())
    assert all(torch.equal(p, b) and torch.equal(g, h) for (p, g), (b, h) in zip(net.param(), before, strict=True))


def test_a_pause_that_raises_leaves_training_mode_on() -> None:
    class Stop(Exception):
        pass

    calls = 0

    def pause() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stop

    net = passing()
    data = tensors(torch.zeros(9, 1), torch.zeros(9, 1))
    with pytest.raises(Stop):
        evaluate(net, MSELoss(), data, data.train, 2, check_interrupt=pause)
    assert calls == 3
    assert net.training


def test_predictions_stand_in_the_order_of_the_samples() -> None:
    x = torch.arange(5.0).unsqueeze(1)
    assert predict(passing(), x, 2).flatten().tolist() == [0, 1, 2, 3, 4]
    net = Sequential(Linear(1, 1, bias=False), Sigmoid()).replicate([0, 1])
    y: Tensor = predict(net, x, 2, 2)
    assert y.shape == (2, 5, 1)
    w = net.param()[0][0].flatten()
    torch.testing.assert_close(y[1, :, 0], torch.sigmoid(w[1] * torch.arange(5.0)))
