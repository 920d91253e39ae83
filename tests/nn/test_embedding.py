"""EmbedColumns: what its rows mean, how they are drawn, and codes that no table has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trainkit import EmbedColumns, Linear, Sequential, UserError
from trainkit.nn.gradcheck import gradcheck
from trainkit.nn.layers.embedding import first_rows
from trainkit.nn.summary import layers


def test_each_column_reads_its_own_table() -> None:
    layer = EmbedColumns([3, 2], dim=2)
    layer.w.copy_(torch.arange(10.0).view(5, 2))
    y = layer(torch.tensor([[0.5, 2.0, 1.0], [-1.5, 0.0, 0.0]]))
    assert y.tolist() == [[0.5, 4, 5, 8, 9], [-1.5, 0, 1, 6, 7]]


def test_a_row_that_is_read_twice_gets_both_gradients_and_one_that_is_not_read_gets_none() -> None:
    layer = EmbedColumns([3], dim=2)
    layer.forward(torch.tensor([[0.5, 2.0], [0.5, 2.0], [0.5, 0.0]]))
    dx = layer.backward(torch.tensor([[10.0, 1.0, 2.0], [20.0, 3.0, 4.0], [30.0, 5.0, 6.0]]))
    assert layer.dw.tolist() == [[5, 6], [0, 0], [4, 6]]
    assert dx.tolist() == [[10, 0], [20, 0], [30, 0]]


def test_codes_have_no_derivative_and_finite_differences_agree() -> None:
    x = torch.tensor([[0.3, 2.0, 0.0], [-0.2, 1.0, 1.0], [1.2, 0.0, 3.0]])
    verdicts = gradcheck(Sequential(EmbedColumns([3, 4], 2), Linear(5, 2)), x)
    assert [(v.name, v.ok) for v in verdicts] == [
        ("x", True),
        ("0.weight", True),
        ("1.weight", True),
        ("1.bias", True),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_code_is_exact_in_tables_of_a_million_rows(dtype: torch.dtype) -> None:
    k = 1_000_000
    layer = EmbedColumns([3, k], dim=1).to(dtype=dtype)
    codes = torch.tensor([0, 65_537, 524_289, k - 1])
    x = torch.stack([torch.zeros(4), codes.to(torch.float64)], 1).to(dtype)
    assert torch.equal(layer(x)[:, 1], layer.w[3 + codes, 0])


def test_rows_are_uniform_with_the_bound_of_the_source() -> None:
    w = EmbedColumns([20_000], dim=4).initialize(torch.Generator().manual_seed(0)).w
    assert w.abs().max() <= 0.5
    assert w.abs().max() > 0.4999
    assert w.var().item() == pytest.approx(0.25 / 3, rel=0.01)  # of U(±1/2)


def test_it_has_parameters_but_no_arithmetic() -> None:
    table = layers(Sequential(EmbedColumns([3, 2], 4)), torch.zeros(1, 5), slots=2)
    assert table.splitlines()[1].split() == ["0.EmbedColumns", "(1,", "11)", "20", "0"]


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ([9.0, 2.0, 1.0], []),
        ([9.0, 3.0, 1.0], [1]),
        ([9.0, 0.0, -1.0], [2]),
        ([9.0, 0.5, 2.0], [1, 2]),
        ([0.0, torch.nan, 0], [1]),
    ],
)
def test_it_says_which_codes_no_table_has(row: list[float], wrong: list[int]) -> None:
    found = EmbedColumns([3, 2]).invalid_input(torch.tensor([row]))
    assert ([] if found is None else found[0].nonzero()[:, 0].tolist()) == wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "categories='auto' is for configurations; give a list"),
        ({"categories": []}, r"categories=\[\]; needs a number of at least 1 for each code column"),
        ({"categories": [3, 0]}, r"categories=\[3, 0\]"),
        ({"categories": [3], "dim": 0}, "dim=0; needs at least 1"),
    ],
)
def test_sizes_that_make_no_table_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"EmbedColumns: {words}"):
        EmbedColumns(**arguments)


def test_an_input_with_fewer_columns_than_codes_is_refused() -> None:
    with pytest.raises(UserError, match=r"x is \(5, 1\), needs \(n, F \+ 2\): numbers, then codes below 3, 2"):
        EmbedColumns([3, 2])(torch.zeros(5, 1))


def test_the_first_rows_of_the_tables_are_cached_and_right() -> None:
    assert first_rows((4, 3, 2), 0, 2, torch.device("cpu")).tolist() == [0, 4, 7]
    of_replicas: Tensor = first_rows((4, 3), 2, 3, torch.device("cpu"))
    assert of_replicas.tolist() == [[[0, 4]], [[7, 11]]]
    assert first_rows((4, 3), 2, 3, torch.device("cpu")) is of_replicas
