"""A fit takes one thread where its products are small, all where one is large; a resumed one what it had; a given one wins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import SGD, Callback, Checkpoint, CrossEntropyLoss, Linear, Sequential, Trainer, UserError, tensors
from trainkit.checkpoint import file as checkpoint
from trainkit.trainer import threads
from trainkit.trainer.session import Session

MANY = 3  # torch's own number here, whatever the machine has


@pytest.fixture(autouse=True)
def many() -> Iterator[None]:
    with threads.restored():
        torch.set_num_threads(MANY)
        yield
    assert torch.get_num_threads() == 1  # as conftest has it


class Threads(Callback):
    """Notes how many there are in each step."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def on_train_batch_end(self, session: Session) -> None:
        self.seen.add(torch.get_num_threads())


def threads_of_a_fit(
    width: int, resume: dict[str, Any] | None = None, callbacks: tuple[Callback, ...] = (), **how: Any
) -> set[int]:
    watch = Threads()
    trainer = Trainer(**{"max_epochs": 1, "batch_size": 50, "device": "cpu", "callbacks": [watch, *callbacks]} | how)
    net = Sequential(Linear(2, width), Linear(width, 2))
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), 0.1), tensors(torch.rand(100, 2), torch.arange(100) % 2), resume)
    return watch.seen


@pytest.mark.parametrize(
    ("width", "replicas", "batch", "threads"),
    [(25, 1, 50, 1), (7499, 1, 50, 1), (7500, 1, 50, MANY), (7500, 1, 49, 1), (250, 30, 50, MANY), (15000, 1, 25, MANY)],
)
def test_small_products_take_one_thread_and_a_large_one_all(width: int, replicas: int, batch: int, threads: int) -> None:
    """2 x width x batch x replicas multiply-adds, an operation each, against 1.5 million."""
    assert threads_of_a_fit(width, replicas=replicas, batch_size=batch) == {threads}
    assert torch.get_num_threads() == MANY


def test_the_batch_is_that_of_a_pass_not_of_a_step() -> None:
    assert threads_of_a_fit(7500, batch_size=25, accumulate=2) == {1}


def test_a_given_number_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert threads_of_a_fit(25, threads=2) == {2}
    with pytest.raises(UserError, match=r"trainer.threads: 3; this machine has 2 cores; give 2 or fewer, or leave it out"):
        Trainer(threads=3)
    with pytest.raises(UserError, match=r"trainer.threads: 0; needs at least 1"):
        Trainer(threads=0)


def test_an_error_leaves_torch_as_it_was() -> None:
    class Fails(Callback):
        def on_train_batch_end(self, session: Session) -> None:
            raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        threads_of_a_fit(25, callbacks=(Fails(),))
    assert torch.get_num_threads() == MANY


@pytest.mark.parametrize(("then", "now"), [(2, 2), (1, 1), (MANY + 1, MANY), (0, 1)])
def test_a_resumed_fit_takes_what_its_checkpoint_had_as_far_as_torch_has_it(then: int, now: int, tmp_path: Path) -> None:
    threads_of_a_fit(25, callbacks=(Checkpoint(),), run_dir=tmp_path)
    content = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert content["environment"]["threads"] == 1
    content["environment"]["threads"] = then
    assert threads_of_a_fit(25, content, max_epochs=2) == {now}
