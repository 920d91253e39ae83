"""Numbers of images at other places: whole pixels, or between pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the column of each pixel of images (k, ..., h, w): (1, h, 1) and (1, 1, w) int64."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    return rows[None, :, None], columns[None, None, :]


def framed(x: Tensor, fill: float) -> Tensor:
    """Return images (k, ..., h, w) in a frame of pixels `fill`, flat: (k, m, (h + 2) (w + 2))."""
    h, w = x.shape[-2:]
    frame = x.new_full((len(x), x[0].numel() // (h * w), h + 2, w + 2), fill)
    frame[..., 1:-1, 1:-1] = x.reshape(len(x), -1, h, w)
    return frame.flatten(2)


def pick(x: Tensor, frame: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return x (k, ..., h, w) at the pixels (rows, columns), which broadcast to (k, h, w); outside, its `frame`."""
    h, w = x.shape[-2:]
    at = ((rows.clamp(-1, h) + 1) * (w + 2) + (columns.clamp(-1, w) + 1)).view(len(x), 1, h * w)
    return frame.gather(2, at.expand(-1, frame.shape[1], -1)).view(x.shape)


def bilinear(x: Tensor, rows: Tensor, columns: Tensor, fill: float) -> Tensor:
    """Return x (k, ..., h, w) between its pixels, at real places (rows, columns), which broadcast to (k, h, w).

    With f = i - ⌊i⌋ and g = j - ⌊j⌋: (1 - f)((1 - g) x₀₀ + g x₀₁) + f((1 - g) x₁₀ + g x₁₁).
    """
    frame, (top, left) = framed(x, fill), (rows.floor(), columns.floor())
    f, g = ((v - low).to(x.dtype).view(len(x), *[1] * (x.dim() - 3), *v.shape[1:]) for v, low in ((rows, top), (columns, left)))
    i, j = top.long(), left.long()
    upper = (1 - g) * pick(x, frame, i, j) + g * pick(x, frame, i, j + 1)
    lower = (1 - g) * pick(x, frame, i + 1, j) + g * pick(x, frame, i + 1, j + 1)
    return (1 - f) * upper + f * lower
