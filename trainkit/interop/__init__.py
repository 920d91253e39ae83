"""Other libraries: the only package of trainkit that may import torch.nn, torch.optim or autograd.

`find("torch")` is the reference implementation of `trainkit compare --against torch`: it trains the same net from the same
weights over the same batches. Nothing else imports the modules of this package.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from trainkit.core.errors import UserError, suggest

RIVALS = {"torch": "torch_reference"}
TITLES = {"torch": "torch.nn with autograd"}


def find(name: str) -> ModuleType:
    """The rival of that name, a module with `fit`. Raises UserError with the nearest name."""
    if name not in RIVALS:
        raise UserError(f"compare --against: no rival {name!r}{suggest(name, RIVALS)}")
    return import_module(f".{RIVALS[name]}", __name__)
