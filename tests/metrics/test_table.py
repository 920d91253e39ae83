"""What a configuration may say, and the one clear message for what it may not."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from trainkit.core.errors import UserError
from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.table import METRICS, OTHER_NAMES, make
from trainkit.metrics.task import Task


def test_names_and_options_as_in_yaml() -> None:
    specs = ["accuracy", "f1", {"top_k": {"k": 5}}, {"f1": {"average": "none"}}, {"auc": None}, {"auc": {"bins": 200}}]
    task = Task(tuple("abcdefg"), 7, True, 0.0)
    assert list(MetricSet([make(s) for s in specs], task).maximize) == [
        *("accuracy", "f1", "top_5", *(f"f1/{c}" for c in "abcdefg"), "auc", "auc_200_bins")
    ]


REFUSED: list[tuple[Any, str]] = [
    ("accurracy", "metrics: no metric 'accurracy'; did you mean 'accuracy'? ("),
    ("roc_auc", "metrics: no metric 'roc_auc'; its name is 'auc'"),
    (5, "metrics: no metric 5; ("),
    ({"f1": {}, "auc": {}}, "metrics: a dict of 2; needs one name with its options, {top_k: {k: 5}}"),
    ({"f1": "macro"}, "metrics.f1: 'macro'; needs its options as a mapping"),
    ({"f1": {"averrage": "macro"}}, "metrics.f1: no option 'averrage'; did you mean 'average'? (average)"),
    ({"f1": {"average": "makro"}}, "metrics.f1.average: 'makro'; did you mean 'macro'? ("),
    ("top_k", "metrics.top_k: needs k"),
    ({"top_k": {"k": 2.5}}, "metrics.top_k.k: 2.5; needs a whole number"),
]


@pytest.mark.parametrize(("spec", "message"), REFUSED)
def test_a_mistake_is_one_clear_error(spec: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make(spec)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_two_values_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="metrics: mse is there twice; remove one"):
        MetricSet([make("mse"), make("mse")], Task(None, 1, False, 0.5))


def test_other_names_lead_to_a_metric_and_hide_none() -> None:
    assert set(OTHER_NAMES.values()) <= set(METRICS)
    assert not set(OTHER_NAMES) & set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_when_it_is_undefined_and_where_it_comes_from(name: str) -> None:
    doc = inspect.getdoc(METRICS[name])
    assert "__doc__" in vars(METRICS[name])
    assert doc is not None
    assert "Undefined" in doc
    assert "Source: " in doc


def test_a_task_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(UserError, match="multilabel: 3 outputs, 2 labels; each label needs one output"):
        Task(("a", "b"), 3, True, 0.0, multilabel=True)
    with pytest.raises(UserError, match="positive: class index 2; the classes are 0 to 1"):
        Task(("a", "b"), 2, True, 0.0, positive=2)


@pytest.mark.parametrize("name", METRICS)
def test_the_page_has_a_row_for_every_metric_with_its_direction(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    direction = {"↑": True, "↓": False}[row.replace("\\|", "").split("|")[3].strip()]
    assert METRICS[name].maximize is direction
