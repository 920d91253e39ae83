"""`show`: what a configuration amounts to, in tables of text."""

from __future__ import annotations

import math

from torch import Tensor

from trainkit.app.config.build import Parts
from trainkit.trainer.trainer import Trainer

from .layers.activation import Identity
from .layers.container import Concat, Container, FanOut, Flatten
from .layers.linear import Linear
from .module import Module
from .tracing import shape, trace


def layers(net: Module, x: Tensor, trainer: Trainer) -> str:
    """Layers in the order they are passed: a sample's output, parameters, floating-point operations of a forward pass."""
    rows = [("layer", "output", "parameters", "FLOPs a sample")]
    total = flops = 0
    seen: set[int] = set()
    for call in trace(net, x.to(next(iter(net.param()), (x,))[0])):
        if isinstance(call.module, Container):
            continue
        own = sum(p.numel() for p, _ in call.module.param()) if id(call.module) not in seen else 0
        seen.add(id(call.module))
        cost = operations(call.module, call.given)
        total, flops = total + own, flops + cost
        rows.append((call.place, shape(call.gave), f"{own:,}", f"{cost:,}"))
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    size = 8 if trainer.dtype.itemsize == 8 else 4
    slots = len(trainer.optimizer.slots)
    memory = total * size * (2 + slots)
    of = f" in {trainer.replicas} replicas" if trainer.replicas > 1 else ""
    held = f"{memory / 1e6:.3g} MB of parameters, gradients and {slots} optimizer slots"
    lines.append(f"{total:,} parameters{of}, {flops:,} FLOPs a forward pass; {held}")
    return "\n".join(lines)


def operations(module: Module, x: Tensor) -> int:
    """Multiplications and additions of one forward pass: 2 in out a row for Linear, 1 an element for what else computes."""
    if isinstance(module, Linear):
        return 2 * module.out_features * x.numel()
    if isinstance(module, (Flatten, Identity, FanOut, Concat)):
        return 0  # no arithmetic
    return x.numel() if isinstance(x, Tensor) else sum(xi.numel() for xi in x)


def outline(parts: Parts, trainer: Trainer) -> str:
    """Data, loss, optimizer, hooks, and the learning rate over the run."""
    data = trainer.data
    sizes = ", ".join(
        f"{n} {len(p)}" for n, p in (("train", data.train), ("val", data.val), ("test", data.test)) if p is not None
    )
    length = f"{trainer.steps_per_epoch} steps an epoch, {trainer.max_epochs} epochs"
    lines = [
        "",
        f"data: {sizes}; {length} on {trainer.device.type} in {str(trainer.dtype).removeprefix('torch.')}",
        f"loss: {parts.loss}; optimizer: {trainer.optimizer}",
        "",
        "hooks, in the order of a run:",
        trainer.show_loop(),
    ]
    scheduler = next((cb for cb in parts.callbacks.values() if hasattr(cb, "curve")), None)
    if scheduler is not None and trainer.max_epochs * trainer.steps_per_epoch > MOST_STEPS:
        lines += ["", f"learning rate over the run: not drawn, it has over {MOST_STEPS:,} steps"]
    elif scheduler is not None:
        rates = scheduler.curve(trainer.optimizer.configured[0], trainer.max_epochs, trainer.steps_per_epoch)
        lines += ["", "learning rate over the run:", curve(rates)]
    return "\n".join(lines)


MOST_STEPS = 200_000  # whose rates are computed one by one to be drawn


def curve(values: list[float], width: int = 60, height: int = 8) -> str:
    """A plot in text: the mean of each stretch of steps, a column each."""
    if not values:
        return "  (no steps)"
    if not all(map(math.isfinite, values)):
        return f"  (not finite from step {[*map(math.isfinite, values)].index(False) + 1} on)"
    columns = min(width, len(values))
    means = [
        sum(v) / len(v) for v in (values[i * len(values) // columns : (i + 1) * len(values) // columns] for i in range(columns))
    ]
    top, low = max(means), min(means)
    span = top - low or 1.0
    levels = [round((m - low) / span * (height - 1)) for m in means]
    lines = []
    for h in range(height - 1, -1, -1):
        label = f"{top:.3g}" if h == height - 1 else f"{low:.3g}" if h == 0 else ""
        lines.append(f"  {label:>9} |{''.join('*' if level == h else ' ' for level in levels)}")
    return "\n".join([*lines, f"  {'':>9} +{'-' * columns} {len(values)} steps"])
