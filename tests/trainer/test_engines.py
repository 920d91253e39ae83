"""Steps that are replayed are eager's; their bits do not depend on where calls begin and end; no hook is missed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stepwise import Stepwise
from tape import Tape
from torch import Tensor

from trainkit import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Add,
    BCEWithLogitsLoss,
    Callback,
    Checkpoint,
    CrossEntropyLoss,
    CSVLogger,
    Dataset,
    Dropout,
    FanOut,
    GradientNorms,
    HuberLoss,
    Linear,
    LRScheduler,
    MSELoss,
    Parallel,
    Recompute,
    ReLU,
    Residual,
    RMSprop,
    Sequential,
    SignSGD,
    Softmax,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.data.loader import batches
from trainkit.trainer.engines import cuda_graph
from trainkit.trainer.engines import engine as engine_module
from trainkit.trainer.engines.cuda_graph import CudaGraphEngine
from trainkit.trainer.engines.multi_step import MultiStepEngine
from trainkit.trainer.engines.step import clipping, loss_and_grad, training_step
from trainkit.trainer.session import Session


def points(n: int = 23) -> Dataset:
    return disk(train=n, test=5)


def net() -> Sequential:
    return Sequential(Linear(2, 6), Tanh(), Residual(Linear(6, 6), ReLU()), Linear(6, 2))


def fit(
    *callbacks: Callback, made: Callable[[], Sequential] = net, rule: Any = SGD, resume: Any = None, **trainer: Any
) -> tuple[Trainer, dict[str, Any]]:
    numbers = {"lr": 0.1} if rule is not SGD else {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    t = Trainer(**{"batch_size": 5, "max_epochs": 4, "device": "cpu", "callbacks": callbacks, **trainer})
    n = made().replicate(t.replica_seeds()) if t.replicas > 1 else made().initialize(torch.Generator().manual_seed(0))
    summary = t.fit(n, CrossEntropyLoss(), rule(n.param(), **numbers), points(), resume)
    return t, summary


# -- the step, captured: its kernels called again on the same tensors ---------------------------------------------------------


def class_weights() -> CrossEntropyLoss:
    return CrossEntropyLoss(weight=[1.0, 2.0], label_smoothing=0.1)


def one_hot(data: Dataset) -> Dataset:
    return tensors(data.train.x, torch.eye(2)[data.train.t], classes=2)


def column(data: Dataset) -> Dataset:
    return tensors(data.train.x, data.train.t[:, None].float(), classes=2)


def branches() -> Sequential:
    return Sequential(FanOut(2), Parallel(Linear(2, 3), Sequential(Linear(2, 3), ReLU())), Add(), Linear(3, 2))


def shared() -> Sequential:
    twice = Linear(3, 3)
    return Sequential(Linear(2, 3), twice, Tanh(), twice, Linear(3, 2))


STEPS: dict[str, dict[str, Any]] = {
    "SGD": {"rule": (SGD, {"lr": 0.1})},
    "SGD with all": {"rule": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "maximize": True})},
    "dampening": {"rule": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3})},
    "SignSGD": {"rule": (SignSGD, {"lr": 0.1, "momentum": 0.5})},
    "Adam": {"rule": (Adam, {"lr": 0.1, "weight_decay": 0.1})},
    "AdamW": {"rule": (AdamW, {"lr": 0.1, "amsgrad": True})},
    "RMSprop": {"rule": (RMSprop, {"lr": 0.1, "centered": True, "momentum": 0.5})},
    "Adagrad": {"rule": (Adagrad, {"lr": 0.1, "lr_decay": 0.1})},
    "clipped": {"clip": (0.1, 0.05)},
    "in parts": {"accumulate": 2},
    "class weights": {"loss": class_weights},
    "class weights in parts": {"loss": class_weights, "accumulate": 2},
    "MSE of one-hot": {"loss": MSELoss, "data": one_hot},
    "one output": {"loss": BCEWithLogitsLoss, "data": column, "net": lambda: Sequential(Linear(2, 3), ReLU(), Linear(3, 1))},
    "sum of Huber": {"loss": lambda: HuberLoss("sum"), "data": one_hot, "net": lambda: Sequential(Linear(2, 2), Softmax())},
    "branches": {"net": branches},
    "a module twice": {"net": shared},
    "Dropout in parts": {"net": lambda: drop_net(), "accumulate": 2},
    "Dropout": {"net": lambda: Sequential(Linear(2, 4), Dropout(0.4), Recompute(Linear(4, 4), Dropout(0.3)), Linear(4, 2))},
}
EACH = {"lr": [0.1, 0.05, 0.0], "momentum": [0.9, 0.5, 0.1], "weight_decay": [0.1, 0.0, 0.2]}


class Case:
    """One of STEPS with its eager step, taken once; `steps_like_eager` compares what runs many of them."""

    def __init__(self, name: str, replicas: int) -> None:
        case = STEPS[name]
        rule, numbers = case.get("rule", (SGD, {"lr": 0.1, "momentum": 0.9}))
        if replicas > 1:
            numbers = {**numbers, **{key: EACH[key] for key in EACH if key in numbers and name != "SGD with all"}}
        data, loss = case.get("data", lambda d: d)(points()), case.get("loss", CrossEntropyLoss)()
        clip, accumulate = case.get("clip", (None, None)), case.get("accumulate", 1)
        model = case.get("net", net)().to(dtype=torch.float64)
        model = model.replicate(range(replicas)) if replicas > 1 else model
        loss.replica_dims = model.replica_dims
        part, size = data.train.to(torch.device("cpu"), torch.float64), 6
        self.optimizer = rule(model.param(), **numbers)
        self.eager = training_step(model, loss, self.optimizer, accumulate, *clip)
        n = len(part)
        self.order = torch.stack([torch.randperm(n) for _ in range(replicas)]) if model.replica_dims else torch.randperm(n)
        self.steps = list(batches(part, self.order, size))
        self.eager(*self.steps[0])
        gradient_of = partial(loss_and_grad, loss=loss, accumulate=accumulate)
        self.given = (model, self.optimizer, gradient_of, clipping(model.replica_dims, *clip), part, size)

    def steps_like_eager(self, kind: type[MultiStepEngine]) -> None:
        before = [s.clone() for s in self.optimizer.state()]
        many = kind(*self.given)
        for s, b in zip(self.optimizer.state(), before, strict=True):
            assert torch.equal(s, b), "construction and its check have undone their steps"
        assert self.optimizer.t == 1
        drawn = torch.get_rng_state()
        losses = many(self.order, 1, 2)
        found = [s.clone() for s in self.optimizer.state()]
        for s, b in zip(self.optimizer.state(), before, strict=True):
            s.copy_(b)
        self.optimizer.t = 1
        after = torch.get_rng_state()
        torch.set_rng_state(drawn)
        wanted = torch.stack([self.eager(x, t) for x, t in self.steps[1:3]])
        assert torch.equal(torch.get_rng_state(), after)
        torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=1e-14)
        for a, b in zip(found, self.optimizer.state(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", STEPS)
def test_a_captured_step_replays_as_eager_steps(name: str, replicas: int, tape: None) -> None:
    Case(name, replicas).steps_like_eager(CudaGraphEngine)


def test_a_run_of_replays_is_eagers_and_resumes_to_the_same_bit_from_anywhere(tape: None) -> None:
    split = ValidationSplit(0.2, every_n_steps=4)
    common: dict[str, Any] = {"batch_size": 4, "clip_norm": 0.5, "max_epochs": 5, "made": drop_net}
    eager, wanted = fit(split, **common)
    each = Snapshots()
    whole, summary = fit(each, split, engine="graph", **common)
    assert whole.session.engine == "graph"
    for a, b in zip(whole.session.optimizer.state(), eager.session.optimizer.state(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert summary["step"] == wanted["step"]
    rest, again = fit(split, Snapshots(), engine="graph", resume=each.snapshots[2], **common)
    assert same(rest, whole)
    assert again["mode"] == summary["mode"] == "graph"


def test_a_step_that_cannot_be_captured_runs_eagerly_on_the_parameters_it_had(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = fit(engine="graph")
    assert trainer.session.engine == "eager"
    said = capsys.readouterr().err
    assert said == "trainer.engine graph: eager, since a CUDA graph needs trainer.device=cuda (got cpu)\n"
    assert same(trainer, fit()[0])

    def broken(device: Any, step: Callable[[], None], begin: Callable[[], Any], generators: Any) -> Any:
        begin()
        step()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "captured", broken)
    trainer, _ = fit(engine="graph", made=drop_net)
    assert "graph: eager, since capturing failed, RuntimeError: operation not permitted" in capsys.readouterr().err
    assert same(trainer, fit(made=drop_net)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graphs_run_is_eagers_within_rounding_and_resumes_to_the_same_bit() -> None:
    common: dict[str, Any] = {"batch_size": 4, "clip_norm": 0.5, "max_epochs": 5, "made": drop_net, "device": "cuda"}
    eager, _ = fit(**common)
    each = Snapshots()
    whole, _ = fit(each, engine="graph", **common)
    assert whole.session.engine == "graph"
    for a, b in zip(whole.session.optimizer.state(), eager.session.optimizer.state(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert same(fit(Snapshots(), engine="graph", resume=each.snapshots[2], **common)[0], whole)


def test_capturing_leaves_the_attributes_of_net_and_optimizer_alone(tape: None) -> None:
    case = Case("Dropout", 1)
    net, optimizer = case.given[:2]
    owners: list[Any] = [optimizer, *(m for _, m in net.modules())]
    before = [dict(vars(o)) for o in owners]
    seen = 0

    def unchanged() -> None:
        nonlocal seen
        seen += 1
        for owner, values in zip(owners, before, strict=True):
            now = vars(owner)
            assert now.keys() == values.keys()
            assert all(now[k] is v for k, v in values.items() if k != "t")

    def looking(model: Any, gradient_of: Any = case.given[2]) -> Any:
        gradient = gradient_of(model)

        def look(x: Tensor, t: Tensor) -> Tensor:
            unchanged()
            value: Tensor = gradient(x, t)
            unchanged()
            return value

        return look

    CudaGraphEngine(net, optimizer, looking, *case.given[3:])
    assert seen >= 2
    unchanged()


# -- the loop around calls of many steps --------------------------------------------------------------------------------------


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "captured", Tape.captured)


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> type[Stepwise]:
    monkeypatch.setattr(engine_module, "CudaGraphEngine", Stepwise)
    Stepwise.made = 0
    return Stepwise


class Notes(Callback):
    """What a callback can see, and a snapshot wherever one could be taken."""

    def __init__(self, every: int | None) -> None:
        self.every, self.seen, self.snapshots = every, [], []  # type: ignore[var-annotated]

    def next_step(self, step: int) -> int | None:
        return None if self.every is None else step - step % self.every + self.every

    def on_train_batch_end(self, session: Session) -> None:
        if self.every and session.progress.step % self.every == 0:
            self.seen.append((session.progress.step, session.net.param()[0][0].sum().item(), session.optimizer.g.sum().item()))

    def on_step_log(self, session: Session, losses: list[float]) -> None:
        self.seen.append((session.progress.step, losses))

    def on_log(self, session: Session) -> None:
        self.seen.append((session.progress.step, dict(session.metrics)))

    def on_checkpoint(self, session: Session) -> None:
        self.snapshots.append(session.snapshot())


@settings(max_examples=40)
@given(
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2, 7, 50]),
    st.sampled_from([None, 1, 3, 4]),
    st.sampled_from([None, 2, 5]),
    st.sampled_from([None, 1, 9, 13]),
    st.sampled_from([4, 5, 23]),
)
def test_what_callbacks_see_is_the_same_whether_steps_come_one_by_one_or_many_at_once(
    replicas: int, every: int, asks: int | None, inside: int | None, most: int | None, size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "CudaGraphEngine", Stepwise)
        found = []
        for engine in ("eager", "graph"):
            notes = Notes(asks)
            split = ValidationSplit(0.2, every_n_steps=inside)
            common = {"batch_size": size, "max_steps": most, "log_every_n_steps": every, "replicas": replicas}
            trainer, summary = fit(notes, split, LRScheduler(StepLR={"step_size": 1}), engine=engine, **common)
            assert trainer.session.engine == ("eager" if most == 0 else engine)
            found.append((notes.seen, {k: v for k, v in summary.items() if k not in ("wall_s", "mode")}))
        assert found[0] == found[1]


def test_a_callback_that_does_not_say_when_it_looks_is_asked_after_each_step(stepwise: type[Stepwise]) -> None:
    class CurveRecorder(Callback):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def on_train_batch_end(self, session: Session) -> None:
            self.steps.append(session.progress.step)

    looks = CurveRecorder()
    trainer, _ = fit(looks, engine="graph")
    assert looks.steps == list(range(1, 21))
    assert set(trainer.session.step_engine.multi_step.calls) == {1}  # type: ignore[union-attr]


def test_calls_are_as_long_as_nobody_looks(stepwise: type[Stepwise], tmp_path: Any) -> None:
    trainer, _ = fit(CSVLogger(), Checkpoint(every_n_steps=7), engine="graph", run_dir=tmp_path, max_epochs=2)
    # an eager first step, then 4 whole batches of 5 an epoch with an odd one behind; saved after step 7
    assert trainer.session.step_engine.multi_step.calls == [3, 2, 2]  # type: ignore[union-attr]
    for callbacks, calls in (((), [3, 4]), ((Notes(None),), [1, 2, 1, 2, 1])):  # a log at each second step, where it is heard
        trainer, _ = fit(*callbacks, engine="graph", log_every_n_steps=2, max_epochs=2)
        assert trainer.session.step_engine.multi_step.calls == calls  # type: ignore[union-attr]
    trainer, _ = fit(LRScheduler("step", StepLR={"step_size": 1}), engine="graph", max_epochs=2)
    assert set(trainer.session.step_engine.multi_step.calls) == {1}  # type: ignore[union-attr]


def test_a_run_that_is_over_captures_nothing(stepwise: type[Stepwise]) -> None:
    for engine in ("graph", "auto"):
        fit(engine=engine, max_epochs=0)
    assert stepwise.made == 0


class Snapshots(Notes):
    def __init__(self) -> None:
        super().__init__(None)


def drop_net() -> Sequential:
    return Sequential(Linear(2, 6), Tanh(), Dropout(0.3), Residual(Linear(6, 6), ReLU(), Dropout(0.2)), Linear(6, 2))


def same(a: Trainer, b: Trainer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.session.optimizer.state(), b.session.optimizer.state(), strict=True))


@pytest.mark.parametrize(
    ("how", "words"),
    [({"clip_norm": 1.0}, "has no gradient to clip"), ({"callbacks": [GradientNorms()]}, "has no gradient buffer; remove")],
    ids=["clipping", "gradient_norms"],
)
def test_where_the_gradient_goes_straight_to_the_momentum_nobody_gets_it(how: dict[str, Any], words: str) -> None:
    n = net()
    with pytest.raises(UserError, match=words):
        Trainer(max_epochs=1, device="cpu", **how).fit(
            n, CrossEntropyLoss(), SGD(n.param(), 0.1, momentum=0.9, accumulate_into_momentum=True), points()
        )


# -- what cannot be captured ---------------------------------------------------------------------------------------------------


def test_a_captured_step_that_differs_from_eager_is_not_used(
    tape: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(engine: CudaGraphEngine, order: Tensor, first: int, count: int) -> Tensor:
        engine.optimizer.p.mul_(1.001)
        return engine.losses[:count].clone()

    monkeypatch.setattr(CudaGraphEngine, "run", wrong)
    trainer, _ = fit(engine="graph")
    assert trainer.session.engine == "eager"
    assert "differs from eager's by" in capsys.readouterr().err
    assert same(trainer, fit()[0])


def test_a_resumed_auto_goes_on_with_what_it_chose(stepwise: type[Stepwise]) -> None:
    notes = Notes(None)
    fit(notes, engine="graph")
    assert notes.snapshots[1]["environment"]["mode"] == "graph"
    assert fit(Notes(None), engine="auto", resume=notes.snapshots[1])[0].session.engine == "graph"


def test_a_run_that_is_resumed_after_its_last_step_says_how_its_steps_were_run(stepwise: type[Stepwise]) -> None:
    notes = Notes(None)
    whole = fit(notes, engine="graph")[1]
    again = fit(Notes(None), engine="graph", resume=notes.snapshots[-1])[1]  # nothing is left to capture
    assert again["mode"] == whole["mode"] == "graph"


def test_an_engine_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.engine: fast; choose auto or eager or native or graph"):
        Trainer(engine="fast")  # type: ignore[arg-type]


def test_the_engine_of_an_earlier_version_is_named_and_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"trainer.engine: compile was removed; write native"):
        Trainer(engine="compile")  # type: ignore[arg-type]
    notes = Notes(None)
    fit(notes)
    content = {**notes.snapshots[1], "environment": {**notes.snapshots[1]["environment"], "mode": "compile"}}
    assert fit(Notes(None), engine="auto", resume=content)[0].session.engine == "eager"
    assert "resumed under other conditions: engine: compile then, eager now" in capsys.readouterr().err
