"""CSV files: what the columns become, and how each thing wrong with a file is told."""

from __future__ import annotations

import builtins
import csv as stdlib
import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit.core.errors import UserError
from trainkit.data.dataset import Dataset
from trainkit.data.sources.csv import csv
from trainkit.data.tables import csv_file, read_rows
from trainkit.data.tables.csv_file import MAX_LINE_BYTES, read_arrow
from trainkit.data.tables.doubtful import MAX_CATEGORIES
from trainkit.data.tables.infer import MAX_INFERRED_CLASSES
from trainkit.data.tables.schema import MISSING
from trainkit.data.transforms.normalize import Normalizer

FLOWERS = """\
width,colour,wet,kind
1.5,red,true,rose
2,blue,false,iris
-3e2,red,false,iris
0.25,green,true,rose
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Writes a text (or bytes) to a file and gives its path."""

    def write(content: str | bytes, name: str = "data.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_numbers_are_features_and_texts_are_one_hot_in_the_file_s_order(file: Callable[..., str]) -> None:
    data = csv(file(FLOWERS), "kind", test=0)
    #                              width  blue green red  false true
    assert data.train.x.tolist() == [
        [1.5, 0, 0, 1, 0, 1],
        [2.0, 1, 0, 0, 1, 0],
        [-300, 0, 0, 1, 1, 0],
        [0.25, 0, 1, 0, 0, 1],
    ]
    assert data.classes == ("iris", "rose")
    assert data.train.t.tolist() == [1, 0, 0, 1]
    assert data.test is None
    assert data.normalize == "feature"


def test_the_schema_is_plain_and_survives_json(file: Callable[..., str]) -> None:
    schema = csv(file(FLOWERS), "kind", test=0).schema
    assert json.loads(json.dumps(schema)) == schema
    assert schema == {
        "target": "kind",
        "task": "classification",
        "columns": [
            {"name": "width", "kind": "number"},
            {"name": "colour", "kind": "category", "categories": ["blue", "green", "red"]},
            {"name": "wet", "kind": "category", "categories": ["false", "true"]},
        ],
        "classes": ["iris", "rose"],
        "targets": "index",
        "off_value": 0.0,
        "missing": "refuse",
        "statistic": "mean",
        "missing_indicator": False,
        "missing_values": list(MISSING),
        "unknown": "refuse",
        "encode": "onehot",
        "ids": [],
        "weight": None,
        "dialect": {},
    }


def test_a_schema_of_an_earlier_version_is_read(file: Callable[..., str]) -> None:
    path = file(FLOWERS)
    old = {
        "target": "kind",
        "task": "classification",
        "columns": ["width", "colour", "wet"],
        "numeric": ["width"],
        "categories": {"colour": ["blue", "green", "red"], "wet": ["false", "true"]},
        "classes": ["iris", "rose"],
        "targets": "index",
        "low": 0.0,
        "missing": "refuse",
    }
    new = csv(path, "kind", test=0)
    assert torch.equal(read_rows(path, old).x, new.train.x)
    assert torch.equal(csv(path, "kind", test=0, schema=old).train.x, new.train.x)
    for missing in ("mean", "median"):
        rows = read_rows(file("width,colour,wet\n,red,true\n", "later.csv"), {**old, "missing": missing})
        assert rows.x[0, 0].isnan()
    with pytest.raises(UserError, match=r"data.missing: 'mean'; this model, of an earlier version, holds no statistic"):
        read_rows(path, old, missing="mean")


TASKS: dict[str, tuple[list[str], tuple[str, ...] | None]] = {
    "texts": (["b", "a", "b"], ("a", "b")),
    "bools": (["true", "false", "true"], ("false", "true")),
    "integers, by value": (["10", "9", "-1"], ("-1", "9", "10")),
    "as many integers as are few": (
        [str(i) for i in range(MAX_INFERRED_CLASSES)],
        tuple(map(str, range(MAX_INFERRED_CLASSES))),
    ),
    "more integers": ([str(i) for i in range(MAX_INFERRED_CLASSES + 1)], None),
    "fractions": (["0.5", "1", "2"], None),
    "dates": (["2024-02-01", "2024-01-01", "2024-01-01"], ("2024-01-01", "2024-02-01")),
}


@pytest.mark.parametrize(("values", "classes"), TASKS.values(), ids=TASKS.keys())
def test_the_target_tells_the_task(file: Callable[..., str], values: list[str], classes: tuple[str, ...] | None) -> None:
    data = csv(file("x,y\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values))), "y", test=0)
    assert data.classes == classes
    if classes is None:
        assert data.train.label is None
        assert data.train.t.tolist() == [[float(value)] for value in values]
    else:
        assert data.train.label is not None
        assert [classes[i] for i in data.train.label] == values


def test_the_task_can_be_said(file: Callable[..., str]) -> None:
    path = file("x,y\n1,0\n2,1.0\n3,0\n")
    assert csv(path, "y", test=0, task="regression").train.t.tolist() == [[0], [1], [0]]
    assert csv(path, "y", test=0, task="classification").classes == ("0", "1.0")


def test_targets_are_encoded(file: Callable[..., str]) -> None:
    data = csv(file(FLOWERS), "kind", test=0, targets="binary", off_value=-1)
    assert data.train.t.tolist() == [[1], [-1], [-1], [1]]
    assert data.threshold == 0.0


def test_numbers_can_be_categories_and_columns_dropped(file: Callable[..., str]) -> None:
    path = file("id,zip,size,y\n1,10,0.5,a\n2,9,1.5,b\n3,10,2.5,a\n")
    data = csv(path, "y", test=0, categorical=["zip"], drop=["id"])
    assert data.features == ("zip=9", "zip=10", "size")
    assert data.train.x.tolist() == [[0, 1, 0.5], [1, 0, 1.5], [0, 1, 2.5]]


def test_a_constant_column_is_fine(file: Callable[..., str]) -> None:
    assert csv(file("a,b,y\n1,c,0\n1,c,1\n"), "y", test=0).train.x.tolist() == [[1, 1], [1, 1]]


LAYOUTS = {
    "carriage returns": FLOWERS.replace("\n", "\r\n").encode(),
    "a byte order mark": b"\xef\xbb\xbf" + FLOWERS.encode(),
    "no newline at the end": FLOWERS.rstrip().encode(),
    "empty lines": b"\n" + FLOWERS.replace("\n", "\n\n").encode(),
    "quotes": FLOWERS.replace("red", '"red"').encode(),
    "spaces": FLOWERS.replace(",", ", ").replace(", colour, wet, kind", ",colour,wet,kind").encode(),
}


@pytest.mark.parametrize("content", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_layout_of_the_file_does_not_matter(file: Callable[..., str], content: bytes) -> None:
    plain = csv(file(FLOWERS), "kind", test=0)
    other = csv(file(content, "other.csv"), "kind", test=0)
    zipped = csv(file(gzip.compress(content), "other.csv.gz"), "kind", test=0)
    assert plain.schema == other.schema == zipped.schema
    assert torch.equal(plain.train.x, other.train.x)
    assert torch.equal(plain.train.x, zipped.train.x)


def test_a_file_of_many_blocks_is_one_table(file: Callable[..., str]) -> None:
    n = 4 * MAX_LINE_BYTES // len("1,left,0\n")
    path = file("a,b,y\n" + "1,left,0\n" * n + "2.5,right,1\n2.5,right,1\n")
    data = csv(path, "y", test=0)
    assert len(data.train) == n + 2
    assert data.train.x[-3:].tolist() == [[1, 1, 0], [2.5, 0, 1], [2.5, 0, 1]]
    assert data.train.x.sum(0).tolist() == [n + 5, n, 2]


# Missing values


@pytest.mark.parametrize("word", MISSING)
def test_each_spelling_of_missing_is_nan_or_all_zeros(file: Callable[..., str], word: str) -> None:
    path = file(f"a,b,y\n1,red,0\n{word},blue,1\n3,{word},0\n")
    data = csv(path, "y", test=0, missing="median")
    assert data.train.x[0].tolist() == [1, 0, 1]
    assert data.train.x[1, 0].isnan()
    assert data.train.x[2].tolist() == [3, 0, 0]
    assert data.fill == "median"
    with pytest.raises(
        UserError, match=r"column 'a', line 3: missing \(1 in total\); .* data.missing=mean, median or most_frequent"
    ):
        csv(path, "y", test=0)


@pytest.mark.parametrize("numbers", ["1 2 3 10", "1 100", "3", "5 1 4", "-1 -2 0 7 7 9"])
def test_the_median_is_that_of_numpy(file: Callable[..., str], numbers: str) -> None:
    rows = "".join(f"{number},{i % 2}\n" for i, number in enumerate([*numbers.split(), "", ""]))
    data = csv(file(f"a,y\n{rows}"), "y", test=0, missing="median")
    assert Normalizer.fit(data).fill.item() == np.median([float(n) for n in numbers.split()])  # type: ignore[union-attr]


def test_a_column_without_a_number_is_all_missing(file: Callable[..., str]) -> None:
    assert csv(file("a,b,y\n1,,0\n2,,1\n"), "y", test=0, missing="mean").train.x[:, 1].isnan().all()


def test_a_missing_target_is_never_filled(file: Callable[..., str]) -> None:
    for values in (["a", "", "b"], ["1", "", "2"], ["0.5", "", "1.5"]):
        path = file("x,y\n" + "".join(f"1,{value}\n" for value in values))
        with pytest.raises(UserError, match=r"target 'y', line 3: missing \(1 in total\); remove these rows"):
            csv(path, "y", test=0, missing="mean")


# The test part


def many(n: int = 100) -> str:
    """Column `id` counts; one in ten is of class b."""
    return "id,y\n" + "".join(f"{i},{'b' if i % 10 == 0 else 'a'}\n" for i in range(n))


def ids(part: Any) -> list[int]:
    return [int(i) for i in part.x[:, 0].tolist()]


def test_the_split_keeps_every_row_once_and_each_class_s_share(file: Callable[..., str]) -> None:
    data = csv(file(many()), "y", test=0.3)
    assert data.test is not None
    assert sorted(ids(data.train) + ids(data.test)) == list(range(100))
    assert data.test.label is not None
    assert data.test.label.bincount().tolist() == [27, 3]


def test_the_split_is_the_seed_s(file: Callable[..., str]) -> None:
    path = file(many())
    first, same, other = (ids(csv(path, "y", seed=seed).test) for seed in (0, 0, 1))
    assert first == same != other


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=4, max_size=60).filter(lambda ys: len(set(ys)) > 1),
    share=st.floats(0.2, 0.9),
    seed=st.integers(0, 3),
)
def test_a_class_is_never_held_out_whole_nor_far_from_its_share(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], share: float, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "split.csv"
    path.write_text("x,y\n" + "".join(f"{i},{y}\n" for i, y in enumerate(labels)))
    try:
        data = csv(str(path), "y", test=share, seed=seed)
    except UserError as error:
        assert "rows is fewer than one" in str(error)  # noqa: PT017
        return
    assert data.test is not None
    assert sorted(ids(data.train) + ids(data.test)) == list(range(len(labels)))
    assert data.classes is not None
    for index, name in enumerate(data.classes):
        count = labels.count(name)
        held = int((data.test.label == index).sum())
        assert held <= count - 1
        assert abs(held - count * share) <= 1


def test_a_regression_s_split_is_a_share_of_the_rows(file: Callable[..., str]) -> None:
    data = csv(file("x,y\n" + "".join(f"{i},{i / 2}\n" for i in range(10))), "y", test=0.25)
    assert data.test is not None
    assert len(data.test) == 2  # round(2.5)
    assert data.test.t.tolist() == [[i / 2] for i in ids(data.test)]


def test_a_second_file_is_the_test_part_whatever_its_order_of_columns(file: Callable[..., str]) -> None:
    later = file("kind,more,wet,width,colour\niris,0,true,7,green\n", "later.csv")
    data = csv(file(FLOWERS), "kind", test=later)
    assert len(data.train) == 4
    assert data.test is not None
    assert data.test.x.tolist() == [[7, 0, 1, 0, 0, 1]]
    assert data.test.t.tolist() == [0]


# Later files


def test_a_later_file_needs_no_target(file: Callable[..., str]) -> None:
    schema = csv(file(FLOWERS), "kind", test=0).schema
    rows = read_rows(file("colour,width,wet\nblue,3,true\n", "later.csv"), schema)
    assert rows.x.tolist() == [[3, 1, 0, 0, 0, 1]]
    assert rows.t is None
    assert rows.label is None


def test_a_later_file_with_the_target_is_read_as_the_first_was(file: Callable[..., str]) -> None:
    path = file(FLOWERS)
    data = csv(path, "kind", test=0, targets="onehot", off_value=-1)
    rows = read_rows(path, data.schema)
    for a, b in ((rows.x, data.train.x), (rows.t, data.train.t), (rows.label, data.train.label)):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_a_schema_takes_the_place_of_inference(file: Callable[..., str]) -> None:
    schema = csv(file(FLOWERS), "kind", test=0).schema
    data = csv(file("wet,colour,width,kind\ntrue,red,1,rose\ntrue,red,2,rose\n", "later.csv"), "kind", test=0, schema=schema)
    assert data.schema == schema
    assert data.classes == ("iris", "rose")
    assert data.train.x.shape == (2, 6)


def test_an_empty_line_of_a_single_column_is_a_missing_value(file: Callable[..., str]) -> None:
    schema = csv(file("x,y\n1,a\n2,b\n"), "y", test=0, missing="mean").schema
    x = read_rows(file("x\n1\n\n2\n", "later.csv"), schema).x
    assert x.isnan()[:, 0].tolist() == [False, True, False]


def test_a_second_reading_of_some_columns_skips_empty_lines_as_the_first(file: Callable[..., str]) -> None:
    data = csv(file("x,when,y\n1,2024-01-01,0\n\n2,2024-01-02,1\n"), "y", test=0, categorical=["when"])
    assert data.train.x.tolist() == [[1, 1, 0], [2, 0, 1]]


def test_only_the_columns_whose_spelling_is_lost_are_read_twice(
    file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[list[str]] = []

    def counted(path: str, dialect: Any, kinds: dict[str, Any], missing_values: Any) -> Any:
        readings.append(list(kinds))
        return read_arrow(path, dialect, kinds, missing_values)

    monkeypatch.setattr(csv_file, "read_arrow", counted)
    csv(file(FLOWERS), "kind", test=0)
    assert readings == [["width", "colour", "wet", "kind"]]
    readings.clear()
    data = csv(file("x,time,y\n1,10:00,01\n2,11:00,02\n"), "y", test=0)
    assert readings == [["x", "time", "y"], ["time", "y"]]
    assert data.classes == ("01", "02")


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(
            st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=k, max_size=k),
            min_size=2,
            max_size=20,
        )
    )
)
def test_a_table_of_numbers_is_read_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]]) -> None:
    path = tmp_path_factory.getbasetemp() / "numbers.csv"
    names = [f"x{i}" for i in range(len(rows[0]))]
    with open(path, "w", newline="") as out:
        writer = stdlib.writer(out)
        writer.writerow([*names, "y"])
        writer.writerows([*row, row[0]] for row in rows)
    data = csv(str(path), "y", test=0, task="regression")
    whole = torch.tensor(rows, dtype=torch.float64)
    assert torch.equal(data.train.x, whole)
    assert torch.equal(data.train.t, whole[:, :1])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6), min_size=2, max_size=8))
def test_any_text_is_a_category(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "texts.csv"
    with open(path, "w", newline="", encoding="utf-8") as out:
        writer = stdlib.writer(out, quoting=stdlib.QUOTE_ALL)
        writer.writerow(["text", "y"])
        writer.writerows((text, i) for i, text in enumerate(texts))
    data = csv(str(path), "y", test=0, task="regression", categorical=["text"], missing="mean")
    known = data.schema["columns"][0].get("categories", [])  # type: ignore[index]
    read = [known[int(row.argmax())] if row.any() else None for row in data.train.x]
    for seen, text in zip(read, texts, strict=True):
        if text.strip() in MISSING:
            assert seen is None
        else:  # equal numbers in other spelling, such as 1 and 01, are one category
            assert seen == text.strip() or float(seen) == float(text)  # type: ignore[arg-type]
    assert torch.equal(read_rows(str(path), data.schema).x, data.train.x)


# What is wrong


@given(st.text('xy1a,"\n\r .-?é', max_size=40).map(str.encode) | st.binary(max_size=30))
def test_any_bytes_are_a_dataset_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    for content in (body, b"x,y\n" + body):
        path.write_bytes(content)
        with suppress(UserError):
            assert isinstance(csv(str(path), "y", test=0.5, missing="mean"), Dataset)


FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "data.csv: empty; needs a header"),
    "only a newline": ("\n", "data.csv: empty"),
    "header only": ("x,y\n", "data.csv: has a header but no rows"),
    "one row": ("x,y\n1,a\n", "data.csv: has one row; training needs at least 2"),
    "a short row": ("x,y\n1,a\n2\n3,b\n", "data.csv, line 3: 1 values, the header has 2"),
    "a long row": ("x,y\n1,a\n2,b\n3,b,4\n", "data.csv, line 4: 3 values, the header has 2"),
    "the same name twice": ("x,x,y\n1,2,a\n1,2,b\n", "2 columns are named 'x'"),
    "a column without a name": (",x,y\n0,1,a\n1,2,b\n", r"column 1 has no name \(a row index\?\); .* data.drop=\[''\]"),
    "no such target": ("x,Y\n1,a\n2,b\n", r"data.target: no column 'y' in .*; did you mean 'Y'\? \(x, Y\)"),
    "a header that is a row": (
        "1.5,2,3\n1.5,2,3\n",
        r"no column 'y' in .* \(its first line looks like a row: 1.5, 2, 3; without a header set data.header=false",
    ),
    "nothing but the target": ("y\na\nb\n", "has only the target 'y'"),
    "one class": ("x,y\n1,a\n2,a\n", "target 'y' is 'a' in every row; needs at least 2 classes"),
    "Latin-1": ("x,y\n1,a\n2,für\n".encode("latin-1"), "line 3, byte 4: 0xfc is not UTF-8; save the file as UTF-8"),
    "a Latin-1 header": ("für,y\n1,a\n2,b\n".encode("latin-1"), "line 1, byte 2: 0xfc is not UTF-8"),
    "UTF-16": ("x,y\n1,a\n2,b\n".encode("utf-16"), "line 1, byte 1: 0xff is not UTF-8"),
    "infinity": ("x,y\n1,a\n-inf,b\ninf,b\n", r"column 'x', line 3: -inf is not finite \(2 in total\); correct it"),
    "beyond float64": ("x,y\n1,a\n1e309,b\n", r"column 'x', line 3: inf is not finite"),
    "an infinite target": ("x,y\n1,0.5\n2,inf\n", "column 'y', line 3: inf is not finite"),
    "a missing text": ("x,y\nred,a\n,b\n", "column 'x', line 3: missing"),
    "a column of names": (
        "x,y\n" + "".join(f"n{i},{i % 2}\n" for i in range(MAX_CATEGORIES + 1)),
        "column 'x' holds 257 .* 'n0' in line 2",
    ),
    "a slip among numbers": (
        "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(MAX_CATEGORIES)) + "1O,1\n",
        r"column 'x' holds 257 different texts, such as '1O' in line 258; set data.drop=\[x\]",
    ),
    "a column of dates": (
        "x,y\n" + "".join(f"{1900 + i}-01-01,{i % 2}\n" for i in range(MAX_CATEGORIES + 1)),
        r"column 'x', line 2: '1900-01-01' is a date; data.dates=\[x\] reads it as days since 1970",
    ),
    "a target of dates": (
        "x,y\n" + "".join(f"1,{1900 + i}-01-01\n" for i in range(MAX_CATEGORIES + 1)),
        "column 'y' holds 257 .* data.task=classification",
    ),
    "a target of names": (
        "x,y\n" + "".join(f"1,n{i}\n" for i in range(MAX_CATEGORIES + 1)),
        "'y' holds 257 .* data.task=classification",
    ),
}


@pytest.mark.parametrize(("content", "says"), FILES.values(), ids=FILES.keys())
def test_a_file_s_fault_is_told_with_its_place(file: Callable[..., str], content: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        csv(file(content), "y", test=0)


COLUMNS = "width,colour,wet,kind\n"
LATER: dict[str, tuple[str, str]] = {
    "a new category": (
        COLUMNS + "1,rad,true,iris\n",
        r"later.csv: column 'colour', line 2: 'rad' .*'red'\? \(blue, green, red\)",
    ),
    "a new class": (COLUMNS + "1,red,true,oak\n", r"column 'kind', line 2: 'oak' \(1 in total\) is in no .*\(iris, rose\)"),
    "no such column": ("Width,colour,kind\n1,red,iris\n", r"no column 'width' \(and 1 others\), .*; did you mean 'Width'"),
    "no target": ("width,colour,wet\n1,red,true\n", "later.csv: no column 'kind', the target; add it"),
    "a text among numbers": (COLUMNS + "1,red,true,iris\nx1,red,true,iris\n", "column 'width', line 3: 'x1' is not a number"),
    "a missing number": (COLUMNS + ",red,true,iris\n", "later.csv: column 'width', line 2: missing"),
    "infinity": (COLUMNS + "inf,red,true,iris\n", "later.csv: column 'width', line 2: inf is not finite"),
    "no rows": (COLUMNS, "later.csv: has a header but no rows"),
}


@pytest.mark.parametrize(("content", "says"), LATER.values(), ids=LATER.keys())
def test_a_test_file_s_fault_is_told_with_its_place(file: Callable[..., str], content: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        csv(file(FLOWERS), "kind", test=file(content, "later.csv"))


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "test too large": ({"test": 1.0}, "data.test: 1.0; needs a share from 0 up to 1"),
    "test not a number": ({"test": float("nan")}, "data.test: nan"),
    "test too small": ({"test": 0.01}, "data.test: 0.01 of 4 rows holds out none"),
    "test no file": ({"test": "nowhere.csv"}, "data: no file 'nowhere.csv'"),
    "drop": ({"drop": ["color"]}, r"data.drop: no column 'color' in .*; did you mean 'colour'\?"),
    "drop the target": ({"drop": ["kind"]}, "data.drop: 'kind' is the target"),
    "categorical": ({"categorical": ["with"]}, r"data.categorical: no column 'with' in .*; did you mean 'width'\?"),
    "a text to regress on": ({"task": "regression"}, "column 'kind', line 2: 'rose' is not a number"),
    "real classes": ({"targets": "real"}, "data.targets: 'real' does not fit class labels"),
    "index numbers": ({"target": "width", "targets": "index"}, "data.targets: 'index' does not fit the numbers of 'width'"),
    "another's schema": ({"schema": {"a": 1}}, r"data.schema: keys \(a\) are not those"),
}


@pytest.mark.parametrize(("arguments", "says"), CALLS.values(), ids=CALLS.keys())
def test_a_wrong_argument_is_named(file: Callable[..., str], arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        csv(file(FLOWERS), **{"target": "kind", "test": 0, **arguments})


def test_a_schema_keeps_its_target(file: Callable[..., str]) -> None:
    path = file(FLOWERS)
    with pytest.raises(UserError, match=r"data.target: the schema has 'kind' .got 'wet'"):
        csv(path, "wet", schema=csv(path, "kind", test=0).schema)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data: no file .*; give the path"):
        csv(str(tmp_path), "y")


def test_without_pyarrow_the_extra_is_named(file: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return ordinary(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs pyarrow; pip install 'trainkit\[csv\]'"):
        csv(file(FLOWERS), "kind")
