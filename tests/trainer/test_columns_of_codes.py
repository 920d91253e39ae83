"""A fit over columns of codes: which data it takes, and what it refuses before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import trainkit
from trainkit import (
    SGD,
    CrossEntropyLoss,
    Dataset,
    EmbedColumns,
    Linear,
    Sequential,
    Tanh,
    Trainer,
    UserError,
    ValidationSplit,
    tensors,
)
from trainkit.core.rng import generator

N = 24


def rows(**codes: float) -> Tensor:
    """Two columns of numbers, then codes below 3 and below 4. r5=9 sets row 5 of the last column to 9."""
    x = 100 * torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2], x[:, 3] = torch.arange(N) % 3, torch.arange(N) % 4
    for name, value in codes.items():
        x[int(name[1:]), 3] = value
    return x


def table(x: Tensor, categories: tuple[int, ...] = (0, 0, 3, 4), **how: Any) -> Dataset:
    t = (rows()[:, 2] == 1).long()
    data = tensors(x, t, test=(rows(), t), normalize="feature", **how)
    return replace(data, categories=categories, features=("width", "height", "color", "shape"))


def fit(data: Dataset, **how: Any) -> Trainer:
    net = Sequential(EmbedColumns([3, 4], 2), Linear(6, 5), Tanh(), Linear(5, 2)).initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(**{"max_epochs": 2, "batch_size": 4, "device": "cpu"} | how)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), 0.1), data)
    return trainer


def test_numbers_are_scaled_and_codes_are_not() -> None:
    x = fit(table(rows())).fitted().data.train.x[:]
    assert torch.equal(x[:, 2:], rows()[:, 2:])
    torch.testing.assert_close(x[:, :2].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(x[:, :2].std(0, correction=0), torch.ones(2))


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_a_category_that_decides_the_class_is_learned(engine: str) -> None:
    trainer = fit(table(rows()), engine=engine, max_epochs=60)
    assert trainer.test()["test/accuracy"] == 1


def test_a_native_fit_ends_at_the_eager_parameters() -> None:
    eager, native = (fit(table(rows()), engine=engine).fitted() for engine in ("eager", "native"))
    assert native.engine == "native"
    for (name, p, _), (_, q, _) in zip(eager.net.named_param(), native.net.named_param(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("value", [4.0, -1.0, 0.5])
def test_a_code_that_no_table_has_is_refused_by_row_and_column_before_the_first_step(value: float) -> None:
    place = rf"row 5 of the training split, column 'shape': {value:g} is not valid in 0.EmbedColumns, \(n, F \+ 2\): numbers"
    with pytest.raises(UserError, match=place):
        fit(table(rows(r5=value)))


def test_codes_that_were_scaled_are_refused_with_the_way() -> None:
    with pytest.raises(UserError, match=r"0.EmbedColumns.*codes are not scaled if Dataset.categories"):
        fit(table(rows(), categories=()))


def test_other_data_and_rows_to_predict_are_checked_too() -> None:
    trainer = fit(table(rows()))
    with pytest.raises(UserError, match=r"row 2 of the test split, feature 3: 7 is not valid in 0.EmbedColumns"):
        trainer.test(Dataset(rows_split(rows(r2=7.0)), test=rows_split(rows(r2=7.0)), classes=("0", "1")))
    with pytest.raises(UserError, match=r"predict: row 1, feature 3: -2 is not valid in 0.EmbedColumns"):
        trainer.predict(rows(r1=-2.0)[:3])


def rows_split(x: Tensor) -> trainkit.Split:
    t = torch.arange(len(x)) % 2
    return trainkit.Split(x, t, t)


def test_a_loaded_run_leaves_codes_alone(tmp_path: Path) -> None:
    trainer = fit(table(rows()), run_dir=tmp_path / "run", callbacks=[ValidationSplit(0.25), trainkit.Checkpoint()])
    model = trainkit.load(tmp_path / "run")
    assert torch.equal(model.predict(rows()), trainer.predict(rows()))
    assert model.test(table(rows())) == trainer.test()


# -- the code for unknown values ---------------------------------------------------------------------------------------------

COLORS = {"c": list("abcd") * 10, "d": ["u", "v"] * 20, "x": [float(i) for i in range(40)], "t": [0.5] * 20 + [0.6] * 20}


def of_colors(empty: bool = False, replicas: int = 1, **how: Any) -> Trainer:
    rows = {**COLORS, "c": [None, *COLORS["c"][1:]]} if empty else COLORS
    data = trainkit.table(rows, "t", test=0, task="regression", encode="codes", **how)
    net = Sequential(EmbedColumns([*filter(None, data.categories)], 4), Linear(9, 1))  # x and two vectors
    net.initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(max_epochs=100, device="cpu", replicas=replicas)
    trainer.fit(net, trainkit.MSELoss(), SGD(net.param(), 0.1), data)
    return trainer


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_unknown_value_is_the_mean_of_the_known_ones_if_no_training_row_has_one(
    replicas: int, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = [EmbedColumns([5, 3], 4).initialize(generator(seed, "init")).w for seed in range(replicas)]
    trainer = of_colors(unknown="column", replicas=replicas)
    for w, first in zip(trainer.fitted().net.state_dict()["0.weight"].view(replicas, 8, 4), drawn, strict=True):
        first = first if replicas > 1 else Sequential(EmbedColumns([5, 3], 4)).initialize(torch.Generator().manual_seed(0))[0].w
        assert torch.equal(w[[4, 7]], torch.stack([first[:4].mean(0), first[5:7].mean(0)]))
    assert "no training row has an unknown value of 'c', 'd'; such a value starts as the mean" in capsys.readouterr().err
    assert torch.equal(*(trainer.predict([{"c": c, "d": "u", "x": 5.0}]) for c in ("y", "z")))


def test_the_vector_is_trained_where_a_row_has_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    of_colors(empty=True, missing="mean")
    assert "no training row has an unknown value of 'd'; such" in capsys.readouterr().err
    of_colors()
    assert "unknown value" not in capsys.readouterr().err


def test_without_such_a_code_the_message_asks_for_a_new_training() -> None:
    from trainkit.data.tables import read_rows

    schema = trainkit.table(COLORS, "t", test=0, task="regression", encode="codes").schema
    row = {"c": "a", "d": "u", "x": 1.0}
    with pytest.raises(UserError, match=r"'z' .* is in no training row; train with data.unknown=ignore, which gives it a code"):
        read_rows([{**row, "c": "z"}], schema)
    with pytest.raises(UserError, match=r"column 'c', row 0: missing .*, or train with data.missing=mean"):
        read_rows([{**row, "c": None}], schema)
    with pytest.raises(UserError, match=r"column 'x', row 0: missing .*, or set data.missing=mean"):
        read_rows([{**row, "x": None}], schema)


@pytest.mark.parametrize("replicas", [1, 2])
def test_noise_changes_the_numbers_and_leaves_the_codes(replicas: int) -> None:
    session = fit(table(rows()).augmented({"noise": 1.0}), max_epochs=1, replicas=replicas).fitted()
    taken = torch.cat([x.reshape(-1, 4) for x, *_ in session.batches(0)])
    index = session.order(0).reshape(replicas, -1).split(4, 1)
    plain = session.data.train.x[torch.cat([i.reshape(-1) for i in index])]
    assert torch.equal(taken[:, 2:], plain[:, 2:])
    noise = (taken - plain)[:, :2]
    assert noise.count_nonzero() == noise.numel()
    assert abs(float(noise.std()) - 1) < 0.35  # 48 normal numbers: three standard errors


def test_mixup_refuses_codes_which_have_no_mean() -> None:
    data = tensors(rows(), torch.nn.functional.one_hot((rows()[:, 2] == 1).long(), 2).float(), classes=2)
    data = replace(data, categories=(0, 0, 3, 4), features=("width", "height", "color", "shape"))
    with pytest.raises(UserError, match=r"augment\.mixup: mixes inputs, .*codes .* cannot be mixed; set data\.encode=onehot"):
        fit(data.augmented("mixup"))
