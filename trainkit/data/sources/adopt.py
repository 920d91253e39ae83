"""What a fit takes besides a Dataset: arrays (x, t), map-style datasets, DataLoaders, datasets of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import short_repr
from trainkit.data.check import SPLITS
from trainkit.data.dataset import Dataset, Split
from trainkit.data.tables import ignored_columns, read_rows
from trainkit.data.tables.given import has_names

from .columns import is_hugging_face
from .samples import inputs_of, samples
from .tensors import as_trained, like, tensors
from .torch_data import unwrapped

EXAMPLES = "tensors(x, t), csv('data.csv', target='class')"
ADVICE = f"give a Dataset: {EXAMPLES}; or arrays (x, t) or (x, t, weight), a map-style dataset, or a DataLoader of one"


def as_dataset(value: Any) -> tuple[Dataset, int | None]:
    """Return what a fit is given as a Dataset, and the batch size of a DataLoader (None: the value has none).

    Prints one line for what a DataLoader asks for and trainkit does not do. Raises UserError for what cannot be used.
    """
    if isinstance(value, Dataset):
        return value, None
    given = value
    value, workers, size = unwrapped(value, training=True)
    if _is_arrays(value) and (value is given or len(value) == 2):  # the third tensor of a TensorDataset may be anything
        x, t, *weight = value
        return tensors(x, t, weight=weight[0] if weight else None), size
    if _is_map_style(value):
        return samples(value, workers=workers), size
    raise UserError(f"data: is {_described(value)}; {ADVICE}")


def as_split(value: Any, name: str, data: Dataset, options: Mapping[str, Any]) -> Dataset:
    """Return what `test` or `validate` is given as the split `name` of a dataset with the classes and threshold of `data`.

    If `data` is a table, rows with named columns, or the path of a file, are read by its schema and the `options` of
    `read_rows`. Prints the columns that are ignored. Raises UserError for what cannot be used, and for rows without a target.
    """
    if isinstance(value, Dataset):
        return value
    if data.schema and has_names(value):
        return _of_rows(value, name, data, options)
    given = value
    value, workers, _ = unwrapped(value, training=False)
    if _is_arrays(value) and (value is given or len(value) == 2):
        split = like(data, *value)
    elif _is_map_style(value):
        split = samples(value, workers=workers).train
        t, label = as_trained(data, split.t, f"data.{name}")
        split = replace(split, t=t, label=label)
    else:
        raise UserError(f"data: is {_described(value)}; {ADVICE}")
    return _with_split(name, split, data)


def _of_rows(value: Any, name: str, data: Dataset, options: Mapping[str, Any]) -> Dataset:
    rows = read_rows(value, data.schema, **options)
    if rows.t is None:
        target = data.schema["target"]
        raise UserError(f"data: the rows have no column {short_repr(target)}, the target; a {name} split needs it")
    print_stderr(*ignored_columns(f"data, the {SPLITS[name]} split", rows.ignored))
    return _with_split(name, Split(rows.x, rows.t, rows.label, rows.weight, rows.ids), data)


def _with_split(name: str, split: Split, data: Dataset) -> Dataset:
    splits: dict[str, Split] = {name: split}
    known = {"features": data.features, "categories": data.categories, "schema": data.schema}
    return Dataset(split, splits.get("test"), splits.get("val"), data.classes, data.threshold, **known)  # type: ignore[arg-type]


def as_inputs(value: Any) -> Any:
    """Return the x of a DataLoader, a dataset of torch or of Hugging Face, or a map-style object; any other value as it is."""
    if isinstance(value, (Tensor, list, tuple, Mapping, str)) or hasattr(value, "__array__"):
        return value
    value, workers, _ = unwrapped(value, training=False)
    if isinstance(value, tuple):
        return value[0]
    return inputs_of(value, workers) if _is_map_style(value) else value


def _is_arrays(value: Any) -> bool:
    """Return whether a value is (x, t), or arrays (x, t, weight): a tuple, or a list of two arrays."""
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        return False
    arrays = all(isinstance(v, Tensor) or hasattr(v, "__array__") for v in value[:2])
    return (len(value) == 2 and isinstance(value, tuple)) or (arrays and (len(value) == 2 or isinstance(value, tuple)))


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
