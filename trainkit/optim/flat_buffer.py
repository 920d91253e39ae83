"""One buffer for many tensors: each becomes a view of its stretch, so that zero, clip, update and hash are one call each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """The 1-d tensor that `tensors` are views of, in their order. Where they are not yet, they are moved, values and all.

    Every holder of one of the tensors sees it moved; a view taken of it before keeps the old memory.
    """
    if not tensors:
        return torch.zeros(0)
    if not _tile(tensors):
        flat = torch.empty(sum(t.numel() for t in tensors), dtype=tensors[0].dtype, device=tensors[0].device)
        for t, stretch in zip(tensors, unflatten(flat, tensors), strict=True):
            t.data = stretch.copy_(t)
    first = tensors[0]
    size = sum(t.numel() for t in tensors)
    return torch.empty(0, dtype=first.dtype, device=first.device).set_(
        first.untyped_storage(), first.storage_offset(), (size,), (1,)
    )


def unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of `flat` in the shapes of `tensors`, in their order."""
    return [f.view(t.shape) for f, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]


def is_flat(flat: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether `tensors` are still views of `flat` (or of the same memory), in order: no one has moved them since."""
    return not tensors or (_start(tensors[0]) == _start(flat) and flat.dtype == tensors[0].dtype and _tile(tensors))


def _start(t: Tensor) -> tuple[int, int]:
    """Where `t` begins. (`data_ptr` is 0 for a tensor of no elements, wherever it stands.)"""
    return t.untyped_storage().data_ptr(), int(t.storage_offset())


def _tile(tensors: Sequence[Tensor]) -> bool:
    """Whether each tensor begins where the one before ends, in one storage."""
    storage, offset = _start(tensors[0])
    for t in tensors:
        if t.dtype != tensors[0].dtype or not t.is_contiguous():
            return False
        if _start(t) != (storage, offset):
            return False
        offset += t.numel()
    return True


def spread(values: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """A value a replica (r,) as a flat buffer: each tensor (r, ...) takes its replica's value throughout."""
    rows = [values.view(-1, *[1] * (t.dim() - 1)).expand(t.shape).reshape(-1) for t in tensors]
    return torch.cat(rows) if rows else values[:0]


def norms(tensors: Sequence[Tensor], replica_dims: int) -> Tensor:
    """Euclidean norms of each tensor: (k,), or (k, r) where they have a replica axis."""
    return torch.stack([torch.linalg.vector_norm(t.flatten(replica_dims), dim=-1) for t in tensors])
