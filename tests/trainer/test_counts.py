"""The price of a step as counts that no noisy machine can move: kernels called, and callbacks asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from trainkit import SGD, Callback, CrossEntropyLoss, Linear, ReLU, Sequential, Trainer, disk
from trainkit.trainer.engines.step import training_step
from trainkit.trainer.session import Session


class Made(TorchDispatchMode):
    """Counts kernels by name (views call none), and `made`: tensors whose memory none of their kernel's inputs had."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.seen[func.overloadpacket.__name__] += 1
        result = func(*args, **(kwargs or {}))
        known = {memory(v) for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)}
        self.made += len({memory(v) for v in pytree.tree_leaves(result) if isinstance(v, Tensor)} - known)
        return result


def memory(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def step_on_the_reports_net() -> Made:
    """What one step does, the one after the first, which fills the momentum."""
    layers = [Linear(2, 25), ReLU(), Linear(25, 25), ReLU(), Linear(25, 25), ReLU(), Linear(25, 2)]
    net, loss = Sequential(*layers), CrossEntropyLoss()
    step = training_step(net, loss, SGD(net.param(), lr=0.1, momentum=0.9))
    x, t = torch.randn(50, 2), torch.randint(0, 2, (50,))
    step(x, t)
    with Made() as kernels:
        step(x, t)
    return kernels


def test_a_step_makes_its_activations_and_their_gradients_and_no_other_tensor() -> None:
    outputs = 4 + 3 + 1  # Linear, ReLU, log-softmax
    gradients = 1 + 1 + 3 + 3  # of log p, of the net's output, of each ReLU's input and output
    loss = 2  # the value, and the weight that it was divided by
    assert step_on_the_reports_net().made == outputs + gradients + loss


def test_a_step_of_the_reports_net_calls_no_kernel_more_than_its_formulas() -> None:
    assert step_on_the_reports_net().seen == {
        "zero_": 1,  # one flat gradient buffer
        "addmm": 4,  # forward
        "relu": 3,
        "_log_softmax": 1,
        "nll_loss_forward": 1,
        "nll_loss_backward": 1,
        "_log_softmax_backward_data": 1,
        "addmm_": 4,  # dw
        "addmv_": 4,  # db
        "mm": 3,  # dx, of all layers but the first
        "threshold_backward": 3,
        "add": 1,  # momentum and update of one flat buffer
        "add_": 1,
    }


def test_a_hook_is_called_only_where_it_is_overridden_and_as_often_as_it_happens() -> None:
    class Counting(Callback):
        def __init__(self) -> None:
            self.calls: Counter[str] = Counter()

        def on_train_batch_end(self, session: Session) -> None:
            self.calls["step"] += 1

        def on_step_log(self, session: Session, losses: list[float]) -> None:
            self.calls["fetch"] += 1

    counting = Counting()
    net = Sequential(Linear(2, 2))
    trainer = Trainer(max_epochs=2, batch_size=1, device="cpu", log_every_n_steps=40, callbacks=[counting, Callback()])
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(100, 0))
    assert counting.calls == {"step": 200, "fetch": 1 + 2 + 3 + 1}  # first; 40, 80; 120, 160 and 200, also an end; 100
    assert {hook: len(heard) for hook, heard in trainer.session.hooks.items() if heard} == {
        "on_train_batch_end": 1,
        "on_step_log": 1,
    }
