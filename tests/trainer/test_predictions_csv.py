"""The file that `predict` writes: the csv module's bytes, whatever the block, with little memory."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from trainkit import CrossEntropyLoss, Dataset, Linear, MSELoss, Sequential
from trainkit.data.dataset import Split
from trainkit.metrics.classification import predicted_classes
from trainkit.trainer import predictions_csv
from trainkit.trainer.evaluation import predict as outputs_of
from trainkit.trainer.predictions_csv import as_csv

NAMES = ("plain", "a,b", 'with "quotes"', "", "two\nlines")


def reference(net: Sequential, loss: Any, data: Dataset, x: Tensor, replicas: int) -> bytes:
    """The same file by csv.writer, from all outputs at once."""
    y = outputs_of(net, x, predictions_csv.PASS, replicas)
    answer = predicted_classes(y, loss, data, net.replica_dims).reshape(replicas, -1) if data.classes is not None else None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    y = y.reshape(replicas, len(x), -1)
    head = ["replica"] if replicas > 1 else []
    writer.writerow([*head, "sample", *(f"y{i}" for i in range(y.shape[2]))] + (["answer"] if answer is not None else []))
    for r in range(replicas):
        for i, values in enumerate(y[r].tolist()):
            said = []
            if answer is not None and data.classes is not None:
                k = int(answer[r, i])
                said = [data.classes[k] if k < len(data.classes) else str(k)]
            writer.writerow([*([r] if head else []), i, *values, *said])
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
    x = torch.randn(29, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[3], x[4], x[5] = torch.inf, torch.nan, 1e-30
    net = Sequential(Linear(2, outputs))
    if replicas > 1:
        net.replicate(list(range(replicas)))
    else:
        net.initialize(torch.Generator().manual_seed(0))
    net.to(torch.device("cpu"), dtype)
    data = Dataset(train=Split(x, torch.zeros(len(x))), classes=classes, threshold=0.5)
    loss = CrossEntropyLoss() if outputs > 1 else MSELoss()
    assert b"".join(as_csv(net, loss, data, x, replicas)) == reference(net, loss, data, x, replicas)


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

    net = Sequential(Linear(2, 4))
    if replicas > 1:
        net.replicate(list(range(replicas)))
    data = Dataset(train=Split(torch.zeros(1, 2), torch.zeros(1)))
    chunks = as_csv(net, MSELoss(), data, Rows(), replicas)  # type: ignore[arg-type]
    next(chunks)
    if replicas == 1:
        assert max(read) < 10 * predictions_csv.PASS
    assert max(map(len, chunks)) < 1 << 20
