"""Statistics of any float64 numbers, and the numbers that no statistic or step can use: refused by their place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    Dataset,
    Linear,
    MSELoss,
    Sequential,
    TerminateOnNaN,
    Trainer,
    UserError,
    ValidationSplit,
    checkpoint,
    csv,
    idx,
    npy,
    tensors,
)
from trainkit.data import check
from trainkit.data.loader import epoch_permutation
from trainkit.data.statistics import Frame, ranges
from trainkit.data.tables import read_rows
from trainkit.data.transforms.normalize import Normalizer

N = 20


def fit(data: Dataset, *callbacks: Callback, **how: Any) -> Trainer:
    width = data.train.x.shape[1]
    trainer = Trainer(**{"max_epochs": 2, "batch_size": 4, "device": "cpu", "callbacks": callbacks} | how)
    net = Sequential(Linear(width, 1)).initialize(torch.Generator().manual_seed(0))
    trainer.fit(net, MSELoss(), SGD(net.param(), 1e-3), data)
    return trainer


def scaled(x: Tensor, how: Any = "feature") -> Tensor:
    data = tensors(x, torch.zeros(len(x)), normalize=how)
    return Normalizer.fit(data).apply(data.train).x  # type: ignore[return-value]


# -- any size of numbers ---------------------------------------------------------------------------------------------------


@given(
    magnitude=st.integers(-300, 298),  # times 1e9 it is a float still
    offset=st.sampled_from([0.0, 1.0, 1e3, 1e6, 1e9]),
    seed=st.integers(0, 1000),
)
def test_a_column_of_any_magnitude_is_scaled_to_mean_0_and_deviation_1(
    tmp_path_factory: pytest.TempPathFactory, magnitude: int, offset: float, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "magnitude.csv"
    x = (np.random.default_rng(seed).random(500) + offset) * 10.0**magnitude
    path.write_text("x,y\n" + "".join(f"{value!r},{i % 7}.5\n" for i, value in enumerate(x.tolist())))
    data = csv(str(path), "y", test=0)
    part = Normalizer.fit(data).apply(data.train)
    assert isinstance(part.x, Tensor)
    assert part.x.dtype == torch.float64
    assert abs(float(part.x.mean())) < 1e-6
    assert abs(float(part.x.std(correction=0)) - 1) < 1e-6


def test_times_in_seconds_keep_their_milliseconds() -> None:
    x = 1.7e9 + torch.arange(100_000, dtype=torch.float64)[:, None] * 1e-3
    z = scaled(x)
    assert abs(float(z.mean())) < 1e-8
    assert abs(float(z.std(correction=0)) - 1) < 1e-8
    torch.testing.assert_close(
        z.diff(dim=0), torch.full((len(z) - 1, 1), 1e-3 / float(x.std(correction=0))).double(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("how", ["feature", "global"])
@pytest.mark.parametrize("size", [1e-300, 1e-200, 1.0, 1e200, 1e300])
def test_the_size_of_a_feature_does_not_change_its_scaled_numbers(size: float, how: str) -> None:
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scaled(x * size, how), scaled(x, how), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e-320, 1e308, 5e-324])
def test_a_constant_feature_becomes_0_and_stays_finite(value: float) -> None:
    x = torch.full((1000, 1), value, dtype=torch.float64)
    normalizer = Normalizer.fit(tensors(x, torch.zeros(1000), normalize="feature"))
    assert float(normalizer.std) == 1
    assert (normalizer.scale(x) == 0).all()


def test_ordinary_features_have_no_frame_and_keep_their_bits() -> None:
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 30 + 100
    span = ranges(x)
    assert Frame.of(span.low, span.high) is None
    mixed = torch.cat([x, x[:, :1] * 1e200, x[:, :1] * 1e-6 + 1e6], 1)
    alone, beside = (Normalizer.fit(tensors(v, torch.zeros(50), normalize="feature")) for v in (x, mixed))
    assert torch.equal(alone.mean, beside.mean[:3])
    assert torch.equal(alone.std, beside.std[:3])


def test_a_mean_that_fills_gaps_is_exact_at_any_size() -> None:
    x = torch.tensor([[1e308], [math.nan], [1.5e308]], dtype=torch.float64)
    data = tensors(x, torch.zeros(3), normalize="feature")
    filled = Dataset(train=data.train, fill="mean", normalize="feature")
    assert float(Normalizer.fit(filled).fill) == pytest.approx(1.25e308)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_a_run_on_such_numbers_loads_its_own_checkpoints(tmp_path: Path, size: float) -> None:
    x = torch.rand(N, 2, dtype=torch.float64) * torch.tensor([size, 1.0], dtype=torch.float64)
    fit(tensors(x, x[:, 1], normalize="feature"), Checkpoint(), dtype="float64", run_dir=tmp_path)
    assert checkpoint.load(tmp_path / "checkpoints/last.pt")["normalizer"]["std"].isfinite().all()


# -- no rounding before the scaling ----------------------------------------------------------------------------------------


def test_numbers_of_a_csv_file_are_rounded_once_after_they_are_scaled(tmp_path: Path) -> None:
    x = 1.7e9 + np.arange(600) * 3.0
    (tmp_path / "d.csv").write_text("x,y\n" + "".join(f"{a:.3f},{b!r}\n" for a, b in zip(x, x.tolist(), strict=True)))
    data = csv(str(tmp_path / "d.csv"), "y", test=0)
    assert data.train.t[:, 0].tolist() == x.tolist()
    exact = ((torch.from_numpy(x) - x.mean()) / x.std())[:, None]
    trainer = fit(data, max_epochs=0)
    torch.testing.assert_close(trainer.session.data.train.x, exact.float(), rtol=1e-7, atol=1e-7)
    later = read_rows(str(tmp_path / "d.csv"), data.schema).x
    assert torch.equal(trainer.session.normalizer.scale(later, torch.float32), trainer.session.data.train.x)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["i4", "i8", "u4", "f8"])
@pytest.mark.parametrize("stream", [True, False])
def test_numbers_above_24_bits_are_not_rounded_to_float32(tmp_path: Path, dtype: str, stream: bool) -> None:
    x = (1_700_000_000 + np.arange(N) * 3)[:, None].astype(dtype)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "t.npy", np.arange(N) * 1.0)
    data = npy(str(tmp_path / "x.npy"), str(tmp_path / "t.npy"), normalize="feature", stream=stream)
    of_tensors = tensors(torch.from_numpy(x), torch.arange(N) * 1.0, normalize="feature")
    for each in (data, of_tensors):
        z = fit(each, max_epochs=0).session.data.train.x[:]
        assert z.dtype == torch.float32
        torch.testing.assert_close(z[:, 0].diff(), torch.full((N - 1,), 3 / float(x.std())))


# -- infinite and missing numbers ------------------------------------------------------------------------------------------


def saved(folder: Path, part: str, key: str, value: float, stream: bool) -> Dataset:
    """Two parts of N rows; row 7 of one of them has `value`."""
    arrays = {}
    for name in ("train", "test"):
        x = np.random.default_rng(0).random((N, 2))
        arrays |= {f"{name}_x": x, f"{name}_t": x.sum(1)}
    arrays[f"{part}_{key}"].reshape(N, -1)[7, -1] = value
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return npy(**{name: str(folder / f"{name}.npy") for name in arrays}, stream=stream)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("key", ["x", "t"])
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300])
def test_a_number_that_is_infinite_in_the_run_is_refused_by_its_place_in_the_source(
    tmp_path: Path, value: float, part: str, key: str, stream: bool, split: bool
) -> None:
    data = saved(tmp_path, part, key, value, stream)
    where = f"{part}_x.npy: row 7, feature 1" if key == "x" and stream else f"row 7 of the {part}.* split, "
    what = "is not finite" if math.isinf(value) else "is infinite in float32"
    with pytest.raises(UserError, match=rf"{where}.*: {value:g} {what}.* \(1 in total\); .*".replace("+", r"\+")):
        fit(data, *([ValidationSplit(0.5)] if split else []))


@pytest.mark.parametrize("stream", [True, False])
def test_a_nan_target_is_refused_and_a_large_number_fits_where_it_is_scaled_or_float64(tmp_path: Path, stream: bool) -> None:
    x = torch.rand(N, 1)
    with pytest.raises(UserError, match=r"data: row 3 of the training split, target 0: nan is not finite \(1 in total\)"):
        fit(tensors(x, torch.where(torch.arange(N) == 3, math.nan, 1.0)))
    data = saved(tmp_path, "train", "x", 1e300, stream)
    fit(data, dtype="float64", max_epochs=0)
    fit(Dataset(train=data.train, normalize="feature"), max_epochs=0)


def test_a_callback_that_handles_such_numbers_takes_them(tmp_path: Path) -> None:
    trainer = fit(saved(tmp_path, "train", "t", math.inf, False), TerminateOnNaN())
    assert trainer.summary["stop_reason"] == "nan"
    assert "the target of sample 7 of the training split has inf" in trainer.summary["stop_words"]
    data = saved(tmp_path, "train", "x", math.inf, False)
    with pytest.raises(UserError, match="row 7 of the training split, feature 1: inf has no mean"):
        fit(Dataset(train=data.train, normalize="feature"), TerminateOnNaN())


def test_a_run_that_ends_before_it_takes_the_number_is_not_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = saved(tmp_path, "train", "t", math.inf, False)
    ended = fit(data, TerminateOnNaN()).summary["step"]  # the steps before the one that takes it
    assert fit(data, max_steps=ended).session.progress.step == ended
    assert "a number of the training split is not finite; the run ends before it uses this number" in capsys.readouterr().err
    with pytest.raises(UserError, match="row 7"):
        fit(data, max_steps=ended + 1)


@given(
    n=st.integers(1, 12),
    size=st.integers(1, 5),
    epochs=st.integers(0, 3),
    steps=st.none() | st.integers(-1, 12),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=2),
    data=st.data(),
)
def test_the_rows_that_the_next_steps_take_are_those_of_the_epochs_orders(
    n: int, size: int, epochs: int, steps: int | None, seeds: list[int], data: st.DataObject
) -> None:
    batch = data.draw(st.integers(0, -(-n // size) - 1))
    row = data.draw(st.integers(0, n - 1))
    coming = [epoch_permutation(seed, epoch, n).split(size) for epoch in range(4, 4 + epochs) for seed in seeds]
    by_seed = [[b for epoch in coming[i :: len(seeds)] for b in epoch][batch:] for i in range(len(seeds))]
    taken = steps is None or any(row in b for batches in by_seed for b in batches[: max(0, steps)])
    assert check.takes(torch.tensor([row]), n, size, seeds, range(4, 4 + epochs), batch, steps) == taken


DIMS: dict[str, Callable[[Path], Any]] = {
    "tensors": lambda folder: tensors(torch.zeros([N] + [1] * 64), torch.zeros(N)),
    "npy": lambda folder: npy(str(folder / "x.npy"), str(folder / "t.npy")),
    "idx": lambda folder: idx(str(folder), test=0),
    "idx, streamed": lambda folder: idx(str(folder), test=0, stream=True),
    "npy in memory": lambda folder: npy(str(folder / "x.npy"), str(folder / "t.npy"), stream=False),
}


@pytest.mark.parametrize("source", DIMS)
def test_more_than_64_dimensions_are_refused(tmp_path: Path, source: str) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({N}, {'1, ' * 64}), }}".encode()
    head = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text
    (tmp_path / "x.npy").write_bytes(head + bytes(4 * N))
    np.save(tmp_path / "t.npy", np.zeros(N))
    sizes = b"".join(n.to_bytes(4, "big") for n in (N, *[1] * 64))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x41" + sizes + bytes(N))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + N.to_bytes(4, "big") + bytes(N))
    with pytest.raises(UserError, match=r"65 dimensions.* 64 can be|x.npy: .* found 65"):
        DIMS[source](tmp_path)


def test_a_scale_that_makes_integers_infinite_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((N, 2), "u1"))
    np.save(tmp_path / "t.npy", np.zeros(N))
    with pytest.raises(UserError, match=r"data.scale: 1e-40; uint8 of shape \(20, 2\) divided by it is infinite"):
        npy(str(tmp_path / "x.npy"), str(tmp_path / "t.npy"), scale=1e-40)
