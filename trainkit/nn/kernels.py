"""torch's kernels that have no public Python name, for arithmetic only.

Called through the overload (`.default`), a kernel takes 1 to 3 microseconds on 50 x 25 numbers; the same formula in plain
tensor operations takes 7 to 10 (docs/decisions.md).
"""

import torch
from torch import Tensor

_aten = torch.ops.aten

linear = torch._C._nn.linear  # (x, w, b or None): x wᵀ + b
threshold_backward = _aten.threshold_backward.default  # (dy, y, 0): 0 where y <= 0, else dy
tanh_backward = _aten.tanh_backward.default  # (dy, y): dy (1 - y²)
sigmoid_backward = _aten.sigmoid_backward.default  # (dy, y): dy y (1 - y)
leaky_relu = torch._C._nn.leaky_relu  # (x, a): x where x > 0, else a x
leaky_relu_backward = _aten.leaky_relu_backward.default  # (dy, x, a, False: x is not y): dy where x > 0, else a dy
elu = torch._C._nn.elu  # (x, a): x where x > 0, else a (eˣ - 1)
elu_backward = _aten.elu_backward.default  # (dy, a, 1, 1, False: x is not y, x): dy where x > 0, else dy a eˣ
gelu = torch._C._nn.gelu  # (x, approximate="none" | "tanh"): x Φ(x)
gelu_backward = _aten.gelu_backward.default  # (dy, x, approximate="none" | "tanh"): dy (Φ(x) + x φ(x))
silu = torch._C._nn.silu  # (x): x s, s = sigmoid x
silu_backward = _aten.silu_backward.default  # (dy, x): dy s (1 + x (1 - s))
softplus = torch._C._nn.softplus  # (x, β, threshold): log(1 + e^(βx)) / β, and x where βx > threshold
softplus_backward = _aten.softplus_backward.default  # (dy, x, β, threshold): dy sigmoid(βx), and dy where βx > threshold
softmax_backward = torch._softmax_backward_data  # (dy, y, axis, dtype): y (dy - Σ dy y)
log_softmax_backward = torch._log_softmax_backward_data  # (dy, y, axis, dtype): dy - eʸ Σ dy
nll = _aten.nll_loss_forward.default  # (y, t, weight, 1 mean | 2 sum, ignored): -Σ weight[t] y[t] / norm, and norm
nll_backward = _aten.nll_loss_backward.default  # (1, y, t, weight, 1 | 2, ignored, norm): -weight[t] / norm at t, else 0


def log1pexp(x: Tensor) -> Tensor:
    """Return log(1 + eˣ) = log(1 + e^-|x|) + max(0, x) without overflow. It is exact where `softplus` drops e⁻ˣ."""
    return torch.log1p(torch.exp(-x.abs())).add_(torch.relu(x))


_ones: dict[tuple[int | None, torch.dtype, torch.device], Tensor] = {}


def ones(like: Tensor, n: int | None) -> Tensor:
    """Return a vector of n ones, or the scalar 1 for None, cached. dyᵀ 1 takes half the time of a sum and an addition."""
    key = (n, like.dtype, like.device)
    made = _ones.get(key)  # one lookup, since hashing the key takes most of the time of a call
    if made is None:
        made = _ones[key] = torch.ones(() if n is None else n, dtype=like.dtype, device=like.device)
    return made
