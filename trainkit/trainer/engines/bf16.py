"""Passes in bfloat16 over parameters that keep their dtype: `trainer.precision: bf16`.

bfloat16 has the range of float32 and 8 of its 24 significant bits. That is enough for activations and their gradients, and
halves their memory. It is too few for a parameter: an update below 1/512 of its value would be lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.timing import seconds
from trainkit.nn.layers.embedding import EmbedColumns
from trainkit.nn.module import Module, Tensors
from trainkit.nn.tracing import place

PASSES = ("fwd", "bwd", "bwd_params")
MAX_CODES = 257  # codes 0 to 256: bfloat16 rounds larger whole numbers
SIDE = 256  # of the matrices whose product is timed


class InBfloat16:
    """A net's passes for a step, with parameters, x and dy rounded to bfloat16.

    y, and the gradients that are added, are converted back to the type of x. The loss, the sums of gradients, the optimizer,
    the evaluation and checkpoints are not rounded.

    The passes are those of a copy of the net over rounded parameters and gradients of its own. Each `fwd` rounds the
    parameters again and copies attributes that were set on the net's modules since, such as `training`. Several passes may be
    in progress at once while the parameters do not change.
    Raises UserError for columns of codes that bfloat16 cannot hold.
    Source: Micikevicius et al. 2018, section 3.1; for bfloat16, where the loss needs no scale, Kalamkar et al. 2019.
    """

    def __init__(self, net: Module) -> None:
        _check_codes(net)
        self.replica_dims = net.replica_dims
        self.p, self.g = [p for p, _ in net.param()], [g for _, g in net.param()]
        self.narrow_p = [torch.empty_like(p, dtype=torch.bfloat16) for p in self.p]
        self.narrow_g = [torch.empty_like(g, dtype=torch.bfloat16) for g in self.g]
        self.narrow = net.with_parameters(zip(self.narrow_p, self.narrow_g, strict=True))
        # The attributes of each module, those of its copy, and the attributes that only the copy has.
        both = [(vars(m), vars(c)) for (_, m), (_, c) in zip(net.modules(), self.narrow.modules(), strict=True)]
        self.attributes = [(m, c, {name: v for name, v in c.items() if v is not m[name] or name in PASSES}) for m, c in both]

    def fwd(self, x: Tensors) -> tuple[Tensor, Any]:
        for original, copied, own in self.attributes:
            copied.update(original)
            for name in PASSES:  # `traced` replaces these on the net; the copy keeps its own
                copied.pop(name, None)
            copied.update(own)
        for narrow, p in zip(self.narrow_p, self.p, strict=True):
            narrow.copy_(p)
        y, saved = self.narrow.fwd(x.bfloat16())
        return y.to(x.dtype), saved

    def bwd_params(self, saved: Any, dy: Tensor) -> None:
        for added in self.narrow_g:
            added.zero_()
        self.narrow.bwd_params(saved, dy.bfloat16())
        for g, added in zip(self.g, self.narrow_g, strict=True):
            g.add_(added)


def _check_codes(net: Module) -> None:
    for path, m in net.modules():
        if isinstance(m, EmbedColumns) and max(m.categories) > MAX_CODES:
            problem = f"{place(path, m)} has a column of {max(m.categories)} categories, bfloat16 holds {MAX_CODES}"
            raise UserError(f"trainer.precision: bf16, but {problem}; set trainer.precision=full")


def slowdown() -> float:
    """Return the time of a product in bfloat16 divided by that in float32, on this processor."""
    a = torch.ones(SIDE, SIDE)
    b = a.bfloat16()
    return seconds(lambda: b @ b) / seconds(lambda: a @ a)
