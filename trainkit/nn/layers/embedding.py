"""Layers for codes: whole numbers that name categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn.module import Module, Tensors


class EmbedColumns(Module):
    """y = (x₁, ..., x_F, w₁[k₁], ..., w_C[k_C]): numbers pass, and each code k is replaced by its row of a table.

    x (n, F + C) holds F numbers, then C codes; y (n, F + C dim). Each code column c has its own table w_c (categories[c], dim);
    `w` (Σ categories, dim) is all of them, one under the other. x may have any axes in place of n. dx is dy for the numbers and
    0 for the codes, which are rounded to whole numbers; dw[k] += dy. Saves the rows of w that were read.

    categories: the number of categories of each code column: codes are 0 to categories[c] - 1. In a configuration, auto takes
    them from the data. w is drawn from U(±1/sqrt(dim)), as in the source. A fit checks all codes before its first step. A pass
    does not: a code that is out of range may read a row of another column.
    Raises UserError for no categories, and for a number below 1. Source: Gorishniy et al. 2021, Revisiting deep learning models
    for tabular data; there CategoricalEmbeddings.
    """

    def __init__(self, categories: Sequence[int] | Literal["auto"] = "auto", dim: int = 8) -> None:
        if isinstance(categories, str):
            fix = "give a list: list(filter(None, data.categories))"
            raise UserError(f"EmbedColumns: categories={categories!r} is for configurations; {fix}")
        if not categories or min(categories) < 1:
            raise UserError(f"EmbedColumns: categories={list(categories)}; needs a number of at least 1 for each code column")
        if dim < 1:
            raise UserError(f"EmbedColumns: dim={dim}; needs at least 1")
        self.categories, self.dim = tuple(categories), dim
        self.w, self.dw = self.parameter("weight", (sum(categories), dim))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        bound = 1 / math.sqrt(self.dim)
        self.w.uniform_(-bound, bound, generator=generator)

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self._numbers(x)
        rows = x[..., numbers:].round().long() + first_rows(self.categories, self._replicas, x.dim(), x.device)
        vectors = self.w.view(-1, self.dim).index_select(0, rows.reshape(-1))
        return torch.cat([x[..., :numbers], vectors.view(*x.shape[:-1], len(self.categories) * self.dim)], -1), rows

    def bwd(self, rows: Tensor, dy: Tensor) -> Tensor:
        self.bwd_params(rows, dy)
        numbers = dy.shape[-1] - len(self.categories) * self.dim
        return torch.cat([dy[..., :numbers], torch.zeros_like(rows, dtype=dy.dtype)], -1)

    def bwd_params(self, rows: Tensor, dy: Tensor) -> None:
        numbers = dy.shape[-1] - len(self.categories) * self.dim
        self.dw.view(-1, self.dim).index_add_(0, rows.reshape(-1), dy[..., numbers:].reshape(-1, self.dim))  # dw[k] += dy

    def native(self, features: int) -> tuple[str, int, bool]:
        sizes = ", ".join(map(str, (features, self.dim, *self.categories)))
        return f"EmbedColumns<N, {sizes}> @;", features + len(self.categories) * (self.dim - 1), True

    def invalid_input(self, x: Tensor) -> Tensor | None:
        numbers = self._numbers(x)
        codes, limits = x[..., numbers:], torch.tensor(self.categories, device=x.device)
        wrong = ~((codes >= 0) & (codes < limits) & (codes == codes.round()))
        return torch.cat([torch.zeros_like(x[..., :numbers], dtype=torch.bool), wrong], -1) if wrong.any() else None

    def _numbers(self, x: Tensor) -> int:
        """Return F. Raises UserError if x has fewer columns than there are code columns."""
        if not x.dim() or x.shape[-1] < len(self.categories):
            raise UserError(f"EmbedColumns: x is {tuple(x.shape)}, needs {self.expected_input()}")
        return x.shape[-1] - len(self.categories)

    @property
    def _replicas(self) -> int:
        return self.w.shape[0] if self.replica_dims else 0

    def flops(self, x: Tensors) -> int:
        return 0  # no arithmetic

    def expected_input(self) -> str:
        limits = ", ".join(map(str, self.categories))
        return f"({'r, ' * self.replica_dims}n, F + {len(self.categories)}): numbers, then codes below {limits}"

    def extra_repr(self) -> str:
        return f"{list(self.categories)}, {self.dim}"


@cache
def first_rows(categories: tuple[int, ...], replicas: int, dims: int, device: torch.device) -> Tensor:
    """Return the row of w at which each code column's table begins: (C,), or (r, 1, ..., C) with `dims` axes for replicas."""
    total = sum(categories)
    first = torch.tensor([0, *accumulate(categories[:-1])])
    if replicas:
        first = (torch.arange(replicas)[:, None] * total + first).view(replicas, *[1] * (dims - 2), -1)
    return first.to(device)
