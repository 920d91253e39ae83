"""Activations: y = f(x), dx = dy f'(x). Each saves x or y, whichever makes f' cheaper.

Each pass is one of torch's kernels, so that values and gradients equal those of torch.nn under autograd bit by bit, also at
inf and NaN. The docstring is the formula that the kernel computes; the tests compare it with plain tensor operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.core.cpp import flag, numbers
from trainkit.core.errors import UserError
from trainkit.nn import kernels
from trainkit.nn.module import Module, Tensors


class Activation(Module):
    """The base of the activations, counted as one operation per element."""

    def flops(self, x: Tensor) -> int:
        return x.numel()

    def native(self, features: int) -> tuple[str, int, bool] | None:
        function = self.native_function()
        if function is None:
            return None
        name, arguments, saves_x = function
        return f"Elementwise<N, {features}, {name}> @{{{numbers(arguments)}}};", features, saves_x

    def native_function(self) -> tuple[str, tuple[float, ...], bool] | None:
        """Return the C++ function of single numbers, its numbers, and whether its derivative takes x (else y)."""
        return None


class Identity(Module):
    """y = x, dx = dy. Saves nothing."""

    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return dy

    def flops(self, x: Tensors) -> int:
        return 0


class ReLU(Activation):
    """y = max(0, x), dx = 0 where x <= 0 (at 0 too, as in torch), else dy. Saves y: y <= 0 where x <= 0."""

    nonsmooth_at = (0.0,)

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(x)
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.threshold_backward(dy, y, 0)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return "ReLU", (), False


class LeakyReLU(Activation):
    """y = x where x > 0, else a x; dx = dy, or a dy. `negative_slope` is a. Saves x."""

    nonsmooth_at = (0.0,)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.a = negative_slope

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.leaky_relu(x, self.a), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return kernels.leaky_relu_backward(dy, x, self.a, False)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return "LeakyReLU", (self.a,), True

    def extra_repr(self) -> str:
        return f"negative_slope={self.a}"


class Tanh(Activation):
    """y = tanh x. Saves y, since dx = dy (1 - y²)."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.tanh_backward(dy, y)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return "Tanh", (), False


class Sigmoid(Activation):
    """y = 1 / (1 + e⁻ˣ). Saves y, since dx = dy y (1 - y)."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.sigmoid(x)
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.sigmoid_backward(dy, y)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return "Sigmoid", (), False


class ELU(Activation):
    """y = x where x > 0, else a (eˣ - 1); dx = dy, or dy a eˣ. `alpha` is a. Saves x.

    Source: Clevert, Unterthiner, Hochreiter 2016.
    """

    nonsmooth_at = (0.0,)  # smooth only where a = 1

    def __init__(self, alpha: float = 1.0) -> None:
        self.a = alpha

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.elu(x, self.a), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return kernels.elu_backward(dy, self.a, 1, 1, False, x)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return "ELU", (self.a,), True

    def extra_repr(self) -> str:
        return f"alpha={self.a}"


class GELU(Activation):
    """y = x Φ(x), Φ the normal distribution function; dx = dy (Φ + x φ). Saves x.

    `approximate="tanh"`: Φ ≈ (1 + tanh u)/2 with u = √(2/π) (x + 0.044715 x³), so that
    dx = dy ((1 + tanh u)/2 + x (1 - tanh² u) u'/2), u' = √(2/π) (1 + 3·0.044715 x²). Source: Hendrycks, Gimpel 2016.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise UserError(f"GELU: approximate={approximate!r}; choose from none, tanh")
        self.approximate = approximate

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.gelu(x, approximate=self.approximate), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return kernels.gelu_backward(dy, x, approximate=self.approximate)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return ("GELU" if self.approximate == "none" else "TanhGELU"), (), True

    def extra_repr(self) -> str:
        return "" if self.approximate == "none" else "approximate='tanh'"


class SiLU(Activation):
    """y = x s, s = sigmoid x. Saves x, since dx = dy s (1 + x (1 - s)). Source: Elfwing, Uchibe, Doya 2018."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.silu(x), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return kernels.silu_backward(dy, x)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return "SiLU", (), True


class Softplus(Activation):
    """y = log(1 + e^(βx)) / β, and x itself where βx > threshold; dx = dy sigmoid(βx), or dy. Saves x.

    With a threshold above 709 (88 in float32), e^(βx) overflows below the threshold: y is inf and dx is NaN, as in torch.
    Raises UserError for beta 0.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        if beta == 0:
            raise UserError("Softplus: beta=0; needs a number other than 0")
        self.beta, self.threshold = beta, threshold

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.softplus(x, self.beta, self.threshold), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return kernels.softplus_backward(dy, x, self.beta, self.threshold)

    def native_function(self) -> tuple[str, tuple[float, ...], bool]:
        return "Softplus", (self.beta, self.threshold), True

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softmax(Activation):
    """y = eˣ / Σ eˣ along `dim`. Saves y, since dx = y (dy - Σ dy y).

    `dim` counts axes as torch does; the replica axis is not counted.
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.softmax(x, self._axis())
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.softmax_backward(dy, y, self._axis(), y.dtype)

    def native(self, features: int) -> tuple[str, int, bool] | None:
        if self.dim not in (-1, 1):
            return None
        return f"SoftmaxOfRows<N, {features}, {flag(isinstance(self, LogSoftmax))}> @;", features, False

    def _axis(self) -> int:
        return self.dim if self.dim < 0 else self.dim + self.replica_dims

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """y = x - log Σ eˣ along `dim`. Saves y, since dx = dy - eʸ Σ dy."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.log_softmax(x, self._axis())
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.log_softmax_backward(dy, y, self._axis(), y.dtype)
