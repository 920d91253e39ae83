"""The same rows give the same dataset from CSV, Parquet, frames and dicts. Splits by groups, by time, by a column."""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from trainkit import Dataset, UserError, csv, parquet, table
from trainkit.app.config.build import build
from trainkit.core.errors import UserErrors
from trainkit.data.tables import read_rows
from trainkit.data.tables.memory import ArrowTable

ROWS: dict[str, list[Any]] = {
    "width": [1.5, 2.0, -300.0, 0.25],
    "colour": ["red", "blue", "red", "green"],
    "wet": [True, False, False, True],
    "count": [3, 1, 2, 2],
    "day": [date(2024, 2, 29), date(2024, 3, 1), date(1970, 1, 1), date(2024, 3, 1)],
    "kind": ["rose", "iris", "iris", "rose"],
}
NAMES = list(ROWS)
OPTIONS: dict[str, Any] = {"test": 0, "dates": ["day"]}


def dicts() -> list[dict[str, Any]]:
    return [dict(zip(NAMES, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]


def as_csv(path: Path) -> Path:
    pd.DataFrame(ROWS).replace({True: "true", False: "false"}).to_csv(path, index=False)
    return path


def as_parquet(path: Path) -> Path:
    pl.DataFrame(ROWS).write_parquet(path)
    return path


GIVEN: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(ROWS),
    "pandas with an index": lambda: pd.DataFrame(ROWS, index=[7, 8, 9, 10]),
    "pandas with categories": lambda: pd.DataFrame(ROWS).astype({"colour": "category"}),
    "polars": lambda: pl.DataFrame(ROWS),
    "polars with categories": lambda: pl.DataFrame(ROWS).with_columns(pl.col("colour").cast(pl.Categorical)),
    "arrow": lambda: pa.table(ROWS),
    "arrow in chunks": lambda: pa.concat_tables([pa.table(ROWS).slice(0, 1), pa.table(ROWS).slice(1)]),
    "large texts": lambda: pa.table({**ROWS, "colour": pa.array(ROWS["colour"], pa.large_string())}),
    "dicts": dicts,
    "columns": lambda: ROWS,
    "arrays": lambda: {**ROWS, "width": np.array(ROWS["width"]), "count": torch.tensor(ROWS["count"])},
}


def check(data: Dataset) -> None:
    #                                blue green red  false true
    assert data.train.x.tolist() == [
        [1.5, 0, 0, 1, 0, 1, 3, 19782],
        [2.0, 1, 0, 0, 1, 0, 1, 19783],
        [-300, 0, 0, 1, 1, 0, 2, 0],
        [0.25, 0, 1, 0, 0, 1, 2, 19783],
    ]
    names = ("width", "colour=blue", "colour=green", "colour=red", "wet=false", "wet=true", "count", "day")
    assert data.features == names
    assert data.classes == ("iris", "rose")
    assert data.train.t.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("make", GIVEN.values(), ids=GIVEN.keys())
def test_rows_given_in_python_are_one_table(make: Callable[[], Any], tmp_path: Path) -> None:
    data = table(make(), "kind", **OPTIONS)
    check(data)
    assert torch.equal(read_rows(make(), data.schema).x, data.train.x)
    first = csv(str(as_csv(tmp_path / "d.csv")), "kind", **OPTIONS)
    assert torch.equal(read_rows(make(), first.schema).x, first.train.x), "a model of a CSV file predicts for other rows"


def test_files_are_the_same_table(tmp_path: Path) -> None:
    sheet, columns = as_csv(tmp_path / "d.csv"), as_parquet(tmp_path / "d.parquet")
    check(csv(str(sheet), "kind", **OPTIONS))
    data = parquet(str(columns), "kind", **OPTIONS)
    check(data)
    for path in (sheet, columns, str(columns)):
        assert torch.equal(read_rows(path, data.schema).x, data.train.x)


def test_one_row_is_a_dict_of_values() -> None:
    data = table(ROWS, "kind", **OPTIONS)
    row = {**dicts()[2], "day": "1970-01-01"}
    assert torch.equal(read_rows(row, data.schema).x, data.train.x[2:3])
    assert torch.equal(read_rows([dicts()[2]], data.schema).x, data.train.x[2:3])


def test_rows_of_a_service_may_hold_numbers_as_texts_and_leave_keys_out() -> None:
    data = table({"a": [1.5, None, 3.0], "c": ["x", "y", "x"], "t": ["p", "q", "p"]}, "t", test=0, missing="mean")
    rows = read_rows([{"c": "x"}, {"a": "2.5", "c": "y", "more": 1}], data.schema)
    assert rows.x[0, 0].isnan()
    assert rows.x[1].tolist() == [2.5, 0, 1]
    assert rows.t is None


def test_numbers_that_pandas_calls_categories_are_categories() -> None:
    frame = pd.DataFrame({"zip": pd.Categorical([20, 3, 20]), "t": ["a", "b", "a"]})
    data = table(frame, "t", test=0)
    assert data.features == ("zip=3", "zip=20")
    assert read_rows({"zip": [3]}, data.schema).x.tolist() == [[1, 0]]


def test_nan_of_pandas_and_null_of_polars_are_missing() -> None:
    for frame in (
        pd.DataFrame({"a": [1.0, np.nan], "c": ["x", None], "t": [0.5, 1.5]}),
        pl.DataFrame({"a": [1.0, None], "c": ["x", None], "t": [0.5, 1.5]}),
        pl.DataFrame({"a": [1.0, float("nan")], "c": ["x", None], "t": [0.5, 1.5]}),
    ):
        with pytest.raises(UserError, match=r"rows: column 'a', row 1: missing \(1 in total\)"):
            table(frame, "t", test=0, task="regression")
        data = table(frame, "t", test=0, task="regression", missing="mean")
        assert data.train.x.nan_to_num(-7).tolist() == [[1, 1], [-7, 0]]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.text("abc ", max_size=3)), min_size=2, max_size=15)
)
def test_any_rows_are_the_same_in_a_frame_a_dict_and_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    columns = {"a": [a for a, _ in rows], "c": [c for _, c in rows], "t": [i / 2 for i in range(len(rows))]}
    pd.DataFrame(columns).to_parquet(path)
    options: dict[str, Any] = {"test": 0, "missing": "mean", "task": "regression"}
    first = table(columns, "t", **options)
    others = [table(pl.DataFrame(columns), "t", **options), parquet(str(path), "t", **options)]
    for data in others:
        assert data.schema == first.schema
        assert torch.equal(data.train.x, first.train.x)
    assert first.train.x[:, 0].tolist() == columns["a"]


WRONG: dict[str, tuple[Any, str]] = {
    "a list of numbers": ([1, 2], "rows: is a list; give a pandas or polars frame, a pyarrow.Table, a list of dicts"),
    "a number": (3, "rows: is a int; give"),
    "mixed values": ({"a": [1, "x"], "t": [0, 1]}, "rows: column 'a': .*give it values of one type"),
    "columns of other lengths": ({"a": [1, 2, 3], "t": [0, 1]}, "rows: cannot be read as a table"),
    "lists": ({"a": [[1], [2]], "t": [0, 1]}, r"column 'a' holds list<.*; set data.drop=\[a\]"),
    "no rows": ({"a": [], "t": []}, "rows: no rows; needs at least one"),
    "one row": ({"a": [1], "t": [1]}, "rows: has one row; training needs at least 2"),
    "no target": ({"a": [1, 2]}, r"data.target: no column 't' in rows; \(a\)"),
}


@pytest.mark.parametrize(("rows", "says"), WRONG.values(), ids=WRONG.keys())
def test_rows_that_are_no_table_are_one_error(rows: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        table(rows, "t", test=0)


def test_a_parquet_file_that_is_not_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    path.write_text("a,t\n1,2\n")
    with pytest.raises(UserError, match=r"d.parquet: cannot be read as Parquet"):
        parquet(str(path), "t")
    with pytest.raises(UserError, match=r"data: no file 'none.parquet'; give the path of a Parquet file"):
        parquet("none.parquet", "t")
    pq.write_table(pa.table({"a": [1.0, float("inf")], "t": [0.5, 1]}), path)
    with pytest.raises(UserError, match=r"d.parquet: column 'a', row 1: inf is not finite"):
        parquet(str(path), "t", test=0)


def test_a_second_table_is_the_test_split(tmp_path: Path) -> None:
    later = {**ROWS, "width": [7.0, 8.0, 9.0, 10.0]}
    data = table(ROWS, "kind", **{**OPTIONS, "test": pl.DataFrame(later)})
    pq.write_table(pa.table(ROWS), tmp_path / "a.parquet")
    pq.write_table(pa.table(later), tmp_path / "b.parquet")
    other = parquet(str(tmp_path / "a.parquet"), "kind", str(tmp_path / "b.parquet"), dates=["day"])
    for split in (data.test, other.test):
        assert split is not None
        assert split.x[:, 0].tolist() == [7, 8, 9, 10]


# Splits


def numbered(n: int, **columns: Any) -> dict[str, Any]:
    return {"i": np.arange(float(n)), **columns, "t": np.arange(float(n)) / 2}


def test_a_group_is_on_one_side() -> None:
    patient = [f"p{i % 7}" for i in range(70)]
    data = table(numbered(70, patient=patient), "t", test=0.3, group="patient")
    assert data.features == ("i",)
    assert data.test is not None
    held, kept = ({patient[int(i)] for i in split.x[:, 0]} for split in (data.test, data.train))
    assert held | kept == set(patient)
    assert not held & kept
    assert len(held) == 2
    other = table(numbered(70, patient=patient), "t", test=0.3, group="patient", seed=1)
    assert other.test is not None
    assert other.test.x.tolist() != data.test.x.tolist()


@pytest.mark.parametrize(
    "times",
    [
        [5.0, 1.0, 4.0, 2.0, 3.0],
        [50, 10, 40, 20, 30],
        ["2024-05-01", "2024-01-01", "2024-04-01", "2024-02-01", "2024-03-01"],
        [date(2024, m, 1) for m in (5, 1, 4, 2, 3)],
        [date(2024, 5, 1), date(1960, 1, 1), date(2024, 4, 1), date(2000, 1, 1), date(2001, 1, 1)],
    ],
)
def test_the_last_rows_by_time_are_held_out(times: list[Any]) -> None:
    data = table(numbered(5, when=times), "t", test=0.4, time="when")
    assert data.features == ("i",)
    assert data.test is not None
    assert data.test.x[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("when", "form"),
    [
        (["01.02.2024", "28.01.2024", "02.02.2024", "29.01.2024", "30.01.2024"], "%d.%m.%Y"),
        ([1022024, 28012024, 2022024, 29012024, 30012024], "%d%m%Y"),
    ],
)
def test_times_of_another_format_need_it(when: list[Any], form: str, tmp_path: Path) -> None:
    rows = numbered(5, when=[f"{w:08}" if isinstance(w, int) else w for w in when])
    data = table(rows, "t", test=0.4, time="when", dates={"when": form})
    assert data.features == ("i",)
    assert data.test is not None
    assert data.test.x[:, 0].tolist() == [0, 2]
    lines = [f"{i},{w},{t}" for i, w, t in zip(rows["i"], rows["when"], rows["t"], strict=True)]
    (tmp_path / "d.csv").write_text("\n".join(["i,when,t", *lines]) + "\n")
    for schema in (None, data.schema):
        read = csv(str(tmp_path / "d.csv"), "t", test=0.4, time="when", dates={"when": form}, schema=schema)
        assert read.test is not None
        assert read.test.x[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize("text", ["30.01.2024", "2024-1-9", "noon"])
def test_a_text_that_is_not_a_date_gives_no_time(text: str) -> None:
    with pytest.raises(UserError, match=rf"rows: column 'when', row 1: '{text}' is not an ISO 8601 date.*data.dates=\{{when: "):
        table(numbered(2, when=["2024-01-01", text]), "t", test=0.5, time="when")


def test_times_of_several_zones_are_in_order() -> None:
    when = ["2024-01-01T00:00+02:00", "2023-12-31T23:00+00:00", "2023-12-31T21:00", "2024-01-01T05:00+12:00", "2023-12-01"]
    data = table(numbered(5, when=when), "t", test=0.4, time="when")
    assert data.test is not None
    assert data.test.x[:, 0].tolist() == [0, 1]  # in UTC: 22:00, 23:00, 21:00, 17:00, and weeks before


def test_a_column_may_say_the_split() -> None:
    part = ["train", "test", "Train", "valid", "training", "validation"]
    data = table(numbered(6, part=part), "t", split="part")
    assert data.features == ("i",)
    assert data.test is not None
    assert data.val is not None
    assert [s.x[:, 0].tolist() for s in (data.train, data.val, data.test)] == [[0, 2, 4], [3, 5], [1]]
    with pytest.raises(UserError, match=r"column 'part', row 0: 'a' \(1 in total\); needs train, val or test"):
        table(numbered(2, part=["a", "train"]), "t", split="part")
    with pytest.raises(UserError, match="column 'part' has no row for train"):
        table(numbered(2, part=["test", "val"]), "t", split="part")


@pytest.mark.parametrize("key", ["group", "time"])
def test_a_row_without_group_or_time_is_refused(key: str) -> None:
    options: Any = {key: "by"}
    with pytest.raises(UserError, match=r"column 'by', row 1: missing \(1 in total\); rows are held out by it"):
        table(numbered(3, by=["a", None, "b"]), "t", test=0.5, **options)


# Configurations

CONF: dict[str, Any] = {
    "model": [{"Linear": [2, 2]}],
    "loss": "CrossEntropyLoss",
    "optimizer": "SGD",
}


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_the_options_are_checked_before_the_file_is_read(name: str) -> None:
    data = {"name": name, "path": "none", "target": "t", "dropp": ["a"], "missing": "men", "weight": 3, "dates": "when"}
    with pytest.raises(UserErrors) as raised:
        build({**CONF, "data": data})
    lines = str(raised.value).splitlines()
    for says in (
        "data: no argument 'dropp'; did you mean 'drop'",
        "data.missing: 'men'; did you mean 'mean'",
        "data.weight: 3; needs text",
        "data.dates: 'when'; needs a list of texts or a mapping",
    ):
        assert any(line.startswith(says) for line in lines), (says, lines)
    assert len(lines) == 4
    if name == "parquet":
        with pytest.raises(UserErrors, match=re.escape("data: no argument 'delimiter'")):
            build({**CONF, "data": {"name": name, "path": "none", "target": "t", "delimiter": ";"}})


def test_a_source_records_its_options(tmp_path: Path) -> None:
    path = str(as_csv(tmp_path / "d.csv"))
    assert csv(path, "kind", **OPTIONS).source == {
        "name": "csv",
        "path": path,
        "target": "kind",
        "test": 0,
        "dates": ["day"],
    }
    assert table(ROWS, "kind", **OPTIONS).source == {"name": "memory"}


VALUES: dict[str, Any] = {
    "a date": datetime.date(2024, 2, 29),
    "a time": datetime.datetime(2024, 2, 29, 12, 30),
    "a number of NumPy": np.int64(41),
    "a float of NumPy": np.float32(1.5),
    "a date of NumPy": np.datetime64("2024-02-29"),
    "a decimal": decimal.Decimal("1.5"),
    "a number of torch": torch.tensor(1.5),
    "nothing": None,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_dict_of_values_is_one_row(name: str) -> None:
    row = {"c": "x", "v": VALUES[name]}
    one, listed = ArrowTable(row), ArrowTable([row])
    assert one.rows == listed.rows == 1
    assert one.column("v").to_pylist() == listed.column("v").to_pylist()


def test_a_row_of_a_frame_is_one_row() -> None:
    frame = pd.DataFrame({"c": ["x", "y"], "v": [1.5, None], "when": pd.to_datetime(["2024-02-29", "2024-03-01"])})
    for i in range(2):
        one, whole = ArrowTable(frame.iloc[i]), ArrowTable(frame.iloc[[i]])
        assert one.table.to_pydict() == whole.table.to_pydict()


@pytest.mark.parametrize("typed", [datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29), np.datetime64("2024-02-29")])
def test_a_typed_date_needs_no_format(typed: Any) -> None:
    rows = {"when": ["28.02.2024", "01.03.2024", "02.03.2024"], "t": [1.5, 2.5, 3.5]}
    data = table(rows, "t", test=0, dates={"when": "%d.%m.%Y"})
    day = float(data.train.x[0, 0]) + 1
    assert read_rows([{"when": "29.02.2024"}], data.schema).x.tolist() == [[day]]
    assert read_rows([{"when": typed}], data.schema).x.tolist() == [[day]]
    assert read_rows({"when": typed}, data.schema).x.tolist() == [[day]]
