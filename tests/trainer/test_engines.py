"""Steps in compiled code or replayed are eager's; their bits do not depend on where calls begin and end; no hook is missed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
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
    Module,
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
from trainkit.trainer.engines import auto, compiled, cuda_graph, multi_step
from trainkit.trainer.engines import engine as engine_module
from trainkit.trainer.engines.compiled import CompiledEngine, traced
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


# -- the step, traced and not compiled: a function of tensors ----------------------------------------------------------------


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
def test_the_traced_step_is_a_pure_function_with_the_bits_of_eager(
    name: str, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(name, replicas)

    def uncompiled(function: Any, arguments: Any, key: Any) -> Any:
        """The graph of a single step, run in a loop of Python."""
        return loop

    graphs: list[tuple[Any, list[Tensor]]] = []

    def noting(function: Any, arguments: Any) -> Any:
        graphs.append(traced(function, arguments))
        return graphs[-1]

    def loop(tensors: list[Tensor]) -> tuple[Tensor]:
        n = len(case.optimizer.state())
        state, (first, end, x, t, order, table, losses, *constants) = tensors[:n], tensors[n:]
        losses = losses.clone()
        for i in range(int(first), int(end)):
            losses[i - int(first)], *after = graphs[0][0](
                torch.tensor(i), table[i - int(first)], x, t, order, *state, *constants
            )
            for s, a in zip(state, after, strict=True):
                s.copy_(a)
        return (losses,)

    monkeypatch.setattr(compiled, "compiled", uncompiled)
    monkeypatch.setattr(compiled, "traced", noting)
    case.steps_like_eager(CompiledEngine)
    masks = [node for node in graphs[0][0].graph.nodes if node.target is torch.ops.trainkit.mask.default]
    assert [node.args[2] for node in masks] == [None, *masks][: len(masks)], "each waits for the one before"


# -- the step, captured: its kernels called again on the same tensors ---------------------------------------------------------


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


@pytest.mark.parametrize("kind", [CompiledEngine, CudaGraphEngine])
def test_an_engine_leaves_the_attributes_of_net_and_optimizer_alone(
    kind: type[MultiStepEngine], tape: None, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    class Traced(Exception):
        pass

    def stop(function: Any, arguments: Any, key: Any) -> Any:
        raise Traced

    monkeypatch.setattr(compiled, "compiled", stop)
    with pytest.raises(Traced) if kind is CompiledEngine else nullcontext():
        kind(net, optimizer, looking, *case.given[3:])
    assert seen >= 2
    unchanged()


# -- the loop around calls of many steps --------------------------------------------------------------------------------------


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "captured", Tape.captured)


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> type[Stepwise]:
    monkeypatch.setattr(compiled, "CompiledEngine", Stepwise)
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
        patch.setattr(compiled, "CompiledEngine", Stepwise)
        found = []
        for engine in ("eager", "compile"):
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
    trainer, _ = fit(looks, engine="compile")
    assert looks.steps == list(range(1, 21))
    assert set(trainer.session.step_engine.multi_step.calls) == {1}  # type: ignore[union-attr]


def test_calls_are_as_long_as_nobody_looks(stepwise: type[Stepwise], tmp_path: Any) -> None:
    trainer, _ = fit(CSVLogger(), Checkpoint(every_n_steps=7), engine="compile", run_dir=tmp_path, max_epochs=2)
    # an eager first step, then 4 whole batches of 5 an epoch with an odd one behind; saved after step 7
    assert trainer.session.step_engine.multi_step.calls == [3, 2, 2]  # type: ignore[union-attr]
    for callbacks, calls in (((), [3, 4]), ((Notes(None),), [1, 2, 1, 2, 1])):  # a log at each second step, where it is heard
        trainer, _ = fit(*callbacks, engine="compile", log_every_n_steps=2, max_epochs=2)
        assert trainer.session.step_engine.multi_step.calls == calls  # type: ignore[union-attr]
    trainer, _ = fit(LRScheduler("step", StepLR={"step_size": 1}), engine="compile", max_epochs=2)
    assert set(trainer.session.step_engine.multi_step.calls) == {1}  # type: ignore[union-attr]


def test_a_run_that_is_over_compiles_nothing(stepwise: type[Stepwise]) -> None:
    for engine in ("compile", "auto"):
        fit(engine=engine, max_epochs=0)
    assert stepwise.made == 0


# -- compiled in earnest ---------------------------------------------------------------------------------------------------


class Snapshots(Notes):
    def __init__(self) -> None:
        super().__init__(None)


def drop_net() -> Sequential:
    return Sequential(Linear(2, 6), Tanh(), Dropout(0.3), Residual(Linear(6, 6), ReLU(), Dropout(0.2)), Linear(6, 2))


def same(a: Trainer, b: Trainer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.session.optimizer.state(), b.session.optimizer.state(), strict=True))


@pytest.mark.slow
def test_a_compiled_run_is_eagers_within_rounding_and_resumes_to_the_same_bit_from_anywhere() -> None:
    split = ValidationSplit(0.2, every_n_steps=4)
    common: dict[str, Any] = {"batch_size": 4, "clip_norm": 0.5, "max_epochs": 5, "made": drop_net}  # 4 batches of 4, one of 2
    eager, _ = fit(split, **common)
    whole, summary = fit(split, engine="compile", **common)
    assert whole.session.engine == "compile"
    assert all(
        torch.equal(a.get_state(), b.get_state())
        for a, b in zip(whole.session.generators, eager.session.generators, strict=True)
    )
    for a, b in zip(whole.session.optimizer.state(), eager.session.optimizer.state(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    each = Snapshots()  # called after each epoch and validation
    asked = fit(each, Jump(), split, engine="compile", **common)[0]
    assert same(asked, whole), "calls of one step give the bits of calls of many"
    for content in (each.snapshots[2], each.snapshots[len(each.snapshots) // 2]):
        rest, again = fit(split, Snapshots(), Jump(off=True), engine="compile", resume=content, **common)
        assert same(rest, whole)
        assert {k: v for k, v in again.items() if k != "wall_s"} == {k: v for k, v in summary.items() if k != "wall_s"}


class Jump(Callback):
    """Looks after each step, or never."""

    def __init__(self, off: bool = False) -> None:
        self.off = off

    def next_step(self, step: int) -> int | None:
        return None if self.off else step + 1

    def on_train_batch_end(self, session: Session) -> None:
        pass


def test_compiled_replicas_with_numbers_of_their_own_compile_once_and_are_eagers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = compiled.compiled
    monkeypatch.setattr(compiled, "compiled", lambda *a: made.append(1) or real(*a))
    found = []
    for engine in ("eager", "compile"):
        t = Trainer(max_epochs=6, batch_size=5, device="cpu", replicas=3, engine=engine, callbacks=[Schedule()])
        n = net().replicate(t.replica_seeds())
        t.fit(n, CrossEntropyLoss(), Adam(n.param(), lr=[0.01, 0.02, 0.03], weight_decay=[0.0, 0.1, 0.2]), points(25))
        found.append(t)
    assert found[1].session.engine == "compile"
    for a, b in zip(found[1].session.optimizer.state(), found[0].session.optimizer.state(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert made == [1], "one graph, whatever the rates, the counts, and the replicas that have stopped"


class Schedule(Callback):
    """Moves the rates and the betas, and stops a replica."""

    def next_step(self, step: int) -> int | None:
        return step - step % 4 + 4

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step % 4 == 0:
            session.set_lr([0.9 * r for r in session.lr])
            session.optimizer.betas = (0.8, 0.99)  # type: ignore[attr-defined]
        if session.progress.step == 12:
            session.set_active([True, False, True])


COMPILED_FIT = """
import json
import sys
import torch
from trainkit.trainer.engines import compiled
from trainkit import SGD, CrossEntropyLoss, Dropout, Linear, Sequential, Trainer, disk

built = []
build = compiled.build_library
compiled.build_library = lambda *a: built.append(1) or build(*a)
net = Sequential(Linear(2, 6), Dropout(0.3), Linear(6, 2)).initialize(torch.Generator().manual_seed(0))
t = Trainer(batch_size=5, max_epochs=2, device="cpu", engine="compile", callbacks=(), threads=1)
summary = t.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1, momentum=0.9), disk(train=23, test=5))
print(json.dumps([t.session.engine, summary["params_sha256"], len(built), "torch._inductor.compile_fx" in sys.modules]))
"""


@pytest.mark.slow
def test_a_second_process_finds_the_net_compiled_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", COMPILED_FIT],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append(json.loads(process.stdout))
    (*first, built, imported), (*again, built_again, imported_again) = seen
    assert first[0] == "compile"
    assert again == first, "the same engine and bits"
    assert (built, imported) == (1, True)
    assert (built_again, imported_again) == (0, False), "the second process does not even import the compiler"


def test_nets_that_differ_only_inside_the_loop_have_libraries_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def missing(key: object, build: object) -> Path:
        keys.append(key)
        raise RuntimeError("not built here")

    monkeypatch.setattr(compiled, "library", missing)
    for middle in (Tanh, ReLU, Tanh):
        fit(made=lambda middle=middle: Sequential(Linear(2, 6), middle(), Linear(6, 2)), engine="compile")
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("what", ["processor", "ATEN_CPU_CAPABILITY", "CXX", "torch", "threads", "step", "shape"])
def test_code_compiled_for_another_step_processor_or_torch_has_another_key(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATEN_CPU_CAPABILITY", "CXX"):
        monkeypatch.delenv(name, raising=False)

    def key(scale: float = 2.0, size: int = 3) -> str:
        x = torch.ones(size)
        step, constants = traced(lambda x: (x * scale,), (x,))
        return repr(compiled.library_key(step, [x, *constants]))

    before = key()
    assert before == key()
    if what == "processor":
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": "of another processor"}, raising=False)
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "0.0")
    elif what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    elif what not in ("step", "shape"):
        monkeypatch.setenv(what, "default")
    assert key(3.0 if what == "step" else 2.0, 4 if what == "shape" else 3) != before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler is loaded here for its settings
def test_compiling_leaves_torchs_settings_and_the_garbage_collector_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import compile_fx, config

    inside = []

    def settings() -> tuple[Any, ...]:
        now = config.get_config_copy()
        return [now[n] for n in ("cpp.vec_isa_ok", "cpp_cache_precompile_headers")], gc.isenabled()

    def failing(graph: Any, arguments: Any, config_patches: Any) -> Any:
        with config.patch(config_patches):
            inside.append(settings())
        raise RuntimeError("no room")

    monkeypatch.setattr(compile_fx, "compile_fx_aot", failing)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = settings()
    assert fit(engine="compile")[0].session.engine == "eager"
    assert settings() == before
    ((options, collects),) = inside
    assert options == [True, False]
    assert not collects
    with config.patch("cpp.vec_isa_ok", False):  # as by TORCHINDUCTOR_VEC_ISA_OK=0
        fit(engine="compile")
    assert inside[1][0][0] is False


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


# -- what cannot be compiled ---------------------------------------------------------------------------------------------------


class CurveRecorder(Module):
    """A module that looks at its numbers."""

    def fwd(self, x: Tensor) -> tuple[Tensor, bool]:
        positive = bool(x.sum() > 0)
        return (x if positive else -x), positive

    def bwd(self, positive: bool, dy: Tensor) -> Tensor:
        return dy if positive else -dy


class Hidden(Module):
    """A parameter in a list."""

    def __init__(self) -> None:
        self.ws = [self.parameter("weight", (2,))]
        self.ws[0][0].fill_(1.0)

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.ws[0][0], x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        self.ws[0][1].add_((dy * x).sum(0))
        return dy * self.ws[0][0]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: Sequential(Linear(2, 4), CurveRecorder(), Linear(4, 2)), "eager, since compiling failed, "),
        (lambda: Sequential(Hidden(), Linear(2, 2)), "eager, since 0.weight is not an attribute of its module; write self.w, "),
    ],
    ids=["a look at the numbers", "a hidden parameter"],
)
def test_what_cannot_be_compiled_runs_eagerly_and_says_why(
    made: Callable[[], Sequential], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _ = fit(made=made)
    trainer, _ = fit(made=made, engine="compile")
    assert trainer.session.engine == "eager"
    assert f"trainer.engine compile: {why}" in capsys.readouterr().err
    assert same(trainer, plain)


def test_a_compiled_step_that_differs_from_eager_is_not_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(function: Any, arguments: Any, key: Any) -> Any:
        def run(tensors: list[Tensor]) -> tuple[Tensor]:
            tensors[0].mul_(1.001)
            losses = next(t for t in tensors if t.shape == (multi_step.MAX_STEPS,))
            return (losses.clone(),)

        return run

    monkeypatch.setattr(compiled, "compiled", wrong)
    trainer, _ = fit(engine="compile")
    assert trainer.session.engine == "eager"
    assert "differs from eager's by" in capsys.readouterr().err
    assert same(trainer, fit()[0])


def test_a_missing_compiler_is_one_line_and_eager(capsys: pytest.CaptureFixture[str]) -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        trainer, _ = fit(engine="compile", max_epochs=1)
    assert trainer.session.engine == "eager"
    said = capsys.readouterr().err
    assert said == "trainer.engine compile: eager, since no C++ compiler was found (install g++, or set CXX)\n"


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> list[float]:
    """A clock by which the first call that is timed takes the first number of seconds, and so on; the numbers not yet used."""
    left = list(seconds)

    def clock(call: Callable[[], Any]) -> float:
        call()
        return left.pop(0)

    monkeypatch.setattr(auto, "seconds", clock)
    return left


STEPS_LEFT = 20  # of `fit`: 4 epochs of 5 batches


@pytest.mark.parametrize(
    ("whole", "half", "choice"),
    [
        (0.99, None, "eager; compiling takes about 10 s and would save 9.9 s"),
        (1.01, 1.01, "compile; it takes about 10 s and saves about 10 s"),  # half a batch takes as long: all is dispatch
        (5.0, 4.0, "compile; it takes about 10 s and saves about 30 s"),  # 5 = 3 + 2
        (5.0, 3.6, "eager; compiling takes about 10 s and would save 0.0 s"),  # 2.2 of 5: products and the like dominate
        (5.0, 2.5, "eager; compiling takes about 10 s and would save 0.0 s"),  # half as long: all is arithmetic
        (5.0, 2.0, "eager; compiling takes about 10 s and would save 0.0 s"),  # a clock disturbed by other programs
        (5.0, 9.0, "compile; it takes about 10 s and saves about 50 s"),  # never more than the steps take
    ],
)
def test_auto_compiles_where_the_dispatch_of_the_steps_left_takes_longer_than_compiling(
    whole: float,
    half: float | None,
    choice: str,
    stepwise: type[Stepwise],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = 0.5
    monkeypatch.setattr(auto, "SAVED", share)
    monkeypatch.setattr(auto, "COMPILE", 10.0)
    unused = timed(monkeypatch, whole, *([] if half is None else [half]))
    trainer, _ = fit(engine="auto")
    assert not unused, "half a batch is timed only where the whole one leaves the choice open"
    assert capsys.readouterr().err.startswith(f"trainer.engine auto: {choice} in {STEPS_LEFT} steps")
    assert trainer.session.engine == choice[: choice.index(";")]
    assert same(trainer, fit()[0]), "the steps that were timed are undone"


def test_auto_times_half_a_batch_of_each_replica_and_no_less_than_two_samples(
    stepwise: type[Stepwise], monkeypatch: pytest.MonkeyPatch
) -> None:
    for how, shapes in (
        ({"batch_size": 5}, [(5, 2), (2, 2)]),
        ({"batch_size": 3}, [(3, 2)]),
        ({"batch_size": 3, "accumulate": 2}, [(6, 2), (3, 2)]),
        ({"batch_size": 5, "replicas": 3}, [(3, 5, 2), (3, 2, 2)]),
    ):
        seen: list[tuple[int, ...]] = []
        real = engine_module.training_step

        def noting(*args: Any, real: Any = real, seen: list[tuple[int, ...]] = seen) -> Any:
            step = real(*args)
            return lambda x, t: (seen.append(tuple(x.shape)), step(x, t))[1]

        monkeypatch.setattr(engine_module, "training_step", noting)
        unused = timed(monkeypatch, 1e3, 1e3)
        assert fit(engine="auto", **how)[0].session.engine == "compile"
        assert len(unused) == 2 - len(shapes)
        monkeypatch.setattr(engine_module, "training_step", real)
        assert seen[: len(shapes)] == shapes


def test_a_resumed_auto_goes_on_with_what_it_chose(stepwise: type[Stepwise]) -> None:
    notes = Notes(None)
    fit(notes, engine="compile")
    assert notes.snapshots[1]["environment"]["mode"] == "compile"
    assert fit(Notes(None), engine="auto", resume=notes.snapshots[1])[0].session.engine == "compile"


def test_a_run_that_is_resumed_after_its_last_step_says_how_its_steps_were_run(stepwise: type[Stepwise]) -> None:
    notes = Notes(None)
    whole = fit(notes, engine="compile")[1]
    again = fit(Notes(None), engine="compile", resume=notes.snapshots[-1])[1]  # nothing is left to compile for
    assert again["mode"] == whole["mode"] == "compile"


def test_an_engine_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.engine: fast; choose eager or compile or graph or native or auto"):
        Trainer(engine="fast")  # type: ignore[arg-type]
