"""Plain values: what a checkpoint file may hold, and what is refused when it is written and when it is read."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr

_PLAIN = (str, int, float, bool, type(None))


MAX_DIMS = 64  # that torch computes with


def check_plain(value: Any, place: str, seen: set[int]) -> None:
    """Refuse what `plain` would not have let through: other types, tensors that are not their whole memory, shared lists.

    torch crashes on a random state that begins inside its memory. A few hundred bytes of lists that share lists would take
    hours to walk; a list that contains itself would never end.
    """
    kind = type(value)
    if kind is Tensor:
        if value.dim() > MAX_DIMS:
            raise UserError(f"{place}: a tensor of {value.dim()} dimensions; needs {MAX_DIMS} or fewer")
        claimed = value.numel() * value.element_size()
        held = value.untyped_storage().nbytes() if value.layout == torch.strided and value.device.type == "cpu" else -1
        if claimed != held or value.requires_grad or not value.is_contiguous():
            raise UserError(f"{place}: {short_repr(value)} that the file does not hold as such")
        if held and (memory := value.untyped_storage().data_ptr()) in seen:
            raise UserError(f"{place}: stands at several places")
        seen |= {memory} if held else set()
    elif kind in (dict, list, tuple):
        if id(value) in seen and value:
            raise UserError(f"{place}: stands at several places")
        seen.add(id(value))
        for k, v in value.items() if kind is dict else enumerate(value):
            if type(k) not in (str, int):
                raise UserError(f"{place}: key {short_repr(k)}; needs text or a whole number")
            if type(v) in (str, float, bool):
                continue  # most values of a long list, without the words for their place
            check_plain(v, f"{place}.{short_repr(k, '')}" if place else short_repr(k, ""), seen)
    elif kind not in _PLAIN or (kind is int and value.bit_length() > 63):
        raise UserError(f"{place}: {short_repr(value)} is no plain value")


def to_plain(value: Any, place: str = "", copy: bool = True, seen: set[int] | None = None) -> Any:
    """A copy with contiguous CPU tensors that own their memory, refusing what a weights-only load would refuse.

    With `copy=False` a tensor that is such a one already is not copied, unless another in `value` has its memory (`seen`).
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
        return sys.intern(value)  # pickle writes equal texts once if they are one object: equal contents, equal bytes
    if type(value) in _PLAIN:
        return value
    stored = "str, int, float, bool, None, tensors, lists and dicts"
    raise UserError(f"checkpoint{place}: {type(value).__name__} cannot be stored; give {stored}")


def _own(tensor: Tensor, seen: set[int]) -> Tensor:
    """The tensor, or a copy of it where it is part of a larger memory, or of one that was seen."""
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
