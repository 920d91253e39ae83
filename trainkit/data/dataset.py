"""A dataset is one tensor of inputs and one of targets per split: train, test, and val once it is split off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from trainkit.core.errors import UserError

from .mapped import MappedRows

Targets = Literal["index", "onehot", "binary", "real"]
Normalize = Literal["none", "feature", "global", "quantile"]
MAX_DIMS = 64  # of an array, including the samples' own dimensions: torch's limit


def floating(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that holds numbers of `dtype` until they are scaled, without changing any that float64 can hold.

    float32 and float64 are kept; integers of 32 bits or more become float64; the others fit into the default dtype.
    """
    if dtype in (torch.float32, torch.float64):
        return dtype
    return torch.float64 if not dtype.is_floating_point and dtype.itemsize >= 4 else torch.get_default_dtype()


@dataclass(frozen=True)
class Split:
    """n samples: inputs `x` (n, ...) floating, targets of the loss `t` (n, ...), classes `label` (n,) int64 or None.

    `x` is in memory, or read when it is needed (see `mapped.py`). A missing number is NaN in `x` until the normalizer fills it.
    weight: (n,) real, how much each sample counts in the loss and the metrics; None counts all alike.
    ids: columns of n texts that no net sees and that predictions repeat, by name.
    rows: (n,) int64, the number of each sample, from 0, in the data that the split was taken from; None if it is its position.
    keys: for a split that was drawn by group or by time, under its name: (n,) int64 the group of each sample (`group_keys`), or
        (n,) float64 its time. The training split has them too. `group`: the group of each sample, where `Dataset.group` is set.
    raw: (n, ...) the targets in their own units and dtype, which metrics and predictions read; None if `t` was not scaled.
    Raises UserError for unequal counts, and for a weight of another shape or type.
    """

    x: Tensor | MappedRows
    t: Tensor
    label: Tensor | None = None
    weight: Tensor | None = None
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rows: Tensor | None = None
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    raw: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.t) == len(self.x if self.label is None else self.label):
            raise UserError(f"data: {len(self.x)} inputs, {len(self.t)} targets; each input needs one target")
        if self.weight is not None:
            _check_weight(self.weight, len(self.x))
        sizes = {name: len(column) for name, column in self.ids.items()}
        sizes.update((f"keys[{name!r}]", len(key)) for name, key in self.keys.items())
        if self.raw is not None:
            sizes["raw"] = len(self.raw)
        for name, size in sizes.items():
            if size != len(self.x):
                raise UserError(f"data: {len(self.x)} inputs, {size} values of {name!r}; each input needs one")

    def __len__(self) -> int:
        return len(self.x)

    def majority(self) -> float | None:
        """Return the share of the most frequent class, the accuracy of a constant prediction; None without classes.

        Samples count by their weight.
        """
        if self.label is None or not len(self):
            return None
        counts = self.label.bincount(None if self.weight is None else self.weight.double())
        return float(counts.max() / counts.sum())

    def subset(self, index: Tensor) -> Split:
        """Return the samples at `index`, in its order."""
        x = self.x[index] if isinstance(self.x, Tensor) else self.x.subset(index)
        t = self.t[index]
        label = t if self.label is self.t else None if self.label is None else self.label[index]
        at = index.tolist() if self.ids else []
        ids = {name: [column[i] for i in at] for name, column in self.ids.items()}
        rows = index.cpu() if self.rows is None else self.rows[index.cpu()]
        keys = {name: key[index.cpu()] for name, key in self.keys.items()}
        weight, raw = (None if v is None else v[index] for v in (self.weight, self.raw))
        return Split(x, t, label, weight, ids, rows, keys, raw)

    def to(self, device: torch.device, dtype: torch.dtype) -> Split:
        """Return the split on `device`. Floating tensors become `dtype`, class indices stay int64."""
        return replace(
            self,
            x=self.x.to(device, dtype),
            t=self.t.to(device, dtype if self.t.is_floating_point() else self.t.dtype),
            label=None if self.label is None else self.label.to(device),
            weight=None if self.weight is None else self.weight.to(device, dtype),
            raw=None if self.raw is None else self.raw.to(device),
        )


def _check_weight(weight: object, n: int) -> None:
    """Raise UserError unless `weight` is a tensor (n,) of real numbers."""
    if not isinstance(weight, Tensor):
        raise UserError(f"data: weight is a {type(weight).__name__}; give a tensor (n,), such as torch.as_tensor(weight)")
    if weight.is_complex():
        raise UserError("data: weight is complex; give real numbers")
    if weight.dim() != 1:
        raise UserError(f"data: weight is {tuple(weight.shape)}, needs ({n},): one number per sample; weight.flatten()")
    if len(weight) != n:
        raise UserError(f"data: {n} inputs, {len(weight)} values of 'weight'; each input needs one")


@dataclass(frozen=True)
class Dataset:
    """The splits of the data and their properties.

    classes: names of the classes in the order of their index, or None in regression.
    threshold: with one target column, the value above which class 1 is predicted.
    true_boundary: (k, 2), the closed line between the classes in the plane of two inputs, before scaling, if it is known.
    normalize: how the trainer scales `x` by statistics of the training split (see `normalize.py`).
    normalize_target: whether the trainer scales each target of a regression to mean 0 and standard deviation 1. The loss is
        then that of scaled targets; predictions and metrics are in the targets' own units.
    fill: the replacement for a missing number: this statistic of the training split's column, or None to refuse.
    features: the names of the inputs of a table, one per column of `x`, or () if they have none.
    categories: the number of categories of each input of a table: 0 for a number, k for codes 0 to k - 1, which are not scaled
        and which an embedding turns into vectors. () if no input holds codes.
    positive: with two classes, the index of the one that metrics and probabilities are about; None is class 1.
    multilabel: `t` (n, k) holds labels 0 or 1, of which several may be 1; `classes` names the labels.
    source: the name and arguments of the function that read or generated the data, as in a configuration; the name is memory if
        the data was given in Python.
    loader_batch_size: that of the DataLoader that `samples` was given; a fit that uses another says so.
    augment: random changes of the training samples in each step, as names, {name: options} or objects (see
        `transforms/augmentations.py`).
    drawn: the splits, of val and test, whose rows were drawn from those of train. None: all that `Split.subset` has taken from
        the same data. A split that the data itself names, by a column, is not one of them.
    group: the column whose groups are kept together in each split, or None. ValidationSplit does so by default.
    schema: what a later file needs to be read the same way (plain lists, dicts and strings: it is saved in the checkpoint).
    """

    train: Split
    test: Split | None = None
    val: Split | None = None
    classes: tuple[str, ...] | None = None
    threshold: float | None = None
    true_boundary: Tensor | None = None
    normalize: Normalize = "none"
    normalize_target: bool = False
    fill: Literal["mean", "median", "most_frequent"] | None = None
    features: tuple[str, ...] = ()
    categories: tuple[int, ...] = ()
    positive: int | None = None
    multilabel: bool = False
    drawn: tuple[str, ...] | None = None
    group: str | None = None
    schema: dict[str, object] = field(default_factory=dict)
    loader_batch_size: int | None = None
    source: Mapping[str, object] = field(default_factory=lambda: {"name": "memory"})
    augment: Sequence[Any] = ()

    def augmented(self, *augmentations: Any) -> Dataset:
        """Return the same data, whose training samples are changed at random in each step: augmented("flip", {"crop": 2}).

        Names and options: see `transforms/augmentations.py`. They act in this order, after scaling, and replace any set before.
        """
        return replace(self, augment=augmentations)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the worker processes of splits that have some until the end of the `with` block."""
        with ExitStack() as stack:
            for split in self.parts().values():
                if isinstance(split.x, MappedRows):
                    stack.enter_context(split.x.rows.opened())
            yield

    def parts(self) -> dict[str, Split]:
        """Return the splits that are not None, by name, in the order train, val, test."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    def with_parts(self, **parts: Split | None) -> Dataset:
        """Return the same data with other splits. Its `source` no longer describes it and becomes memory."""
        return replace(self, source={"name": "memory"}, **parts)  # type: ignore[arg-type]


def encode(label: Tensor, classes: int, targets: Targets, off_value: float = 0.0) -> Tensor:
    """Return class indices (n,) as targets of a loss.

    index: (n,) int64, for CrossEntropyLoss and NLLLoss. onehot: (n, classes), 1 at the class and `off_value` elsewhere
    (off_value = -1 gives the ±1 targets of a tanh output). binary: (n, 1), 1 for class 1 and `off_value` for class 0.
    """
    if targets == "index":
        return label
    high = torch.get_default_dtype()
    if targets == "onehot":
        hot = torch.full((len(label), classes), off_value, dtype=high)
        return hot.scatter_(1, label[:, None], 1.0)
    if targets == "binary":
        if classes != 2:
            raise UserError(f"data.targets: binary needs 2 classes, the data has {classes}; use index or onehot")
        return torch.where(label[:, None] == 1, 1.0, off_value).to(high)
    raise UserError(f"data.targets: {targets!r} does not fit class labels; use index, onehot or binary")
