"""Functions of each element: y = f(x), dx = dy f'(x). Each saves what makes f' cheapest, x or y."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.nn import kernels
from trainkit.nn.module import Module


class Identity(Module):
    """y = x, dx = dy. Saves nothing."""

    def fwd(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None

    def bwd(self, saved: None, dy: Tensor) -> Tensor:
        return dy


class ReLU(Module):
    """y = max(0, x), dx = dy where x > 0, else 0 (at 0 too, as torch has it). Saves y: y > 0 where x > 0."""

    kinks = (0.0,)

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(x)
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.threshold_backward(dy, y, 0)


class LeakyReLU(Module):
    """y = x where x > 0, else a x; dx = dy, or a dy. `negative_slope` is a. Saves x."""

    kinks = (0.0,)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.a = negative_slope

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(x > 0, x, x * self.a), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return torch.where(x > 0, dy, dy * self.a)

    def extra(self) -> str:
        return f"negative_slope={self.a}"


class Tanh(Module):
    """y = tanh x. Saves y, since dx = dy (1 - y²)."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.tanh_backward(dy, y)


class Sigmoid(Module):
    """y = 1 / (1 + e⁻ˣ). Saves y, since dx = dy y (1 - y)."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.sigmoid(x)
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return kernels.sigmoid_backward(dy, y)


class ELU(Module):
    """y = x where x > 0, else a (eˣ - 1); dx = dy, or dy a eˣ. `alpha` is a. Saves x.

    Source: Clevert, Unterthiner, Hochreiter 2016.
    """

    kinks = (0.0,)  # smooth only where a = 1

    def __init__(self, alpha: float = 1.0) -> None:
        self.a = alpha

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(x > 0, x, torch.expm1(x).mul_(self.a)), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        return torch.where(x > 0, dy, dy * torch.exp(x).mul_(self.a))

    def extra(self) -> str:
        return f"alpha={self.a}"


class GELU(Module):
    """y = x Φ(x), Φ the normal distribution function; dx = dy (Φ + x φ). Saves x.

    `approximate="tanh"`: Φ ≈ (1 + tanh u)/2 with u = √(2/π) (x + 0.044715 x³), so that
    dx = dy ((1 + tanh u)/2 + x (1 - tanh² u) u'/2), u' = √(2/π) (1 + 3·0.044715 x²). Source: Hendrycks, Gimpel 2016.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise UserError(f"GELU: approximate={approximate!r}; choose none or tanh")
        self.approximate = approximate

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.approximate == "tanh":
            return x * 0.5 * (1 + torch.tanh(self._u(x))), x
        return x * torch.special.ndtr(x), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        if self.approximate == "tanh":
            h = torch.tanh(self._u(x))
            du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
            return dy * 0.5 * (1 + h + x * (1 - h * h) * du)
        density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)  # φ(x)
        return dy * (torch.special.ndtr(x) + x * density)

    @staticmethod
    def _u(x: Tensor) -> Tensor:
        return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)

    def extra(self) -> str:
        return "" if self.approximate == "none" else "approximate='tanh'"


class SiLU(Module):
    """y = x s, s = sigmoid x. Saves x, since dx = dy s (1 + x (1 - s)). Source: Elfwing, Uchibe, Doya 2018."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * torch.sigmoid(x), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return dy * s * (1 + x * (1 - s))


class Softplus(Module):
    """y = log(1 + e^(βx)) / β, and x itself where βx > threshold; dx = dy sigmoid(βx), or dy. Saves x."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        if beta == 0:
            raise UserError("Softplus: beta=0; needs another number")
        self.beta, self.threshold = beta, threshold

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bx = x * self.beta
        return torch.where(bx > self.threshold, x, torch.log1p(torch.exp(bx.clamp(max=self.threshold))) / self.beta), x

    def bwd(self, x: Tensor, dy: Tensor) -> Tensor:
        bx = x * self.beta
        return torch.where(bx > self.threshold, dy, dy * torch.sigmoid(bx))

    def extra(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softmax(Module):
    """y = eˣ / Σ eˣ along `dim`. Saves y, since dx = y (dy - Σ dy y).

    `dim` counts axes as torch does; the replica axis is not counted.
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.softmax(x, self._axis())
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        g = dy * y
        return g - y * g.sum(self._axis(), keepdim=True)

    def _axis(self) -> int:
        return self.dim if self.dim < 0 else self.dim + self.lead

    def extra(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """y = x - log Σ eˣ along `dim`. Saves y, since dx = dy - eʸ Σ dy."""

    def fwd(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.log_softmax(x, self._axis())
        return y, y

    def bwd(self, y: Tensor, dy: Tensor) -> Tensor:
        return dy - torch.exp(y) * dy.sum(self._axis(), keepdim=True)
