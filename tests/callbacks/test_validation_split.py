"""ValidationSplit: a function of (seed, n), no sample on both sides, and a validation that training cannot see."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit import (
    SGD,
    Callback,
    CrossEntropyLoss,
    Dataset,
    Dropout,
    EarlyStopping,
    Linear,
    MSELoss,
    Sequential,
    Trainer,
    UserError,
    ValidationSplit,
    disk,
    tensors,
)
from trainkit.checkpoint.plain import to_plain
from trainkit.data.fingerprint import row_fingerprints
from trainkit.trainer.session import Session


def run(*callbacks: Callback, data: Dataset | None = None, resume: dict[str, Any] | None = None, **how: Any) -> Trainer:
    net = Sequential(Linear(2, 5), Dropout(0.5), Linear(5, 2)).initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(**{"max_epochs": 3, "batch_size": 4, "device": "cpu"} | how, callbacks=callbacks)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), 0.1, momentum=0.9), data or disk(30, 5), resume=resume)
    return trainer


@given(n=st.integers(2, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_it_is_a_function_of_seed_and_n(n: int, fraction: float, seed: int) -> None:
    split = ValidationSplit(fraction, seed)
    val = split.indices(n)
    torch.rand(1)
    assert val.tolist() == ValidationSplit(fraction, seed).indices(n).tolist() == sorted(set(val.tolist()))
    assert len(val) == round(fraction * n)
    assert set(val.tolist()) <= set(range(n))


def test_it_is_shuffled_and_the_seed_counts() -> None:
    first = ValidationSplit(0.3).indices(100).tolist()
    assert first not in (list(range(30)), list(range(70, 100)))
    assert first != ValidationSplit(0.3, seed=1).indices(100).tolist()
    assert len(set(first) & set(ValidationSplit(0.3, seed=1).indices(100).tolist())) < 30


def test_the_split_of_a_hundred_is_this_one() -> None:
    """Files of old runs depend on it."""
    assert ValidationSplit(0.1).indices(100).tolist() == [3, 4, 25, 35, 43, 77, 79, 82, 96, 97]


def test_no_sample_is_on_both_sides_and_none_is_lost() -> None:
    x = torch.arange(60.0).reshape(30, 2)

    class Look(Callback):
        def on_fit_start(self, session: Session) -> None:
            assert session.data.val is not None
            self.parts = [p.x[:, 0].tolist() for p in (session.data.train, session.data.val)]

    look = Look()
    run(ValidationSplit(0.2), look, data=tensors(x, torch.arange(30) % 2))
    train, val = look.parts
    assert (len(train), len(val)) == (24, 6)
    assert sorted(train + val) == x[:, 0].tolist()


@pytest.mark.parametrize("counts", [(50, 50), (90, 10), (10, 20, 70), (7, 93)])
def test_stratify_takes_the_same_fraction_of_each_class(counts: tuple[int, ...]) -> None:
    label = torch.cat([torch.full((k,), c) for c, k in enumerate(counts)])[torch.randperm(sum(counts))]
    val = ValidationSplit(0.2, stratify=True).indices(len(label), label)
    assert [int((label[val] == c).sum()) for c in range(len(counts))] == [round(0.2 * k) for k in counts]
    assert val.tolist() == sorted(set(val.tolist()))


def test_stratify_needs_classes() -> None:
    with pytest.raises(UserError, match="stratify needs classes, but the data has none; set stratify=false"):
        run(ValidationSplit(stratify=True), data=tensors(torch.randn(9, 2), torch.randn(9, 2)))


def with_ids(**ids: list[str]) -> Dataset:
    data = tensors(torch.arange(60.0).reshape(30, 2), torch.arange(30) % 2)
    return dataclasses.replace(data, train=dataclasses.replace(data.train, ids=ids))


def test_a_group_is_on_one_side_and_the_last_samples_by_time_are_taken() -> None:
    patient, day = [f"p{i % 6}" for i in range(30)], [str(100 - i) for i in range(30)]
    data = with_ids(patient=patient, day=day)
    by_group = run(ValidationSplit(1 / 3, group="patient"), data=data).session.data
    assert by_group.val is not None
    assert not {*by_group.val.ids["patient"]} & {*by_group.train.ids["patient"]}
    assert len(by_group.val) == 10
    by_time = run(ValidationSplit(0.2, time="day"), data=data).session.data
    assert by_time.val is not None
    assert by_time.val.ids["day"] == ["100", "99", "98", "97", "96", "95"]


def test_a_column_that_the_data_does_not_have_is_named() -> None:
    data = with_ids(patient=["p1"] * 29 + [""])
    with pytest.raises(UserError, match=r"no id column 'patent'; list it in data.ids; did you mean 'patient'"):
        run(ValidationSplit(0.2, group="patent"), data=data)
    with pytest.raises(UserError, match=r"no id column 'household'; list it in data.ids, now \(patient\)"):
        run(ValidationSplit(0.2, group="household"), data=data)
    with pytest.raises(UserError, match=r"id column 'patient': the value of sample 29 is missing"):
        run(ValidationSplit(0.2, group="patient"), data=data)
    when = with_ids(day=["2024-01-01"] * 29 + ["28.01.2024"])
    with pytest.raises(UserError, match=r"id column 'day': '28.01.2024', of sample 29, is not an ISO 8601 date"):
        run(ValidationSplit(0.2, time="day"), data=when)
    with pytest.raises(UserError, match=r"ValidationSplit: stratify and time; give one of them"):
        ValidationSplit(0.2, stratify=True, time="day")


EDGES = [
    # samples, fraction: to train, to validate
    (2, 0.5, (1, 1)),
    (10, 0.06, (9, 1)),
    (10, 0.94, (1, 9)),
    (3, 0.4, (2, 1)),
]


@pytest.mark.parametrize(("n", "fraction", "sizes"), EDGES)
def test_fractions_at_the_edge(n: int, fraction: float, sizes: tuple[int, int]) -> None:
    trainer = run(ValidationSplit(fraction), data=disk(n, 1))
    assert trainer.session.data.val is not None
    assert (len(trainer.session.data.train), len(trainer.session.data.val)) == sizes


@pytest.mark.parametrize(
    ("n", "fraction", "left"), [(10, 0.01, "10 to train and 0"), (10, 0.99, "0 to train and 10"), (1, 0.5, "1 to train and 0")]
)
def test_an_empty_side_is_refused_with_the_numbers(n: int, fraction: float, left: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.validation_split setup.*of {n} samples leaves {left} to validate"):
        run(ValidationSplit(fraction), data=disk(n, 1))


@pytest.mark.parametrize(
    "arguments", [{"fraction": 0}, {"fraction": 1}, {"fraction": -0.1}, {"every_n_epochs": 0}, {"every_n_steps": 0}]
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        ValidationSplit(**arguments)


def test_statistics_come_from_the_training_part_alone() -> None:
    trainer = run(ValidationSplit(0.3))
    data = disk(30, 5)
    val = ValidationSplit(0.3).indices(30)
    train = torch.ones(30, dtype=torch.bool).index_fill(0, val, False)
    mean = data.train.x[train].double().mean(0)
    torch.testing.assert_close(trainer.session.normalizer.mean, mean)
    assert trainer.session.data.train.x.mean(0).abs().max() < 1e-6
    assert trainer.session.data.val is not None
    assert trainer.session.data.val.x.mean(0).abs().max() > 1e-3


@pytest.mark.parametrize("every", [{}, {"every_n_steps": 1}, {"every_n_epochs": 2}, {"every_n_epochs": 50}])
def test_training_cannot_see_that_it_is_validated(every: dict[str, int]) -> None:
    """The same parameters, to the bit, and the same random numbers, however often validation runs; Dropout is in the net."""

    class Streams(Callback):
        def on_fit_end(self, session: Session) -> None:
            self.states = [g.get_state() for g in session.generators] + [torch.get_rng_state()]

    often, never = Streams(), Streams()
    torch.manual_seed(0)
    seen = run(ValidationSplit(0.2, **every), often).summary["params_sha256"]
    data = disk(30, 5)
    val = ValidationSplit(0.2).indices(30)
    train = torch.ones(30, dtype=torch.bool).index_fill(0, val, False).nonzero().squeeze(1)
    torch.manual_seed(0)
    alone = run(never, data=data.with_parts(train=data.train.subset(train)))
    assert alone.session.data.val is None
    assert alone.summary["params_sha256"] == seen
    assert all(torch.equal(a, b) for a, b in zip(often.states, never.states, strict=True))


def test_the_metrics_are_those_of_the_held_out_samples() -> None:
    trainer = run(ValidationSplit(0.2))
    val = trainer.session.data.val
    assert val is not None
    y = trainer.session.net.eval()(val.x)
    wrong = (y.argmax(1) != val.t).double().mean().item()
    metrics = trainer.summary["metrics"]
    assert metrics["val/loss"] == pytest.approx(torch.nn.functional.cross_entropy(y, val.t).item(), rel=1e-6)
    assert metrics["val/error"] == pytest.approx(wrong)


def test_all_replicas_have_one_validation_set_and_so_have_other_seeds() -> None:
    sets = []
    for how in ({}, {"seed": 3}, {"replicas": 2}):
        part = run(ValidationSplit(0.2), EarlyStopping(), **how).session.data.val
        assert part is not None
        sets.append(part.x)
    assert all(torch.equal(s, sets[0]) for s in sets)


@pytest.mark.parametrize(
    "other",
    [ValidationSplit(0.3), ValidationSplit(0.2, seed=1), ValidationSplit(0.2, stratify=True)],
    ids=["fraction", "seed", "stratify"],
)
def test_another_split_on_resume_is_refused(other: ValidationSplit) -> None:
    content = to_plain(run(ValidationSplit(0.2)).session.snapshot())
    assert run(ValidationSplit(0.2), resume=content, max_epochs=4).session.progress.epoch == 4
    with pytest.raises(UserError, match=r"has a different validation split.*training samples would be used for validation"):
        run(other, resume=content, max_epochs=4)


def test_the_checkpoint_names_the_split_by_its_settings_and_its_rows() -> None:
    data = disk(30, 5)
    content = run(ValidationSplit(0.2), data=data).session.snapshot()
    settings = {"fraction": 0.2, "seed": 0, "stratify": False, "group": None, "time": None}
    assert content["callbacks"]["validation_split"] == {"settings": settings}
    rows = data.train.subset(ValidationSplit(0.2).indices(30))
    assert content["data"]["held_out"]["val"].tolist() == row_fingerprints(rows).tolist()


def test_a_checkpoint_of_an_earlier_version_names_it_by_the_hash_of_its_positions() -> None:
    content = to_plain(run(ValidationSplit(0.2)).session.snapshot())
    del content["data"]["held_out"]
    positions = ",".join(map(str, ValidationSplit(0.2).indices(30).tolist()))
    content["callbacks"]["validation_split"] = {"sha256": hashlib.sha256(positions.encode()).hexdigest()}
    assert run(ValidationSplit(0.2), resume=content, max_epochs=4).session.progress.epoch == 4
    with pytest.raises(UserError, match="has a different validation split"):
        run(ValidationSplit(0.2, seed=1), resume=content, max_epochs=4)


def test_a_validation_part_of_the_data_itself_is_used_without_the_callback() -> None:
    data = disk(30, 5)
    assert "val/loss" in run(data=data.with_parts(val=data.test)).session.metrics


def test_regression_has_a_loss_and_no_error() -> None:
    net = Sequential(Linear(2, 2))
    trainer = Trainer(max_epochs=1, device="cpu", callbacks=[ValidationSplit(0.5)])
    trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), tensors(torch.randn(8, 2), torch.randn(8, 2)))
    assert "val/loss" in trainer.session.metrics
    assert "val/error" not in trainer.session.metrics
