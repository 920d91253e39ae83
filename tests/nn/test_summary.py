"""The table of a net's layers."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.nn.layers import Add, Dropout, FanOut, Linear, Parallel, ReLU, Residual, Sequential
from trainkit.nn.module import Module
from trainkit.nn.summary import layers


class Doubled(Linear):
    """A module with parameters whose operations are its own."""

    def flops(self, x: Tensor) -> int:
        return 7 * x.numel()


class Unknown(Module):
    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        return x.flip(1), None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return dy.flip(1)


def costs(*net: Module) -> tuple[list[str], str]:
    """The column of FLOPs, and the words about the total."""
    *rows, total = layers(Sequential(*net), torch.ones(1, 4), 1).splitlines()
    return [row.split()[-1] for row in rows[1:]], total.split(", ", 1)[1].partition(" per ")[0]


def test_the_operations_of_each_layer_are_counted() -> None:
    net = Linear(4, 3), ReLU(), Dropout(), Residual(Linear(3, 3)), FanOut(2), Parallel(ReLU(), ReLU()), Add()
    assert costs(*net)[0] == ["24", "3", "3", "18", "0", "3", "3", "3"]
    assert costs(*net)[1] == "57 FLOPs"
    assert costs(Doubled(4, 2)) == (["28"], "28 FLOPs")


def test_a_module_that_does_not_count_its_operations_is_not_guessed() -> None:
    assert costs(Linear(4, 4), Unknown()) == (["32", "?"], "at least 32 FLOPs")
