"""Where a number is no longer finite: the step and the place are named, and the run ends with the bits of the step before."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stepwise import Stepwise
from torch import Tensor

from trainkit import (
    SGD,
    Adam,
    Callback,
    Checkpoint,
    CSVLogger,
    Dataset,
    Dropout,
    EarlyStopping,
    L1Loss,
    Linear,
    Loss,
    LRScheduler,
    Module,
    MSELoss,
    Optimizer,
    Recompute,
    ReLU,
    Sequential,
    Tanh,
    TensorBoard,
    TerminateOnNaN,
    Trainer,
    ValidationSplit,
    npy,
    tensors,
)
from trainkit.app.cli.main import main
from trainkit.callbacks import terminate_on_nan
from trainkit.checkpoint import file as checkpoint
from trainkit.checkpoint.plain import to_plain
from trainkit.data.loader import epoch_permutation
from trainkit.trainer.engines import engine as engine_module
from trainkit.trainer.session import Session

N, BATCH, MARKED = 20, 4, 11  # samples, samples a step, the sample that is odd
STEPS = N // BATCH


def step_of(sample: int, epoch: int, seed: int = 0) -> int:
    """The step that sees a sample in an epoch, counted from 1."""
    return epoch * STEPS + int((epoch_permutation(seed, epoch, N) == sample).nonzero()) // BATCH + 1


def data(x: float | None = None, t: float | None = None, scale: float = 1.0) -> Dataset:
    """A plane to regress on; the marked sample's second feature, or its target, is another."""
    xs = scale * torch.linspace(-1, 1, 2 * N).view(N, 2)
    ts = xs.sum(1, keepdim=True)
    if x is not None:
        xs[MARKED, 1] = x
    if t is not None:
        ts[MARKED, 0] = t
    return tensors(xs, ts)


def net() -> Sequential:
    return Sequential(Linear(2, 3), Tanh(), Linear(3, 3), ReLU(), Linear(3, 1))


def ramps() -> Sequential:
    return Sequential(Linear(2, 3), ReLU(), Linear(3, 1))


class At(Callback):
    """Does something after a step."""

    def __init__(self, step: int, act: Callable[[Session], None]) -> None:
        self.step, self.act = step, act

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            self.act(session)


def fit(
    *callbacks: Callback,
    made: Callable[[], Sequential] = net,
    loss: Callable[[], Loss] = MSELoss,
    rule: Callable[[Any], Optimizer] = lambda p: SGD(p, 0.05, momentum=0.9),
    on: Dataset | None = None,
    resume: dict[str, Any] | None = None,
    **how: Any,
) -> Trainer:
    trainer = Trainer(**{"max_epochs": 6, "batch_size": BATCH, "device": "cpu", "callbacks": callbacks} | how)
    own = made().initialize(torch.Generator().manual_seed(0))
    if trainer.replicas > 1:
        own.replicate(trainer.replica_seeds())
    trainer.fit(own, loss(), rule(own.param()), on or data(), resume)
    return trainer


def state(trainer: Trainer) -> list[Tensor]:
    p, _, *slots = trainer.session.optimizer.state()
    return [p, *slots]


def same(a: Trainer, b: Trainer) -> bool:
    return (
        all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(state(a), state(b), strict=True))
        and a.session.optimizer.t == b.session.optimizer.t
    )


# -- the step and the place ------------------------------------------------------------------------------------------------


class Cracked(Module):
    """y = x, and dx = dy, but infinite where x > 6."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return torch.where(x > 6, math.inf, dy)


def huge(layer: int, value: float = 3e38) -> Callable[[], Callback]:
    return lambda: At(12, lambda session: session.net.layers[layer].w.fill_(value))  # type: ignore[attr-defined]


def pushed(session: Session) -> None:
    session.optimizer.g.fill_(3e38)  # holds the momentum
    session.set_lr([10.0])


def first(x: float | None = None, t: float | None = None) -> dict[str, Any]:
    return {"on": (x, t), "step": step_of(MARKED, 0)}


def L1() -> Loss:
    return L1Loss("sum")


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "inf in the data": (first(x=math.inf), r"data: sample 11 of the training split has inf in feature 1$"),
    "nan in a target": (first(t=math.nan), r"data: the target of sample 11 of the training split has nan in feature 0$"),
    "weights of layer 0": (
        {"act": huge(0), "step": 13, "on": (None, None, 5.0), "made": ramps, "loss": L1, "lr": 1e-4},
        r"0.Linear forward: .*; its input reaches [\d.]+, its weight 3e\+38, its bias",
    ),
    "weights of layer 2": (
        {"act": huge(2), "step": 13, "w": 99.0},
        r"2.Linear forward: \d+ of 12 numbers are not finite, the first -?inf at",
    ),
    "weights of layer 4": (
        {"act": huge(4), "step": 13, "made": lambda: Sequential(*net().layers[:3], Times(4.0), Linear(3, 1))},
        r"4.Linear forward: .*; its input reaches .*, its weight 3e\+38",
    ),
    "a nan weight": (
        {"act": huge(2, math.nan), "step": 12},
        r"numbers are not finite after the step: caused by a callback \(at\)",
    ),
    "weights before the run": (
        {"made": lambda: Sequential(Linear(2, 1, bias=False), Poison()), "step": 1},
        r"before the step, 1.weight: inf$",
    ),
    "a backward": (
        {"made": lambda: Sequential(Linear(2, 1), Cracked(), Linear(1, 1)), **first(x=1e4), "w": 1.0},
        "1.Cracked backward: ",
    ),
    "a weight's gradient": (
        {**first(x=3e38), "loss": L1, "w": 1e-20, "lr": 1e-30, "made": lambda: Sequential(Linear(2, 1), Times(100.0))},
        r"0.Linear backward: .* in the gradient of its weight; dy reaches [\d.]+$",
    ),
    "the loss": (first(t=1e30), r"MSELoss: inf; the net's output reaches"),
    "the loss's backward": (
        {"made": lambda: Sequential(Linear(2, 1), Times(0.0)), "loss": lambda: Root(), "step": 1},
        r"Root backward: 4 of 4 numbers are not finite, the first inf at \(0, 0\)$",
    ),
    "the rate": (
        {"act": lambda: At(7, lambda t: t.set_lr([9e37])), "loss": lambda: MSELoss("sum"), "step": 8, "on": (None, 50.0)},
        r"SGD update of \d.\w+: .*; the gradient reached [\d.]+, lr 9e\+37",
    ),
    "the momentum": (
        {
            "act": lambda: At(12, pushed),
            "rule": lambda p: SGD(p, 0.01, momentum=0.9, accumulate_into_momentum=True),
            "step": 13,
        },
        r"SGD update of 0.weight: .*; the gradient reached 2.7e\+38, lr 10",
    ),
    "a slot": (
        {**first(x=1e25), "loss": L1, "rule": lambda p: Adam(p, 0.01), "made": lambda: Sequential(Linear(2, 1))},
        r"Adam update of v of 0.weight: 1 of 2 numbers is not finite, the first inf at \(0, 1\); "
        r"the gradient reached 1e\+25, lr 0.01",
    ),
    "clipped": ({**first(x=math.inf), "clip_norm": 1.0, "clip_value": 0.5}, r"data: sample 11"),
    "in parts": ({**first(x=math.inf), "batch_size": 2, "accumulate": 2}, r"data: sample 11"),
    "in parts, a weight": (
        {"act": huge(2), "step": 13, "w": 99.0, "batch_size": 2, "accumulate": 2},
        r"2.Linear forward: \d of 6 ",
    ),
    "recomputed": (
        {
            "made": lambda: Sequential(Recompute(Linear(2, 3), Times(9.0), Linear(3, 1))),
            "step": 13,
            "lr": 1e-3,
            "act": lambda: At(12, lambda t: t.net.layers[0].layers[2].w.fill_(3e38)),
        },  # type: ignore[attr-defined]
        r"0.2.Linear forward",
    ),
}


class Poison(Module):
    """y = x, with an infinite weight beside it."""

    def __init__(self) -> None:
        self.w, self.dw = self.parameter("weight", (1,))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self.w.fill_(math.inf)

    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return dy


class Times(Module):
    """y = k x."""

    def __init__(self, k: float) -> None:
        self.k = k

    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        return self.k * x, None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return self.k * dy


class Root(Loss):
    """The mean of √|y|, whose derivative at 0 is infinite."""

    def fwd(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return y.abs().sqrt().mean(), y

    def bwd(self, y: Tensor) -> Tensor:
        return 0.5 / y.abs().sqrt() / y.numel()


@pytest.mark.parametrize("every", [1, 3, 50])
@pytest.mark.parametrize("name", CASES)
def test_the_first_number_that_is_not_finite_is_found_at_its_step_and_place(name: str, every: int) -> None:
    case, place = CASES[name][0].copy(), CASES[name][1]
    step, act, w = case.pop("step"), case.pop("act", None), case.pop("w", None)
    if lr := case.pop("lr", None):
        case["rule"] = lambda p: SGD(p, lr)
    on = data(*case.pop("on", (None, None)))

    def run(nan: bool, **how: Any) -> Trainer:
        callbacks = [act()] if act else []
        callbacks += [Start(w)] if w is not None else []
        return fit(*callbacks, *([TerminateOnNaN()] if nan else []), on=on, log_every_n_steps=every, **case, **how)

    trainer = run(True)
    words = trainer.summary["stop_words"]
    assert trainer.summary["stop_reason"] == "nan"
    assert words.startswith(f"step {step:,}, epoch {(step - 1) // STEPS + 1}: "), words
    assert re.search(place, words), words
    assert (trainer.session.progress.step, trainer.summary["step"]) == (step - 1, step - 1)
    if name != "weights before the run":
        assert all(s.isfinite().all() for s in state(trainer))
    assert same(trainer, run(False, max_steps=step - 1)) or name == "weights before the run"


class Start(Callback):
    """All weights of the first layer are w at the beginning."""

    def __init__(self, w: float) -> None:
        self.w = w

    def on_fit_start(self, session: Session) -> None:
        session.net.layers[0].w.fill_(self.w)  # type: ignore[attr-defined]


# -- the state before it ---------------------------------------------------------------------------------------------------


def drops() -> Sequential:
    return Sequential(Linear(2, 5), Tanh(), Dropout(0.3), Linear(5, 1))


class Jitter(Callback):
    """Moves a weight by a draw from torch's own generator after each step."""

    def on_train_batch_end(self, session: Session) -> None:
        session.net.param()[0][0].view(-1)[0] += 0.01 * torch.rand(()).item()


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize("inside", [None, 3])
@pytest.mark.parametrize("step", [1, 2, 8, 9, 10, 13])  # 4 steps an epoch: 9 and 13 are an epoch's first
def test_the_last_checkpoint_is_that_of_a_run_that_ends_before_the_step(step: int, inside: int | None, tmp_path: Path) -> None:
    infinite = torch.full((N, 2), math.inf)
    infinite[ValidationSplit(0.2).indices(N)] = 0.0  # of the training part alone: others are refused at the start

    def run(name: str, **how: Any) -> dict[str, Any]:
        late: list[Callback] = [At(step - 1, lambda t: t.net.layers[3].w.fill_(3e38))] if step > 1 else []
        on = data() if step > 1 else tensors(infinite, torch.zeros(N, 1))
        how["config"] = "of both"  # else a checkpoint has max_steps in its own
        trainer = everything_with(late, tmp_path / name, on, inside=inside, **how)
        return loaded(tmp_path / name / "checkpoints" / "last.pt") | {"trainer": trainer}

    def loaded(path: Path) -> dict[str, Any]:
        content = checkpoint.load(path)
        del content["callbacks"]["tensorboard"]["points"]  # max_steps logs the loss of its last step, whichever that is
        del content["callbacks"]["tensorboard"]["tags"]
        return content

    broken, whole = run("broken"), run("whole", max_steps=step - 1)
    trainer = broken.pop("trainer")
    assert same(trainer, whole.pop("trainer"))
    assert trainer.summary["stop_reason"] == "nan"
    assert trainer.summary["stop_words"].endswith("; before_nan.pt is the state before that step")
    for name in ("broken/checkpoints/last.pt", "broken/before_nan.pt"):
        content = loaded(tmp_path / name)
        for key in content:
            assert alike(content[key], whole[key]), (name, key)
    said = json.loads((tmp_path / "broken/summary.json").read_text())
    assert (said["step"], said["stop_reason"]) == (step - 1, "nan")


def everything_with(more: list[Callback], folder: Path, on: Dataset, inside: int | None, **how: Any) -> Trainer:
    torch.manual_seed(0)
    callbacks = [
        ValidationSplit(0.2, every_n_steps=inside),
        LRScheduler("step", warmup_steps=4, CosineAnnealingLR={"T_max": 30}),
        EarlyStopping(patience=20, check_finite=False),
        Checkpoint(monitor="val/loss", every_n_steps=4),
        CSVLogger(),
        TensorBoard(),
        TerminateOnNaN(),
        Jitter(),
        *more,
    ]
    return fit(*callbacks, made=drops, on=on, run_dir=folder, log_every_n_steps=7, clip_norm=0.5, **how)


def test_no_file_of_a_run_ever_holds_what_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Savers look between the fetches of the log: what they save has been looked at."""
    from trainkit.callbacks import checkpoint as saver

    saved: list[dict[str, Any]] = []
    monkeypatch.setattr(saver, "save", lambda content, path: saved.append(to_plain(content)))
    every = [Checkpoint(every_n_steps=1), TerminateOnNaN(), At(8, lambda t: t.net.layers[4].w.fill_(3e38))]  # type: ignore[attr-defined]
    for callbacks in (every, every[::-1]):
        saved.clear()
        trainer = fit(*callbacks, run_dir=tmp_path / str(len(saved) + (callbacks is every)), log_every_n_steps=1000)
        assert trainer.summary["stop_words"].startswith("step 9, epoch 2: ")
        assert [content["state"]["step"] for content in saved][-1] == 8
        assert all(v.isfinite().all() for content in saved for v in content["model"].values())


@pytest.mark.parametrize("pick", ["last", "before_nan"])
def test_a_resumed_run_ends_at_the_same_step_with_the_same_words(pick: str, tmp_path: Path) -> None:
    first = fit(TerminateOnNaN(), Checkpoint(), on=data(x=math.inf), run_dir=tmp_path)
    file = tmp_path / ("checkpoints/last.pt" if pick == "last" else "before_nan.pt")
    again = fit(TerminateOnNaN(), Checkpoint(), on=data(x=math.inf), run_dir=tmp_path, resume=checkpoint.load(file))
    for key in ("stop_reason", "stop_words", "step", "params_sha256"):
        assert first.summary[key] == again.summary[key]
    healthy = fit(TerminateOnNaN(), Checkpoint(), run_dir=tmp_path, resume=checkpoint.load(file))
    assert (healthy.summary["stop_reason"], healthy.summary["step"]) == ("max_epochs", 6 * STEPS)


def test_a_run_without_such_numbers_is_the_run_without_the_callback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trainer = fit(TerminateOnNaN(), Jitter_(), made=drops, run_dir=tmp_path)
    assert same(trainer, fit(Jitter_(), made=drops))
    assert trainer.summary["stop_reason"] == "max_epochs"
    said = f"run folder {tmp_path}: no callback saves the model there; add Checkpoint() to the callbacks\n"
    assert (capsys.readouterr().err, list(tmp_path.glob("*.pt"))) == (said, [])


def Jitter_() -> Callback:
    torch.manual_seed(0)
    return Jitter()


def test_min_epochs_and_other_reasons_do_not_keep_a_broken_run_going() -> None:
    asks = At(13, lambda t: t.stop("mine", "that is enough"))
    plant = At(12, lambda t: t.net.layers[4].w.fill_(3e38))  # type: ignore[attr-defined]
    summary = fit(asks, plant, TerminateOnNaN(), min_epochs=5).summary
    assert (summary["stop_reason"], summary["step"]) == ("nan", 12)


def test_a_signal_saves_what_is_finite(tmp_path: Path) -> None:
    import signal

    def act(session: Session) -> None:
        if session.signal is None:
            signal.raise_signal(signal.SIGTERM)

    plant = At(12, lambda t: t.net.layers[4].w.fill_(3e38))  # type: ignore[attr-defined]
    trainer = fit(plant, At(13, act), Checkpoint(), TerminateOnNaN(), run_dir=tmp_path)
    assert trainer.summary["stop_reason"] == "SIGTERM"
    content = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert content["state"]["step"] == 12
    assert all(v.isfinite().all() for v in content["model"].values())


def test_a_number_that_does_not_come_again_is_told_honestly() -> None:
    class Once(Module):
        """y = x, infinite in the 13th pass of the process."""

        passes = 0

        def fwd(self, x: Tensor) -> tuple[Tensor, None]:
            if self.training:
                Once.passes += 1
            return (x + math.inf if Once.passes == 13 and self.training else x), None

        def bwd(self, saved: None, dy: Tensor) -> Tensor:
            return dy

    trainer = fit(TerminateOnNaN(), made=lambda: Sequential(Linear(2, 1), Once()), log_every_n_steps=10)
    words = "step 13, epoch 3: the loss is inf, but repeating the steps from step 10 gives finite numbers"
    assert (trainer.summary["stop_words"], trainer.summary["step"]) == (words, 10)
    assert all(s.isfinite().all() for s in state(trainer))


def test_data_from_a_file(tmp_path: Path) -> None:
    source = data(x=3e38)
    np.save(tmp_path / "x.npy", source.train.x[:].numpy())
    np.save(tmp_path / "t.npy", source.train.t.numpy())
    streamed = npy(str(tmp_path / "x.npy"), str(tmp_path / "t.npy"))
    trainer, memory = fit(TerminateOnNaN(), on=streamed, made=ramps), fit(TerminateOnNaN(), on=source, made=ramps)
    assert trainer.summary["stop_words"] == memory.summary["stop_words"]
    assert trainer.summary["stop_words"].startswith(
        f"step {step_of(MARKED, 0)}, epoch 1: MSELoss: inf; the net's output reaches"
    )
    assert same(trainer, memory)


# -- captured steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights of layer 4", "inf in the data", "the loss"])
def test_captured_steps_are_gone_back_as_exactly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, place = CASES[name]
    step, made = case["step"], case.get("made", net)
    monkeypatch.setattr(engine_module, "CudaGraphEngine", Stepwise)
    found = []
    for more in ([TerminateOnNaN()], []):
        act = [Plain(step - 1, case["act"]().act)] if "act" in case else []
        on = data(*case.get("on", (None, None)))
        found.append(fit(*more, *act, on=on, made=made, engine="graph", max_steps=None if more else step - 1))
    assert re.search(place, found[0].summary["stop_words"])
    assert (found[0].summary["step"], found[0].session.engine) == (step - 1, "graph")
    assert same(*found)


class Plain(At):
    """The same, and it says when."""

    def next_step(self, step: int) -> int | None:
        return self.step if step < self.step else None


def test_what_a_captured_step_alone_makes_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cracked(Stepwise):
        """Step 8 gives NaN, as a replay might."""

        def step(self, x: Tensor, t: Tensor) -> Tensor:
            loss = super().step(x, t)
            return loss + math.nan if self.optimizer.t == 8 else loss

    monkeypatch.setattr(engine_module, "CudaGraphEngine", Cracked)
    trainer = fit(TerminateOnNaN(), engine="graph")
    words = "step 8, epoch 2: numbers are not finite in the captured step; the same step in eager mode gives finite numbers"
    assert (trainer.summary["stop_words"], trainer.summary["step"]) == (words, 7)


# -- replicas --------------------------------------------------------------------------------------------------------------


def plant(at: dict[int, int]) -> list[Callback]:
    """A weight that overflows, in replica r after step at[r]."""

    def act(r: int) -> Callable[[Session], None]:
        return lambda session: session.net.layers[4].w[r].fill_(3e38)  # type: ignore[attr-defined, no-any-return]

    return [At(step, act(r)) for r, step in at.items()]


def test_a_replica_is_stopped_alone_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(*plant({1: 8}), TerminateOnNaN(), replicas=3)
    said = capsys.readouterr().err
    assert said.startswith("replica 1, step 9, epoch 2: MSELoss: inf; the net's output reaches ")
    assert said.count("\n") == 1
    assert (trainer.summary["stop_reason"], trainer.session.progress.active) == ("max_epochs", [True, False, True])
    whole, before = fit(replicas=3), fit(*plant({1: 8}), replicas=3, max_steps=8)
    for (_, p, _), (_, q, _), (_, b, _) in zip(*(t.session.net.named_param() for t in (trainer, whole, before)), strict=True):
        assert torch.equal(p[0], q[0])
        assert torch.equal(p[2], q[2])
        assert torch.equal(p[1], b[1]), "its parameters are those of before"


@pytest.mark.parametrize(
    ("at", "ended", "told"),
    [
        ({0: 8, 1: 8, 2: 8}, 8, []),
        ({0: 6, 1: 8, 2: 7}, 8, ["replica 0, step 7, ", "replica 2, step 8, "]),  # in one fetch
        ({0: 2, 1: 13, 2: 21}, 21, ["replica 0, step 3, ", "replica 1, step 14, "]),
    ],
)
def test_the_last_replica_ends_the_run(
    at: dict[int, int], ended: int, told: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # With a configuration of its own: that of the objects would be told to be without the functions of `plant`.
    trainer = fit(*plant(at), TerminateOnNaN(), Checkpoint(), replicas=3, run_dir=tmp_path, config="seed: 0\n")
    lines = capsys.readouterr().err.splitlines()
    assert [a.startswith(b) for a, b in zip(lines, told, strict=True)] == [True] * len(told)
    last = [r for r, step in at.items() if step == ended]
    assert (trainer.summary["stop_reason"], trainer.session.progress.step) == ("nan", ended)
    assert [line.split(",")[0] for line in trainer.summary["stop_words"].splitlines()] == [f"replica {r}" for r in last]
    content = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert all(v.isfinite().all() for v in content["model"].values())
    assert content["state"]["active"] == [r in last for r in range(3)], "a resumed run goes on with those that broke last"


def test_a_resume_leaves_a_stopped_replica_stopped_whatever_early_stopping_says() -> None:
    from trainkit.checkpoint.file import to_plain

    class Keep(Callback):
        def __init__(self) -> None:
            self.snapshots: list[dict[str, Any]] = []

        def on_checkpoint(self, session: Session) -> None:
            self.snapshots.append(to_plain(session.snapshot()))

    def callbacks() -> list[Callback]:
        return [ValidationSplit(0.2), EarlyStopping(patience=3, restore_best=True), *plant({1: 6}), TerminateOnNaN()]

    keep = Keep()
    whole = fit(*callbacks(), keep, replicas=2, max_epochs=12)
    for content in keep.snapshots[::5]:
        rest = fit(*callbacks(), Keep(), replicas=2, max_epochs=12, resume=to_plain(content))
        assert same(rest, whole)
        assert {**rest.summary, "wall_s": 0} == {**whole.summary, "wall_s": 0}


# -- the command -----------------------------------------------------------------------------------------------------------

CONF = """\
data: {name: disk, train: 80, test: 20}
model: [{Linear: [2, 8]}, ReLU, {Linear: [8, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 1.0e+30}}
trainer: {max_epochs: 2, batch_size: 10}
callbacks: {terminate_on_nan: {}, checkpoint: {}}
"""


def test_the_command_has_an_exit_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(CONF)
    assert main(["fit", "a.yaml", "--run-dir", "run"]) == 3
    out = capsys.readouterr().out.splitlines()[0]
    assert re.match(r"step 2, epoch 1: .* not finite.*; before_nan.pt is the state before that step, in .* s; run", out)
    assert main(["fit", "--resume", "run"]) == 3
    assert main(["fit", "--resume", "run/before_nan.pt", "--run-dir", "rest"]) == 3
    assert main(["fit", "--resume", "run", "callbacks.terminate_on_nan=null"]) == 0
    assert terminate_on_nan.BEFORE_NAN == "before_nan.pt"
