"""Random numbers by counting: number d of stream k is a function of k and d alone, so any of them can be computed at any time.

SplitMix64: a stream is a state of 64 bits. Its number d is mix(state + (d + 1) GAMMA), where `mix` shuffles the 64 bits. The
numbers of many streams are computed at once, with the same bits for any grouping and on any device.
Source: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators; the constants are Vigna's,
https://prng.di.unimi.it/splitmix64.c
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

from .rng import stream


def _signed(n: int) -> int:
    """Return the int64 with the 64 bits of `n`."""
    return n - (1 << 64) if n >= 1 << 63 else n


GAMMA = _signed(0x9E3779B97F4A7C15)
MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
QUANTILES = 1 << 16  # of the normal distribution that `normal` draws from: the outermost are at ±4.3 standard deviations


def shift(z: Tensor, bits: int) -> Tensor:
    """Return z >> bits, filled with zeros: torch fills an int64 with its sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """Return the shuffled bits of each number of z, int64. Products and sums are modulo 2⁶⁴."""
    z = (z ^ shift(z, 30)) * MULTIPLIERS[0]
    z = (z ^ shift(z, 27)) * MULTIPLIERS[1]
    return z ^ shift(z, 31)


def number(streams: Tensor, d: int | Tensor) -> Tensor:
    """Return number d (or numbers d, broadcast) of each stream: 64 random bits each, as int64."""
    step = (d + 1) * GAMMA
    return mix(streams + (step if isinstance(step, Tensor) else _signed(step & ((1 << 64) - 1))))


class Draws:
    """The random numbers of k samples: `streams` (k,) int64, one independent stream for each.

    Every method takes the position `d` of its first number in each stream, and returns k rows.
    """

    def __init__(self, streams: Tensor) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return len(self.streams)

    def uniform(self, d: int = 0) -> Tensor:
        """Return a number of [0, 1) per sample: (k,) float64, a multiple of 2⁻⁵³."""
        return shift(number(self.streams, d), 11).double() * 2.0**-53

    def integers(self, n: int, d: int = 0) -> Tensor:
        """Return a whole number of 0 to n - 1 per sample: (k,) int64."""
        return (self.uniform(d) * n).long()

    def normal(self, count: int, d: int = 0) -> Tensor:
        """Return `count` numbers per sample, (k, count) float64, from QUANTILES equally likely quantiles of N(0, 1).

        16 bits choose a quantile of a table, so the bits of the result do not depend on how many are drawn at once. (Those of a
        vectorized logarithm may.)
        """
        words = number(self.streams[:, None], torch.arange(d, d + -(-count // 4), device=self.streams.device))
        parts = torch.stack([(words >> shift) & (QUANTILES - 1) for shift in (0, 16, 32, 48)], -1)
        return normal_quantiles().to(words.device)[parts.flatten(1)[:, :count]]


@cache
def normal_quantiles() -> Tensor:
    """Return the quantiles (i + 1/2) / QUANTILES of the normal distribution, (QUANTILES,) float64, by plain Python."""
    inverse = NormalDist().inv_cdf
    half = [inverse((i + 0.5) / QUANTILES) for i in range(QUANTILES // 2)]
    return torch.tensor([*half, *(-q for q in reversed(half))], dtype=torch.float64)


@dataclass(frozen=True)
class EpochDraws:
    """The random numbers of an epoch: those of a sample are a function of the seed, the epoch, its index and a name.

    seeds: one per replica, which then has its own numbers for the same sample.
    """

    seeds: tuple[int, ...]
    epoch: int

    def of(self, index: Tensor, replica: Tensor | None, *name: object) -> Draws:
        """Return the numbers of the samples `index` (k,) for the replicas (k,); None is the first one. name: their use."""
        bases = torch.tensor([stream(seed, *name, self.epoch) for seed in self.seeds], device=index.device)
        return Draws(number(bases[0] if replica is None else bases[replica], index))
