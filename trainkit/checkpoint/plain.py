"""Plain values: what a checkpoint file may hold. Everything else is refused on writing and on reading."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr

_PLAIN = (str, int, float, bool, type(None))
MAX_DIMS = 64  # the largest number that torch's operations support


def check_plain(value: Any, place: str, seen: set[int]) -> None:
    """Refuse what `to_plain` never returns: other types, tensors that are not their whole memory, shared lists.

    torch crashes on a random state that begins inside its memory. A few hundred bytes of lists that share lists would take
    hours to traverse; the traversal of a list that contains itself would never end.
    """
    kind = type(value)
    if kind is Tensor:
        if value.dim() > MAX_DIMS:
            raise UserError(f"{place}: a tensor of {value.dim()} dimensions; needs {MAX_DIMS} or fewer")
        claimed = value.numel() * value.element_size()
        held = value.untyped_storage().nbytes() if value.layout == torch.strided and value.device.type == "cpu" else -1
        if claimed != held or value.requires_grad or not value.is_contiguous():
            raise UserError(f"{place}: {short_repr(value)} does not match its bytes in the file")
        if held and (memory := value.untyped_storage().data_ptr()) in seen:
            raise UserError(f"{place}: occurs at several places")
        seen |= {memory} if held else set()
    elif kind in (dict, list, tuple):
        if id(value) in seen and value:
            raise UserError(f"{place}: occurs at several places")
        seen.add(id(value))
        for k, v in value.items() if kind is dict else enumerate(value):
            if type(k) not in (str, int):
                raise UserError(f"{place}: key {short_repr(k)}; needs a text or an integer")
            if type(v) in (str, float, bool):
                continue  # most values of a long list: skip formatting their place
            check_plain(v, f"{place}.{short_repr(k, '')}" if place else short_repr(k, ""), seen)
    elif kind not in _PLAIN or (kind is int and value.bit_length() > 63):
        raise UserError(f"{place}: {short_repr(value)} is not a plain value")


def to_plain(value: Any, place: str = "", copy: bool = True, seen: set[int] | None = None) -> Any:
    """Return a copy whose tensors are contiguous, on the CPU and own their memory.

    With `copy=False`, a tensor that is already like this is not copied, unless it shares memory with another one in `value`
    (`seen`).
    Raises UserError for what a weights-only load would refuse.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        tensor = value.detach().to("cpu", copy=copy).contiguous()
        return tensor if copy else _own(tensor, seen)
    if isinstance(value, dict):
        return {_key(k, place): to_plain(v, f"{place}.{k}", copy, seen) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(v, f"{place}[{i}]", copy, seen) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value) is str:
        return sys.intern(value)  # one object: pickle then writes equal texts once, and equal contents give equal bytes
    if type(value) in _PLAIN:
        return value
    stored = "str, int, float, bool, None, tensors, lists and dicts"
    raise UserError(f"checkpoint{place}: {type(value).__name__} cannot be stored; give {stored}")


def _own(tensor: Tensor, seen: set[int]) -> Tensor:
    """Return the tensor, or a copy if its memory is larger or belongs to another tensor (`seen`)."""
    memory = tensor.untyped_storage()
    if memory.nbytes() != tensor.nbytes or memory.data_ptr() in seen:
        return tensor.clone()
    if memory.nbytes():
        seen.add(memory.data_ptr())
    return tensor


def _key(key: Any, place: str) -> Any:
    if type(key) not in (str, int):
        raise UserError(f"checkpoint{place}: key {key!r}; needs a str or an int")
    return sys.intern(key) if isinstance(key, str) else key
