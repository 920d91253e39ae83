"""Passes in bfloat16 over parameters that stay wide: `session.settings.precision: bf16`.

bfloat16 has the range of float32 and 8 of its 24 binary digits: enough for activations and their gradients, and half their
memory; too few for a parameter, in which a step of less than a 512th of it would be lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainkit.core.timing import seconds
from trainkit.nn.module import Module, Value

from .swap import homes, lent

SIDE = 256  # of the product by which a device is tried


class InBfloat16:
    """A net's passes for a step: its parameters and x are rounded to bfloat16, as is dy; y, and what is added to the
    gradients, has the type of x again. Loss, gradients' sums, optimizer, evaluation and checkpoints know nothing of it.

    Saves the rounded parameters beside what the net saves.
    Source: Micikevicius et al. 2018, section 3.1; for bfloat16, where the loss needs no scale, Kalamkar et al. 2019.
    """

    def __init__(self, net: Module) -> None:
        self.net, self.lead = net, net.lead
        self.p, self.g = zip(*homes(net, net.param()), strict=True)

    def fwd(self, x: Value) -> tuple[Tensor, Any]:
        narrow = [home[name].bfloat16() for home, name in self.p]
        with lent(list(zip(self.p, narrow, strict=True))):
            y, saved = self.net.fwd(x.bfloat16())
        return y.to(x.dtype), (saved, narrow)

    def grad(self, saved: Any, dy: Tensor) -> None:
        inner, narrow = saved
        wide, sums = [home[name] for home, name in self.g], [torch.zeros_like(p) for p in narrow]
        with lent([*zip(self.p, narrow, strict=True), *zip(self.g, sums, strict=True)]):
            self.net.grad(inner, dy.bfloat16())
        for g, added in zip(wide, sums, strict=True):
            g.add_(added)


def slowdown() -> float:
    """How many times as long a product in bfloat16 takes as one in float32, on this processor."""
    a = torch.ones(SIDE, SIDE)
    b = a.bfloat16()
    return seconds(lambda: b @ b) / seconds(lambda: a @ a)
