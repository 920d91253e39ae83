"""Summarize a net as a table of text: layers, shapes, parameters, FLOPs and memory."""

from __future__ import annotations

from torch import Tensor

from trainkit.core.text_table import text_table

from .layers.container import Container
from .module import Module, shape
from .tracing import trace


def layers(net: Module, x: Tensor, slots: int, replicas: int = 1) -> str:
    """Return a table of the layers in the order of the forward pass, and a line of totals.

    x: one sample. slots: the optimizer's slots per parameter, for the memory. FLOPs are those of a forward pass, and a question
    mark where a module does not define `flops`.
    """
    rows = [("layer", "output", "parameters", "FLOPs per sample")]
    total = flops = 0
    unknown = False
    seen: set[int] = set()
    for call in trace(net, x.to(next(iter(net.param()), (x,))[0])):
        if isinstance(call.module, Container):
            continue
        own = sum(p.numel() for p, _ in call.module.param()) if id(call.module) not in seen else 0
        seen.add(id(call.module))
        cost = call.module.flops(call.given)
        total, flops = total + own, flops + (cost or 0)
        unknown |= cost is None
        rows.append((call.place, shape(call.gave), f"{own:,}", "?" if cost is None else f"{cost:,}"))
    size = next((p.element_size() for p, _ in net.param()), 4)
    memory = total * size * (2 + slots)
    of = f" in {replicas} replicas" if replicas > 1 else ""
    memory_text = f"{memory / 1e6:.3g} MB of parameters, gradients and {slots} optimizer slots"
    totals = f"{total:,} parameters{of}, {'at least ' if unknown else ''}{flops:,} FLOPs per forward pass; {memory_text}"
    return "\n".join([*text_table(rows, right=(2, 3)), totals])
