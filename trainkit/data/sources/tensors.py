"""Tensors and arrays given in Python: `tensors(x, t)`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.arrays import from_numpy
from trainkit.data.dataset import MAX_DIMS, Dataset, Normalize, Split, encode, floating

MAX_LABELS = 65_536  # larger labels are regression targets or come from a broken file


def class_names(label: Tensor, classes: list[str] | int | None, place: str) -> tuple[str, ...]:
    """Return the names of the classes of `label` (n,) int64: `classes`, or "0", "1", ... up to the largest label.

    Raises UserError at `place`, with index and value, for a label below 0 or without a name.
    """
    named = classes is not None
    if classes is None:
        classes = min(int(label.max()) + 1, MAX_LABELS)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    wrong = ((label < 0) | (label >= len(names))).nonzero()
    if len(wrong):
        at = int(wrong[0])
        fix = "give each class a name" if named else "if these are regression targets, pass floats"
        raise UserError(f"{place}: label {int(label[at])} at index {at} is outside 0 to {len(names) - 1}; {fix}")
    return names


def tensors(
    x: Any,
    t: Any,
    test: tuple[Any, ...] | None = None,
    val: tuple[Any, ...] | None = None,
    classes: list[str] | int | None = None,
    normalize: Normalize = "none",
    normalize_target: bool = False,
    weight: Any = None,
) -> Dataset:
    """Return a dataset of two tensors or NumPy arrays: `x` (n, ...) real, one sample per row, and `t`, whose dtype decides.

    test, val: the test and the validation split, each (x, t) or (x, t, weight). A frame is taken as its numbers.
    weight: (n,), how much each sample counts in the loss and the metrics: finite, and 0 or more.

    Integers or bools (n,): class indices; `classes` names or counts the classes, max + 1 by default.
    Floats (n, k) with k `classes`: one-hot rows, the label is the largest. Floats (n, 1) with two classes: the label is 1 above
    the middle of the two values.
    Other floats (n, ...): a regression; (n,) becomes (n, 1), since a loss of (n, 1) against (n,) would broadcast.

    normalize, normalize_target: how a fit scales inputs and targets by the training split; see `Dataset`.
    Integers in `x` become the default dtype, those of 32 bits or more float64, unscaled.
    Raises UserError for complex or empty tensors, texts or objects, unequal counts, and labels out of range.
    """
    train = pair("train", x, t)
    given = {place: value for place, value in (("test", test), ("val", val)) if value is not None}
    for place, value in given.items():
        if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
            raise UserError(f"data.{place}: is {_count(value)}; give (x, t) or (x, t, weight)")
    held = {place: pair(place, *value[:2]) for place, value in given.items()}
    for place, (held_x, held_t) in held.items():
        for name, a, b in (("x", train[0], held_x), ("t", train[1], held_t)):
            if a.shape[1:] != b.shape[1:] or a.is_floating_point() != b.is_floating_point():
                raise UserError(
                    f"data.{place}: {name} is {_summary(b)}, that of the training split {_summary(a)}; only n may differ"
                )
    names, threshold = meaning(train[1], classes)

    def split(place: str, x: Tensor, t: Tensor, weight: Any = None) -> Split:
        return Split(x, t, labels(t, names, threshold, place), weights(weight, place))

    parts = {name: split(f"data.{name}", *held[name], *given[name][2:]) for name in held}
    return Dataset(
        train=split("data.t", *train, weight),
        test=parts.get("test"),
        val=parts.get("val"),
        classes=names,
        threshold=threshold,
        normalize=normalize,
        normalize_target=normalize_target,
    )


def like(data: Dataset, x: Any, t: Any, weight: Any = None) -> Split:
    """Return x, t and weight, as `tensors` takes them, as a split of `data`: with its classes and its threshold."""
    x, t = pair("x", x, t)
    t, label = as_trained(data, t, "data.t")
    return Split(x, t, label, weights(weight, "data"))


def as_trained(data: Dataset, t: Tensor, place: str) -> tuple[Tensor, Tensor | None]:
    """Return targets as the training split of `data` has them, and their classes, or None in regression.

    Class indices become rows of one-hot or binary targets where those of the training are. Raises UserError for another kind.
    """
    known, is_index = data.train.t, not t.is_floating_point()
    is_known = len(known) > 0  # else a loaded run, whose data is not read
    if is_index and data.classes is not None and not data.multilabel:
        label = labels(t, data.classes, None, place)
        assert label is not None
        if data.threshold is not None:
            return encode(label, len(data.classes), "binary", 2 * data.threshold - 1), label
        if is_known and known.is_floating_point():
            return encode(label, len(data.classes), "onehot", float(known.min())), label
    if is_known and (t.shape[1:] != known.shape[1:] or is_index == known.is_floating_point()):
        raise UserError(f"data: t is {_summary(t)}, that of the training split {_summary(known)}; only n may differ")
    return t, None if data.multilabel else labels(t, data.classes, data.threshold, place)


def weights(value: Any, place: str) -> Tensor | None:
    """Return the weights of the samples as a floating tensor, or None. Raises UserError for what is not numbers."""
    if value is None:
        return None
    try:
        weight = torch.as_tensor(as_tensor(value))
    except UserError as error:
        raise UserError(f"{place}: weight {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{place}: weight is a {type(value).__name__}; give a number per sample") from error
    return weight.to(floating(weight.dtype))


def meaning(t: Tensor, classes: list[str] | int | None) -> tuple[tuple[str, ...] | None, float | None]:
    """Return the names of the classes and the threshold of targets, by the rules of `tensors`; None without classes."""
    if not t.is_floating_point():
        return class_names(t, classes, "data.t"), None
    if classes is None:
        return None, None
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if t.dim() != 2 or t.shape[1] not in ({1, 2} if len(names) == 2 else {len(names)}):
        raise UserError(
            f"data.t: {_summary(t)} for {len(names)} classes; give one-hot rows of {len(names)}, or integers of shape (n,)"
        )
    return names, float(t.min() + t.max()) / 2 if t.shape[1] == 1 else None


def labels(t: Tensor, names: tuple[str, ...] | None, threshold: float | None, place: str) -> Tensor | None:
    """Return the class of each target, (n,) int64, or None without classes. Raises UserError for one without a name."""
    if names is None:
        return None
    label = t if not t.is_floating_point() else t.argmax(1) if threshold is None else (t[:, 0] > threshold).long()
    class_names(label, list(names), place)
    return label


def as_tensor(value: Any) -> Any:
    """Return an array or a frame as a tensor; what is neither as it is. Raises UserError for texts, objects and dates."""
    if not isinstance(value, (Tensor, np.ndarray)) and hasattr(value, "to_numpy"):
        value = value.to_numpy()
    return from_numpy(value) if isinstance(value, np.ndarray) else value


def pair(place: str, x: Any, t: Any) -> tuple[Tensor, Tensor]:
    """Return `x` floating and `t` floating or int64, both checked."""
    found = []
    for name, given in (("x", x), ("t", t)):
        try:
            value = as_tensor(given)
        except UserError as error:
            raise UserError(f"data.{place}: {name} {error}") from error
        found.append(value)
        if not isinstance(value, Tensor):
            raise UserError(f"data.{place}: {name} is a {type(value).__name__}; pass a tensor, such as torch.as_tensor({name})")
        if value.is_complex():
            raise UserError(f"data.{place}: {name} is {_summary(value)}; pass real numbers, such as torch.view_as_real({name})")
        if value.dim() == 0 or value.numel() == 0:
            raise UserError(f"data.{place}: {name} is {_summary(value)}; needs shape (n, ...) with at least one sample")
        if value.dim() > MAX_DIMS:
            raise UserError(
                f"data.{place}: {name} has {value.dim()} dimensions, at most {MAX_DIMS} can be used; {name}.flatten(1)"
            )
    x, t = found
    if len(x) != len(t):
        raise UserError(f"data.{place}: {len(x)} inputs, {len(t)} targets; each input needs one target")
    return x if x.is_floating_point() else x.to(floating(x.dtype)), as_targets(t, f"data.{place}")


def as_targets(t: Tensor, place: str) -> Tensor:
    """Return integers (n,) as int64, floats (n,) as (n, 1), other floats as they are. UserError for integers (n, k)."""
    if t.is_floating_point():
        return t[:, None] if t.dim() == 1 else t
    if t.dim() != 1:
        raise UserError(
            f"{place}: t is {_summary(t)}; class indices have shape (n,), t.squeeze(1); other targets are floats, t.float()"
        )
    return t.long()


def _count(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")


def _summary(tensor: Tensor) -> str:
    """Return `float32 of shape (3, 2)`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
