"""Checks of the objects that `Trainer.fit` receives: each wrong type has one clear error."""

from __future__ import annotations

from typing import Any

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

EXPECTED: dict[str, tuple[type, str]] = {
    "net": (Module, "a trainkit module: Sequential(Linear(2, 25), ReLU(), Linear(25, 2))"),
    "loss": (Loss, "a trainkit loss: CrossEntropyLoss()"),
    "optimizer": (Optimizer, "a trainkit optimizer: SGD(net.param(), lr=0.1)"),
}


def check_objects(net: Any, loss: Any, optimizer: Any) -> None:
    """Raise UserError where an argument of `fit` has the wrong type, or where the optimizer holds another net's parameters."""
    for name, value in (("net", net), ("loss", loss), ("optimizer", optimizer)):
        expected, advice = EXPECTED[name]
        if not isinstance(value, expected):
            raise UserError(f"{name}: is {described_type(value)}; give {advice}, as in fit(net, loss, optimizer, data)")
    own = {id(p) for p, _ in net.param()}
    if any(id(p) not in own for p, _ in optimizer.pairs):
        name = type(optimizer).__name__
        raise UserError(f"optimizer: holds parameters that are not this net's; make it from this net: {name}(net.param(), ...)")


def described_type(value: Any) -> str:
    """Return what a value is, in words: `the class SGD`, `a DataLoader of torch`, `'text'`."""
    if isinstance(value, type):
        return f"the class {value.__name__}, not an object of it"
    library = type(value).__module__.partition(".")[0]
    if library in ("torch", "numpy", "pandas", "lightning", "pytorch_lightning", "keras"):
        return f"a {type(value).__name__} of {library}"
    if isinstance(value, (str, int, float, type(None))):
        return short_repr(value)
    return f"a {type(value).__name__}"
