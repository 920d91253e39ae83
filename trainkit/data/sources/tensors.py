"""Tensors given in Python: `tensors(x, t)`."""

from __future__ import annotations

from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import MAX_DIMS, Dataset, Normalize, Split, floating

MAX_CLASSES = 65_536  # larger labels are regression targets or come from a broken file


def class_names(label: Tensor, classes: list[str] | int | None, place: str) -> tuple[str, ...]:
    """Return the names of the classes of `label` (n,) int64: `classes`, or "0", "1", ... up to the largest label.

    Raises UserError at `place`, with index and value, for a label below 0 or without a name.
    """
    named = classes is not None
    if classes is None:
        classes = min(int(label.max()) + 1, MAX_CLASSES)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    wrong = ((label < 0) | (label >= len(names))).nonzero()
    if len(wrong):
        at = int(wrong[0])
        fix = "give each class a name" if named else "if these are regression targets, pass floats"
        raise UserError(f"{place}: label {int(label[at])} at index {at} is outside 0 to {len(names) - 1}; {fix}")
    return names


def tensors(
    x: Tensor,
    t: Tensor,
    test: tuple[Tensor, Tensor] | None = None,
    val: tuple[Tensor, Tensor] | None = None,
    classes: list[str] | int | None = None,
    normalize: Normalize = "none",
    normalize_target: bool = False,
) -> Dataset:
    """Return a dataset of two tensors: `x` (n, ...) real, one sample per row, and `t`, whose dtype decides its meaning.

    test, val: pairs (x, t) of the test and the validation split.

    Integers or bools (n,): class indices; `classes` names or counts the classes, max + 1 by default.
    Floats (n, k) with k `classes`: one-hot rows, the label is the largest. Floats (n, 1) with two classes: the label is 1 above
    the middle of the two values.
    Other floats (n, ...): a regression; (n,) becomes (n, 1), since a loss of (n, 1) against (n,) would broadcast.

    normalize, normalize_target: how a fit scales inputs and targets by the training split; see `Dataset`.
    Integers in `x` become the default dtype, those of 32 bits or more float64, unscaled.
    Raises UserError for complex or empty tensors, unequal counts, and labels out of range.
    """
    train = _pair("train", x, t)
    held = {place: _pair(place, *pair) for place, pair in (("test", test), ("val", val)) if pair is not None}
    for place, pair in held.items():
        for name, a, b in (("x", train[0], pair[0]), ("t", train[1], pair[1])):
            if a.shape[1:] != b.shape[1:] or a.is_floating_point() != b.is_floating_point():
                raise UserError(
                    f"data.{place}: {name} is {_summary(b)}, that of the training split {_summary(a)}; only n may differ"
                )

    t = train[1]
    names, threshold = None, None
    if not t.is_floating_point():
        names = class_names(t, classes, "data.t")
    elif classes is not None:
        names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        if t.dim() != 2 or t.shape[1] not in ({1, 2} if len(names) == 2 else {len(names)}):
            raise UserError(
                f"data.t: {_summary(t)} for {len(names)} classes; give one-hot rows of {len(names)}, or integers of shape (n,)"
            )
        threshold = float(t.min() + t.max()) / 2 if t.shape[1] == 1 else None

    def split(place: str, x: Tensor, t: Tensor) -> Split:
        label = None
        if names is not None:
            label = t if not t.is_floating_point() else t.argmax(1) if threshold is None else (t[:, 0] > threshold).long()
            class_names(label, list(names), place)
        return Split(x, t, label)

    return Dataset(
        train=split("data.t", *train),
        test=split("data.test", *held["test"]) if "test" in held else None,
        val=split("data.val", *held["val"]) if "val" in held else None,
        classes=names,
        threshold=threshold,
        normalize=normalize,
        normalize_target=normalize_target,
    )


def _pair(place: str, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x` floating and `t` floating or int64, both checked."""
    for name, value in (("x", x), ("t", t)):
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
    if len(x) != len(t):
        raise UserError(f"data.{place}: {len(x)} inputs, {len(t)} targets; each input needs one target")
    if not t.is_floating_point() and t.dim() != 1:
        raise UserError(
            f"data.{place}: t is {_summary(t)}; "
            f"class indices have shape (n,), t.squeeze(1); other targets are floats, t.float()"
        )
    if not x.is_floating_point():
        x = x.to(floating(x.dtype))
    if not t.is_floating_point():
        return x, t.long()
    return x, t[:, None] if t.dim() == 1 else t


def _summary(tensor: Tensor) -> str:
    """Return `float32 of shape (3, 2)`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
