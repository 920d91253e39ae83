"""Rows that training did not see stay unseen, though the file was sorted, has new rows or lacks some since then."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit import SGD, Callback, CrossEntropyLoss, Dataset, Linear, Sequential, Trainer, UserError, ValidationSplit, csv, npy
from trainkit.app.cli.main import main
from trainkit.checkpoint import load, save
from trainkit.checkpoint.plain import to_plain
from trainkit.data import held_rows
from trainkit.data.dataset import Split
from trainkit.data.fingerprint import row_fingerprints
from trainkit.data.held_rows import drawn, find, hold_out_again
from trainkit.data.sources.npy import as_inputs, open_npy
from trainkit.trainer.session import Session

pytest.importorskip("pyarrow")
Row = tuple[float, ...]


# -- the fingerprint of a row ------------------------------------------------------------------------------------------------


def splitmix64(state: int) -> int:
    """Output of splitmix64 for a state, in Python's integers (Steele, Lea and Flood 2014, section 4)."""
    mask = (1 << 64) - 1
    z = state & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def oracle(row: list[float]) -> int:
    bits = [int.from_bytes(struct.pack("<d", x + 0.0), "little") for x in row]
    total = splitmix64(sum(splitmix64((j + 1) * 0x9E3779B97F4A7C15) * (b ^ b >> 32) for j, b in enumerate(bits)))
    return total - (1 << 64) if total >> 63 else total


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_row_s_fingerprint_is_that_of_the_formula(rows: list[list[float]]) -> None:
    x = torch.tensor(rows, dtype=torch.float64)
    label = torch.arange(len(rows))
    found = row_fingerprints(Split(x, label, label)).tolist()
    assert found == [oracle([*row, float(k)]) for k, row in enumerate(rows)]


def test_a_row_has_the_same_fingerprint_wherever_it_is(tmp_path: Path) -> None:
    x, t = torch.rand(30, 3), torch.rand(30, 1)
    x[3, 1], x[4, 2] = torch.nan, -0.0
    whole = row_fingerprints(Split(x, t))
    order = torch.randperm(30)
    assert torch.equal(row_fingerprints(Split(x[order], t[order])), whole[order])
    assert torch.equal(row_fingerprints(Split(x.double(), t.double())), whole)
    assert torch.equal(row_fingerprints(Split(x.index_put((torch.tensor(4), torch.tensor(2)), torch.tensor(0.0)), t)), whole)
    np.save(tmp_path / "x.npy", x.numpy())
    assert torch.equal(row_fingerprints(Split(as_inputs(open_npy(str(tmp_path / "x.npy"), "x")), t)), whole)
    other = row_fingerprints(Split(x.flip(1), t)), row_fingerprints(Split(x, t + 1)), row_fingerprints(Split(x + 1, t))
    assert len({*whole.tolist(), *(h for hashes in other for h in hashes.tolist())}) == 120


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_each_position_is_found_once(pool: list[int], wanted: list[int]) -> None:
    at = find(torch.tensor(pool, dtype=torch.int64), torch.tensor(wanted, dtype=torch.int64)).tolist() if pool else []
    taken = [i for i in at if i >= 0]
    assert len(set(taken)) == len(taken)
    assert all(i < 0 or pool[i] == value for i, value in zip(at, wanted, strict=False))
    assert Counter(pool[i] for i in taken) == (Counter(pool) & Counter(wanted) if pool else Counter())


def test_fingerprints_of_many_rows_are_all_different() -> None:
    """Of float32 numbers, whose lowest 29 bits are 0 in float64, of numbers that differ in the last bit, and of integers."""
    x = torch.rand(50_000, 3, generator=torch.Generator().manual_seed(0))
    for rows in (x, x[:, :1].double() + torch.arange(3) * 1e-9, torch.cartesian_prod(*[torch.arange(36.0)] * 3)):
        label = torch.zeros(len(rows), dtype=torch.int64)
        different = rows.unique(dim=0)
        assert row_fingerprints(Split(rows, label, label)).unique().numel() == len(different)


# -- a table that has changed ------------------------------------------------------------------------------------------------


def table(path: Path, rows: list[Row]) -> Path:
    path.write_text("a,b,t\n" + "".join(f"{a!r},{b!r},{'in' if a + b > 1 else 'out'}\n" for a, b in rows))
    return path


def drawn_rows(n: int, seed: int = 0) -> list[Row]:
    """Rows of which some are there twice or more."""
    draw = np.random.default_rng(seed)
    rows = [tuple(row) for row in draw.random((n, 2)).round(1 if seed % 2 else 6).tolist()]
    return [*rows, *rows[: n // 10]]


def rows_of(split: Split | None) -> Counter[Row]:
    assert split is not None
    assert isinstance(split.x, torch.Tensor)
    return Counter(tuple(row) for row in split.x.tolist())


CHANGES = ["sorted", "shuffled", "new rows", "fewer rows", "all"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_row_of_the_training_becomes_a_test_row(tmp_path: Path, change: str, seed: int) -> None:
    draw = np.random.default_rng(seed + 10)
    before = drawn_rows(100, seed)
    data = csv(str(table(tmp_path / "d.csv", before)), "t", test=0.25)
    after = sorted(before) if change == "sorted" else [before[i] for i in draw.permutation(len(before))]
    after = after[8:] if change in ("fewer rows", "all") else after
    after = [*after, *drawn_rows(30, seed + 2)] if change in ("new rows", "all") else after
    now = csv(str(table(tmp_path / "d.csv", after)), "t", test=0.25)
    assert drawn(now) == ["test"]
    found = hold_out_again(now, held_rows.held_rows(data))
    assert found is not None
    again, count = found
    held, kept = rows_of(data.test), rows_of(again.test)
    assert kept == held & Counter(after)
    assert count == {"test": kept.total()}
    assert rows_of(again.train) + kept == Counter(after)
    if change in ("sorted", "shuffled"):
        assert torch.equal(again.test.x, data.test.x)  # type: ignore[union-attr, arg-type]
        assert torch.equal(again.test.label, data.test.label)  # type: ignore[union-attr, arg-type]
    lines = (tmp_path / "d.csv").read_text().splitlines()[1:]
    for split in again.parts().values():
        assert split.rows is not None
        for row, x in zip(split.rows.tolist(), split.x[:].tolist(), strict=True):
            assert lines[row].startswith(f"{x[0]!r},{x[1]!r},")


class Keep(Callback):
    def __init__(self) -> None:
        self.contents: list[dict[str, Any]] = []
        self.splits: list[Dataset] = []

    def on_fit_start(self, session: Session) -> None:
        self.splits.append(session.data)

    def on_checkpoint(self, session: Session) -> None:
        self.contents.append(to_plain(session.snapshot()))


def fit(data: Dataset, resume: dict[str, Any] | None = None, **how: Any) -> Keep:
    keep, net = Keep(), Sequential(Linear(2, 2)).initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(**{"max_epochs": 2 + bool(resume), "batch_size": 10} | how, callbacks=[ValidationSplit(0.2), keep])
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data, resume=resume)
    return keep


def test_a_resumed_run_holds_out_the_rows_that_it_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = drawn_rows(100)
    first = fit(csv(str(table(tmp_path / "d.csv", before)), "t", test=0.25, normalize="none"))
    after = [*sorted(before), *drawn_rows(20, 7)]
    capsys.readouterr()
    second = fit(csv(str(table(tmp_path / "d.csv", after)), "t", test=0.25, normalize="none"), first.contents[-1])
    n = {name: len(split) for name, split in first.splits[0].parts().items()}
    line = f"the validation split the {n['val']} rows and the test split the {n['test']} rows held out then are held out again"
    assert line in capsys.readouterr().err
    for name in ("val", "test"):
        assert rows_of(getattr(second.splits[0], name)) == rows_of(getattr(first.splits[0], name))
    assert len(second.splits[0].train) == n["train"] + 22
    capsys.readouterr()
    third = fit(
        csv(str(table(tmp_path / "d.csv", before)), "t", test=0.25, normalize="none"), second.contents[-1], max_epochs=4
    )
    assert rows_of(third.splits[0].test) == rows_of(first.splits[0].test)


def test_the_same_rows_need_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = csv(str(table(tmp_path / "d.csv", drawn_rows(100))), "t", test=0.25)
    content = fit(data).contents[-1]
    assert sorted(content["data"]["held_out"]) == ["test", "val"]
    capsys.readouterr()
    fit(data, content)
    assert capsys.readouterr().err == ""


def test_other_settings_of_the_split_are_refused_by_name(tmp_path: Path) -> None:
    data = csv(str(table(tmp_path / "d.csv", drawn_rows(100))), "t", test=0.25)
    keep = Keep()
    net = Sequential(Linear(2, 2))
    trainer = Trainer(max_epochs=3, batch_size=10, callbacks=[ValidationSplit(0.3), keep])
    with pytest.raises(UserError, match="the checkpoint has a different validation split"):
        trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data, resume=fit(data).contents[-1])


def test_a_split_of_given_tensors_is_not_drawn(tmp_path: Path) -> None:
    for name in ("x", "u"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((20, 2)).astype("float32"))
        np.save(tmp_path / f"{name}t.npy", np.arange(20) % 2)
    paths = [str(tmp_path / f"{name}.npy") for name in ("x", "xt", "u", "ut")]
    assert drawn(npy(*paths)) == []
    assert held_rows.held_rows(npy(*paths)) == {}
    keep = fit(npy(*paths, normalize="none"))
    assert list(keep.contents[-1]["data"]["held_out"]) == ["val"]


def test_streamed_rows_are_held_out_again(tmp_path: Path) -> None:
    x, t = np.random.default_rng(0).random((40, 2)), np.arange(40) % 2
    order = np.random.default_rng(1).permutation(40)
    splits = []
    content = None
    for k, (rows, label) in enumerate(((x, t), (x[order], t[order]))):
        np.save(tmp_path / f"x{k}.npy", rows)
        np.save(tmp_path / f"t{k}.npy", label)
        keep = fit(npy(str(tmp_path / f"x{k}.npy"), str(tmp_path / f"t{k}.npy")), content)
        content = keep.contents[-1]
        splits.append(keep.splits[0])
    assert splits[0].val is not None
    assert splits[1].val is not None
    assert torch.equal(splits[1].val.x[:], splits[0].val.x[:])
    assert {tuple(r) for r in splits[1].train.x[:].tolist()} == {tuple(r) for r in splits[0].train.x[:].tolist()}


# -- commands ----------------------------------------------------------------------------------------------------------------

CONF = """
data: {name: csv, path: d.csv, target: t, test: 0.25}
model: [{Linear: [2, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1}}
trainer: {max_epochs: 2, batch_size: 10}
callbacks: {validation_split: {}, checkpoint: {}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(Path("d.csv"), drawn_rows(100))
    Path("c.yaml").write_text(CONF)
    assert main(["fit", "c.yaml", "--run-dir", "r"]) == 0


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("run")
def test_an_evaluation_measures_the_rows_that_were_held_out(capsys: pytest.CaptureFixture[str]) -> None:
    before = [output(capsys, command, "r") for command in ("test", "validate")]
    output(capsys, "predict", "r")
    answers = [line.split(",", 1)[1] for line in Path("r/predictions.csv").read_text().splitlines()]
    table(Path("d.csv"), [*sorted(drawn_rows(100)), *drawn_rows(20, 7)])
    assert [output(capsys, command, "r") for command in ("test", "validate")] == before
    output(capsys, "predict", "r")
    assert [line.split(",", 1)[1] for line in Path("r/predictions.csv").read_text().splitlines()] == answers
    assert "60 training samples" not in output(capsys, "fit", "--resume", "r", "trainer.max_epochs=3")


@pytest.mark.usefixtures("run")
def test_other_data_is_refused_by_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("d.csv"), drawn_rows(100, 7))
    for words in (["test", "r"], ["validate", "r"], ["predict", "r"], ["fit", "--resume", "r", "trainer.max_epochs=3"]):
        capsys.readouterr()
        assert main(words) == 2
        assert "data: is not the data of the training, it has for the " in capsys.readouterr().err
    assert main(["test", "r", "data.test=d.csv"]) == 0  # asked for by name


@pytest.mark.usefixtures("run")
def test_without_fingerprints_of_rows_changed_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    data = csv("d.csv", "t", test=0.25)
    held = ",".join(map(str, ValidationSplit().indices(len(data.train)).tolist()))
    for file in Path("r/checkpoints").glob("*.pt"):  # as an earlier version wrote them
        content = load(file)
        del content["data"]["held_out"]
        content["callbacks"]["validation_split"] = {"sha256": hashlib.sha256(held.encode()).hexdigest()}
        save(content, file)
    shutil.copytree("r", "old")
    assert main(["test", "r"]) == main(["validate", "r"]) == 0
    assert main(["fit", "--resume", "r", "trainer.max_epochs=3"]) == 0
    table(Path("d.csv"), sorted(drawn_rows(100)))
    for words in (["test", "old"], ["validate", "old"], ["predict", "old"], ["fit", "--resume", "old", "trainer.max_epochs=4"]):
        capsys.readouterr()
        assert main(words) == 2
        assert "may contain training rows" in capsys.readouterr().err


def test_rows_that_cannot_be_put_together_are_refused(tmp_path: Path) -> None:
    """Those of two files: here the validation split was read anew, by a loader of its own."""
    paths = []
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(len(paths)).random((20, 2)))
        np.save(tmp_path / "t.npy", np.arange(20) % 2)
        paths.append((str(tmp_path / f"{name}.npy"), str(tmp_path / "t.npy")))
    one, other = (npy(*pair, normalize="none").train for pair in paths)
    first, second = torch.arange(10), torch.arange(10, 20)
    made = [Dataset(one.subset(first), val=part.subset(second), classes=("0", "1")) for part in (one, other)]
    assert hold_out_again(made[1], held_rows.held_rows(made[0])) is None
    keep, net = Keep(), Sequential(Linear(2, 2))
    for data, resume in zip(made, (None, keep), strict=True):
        trainer = Trainer(max_epochs=2 if resume is None else 3, callbacks=[keep])
        optimizer = SGD(net.param(), lr=0.1)
        if resume is None:
            trainer.fit(net, CrossEntropyLoss(), optimizer, data)
        else:
            with pytest.raises(
                UserError, match="the validation split differs from the checkpoint's, so it may contain training"
            ):
                trainer.fit(net, CrossEntropyLoss(), optimizer, data, resume=keep.contents[-1])


def test_a_large_split_has_no_fingerprints_of_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = csv(str(table(tmp_path / "d.csv", drawn_rows(100))), "t", test=0.25)
    assert data.test is not None
    for name, limit in (("MAX_ROWS", len(data.test)), ("MAX_NUMBERS", 2 * len(data.test))):
        with monkeypatch.context() as patch:
            patch.setattr(held_rows, name, limit)
            assert list(held_rows.held_rows(data)) == ["test"]
            patch.setattr(held_rows, name, limit - 1)
            assert held_rows.held_rows(data) == {}
