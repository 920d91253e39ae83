"""Reference implementations in other libraries: the only package that may import torch.nn, torch.optim or autograd.

`find("torch")` returns the one for `trainkit compare --against torch`: it trains the same net from the same weights over the
same batches. Its modules are imported only through `find`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from trainkit.core.errors import UserError, suggest

REFERENCES = {"torch": "torch_reference"}  # the module of each
TITLES = {"torch": "torch.nn with autograd"}


def find(name: str) -> ModuleType:
    """Return the reference implementation of that name, a module with `fit`. Raises UserError for an unknown name."""
    if name not in REFERENCES:
        raise UserError(f"compare --against: no reference implementation {name!r}{suggest(name, REFERENCES)}")
    return import_module(f".{REFERENCES[name]}", __name__)
