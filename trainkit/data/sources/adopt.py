"""What a fit takes besides a Dataset: pairs of arrays, map-style datasets, DataLoaders, datasets of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.validation import short_repr
from trainkit.data.dataset import Dataset, Split

from .columns import is_hugging_face
from .samples import inputs_of, samples
from .tensors import labels, like, tensors
from .torch_data import unwrapped

EXAMPLES = "tensors(x, t), csv('data.csv', target='class')"
ADVICE = f"give a Dataset: {EXAMPLES}; or a pair (x, t), a map-style dataset, or a DataLoader of one"


def as_dataset(value: Any) -> tuple[Dataset, int | None]:
    """Return what a fit is given as a Dataset, and the batch size of a DataLoader (None: the value has none).

    Prints one line for what a DataLoader asks for and trainkit does not do. Raises UserError for what cannot be used.
    """
    if isinstance(value, Dataset):
        return value, None
    value, workers, size = unwrapped(value, training=True)
    if _is_pair(value):
        return tensors(*value), size
    if _is_map_style(value):
        return samples(value, workers=workers), size
    raise UserError(f"data: is {_described(value)}; {ADVICE}")


def as_split(value: Any, name: str, data: Dataset) -> Dataset:
    """Return what `test` or `validate` is given as the split `name` of a dataset with the classes and threshold of `data`."""
    if isinstance(value, Dataset):
        return value
    value, workers, _ = unwrapped(value, training=False)
    if _is_pair(value):
        split = like(data, *value)
    elif _is_map_style(value):
        split = samples(value, workers=workers).train
        split = replace(split, label=labels(split.t, data.classes, data.threshold, f"data.{name}"))
    else:
        raise UserError(f"data: is {_described(value)}; {ADVICE}")
    splits: dict[str, Split] = {name: split}
    return Dataset(split, splits.get("test"), splits.get("val"), data.classes, data.threshold)


def as_inputs(value: Any) -> Any:
    """Return the x of a DataLoader, a dataset of torch or of Hugging Face, or a map-style object; any other value as it is."""
    if isinstance(value, (Tensor, list, tuple, Mapping, str)) or hasattr(value, "__array__"):
        return value
    value, workers, _ = unwrapped(value, training=False)
    if isinstance(value, tuple):
        return value[0]
    return inputs_of(value, workers) if _is_map_style(value) else value


def _is_pair(value: Any) -> bool:
    """Return whether a value is (x, t): a tuple of two, or a list of two arrays."""
    arrays = isinstance(value, (tuple, list)) and len(value) == 2
    return arrays and (isinstance(value, tuple) or all(isinstance(v, Tensor) or hasattr(v, "__array__") for v in value))


def _is_map_style(value: Any) -> bool:
    if is_hugging_face(value):
        return True
    if isinstance(value, (str, bytes, Mapping, tuple, Tensor)) or hasattr(value, "__array__"):
        return False
    return hasattr(value, "__getitem__") and hasattr(value, "__len__")


def _described(value: Any) -> str:
    """Return what a value is, in words: `'text'`, `a DataFrame of pandas`, `a tuple of 3`."""
    if isinstance(value, (str, int, float, list, tuple, dict, Tensor, type(None))):
        return short_repr(value)
    return f"a {type(value).__name__} of {type(value).__module__.partition('.')[0]}"
