"""Map-style datasets: the bits of data in memory with any number of workers, seeded samples, and errors that name a sample."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainkit import (
    SGD,
    Callback,
    CrossEntropyLoss,
    Dataset,
    Flatten,
    Linear,
    MSELoss,
    Sequential,
    Trainer,
    UserError,
    ValidationSplit,
    samples,
    tensors,
)
from trainkit.core.counters import EpochDraws
from trainkit.core.rng import stream
from trainkit.data import map_style
from trainkit.data.loader import batches
from trainkit.data.map_style import Reader, Samples, sample_tensor
from trainkit.data.mapped import MappedRows
from trainkit.trainer.session import Session

N, SHAPE = 43, (2, 3)
G = torch.Generator().manual_seed(0)
X, LABEL = torch.randn(N, *SHAPE, generator=G), torch.arange(N) % 3
WORKERS = [0, 1, 2, 4]


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    assert [p for p in multiprocessing.active_children() if p.name.startswith("trainkit-worker")] == []


class Fixed:
    """The same samples each time."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return X[i], int(LABEL[i])


class Random(Fixed):
    """Draws from the three global generators."""

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        return X[i] + torch.tensor([drawn, drawn]), int(LABEL[i])


class At(Fixed):
    """Does something at one sample."""

    def __init__(self, at: int, act: Any) -> None:
        self.at, self.act = at, act

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return (self.act(i) if i == self.at else X[i]), int(LABEL[i])


class Stop(Callback):
    """Ends the run after a step, or calls a function there."""

    def __init__(self, step: int, act: Any = None) -> None:
        self.step, self.act = step, act

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            session.stop("here", "enough", force=True)
            if self.act is not None:
                self.act()


def fitted(data: Any, resume: Any = None, stop: Any = None, **settings: Any) -> tuple[torch.Tensor, Trainer]:
    torch.manual_seed(0)
    net = Sequential(Flatten(), Linear(6, 3))
    settings = {"max_epochs": 3, "batch_size": 4, "device": "cpu", **settings}
    trainer = Trainer(callbacks=[ValidationSplit(0.2), stop or Stop(0)], **settings)
    loss = MSELoss() if data.train.t.is_floating_point() else CrossEntropyLoss()
    trainer.fit(net, loss, SGD(net.param(), lr=0.1), data, resume=resume)
    return net.param()[0][0].clone(), trainer


# -- the same bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("normalize", ["none", "feature"])
def test_samples_that_do_not_change_train_to_the_bits_of_tensors(workers: int, normalize: Any) -> None:
    expected, kept = fitted(tensors(X, LABEL, test=(X[:9], LABEL[:9]), normalize=normalize))
    read = samples(
        Fixed(), test=[(x, int(t)) for x, t in zip(X[:9], LABEL[:9], strict=True)], normalize=normalize, workers=workers
    )
    found, streamed = fitted(read)
    assert torch.equal(found, expected)
    assert streamed.history == kept.history
    assert streamed.test() == kept.test()
    assert streamed.fitted().fingerprints == kept.fitted().fingerprints


def test_a_run_resumed_inside_an_epoch_is_exact_with_any_number_of_workers() -> None:
    whole, trainer = fitted(samples(Random()).augmented({"noise": 0.1}))
    for workers, later in zip(WORKERS, reversed(WORKERS), strict=True):
        _, stopped = fitted(samples(Random(), workers=workers).augmented({"noise": 0.1}), stop=Stop(12))
        content = stopped.fitted().snapshot()
        assert content["state"]["batch"] == 3
        resumed, again = fitted(samples(Random(), workers=later).augmented({"noise": 0.1}), resume=content)
        assert torch.equal(resumed, whole)
        assert again.history[-1] == trainer.history[-1]


def test_replicas_read_the_samples_of_single_runs() -> None:
    def epoch(**settings: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        session = fitted(samples(Random(), workers=2), max_steps=0, **settings)[1].fitted()
        return list(session.batches(1, first=3))

    together = epoch(replicas=2, seed=7)
    for r in range(2):
        for (x, t), (own_x, own_t) in zip(together, epoch(seed=7 + r), strict=True):
            assert torch.equal(x[r], own_x)
            assert torch.equal(t[r], own_t)


def test_random_numbers_are_a_function_of_seed_epoch_and_index() -> None:
    data = samples(Random())
    order = torch.tensor([5, 3, 17])
    x = {e: next(batches(data.train, order, 3, 0, EpochDraws((9,), e)))[0] for e in (0, 1)}
    base = stream(9, "sample", 0)
    for row, i in zip(x[0], order.tolist(), strict=True):
        map_style.seed_generators(int(EpochDraws((9,), 0).of(torch.tensor([i]), None, "sample").streams))
        assert torch.equal(row, Random()[i][0])
    assert base != stream(9, "sample", 1)
    extra = torch.stack([(x[e] - X[order])[:, 0] for e in (0, 1)]).flatten()
    assert len(set(extra.tolist())) == 18  # no number is drawn twice
    read = data.train.x[order]
    assert torch.equal(read, data.train.x[order])
    assert not torch.equal(read, x[0])


def test_reading_in_this_process_leaves_the_generators_as_they_were() -> None:
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    samples(Random()).train.x[:5]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("kind", ["pair", "arrays", "TensorDataset", "DataLoader"])
def test_a_transform_acts_on_samples_that_are_in_memory(kind: str) -> None:
    x, t = torch.arange(24.0).view(8, 3), torch.arange(8) % 2
    both = torch.utils.data.TensorDataset(x, t)
    given = {"pair": (x, t), "arrays": (x.numpy(), t.numpy()), "TensorDataset": both}
    shapes: list[tuple[int, ...]] = []

    def negative(v: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(v.shape))
        return -v

    train = given[kind] if kind in given else torch.utils.data.DataLoader(both, shuffle=True)
    data = samples(train, test=(x, t), transform=negative)
    assert data.test is not None
    assert torch.equal(data.test.x[:], x)
    trainer = Trainer(max_epochs=2, batch_size=3, device="cpu")
    net = Sequential(Linear(3, 2))
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data)
    assert shapes[-16:] == [(3,)] * 16, "once for each sample in each epoch"
    session = trainer.fitted()
    batches = list(session.batches(5))
    order = session.order(5)
    assert torch.equal(torch.cat([v for v, _ in batches]), -x[order])
    assert torch.equal(torch.cat([v for _, v in batches]), t[order])


def test_a_transform_acts_in_training_steps_only() -> None:
    data = samples(Fixed(), transform=lambda x: x + torch.rand(()), workers=1)
    assert torch.equal(data.train.x[:], X)
    ((x, _),) = batches(data.train, torch.arange(N), N, 0, EpochDraws((0,), 0))
    added = (x - X).flatten(1)
    assert added.std(1).max() < 1e-6
    assert len(added[:, 0].unique()) == N
    fitted(data)


def test_targets_that_change_with_the_input_are_those_of_the_step() -> None:
    class Both(Fixed):
        def __getitem__(self, i: int) -> tuple[Any, Any]:
            u = torch.rand(3)
            return torch.stack([u, u]), u

    data = samples(Both(), workers=1)
    ((x, t),) = batches(data.train, torch.arange(N), N, 0, EpochDraws((0,), 0))
    assert torch.equal(x[:, 0], t)
    assert torch.equal(data.train.x[:][:, 0], data.train.t)
    fitted(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_validation_inside_an_epoch_does_not_disturb_its_batches(workers: int) -> None:
    def run(data: Dataset) -> Any:
        torch.manual_seed(0)
        net = Sequential(Flatten(), Linear(6, 3))
        trainer = Trainer(max_epochs=2, batch_size=4, device="cpu", callbacks=[ValidationSplit(0.2, every_n_steps=2)])
        trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data)
        return trainer.history

    assert run(samples(Fixed(), workers=workers)) == run(tensors(X, LABEL))


# -- what a sample may be --------------------------------------------------------------------------------------------------


def rows(*values: Any, **options: Any) -> Dataset:
    return samples(list(values), **options)


def test_the_meaning_of_targets_is_that_of_tensors() -> None:
    data = rows(([1.0, 2.0], 1), (np.array([3.0, 4.0]), 0), classes=["a", "b"])
    assert (data.classes, data.train.t.tolist(), data.train.x[:].tolist()) == (("a", "b"), [1, 0], [[1, 2], [3, 4]])
    real = rows((torch.zeros(2), 0.5), (torch.zeros(2), 1.5))
    assert (real.classes, real.train.t.tolist()) == (None, [[0.5], [1.5]])
    hot = rows(([1.0], 1), ([2.0], 0), targets="onehot", off_value=-1.0)
    assert hot.train.t.tolist() == [[-1, 1], [1, -1]]
    assert hot.train.label is not None
    assert hot.train.label.tolist() == [1, 0]
    ((_, t),) = batches(hot.train, torch.tensor([1, 0]), 2, 0, EpochDraws((0,), 0))
    assert t.tolist() == [[1, -1], [-1, 1]]
    binary = rows(([1.0], 1), ([2.0], 0), targets="binary")
    assert (binary.threshold, binary.train.t.tolist()) == (0.5, [[1], [0]])


def test_mappings_have_keys_and_datasets_may_name_their_classes() -> None:
    data = rows({"a": 1, "b": [2.0, 3.0], "y": 1}, {"a": 4, "b": [5.0, 6.0], "y": 0}, x=["a", "b"], t="y")
    assert data.train.x[:].tolist() == [[1, 2, 3], [4, 5, 6]]
    named = Fixed()
    named.classes = ["cat", "dog", "owl"]  # type: ignore[attr-defined]
    assert samples(named).classes == ("cat", "dog", "owl")


def test_an_image_becomes_numbers_from_0_to_1_with_channels_first() -> None:
    image = pytest.importorskip("PIL.Image")
    color = np.arange(24, dtype="u1").reshape(2, 4, 3)
    assert torch.equal(sample_tensor(image.fromarray(color)), torch.from_numpy(color).permute(2, 0, 1) / 255)
    assert torch.equal(sample_tensor(image.fromarray(color[..., 0])), torch.from_numpy(color[None, ..., 0].copy()) / 255)
    deep = np.array([[0, 65535]], dtype="u2")
    assert sample_tensor(image.fromarray(deep)).tolist() == [[[0.0, 1.0]]]


# -- what goes wrong -------------------------------------------------------------------------------------------------------


def fail(i: int) -> Any:
    raise ValueError("no such row")


BAD: dict[str, tuple[Any, str]] = {
    "raises": (fail, "data: sample 30 of At raised ValueError: no such row; correct it"),
    "shape": (
        lambda i: X[i][:1],
        r"data: sample 30 of At: x is \(1, 3\), that of sample \d+ is \(2, 3\); give all samples one",
    ),
    "nan": (lambda i: X[i] * float("nan"), r"data: sample 30 of At: x has nan at \(0, 0\); correct it"),
    "text": (lambda i: "a picture", "data: sample 30 of At: is a str, needs numbers"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("act", "says"), BAD.values(), ids=BAD.keys())
def test_a_sample_that_cannot_be_used_is_named(act: Any, says: str, workers: int) -> None:
    with pytest.raises(UserError, match=says):
        samples(At(30, act), workers=workers)


def test_an_error_in_a_later_epoch_ends_the_fit_and_its_processes() -> None:
    class Later(Fixed):
        def __getitem__(self, i: int) -> tuple[Any, Any]:
            if i == 7 and Path("now").exists():
                fail(i)
            return super().__getitem__(i)

    data = samples(Later(), workers=2)
    folder = Path.cwd()
    try:
        with pytest.raises(UserError, match="sample 7 of Later raised ValueError"):
            fitted(data, stop=Touch(folder / "now"))
    finally:
        (folder / "now").unlink(missing_ok=True)


class Touch(Callback):
    """Makes a file in the second epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_start(self, session: Session) -> None:
        if session.progress.epoch == 1:
            self.path.touch()


@pytest.mark.parametrize(
    ("act", "how"), [(lambda i: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"), (lambda i: os._exit(5), "code 5")]
)
def test_a_worker_that_dies_is_one_error_with_the_sample(act: Any, how: str) -> None:
    with pytest.raises(UserError, match=rf"a worker process ended by .*{how} while it read sample 30 of At; .*set workers=0"):
        samples(At(30, act), workers=2)


def test_a_worker_killed_from_outside_is_one_error() -> None:
    def kill() -> None:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)

    class Kill(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            kill()

    with pytest.raises(UserError, match="a worker process ended by signal SIGKILL"):
        fitted(samples(Fixed(), workers=2), stop=Kill())


@pytest.mark.parametrize("way", ["stop", "signal", "error"])
def test_no_way_to_end_leaves_a_process(way: str) -> None:
    def act() -> None:
        assert len(multiprocessing.active_children()) == 2
        if way == "signal":  # as a service manager or a terminal sends it, to every process
            for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
                assert pid is not None
                os.kill(pid, signal.SIGTERM)
        if way == "error":
            raise RuntimeError("on purpose")

    data = samples(Random(), workers=2)
    if way == "error":
        with pytest.raises(Exception, match="on purpose"):
            fitted(data, stop=Stop(3, act))
    else:
        _, trainer = fitted(data, stop=Stop(3, act))
        assert (trainer.summary["step"], trainer.summary["stop_reason"]) == (3, {"stop": "here", "signal": "SIGTERM"}[way])


def test_an_unfinished_pass_does_not_keep_python_from_its_exit() -> None:
    def leave() -> None:
        rows = samples(Fixed(), workers=2).train.x.each([slice(0, 9), slice(9, N)])  # type: ignore[union-attr]
        next(rows)
        leave.kept = rows  # type: ignore[attr-defined]

    child = multiprocessing.get_context("fork").Process(target=leave)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_the_processes_end_with_a_main_process_that_is_killed() -> None:
    read_end, write_end = os.pipe()
    if not (child := os.fork()):
        for _ in samples(Fixed(), workers=2).train.x.each([slice(0, 9), slice(9, N)]):  # type: ignore[union-attr]
            os.write(write_end, " ".join(str(p.pid) for p in multiprocessing.active_children()).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pids = [int(pid) for pid in os.read(read_end, 100).split()]
    for end in (read_end, write_end):
        os.close(end)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(pids) == 2


WRONG: dict[str, tuple[Any, str]] = {
    "iterable": (lambda: samples(iter([(X[0], 1)])), "data.train: list_iterator has no length and no dataset.*npy"),
    "empty": (lambda: samples([]), "data: list has no sample"),
    "not a pair": (lambda: rows((1, 2, 3)), "sample 0 of list: is a tuple of 3; return a pair"),
    "a mapping": (lambda: rows({"a": 1, "b": 2}), "sample 0 of list: is a mapping of a, b; name its keys"),
    "a key": (lambda: rows({"image": 1, "b": 2}, x="imag", t="b"), "has no 'imag'; did you mean 'image'"),
    "workers": (lambda: samples(Fixed(), workers=-1), "data.workers: -1; needs a number of processes"),
    "targets": (lambda: rows(([1.0], 0.5), targets="onehot"), "data.targets: onehot, but the targets are numbers"),
    "a class of the test split": (
        lambda: rows(([1.0], 0), test=[([1.0], 1)]),
        "data.test: label 1 at index 0 is outside 0 to 0",
    ),
    "kinds": (lambda: rows(([1.0], 0), test=[([1.0], 0.5)]), "data.test: its targets are of another kind"),
}


@pytest.mark.parametrize(("call", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named(call: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


@pytest.mark.parametrize("workers", [0, 2])
def test_scaled_targets_are_scaled_where_they_are_read(workers: int) -> None:
    t = 1000 + 300 * torch.randn(N, 3, generator=torch.Generator().manual_seed(2))
    pairs = list(zip(X, t, strict=True))
    expected, kept = fitted(tensors(X, t, normalize_target=True))
    found, read = fitted(samples(pairs, workers=workers, normalize_target=True))
    assert torch.equal(found, expected)
    assert read.history == kept.history


@pytest.mark.parametrize("workers", [0, 2])
def test_mixup_reads_its_other_samples_too(workers: int) -> None:
    mixed = {"mixup": 0.4}
    expected, _ = fitted(tensors(X, torch.eye(3)[LABEL], classes=3).augmented({"noise": 0.1}, mixed))
    found, _ = fitted(samples(Fixed(), targets="onehot", workers=workers).augmented({"noise": 0.1}, mixed))
    assert torch.equal(found, expected)


def test_a_trainer_fitted_on_samples_can_be_pickled() -> None:
    _, trainer = fitted(samples(Fixed(), targets="onehot", normalize="feature", workers=1))
    again = pickle.loads(pickle.dumps(trainer))
    assert torch.equal(again.predict(X), trainer.predict(X))
    assert again.validate() == trainer.validate()


def test_a_pass_over_samples_starts_and_ends_its_own_processes() -> None:
    data = samples(Fixed(), workers=2)
    assert isinstance(data.train.x, MappedRows)
    source = data.train.x.rows
    assert isinstance(source, Samples)
    assert isinstance(source.readers[0], Reader)
    for _ in data.train.x.each([slice(0, 9), slice(9, N)]):
        assert len(source.workers.workers) == 2
    assert source.workers.workers == []
