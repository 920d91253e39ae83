"""CSV dialects: how a file is written does not change what is read, a guess is told, and a place is the file's line."""

from __future__ import annotations

import csv as stdlib
import gzip
import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit import UserError, csv
from trainkit.data.tables import read_rows
from trainkit.data.tables.dialect import detect

ROWS = [["a", "b", "t"], ["1.5", "red", "in"], ["-2.25", "blue", "out"], ["1000.5", "red", "in"]]
X = [[1.5, 0, 1], [-2.25, 1, 0], [1000.5, 0, 1]]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def write(content: str | bytes, name: str = "d.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def written(delimiter: str = ",", decimal: str = ".", end: str = "\n", quoting: Any = stdlib.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    writer = stdlib.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([[field.replace(".", decimal) for field in row] for row in ROWS])
    return out.getvalue()


SEMICOLONS, TABS, DECIMALS = "is separated by ';'", "is separated by tabs", "has decimal commas"
DIALECTS: dict[str, tuple[str | bytes, str, dict[str, Any], list[str]]] = {
    # content, name of the file, options, what is told
    "comma": (written(), "d.csv", {}, []),
    "semicolon": (written(";"), "d.csv", {}, [SEMICOLONS]),
    "semicolon, decimal comma": (written(";", ","), "d.csv", {}, [SEMICOLONS, DECIMALS]),
    "tab": (written("\t"), "d.tsv", {}, [TABS]),
    "tab, decimal comma": (written("\t", ","), "d.tsv", {}, [TABS, DECIMALS]),
    "bar": (written("|"), "d.txt", {}, [r"is separated by '|'"]),
    "given semicolon": (written(";"), "d.csv", {"delimiter": ";"}, []),
    "given both": (written(";", ","), "d.csv", {"delimiter": ";", "decimal": ","}, []),
    "an unusual separator": (written("^"), "d.csv", {"delimiter": "^"}, []),
    "a quoted decimal comma": (written(",", ","), "d.csv", {"decimal": ","}, []),
    "comma and blank": (written().replace(",", ", "), "d.csv", {}, []),
    "blanks around": (written().replace(",", " , "), "d.csv", {}, []),
    "quotes": (written(quoting=stdlib.QUOTE_ALL), "d.csv", {}, []),
    "single quotes": (written(quoting=stdlib.QUOTE_ALL).replace('"', "'"), "d.csv", {"quote": "'"}, []),
    "CRLF": (written(end="\r\n"), "d.csv", {}, []),
    "a mark": ("\ufeff" + written(), "d.csv", {}, []),
    "a mark, semicolon": ("\ufeff" + written(";"), "d.csv", {}, [SEMICOLONS]),
    "UTF-16": (written().encode("utf-16"), "d.csv", {"encoding": "utf-16"}, []),
    "Latin-1": (written().replace("red", "rod").encode("latin-1"), "d.csv", {"encoding": "latin-1"}, []),
    "gz": (gzip.compress(written(";").encode()), "d.csv.gz", {}, [SEMICOLONS]),
    "capitals": (written(), "D.CSV", {}, []),
    "no header": (written().split("\n", 1)[1], "d.csv", {"header": False, "target": "x2"}, []),
    "names": (written().split("\n", 1)[1], "d.csv", {"names": ["a", "b", "t"]}, []),
    "names in place of the header": (written(), "d.csv", {"names": ["p", "q", "r"], "header": True, "target": "r"}, []),
    "trailing columns without a name": (
        written().replace("\n", ",,\n"),
        "d.csv",
        {},
        ["columns 4 to 5 have no name and are ignored"],
    ),
    "blank lines before the header": ("\n\n" + written(), "d.csv", {}, []),
}


@pytest.mark.parametrize(("content", "name", "options", "told"), DIALECTS.values(), ids=DIALECTS.keys())
def test_a_file_reads_the_same_in_every_dialect_and_a_guess_is_told(
    file: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    content: str | bytes,
    name: str,
    options: dict[str, Any],
    told: list[str],
) -> None:
    path = file(content, name)
    data = csv(path, **{"target": "t", "test": 0, **options})
    assert data.train.x.tolist() == X
    assert data.classes == ("in", "out")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(told)
    assert all(part in line and line.startswith(path) for part, line in zip(told, lines, strict=True))
    assert torch.equal(read_rows(path, data.schema).x, data.train.x), "the given dialect is in the schema"


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), st.sampled_from(["red", "light blue", "a.b", "é"])),
        min_size=2,
        max_size=20,
    ),
    st.sampled_from([(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ","), ("|", ".")]),
)
def test_any_table_reads_the_same_in_every_dialect(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, str]], dialect: tuple[str, str]
) -> None:
    delimiter, decimal = dialect
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with open(path, "w", newline="", encoding="utf-8") as out:
        writer = stdlib.writer(out, delimiter=delimiter)
        writer.writerow(["a", "b", "t"])
        writer.writerows([repr(number).replace(".", decimal), text, i % 2] for i, (number, text) in enumerate(rows))
    data = csv(str(path), "t", test=0, categorical=["b"])
    assert data.train.x[:, 0].tolist() == [number for number, _ in rows]
    words = sorted({text for _, text in rows})
    assert data.train.x[:, 1:].argmax(1).tolist() == [words.index(text) for _, text in rows]


def test_thousands_are_read_where_they_are_declared(file: Callable[..., str]) -> None:
    path = file('a,t\n"61,593",x\n"1,061,593.5",y\n12,x\n')
    assert csv(path, "t", test=0, thousands=",").train.x[:, 0].tolist() == [61593, 1061593.5, 12]
    german = file("a;t\n61.593;x\n1.061.593,5;y\n12;x\n", "german.csv")
    data = csv(german, "t", test=0, thousands=".", decimal=",")
    assert data.train.x[:, 0].tolist() == [61593, 1061593.5, 12]
    assert read_rows(german, data.schema).x[:, 0].tolist() == [61593, 1061593.5, 12]


GUESSES = {
    # numbers of a file that ';' separates, and the decimal sign
    "1,5 2,25": ",",
    "1,5 3": ",",
    "1.061,5 2": ",",
    "0,567 1,234": ",",
    "1.5 2.25": ".",
    "1,234.5 2": ".",
    "1,061,593 61,593": ".",
    "61,593 12,001": ".",  # unclear
    "1 2": ".",
    "1,5 2.5": ".",  # contradictory
}


@pytest.mark.parametrize(("numbers", "decimal"), GUESSES.items())
def test_the_decimal_sign_is_guessed_only_where_it_is_clear(file: Callable[..., str], numbers: str, decimal: str) -> None:
    path = file("a;t\n" + "".join(f"{number};x\n" for number in numbers.split()))
    assert detect(path, {}).decimal == decimal


# Places


def test_a_place_is_the_line_of_the_file(file: Callable[..., str]) -> None:
    content = '\n\na,b,t\n1,"two\nlines",x\n\n\n2,one,y\noops,one,x\n'
    line = content.split("\n").index("oops,one,x") + 1
    good = csv(file(content.replace("oops", "3")), "t", test=0)
    with pytest.raises(UserError, match=rf"column 'a', line {line}: 'oops' is not a number"):
        read_rows(file(content, "later.csv"), good.schema)
    with pytest.raises(UserError, match=rf"column 'a', line {line}: inf is not finite"):
        read_rows(file(content.replace("oops", "inf"), "later.csv"), good.schema)
    with pytest.raises(UserError, match=rf"column 'b', line {line}: 'new'"):
        read_rows(file(content.replace("oops,one", "1,new"), "later.csv"), good.schema)
    with pytest.raises(UserError, match=rf"later.csv, line {line}: 2 values, the header has 3"):
        read_rows(file(content.replace("oops,one", "1"), "later.csv"), good.schema)


@given(blank=st.lists(st.integers(0, 2), min_size=6, max_size=6), bad=st.integers(0, 4), header=st.booleans())
def test_the_line_is_right_behind_any_blank_lines(
    tmp_path_factory: pytest.TempPathFactory, blank: list[int], bad: int, header: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "blank.csv"
    rows = [f"{i},{'x' * (i % 3)}z" for i in range(5)]
    rows[bad] = "inf,z"
    lines = [line for k, row in zip(blank, ["a,t", *rows] if header else rows, strict=False) for line in [""] * k + [row]]
    path.write_text("\n".join(lines) + "\n")
    options: dict[str, Any] = {} if header else {"names": ["a", "t"]}
    with pytest.raises(UserError, match=rf"line {lines.index('inf,z') + 1}: inf is not finite"):
        csv(str(path), "t", test=0, **options)


def test_a_name_in_another_unicode_form_is_told(file: Callable[..., str]) -> None:
    composed, decomposed = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    for has, asked, words in ((decomposed, composed, "with"), (composed, decomposed, "without")):
        with pytest.raises(UserError, match=f"did you mean '{has}', written {words} combining characters"):
            csv(file(f"{has},t\n1,a\n2,b\n"), asked)
    known = csv(file(f"a,t\n{composed},x\nklein,y\n"), "t", test=0)
    with pytest.raises(UserError, match="written without combining characters"):
        read_rows(file(f"a\n{decomposed}\n", "later.csv"), known.schema)


WRONG: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "another separator": (written(";"), {"delimiter": ","}, r"no column 't' in .* \(a;b;t\)"),
    "two characters": (written(), {"delimiter": ";;"}, "data.delimiter: ';;'; needs one character"),
    "too few names": (written(), {"names": ["a"]}, "data.names: 1 names, .* has 3 columns"),
    "no header": ("1,2,a\n3,4,b\n", {}, "its first line looks like a row: 1, 2, a; without a header set data.header=false"),
    "another encoding": (written().replace("red", "röd").encode("latin-1"), {}, "is not UTF-8; .* data.encoding"),
    "an unknown encoding": (written(), {"encoding": "utf-9"}, "data.encoding: 'utf-9' is not known"),
    "not that encoding": (b"a,t\n\xff,x\n", {"encoding": "ascii"}, r"is not ascii .* name its encoding"),
    "a name in the middle": ("a,,t\n1,2,x\n2,3,y\n", {}, r"column 2 has no name .* data.drop=\[''\]"),
    "blanks make names equal": ("a, a,t\n1,2,x\n2,3,y\n", {}, "2 columns are named 'a'"),
    "more values than names": (written().replace("in\n", "in,\n"), {}, "line 2: 4 values, the header has 3"),
}


@pytest.mark.parametrize(("content", "options", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_one_error(
    file: Callable[..., str], content: str | bytes, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        csv(file(content), "t", test=0, **options)


def test_columns_of_a_later_file_that_are_not_read_may_have_any_name(file: Callable[..., str]) -> None:
    schema = csv(file(written()), "t", test=0).schema
    later = file("note,a,note,b,,\nx,1.5,y,red,,\n", "later.csv")
    assert read_rows(later, schema).x.tolist() == X[:1]
