"""Check the types that a pickle would create, without creating them.

A checkpoint may hold plain values, mappings with plain keys, and tensors. A weights-only load runs no code, but accepts more
than trainkit ever writes: `bytearray(10**10)` takes 10 GB, and mappings whose keys share one hash take hours. Up to torch 2.12
a storage that is declared larger than its entry is read beyond its end.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}  # their argument is the value
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ITEMS = {"APPEND": 1, "APPENDS": 0, "SETITEM": 2, "SETITEMS": 0}  # how many they take from the stack; 0: all above the mark
MAX_OPCODES = 250_000  # a value takes one to three, a tensor about twenty
MAX_INTEGER = 1 << 63
BYTES = {  # per number in a storage
    "Byte": 1, "Char": 1, "Bool": 1, "Half": 2, "BFloat16": 2, "Short": 2, "Int": 4, "Float": 4, "Long": 8, "Double": 8,
    "ComplexFloat": 8, "ComplexDouble": 16,
}  # fmt: skip
STORAGES = {f"torch {name}Storage": size for name, size in BYTES.items()} | {"torch.storage UntypedStorage": 1}
REBUILT = {"torch._utils _rebuild_tensor_v2": 6, "torch._utils _rebuild_tensor_v3": 7}  # function: number of arguments


class UnsafePickle(ValueError):
    """The pickle holds something that trainkit never writes."""


class Name(str):
    """`module name`, as a pickle names a class or a function."""


class Placeholder(str):
    """Represents a list, a dict, a storage or a tensor on the stack."""


LIST, DICT, STORAGE, TENSOR, HOOKS = map(Placeholder, ("a list", "a dict", "a storage", "a tensor", "an empty OrderedDict"))


def check_pickle(pickle: bytes, held: Mapping[str, int]) -> None:
    """Accept only a pickle that `torch.save` can write for plain values and tensors.

    held: the number of bytes of each storage's entry, by its key.
    Raises UnsafePickle, or any other exception if the pickle is broken.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any
    for i, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        name = opcode.name
        if i > MAX_OPCODES:
            raise UnsafePickle(f"over {MAX_OPCODES:,} opcodes")
        if name in LITERALS:
            if type(argument) is int and not -MAX_INTEGER <= argument < MAX_INTEGER:
                raise UnsafePickle("a number of more than 64 bits")
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in VALUES:
            stack.append(VALUES[name])
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append(LIST if name == "EMPTY_LIST" else DICT)
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ITEMS:
            at = len(stack) - ITEMS[name] if ITEMS[name] else marks.pop()
            items = stack[at:]
            del stack[at:]
            pairs = name.startswith("SETITEM")
            if stack[-1] is not (DICT if pairs else LIST) or (pairs and not all(type(k) in (str, int) for k in items[::2])):
                raise UnsafePickle("a mapping with keys that are neither texts nor integers")
        elif name == "TUPLE":
            at = marks.pop()
            stack[at:] = [tuple(stack[at:])]
        elif name in TUPLES:
            stack[-TUPLES[name] :] = [tuple(stack[-TUPLES[name] :])]
        elif name == "GLOBAL":
            stack.append(Name(argument))
        elif name == "BINPERSID":
            stack[-1] = _storage(stack[-1], held)
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = _called(stack[-1], arguments)
        elif name not in ("PROTO", "STOP"):
            raise UnsafePickle(f"the opcode {name}")


def _storage(named: Any, held: Mapping[str, int]) -> Placeholder:
    """Check a persistent id, ('storage', class, key, 'cpu', count), against the size of the entry with that key."""
    tag, kind, key, _, count = named
    if tag != "storage" or type(kind) is not Name or type(key) is not str or type(count) is not int:
        raise UnsafePickle("a persistent id that is not a storage")
    if count * STORAGES[kind] != held[key]:
        raise UnsafePickle(f"a storage of {count} numbers in {held[key]} bytes")
    return STORAGE


def _called(function: Any, arguments: Any) -> Placeholder:
    """Return what a call creates: a tensor, or the empty OrderedDict of its hooks."""
    if type(function) is Name and type(arguments) is tuple:
        if function == "collections OrderedDict" and not arguments:
            return HOOKS
        if REBUILT.get(function) == len(arguments) and arguments[0] is STORAGE and arguments[5] is HOOKS:
            return TENSOR
    raise UnsafePickle("a call of something other than a tensor")


def opcodes(value: Any, texts: set[str] | None = None) -> int:
    """Return how many opcodes the pickle of a plain value takes; slightly too many if it has tensors."""
    texts = set() if texts is None else texts
    if isinstance(value, Tensor):
        return 30 + 2 * value.dim()
    if isinstance(value, dict):
        return _container_opcodes(len(value)) + sum(opcodes(k, texts) + opcodes(v, texts) for k, v in value.items())
    if isinstance(value, list):
        return _container_opcodes(len(value)) + sum(opcodes(v, texts) for v in value)
    if isinstance(value, tuple):
        return min(3, 2 + len(value) // 4) + sum(opcodes(v, texts) for v in value)
    if isinstance(value, str) and value not in texts:
        texts.add(value)
        return 2  # the text and its memo entry; the next occurrence takes one
    return 1


def _container_opcodes(n: int) -> int:
    """Return the opcodes of a list or mapping itself: its memo entry, and two marks per thousand items."""
    return 2 + n if n < 2 else 2 + 2 * -(-n // 1000)
