"""Augmentation: random changes of the training samples, each a function of the seed, the epoch, the sample and nothing else.

A batch is changed at once, by elementwise operations. So the bits of a sample do not depend on the batch it is in, on workers,
on other replicas, or on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import torch
from torch import Tensor

from trainkit.core.counters import Draws, EpochDraws
from trainkit.core.errors import UserError, UserErrors, suggest
from trainkit.core.validation import check_value, short_repr

from .augmentations import AUGMENTATIONS, Augmentation, Mixup

PART = 1 << 15  # numbers that are changed at once: the intermediate results of a transform then stay in the cache
Read = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]  # samples (k,), replicas (k,) or None -> their x and t


class Augmenter:
    """Changes the samples of a training split by `augmentations`, first to last. Each has random numbers of its own.

    n: samples of the split. categories: `Dataset.categories`; features that are codes of categories are not changed.
    """

    def __init__(self, augmentations: Sequence[Augmentation], n: int, categories: Sequence[int] = ()) -> None:
        self.augmentations, self.n, self.categories = tuple(augmentations), n, categories
        self.codes = [i for i, count in enumerate(categories) if count]

    def __call__(
        self, x: Tensor, t: Tensor, index: Tensor, replica: Tensor | None, draws: EpochDraws, read: Read
    ) -> tuple[Tensor, Tensor]:
        """Return x (k, ...) and t (k, ...) changed.

        index: the samples (k,). replica: whose numbers they draw, (k,), or None. read: reads other samples of the split.
        """
        for place, f in enumerate(self.augmentations):
            own = draws.of(index.reshape(-1), replica, "augment", place)
            if not isinstance(f, Mixup):
                codes = x[:, self.codes] if self.codes else None
                x = torch.cat([f(part, Draws(keys)) for part, keys in zip(*self._parts(x, own), strict=True)])
                if codes is not None:
                    x[:, self.codes] = codes
                continue
            others = own.integers(self.n)
            before = Augmenter(self.augmentations[:place], self.n, self.categories)
            other_x, other_t = before(*read(others, replica), others, replica, draws, read)
            share = f.share(own)
            x, t = f.mix(x, other_x, share), f.mix(t, other_t, share)
        return x, t

    def _parts(self, x: Tensor, draws: Draws) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return x and the streams in parts that stay in the processor's cache; whole on another device."""
        size = max(1, PART // max(1, x[0].numel())) if x.device.type == "cpu" and len(x) else max(1, len(x))
        return x.split(size), draws.streams.split(size)


def augmentations_of(specs: Any) -> list[Augmentation]:
    """Return the augmentations of a list of names, {name: options} and `Augmentation`s: ["flip", {"crop": 2}, Noise(0.1)].

    Options are a mapping, or the value of the first. Raises UserErrors for unknown names and unknown or invalid options.
    """
    if isinstance(specs, (str, Mapping)) or not isinstance(specs, Sequence):
        raise UserError(f"data.augment: {short_repr(specs)}; needs a list: [{{crop: 2}}, flip]")
    return [_make(spec) for spec in specs]


def check_fits(
    augmentations: Sequence[Augmentation], x_shape: Sequence[int], t: Tensor, categories: Sequence[int] = ()
) -> None:
    """Raise UserError where samples of shape `x_shape` are not images that an augmentation needs, or cannot be mixed."""
    for f in augmentations:
        if f.of_images and len(x_shape) < 2:
            raise UserError(f"data.augment.{f.name}: a sample is {tuple(x_shape)}; needs images (..., h, w): remove it")
        if isinstance(f, Mixup) and not t.is_floating_point():
            raise UserError("data.augment.mixup: mixes targets, and class indices cannot be mixed; set data.targets=onehot")
        if isinstance(f, Mixup) and any(categories):
            raise UserError("data.augment.mixup: mixes inputs, and codes of categories cannot be mixed; set data.encode=onehot")


def augmentation_spec(augmentation: Any) -> Any:
    """Return an augmentation as a configuration writes it: a name, or {name: options}."""
    (made,) = augmentations_of([augmentation])
    if type(made) is not AUGMENTATIONS.get(made.name):
        raise UserError(f"data.augment: {type(made).__name__} is your own, which a file cannot hold")
    options = {f.name: getattr(made, f.name) for f in fields(made) if getattr(made, f.name) != f.default}
    return {made.name: options} if options else made.name


def _make(spec: Any) -> Augmentation:
    if isinstance(spec, Augmentation):
        return spec
    named = spec if isinstance(spec, Mapping) else {spec: {}}
    name, options = next(iter(named.items())) if len(named) == 1 else (None, {})
    if not isinstance(name, str):
        raise UserError(f"data.augment: {short_repr(spec)}; needs one name with its options, {{crop: 2}}")
    if name not in AUGMENTATIONS:
        raise UserError(f"data.augment: no augmentation {name!r}{suggest(name, AUGMENTATIONS)}")
    cls: Any = AUGMENTATIONS[name]
    known, hints, place = {f.name: f for f in fields(cls)}, get_type_hints(cls), f"data.augment.{name}"
    given = dict(options) if isinstance(options, Mapping) else {} if options is None else {next(iter(known)): options}
    errors = [f"{place}: no option {short_repr(k)}{suggest(str(k), known)}" for k in given if k not in known]
    errors += [f"{place}: needs {k}" for k, f in known.items() if f.default is MISSING and k not in given]
    for key, value in given.items():
        if key in known:
            errors += check_value(value, hints[key], f"{place}.{key}")
    if errors:
        raise UserErrors(errors)
    made: Augmentation = cls(**given)
    return made
