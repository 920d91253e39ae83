"""Quantile normalization: each feature is mapped to a standard normal distribution by its quantiles in the training split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainkit.data.statistics import filled

MAX_QUANTILES = 1000
SMALLEST = 1e-7 - 2.0**-52  # the smallest share that is mapped to its own number; below and above, numbers are ±5.2
LIMIT = -float(torch.special.ndtri(torch.tensor(SMALLEST, dtype=torch.float64)))


def quantiles(x: Tensor, fill: Tensor | None = None) -> Tensor:
    """Return q evenly spaced quantiles of each feature of x (n, ...), from the minimum to the maximum: (q, ...) float64.

    q = max(min(n // 30, 1000), 10), but at most n. Between two samples they are interpolated linearly. `fill` replaces NaN.
    One feature at a time is converted to float64, since x may be large.
    Source: Gorishniy et al. 2021, Revisiting deep learning models for tabular data, for q.
    """
    count = max(2, min(max(min(len(x) // 30, MAX_QUANTILES), 10), len(x)))
    flat, at = x.reshape(len(x), -1), np.linspace(0, 1, count) * 100
    found = torch.empty(count, flat.shape[1], dtype=torch.float64)
    for i in range(flat.shape[1]):
        feature = filled(flat[:, i].double(), None if fill is None else fill.flatten()[i])
        found[:, i] = torch.from_numpy(np.percentile(feature.cpu().numpy(), at))
    return found.view(count, *x.shape[1:])


def to_normal(x: Tensor, of: Tensor) -> Tensor:
    """Return z = Φ⁻¹(F(x)) within ±5.2 for x (n, ...) float64, F the distribution with the quantiles `of` (q, ...).

    F is piecewise linear. At a value that several quantiles share it is the middle of their shares; at the minimum it is 0, and
    at the maximum 1. A constant feature becomes 0, and a feature whose quantiles are NaN is returned as it is.
    Source: scikit-learn's QuantileTransformer with output_distribution="normal", which makes a constant feature -5.2.
    """
    q, v = of.reshape(len(of), -1).T.contiguous(), x.reshape(len(x), -1).T.contiguous()  # (features, q), (features, n)
    share = (_interpolated(v, q, right=True) + _interpolated(v, q, right=False)) / 2
    low, high = q[:, :1], q[:, -1:]
    share = torch.where(v <= low, 0.0, torch.where(v >= high, 1.0, share))
    share = torch.where((v == low) & (v == high), 0.5, share)
    z = torch.special.ndtri(share).clamp(-LIMIT, LIMIT)
    return torch.where(low.isnan(), v, z).T.reshape(x.shape)


def _interpolated(v: Tensor, q: Tensor, right: bool) -> Tensor:
    """Return the share of each v (features, n), linear between the quantiles q (features, k) before and after it.

    right: from the last of equal quantiles on; else up to the first of them. Not defined outside of q.
    """
    last = q.shape[1] - 1
    after = torch.searchsorted(q, v, right=right).clamp(1, last)
    a, b = q.gather(1, after - 1), q.gather(1, after)
    return torch.where(b > a, (after - 1 + (v - a) / (b - a)) / last, after / last)
