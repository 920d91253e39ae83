"""CSV files as they occur: other encodings, cut short, ragged, empty, huge. Each trains, or is refused with the place."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from trainkit.app.cli.main import main

from .tally import Tally, ended, fork, inside, lowest_mark, shot, status

CONF = """\
data: {name: csv, path: d.csv, target: t}
model: [{Linear: [2, 4]}, ReLU, {Linear: [4, OUT]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.01}}
trainer: {max_epochs: 2, batch_size: 10}
callbacks: {validation_split: {}, checkpoint: {}}
"""
HEAD = "a,b,t\n"
ROWS = [f"{i},{i * 0.5},{i % 2}" for i in range(40)]
GOOD = (HEAD + "\n".join(ROWS) + "\n").encode()


def row(text: str | bytes, number: int = 22) -> bytes:
    """Return the good file with `text` in place of a row, where the header is row 1."""
    rows = GOOD.split(b"\n")
    rows[number - 1] = text.encode() if isinstance(text, str) else text
    return b"\n".join(rows)


def column(values: list[str]) -> bytes:
    """Return the good file with other values in the column b."""
    return (HEAD + "".join(f"{i},{v},{i % 2}\n" for i, v in enumerate(values))).encode()


def targets(values: list[str]) -> bytes:
    return (HEAD + "".join(f"{i},{i % 7},{v}\n" for i, v in enumerate(values))).encode()


UTF8, NUL, ODD, WIDTH = (
    "is not UTF-8; save",
    "0x00 is not part of a text",
    "is not a number, .* correct it",
    "the header has 3; correct",
)
MISSING, INFINITE = "missing .1 in total.; correct .* data.missing", r"is not finite .1 in total.; correct"
FILES: dict[str, tuple[bytes, str]] = {  # content, and a pattern of the message, or "" if it trains
    "whole": (GOOD, ""),
    "UTF-8 with a mark": (b"\xef\xbb\xbf" + GOOD, ""),
    "Latin-1 in the header": (GOOD.replace(b"a,b", b"\xe4,b"), f"line 1, byte 1: 0xe4 {UTF8}"),
    "Latin-1 in a row": (row(b"\xe4,1,0"), f"line 22, byte 1: 0xe4 {UTF8}"),
    "UTF-16 with a mark": (GOOD.decode().encode("utf-16"), f"line 1, byte 1: 0xff {UTF8}"),
    "UTF-16 without": (GOOD.decode().encode("utf-16-le"), f"line 1, byte 2: {NUL}"),
    "a NUL in the header": (GOOD.replace(b"a,b", b"a\0,b"), f"line 1, byte 2: {NUL}"),
    "a NUL in a number": (row(b"2\x000,1,0"), f"line 22, byte 2: {NUL}"),
    "a row of NULs": (row(b"\0" * 9), f"line 22, byte 1: {NUL}"),
    "NULs at the end, as after a crash": (GOOD + b"\0" * 4096, f"line 42, byte 1: {NUL}"),
    "NULs alone": (b"\0" * 4096, f"line 1, byte 1: {NUL}"),
    "one row": ((HEAD + ROWS[0]).encode(), "has one row; training needs at least 2"),
    "two rows": ((HEAD + ROWS[0] + "\n" + ROWS[1]).encode(), "data.test: 0.2 of 2 rows holds out none; give"),
    "a header alone": (HEAD.encode(), "has a header but no rows; needs"),
    "a header without its newline": (HEAD.strip().encode(), "has a header but no rows; needs"),
    "empty": (b"", "empty; needs a header"),
    "empty lines": (b"\n" * 5, "empty; needs a header"),
    "a constant column": (column(["7"] * 40), ""),
    "a constant column of 0.1": (column(["0.1"] * 40), ""),
    "a constant column of 1e30": (column(["1e30"] * 40), ""),
    "a column of 1e30 and next to it": (column(["1e30", "1.0000001e30"] * 20), ""),
    "a column of 1e-40": (column(["1e-40", "2e-40"] * 20), ""),
    "a short row": (row("20,10.0"), f"line 22: 2 values, {WIDTH}"),
    "a long row": (row("20,10.0,0,9"), f"line 22: 4 values, {WIDTH}"),
    "a short first row": (row("0,0", 2), f"line 2: 2 values, {WIDTH}"),
    "a long last row": (row("39,1,1,1", 41), f"line 41: 4 values, {WIDTH}"),
    "two columns of a name": (GOOD.replace(b"a,b", b"a,a"), "2 columns are named 'a'; give each"),
    "a column without a name": (GOOD.replace(b"a,b", b",b"), "column 1 has no name .* name it"),
    "a text among numbers": (row("hello,10.0,0"), f"'a', line 22: 'hello' {ODD}"),
    "1,000 in quotes": (row('"1,000",10.0,0'), "'a', line 22: '1,000' is a number with ',' between thousands"),
    "1_000": (row("1_000,10.0,0"), "'a', line 22: '1_000' is a number with '_' between thousands"),
    "an escape sequence": (row("\x1b[2J,10.0,0"), f"'a', line 22: .* {ODD}"),
    "a cell of 9 MB": (GOOD + b"x" * (9 << 20) + b",1,1\n", f"'a', line 42: 'x*'... {ODD}"),
    "a text among the targets' numbers": (targets([*(f"{i}.5" for i in range(39)), "none"]), f"'t', line 41: 'none' {ODD}"),
    "names in a column": (column([f"x{i}" for i in range(400)]), "'b' holds 400 different texts, such as 'x0' in line 2; set"),
    "inf": (row("inf,10.0,0"), f"'a', line 22: inf {INFINITE}"),
    "-Infinity": (row("-Infinity,10.0,0"), f"'a', line 22: -inf {INFINITE}"),
    "1e39": (row("1e39,10.0,0"), ""),
    "1e400": (row("1e400,10.0,0"), f"'a', line 22: inf {INFINITE}"),
    "an infinite target": (
        targets([*(f"{i}.5" for i in range(39)), "inf"]),
        f"'t', line 41: inf {INFINITE} it, or remove the row",
    ),
    **{f"{text!r} for a number": (row(f"{text},10.0,0"), f"'a', line 22: {MISSING}") for text in ("", " ", "nan", "NA", "?")},
    **{
        f"{text!r} for a target": (row(f"20,10.0,{text}"), "'t', line 22: missing .* remove") for text in ("", "nan", "NA", "?")
    },
    "an empty column": (column([""] * 40), "'b', line 2: missing .40 in total."),
    "CRLF": (GOOD.replace(b"\n", b"\r\n"), ""),
    "CR": (GOOD.replace(b"\n", b"\r"), ""),
    "LF and CRLF": (GOOD.replace(b"\n", b"\r\n", 7), ""),
    "no newline at the end": (GOOD.rstrip(), ""),
    "quotes": (row('"20","10.0","0"'), ""),
    "a line break in a name": (GOOD.replace(b"a,b", b'"a\nc",b'), ""),
    "a quote that is never closed": (row('"20,10.0,0'), WIDTH),
    "spaces around numbers": (row(" 20 , 10.0 ,0"), ""),
    "a class of one row": (targets(["2", *("01" * 20)]), ""),
    "one class": (targets(["1"] * 40), "'t' is '1' in every row; needs at least 2 classes"),
    "twenty classes of two rows": (targets([str(i % 20) for i in range(40)]), ""),
    "semicolons": (GOOD.replace(b",", b";"), ""),
    "tabs": (GOOD.replace(b",", b"\t"), ""),
    "decimal commas": (GOOD.replace(b",", b";").replace(b".", b","), ""),
    "columns without a name at the end": (GOOD.replace(b"\n", b",,\n"), ""),
    "no header": (GOOD.split(b"\n", 1)[1], "no column 't' in .*its first line looks like a row"),
    "numbers with a unit": (column([f"{i} kg" for i in range(40)]), "'b', line 2: '0 kg' is a number with 'kg'"),
    "dates": (column([f"2024-01-{i % 28 + 1:02d}" for i in range(40)]), "'b', line 2: '2024-01-01' is a date; data.dates"),
    "a folder": (b"", "no file 'd.csv'; give"),
    "no file": (b"", "no file 'd.csv'; give"),
}
EVERY = {**FILES, "a line break in a text": (column(['"x\nz"', '"y\nz"'] * 20), "")}
SPLITS = ("fraction: 0.1", "fraction: 0.5", "fraction: 0.9", "{fraction: 0.5, stratify: true}", "{fraction: 0.1, seed: 3}")


def files(folder: Path, every: int = 1) -> list[Tally]:
    """Run `fit` on each of EVERY, and `predict` on it with a run that was trained on the good file."""
    fits = Tally(
        "fit on CSV files in other encodings, cut short, ragged, empty, with odd values",
        "trains without a NaN, or is refused, exit 2, by a line that names file, row, value and fix; no traceback",
    )
    predicts = Tally(
        "predict on the same files, with a run of the good one", "predicts or is refused, exit 0 or 2, no traceback"
    )
    with inside(folder):
        Path("conf.yaml").write_text(CONF.replace("OUT", "20"))
        lay("whole")
        made = shot("fit", "conf.yaml", "--run-dir", "trained")
        assert made.code == 0, made.err
        for name in list(EVERY)[::every]:
            lay(name)
            pattern, wide = EVERY[name][1], ["model.0.Linear.0=3"] if name == "a line break in a text" else []
            shutil.rmtree("run", ignore_errors=True)
            seen = shot("fit", "conf.yaml", "--run-dir", "run", *wide)
            wrong = seen.wrong(2 if pattern else 0)
            if not wrong and pattern and not (re.search(pattern, seen.err) and re.search("d.csv|data.test", seen.err)):
                wrong = f"prints: {seen.err[:300]}"
            wrong = wrong or ("a metric is NaN" if not pattern and re.search(r"\b(nan|inf)\b", seen.out) else None)
            fits.count(f"{name}: {wrong}" if wrong else None)
            seen = shot("predict", "trained", "d.csv", "--out", "answers.csv")
            predicts.count(f"{name}: {wrong}" if (wrong := seen.wrong(0, 2)) else None)
    return [fits, predicts]


def lay(name: str) -> None:
    """Write the file `name` as d.csv."""
    shutil.rmtree("d.csv", ignore_errors=True)
    Path("d.csv").unlink(missing_ok=True)
    if name == "a folder":
        Path("d.csv").mkdir()
    elif name != "no file":
        Path("d.csv").write_bytes(EVERY[name][0])


def classes(folder: Path, every: int = 1) -> list[Tally]:
    """Train with a class of one row, which is missing in one split, with each of SPLITS and several seeds."""
    tally = Tally(
        "a class of one or two rows, missing from the training or the validation split",
        "trains; no metric is NaN; `validate` and `test` of the run print the metrics of the run",
    )
    cases = [(rare, split, seed) for rare in (1, 2) for split in SPLITS for seed in range(4)]
    with inside(folder):
        for rare, split, seed in cases[::every]:
            Path("d.csv").write_bytes(targets(["2"] * rare + [str(i % 2) for i in range(40)]))
            split = split if split.startswith("{") else f"{{{split}}}"
            text = CONF.replace("OUT", "3").replace("validation_split: {}", f"validation_split: {split}")
            Path("conf.yaml").write_text(f"seed: {seed}\n{text}")
            shutil.rmtree("run", ignore_errors=True)
            seen = shot("fit", "conf.yaml", "--run-dir", "run")
            wrong = seen.wrong(0) or ("a metric is NaN" if re.search(r"\b(nan|inf)\b", seen.out) else None)
            for split_name in ("val", "test"):
                again = shot("validate" if split_name == "val" else "test", "run")
                lines = [line for line in seen.out.splitlines() if f" {split_name}/" in line]
                then = [line for line in again.out.splitlines() if f" {split_name}/" in line]
                wrong = wrong or again.wrong(0) or (None if lines == then else f"{lines}, then {again.out}")
            tally.count(f"{rare} rows, {split}, seed {seed}: {wrong}" if wrong else None)
    return [tally]


def large(folder: Path, rows: int = 10_000_000, megabytes: float = 1000.0) -> list[Tally]:
    """Read a file of `rows` rows, and train on it for an epoch of huge batches."""
    tally = Tally("", f"trains; the process takes at most {megabytes:,.0f} MB more than before")
    with inside(folder):
        block = "".join(
            f"{(i * 7919 % 10007) / 1000:.4f},{(i * 104729 % 9973) / 1000:.4f},{i % 2}\n" for i in range(10_000)
        ).encode()
        with open("d.csv", "wb") as file:
            file.write(HEAD.encode())
            for _ in range(rows // 10_000):
                file.write(block)
        Path("conf.yaml").write_text(
            CONF.replace("OUT", "2").replace("max_epochs: 2, batch_size: 10", "max_epochs: 1, batch_size: 1000000")
        )

        def act() -> int:
            before = lowest_mark()
            code = main(["fit", "conf.yaml", "--run-dir", "run"])
            Path("memory").write_text(str(status("VmHWM") - before))
            return code

        began = time.monotonic()
        end = ended(fork(act, Path("log")), Path("log"))
        took, size = time.monotonic() - began, Path("d.csv").stat().st_size / 1e6
        Path("d.csv").unlink()
        memory = float(Path("memory").read_text())
        wrong = end.wrong(0) or ("a metric is NaN" if re.search(r"\b(nan|inf)\b", end.err) else None)
        tally.count(wrong or (f"takes {memory:.0f} MB" if memory > megabytes else None))
    tally.case = f"a CSV file of {rows:,} rows, {size:.0f} MB: an epoch in {took:.0f} s and {memory:.0f} MB of memory"
    return [tally]
