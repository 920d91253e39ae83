"""What a DataLoader and a dataset of torch hold: the tensors in memory, or the map-style dataset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr

BETWEEN = "between a DataLoader's samples and trainkit's batches nothing else can act"


def unwrapped(value: Any, training: bool, one_by_one: bool = False) -> tuple[Any, int, int | None]:
    """Return a DataLoader's dataset, its workers and its batch size. Any other value is a dataset: 0 workers, no batch size.

    A TensorDataset, and a Subset of one, is returned as its tensors, unless its samples are to be read `one_by_one`.
    training: whether to print a line for the options that a training does not use. Raises UserError for options without which
    the result would be another, and for an IterableDataset.
    """
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
    if not one_by_one and (found := in_memory(value)) is not None:
        value = found
        lines += [f"num_workers={workers} (the tensors are in memory)"] if workers else []
    if lines:
        print_stderr(f"data: of the DataLoader, not used: {'; '.join(lines)}")
    return value, workers, size


def in_memory(value: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of a TensorDataset, or the rows of them that a Subset takes; None for anything else."""
    if type(value) is torch.utils.data.TensorDataset:
        return tuple(value.tensors)
    if type(value) is torch.utils.data.Subset and (whole := in_memory(value.dataset)) is not None:
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
    unused = {
        "shuffle=False (each epoch has a new random order)": type(sampler) is data.SequentialSampler,
        "drop_last=True (the last, smaller batch is a step too)": loader.drop_last,
        "generator (the order is that of trainer.seed)": loader.generator is not None,
        "worker_init_fn (each sample is seeded by itself)": loader.worker_init_fn is not None,
        f"timeout={loader.timeout}": loader.timeout,
        "pin_memory": loader.pin_memory,
        f"prefetch_factor={loader.prefetch_factor}": loader.prefetch_factor not in (None, 2),
    }
    return [line for line, holds in unused.items() if holds]
