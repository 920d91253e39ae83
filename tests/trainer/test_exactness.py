"""Bits that do not depend on where a run is stopped, or on how its data is held: any shape, drawn by hypothesis."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torture import shapes
from torture.shapes import Case

from trainkit import Split
from trainkit.data import loader
from trainkit.data.loader import ALIGN, batches, iter_batches

EXAMPLES = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FEWER = settings(EXAMPLES, max_examples=8)
ODD = Case(
    shape=(25,), samples=120, hidden=5, outputs=2, activation=1, dropout=0.3, targets="index", loss=0, optimizer=1, batch=10,
    accumulate=1, replicas=1, dtype="float32", stream=False, threads=1, clip=None, every=None, seed=1, stops=(4, 11),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


@pytest.mark.slow
@EXAMPLES
@given(draw=st.randoms(use_true_random=False))
def test_a_run_resumed_at_any_step_has_the_bits_of_the_run_left_alone(folder: Path, draw: random.Random) -> None:
    assert not list(filter(None, shapes.resumed(shapes.drawn(draw), folder)))


@FEWER
@given(draw=st.randoms(use_true_random=False))
def test_a_run_from_a_file_has_the_bits_of_the_run_from_memory(folder: Path, draw: random.Random) -> None:
    assert shapes.streamed(shapes.drawn(draw), folder) is None


@EXAMPLES
@given(draw=st.randoms(use_true_random=False))
def test_steps_taken_back_lead_to_the_runs_own_state(folder: Path, draw: random.Random) -> None:
    assert shapes.rolled_back(shapes.drawn(draw), folder, draw) is None


@settings(EXAMPLES, max_examples=3)
@given(draw=st.randoms(use_true_random=False))
def test_auto_has_the_bits_of_the_engine_it_chose(folder: Path, draw: random.Random) -> None:
    assert shapes.chosen(shapes.drawn(draw, native=True), folder) is None


def test_a_native_run_resumed_inside_an_epoch_has_the_bits_of_the_run_left_alone(folder: Path) -> None:
    case = shapes.replace(ODD, engine="native")
    assert shapes.run(case, shapes.data_of(case, folder))[0].session.engine == "native"
    assert not list(filter(None, shapes.resumed(case, folder)))


def test_the_trial_finds_batches_at_other_offsets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine: also on one whose products do not round by where their operands lie."""
    monkeypatch.setattr(loader, "_padded", lambda part, rows: rows)
    found = list(filter(None, shapes.resumed(ODD, folder)))
    assert found
    assert "other operands after step" in found[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("replicas", [0, 3])
@pytest.mark.parametrize("shape", [(1,), (3,), (25,), (5, 7)])
@pytest.mark.parametrize("size", [1, 7, 10, 64])
def test_every_batch_is_contiguous_and_aligned(size: int, shape: tuple[int, ...], replicas: int, dtype: torch.dtype) -> None:
    x = torch.randn(50 * torch.Size(shape).numel() + 1, dtype=dtype)[1:].view(50, *shape)
    part = Split(x, torch.arange(50))
    order = torch.stack([torch.randperm(50) for _ in range(replicas)]) if replicas else torch.randperm(50)
    seen = 0
    for i, (a, t) in enumerate(batches(part, order, size, first=1), 1):
        assert torch.equal(a, x[order[..., i * size : (i + 1) * size]])
        assert torch.equal(t, order[..., i * size : (i + 1) * size])
        for v in (a, t):
            assert v.is_contiguous()
            assert v.data_ptr() % ALIGN == 0
        seen += t.shape[-1]
    assert seen == max(0, 50 - size)
    for a in iter_batches(x, size):
        assert a.is_contiguous()
        assert a.data_ptr() % ALIGN == 0
