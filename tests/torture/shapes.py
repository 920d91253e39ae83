"""Runs of any shape, resumed, rolled back, streamed and with engine auto, compared bit by bit with the uninterrupted run.

The size of a batch is seldom a multiple of 64 bytes here. On some processors the rounding of a matrix product depends on the
addresses of its operands, so the bits alone would show an error on some machines only. `Products` therefore compares the
strides and offsets of the operands too: equal products of equal operands at equal offsets have equal bits on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainkit import (
    GELU,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    BCEWithLogitsLoss,
    Callback,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    Flatten,
    Linear,
    MSELoss,
    ReLU,
    RMSprop,
    Sequential,
    SignSGD,
    Tanh,
    TerminateOnNaN,
    Trainer,
    ValidationSplit,
    npy,
    tensors,
)
from trainkit.checkpoint.plain import to_plain
from trainkit.core.diff import differences
from trainkit.core.rng import seed_globals
from trainkit.data.loader import ALIGN
from trainkit.nn.losses import Loss
from trainkit.optim.flat_buffer import unflatten
from trainkit.trainer.engines import auto as choice
from trainkit.trainer.session import Session

from .tally import Tally

Content = dict[str, Any]

OPTIMIZERS: list[Callable[[Any], Any]] = [
    lambda p: SGD(p, 0.05),
    lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True),
    lambda p: SGD(p, 0.02, momentum=0.5, accumulate_into_momentum=True),
    lambda p: SignSGD(p, 0.002, momentum=0.5),
    lambda p: Adam(p, 0.01),
    lambda p: AdamW(p, 0.01, weight_decay=0.1),
    lambda p: RMSprop(p, 0.005),
    lambda p: Adagrad(p, 0.05),
]
LOSSES: dict[str, list[Callable[[int], Loss]]] = {  # by the kind of target, as functions of the number of outputs
    "index": [
        lambda k: CrossEntropyLoss(),
        lambda k: CrossEntropyLoss("sum"),
        lambda k: CrossEntropyLoss(weight=[float(i) for i in range(k)]),
        lambda k: CrossEntropyLoss(label_smoothing=0.1),
        lambda k: CrossEntropyLoss(ignore_index=0),
    ],
    "real": [lambda k: MSELoss(), lambda k: MSELoss("sum")],
    "binary": [lambda k: BCEWithLogitsLoss()],
}


@dataclass(frozen=True)
class Case:
    """A run: data, net and settings. `loss` and `optimizer` are indices into the lists above."""

    shape: tuple[int, ...]  # of a sample
    samples: int
    hidden: int
    outputs: int
    activation: int
    dropout: float
    targets: Literal["index", "real", "binary"]
    loss: int
    optimizer: int
    batch: int | None
    accumulate: int
    replicas: int
    dtype: Literal["float32", "float64"]
    stream: bool
    threads: int
    clip: float | None
    every: int | None  # steps between validations inside an epoch
    seed: int
    engine: Literal["eager", "native", "auto"] = "eager"
    stops: tuple[int, ...] = field(default=())  # steps

    @property
    def steps_per_epoch(self) -> int:
        train = self.samples - round(0.2 * self.samples)
        return 1 if self.batch is None else -(-train // (self.batch * self.accumulate))

    @property
    def epochs(self) -> int:
        return 2 if self.steps_per_epoch > 1 else 4

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


def drawn(draw: random.Random, native: bool = False) -> Case:
    """Return a random case. `draw` may be that of hypothesis, which then shrinks a failing case."""
    batch = draw.choice([None, *[draw.randint(1, 100)] * 9])
    targets = draw.choice(["index", "index", "real", "binary"])
    optimizer = draw.randrange(len(OPTIMIZERS))
    no_gradient = optimizer == 3  # accumulate_into_momentum: no gradient to clip, and no native steps
    if native and no_gradient:
        optimizer, no_gradient = 1, False
    accumulate = 1 if batch is None else draw.choice([1, 1, 1, 2, 3, 4, 5])
    case = Case(
        shape=draw.choice([(draw.randint(2, 40),)] * 3 + [(draw.randint(2, 9), draw.randint(2, 9))]),
        samples=draw.randint(12, 240),
        hidden=draw.randint(1, 33),
        outputs={"index": draw.randint(2, 6), "real": draw.randint(1, 4), "binary": 1}[targets],
        activation=draw.randrange(3),
        dropout=draw.choice([0.0, 0.0, 0.3]),
        targets=targets,
        loss=draw.randrange(len(LOSSES[targets])),
        optimizer=optimizer,
        batch=batch,
        accumulate=accumulate,
        replicas=draw.choice([1, 1, 1, 2, 3, 4]),
        dtype=draw.choice(["float32", "float32", "float64"]),
        stream=draw.choice([False, True]) and not native,
        threads=draw.choice([1, 1, 2]),
        clip=None if no_gradient else draw.choice([None, None, 0.1]),
        every=draw.choice([None, None, 3]),
        seed=draw.randrange(1000),
        engine="native" if native else "eager",
    )
    return replace(case, stops=tuple(sorted(draw.sample(range(1, case.steps), 2))))


class Keep(Callback):
    """Keeps snapshots after the given steps, as a checkpoint holds them."""

    handles_nonfinite = True  # it may keep non-finite values

    def __init__(self, steps: Sequence[int] = ()) -> None:
        self.steps, self.kept = steps, dict[int, Content]()

    def on_train_start(self, session: Session) -> None:
        if 0 in self.steps:
            self.kept[0] = to_plain(session.snapshot())

    def on_checkpoint(self, session: Session) -> None:
        if session.progress.step in self.steps and session.progress.batch:
            self.kept[session.progress.step] = to_plain(session.snapshot())

    def next_step(self, step: int) -> int | None:
        return min((s for s in self.steps if s > step), default=None)


class Products(TorchDispatchMode, Callback):
    """Records the operands of each matrix product of a run, by the step before it: shape, strides, offset modulo ALIGN."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[Any]] = {}
        self.step: int | None = None

    def on_train_start(self, session: Session) -> None:
        self.step = session.progress.step

    def on_checkpoint(self, session: Session) -> None:
        self.step = session.progress.step

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if self.step is not None and any(product in name for product in ("mm", "mv", "dot")):
            operands = [(name, v.shape, v.stride(), v.data_ptr() % ALIGN) for v in args if isinstance(v, torch.Tensor)]
            self.seen.setdefault(self.step, []).append(operands)
        return function(*args, **(kwargs or {}))

    def differs(self, other: Products) -> str | None:
        """Return the first step at which `other`, which began later, has other products."""
        wrong = [step for step, seen in other.seen.items() if seen != self.seen.get(step)]
        return f"other operands after step {min(wrong)}" if wrong else None


def data_of(case: Case, folder: Path, poisoned: int | None = None) -> Dataset:
    """Return the case's data, in memory or streamed. The sample with index `poisoned` is infinite."""
    make = np.random.default_rng(case.seed)
    x = make.standard_normal((case.samples, *case.shape)).astype(case.dtype)
    first = x.reshape(len(x), -1)[:, 0]
    t: Any = (np.abs(first) * case.outputs).astype("i8") % case.outputs
    if case.targets == "real":
        t = make.standard_normal((case.samples, case.outputs)).astype(case.dtype)
    elif case.targets == "binary":
        t = (first > 0).astype(case.dtype)[:, None]
    if poisoned is not None:
        x.reshape(len(x), -1)[poisoned] = np.inf
    if not case.stream:
        memory = torch.empty(x.size + 1, dtype=getattr(torch, case.dtype))[1:].view(x.shape)  # as badly aligned as possible
        return tensors(memory.copy_(torch.from_numpy(x)), torch.from_numpy(t))
    np.save(folder / "x.npy", x)
    np.save(folder / "t.npy", t)
    return npy(str(folder / "x.npy"), str(folder / "t.npy"))


def run(
    case: Case, data: Dataset, *callbacks: Callback, resume: Content | None = None, **changed: Any
) -> tuple[Trainer, Content]:
    """Train the case; return the trainer and its last state."""
    seed_globals(case.seed)
    features = int(np.prod(case.shape))
    layers = [Linear(features, case.hidden), (ReLU, Tanh, GELU)[case.activation](), Linear(case.hidden, case.outputs)]
    if case.dropout:
        layers.insert(2, Dropout(case.dropout))
    net = Sequential(Flatten(), *layers).initialize(torch.Generator().manual_seed(case.seed))
    settings = {
        "max_epochs": case.epochs,
        "batch_size": case.batch,
        "accumulate": case.accumulate,
        "replicas": case.replicas,
        "dtype": case.dtype,
        "threads": case.threads,
        "clip_norm": case.clip,
        "seed": case.seed,
        "engine": case.engine,
        "device": "cpu",
    }
    split = ValidationSplit(0.2, every_n_steps=case.every)
    trainer = Trainer(**{**settings, **changed}, callbacks=[split, *callbacks])
    trainer.fit(
        net, LOSSES[case.targets][case.loss](case.outputs), OPTIMIZERS[case.optimizer](net.param()), data, resume=resume
    )
    return trainer, to_plain(trainer.session.snapshot())


def differs(a: Content, b: Content, ignored: Sequence[str] = ("config", "environment", "callbacks")) -> str | None:
    """Return the first difference between two states, or None. Configuration and callbacks may differ."""
    found = differences({k: v for k, v in a.items() if k not in ignored}, {k: v for k, v in b.items() if k not in ignored})
    return f"{found[0].place}: {found[0].words}" if found else None


def resumed(case: Case, folder: Path) -> Iterator[str | None]:
    """Yield for each stop what differs between the run resumed there and the uninterrupted one."""
    data = data_of(case, folder)
    products = Products()
    whole = watched(case, data, products)
    keep = Keep(case.stops)
    _, interrupted = run(case, data, keep)
    difference = differs(whole, interrupted)
    for step in case.stops:
        if difference is not None:
            yield f"with snapshots after {case.stops}, {difference}; {case}"
        elif step in keep.kept:
            again = Products()
            found = differs(whole, watched(case, data, again, keep.kept[step])) or products.differs(again)
            yield None if found is None else f"resumed at step {step}, {found}; {case}"


def watched(case: Case, data: Dataset, products: Products, resume: Content | None = None) -> Content:
    """Return the last state of the case's run. Eager runs record their products."""
    if case.engine != "eager":
        return run(case, data, resume=resume)[1]
    with products:
        return run(case, data, products, resume=resume)[1]


def rolled_back(case: Case, folder: Path, draw: random.Random) -> str | None:
    """Return what differs between the state that `terminate_on_nan` restores and the last finite one of the run without it."""
    held = set(ValidationSplit(0.2).indices(case.samples).tolist())
    data = data_of(case, folder, draw.choice([i for i in range(case.samples) if i not in held]))
    trainer, before = run(case, data, TerminateOnNaN(), log_every_n_steps=draw.randint(2, 9))
    keep = Keep(range(case.steps + 1))
    run(case, data, keep)
    ended = [
        r for r, active in enumerate(trainer.session.progress.active) if not active or trainer.summary["stop_reason"] == "nan"
    ]
    finite = {r: [s for s in (of_replica(c, r, case) for c in keep.kept.values()) if s.isfinite().all()] for r in ended}
    n = sum(p.numel() for p in before["model"].values()) // case.replicas  # a stopped replica's slots still change
    first = min(
        map(len, finite.values()), default=0
    )  # the later ones continue with other learning rates, which changes the rounding
    if not first:
        return f"no replica stopped, or one has no finite state; {case}"
    for r, states in finite.items():
        if len(states) == first and not torch.equal(of_replica(before, r, case)[:n], states[-1][:n]):
            return f"replica {r} has other parameters after the rollback; {case}"
    return None


def of_replica(content: Content, r: int, case: Case) -> torch.Tensor:
    """Return the parameters and slots of replica r as one vector."""
    model = list(content["model"].values())
    slots = [v for slot in content["optimizer"].values() if isinstance(slot, torch.Tensor) for v in unflatten(slot, model)]
    return torch.cat([(v[r] if case.replicas > 1 else v).reshape(-1) for v in (*model, *slots)])


def streamed(case: Case, folder: Path) -> str | None:
    """Return what differs between the run from a file and the run from memory, metrics included."""
    products = Products(), Products()
    cases = [replace(case, stream=stream) for stream in (False, True)]
    states = [watched(c, data_of(c, folder), p) for c, p in zip(cases, products, strict=True)]
    apart = differs(*states) or products[0].differs(products[1])
    return None if apart is None else f"{apart}; {case}"


def chosen(case: Case, folder: Path) -> str | None:
    """Return what differs between the run with engine auto and that with the engine it chose."""
    data = data_of(case, folder)
    with patch.multiple(choice, FEWEST=1, LOAD=0.0, COMPILE=0.0):  # else so short a run would be eager without a trial
        trainer, auto = run(case, data, engine="auto")
    difference = differs(auto, run(case, data, engine=trainer.session.engine)[1])
    return None if difference is None else f"{difference}; {case}"


EXPECTED = "no bit of the last state differs: parameters, slots, counters, random states, metrics"


def shapes(folder: Path, eager: int, native: int, seed: int = 0) -> list[Tally]:
    """Run `eager` random eager cases and `native` native ones."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    uninterrupted = f"equal to the uninterrupted run: {EXPECTED}"
    stopped = Tally(f"{eager} random runs, eager, stopped at two steps each and resumed", uninterrupted)
    fast = Tally(f"{native} random runs, native, stopped at two steps each and resumed", uninterrupted)
    back = Tally(
        "the same runs with an infinite input, rolled back by terminate_on_nan", "equal to the last finite state of such a run"
    )
    held = Tally("the same runs from a file and from memory", f"equal to each other: {EXPECTED}")
    auto = Tally("the native runs with engine auto", f"equal to the engine it chose: {EXPECTED}")
    for _ in range(eager):
        case = drawn(draw)
        for difference in resumed(case, folder):
            stopped.count(difference)
        back.count(rolled_back(case, folder, draw))
        held.count(streamed(case, folder))
    for _ in range(native):
        case = drawn(draw, native=True)
        for difference in resumed(case, folder):
            fast.count(difference)
        auto.count(chosen(case, folder))
    return [stopped, fast, back, held, auto]
