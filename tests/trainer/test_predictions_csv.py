"""The file that `predict` writes: the csv module's bytes, whatever the block, numpy's probabilities, with little memory."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainkit import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    Dataset,
    Linear,
    LogSoftmax,
    MSELoss,
    NLLLoss,
    Sequential,
    Sigmoid,
)
from trainkit.data.dataset import Split
from trainkit.metrics.classification import predicted_classes
from trainkit.trainer import predictions_csv
from trainkit.trainer.evaluation import predict as outputs_of
from trainkit.trainer.predictions_csv import Which, as_csv, is_header

NAMES = ("plain", "a,b", 'with "quotes"', "", "two\nlines")
N = 29


def made(*layers: Any, replicas: int = 1, dtype: torch.dtype = torch.float64) -> Sequential:
    net = Sequential(*layers)
    if replicas > 1:
        net.replicate(list(range(replicas)))
    else:
        net.initialize(torch.Generator().manual_seed(0))
    net.to(torch.device("cpu"), dtype)
    return net


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(0)).to(dtype)


def read(net: Sequential, loss: Any, data: Dataset, *args: Any, **options: Any) -> list[dict[str, str]]:
    text = b"".join(as_csv(net, loss, data, data.train, *args, **options)).decode()
    return list(csv.DictReader(io.StringIO(text)))


def numbers(rows: list[dict[str, str]], names: list[str]) -> Any:
    return np.array([[float(row[name]) for name in names] for row in rows])


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# -- the bytes ---------------------------------------------------------------------------------------------------------------


def reference(net: Sequential, loss: Any, data: Dataset, x: Tensor, replicas: int) -> bytes:
    """The raw outputs of each replica by csv.writer, from all outputs at once."""
    y = outputs_of(net, x, predictions_csv.PASS, replicas)
    answer = predicted_classes(y, loss, data, net.replica_dims).reshape(replicas, -1) if data.classes is not None else None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    y = y.reshape(replicas, len(x), -1)
    head, k, names = ["replica"] if replicas > 1 else [], y.shape[2], list(data.classes or ())
    names += [str(i) for i in range(len(names), k)]
    columns = [f"y{i}" for i in range(k)] if answer is None else ["y_a,b"] if k == 1 else [f"y_{name}" for name in names[:k]]
    writer.writerow([*head, "row", "id", *columns, *(["answer"] if answer is not None else [])])
    for r in range(replicas):
        for i, values in enumerate(y[r].tolist()):
            said = [] if answer is None else [names[int(answer[r, i])]]
            writer.writerow([*([r] if head else []), i, f'{i}"\n,', *values, *said])
    return text.getvalue().encode()


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("outputs", [1, 4, 7])
@pytest.mark.parametrize("classes", [NAMES, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_file_has_the_bytes_of_the_csv_module(
    monkeypatch: pytest.MonkeyPatch, replicas: int, outputs: int, classes: tuple[str, ...] | None, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(predictions_csv, "PASS", 8)
    monkeypatch.setattr(predictions_csv, "NUMBERS", 10)
    x = inputs(dtype)
    x[3], x[4], x[5] = torch.inf, torch.nan, 1e-30
    net = made(Linear(2, outputs), replicas=replicas, dtype=dtype)
    split = Split(x, torch.zeros(N), ids={"id": [f'{i}"\n,' for i in range(N)]})
    data = Dataset(train=split, classes=classes, threshold=0.5)
    loss = CrossEntropyLoss() if outputs > 1 else MSELoss()
    which: Which = "all" if replicas > 1 else None
    assert b"".join(as_csv(net, loss, data, split, replicas, which, True, False)) == reference(net, loss, data, x, replicas)


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_more_than_some_blocks_are_in_memory(replicas: int) -> None:
    """A chunk holds some samples, and the first is there when no more than some of the inputs have been read."""
    read: list[int] = []

    class Rows:
        """x of a file: tells how much of it is read."""

        shape = torch.Size([100_000, 2])

        def __len__(self) -> int:
            return self.shape[0]

        def __getitem__(self, at: slice) -> Tensor:
            read.append(at.stop)
            return torch.zeros(len(range(*at.indices(len(self)))), 2)

        def each(self, cuts: Iterable[slice]) -> Iterator[Tensor]:
            return map(self.__getitem__, cuts)

    split = Split(Rows(), torch.zeros(100_000, 1))  # type: ignore[arg-type]
    for which in (None, "all") if replicas > 1 else (None,):
        read.clear()
        net = made(Linear(2, 4), replicas=replicas, dtype=torch.float32)
        chunks = as_csv(net, MSELoss(), Dataset(train=split), split, replicas, which)
        next(chunks)
        if which is None:
            assert max(read) < 10 * predictions_csv.PASS
        assert max(map(len, chunks)) < 1 << 20


# -- probabilities -----------------------------------------------------------------------------------------------------------

LABEL = torch.arange(N) % 3


def classes(names: tuple[str, ...] = ("ant", "bee", "cat"), **more: Any) -> Dataset:
    return Dataset(train=Split(inputs(), LABEL % len(names), LABEL % len(names)), classes=names, **more)


PROBABILITIES: dict[str, tuple[list[Any], Any, Dataset, Any]] = {
    "cross entropy: softmax": ([Linear(2, 3)], CrossEntropyLoss(), classes(), softmax),
    "log-probabilities: exp": ([Linear(2, 3), LogSoftmax()], NLLLoss(), classes(), np.exp),
    "one logit: sigmoid": (
        [Linear(2, 1)],
        BCEWithLogitsLoss(),
        classes(("no", "yes")),
        lambda y: np.concatenate([1 / (1 + np.exp(y)), 1 / (1 + np.exp(-y))], -1),
    ),
    "one probability: itself": (
        [Linear(2, 1), Sigmoid()],
        BCELoss(),
        classes(("no", "yes")),
        lambda y: np.concatenate([1 - y, y], -1),
    ),
    "a logit per class: sigmoid": ([Linear(2, 3)], BCEWithLogitsLoss(), classes(), lambda y: 1 / (1 + np.exp(-y))),
}


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_loss_makes_probabilities_of_outputs(name: str, replicas: int) -> None:
    layers, loss, data, formula = copy.deepcopy(PROBABILITIES[name])  # replicate changes them
    net = made(*layers, replicas=replicas)
    assert data.classes is not None
    columns = [f"p_{c}" for c in data.classes]
    y = outputs_of(net, inputs(), 100, replicas).reshape(replicas, N, -1).numpy()
    p = formula(y)
    rows = read(net, loss, data, replicas)
    assert list(rows[0]) == ["row", *columns, "answer", *(["std"] if replicas > 1 else []), "truth"]
    assert np.allclose(numbers(rows, columns), p.mean(0), rtol=0, atol=1e-14)
    assert [row["answer"] for row in rows] == [data.classes[k] for k in p.mean(0).argmax(1)]
    assert [row["truth"] for row in rows] == [data.classes[k] for k in (LABEL % len(data.classes)).tolist()]
    assert [row["row"] for row in rows] == [str(i) for i in range(N)]
    if replicas > 1:
        spread = np.take_along_axis(p.std(0, ddof=1), p.mean(0).argmax(1)[:, None], 1)
        assert np.allclose(numbers(rows, ["std"]), spread, rtol=0, atol=1e-14)
        for r in range(replicas):
            assert np.allclose(numbers(read(net, loss, data, replicas, r), columns), p[r], rtol=0, atol=1e-14)
        each = read(net, loss, data, replicas, "all")
        assert [row["replica"] for row in each] == [str(r) for r in range(replicas) for _ in range(N)]
        assert np.allclose(numbers(each, columns), p.reshape(-1, p.shape[2]), rtol=0, atol=1e-14)


def test_a_loss_without_probabilities_has_scores() -> None:
    net, hot = made(Linear(2, 3)), torch.nn.functional.one_hot(LABEL, 3).double()
    data = Dataset(train=Split(inputs(), hot, LABEL), classes=("ant", "bee", "cat"))
    rows = read(net, MSELoss(), data)
    assert list(rows[0]) == ["row", "score_ant", "score_bee", "score_cat", "answer", "truth"]
    assert np.array_equal(numbers(rows, list(rows[0])[1:4]), outputs_of(net, inputs(), 100).numpy())


@pytest.mark.parametrize("off_value", [0.0, -1.0])
def test_one_score_is_that_of_class_1_and_has_the_data_s_threshold(off_value: float) -> None:
    net = made(Linear(2, 1))
    threshold = (1 + off_value) / 2
    t = torch.where(LABEL[:, None] % 2 == 1, 1.0, off_value)
    data = Dataset(train=Split(inputs(), t, LABEL % 2), classes=("no", "yes"), threshold=threshold)
    rows = read(net, MSELoss(), data)
    assert list(rows[0]) == ["row", "score_yes", "answer", "truth"]
    assert [row["answer"] for row in rows] == ["yes" if float(row["score_yes"]) > threshold else "no" for row in rows]


def test_a_regression_has_the_names_of_its_targets_and_the_spread_of_each() -> None:
    t = torch.rand(N, 2, generator=torch.Generator().manual_seed(1)).float()
    data = Dataset(train=Split(inputs(), t), schema={"target": ["price", "size"]})
    net = made(Linear(2, 2), replicas=3)
    rows = read(net, MSELoss(), data, 3)
    assert list(rows[0]) == ["row", "price", "size", "std_price", "std_size", "truth_price", "truth_size"]
    y = outputs_of(net, inputs(), 100, 3).numpy()
    assert np.allclose(numbers(rows, ["price", "size"]), y.mean(0), atol=1e-14)
    assert np.allclose(numbers(rows, ["std_price", "std_size"]), y.std(0, ddof=1), atol=1e-14)
    assert np.array_equal(numbers(rows, ["truth_price", "truth_size"]).astype("float32"), t.numpy())
    assert rows[0]["truth_price"] == str(np.float32(t[0, 0]))
    one = Dataset(train=Split(inputs(), t[:, :1]), schema={"target": "price"})
    assert list(read(made(Linear(2, 1)), MSELoss(), one)[0]) == ["row", "price", "truth"]
    nameless = Dataset(train=Split(inputs(), t))
    assert list(read(made(Linear(2, 2)), MSELoss(), nameless)[0]) == ["row", "y0", "y1", "truth_y0", "truth_y1"]


def test_labels_have_a_probability_each_and_no_single_answer() -> None:
    t = (torch.rand(N, 2, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    data = Dataset(train=Split(inputs(), t), classes=("wet", "cold"), multilabel=True)
    net = made(Linear(2, 2))
    rows = read(net, BCEWithLogitsLoss(), data)
    assert list(rows[0]) == ["row", "p_wet", "p_cold", "truth_wet", "truth_cold"]
    sigmoid = 1 / (1 + np.exp(-outputs_of(net, inputs(), 100).numpy()))
    assert np.allclose(numbers(rows, ["p_wet", "p_cold"]), sigmoid, atol=1e-14)
    assert [[int(row["truth_wet"]), int(row["truth_cold"])] for row in rows] == t.long().tolist()
    spread = read(made(Linear(2, 2), replicas=2), BCEWithLogitsLoss(), data, 2, raw=True)
    assert list(spread[0]) == ["row", "y_wet", "y_cold", "std_wet", "std_cold", "truth_wet", "truth_cold"]


def test_rows_have_their_number_in_the_data_and_their_ids(capsys: pytest.CaptureFixture[str]) -> None:
    whole = Split(inputs(), LABEL, LABEL, ids={"name": [f"n{i}" for i in range(N)], "row": ["x"] * N})
    held = whole.subset(torch.tensor([5, 2, 28])).subset(torch.tensor([2, 0]))
    data = Dataset(train=held, classes=("ant", "bee", "cat"))
    rows = read(made(Linear(2, 3)), CrossEntropyLoss(), data)
    assert [(row["row"], row["name"], row["id_row"], row["truth"]) for row in rows] == [
        ("28", "n28", "x", "bee"),
        ("5", "n5", "x", "cat"),
    ]
    assert capsys.readouterr().err == ("predictions: the id column 'row' is named 'id_row', since 'row' is another column\n")


# -- which files are predictions ---------------------------------------------------------------------------------------------

HEADERS = {
    b"row,p_no,p_yes,answer\n": True,
    b"row,p_no,p_yes,answer,std,truth\r\n": True,
    b'replica,row,id,"p_a,b",answer\n': True,
    b"row,score_yes,answer\n": True,
    b"row,y0,y1,truth_y0,truth_y1\n": True,
    b"row,id,price,std,truth\n": True,
    b'row,"p_two\n': True,  # the name of the class has a second line
    b"sample,y0,y1,answer\n": True,  # of an earlier version
    b"replica,sample,y0\r\n": True,
    b"row,size\n": False,
    b"row,answer\n": False,
    b"row\n": False,
    b"row,p_no,p_yes,note\n": False,
    b"p_no,p_yes\n": False,
    b"row,p_no": False,
    b"sample,y0,note\n": False,
    b"\n": False,
    b"\0\n": False,
    b"\xff\n": False,
}


@pytest.mark.parametrize("line", HEADERS)
def test_a_file_of_predictions_is_recognized_by_its_header(line: bytes) -> None:
    assert is_header(line, ["price"]) == HEADERS[line]
