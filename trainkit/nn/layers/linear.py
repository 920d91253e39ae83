"""The fully connected layer."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from trainkit.core.cpp import flag
from trainkit.core.errors import UserError, suggest
from trainkit.nn import kernels
from trainkit.nn.init import NAMES, Init, init_
from trainkit.nn.module import Module


class Linear(Module):
    """y = x wᵀ + b. x (n, in), y (n, out), w (out, in), b (out,); x may have any axes in place of n.

    With replicas each tensor has the leading axis r, and one call computes r products. Saves x, since dw = dyᵀ x.
    `init` draws w (see `nn/init.py`). b is drawn like w for uniform, standard, unit_uniform and normal, and is 0 for
    xavier, he and fan_out, as in their papers. Assign values with `layer.w.copy_(...)`.
    Raises UserError for a size below 1, an unknown init or a negative std. Source: torch.nn.Linear, with its signature.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, init: Init = "uniform", std: float = 1.0
    ) -> None:
        sizes = f"in_features={in_features!r}, out_features={out_features!r}"
        if not all(isinstance(n, Integral) for n in (in_features, out_features)):
            raise UserError(f"Linear: {sizes}; both need a whole number{'; auto is for configurations' * ('auto' in sizes)}")
        if in_features < 1 or out_features < 1:
            raise UserError(f"Linear: {sizes}; both need at least 1")
        if init not in NAMES:
            raise UserError(f"Linear: no init {init!r}{suggest(str(init), NAMES)}")
        if not std >= 0:
            raise UserError(f"Linear: std={std}; needs 0 or more")
        self.in_features, self.out_features, self.bias, self.init, self.std = in_features, out_features, bias, init, std
        self.w, self.dw = self.parameter("weight", (out_features, in_features))
        if bias:
            self.b, self.db = self.parameter("bias", (out_features,))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        init_(self.w, self.init, self.in_features, self.out_features, self.std, generator)
        if self.bias and self.init in ("uniform", "standard", "unit_uniform", "normal"):
            init_(self.b, self.init, self.in_features, self.out_features, self.std, generator)
        elif self.bias:
            self.b.zero_()

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x if x.dim() == 2 + self.replica_dims else self._rows(x)
        if self.replica_dims:
            y = torch.baddbmm(self.b.unsqueeze(1), rows, self.w.mT) if self.bias else torch.bmm(rows, self.w.mT)
        else:
            y = kernels.linear(rows, self.w, self.b if self.bias else None)
        return (y if rows is x else y.view(*x.shape[:-1], self.out_features)), rows

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        rows = dy if dy.dim() == x.dim() else self._rows(dy)
        self._accumulate(x, rows)
        dx = torch.bmm(rows, self.w) if self.replica_dims else torch.mm(rows, self.w)  # dx = dy w
        return dx if rows is dy else dx.view(*dy.shape[:-1], self.in_features)

    def bwd_params(self, x: Tensor, dy: Tensor) -> None:
        self._accumulate(x, dy if dy.dim() == x.dim() else self._rows(dy))

    def _accumulate(self, x: Tensor, dy: Tensor) -> None:
        """Add to the parameters' gradients, for x and dy as rows."""
        if self.replica_dims:
            self.dw.baddbmm_(dy.mT, x)  # dw += dyᵀ x
            if self.bias:
                self.db.add_(dy.sum(1))  # db += Σₙ dy
        else:
            dyt = dy.t()
            self.dw.addmm_(dyt, x)
            if self.bias:
                self.db.addmv_(dyt, kernels.ones(dy, dy.shape[0]))  # db += dyᵀ 1

    def _rows(self, x: Tensor) -> Tensor:
        """Return (..., features) as (n, features), after the replica axis."""
        return x.reshape(*x.shape[: self.replica_dims], -1, x.shape[-1])

    def flops(self, x: Tensor) -> int:
        """Return the operations of a forward pass: a multiplication and an addition per weight and row."""
        return 2 * self.out_features * x.numel()

    def native(self, features: int) -> tuple[str, int, bool] | None:
        return f"Linear<N, {self.in_features}, {self.out_features}, {flag(self.bias)}> @;", self.out_features, True

    def expected_input(self) -> str:
        return f"({'r, ' * self.replica_dims}n, {self.in_features})"

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias else ", bias=False")
