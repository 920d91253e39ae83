"""`trainer.engine: auto` takes the engine that finishes first, says so in a line, and leaves no trace of its trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import SGD, CrossEntropyLoss, Linear, Module, Sequential, Tanh, Trainer, disk, tensors
from trainkit.trainer.engines import auto
from trainkit.trainer.engines.native import engine as native_engine

STEPS = 250  # of `fit`: 50 epochs of 5 batches


def fit(net: Sequential | None = None, **settings: Any) -> Trainer:
    net = net or Sequential(Linear(2, 6), Tanh(), Linear(6, 2))
    net.initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(**{"max_epochs": 50, "batch_size": 5, "device": "cpu", **settings})
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1, momentum=0.9), disk(train=23, test=5))
    return trainer


def same(a: Trainer, b: Trainer) -> bool:
    return all(map(torch.equal, a.fitted().optimizer.state(), b.fitted().optimizer.state()))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> list[float]:
    """A clock by which the first call that is timed takes the first number of seconds, and so on; the numbers not yet used."""
    left = list(seconds)

    def timed(call: Callable[[], Any]) -> float:
        call()
        return left.pop(0)

    monkeypatch.setattr(auto, "seconds", timed)
    return left


def test_a_run_for_which_nobody_would_notice_a_gain_is_eager_without_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unused = clock(monkeypatch, 0.9 * auto.LOAD / auto.SAVED / STEPS)
    assert fit().fitted().engine == "eager"
    assert not unused
    unused = clock(monkeypatch, 1.0)
    assert fit(max_epochs=19).fitted().engine == "eager"
    assert unused, "so few steps are not even timed"
    assert capsys.readouterr().err == ""


def test_compiling_must_save_more_than_it_takes_unless_the_library_is_there(
    cache: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    eager, pays = fit(engine="eager"), auto.COMPILE / auto.SAVED / STEPS
    clock(monkeypatch, 0.9 * pays)
    trainer = fit()
    assert trainer.fitted().engine == "eager"
    gain = f"compiling takes about {auto.COMPILE} s and would save {0.9 * auto.COMPILE:.1f} s in {STEPS} steps"
    assert capsys.readouterr().err == f"trainer.engine auto: eager; {gain}\n"
    assert same(trainer, eager), "the steps that were timed are undone"
    clock(monkeypatch, 1.1 * pays, 8 * 0.11 * pays)
    first = fit()
    assert first.fitted().engine == "native"
    assert capsys.readouterr().err.startswith("trainer.engine auto: native; a step takes 0.2")
    clock(monkeypatch, 0.9 * pays, pays / 100)
    again = fit()
    assert again.fitted().engine == "native", "it is compiled now"
    assert same(again, first)
    assert same(first, fit(engine="native")), "the steps that were timed are undone"


def test_native_steps_that_are_slower_are_not_used(
    cache: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    eager = fit(engine="eager")
    clock(monkeypatch, 1.0, 6.0)
    trainer = fit()
    assert trainer.fitted().engine == "eager"
    assert capsys.readouterr().err == "trainer.engine auto: eager; a native step takes 1.5 times as long\n"
    assert same(trainer, eager)


class Own(Module):
    """A layer of a user, which counts its calls."""

    calls = 0

    def fwd(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        type(self).calls += 1
        return x, None

    def bwd(self, saved: None, dy: torch.Tensor) -> torch.Tensor:
        return dy


def test_a_layer_without_code_is_named_and_not_called_on_trial(capsys: pytest.CaptureFixture[str]) -> None:
    Own.calls = 0
    assert fit(Sequential(Linear(2, 6), Own(), Linear(6, 2))).fitted().engine == "eager"
    assert capsys.readouterr().err == "trainer.engine auto: eager, since Own has no C++ code\n"
    trials, Own.calls = Own.calls, 0
    fit(Sequential(Linear(2, 6), Own(), Linear(6, 2)), engine="eager")
    assert trials == Own.calls


def test_where_products_dominate_nothing_is_tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    unused = clock(monkeypatch, 1.0)
    monkeypatch.setattr(auto, "LARGEST", 30)
    assert fit().fitted().engine == "eager"
    assert unused
    assert capsys.readouterr().err == "trainer.engine auto: eager; matrix products dominate the steps of 32 parameters\n"
    x, t = torch.randn(20, 2), torch.randint(0, 2, (20,))
    net = Sequential(Linear(2, 6), Tanh(), Linear(6, 2)).replicate(range(3))
    monkeypatch.setattr(auto, "LARGEST", 40)
    trainer = Trainer(max_epochs=200, batch_size=5, device="cpu", replicas=3)
    clock(monkeypatch, 0.0)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), tensors(x, t))
    assert capsys.readouterr().err == "", "a model is as large as one replica"


def test_without_a_compiler_a_long_run_is_eager_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    native_engine.compiler.cache_clear()
    clock(monkeypatch, 1.0)
    assert fit().fitted().engine == "eager"
    native_engine.compiler.cache_clear()
    said = "trainer.engine auto: eager, since no C++ compiler was found (install g++, or set CXX)\n"
    assert capsys.readouterr().err == said
