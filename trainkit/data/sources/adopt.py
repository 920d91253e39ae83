"""What a fit takes besides a Dataset: pairs of arrays, map-style datasets, DataLoaders, datasets of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import short_repr
from trainkit.data.dataset import Dataset, Split

from .columns import is_hugging_face
from .samples import inputs_of, samples
from .tensors import labels, like, tensors

EXAMPLES = "tensors(x, t), csv('data.csv', target='class')"
ADVICE = f"give a Dataset: {EXAMPLES}; or a pair (x, t), a map-style dataset, or a DataLoader of one"
BETWEEN = "between a DataLoader's samples and trainkit's batches nothing else can act"


def as_dataset(value: Any) -> tuple[Dataset, int | None]:
    """Return what a fit is given as a Dataset, and the batch size of a DataLoader (None: the value has none).

    Prints one line for what a DataLoader asks for and trainkit does not do. Raises UserError for what cannot be used.
    """
    if isinstance(value, Dataset):
        return value, None
    value, workers, size = _unwrapped(value, training=True)
    if _is_pair(value):
        return tensors(*value), size
    if _is_map_style(value):
        return samples(value, workers=workers), size
    raise UserError(f"data: is {_described(value)}; {ADVICE}")


def as_split(value: Any, name: str, data: Dataset) -> Dataset:
    """Return what `test` or `validate` is given as the split `name` of a dataset with the classes and threshold of `data`."""
    if isinstance(value, Dataset):
        return value
    value, workers, _ = _unwrapped(value, training=False)
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
    value, workers, _ = _unwrapped(value, training=False)
    if isinstance(value, tuple):
        return value[0]
    return inputs_of(value, workers) if _is_map_style(value) else value


def _unwrapped(value: Any, training: bool) -> tuple[Any, int, int | None]:
    """Return a DataLoader's dataset, its workers and its batch size; a TensorDataset or a Subset of one as its tensors."""
    workers, size, lines = 0, None, []
    if isinstance(value, torch.utils.data.DataLoader):
        loader = value
        value, size, workers = loader.dataset, loader.batch_size, loader.num_workers
        lines = _check_loader(loader, training)
        if isinstance(loader.sampler, torch.utils.data.SubsetRandomSampler):
            value = torch.utils.data.Subset(value, list(loader.sampler.indices))
    if isinstance(value, torch.utils.data.IterableDataset):
        raise UserError(
            f"data: {type(value).__name__} is an IterableDataset, whose samples have no index to resume from; give a map-style"
            " dataset, or save its samples: numpy.save, then npy('x.npy', 't.npy')"
        )
    if (found := _in_memory(value)) is not None:
        value = found
        lines += [f"num_workers={workers} (the tensors are in memory)"] if workers else []
    if lines:
        print_stderr(f"data: of the DataLoader, not used: {'; '.join(lines)}")
    return value, workers, size


def _in_memory(value: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of a TensorDataset, or the rows of them that a Subset takes; None for anything else."""
    if type(value) is torch.utils.data.TensorDataset:
        return tuple(value.tensors)
    if type(value) is torch.utils.data.Subset and (whole := _in_memory(value.dataset)) is not None:
        index = torch.as_tensor(list(value.indices), dtype=torch.int64)
        return tuple(tensor[index] for tensor in whole)
    return None


def _check_loader(loader: Any, training: bool) -> list[str]:
    """Return a line for each option that is not used. Raises UserError for one without which the result would be another."""
    data = torch.utils.data
    if isinstance(loader.dataset, data.IterableDataset):
        return []  # it has an error of its own
    if loader.batch_size is None or type(loader.batch_sampler) is not data.BatchSampler:
        raise UserError(
            f"data: the DataLoader has its own batch_sampler; {BETWEEN}: give its dataset and Trainer(batch_size=...)"
        )
    if loader.collate_fn is not data.default_collate:
        raise UserError(f"data: the DataLoader has its own collate_fn; {BETWEEN}: return tensors of one shape from dataset[i]")
    known = (data.SequentialSampler, data.RandomSampler, data.SubsetRandomSampler)
    sampler = loader.sampler
    draws_again = type(sampler) is data.RandomSampler and (sampler.replacement or sampler.num_samples != len(loader.dataset))
    if type(sampler) not in known or draws_again:
        kind = type(sampler).__name__ + " with replacement or num_samples" * draws_again
        raise UserError(
            f"data: the DataLoader has a {kind}; each epoch takes each sample once: leave it out, or weigh the samples"
        )
    if not training:
        return []
    told = {
        "shuffle=False (each epoch has a new random order)": type(sampler) is data.SequentialSampler,
        "drop_last=True (the last, smaller batch is a step too)": loader.drop_last,
        "generator (the order is that of trainer.seed)": loader.generator is not None,
        "worker_init_fn (each sample is seeded by itself)": loader.worker_init_fn is not None,
        f"timeout={loader.timeout}": loader.timeout,
        "pin_memory": loader.pin_memory,
        f"prefetch_factor={loader.prefetch_factor}": loader.prefetch_factor not in (None, 2),
    }
    return [line for line, holds in told.items() if holds]


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
