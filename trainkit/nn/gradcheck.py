"""Compare hand-written derivatives with central finite differences in float64. (The tests compare them with autograd too.)"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import Loss
from .module import Module, Tensors, bwd_value, fwd_value

EPS = 1e-6  # the step: truncation ~ eps², rounding ~ 1e-16/eps, so the error is near 1e-10
TOLERANCE = 1e-6
ROUNDING = 2.0**-48  # relative rounding error allowed for the objective, a sum: 16 units in the last place
STEEPEST = 1e3  # slopes to the left and right that differ by more are those of a jump, which has no derivative
MARGIN = 1e-3  # inputs this near to a kink are moved away from it


@dataclass(frozen=True)
class GradcheckResult:
    """The result for one derivative: `name` is x, x[1], 0.weight, ...; `error` is the largest |a - n| / max(1, |a|, |n|)
    over its elements, a the hand-written and n the numerical derivative. The rounding of n, 2**-48 |f| / eps, is subtracted
    from |a - n|: an error of 0.0 says that a and n agree to within rounding."""

    name: str
    error: float

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE


def gradcheck(module: Module, x: Tensors, seed: int = 0, elements: int | None = None) -> list[GradcheckResult]:
    """Compare the hand-written gradient of f = Σ v·y, v random, with (f(p + eps) - f(p - eps)) / (2 eps).

    Return a result for each input and parameter p. Works on a copy in float64, and reseeds random modules before each forward
    pass. Each element costs two passes. elements: check only this many of each tensor, drawn at random; None checks all.
    """
    module = copy.deepcopy(module).to(dtype=torch.float64)
    inputs = _moved_off_kinks(tuple(v.double() for v in (x if type(x) is tuple else (x,))), module)
    value: Tensors = inputs if type(x) is tuple else inputs[0]

    def reseed() -> None:
        for _, m in module.modules():
            if (generators := getattr(m, "generators", None)) is not None:
                m.__dict__["generators"] = tuple(torch.Generator().manual_seed(seed + i) for i in range(len(generators)))

    def forward() -> tuple[Tensors, object]:
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
    return [GradcheckResult(name, _max_error(p, g, objective, _sampled(p.numel(), elements, draw))) for name, p, g in named]


def gradcheck_loss(loss: Loss, y: Tensor, t: Tensor, weight: Tensor | None = None) -> GradcheckResult:
    """Compare dy of `loss` with finite differences, as `gradcheck` does. weight: that of each sample."""
    y = y.double().clone()
    t = t.double() if t.is_floating_point() else t
    for kink in loss.nonsmooth_at:
        near = (y - t - kink).abs() < MARGIN
        y = torch.where(near, y + 2 * MARGIN, y)
    given = () if weight is None else (weight.double(),)
    _, saved = loss.fwd(y, t, *given)
    analytic = loss.bwd(saved)
    return GradcheckResult("y", _max_error(y, analytic, lambda: float(loss.fwd(y, t, *given)[0].sum()), range(y.numel())))


def _sampled(n: int, limit: int | None, draw: torch.Generator) -> Iterable[int]:
    """Return all of the n indices, or `limit` of them, drawn at random."""
    return range(n) if limit is None or n <= limit else torch.randperm(n, generator=draw)[:limit].tolist()


def _max_error(p: Tensor, analytic: Tensor, objective: Callable[[], float], elements: Iterable[int]) -> float:
    """Return the largest scaled difference over the `elements` of `p`, or ∞ if the shapes differ.

    Where the slopes to the left and to the right differ, as at a tie of a maximum, each value between them is a derivative.
    `p` is changed in place, one element at a time, and restored.
    """
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
        difference, rounding = abs(a - n), ROUNDING * max(abs(up), abs(down)) / EPS
        error = max(0.0, difference - rounding) / max(1.0, abs(a), abs(n)) if math.isfinite(difference) else math.inf
        if TOLERANCE < error < math.inf:
            at = objective()
            low, high = sorted([(at - down) / EPS, (up - at) / EPS])
            if high - low < STEEPEST:
                error = max(0.0, low - a - 2 * rounding, a - high - 2 * rounding) / max(1.0, abs(a), abs(n))
        worst = max(worst, error)
    return worst


def _moved_off_kinks(inputs: Sequence[Tensor], module: Module) -> tuple[Tensor, ...]:
    """Return copies of the inputs, with elements near a kink of the module moved to the kink plus twice the margin."""
    moved = []
    for x in inputs:
        x = x.clone().contiguous()
        for kink in {k for _, m in module.modules() for k in m.nonsmooth_at}:
            x = torch.where((x - kink).abs() < MARGIN, kink + 2 * MARGIN, x)
        moved.append(x.contiguous())
    return tuple(moved)
