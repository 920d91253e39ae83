"""The value of a split does not depend on its batches, on the order of merges, or on the other models beside it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import Case, assert_close, class_case, empty, filled
from test_confusion import ALL as CONFUSION
from test_per_sample import METRICS as PER_SAMPLE
from test_ranking import OVO, SEVERAL
from test_regression import METRICS as REGRESSION
from test_regression import regression_case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainkit.metrics.table import make


def spread(y: Tensor, t: Tensor) -> Tensor:
    return y.double().var(0, correction=0).sum() + t.double().sum()


class TotalOutput:
    """A user's own metric: Σ y."""

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)

    def update(self, y: Tensor, t: Tensor) -> None:
        self.total += y.double().sum()

    def merge(self, other: TotalOutput) -> None:
        self.total += other.total

    def value(self) -> Tensor:
        return self.total


OWN = [make(spread), make(TotalOutput)]


def metrics_of(case: Case) -> list[Any]:
    if case.task.classes is None:
        return [*REGRESSION, *OWN]
    ranking = ["auc", "average_precision"] if case.task.is_binary else [*SEVERAL, *OVO]
    return [*CONFUSION, *PER_SAMPLE, *ranking, *OWN]


def case_of(kind: str, seed: int, replicas: int = 2) -> Case:
    if kind == "regression":
        return regression_case(seed, replicas)
    return class_case(seed, replicas, one_output=kind == "one output", max_classes=5)


@pytest.mark.parametrize("kind", ["classes", "one output", "regression"])
@settings(max_examples=40)
@given(data=st.data())
def test_any_batches_and_any_order_of_merges_give_the_same_value(kind: str, data: Any) -> None:
    case = case_of(kind, data.draw(st.integers(0, 10_000)))
    n, metrics = case.y.shape[1], metrics_of(case)
    order = data.draw(st.permutations(range(n)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    batches = [order[i:j] for i, j in zip([0, *cuts], [*cuts, n], strict=True)]
    expected = filled(case, metrics).values()
    sets = [filled(case, metrics, batches[i::3]) for i in range(3)]  # of which some have seen nothing
    first = empty(case, metrics)
    for other in data.draw(st.permutations(sets)):
        first.merge(other)
    counts = {m.name for m in CONFUSION} | {"auc"}
    for name, values in first.values().items():
        if case.weight is None and name.split("/")[0] in counts:
            assert str(values) == str(expected[name]), name  # the same bits
        for value, wanted in zip(values, expected[name], strict=True):
            assert_close(value, wanted, name)


@pytest.mark.parametrize("kind", ["classes", "one output", "regression"])
@settings(max_examples=15)
@given(data=st.data())
def test_sets_of_other_processes_merge_in_any_grouping(kind: str, data: Any) -> None:
    """A set is sent as it is: pickled. Groups of sets are merged with groups, until one set is left."""
    case = case_of(kind, data.draw(st.integers(0, 10_000)))
    n = case.y.shape[1]
    metrics = metrics_of(case)
    parts = data.draw(st.lists(st.lists(st.integers(0, n - 1), max_size=4), min_size=2, max_size=5))
    sets = [filled(case, metrics, [part]) for part in parts]
    expected = filled(case, metrics, [[i for part in parts for i in part]]).values()
    while len(sets) > 1:
        i, j = data.draw(st.permutations(range(len(sets))))[:2]
        received = pickle.loads(pickle.dumps(sets[j]))
        sets[i].merge(received)
        del sets[j]
    counts = {m.name for m in CONFUSION} | {"auc"}
    for name, values in sets[0].values().items():
        if case.weight is None and name.split("/")[0] in counts:
            assert str(values) == str(expected[name]), name  # the same bits
        for value, wanted in zip(values, expected[name], strict=True):
            assert_close(value, wanted, name)


@pytest.mark.parametrize("kind", ["classes", "one output", "regression"])
def test_each_model_has_the_value_that_it_has_alone(kind: str) -> None:
    for seed in range(15):
        case = case_of(kind, seed, replicas=3)
        metrics = metrics_of(case)
        together = filled(case, metrics).values()
        for r in range(3):
            alone = filled(Case(case.y[r : r + 1], case.t, case.label, case.weight, case.task), metrics).values()
            assert {name: str(v[0]) for name, v in alone.items()} == {name: str(v[r]) for name, v in together.items()}


def test_a_model_whose_outputs_are_nan_leaves_the_others_as_they_are() -> None:
    for kind in ("classes", "one output", "regression"):
        case = case_of(kind, 3)
        broken = Case(case.y.clone(), case.t, case.label, case.weight, case.task)
        broken.y[1] = torch.nan
        first, second = filled(case, metrics_of(case)).values(), filled(broken, metrics_of(case)).values()
        assert {name: str(v[0]) for name, v in first.items()} == {name: str(v[0]) for name, v in second.items()}


WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "bincount", "equal")


class NoWaiting(TorchDispatchMode):
    """Refuses operations that wait for a device: those that read a value, or whose result's shape depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, name
        assert not (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])), "index by a mask"
        return func(*args, **(kwargs or {}))


def test_an_update_does_not_wait_for_the_device() -> None:
    for kind in ("classes", "one output", "regression"):
        for seed in range(6):
            case = case_of(kind, seed)
            made = empty(case, [m for m in metrics_of(case) if m not in OWN])
            with torch.inference_mode(), NoWaiting():
                made.update(case.y, case.t, case.label, case.weight)
                made.merge(filled(case, made.metrics))
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        torch.ones(1).item()


def test_a_set_merged_with_itself_counts_each_sample_twice() -> None:
    for kind in ("classes", "regression"):
        case = case_of(kind, 5)
        metrics = [m for m in metrics_of(case) if m not in OWN]
        once, twice = filled(case, metrics), filled(case, metrics)
        twice.merge(twice)
        found = twice.values()
        for name, values in once.values().items():
            for value, wanted in zip(values, found[name], strict=True):
                assert_close(value, wanted, name)


def test_states_keep_no_view_of_a_batch() -> None:
    """A batch's memory may be written again after `update`."""
    for kind in ("classes", "one output", "regression"):
        case = case_of(kind, 5)
        t, label, y = case.t.clone(), None if case.label is None else case.label.clone(), case.y.clone()
        made = empty(case, metrics_of(case))
        weight = None if case.weight is None else case.weight.clone()
        made.update(y, t, label, weight)
        for tensor in (t, label, y, weight):
            if tensor is not None:
                tensor.zero_()
        assert str(made.values()) == str(filled(case, metrics_of(case)).values())
