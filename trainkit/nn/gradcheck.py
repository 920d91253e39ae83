"""The first judge of a derivative: central differences in float64. (The second, torch's own modules, stands in the tests.)"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import Loss
from .module import Module, Value, bwd_value, fwd_value

EPS = 1e-6  # truncation ~ eps², rounding ~ 1e-16/eps: both near 1e-10 at this step
TOLERANCE = 1e-6
ROUNDING = 2.0**-48  # of the objective, relative: 16 units in the last place, by which a sum may be off
MARGIN = 1e-3  # inputs this near to a kink are moved off it


@dataclass(frozen=True)
class GradcheckResult:
    """Of one derivative: `name` (x, x[1], weight, ...), and the largest |a - n| / max(1, |a|, |n|) over its elements."""

    name: str
    error: float

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE


def gradcheck(module: Module, x: Value, seed: int = 0, elements: int | None = None) -> list[GradcheckResult]:
    """Each input's and parameter's hand-written gradient of Σ v·y against (f(p + eps) - f(p - eps)) / 2 eps, v random.

    Works on a copy in float64; random modules are reseeded before each forward. Cost: two passes an element; `elements` looks
    at so many of each tensor, drawn at random.
    """
    module = copy.deepcopy(module).to(dtype=torch.float64)
    inputs = _off_kinks(tuple(v.double() for v in (x if type(x) is tuple else (x,))), module)
    value: Value = inputs if type(x) is tuple else inputs[0]

    def reseed() -> None:
        for _, m in module.modules():
            if (generators := getattr(m, "generators", None)) is not None:
                m.__dict__["generators"] = tuple(torch.Generator().manual_seed(seed + i) for i in range(len(generators)))

    def forward() -> tuple[Value, object]:
        reseed()
        return fwd_value(module, value)

    y, saved = forward()
    outputs = y if type(y) is tuple else (y,)
    draw = torch.Generator().manual_seed(seed)
    v = tuple(torch.randn(o.shape, generator=draw, dtype=torch.float64) for o in outputs)

    def objective() -> float:
        y, _ = forward()
        return sum(float((vi * yi).sum()) for vi, yi in zip(v, y if type(y) is tuple else (y,), strict=True))

    module.zero_grad()
    dx = bwd_value(module, saved, v if type(y) is tuple else v[0])
    analytic = dx if type(dx) is tuple else (dx,)
    named = [(f"x[{i}]" if len(inputs) > 1 else "x", xi, d) for i, (xi, d) in enumerate(zip(inputs, analytic, strict=True))]
    named += [(name, p, g.clone()) for name, p, g in module.named_param()]
    return [GradcheckResult(name, _worst(p, g, objective, _drawn(p.numel(), elements, draw))) for name, p, g in named]


def gradcheck_loss(loss: Loss, y: Tensor, t: Tensor) -> GradcheckResult:
    """dy of `loss` against differences, as `gradcheck` does it."""
    y = y.double().clone()
    t = t.double() if t.is_floating_point() else t
    for kink in loss.nonsmooth_at:
        near = (y - t - kink).abs() < MARGIN
        y = torch.where(near, y + 2 * MARGIN, y)
    _, saved = loss.fwd(y, t)
    analytic = loss.bwd(saved)
    return GradcheckResult("y", _worst(y, analytic, lambda: float(loss.fwd(y, t)[0].sum()), range(y.numel())))


def _drawn(n: int, most: int | None, draw: torch.Generator) -> Iterable[int]:
    """All of n, or `most` of them."""
    return range(n) if most is None or n <= most else torch.randperm(n, generator=draw)[:most].tolist()


def _worst(p: Tensor, analytic: Tensor, objective: Callable[[], float], elements: Iterable[int]) -> float:
    """The largest scaled difference over the `elements` of `p`, which is nudged in place and put back; ∞ for another shape."""
    if analytic.shape != p.shape:
        return float("inf")
    worst = 0.0
    flat, gradient = p.view(-1), analytic.reshape(-1)
    for i in elements:
        a = gradient[i].item()
        here = flat[i].item()
        flat[i] = here + EPS
        up = objective()
        flat[i] = here - EPS
        down = objective()
        flat[i] = here
        n = (up - down) / (2 * EPS)
        apart, rounding = abs(a - n), ROUNDING * max(abs(up), abs(down)) / EPS
        error = max(0.0, apart - rounding) / max(1.0, abs(a), abs(n)) if math.isfinite(apart) else math.inf
        worst = max(worst, error)
    return worst


def _off_kinks(inputs: Sequence[Tensor], module: Module) -> tuple[Tensor, ...]:
    """Copies of the inputs, with elements near a kink of the module moved to the kink plus twice the margin."""
    moved = []
    for x in inputs:
        x = x.clone().contiguous()
        for kink in {k for _, m in module.modules() for k in m.nonsmooth_at}:
            x = torch.where((x - kink).abs() < MARGIN, kink + 2 * MARGIN, x)
        moved.append(x.contiguous())
    return tuple(moved)
