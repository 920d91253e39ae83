"""The options of a table: what becomes an input, what a class, what an id or a weight, and what is told or refused."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from trainkit import Dataset, UserError, csv, table
from trainkit.data.tables import categories, read_rows
from trainkit.data.tables.schema import Schema
from trainkit.data.transforms.normalize import Normalizer

PEOPLE: dict[str, list[Any]] = {
    "name": ["ann", "bob", "cid", "dee"],
    "age": [31.0, 42.0, 53.0, 64.0],
    "city": ["Rome", "Oslo", "Rome", "Bern"],
    "count": [1.0, 0.0, 2.5, 1.0],
    "t": ["stay", "churn", "stay", "churn"],
}


def people(**options: Any) -> Dataset:
    return table(PEOPLE, **{"target": "t", "test": 0, "drop": ["name"], **options})


# Roles of the columns


def test_keep_names_the_inputs() -> None:
    data = people(keep=["count", "age"], drop=[])
    assert data.features == ("age", "count")
    assert data.train.x.tolist() == [[31, 1], [42, 0], [53, 2.5], [64, 1]]


def test_ids_are_carried_and_are_no_inputs() -> None:
    data = people(ids=["name", "city"], drop=[], test=0.5)
    assert data.features == ("age", "count")
    assert data.test is not None
    for split in (data.train, data.test):
        assert [PEOPLE["age"][PEOPLE["name"].index(name)] for name in split.ids["name"]] == split.x[:, 0].tolist()
        assert [PEOPLE["city"][PEOPLE["name"].index(name)] for name in split.ids["name"]] == split.ids["city"]
    rows = read_rows({"age": [1], "count": [2]}, data.schema)
    assert rows.ids == {}
    assert read_rows({"age": [1], "count": [2], "name": ["zoe"]}, data.schema).ids == {"name": ["zoe"]}


def test_numbers_as_ids_are_texts() -> None:
    assert people(ids=["age"]).train.ids["age"] == ["31", "42", "53", "64"]


def test_a_weight_is_of_the_samples() -> None:
    data = people(weight="count", test=0.5)
    assert data.features == ("age", "city=Bern", "city=Oslo", "city=Rome")
    for split in (data.train, data.test):
        assert split is not None
        assert split.weight is not None
        assert split.weight.tolist() == [PEOPLE["count"][PEOPLE["age"].index(age)] for age in split.x[:, 0].tolist()]


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1.0, -1.0, 1.0, 1.0], r"column 'w', row 1: weight -1 \(1 in total\); a weight is finite, and 0 or more"),
        ([1.0, 1.0, float("inf"), 1.0], "column 'w', row 2: weight inf"),
        ([1.0, None, None, 1.0], r"column 'w', row 1: weight nan \(2 in total\)"),
        ([0.0] * 4, "column 'w': all weights are 0"),
    ],
)
def test_a_weight_that_is_none_is_refused(weights: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        table({**PEOPLE, "w": weights}, "t", test=0, weight="w", drop=["name"])


def test_a_weight_of_words_names_the_option() -> None:
    with pytest.raises(UserError, match=r"column 'city', row 0: 'Rome' is not a number; correct it, .* in data.weight"):
        people(weight="city")


def test_several_targets_are_a_regression() -> None:
    data = people(target=["age", "count"], drop=["name", "t"])
    assert data.train.t.tolist() == [[31, 1], [42, 0], [53, 2.5], [64, 1]]
    assert data.train.label is None
    assert data.classes is None
    assert not data.multilabel


def test_labels_are_floats_and_have_names(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"x": [1.0, 2, 3], "sun": [0, 1, 1], "rain": [1, 1, 0]}
    for options in ({"task": "multilabel"}, {}):
        data = table(rows, ["sun", "rain"], test=0, **options)  # type: ignore[arg-type]
        assert data.train.t.tolist() == [[0, 1], [1, 1], [1, 0]]
        assert data.train.t.is_floating_point()
        assert data.classes == ("sun", "rain")
        assert data.multilabel
        assert data.train.label is None
    assert "the 2 targets are 0 or 1, so they are labels; for numbers set data.task=regression" in capsys.readouterr().err
    assert not table(rows, ["sun", "rain"], test=0, task="regression").multilabel
    with pytest.raises(UserError, match="target 'rain', row 2: 2; a label is 0 or 1"):
        table({**rows, "rain": [1, 1, 2]}, ["sun", "rain"], test=0, task="multilabel")
    for values in ([True, True, False], ["True", "true", "False"]):
        assert table({**rows, "rain": values}, ["sun", "rain"], test=0).train.t[:, 1].tolist() == [1, 1, 0]


def test_positive_names_a_class() -> None:
    assert people(positive="churn").positive == 0
    assert people(positive="stay").positive == 1
    assert people().positive is None
    with pytest.raises(UserError, match=r"data.positive: no class 'chrun'; did you mean 'churn'\? \(churn, stay\)"):
        people(positive="chrun")
    with pytest.raises(UserError, match=r"data.positive: 'Rome'; needs two classes, the data has 3 classes"):
        people(target="city", positive="Rome")
    with pytest.raises(UserError, match=r"data.positive: '31'; needs two classes, the data has no classes"):
        people(target="age", positive="31")


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["0", "1", "1.0", "01"], "auto", ("0", "1")),
        (["0", "1.0", "0.0", "1.0"], "classification", ("0", "1.0")),
        (["1", "2", "1e0", "2.0"], "auto", ("1", "2")),
        (["007", "008", "008", "009"], "auto", ("007", "008", "009")),
        (["a", "1", "1.0", "a"], "classification", ("1", "1.0", "a")),
    ],
)
def test_equal_numbers_are_one_class(values: list[str], task: Any, classes: tuple[str, ...]) -> None:
    data = table({"x": [1.0, 2, 3, 4], "t": values}, "t", test=0, task=task)
    assert data.classes == classes
    assert data.train.label is not None
    for text, k in zip(values, data.train.label.tolist(), strict=True):
        assert text == classes[k] or float(text) == float(classes[k])


GUESSES = {
    "many integers": (list(range(26)), r"column 't' holds numbers \(26 different\), so it is a regression; for classes set"),
    "few integers": ([k % 5 for k in range(26)], r"'t' holds few integers \(5 different\), so they are classes; for a regr"),
    "0.0 and 1.0": ([k % 2 + 0.0 for k in range(26)], r"'t' holds numbers \(2 different\), so it is a regression"),
}


@pytest.mark.parametrize(("values", "says"), GUESSES.values(), ids=GUESSES.keys())
def test_a_guessed_task_is_told(values: list[Any], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"x": np.arange(26.0), "t": values}
    table(rows, "t", test=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(says, line)
    for task in ("classification", "regression"):
        table(rows, "t", test=0, task=task)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


# Numbers and dates in texts

DRESSED = {
    "thousands": (["61,593", "1,061,593", "12"], [61593, 1061593, 12], "without ','", {}),
    "percent": (["61.6%", "5 %", "-0.5%"], [61.6, 5, -0.5], "without '%'", {}),
    "dollars": (["$61.59", "-$5", "$1,000.25"], [61.59, -5, 1000.25], "without ',' and '[$]'", {}),
    "euros behind": (["61,59 €", "5 €", "1.000,25 €"], [61.59, 5, 1000.25], "without '[.]' and '€'", {"decimal": ","}),
    "kilograms": (["61.6 kg", "5kg", "1e3 kg"], [61.6, 5, 1000], "without 'kg'", {}),
    "meters per second": (["61.6 m/s", "5 m/s", "7 m/s"], [61.6, 5, 7], "without 'm/s'", {}),
    "blanks between thousands": (["61 593", "1 061 593", "12"], [61593, 1061593, 12], "without ' '", {}),
    "Swiss thousands": (["61'593", "1'061'593.5", "12"], [61593, 1061593.5, 12], """without "'\"""", {}),
    "minus signs": (["−61.6 °C", "5 °C", "-7 °C"], [-61.6, 5, -7], "without '°C'", {}),
    "a unit in some rows": (["61.6 kg", "5", "7"], [61.6, 5, 7], "without 'kg'", {}),
}


@pytest.mark.parametrize(("texts", "numbers", "told", "dialect"), DRESSED.values(), ids=DRESSED.keys())
def test_numbers_with_a_unit_are_numbers_where_declared_and_else_refused(
    texts: list[str],
    numbers: list[float],
    told: str,
    dialect: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
) -> None:
    path = tmp_path / "d.csv"
    path.write_text("a|t\n" + "".join(f"{text}|{'xy'[i % 2]}\n" for i, text in enumerate(texts)))
    data = csv(str(path), "t", test=0, numeric=["a"], delimiter="|", **dialect)
    assert data.train.x[:, 0].tolist() == numbers
    assert re.search(f"column 'a' is read as numbers {told}", capsys.readouterr().err)
    assert read_rows(path, data.schema).x[:, 0].tolist() == numbers
    with pytest.raises(UserError, match=r"column 'a', line \d+: .*data.(numeric|drop)=\[a\]"):
        csv(str(path), "t", test=0, delimiter="|", **dialect)
    assert csv(str(path), "t", test=0, delimiter="|", categorical=["a"], **dialect).train.x.shape == (3, 3)


@pytest.mark.parametrize(("texts", "numbers", "told", "dialect"), DRESSED.values(), ids=DRESSED.keys())
@pytest.mark.parametrize("task", ["auto", "regression"])
def test_targets_and_weights_are_read_as_inputs_are(
    texts: list[str],
    numbers: list[float],
    told: str,
    dialect: dict[str, Any],
    task: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
) -> None:
    some = "5" in texts  # have a unit and others have none
    says = "is not a number" if some else r"is a number with .*; data.numeric=\[{}\] reads it"
    weights = [re.sub("[-−]", "", text) for text in texts]
    path = tmp_path / "d.csv"
    path.write_text("a|w|t\n" + "".join(f"{i}|{w}|{t}\n" for i, (w, t) in enumerate(zip(weights, texts, strict=True))))
    how: Any = {"target": "t", "test": 0, "delimiter": "|", "weight": "w", "task": task, **dialect}
    data = csv(str(path), numeric=["t", "w"], **how)
    assert data.classes is None
    assert data.train.t[:, 0].tolist() == numbers
    assert data.train.weight is not None
    assert data.train.weight.tolist() == [abs(number) for number in numbers]
    err = capsys.readouterr().err
    assert all(re.search(f"column '{name}' is read as numbers {told}", err) for name in "tw")
    rows = read_rows(path, data.schema)
    assert rows.t is not None
    assert torch.equal(rows.t, data.train.t)
    assert rows.weight is not None
    assert torch.equal(rows.weight, data.train.weight)
    assert Schema.of(json.loads(json.dumps(data.schema))).as_dict() == data.schema
    with pytest.raises(UserError, match=rf"column 't', line \d+: .*{says.format('t')}"):
        csv(str(path), numeric=["w"], **how)
    with pytest.raises(UserError, match=rf"column 'w', line \d+: .*{says.format('w')}"):
        csv(str(path), numeric=["t"], **how)


def test_a_sign_between_thousands_makes_a_target_a_regression(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.csv"
    path.write_text('a,t,u\n"1,061","3,000",1\n"2,061","4,500",2\n900,"5,000.5",3\n')
    data = csv(str(path), "t", test=0, thousands=",")
    assert data.train.t[:, 0].tolist() == [3000, 4500, 5000.5]
    assert "column 't' holds numbers (3 different), so it is a regression" in capsys.readouterr().err
    assert csv(str(path), ["t", "u"], test=0, thousands=",").train.t.tolist() == [[3000, 1], [4500, 2], [5000.5, 3]]
    assert csv(str(path), "t", test=0, thousands=",", task="classification").classes == ("3,000", "4,500", "5,000.5")
    with pytest.raises(UserError, match=r"data.numeric=\[t\] reads it as a number, data.task=classification as classes"):
        csv(str(path), "t", test=0, numeric=["a"])


@given(st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=20), st.sampled_from(["", "%", " kg", " €"]))
def test_any_number_with_a_unit_is_read(values: list[int], unit: str) -> None:
    data = table({"a": [f"{v:,}{unit}" for v in values], "t": [i % 2 for i in range(len(values))]}, "t", test=0, numeric=["a"])
    assert data.train.x[:, 0].tolist() == values


REFUSED = {
    # the different texts, and the way that the message shows
    "61,593": (["61,593", "12,001"], r"data.numeric=\[a\] reads it as a number, data.decimal=',' as one with a decimal ','"),
    "61,59": (["61,59", "0,5"], r"is a number with a decimal ',', .*; data.decimal=',' reads it"),
    "1.061,59": (["1.061,59", "0,5"], r"data.decimal=',' and data.numeric=\[a\] read it"),
    "61 593": (["61 593", "12 001"], r"' ' between thousands, .*; data.numeric=\[a\] reads"),
    "61,59 €": (["61,59 €", "5,00 €"], r"a decimal ',' and '€', .*; data.decimal=',' and data.numeric=\[a\] read it"),
    "less than": ([f"<0.{i}" for i in range(30)], r"'<0.0': the 30 .* differ only in their digits, .* data.drop=\[a\]"),
    "ranges": ([f"{i}-{i + 9}" for i in range(30)], r"'0-9': the 30 different texts differ only in their digits"),
    "a word among numbers": (
        [*map(str, range(30)), "none"],
        r"'none' is not a number, 30 of 31 .* data.missing_values=\['none'\]",
    ),
}


@pytest.mark.parametrize(("texts", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_texts_that_look_like_numbers_are_refused_with_the_way(texts: list[str], says: str, tmp_path: Any) -> None:
    rows = {"a": texts, "t": ["xy"[i % 2] for i in range(len(texts))]}
    with pytest.raises(UserError, match=f"rows: column 'a', row .*{says}"):
        table(rows, "t", test=0)
    path = tmp_path / "d.csv"
    path.write_text("a|t\n" + "".join(f"{a}|{t}\n" for a, t in zip(*rows.values(), strict=True)))
    with pytest.raises(UserError, match=f"d.csv: column 'a', line .*{says}"):
        csv(str(path), "t", test=0, delimiter="|", decimal=".")


@pytest.mark.parametrize(
    "texts", [["two", "three", "4", "x"], ["1st", "2nd", "3rd"], ["a1", "b2"], ["1-2", "3-4"], ["v1.0", "v2.0"]]
)
def test_few_texts_with_digits_stay_categories(texts: list[str]) -> None:
    rows = {"a": texts, "t": ["xy"[i % 2] for i in range(len(texts))]}
    assert table(rows, "t", test=0).train.x.shape == (len(texts), len(texts))


def test_two_units_in_a_column_are_refused() -> None:
    with pytest.raises(UserError, match=r"column 'a', row 1: '5 kg' has another unit than other rows \(g, kg\)"):
        table({"a": ["61 g", "5 kg"], "t": ["x", "y"]}, "t", test=0, numeric=["a"])
    data = table({"a": ["61 g", "5 g"], "t": ["x", "y"]}, "t", test=0, numeric=["a"])
    with pytest.raises(UserError, match="column 'a', row 0: '5 kg' is not a number with the unit 'g'"):
        read_rows({"a": ["5 kg"]}, data.schema)
    assert read_rows({"a": [5.0]}, data.schema).x.tolist() == [[5]]


DATES = {
    "days": (["1970-01-01", "2024-02-29", "1969-12-31"], "", [0, 19782, -1]),
    "times": (["1970-01-01 12:00", "1970-01-02T06:00:00", "1970-01-01 00:00:00.5"], "", [0.5, 1.25, 0.5 / 86400]),
    "zones": (["1970-01-01T00:00:00+01:00", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00-06:00"], "", [-1 / 24, 0, 0.25]),
    "a format": (["29.02.2024", "01.01.1970", "02.01.1970"], "%d.%m.%Y", [19782, 0, 1]),
    "digits alone": (["20240229", "19700101", "19700102"], "%Y%m%d", [19782, 0, 1]),
}


@pytest.mark.parametrize(("texts", "form", "days"), DATES.values(), ids=DATES.keys())
def test_dates_are_days_since_1970_where_declared(texts: list[str], form: str, days: list[float], tmp_path: Any) -> None:
    path = tmp_path / "d.csv"
    path.write_text("when,t\n" + "".join(f"{text},{'xy'[i % 2]}\n" for i, text in enumerate(texts)))
    dates: Any = {"when": form} if form else ["when"]
    for data in (
        csv(str(path), "t", test=0, dates=dates),
        table({"when": texts, "t": ["x", "y", "x"]}, "t", test=0, dates=dates),
    ):
        assert data.train.x[:, 0].tolist() == days
        assert read_rows(path, data.schema).x[:, 0].tolist() == days
        assert read_rows({"when": texts}, data.schema).x[:, 0].tolist() == days


def test_each_column_of_dates_has_its_format() -> None:
    rows = {"a": ["1970-01-02", "1970-01-03 12:00"], "b": ["02.01.1970", "03.01.1970"], "t": ["x", "y"]}
    data = table(rows, "t", test=0, dates={"a": "iso", "b": "%d.%m.%Y"})
    assert data.train.x.tolist() == [[1, 1], [2.5, 2]]


@pytest.mark.parametrize(
    ("text", "form", "fix"),
    [
        ("2024-02-29", "%d.%m.%Y", "give its format: data.dates={when: 'iso'}"),
        ("29.02.2024", "%Y-%m-%d", "give its format: data.dates={when: '%d.%m.%Y'}"),
        ("02/29/2024", "iso", "give its format: data.dates={when: '%m/%d/%Y'}"),
        ("Thursday", "%d.%m.%Y", "give its format: data.dates={when: FORMAT}, as for strptime"),
    ],
)
def test_the_way_out_of_a_wrong_format_is_another_one(text: str, form: str, fix: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"; correct it, or {fix}")):
        table({"when": [text, text], "t": ["x", "y"]}, "t", test=0, dates={"when": form})


def test_a_frame_s_dates_are_days_too() -> None:
    moments = [datetime(2024, 2, 29, 12, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
    data = table({"when": moments, "t": ["x", "y"]}, "t", test=0, dates=["when"])
    assert data.train.x[:, 0].tolist() == [19782.5, 0]
    numpy = table({"when": np.array(["2024-02-29", "1970-01-01"], "M8[ns]"), "t": ["x", "y"]}, "t", test=0, dates=["when"])
    assert numpy.train.x[:, 0].tolist() == [19782, 0]


def test_a_date_that_is_not_declared_is_refused_with_the_way() -> None:
    for values, way in (
        (["2024-02-29", "2024-03-01"], r"data.dates=\[when\]"),
        (["29.02.2024", "01.03.2024"], r"data.dates=\{when: '%d.%m.%Y'\}"),
        ([datetime(2024, 2, 29), datetime(2024, 3, 1)], r"data.dates=\[when\]"),
    ):
        with pytest.raises(UserError, match=rf"column 'when', row 0: '.*' is a date; {way} .* reads it|{way} reads it"):
            table({"when": values, "t": ["x", "y"]}, "t", test=0)
    with pytest.raises(UserError, match=r"'29.02.2024' is not an ISO 8601 date, .* data.dates=\{when: '%d.%m.%Y'\}"):
        table({"when": ["29.02.2024"] * 2, "t": ["x", "y"]}, "t", test=0, dates=["when"])
    with pytest.raises(UserError, match=r"row 1: '2024-03-01' is not a date as %d.%m.%Y"):
        table({"when": ["29.02.2024", "2024-03-01"], "t": ["x", "y"]}, "t", test=0, dates={"when": "%d.%m.%Y"})


# Missing and unknown values


def test_na_is_a_text_where_declared_and_told_where_not(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.csv"
    path.write_text("a,continent,t\n" + "".join(f"{i},{['NA', 'EU', 'AS'][i % 3]},{'xy'[i % 2]}\n" for i in range(6)))
    with pytest.raises(
        UserError, match=r"'continent', line 2: 'NA' counts as missing \(2 in total\); .* data.missing_values=\[\]"
    ):
        csv(str(path), "t", test=0)
    kept = csv(str(path), "t", test=0, missing_values=[])
    assert kept.features == ("a", "continent=AS", "continent=EU", "continent=NA")
    assert read_rows(path, kept.schema).x[0].tolist() == [0, 0, 0, 1]
    assert capsys.readouterr().err == ""
    assert csv(str(path), "t", test=0, missing="mean").features == ("a", "continent=AS", "continent=EU")
    assert "column 'continent': 'NA' counts as missing (2 rows); data.missing_values=[] keeps it" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"target 'continent', line 2: missing .*data.missing_values=\[\] keeps 'NA' as a text"):
        csv(str(path), "continent", test=0)
    assert csv(str(path), "continent", test=0, missing_values=["-"]).classes == ("AS", "EU", "NA")


def test_a_table_with_types_has_no_missing_words_unless_declared() -> None:
    rows = {"c": ["NA", "EU", "-"], "t": ["x", "y", "x"]}
    assert table(rows, "t", test=0).features == ("c=-", "c=EU", "c=NA")
    assert table(rows, "t", test=0, missing_values=["-"], missing="mean").features == ("c=EU", "c=NA")


GAPS = {"a": [1.0, None, 2.0, 10.0, 2.0], "c": ["red", "red", None, "blue", "green"], "t": ["x", "y", "x", "y", "x"]}


@pytest.mark.parametrize("how", ["mean", "median", "most_frequent"])
def test_a_fill_is_that_of_scikit_learn(how: Any) -> None:
    data = table(GAPS, "t", test=0, missing=how, normalize="none")
    filled = Normalizer.fit(data).apply(data.train).x
    column = np.array(GAPS["a"], dtype=float)[:, None]
    assert filled[:, 0].tolist() == SimpleImputer(strategy=how).fit_transform(column)[:, 0].tolist()
    assert data.features[1:] == ("c=blue", "c=green", "c=red")
    assert filled[2, 1:].tolist() == ([0, 0, 1] if how == "most_frequent" else [0, 0, 0])


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=3, max_size=30).filter(lambda v: len({*v} - {None}) > 1),
    st.lists(st.sampled_from([1.0, 2.0, 3.0, None]), min_size=30, max_size=30),
)
def test_the_most_frequent_category_and_number_are_those_of_scikit_learn(texts: list[Any], numbers: list[Any]) -> None:
    n = len(texts)
    rows = {"c": texts, "a": [5.0, *numbers[: n - 1]], "t": [float(i) for i in range(n)]}
    wanted = SimpleImputer(strategy="most_frequent", missing_values=None).fit_transform(
        np.array(texts, dtype=object).reshape(-1, 1)
    )
    for encode in ("onehot", "codes"):
        data = table(rows, "t", test=0, task="regression", missing="most_frequent", normalize="none", encode=encode)  # type: ignore[arg-type]
        x = Normalizer.fit(data).apply(data.train).x
        oracle = OneHotEncoder(sparse_output=False) if encode == "onehot" else OrdinalEncoder()
        columns = [i for i, name in enumerate(data.features) if name.startswith("c")]
        assert x[:, columns].tolist() == oracle.fit_transform(wanted).tolist()
        numeric = np.array(rows["a"], dtype=float)[:, None]
        at = data.features.index("a")
        assert x[:, at].tolist() == SimpleImputer(strategy="most_frequent").fit_transform(numeric)[:, 0].tolist()


def test_an_indicator_says_what_was_missing() -> None:
    data = table({**GAPS, "b": [1.0] * 5}, "t", test=0, missing="mean", missing_indicator=True)
    assert data.features == ("a", "c=blue", "c=green", "c=red", "b", "a=(missing)", "c=(missing)")
    assert data.train.x[:, 5:].tolist() == [[0, 0], [1, 0], [0, 1], [0, 0], [0, 0]]
    later = read_rows({"a": [None, 1.0], "b": [None, 1.0], "c": ["red", None]}, data.schema)
    assert later.x[:, 5:].tolist() == [[1, 0], [0, 1]]


def test_the_mistakes_of_all_columns_are_reported_together() -> None:
    rows = {"a": ["1 kg", "2 kg"], "b": ["2024-01-01", "2024-01-02"], "c": [1.0, None], "w": [1, -1], "t": ["x", "y"]}
    with pytest.raises(UserError) as found:
        table(rows, "t", test=0, drop=["ab"], numeric=["d"], weight="ww", ids=["i"])
    assert [re.search(r"no column '(\w+)'", line)[1] for line in str(found.value).splitlines()] == ["d", "ab", "i", "ww"]  # type: ignore[index]
    with pytest.raises(UserError) as found:
        table(rows, "t", test=0, weight="w")
    assert [re.search(r"column '(\w+)'", line)[1] for line in str(found.value).splitlines()] == ["a", "b"]  # type: ignore[index]
    with pytest.raises(UserError) as found:
        table(rows, "t", test=0, weight="w", drop=["a", "b"])
    assert [re.search(r"column '(\w+)'", line)[1] for line in str(found.value).splitlines()] == ["c", "w"]  # type: ignore[index]


def test_the_cure_for_a_missing_value_in_a_later_table_cures() -> None:
    rows = {"a": [1.0, 2.0, 6.0], "c": ["x", "y", "x"], "t": ["p", "q", "p"]}
    later: dict[str, list[Any]] = {"a": [None, 1.0], "c": ["x", None]}
    for normalize in ("none", "feature", "global"):
        data = table(rows, "t", test=0, normalize=normalize)  # type: ignore[arg-type]
        with pytest.raises(
            UserError, match=r"(?m)column 'a', row 0: missing \(1 in total\); correct the file, or set data.missing=mean$"
        ):
            read_rows(later, data.schema)
        x = read_rows(later, data.schema, missing="mean").x
        normalizer = Normalizer.fit(data)
        filled = torch.where(x.isnan(), torch.tensor([[3.0, 0, 0]], dtype=torch.float64), x)
        torch.testing.assert_close(normalizer.scale(x), (filled - normalizer.mean) / normalizer.std)
        with pytest.raises(UserError, match=r"data.missing: 'median'; the model holds the mean of each .* data.missing=mean"):
            read_rows(later, data.schema, missing="median")
    medians = table(rows, "t", test=0, missing="median").schema
    with pytest.raises(UserError, match=r"the model holds the median of each column; set data.missing=median"):
        read_rows(later, medians, missing="mean")
    with pytest.raises(UserError, match=r"or set data.missing=median"):
        read_rows(later, medians, missing="refuse")


LATER = {"c": ["x", "new", "y"], "a": [1.0, 2.0, 3.0]}
TRAIN = {"c": ["x", "y", "x"], "a": [1.0, 2.0, 6.0], "t": ["p", "q", "p"]}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(categories, "_told", set())


def test_an_unknown_category_is_refused_ignored_or_has_its_own_feature(capsys: pytest.CaptureFixture[str]) -> None:
    refusing = table(TRAIN, "t", test=0)
    with pytest.raises(UserError, match=r"column 'c', row 1: 'new' \(1 in total\) is in no training row .data.unknown=ignore"):
        read_rows(LATER, refusing.schema)
    for schema, overrides in (
        (refusing.schema, {"unknown": "ignore"}),
        (table(TRAIN, "t", test=0, unknown="ignore").schema, {}),
    ):
        categories._told.clear()
        assert read_rows(LATER, schema, **overrides).x[:, :2].tolist() == [[1, 0], [0, 0], [0, 1]]
        what = "1 value was not seen in training, 'new' in row 1; taken as no category (data.unknown=ignore)"
        assert capsys.readouterr().err == f"rows: column 'c': {what}\n"
        read_rows(LATER, schema, **overrides)
        assert capsys.readouterr().err == "", "a service that asks again gets no second line"
    own = table(TRAIN, "t", test=0, unknown="column")
    assert own.features == ("c=x", "c=y", "c=(unknown)", "a")
    assert own.train.x[:, 2].tolist() == [0, 0, 0]
    assert read_rows(LATER, own.schema).x[:, :3].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    with pytest.raises(UserError, match=r"data.unknown: 'column'; the model was trained without .* data.unknown=ignore"):
        read_rows(LATER, refusing.schema, unknown="column")
    with pytest.raises(UserError, match="column 't', row 0: 'r'"):
        read_rows({**LATER, "t": ["r", "p", "q"]}, own.schema, unknown="ignore")  # a class is never ignored


# Codes


def test_codes_are_one_column_each_behind_the_numbers() -> None:
    data = people(encode="codes")
    assert data.features == ("age", "count", "city")
    assert data.categories == (0, 0, 3)
    assert data.train.x.tolist() == [[31, 1, 2], [42, 0, 1], [53, 2.5, 2], [64, 1, 0]]
    assert people().categories == ()


def test_codes_have_one_more_for_unknown_and_missing_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for unknown in ("ignore", "column"):
        data = table(TRAIN, "t", test=0, encode="codes", unknown=unknown)  # type: ignore[arg-type]
        assert data.categories == (0, 3)
        assert read_rows(LATER, data.schema).x[:, 1].tolist() == [0, 2, 1]
    filled = table(TRAIN, "t", test=0, encode="codes", missing="mean")
    assert filled.categories == (0, 3)
    assert read_rows({"c": [None, "x"], "a": [1, None]}, filled.schema).x[:, 1].tolist() == [2, 0]
    refusing = table(TRAIN, "t", test=0, encode="codes").schema
    with pytest.raises(UserError, match=r"row 1: an unknown category .*, for which the model has no code"):
        read_rows(LATER, refusing, unknown="ignore")
    with pytest.raises(UserError, match=r"row 0: a missing value .*, for which the model has no code"):
        read_rows({"c": [None], "a": [1]}, refusing, missing="mean")
    assert "taken as the code for unknown values" in capsys.readouterr().err


@given(
    kinds=st.lists(st.sampled_from(["number", "category"]), min_size=1, max_size=5),
    encode=st.sampled_from(["onehot", "codes"]),
    unknown=st.sampled_from(["refuse", "ignore", "column"]),
    missing=st.sampled_from(["refuse", "mean", "median", "most_frequent"]),
    indicator=st.booleans(),
    n=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_width_names_and_codes_agree_for_any_columns_and_options(
    kinds: list[str], encode: Any, unknown: Any, missing: Any, indicator: bool, n: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    gap = missing != "refuse"
    rows: dict[str, list[Any]] = {"t": [float(i) for i in range(n)]}
    for i, kind in enumerate(kinds):
        values = rng.normal(size=n).tolist() if kind == "number" else [f"v{k}" for k in rng.integers(0, 3, n)]
        rows[f"c{i}"] = [None if gap and rng.random() < 0.3 else v for v in values]
        rows[f"c{i}"][0] = values[0]
    options: dict[str, Any] = {"encode": encode, "unknown": unknown, "missing": missing, "missing_indicator": indicator}
    data = table(rows, "t", test=0, task="regression", **options)
    assert data.train.x.shape == (n, len(data.features))
    assert len(set(data.features)) == len(data.features)
    schema = Schema.of(json.loads(json.dumps(data.schema)))
    assert schema.as_dict() == data.schema
    assert torch.equal(read_rows(rows, data.schema).x.nan_to_num(-7), data.train.x.nan_to_num(-7))
    for i, kind in enumerate(kinds):
        if kind == "number":
            seen = data.train.x[:, data.features.index(f"c{i}")]
            assert seen.nan_to_num(-7).tolist() == [-7 if v is None else v for v in rows[f"c{i}"]]
    if encode == "codes" and "category" in kinds:
        codes = [count > 0 for count in data.categories]
        assert codes == sorted(codes), "codes are last"
        for count, column in zip(data.categories, data.train.x.T, strict=True):
            assert count == 0 or ((column >= 0) & (column < count) & (column == column.floor()) | column.isnan()).all()


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown option": ({"weigth": "age"}, r"data: no argument 'weigth'; did you mean 'weight'\?"),
    "a dialect": ({"delimiter": ";"}, "data: no argument 'delimiter'"),
    "keep": ({"keep": ["agee"]}, r"data.keep: no column 'agee' in rows; did you mean 'age'\?"),
    "ids": ({"ids": ["nam"]}, "data.ids: no column 'nam' in rows; did you mean 'name'"),
    "weight": ({"weight": "w"}, "data.weight: no column 'w'"),
    "numeric": ({"numeric": ["agee"]}, "data.numeric: no column 'agee'"),
    "dates": ({"dates": ["whenn"]}, "data.dates: no column 'whenn'"),
    "group": ({"group": "famly"}, "data.group: no column 'famly'"),
    "kept and dropped": ({"keep": ["age"], "drop": ["age"]}, "data.keep: 'age' is in data.drop too"),
    "declared twice": ({"categorical": ["age"], "numeric": ["age"]}, "column 'age' is declared twice"),
    "the target as an input": ({"keep": ["t"]}, "data.keep: 't' is the target"),
    "no target": ({"target": []}, "data.target: ..; name at least one column"),
    "texts as targets": ({"target": ["age", "city"]}, "data.target: column 'city' of rows holds texts; several targets"),
    "classes of two columns": ({"target": ["age", "city"], "task": "classification"}, "2 columns and data.task=classification"),
    "two ways to split": ({"group": "city", "time": "age"}, "data: give one of group, time and split"),
    "a text as a number": ({"numeric": ["city"]}, "column 'city', row 0: 'Rome' is not a number"),
}


@pytest.mark.parametrize(("options", "says"), CALLS.values(), ids=CALLS.keys())
def test_a_wrong_option_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        people(**options)
