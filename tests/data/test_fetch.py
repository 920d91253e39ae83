"""What `make breast-cancer` and `make diabetes` bring: scikit-learn's numbers under its names, as a file that `csv` reads."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sklearn import datasets

from trainkit.core.errors import UserError
from trainkit.data.sources import fetch
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


@pytest.mark.parametrize("argv", [[], ["diabetes"], ["iris", "a.csv"], ["diabetes", "a.csv", "b.csv"]], ids=" ".join)
def test_another_name_shows_the_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main(argv) == 2
    assert capsys.readouterr().err == "usage: python -m trainkit.data.sources.fetch breast-cancer|diabetes DEST\n"


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
