"""A table that has changed since the training: splits by a column, by groups and by time; a corrected row."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit import SGD, Callback, Dataset, Linear, MSELoss, Sequential, Trainer, UserError, ValidationSplit, table
from trainkit.app.cli.main import main
from trainkit.checkpoint.plain import to_plain
from trainkit.data.dataset import Split
from trainkit.data.held_rows import corrected, drawn, held_rows, hold_out_again, later_rows
from trainkit.data.split import group_keys
from trainkit.data.tables import read_rows
from trainkit.data.tables.options import KEPT, PER_READ, PER_TABLE, CsvOptions, TableOptions
from trainkit.trainer.session import Session

pytest.importorskip("pyarrow")
Columns = dict[str, list[Any]]


def columns(n: int, seed: int = 0, **others: list[Any]) -> Columns:
    """n rows of two numbers, the first of which is different in each."""
    draw = np.random.default_rng(seed)
    return {"x": (100 * seed + np.arange(float(n))).tolist(), "t": draw.random(n).tolist(), **others}


def joined(*parts: Columns) -> Columns:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def values(split: Split | None) -> list[float]:
    assert split is not None
    assert isinstance(split.x, torch.Tensor)
    return split.x[:, 0].tolist()


class Keep(Callback):
    def on_fit_start(self, session: Session) -> None:
        self.data = session.data

    def on_checkpoint(self, session: Session) -> None:
        self.content = to_plain(session.snapshot())


def fit(data: Dataset, resume: Keep | None = None, epochs: int = 1, split: ValidationSplit | None = None) -> Keep:
    keep, net = Keep(), Sequential(Linear(1, 1))
    trainer = Trainer(max_epochs=epochs, batch_size=8, callbacks=[keep, *([split] if split else [])])
    optimizer = SGD(net.param(), lr=1e-6)
    trainer.fit(net, MSELoss(), optimizer, data, resume=None if resume is None else resume.content)
    return keep


def read(rows: Columns, **options: Any) -> Dataset:
    return table(rows, "t", **{"task": "regression", "normalize": "none", "test": 0.3, **options})


# -- a column says the split -------------------------------------------------------------------------------------------------


def test_new_rows_that_a_column_gives_to_the_test_are_tested() -> None:
    before = columns(40, part=["train"] * 30 + ["test"] * 10)
    first = fit(read(before, split="part"))
    assert drawn(first.data) == []
    after = joined(before, columns(5, 1, part=["test"] * 5))
    second = fit(read(after, split="part"), first, 2)
    assert values(second.data.test) == [*range(30, 40), *range(100, 105)]
    assert values(second.data.train) == list(range(30))


def test_a_validation_split_is_drawn_beside_a_column_s_test() -> None:
    before = columns(40, part=["train"] * 30 + ["test"] * 10)
    first = fit(read(before, split="part"), split=ValidationSplit(0.2))
    assert drawn(first.data) == ["val"]
    after = joined(columns(5, 1, part=["train"] * 5), before)
    second = fit(read(after, split="part"), first, 2, ValidationSplit(0.2))
    assert values(second.data.val) == values(first.data.val)
    assert values(second.data.test) == values(first.data.test)
    assert sorted(values(second.data.train)) == sorted([*values(first.data.train), *range(100, 105)])


def test_splits_taken_by_hand_from_the_same_data_count_as_drawn() -> None:
    whole = read(columns(10), test=0).train
    assert drawn(Dataset(whole.subset(torch.arange(5)), val=whole.subset(torch.arange(5, 10)))) == ["val"]


# -- groups ------------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_new_row_of_a_held_out_group_follows_its_group(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 6), min_size=8, max_size=30).filter(lambda g: len(set(g)) > 2))
    new = data.draw(st.lists(st.integers(0, 9), max_size=10))
    before = columns(len(groups), who=[f"p{g}" for g in groups])
    first = read(before, group="who", ids=["who"])
    whole = joined(before, columns(len(new), 1, who=[f"p{g}" for g in new]))
    order = data.draw(st.permutations(range(len(whole["x"]))))
    after = {name: [column[i] for i in order] for name, column in whole.items()}
    found = hold_out_again(read(after, group="who", ids=["who"]), held_rows(first))
    assert found is not None
    assert first.test is not None
    again, counts = found
    assert again.test is not None
    held = set(first.test.ids["who"])
    assert counts == {"test": len(first.test)}
    assert set(again.test.ids["who"]) == held
    assert not held & set(again.train.ids["who"])
    assert values(again.test)[: len(first.test)] == values(first.test)
    assert Counter(values(again.test) + values(again.train)) == Counter(after["x"])


def test_a_row_is_found_in_its_own_group_if_another_group_has_an_equal_one() -> None:
    first = read({"x": [1.0] * 12, "t": [0.5] * 12, "who": list("aabbccddeeff")}, group="who", ids=["who"])
    backwards = {"x": [1.0] * 12, "t": [0.5] * 12, "who": list("ffeeddccbbaa")}
    found = hold_out_again(read(backwards, group="who", ids=["who"]), held_rows(first))
    assert found is not None
    assert first.test is not None
    assert found[0].test is not None
    assert Counter(found[0].test.ids["who"]) == Counter(first.test.ids["who"])


def test_a_resumed_run_keeps_the_groups_of_test_and_validation(capsys: pytest.CaptureFixture[str]) -> None:
    def data(rows: Columns) -> Dataset:
        return read(rows, group="who", ids=["who"])

    def split() -> ValidationSplit:
        return ValidationSplit(0.3, group="who")

    before = columns(40, who=[f"p{i // 4}" for i in range(40)])
    first = fit(data(before), split=split())
    names: dict[str, set[str]] = {name: set(part.ids["who"]) for name, part in first.data.parts().items()}
    new = columns(14, 1, who=[*(f"p{i}" for i in range(10)), "q1", "q2", "q3", "q4"])
    capsys.readouterr()
    second = fit(data(joined(new, before)), first, 2, split())
    assert f"new rows in groups of the test split, held out with them: {len(names['test'])}" in capsys.readouterr().err
    now = {name: set(part.ids["who"]) for name, part in second.data.parts().items()}
    assert now == names | {"train": names["train"] | {"q1", "q2", "q3", "q4"}}
    fewer = {name: [value for i, value in enumerate(column) if i % 4] for name, column in before.items()}
    third = fit(data(joined(fewer, new)), second, 3, split())
    assert {name: set(part.ids["who"]) for name, part in third.data.parts().items()} == now


@pytest.mark.parametrize("test", [0, 0.3])
@pytest.mark.parametrize("ids", [[], ["who"]])
def test_validation_keeps_the_groups_of_the_data_together(
    test: float, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = columns(40, who=[f"p{i // 4}" for i in range(40)])
    who = dict(zip(rows["x"], rows["who"], strict=True))
    data = read(rows, group="who", ids=ids, test=test)

    def groups(split: ValidationSplit) -> tuple[set[str], set[str]]:
        train, val = (values(fit(data, split=split).data.parts()[name]) for name in ("train", "val"))
        return {who[x] for x in train}, {who[x] for x in val}

    train, val = groups(ValidationSplit(0.3))
    assert not train & val
    assert groups(ValidationSplit(0.3, group="who")) == (train, val)
    capsys.readouterr()
    train, val = groups(ValidationSplit(0.3, group=None))
    assert train & val
    assert capsys.readouterr().err == ""


def test_a_run_of_an_earlier_version_keeps_its_split(capsys: pytest.CaptureFixture[str]) -> None:
    rows = columns(40, who=[f"p{i // 4}" for i in range(40)])
    data = read(rows, group="who", ids=["who"])
    first = fit(data, split=ValidationSplit(0.3, group=None))
    capsys.readouterr()
    again = fit(data, first, 2, ValidationSplit(0.3))
    assert {name: part.ids["who"] for name, part in again.data.parts().items()} == {
        name: part.ids["who"] for name, part in first.data.parts().items()
    }
    line = "rows of one 'who' (data.group) may be in training and in validation, as in the checkpoint; group=null"
    assert line in capsys.readouterr().err
    assert again.content["state"]["epoch"] == 2


def test_a_split_that_cannot_keep_groups_together_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    rows = columns(40, who=[f"p{i // 4}" for i in range(40)], day=[*range(40)])
    fit(read(rows, group="who", ids=["day"]), split=ValidationSplit(0.3, time="day"))
    line = (
        "callbacks.validation_split: rows of one 'who' (data.group) may be in training and in validation, since time is given"
    )
    assert line in capsys.readouterr().err


def test_the_number_of_a_group_is_that_of_its_text() -> None:
    a, b, again = group_keys(["a", "b", "a"]).tolist()
    assert a == again != b
    assert group_keys(["b"]).tolist() == [b]
    assert a == np.frombuffer(blake2b(b"a", digest_size=8).digest(), "<i8")[0]


# -- time --------------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_refuses_rows_after_the_first_one_held_out() -> None:
    before = columns(40, day=list(range(40)))
    first = fit(read(before, time="day"))
    assert values(first.data.test) == list(range(28, 40))
    late = joined(before, columns(3, 1, day=[28, 27.5, 99]))
    with pytest.raises(UserError, match=r"data: 2 training rows are not earlier than the first row of the test split"):
        fit(read(late, time="day"), first, 2)
    assert later_rows(read(late, time="day")) == {"test": 0}
    early = joined(before, columns(3, 1, day=[-1, 27, 27.9]))
    second = fit(read(early, time="day"), first, 2)
    assert values(second.data.test) == list(range(28, 40))
    assert values(second.data.train) == [*range(28), 100, 101, 102]


def test_a_validation_by_time_ends_before_the_test() -> None:
    days = [f"2024-01-{i + 1:02}" for i in range(20)]
    first = fit(read(columns(20, day=days), time="day", ids=["day"]), split=ValidationSplit(0.25, time="day"))
    late = joined(columns(20, day=days), columns(1, 1, day=["2024-01-12"]))
    assert [min(values(first.data.parts()[name])) for name in ("val", "test")] == [10, 14]
    with pytest.raises(UserError, match="1 training rows are not earlier than the first row of the validation split"):
        fit(read(late, time="day", ids=["day"]), first, 2, ValidationSplit(0.25, time="day"))


CONF = """
data: {name: csv, path: d.csv, target: t, task: regression, time: day, ids: [day], test: 0.3}
model: [{Linear: [1, 1]}]
loss: MSELoss
optimizer: {SGD: {lr: 0.001}}
trainer: {max_epochs: 1, batch_size: 10}
callbacks: {checkpoint: {}}
"""


def test_later_rows_change_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def write(n: int) -> None:
        Path("d.csv").write_text(
            "day,x,t\n" + "".join(f"2024-{i // 28 + 1:02}-{i % 28 + 1:02},{i},{i / 7}\n" for i in range(n))
        )

    write(40)
    Path("c.yaml").write_text(CONF)
    assert main(["fit", "c.yaml", "--run-dir", "r"]) == 0
    capsys.readouterr()
    assert main(["test", "r"]) == 0
    before = capsys.readouterr().out
    write(60)
    assert main(["test", "r"]) == 0
    assert capsys.readouterr().out == before
    assert main(["fit", "--resume", "r", "trainer.max_epochs=2"]) == 2
    assert "20 training rows are not earlier" in capsys.readouterr().err


# -- a corrected row ---------------------------------------------------------------------------------------------------------


def test_a_corrected_test_row_stays_a_test_row(capsys: pytest.CaptureFixture[str]) -> None:
    before = columns(40)
    first = fit(read(before))
    held = values(first.data.test)
    after = joined(before)
    after["x"][int(held[2])] += 0.5
    after["x"][int(values(first.data.train)[3])] += 0.25
    capsys.readouterr()
    second = fit(read(after), first, 2)
    assert "rows of the test split with other values than in the training: 1 of 12; they stay" in capsys.readouterr().err
    assert values(second.data.test) == [*held[:2], held[2] + 0.5, *held[3:]]
    assert values(second.data.train) == [x for i, x in enumerate(after["x"]) if float(i) not in held]
    capsys.readouterr()
    fit(read(after), second, 3)
    assert capsys.readouterr().err == ""


def test_a_row_that_has_moved_is_not_a_corrected_one() -> None:
    before = columns(40)
    data = read(before)
    held = held_rows(data)
    assert corrected(data, held) == {"test": 0}
    test, train = (int(values(part)[0]) for part in (data.test, data.train))
    swapped = joined(before)
    for column in swapped.values():
        column[test], column[train] = column[train], column[test]
    assert corrected(read(swapped), held) is None
    resumed = fit(read(swapped), fit(data), 2)
    assert values(resumed.data.test) == values(data.test)


def test_other_data_of_as_many_rows_is_refused() -> None:
    first = fit(read(columns(40)))
    with pytest.raises(UserError, match="is not the data of the training, it has for the test split 0 of the 12 rows"):
        fit(read(columns(40, 1)), first, 2)


def test_fewer_test_rows_and_new_training_rows_are_no_reason_to_refuse() -> None:
    before = columns(40)
    first = fit(read(before))
    held = values(first.data.test)
    gone = int(held[0])
    after = joined({name: [*column[:gone], *column[gone + 1 :]] for name, column in before.items()}, columns(4, 1))
    second = fit(read(after), first, 2)
    assert values(second.data.test) == held[1:]
    assert len(second.data.train) == 28 + 4


def test_a_validation_split_that_is_new_does_not_let_test_rows_into_the_training() -> None:
    before = columns(40)
    first = fit(read(before))
    with pytest.raises(UserError, match="so the validation split may contain training rows"):
        fit(read(before), first, 2, ValidationSplit(0.2))
    backwards = {name: column[::-1] for name, column in before.items()}
    with pytest.raises(UserError, match="so the validation and test split may contain training rows"):
        fit(read(backwards), first, 2, ValidationSplit(0.2))


# -- options -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["group", "time", "split"])
def test_a_second_table_and_a_column_that_says_what_is_tested_are_refused(key: str) -> None:
    rows, how = columns(4, by=[1, 1, 2, 2]), {key: "by"}
    with pytest.raises(
        UserError, match=rf"data.{key}: the column 'by' says .*, but data.test is a table of its own; leave one"
    ):
        read(rows, test=rows, **how)
    with pytest.raises(UserError, match=f"data.{key}: the column 'by'"):
        read(rows, test=rows, schema=read(rows, test=0).schema, **how)
    assert len(read(rows, test=rows, **{key: None}).parts()["test"]) == 4


@pytest.mark.parametrize("key", TableOptions.__annotations__)
def test_none_is_as_if_the_option_were_left_out(key: str) -> None:
    rows = columns(10, city=list("ababababab"))
    plain, none = (table(rows, "t", test=0.3, **how) for how in ({}, {key: None}))
    assert none.schema == plain.schema
    for name, split in plain.parts().items():
        assert torch.equal(none.parts()[name].x[:], split.x[:])
        assert torch.equal(none.parts()[name].t, split.t)
    again = table(rows, "t", test=0.3, schema=plain.schema, **{key: None})
    assert torch.equal(again.train.x[:], plain.train.x[:])
    assert torch.equal(read_rows(rows, plain.schema, **{key: None}).x, read_rows(rows, plain.schema).x)


def test_none_takes_back_the_weight_and_the_ids_of_a_trained_model() -> None:
    rows = columns(10, w=[1.0] * 10, who=list("abcdefghij"))
    data = read(rows, weight="w", ids=["who"])
    assert data.train.weight is not None
    later = read(columns(10), schema=data.schema, weight=None, ids=None)
    assert later.train.weight is None
    assert not later.train.ids


def test_a_configuration_takes_back_an_option_by_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("day,x,t\n" + "".join(f"{i},{i},{i / 7}\n" for i in range(20)))
    Path("c.yaml").write_text(CONF.replace("time: day", "group: day"))
    assert main(["fit", "c.yaml", "--run-dir", "r"]) == 0
    assert main(["test", "r", "data.test=d.csv"]) == 2
    assert main(["test", "r", "data.test=d.csv", "data.group=null", "data.time=null"]) == 0


def test_an_option_belongs_to_the_model_or_to_each_table() -> None:
    kept = {"normalize", "normalize_target", "task", "categorical", "numeric", "dates", "drop", "keep", "encode"}
    assert set(KEPT) == kept | {"missing_indicator", "thousands"}
    assert {*KEPT, *PER_TABLE, *PER_READ} == set(CsvOptions.__annotations__)
    assert len(KEPT) + len(PER_TABLE) + len(PER_READ) == len(CsvOptions.__annotations__)
