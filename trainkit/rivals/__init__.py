"""Who trains the same net from the same weights over the same batches: `python -m trainkit compare --against torch`.

The rivals' files stand in `benchmarks/rivals/` at the top of the repository, one a file: trainkit itself holds no autograd. A
wheel carries them in this folder; a checkout, and an editable install of one, finds them at the top. Either way they are
modules of this package, and nothing but `find` imports them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..errors import UserError, near

RIVALS = {"torch": "torch_nn"}
TITLES = {"torch": "torch.nn with autograd"}

_here = Path(__file__).parent
if not (_here / "torch_nn.py").exists():
    __path__.append(str(_here.parents[1] / "benchmarks" / "rivals"))


def find(name: str) -> ModuleType:
    """The rival of that name, a module with `fit`. Raises UserError with the nearest name."""
    if name not in RIVALS:
        raise UserError(f"compare --against: no rival {name!r}{near(name, RIVALS)}")
    return import_module(f".{RIVALS[name]}", __name__)
