"""Map-style datasets given in Python: `samples(dataset)`. Their samples are read when a step needs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr
from trainkit.data.dataset import Dataset, Normalize, Split, Targets, encode, floating
from trainkit.data.map_style import Reader, Samples, read_samples
from trainkit.data.mapped import MappedRows
from trainkit.data.workers import Workers

from . import columns
from .tensors import as_targets, labels, meaning, pair
from .torch_data import unwrapped

LONG = 10.0  # seconds: reading the targets takes this long, by estimate, where a line says so
BLOCK = 256  # samples that are read at once for their targets


def samples(
    train: Any,
    val: Any = None,
    test: Any = None,
    x: str | Sequence[str] | None = None,
    t: str | None = None,
    classes: list[str] | int | None = None,
    targets: Targets | None = None,
    off_value: float = 0.0,
    normalize: Normalize = "none",
    normalize_target: bool = False,
    transform: Callable[[Any], Any] | None = None,
    workers: int = 0,
) -> Dataset:
    """Return the data of map-style datasets: objects with `len(dataset)` and `dataset[i]`, a pair (x, t) or a mapping.

    train, val, test: the dataset of each split, or a DataLoader of it; of a TensorDataset the tensors are used as they are, and
    so are those of a pair (x, t), unless a `transform` changes their samples.
    x, t: keys of samples that are mappings; several keys of numbers are joined.
    A sample's x is an array, a tensor, numbers, or an image of Pillow: (c, h, w) from 0 to 1. Its t is a class (an integer), or
    numbers; see `tensors` for its meaning, and for `classes`; those of `train.classes` are the default.
    A `datasets.Dataset` of Hugging Face is read by its columns; columns of numbers are read into memory.
    targets, off_value: the targets of classes (see `encode`). normalize: needs one pass over the training samples.
    normalize_target: scale each target of a regression to mean 0 and standard deviation 1; see `Dataset`.
    transform: a function of x that is called in training steps only, such as one of torchvision.transforms.v2.
    workers: processes that read ahead; 0 reads in this process. The result has the same bits for any number.

    Samples are read when a step needs them: x is never in memory as a whole, t is. To learn it, each split is read once.
    What `dataset[i]` and `transform` draw from the global generators of random, numpy.random and torch is a function of the
    run's seed, the epoch and i in training steps, and of i alone elsewhere. Generators of the dataset's own are not seeded.
    Raises UserError with the index of a sample that raises, has another shape, or holds a number that is not finite; for a
    worker process that dies; for an iterable dataset.
    """
    given = {name: dataset for name, dataset in (("train", train), ("val", val), ("test", test)) if dataset is not None}
    readers: dict[str, Reader] = {}
    known: dict[str, Tensor] = {}
    batch_size: int | None = None
    for name, value in given.items():
        dataset, own_workers, size = unwrapped(value, name == "train", one_by_one=transform is not None)
        names, target, workers = x, t, workers or own_workers
        if name == "train":
            batch_size = size
        if isinstance(dataset, tuple) and len(dataset) == 2:
            tensors = pair(name, *dataset)
            if transform is not None and name == "train":
                dataset = torch.utils.data.TensorDataset(*tensors)  # `transform` changes one sample at a time
            else:
                dataset, known[name] = tensors
        elif columns.is_hugging_face(dataset):
            names, target = columns.chosen(dataset, x, t)
            classes = columns.label_names(dataset, target) if classes is None else classes
            known[name] = columns.stacked(dataset, [target])
            if transform is None and all(columns.is_numeric(dataset, column) for column in names):
                dataset = columns.stacked(dataset, names)
            names = names[0] if len(names) == 1 else names
        elif not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            what = f"{type(dataset).__name__} has no length and no dataset[i]"
            raise UserError(f"data.{name}: {what}; give a map-style dataset, or save its samples as .npy files: npy(x, t)")
        readers[name] = Reader(dataset, names, target, name not in known, transform)
    data = dataset_of(readers, known, classes, targets, off_value, normalize, workers)
    return replace(data, normalize_target=normalize_target, loader_batch_size=batch_size)


def dataset_of(
    readers: Mapping[str, Reader],
    known: Mapping[str, Tensor],
    classes: list[str] | int | None,
    targets: Targets | None,
    off_value: float,
    normalize: Normalize,
    workers: int,
) -> Dataset:
    """Return the data that `readers` read, by the name of the split. known: the targets of splits whose samples are x alone.

    A reader of a tensor is that tensor, in memory. The other arguments are those of `samples`.
    """
    if workers < 0:
        raise UserError(f"data.workers: {workers}; needs a number of processes, 0 for none")
    if "train" not in readers:
        raise UserError("data.train: is None; give a dataset")
    streamed = {name: reader for name, reader in readers.items() if not isinstance(reader.dataset, Tensor)}
    pool = Workers(partial(read_samples, list(streamed.values())), workers, readers["train"].name)
    rows = {name: Samples(list(streamed.values()), i, pool) for i, name in enumerate(streamed)}
    with pool.opened():
        raw = {name: known[name] if name in known else _all_targets(rows[name]) for name in readers}
    found = {name: as_targets(t, f"data.{name}") for name, t in raw.items()}
    is_class = not found["train"].is_floating_point()
    if classes is None and is_class:
        classes = _names(readers["train"].dataset, found["train"])
    names, threshold = meaning(found["train"], classes)
    if targets is not None and (targets == "real") == is_class:
        kind = "classes (integers)" if is_class else "numbers"
        raise UserError(f"data.targets: {targets}, but the targets are {kind}; leave it out, or return other targets")
    if is_class and targets == "binary":
        threshold = (1.0 + off_value) / 2

    as_loss = partial(
        _as_loss, classes=len(names or ()), targets=(targets or "index") if is_class else None, off_value=off_value
    )
    splits = {}
    for name, reader in readers.items():
        t = found[name]
        if t.is_floating_point() == is_class or t.shape[1:] != found["train"].shape[1:]:
            raise UserError(f"data.{name}: its targets are of another kind than those of the training split; only n may differ")
        label = labels(t, names, None if is_class else threshold, f"data.{name}")
        if name in rows:
            rows[name].as_targets = as_loss
        x = MappedRows(rows[name]) if name in rows else reader.dataset.to(floating(reader.dataset.dtype))
        splits[name] = Split(x, as_loss(t), label)
    held = splits.get("test"), splits.get("val")
    return Dataset(splits["train"], *held, classes=names, threshold=threshold, normalize=normalize)


def _as_loss(t: Tensor, classes: int, targets: Targets | None, off_value: float) -> Tensor:
    """Return targets of a dataset as the loss takes them. targets: None for a regression."""
    v = as_targets(t, "data")
    return v if targets is None else encode(v, classes, targets, off_value)


def inputs_of(dataset: Any, workers: int = 0) -> Tensor | MappedRows:
    """Return the inputs of a dataset without their targets, to predict: of pairs (x, t), of columns, or of x alone."""
    if columns.is_hugging_face(dataset):
        names = [
            n for n in dataset.column_names if n.lower() not in columns.TARGETS and columns.label_names(dataset, n) is None
        ]
        if all(columns.is_numeric(dataset, name) for name in names):
            return columns.stacked(dataset, names)
        reader = Reader(dataset, names[0] if len(names) == 1 else names, has_t=False)
    else:
        first = dataset[0] if len(dataset) else None
        reader = Reader(dataset, has_t=isinstance(first, (tuple, list)) and len(first) == 2)
    return MappedRows(Samples([reader], 0, Workers(partial(read_samples, [reader]), workers, reader.name)))


def _all_targets(rows: Samples) -> Tensor:
    """Return t of all samples, (n, ...), in one pass. Prints a line where that takes long."""
    began = time.perf_counter()
    rows.start(slice(0, 1), None, None)()
    seconds = (time.perf_counter() - began) * len(rows) / max(1, rows.workers.count)
    if seconds > LONG:
        print_stderr(f"data: reads all {len(rows):,} samples of {rows.name} once for their targets, about {seconds:.0f} s")
    cuts = (slice(i, i + BLOCK) for i in range(0, len(rows), BLOCK))
    parts = rows.ahead(lambda cut: rows.start(cut, None, None), lambda pending: pending()[1], cuts)
    return torch.cat([t for t in parts if t is not None])


def _names(dataset: Any, t: Tensor) -> list[str] | None:
    """Return the names of the classes that a dataset of torchvision has, if there are enough."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)) or len(names) <= int(t.max()):
        return None
    return [str(name) for name in names]
