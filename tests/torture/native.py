"""Native steps beside eager ones: random nets, losses, optimizers and settings, over many steps.

In float64 both end at the same numbers within BOUND. In float32 no order of operations is better than another, so the run in
float64 decides: native steps are as near to it as eager ones are, whose order of summation is changed too. A run in which
rounding errors grow (a ReLU at its kink, an L1 loss, a sign, a variance of 0) is outside of any bound. It is shown to be one
by eager steps alone: with another order of summation, or from parameters with other last digits, they move as far.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from native_cases import Case, Trained, distance, drawn, trained
from torch import Tensor

from trainkit import Callback, Dropout, Session
from trainkit.core.rng import generator
from trainkit.data.loader import epoch_permutation
from trainkit.trainer import session as sessions

from .tally import Tally

BOUND = 1e-12  # in float64, relative
SINGLE = 5e-7  # four units of the last place of float32
TRIALS = 6  # of eager steps from changed parameters, to show that a run amplifies rounding errors
FACTOR = 2  # how far native steps may be, in units of the largest distance of eager ones
NUDGES = {"float64": 1e-16, "float32": 1e-7}


class Nudged(Callback):
    """Changes the parameters at the start of a run, each by a random number of about `size`."""

    def __init__(self, size: float, draw: int) -> None:
        self.size, self.draw = size, draw

    def on_train_start(self, session: Session) -> None:
        draw = generator(self.draw, "nudge")
        for p, _ in session.net.param():
            p.add_(self.size * torch.randn(p.shape, generator=draw).to(p))


@contextmanager
def reversed_batches(case: Case) -> Iterator[None]:
    """Reverse the samples of each pass, and the masks that Dropout draws for them: the same steps in another order of sums."""
    n, parts = len(case.data.train), case.settings["accumulate"]
    size, draw_mask = min(n, (case.settings["batch_size"] or n) * parts), Dropout.draw_mask

    def order(seed: int, epoch: int, n: int) -> Tensor:
        steps = epoch_permutation(seed, epoch, n).split(size)
        return torch.cat([rows.flip(0) for step in steps for rows in step.split(-(-len(step) // parts))])

    def mask(module: Dropout, x: Tensor) -> Tensor:
        return draw_mask(module, x).flip(-2)

    with patch.object(sessions, "epoch_permutation", order), patch.object(Dropout, "draw_mask", mask):
        yield


def parity(folder: Path, cases: int, steps: int, first: int = 0) -> list[Tally]:
    """Compare `steps` steps of `cases` random runs, from seed `first` on."""
    tallies = [
        Tally(
            f"{cases} random nets, losses, optimizers and settings, {steps:,} native steps each in float64",
            f"the losses of all steps and the parameters are within {BOUND:g} of the eager run's",
        ),
        Tally(
            "the same in float32",
            f"at most {FACTOR} times as far from the eager run in float64 as the farther of two eager runs in float32, of which"
            " one has the samples of each batch in reversed order",
        ),
        Tally(
            "of these the runs that amplify rounding errors",
            "an eager run with reversed batches, or whose parameters begin with other last digits (1e-16 in float64, 1e-7 in"
            f" float32), moves as far, within a factor of {FACTOR}",
        ),
        Tally("a replica of the runs with several, and the same model alone", "no bit of its losses and parameters differs"),
        Tally("the replicas on 2 and 4 threads, and on one", "the same"),
    ]
    amplifying: list[str] = []
    with patch.dict(os.environ, XDG_CACHE_HOME=str(folder)), patch.object(os, "cpu_count", lambda: 4):
        for seed in range(first, first + cases):
            amplifying += compared(seed, steps, *tallies[:3])
            if drawn(seed).replicas > 1:
                of_replicas(seed, steps, *tallies[3:])
    tallies[2].case += f" ({'; '.join(amplifying) or 'none'})"
    return [t for t in tallies if t.runs]


def compared(seed: int, steps: int, double: Tally, single: Tally, amplifying: Tally) -> list[str]:
    """Compare the case of `seed` with eager steps; return its name for each dtype in which it amplifies rounding errors."""
    eager, native = (trained(seed, engine, "float64", steps) for engine in ("eager", "native"))
    few, native_few = (trained(seed, engine, "float32", steps) for engine in ("eager", "native"))
    other = trained(seed, "eager", "float32", steps, around=reversed_batches)
    limit = FACTOR * max(distance(few, eager), distance(other, eager)) + SINGLE
    names = []
    for dtype, tally, found, near, far in (
        ("float64", double, native, distance(native, eager) <= BOUND, eager),
        ("float32", single, native_few, distance(native_few, eager) <= limit, few),
    ):
        if found.engine != "native":
            tally.count(f"{found.engine} steps; {drawn(seed)}")
        elif near:
            tally.count(None)
        else:
            names.append(f"seed {seed} in {dtype}")
            amplifying.count(amplified(seed, dtype, steps, far, distance(found, far)))
    return names


def amplified(seed: int, dtype: str, steps: int, eager: Trained, d: float) -> str | None:
    """Return None if eager steps that differ in rounding alone move about as far as d; else what was found."""
    farthest = distance(trained(seed, "eager", dtype, steps, around=reversed_batches), eager)
    for draw in range(TRIALS):
        if d <= FACTOR * farthest:
            return None
        moved = trained(seed, "eager", dtype, steps, callbacks=[Nudged(NUDGES[dtype], draw)])
        farthest = max(farthest, distance(moved, eager))
    return None if d <= FACTOR * farthest else f"{dtype}: {d:.1e}, eager itself moves by {farthest:.1e}; {drawn(seed)}"


def of_replicas(seed: int, steps: int, alone: Tally, threads: Tally) -> None:
    """Compare the replicas of a case with one of them alone, and on several threads."""
    case, together = drawn(seed), trained(seed, "native", "float32", steps)
    r = 1 + seed % (case.replicas - 1)  # not the first one, which may be stopped
    single = trained(seed, "native", "float32", steps, alone=r)
    alone.count(None if single.equals(together.replica(r)) else f"replica {r}; {case}")
    for number in (2, 4):
        same = trained(seed, "native", "float32", steps, threads=number).equals(together)
        threads.count(None if same else f"{number} threads; {case}")
