"""What a fit takes besides a Dataset: the result is that of `tensors`, and what is not used or cannot be used is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import data as torch_data

from trainkit import SGD, CrossEntropyLoss, Linear, MSELoss, Sequential, Trainer, UserError, ValidationSplit, samples, tensors
from trainkit.data.mapped import MappedRows
from trainkit.data.sources.adopt import as_dataset

N = 50
G = torch.Generator().manual_seed(0)
X, LABEL = torch.randn(N, 4, generator=G), torch.arange(N) % 2
ARRAYS = X.numpy(), LABEL.numpy()
PAIRS = [(x, int(t)) for x, t in zip(X, LABEL, strict=True)]


class Pairs(torch_data.Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return PAIRS[i]


class Stream(torch_data.IterableDataset[tuple[torch.Tensor, int]]):
    def __iter__(self) -> Any:
        return iter(PAIRS)


MEMORY = torch_data.TensorDataset(X, LABEL)


def fitted(data: Any, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    net = Sequential(Linear(4, 2))
    trainer = Trainer(max_epochs=2, device="cpu", callbacks=[ValidationSplit(0.2)], **{"batch_size": 8, **settings})
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data)
    return trainer


@pytest.fixture(scope="module")
def expected() -> Trainer:
    return fitted(tensors(X, LABEL))


SAME: dict[str, Any] = {
    "arrays": ARRAYS,
    "tensors": (X, LABEL),
    "a list of two arrays": [*ARRAYS],
    "a list of samples": PAIRS,
    "a map-style dataset": Pairs(),
    "a dataset of tensors": MEMORY,
    "a loader of tensors": torch_data.DataLoader(MEMORY, batch_size=8, shuffle=True),
    "a loader of a map-style dataset": torch_data.DataLoader(Pairs(), batch_size=8, shuffle=True, num_workers=1),
    "other strides and byte order": (np.asfortranarray(ARRAYS[0]).astype(">f4"), ARRAYS[1][::-1][::-1].astype("u2")),
}


@pytest.mark.parametrize("data", SAME.values(), ids=SAME.keys())
def test_every_form_of_the_same_samples_trains_to_the_same_bits(data: Any, expected: Trainer) -> None:
    found = fitted(data)
    assert torch.equal(found.fitted().net.param()[0][0], expected.fitted().net.param()[0][0])
    assert found.history == expected.history
    assert found.test(data) == expected.test(tensors(X, LABEL, test=(X, LABEL)))
    assert found.validate(data) == expected.validate(tensors(X, LABEL, val=(X, LABEL)))
    if not isinstance(data, (tuple, list)):
        assert torch.equal(found.predict(data), expected.predict(X))


def test_frames_are_taken_as_their_numbers(expected: Trainer) -> None:
    pandas = pytest.importorskip("pandas")
    found = fitted((pandas.DataFrame(ARRAYS[0]), pandas.Series(ARRAYS[1])))
    assert found.history == expected.history


def test_the_tensors_of_a_loader_are_not_copied() -> None:
    data, size = as_dataset(torch_data.DataLoader(MEMORY, batch_size=16, shuffle=True))
    assert (data.train.x.data_ptr(), data.train.t.data_ptr(), size) == (X.data_ptr(), LABEL.data_ptr(), 16)  # type: ignore[union-attr]
    part, _ = as_dataset(torch_data.Subset(torch_data.Subset(MEMORY, range(10, 30)), [3, 1]))
    assert torch.equal(part.train.x[:], X[[13, 11]])
    some, _ = as_dataset(torch_data.DataLoader(Pairs(), sampler=torch_data.SubsetRandomSampler([5, 7])))
    assert isinstance(some.train.x, MappedRows)
    assert torch.equal(some.train.x[:], X[[5, 7]])


def test_the_batch_size_of_a_loader_is_used_and_what_is_not_used_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    loader = torch_data.DataLoader(MEMORY, batch_size=10, drop_last=True, num_workers=2, generator=torch.Generator())
    trainer = fitted(loader, batch_size=32)
    assert trainer.fitted().step_size == 10
    assert capsys.readouterr().err.splitlines() == [
        "data: of the DataLoader, not used: shuffle=False (each epoch has a new random order);"
        " drop_last=True (the last, smaller batch is a step too);"
        " generator (the order is that of trainer.seed); num_workers=2 (the tensors are in memory)",
        "trainer.batch_size: 10, that of the DataLoader, in place of 32",
    ]


def test_three_loaders_are_the_splits_of_a_dataset(expected: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = torch_data.random_split(MEMORY, [40, 10], torch.Generator().manual_seed(0))
    loaders = [torch_data.DataLoader(part, batch_size=5, shuffle=part is train) for part in (train, val)]
    data = samples(*loaders, test=torch_data.DataLoader(Pairs(), num_workers=1), targets="onehot")
    net = Sequential(Linear(4, 2))
    for size in (5, 8):
        assert "batch_size" not in capsys.readouterr().err
        trainer = Trainer(max_epochs=1, device="cpu", batch_size=size)
        trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data)
    assert "data: the batch_size 5 of the DataLoader is not used; trainer.batch_size is 8\n" in capsys.readouterr().err
    kinds = [type(split.x) for split in data.parts().values()]
    assert kinds == [torch.Tensor, torch.Tensor, MappedRows]
    for split, part in ((data.train, train), (data.val, val)):
        assert split is not None
        assert torch.equal(split.x[:], X[part.indices])
        assert torch.equal(split.t, torch.eye(2)[LABEL[part.indices]])
    assert data.test is not None
    assert torch.equal(data.test.x[:], X)


def test_test_data_without_some_classes_has_the_classes_of_the_fit(expected: Trainer) -> None:
    zeros = LABEL == 0
    shares = expected.test((X[zeros], LABEL[zeros])), expected.test(torch_data.TensorDataset(X[zeros], LABEL[zeros]))
    y = expected.predict(X[zeros]).argmax(1)
    assert shares[0] == shares[1]
    assert shares[0]["test/error"] == float(y.double().mean())
    with pytest.raises(UserError, match="label 2 at index 0 is outside 0 to 1"):
        expected.test((X[:1], torch.tensor([2])))


def test_one_column_for_two_classes_is_cut_where_the_training_data_was() -> None:
    t = LABEL[:, None].float()
    net = Sequential(Linear(4, 1))
    trainer = Trainer(max_epochs=1, device="cpu")
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.1), tensors(X, t, classes=2))
    error = float((trainer.predict(X[1::2]) <= 0.5).double().mean())
    assert trainer.test((X[1::2], t[1::2]))["test/error"] == error


def loader(**options: Any) -> Any:
    return torch_data.DataLoader(Pairs(), **options)


WEIGHTED = torch_data.WeightedRandomSampler([1.0] * N, N)
BAD: dict[str, tuple[Any, str]] = {
    "an iterable dataset": (Stream(), "data: Stream is an IterableDataset, .*npy"),
    "a loader of one": (torch_data.DataLoader(Stream()), "data: Stream is an IterableDataset"),
    "a sampler": (loader(sampler=WEIGHTED), "the DataLoader has a WeightedRandomSampler; .*leave it out"),
    "replacement": (loader(sampler=torch_data.RandomSampler(PAIRS, replacement=True)), "has a RandomSampler with replacement"),
    "a collate function": (loader(collate_fn=list), "has its own collate_fn; .*return tensors of one shape"),
    "a batch sampler": (
        loader(batch_sampler=[[0, 1]]),
        r"has its own batch_sampler; .*give its dataset and Trainer\(batch_size=",
    ),
    "no batches": (loader(batch_size=None), "has its own batch_sampler"),
    "a generator": (iter(PAIRS), "data: is a list_iterator of builtins; give a Dataset"),
    "texts": ((np.array([["a"]]), np.array([0])), "data.train: x is an array of texts"),
    "objects": ((np.array([[{}]]), np.array([0])), "data.train: x is an array of objects"),
    "a weight of another shape": ((X, LABEL, X), r"data: weight is \(50, 4\), needs \(50,\)"),
    "four arrays": ((X, LABEL, X, X), "data: is a tuple of 4; give a Dataset"),
    "three tensors": (torch_data.TensorDataset(X, LABEL, X), "data: is a tuple of 3"),
}


@pytest.mark.parametrize(("data", "says"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_named_with_its_cure(data: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fitted(data)


# -- Hugging Face ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf() -> Any:
    return pytest.importorskip("datasets")


def table(hf: Any) -> Any:
    features = hf.Features({"x": hf.List(hf.Value("float32")), "label": hf.ClassLabel(names=["no", "yes"])})
    return hf.Dataset.from_dict({"x": X.tolist(), "label": LABEL.tolist()}, features=features)


def test_columns_of_a_hugging_face_dataset_train_like_tensors(hf: Any, expected: Trainer) -> None:
    found = fitted(table(hf))
    assert found.history == expected.history
    assert found.fitted().data.classes == ("no", "yes")
    assert torch.equal(found.predict(table(hf)), expected.predict(X))
    assert found.test(table(hf).select(range(9)))["test/loss"] == expected.test((X[:9], LABEL[:9]))["test/loss"]


def test_columns_keep_their_digits_their_shape_and_their_order(hf: Any) -> None:
    features = hf.Features(
        {"a": hf.Value("float64"), "m": hf.Array2D((2, 1), "float32"), "k": hf.Value("int32"), "y": hf.Value("float32")}
    )
    data = hf.Dataset.from_dict(
        {"a": [0.1, 0.2, 0.3], "m": [[[1], [2]]] * 3, "k": [7, 8, 9], "y": [0.5, 1.5, 2.5]}, features=features
    )
    data = data.select([2, 0])
    read = samples(data, x=["a", "m", "k"], t="y")
    assert read.train.x[:].tolist() == [[0.3, 1, 2, 9], [0.1, 1, 2, 7]]
    assert read.train.t.tolist() == [[2.5], [0.5]]
    assert samples(data, x="m", t="y").train.x[:].shape == (2, 2, 1)


def test_images_of_a_hugging_face_dataset_are_read_by_workers(hf: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = [np.full((2, 3), 10 * i, "u1") for i in range(5)]
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
    data = hf.Dataset.from_dict({"image": [image.fromarray(p) for p in pictures], "label": [0, 1, 0, 1, 0]}, features=features)
    read = samples(data, workers=1)
    assert isinstance(read.train.x, MappedRows)
    assert torch.equal(read.train.x[:], torch.from_numpy(np.stack(pictures))[:, None] / 255)
    assert read.train.t.tolist() == [0, 1, 0, 1, 0]


def test_what_is_wrong_with_columns_is_named(hf: Any) -> None:
    data = hf.Dataset.from_dict({"a": [1.0, 2.0], "b": [[1], [1, 2]], "c": [None, 1.0], "y": [0, 1]})
    for call, says in (
        (lambda: samples(data), "data: has the columns a, b, c, y; name those to use"),
        (lambda: samples(data, x="z"), "data: no column 'z'"),
        (lambda: samples(data, x="b"), "data: column 'b' has lists of 1 to 2 values"),
        (lambda: samples(data, x="c"), "data: column 'c' misses 1 values"),
        (lambda: as_dataset(hf.DatasetDict(train=data)), "data: is a DatasetDict of train"),
    ):
        with pytest.raises(UserError, match=says):
            call()
