"""One hash of all parameters: equal parameters have equal digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 over each tensor's name, dtype, shape and bytes, in order."""
    h = hashlib.sha256()
    for name, p in named:
        value = p.detach().cpu().contiguous()
        h.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        h.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()
