"""The native engine: its steps are the eager ones within rounding, and its bits depend on nothing but the run."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from native_cases import distance, drawn, trained

from trainkit import (
    SGD,
    Adam,
    Callback,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    Linear,
    Sequential,
    Session,
    Tanh,
    Trainer,
    disk,
    tensors,
)
from trainkit.core.rng import generator
from trainkit.trainer.engines.native import compiler, source

PAIRS = pytest.mark.parametrize("seed", range(6))


def drop_net() -> Sequential:
    return Sequential(Linear(2, 6), Tanh(), Dropout(0.3), Linear(6, 2))


def fit(*callbacks: Callback, resume: Any = None, **settings: Any) -> Trainer:
    common: dict[str, Any] = {"max_epochs": 4, "batch_size": 5, "engine": "native", "device": "cpu"}
    trainer = Trainer(**{**common, "callbacks": callbacks, **settings})
    net, seeds = drop_net(), trainer.replica_seeds()
    net = net.replicate(seeds) if len(seeds) > 1 else net.initialize(generator(seeds[0], "init"))
    trainer.fit(net, CrossEntropyLoss(), Adam(net.param(), lr=0.01), disk(train=23, test=5), resume)
    return trainer


def state(trainer: Trainer) -> list[torch.Tensor]:
    return [s.clone() for s in trainer.fitted().optimizer.state()]


@pytest.mark.slow
@PAIRS
def test_a_case_drawn_at_random_ends_at_the_eager_parameters(seed: int) -> None:
    eager, native = trained(seed, "eager"), trained(seed, "native")
    assert native.engine == "native", drawn(seed)
    assert distance(native, eager) < 1e-12, drawn(seed)


class Look(Callback):
    """Asks to be called after every step, and keeps the run's content after the steps in `at`."""

    def __init__(self, *at: int) -> None:
        self.at, self.contents = at, []

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step in self.at:
            self.contents.append(session.snapshot())


def test_bits_do_not_depend_on_where_calls_end_and_a_resume_is_exact() -> None:
    whole, look = fit(), Look(3, 9)
    assert whole.fitted().engine == "native"
    looked = fit(look)
    assert all(map(torch.equal, state(looked), state(whole)))
    for content in look.contents:
        rest = fit(Look(), resume=content)
        assert rest.fitted().engine == "native"
        assert all(map(torch.equal, state(rest), state(whole)))


def test_a_replica_has_the_bits_of_the_model_alone_for_any_number_of_threads() -> None:
    alone = [fit(seed=seed) for seed in range(3)]
    for threads in (1, 2):
        together = fit(replicas=3, threads=threads)
        assert together.fitted().engine == "native"
        for r, single in enumerate(alone):
            pairs = zip(together.fitted().net.param(), single.fitted().net.param(), strict=True)
            assert all(torch.equal(p[r], q) for (p, _), (q, _) in pairs)


def test_images_are_flattened(capsys: pytest.CaptureFixture[str]) -> None:
    x, t = torch.randn(30, 3, 4), torch.randint(0, 2, (30,))
    found = {}
    for layers in ((Flatten(), Linear(12, 2)), (Linear(4, 3), Flatten(), Linear(9, 2))):
        net = Sequential(*layers)
        trainer = Trainer(max_epochs=1, batch_size=10, engine="native", device="cpu")
        trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), tensors(x, t))
        found[len(layers)] = trainer.fitted().engine
    assert found == {2: "native", 3: "eager"}
    assert "samples have 2 axes, native steps take rows of numbers; begin the net with Flatten()" in capsys.readouterr().err


class Doubled(Tanh):
    """A layer of a user: without C++ code, even below a layer that has some."""

    def fwd(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = 2 * torch.tanh(x)
        return y, y

    def bwd(self, y: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        return dy * (2 - y * y / 2)


def test_what_has_no_code_is_named_and_runs_eagerly(capsys: pytest.CaptureFixture[str]) -> None:
    net = Sequential(Linear(2, 3), Doubled(), Linear(3, 2))
    trainer = Trainer(max_epochs=1, batch_size=5, engine="native", device="cpu")
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(train=23, test=5))
    assert trainer.fitted().engine == "eager"
    assert "trainer.engine native: eager, since Doubled has no C++ code" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["", "no-such-compiler"])
def test_without_a_compiler_a_run_is_eager_and_a_line_says_so(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", missing)
    if not missing:
        monkeypatch.setenv("PATH", str(tmp_path))
    compiler.compiler.cache_clear()
    assert fit(max_epochs=1).fitted().engine == "eager"
    assert "trainer.engine native: eager, since no C++ compiler was found (install g++, or set CXX)" in capsys.readouterr().err
    compiler.compiler.cache_clear()


def test_a_replica_that_diverges_leaves_no_trace_in_another() -> None:
    for clip in (None, 1.0):
        alone = fit(seed=1, clip_norm=clip)
        together = fit(replicas=2, threads=1, clip_norm=clip, callbacks=[Overflow()])
        assert together.fitted().engine == "native"
        (p, _), *_ = together.fitted().net.param()
        assert not p[0].isfinite().any()
        pairs = zip(together.fitted().net.param(), alone.fitted().net.param(), strict=True)
        assert all(torch.equal(p[1], q) for (p, _), (q, _) in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_large_model_is_divided_and_its_bits_do_not_depend_on_the_threads(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, whole = trained(seed, "eager"), trained(seed, "native")
    monkeypatch.setattr(source, "SHARED", 0)
    divided, again = (trained(seed, "native", threads=threads) for threads in (1, 2))
    assert distance(eager, divided) < 1e-12, drawn(seed)
    assert divided.equals(again), drawn(seed)
    assert not divided.equals(whole), "its sums have another order"


class Overflow(Callback):
    """Makes the weights of the first replica infinite after step 6."""

    def next_step(self, step: int) -> int | None:
        return 6 if step < 6 else None

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == 6:
            for p, _ in session.net.param():
                p[0] = float("inf")


def test_a_signal_ends_the_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\n[ $1 = --version ] || {{ touch {tmp_path}/begun; exec sleep 600; }}\n")
    slow.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(slow))

    def send() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    compiler.compiler.cache_clear()
    sender = threading.Thread(target=send)
    sender.start()
    trainer = fit()
    sender.join()
    compiler.compiler.cache_clear()
    assert trainer.summary["stop_reason"] == "SIGTERM"
    assert "trainer.engine native: eager, since a signal ended the compilation" in capsys.readouterr().err
