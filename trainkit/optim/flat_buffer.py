"""One flat buffer for many tensors, which become views of it: zeroing, clipping, updating and hashing are one call each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 1-d tensor that `tensors` are views of, in their order. Tensors that are not yet such views are moved there.

    They are moved in place and keep their values. A view taken of one of them earlier keeps the old memory.
    """
    if not tensors:
        return torch.zeros(0)
    if not _contiguous(tensors):
        flat = torch.empty(sum(t.numel() for t in tensors), dtype=tensors[0].dtype, device=tensors[0].device)
        for t, view in zip(tensors, unflatten(flat, tensors), strict=True):
            t.data = view.copy_(t)
    first = tensors[0]
    size = sum(t.numel() for t in tensors)
    return torch.empty(0, dtype=first.dtype, device=first.device).set_(
        first.untyped_storage(), first.storage_offset(), (size,), (1,)
    )


def unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return views of `flat` in the shapes of `tensors`, in their order."""
    return [f.view(t.shape) for f, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]


def is_flat(flat: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Return whether `tensors` are still views of the memory of `flat`, in order, and were not moved since."""
    return not tensors or (_start(tensors[0]) == _start(flat) and flat.dtype == tensors[0].dtype and _contiguous(tensors))


def _start(t: Tensor) -> tuple[int, int]:
    """Return the storage of `t` and its offset there. (`t.data_ptr()` is 0 for every tensor without elements.)"""
    return t.untyped_storage().data_ptr(), int(t.storage_offset())


def _contiguous(tensors: Sequence[Tensor]) -> bool:
    """Return whether each tensor begins where the one before it ends, in one storage."""
    storage, offset = _start(tensors[0])
    for t in tensors:
        if t.dtype != tensors[0].dtype or not t.is_contiguous():
            return False
        if _start(t) != (storage, offset):
            return False
        offset += t.numel()
    return True


def spread(values: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return a flat buffer in which each element of a tensor (r, ...) has its replica's value, of `values` (r,)."""
    rows = [values.view(-1, *[1] * (t.dim() - 1)).expand(t.shape).reshape(-1) for t in tensors]
    return torch.cat(rows) if rows else values[:0]


def norms(tensors: Sequence[Tensor], replica_dims: int) -> Tensor:
    """Return the Euclidean norm of each of k tensors: (k,), or (k, r) if they have a replica axis."""
    return torch.stack([torch.linalg.vector_norm(t.flatten(replica_dims), dim=-1) for t in tensors])
