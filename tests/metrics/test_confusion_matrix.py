"""The confusion matrix of a run: its counts are scikit-learn's, its picture shows names and numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

import trainkit
from trainkit import (
    SGD,
    Checkpoint,
    CrossEntropyLoss,
    EarlyStopping,
    Linear,
    MSELoss,
    Sequential,
    Trainer,
    UserError,
    ValidationSplit,
    tensors,
)
from trainkit.data.dataset import Dataset, Split
from trainkit.metrics.confusion_matrix import ConfusionMatrix, count_text
from trainkit.metrics.metric_set import MetricSet
from trainkit.metrics.task import Task


def fitted(folder: Path | None = None, replicas: int = 1, weight: torch.Tensor | None = None) -> Trainer:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=draw)
    t = torch.randint(0, 3, (60,), generator=draw)
    split = Split(x, t, t, weight)
    net = Sequential(Linear(2, 3)).initialize(draw)
    callbacks = [ValidationSplit(0.5), EarlyStopping("val/loss", restore_best=True), *([Checkpoint()] if folder else [])]
    trainer = Trainer(max_epochs=4, device="cpu", replicas=replicas, callbacks=callbacks, run_dir=folder)
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.3), Dataset(split, split, classes=("a", "b", "c")))
    return trainer


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_counts_are_scikit_learns(replicas: int) -> None:
    weight = torch.rand(60, generator=torch.Generator().manual_seed(1))
    trainer = fitted(replicas=replicas, weight=weight)
    data = trainer.fitted().data
    for name in ("train", "val", "test"):
        split = data.parts()[name]
        matrix = trainer.confusion_matrix(name)
        assert matrix.classes == ("a", "b", "c")
        y = trainer.predict(split.x).view(replicas, -1, 3)
        assert split.weight is not None
        for r in range(replicas):
            expected = confusion_matrix(split.t, y[r].argmax(1), labels=range(3), sample_weight=split.weight.double())
            torch.testing.assert_close(matrix.counts[r], torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_it_is_that_of_the_run_in_another_process_and_of_other_data(tmp_path: Path) -> None:
    trainer = fitted(tmp_path)
    data = trainer.fitted().data
    model = trainkit.load(tmp_path)
    assert torch.equal(model.confusion_matrix("test", data).counts, trainer.confusion_matrix().counts)
    few = data.with_parts(test=data.parts()["test"].subset(torch.arange(7)))
    assert trainer.confusion_matrix("test", few).counts.sum() == 7
    assert trainer.confusion_matrix("test").counts.sum() == 60  # that of other data is not kept


def test_without_classes_or_with_too_many_there_is_none() -> None:
    x = torch.randn(202, 2)
    for loss, t, outputs in ((MSELoss(), torch.randn(202, 1), 1), (CrossEntropyLoss(), torch.arange(202) % 101, 101)):
        net = Sequential(Linear(2, outputs))
        trainer = Trainer(max_epochs=1)
        trainer.fit(net, loss, SGD(net.param(), lr=0.1), tensors(x, t, test=(x, t)))
        with pytest.raises(UserError, match="confusion matrix: needs one class per sample, of at most 100 classes"):
            trainer.confusion_matrix()
    with pytest.raises(UserError, match="data: has no val split"):
        trainer.confusion_matrix("val")


def test_sets_that_keep_it_merge_to_the_same_counts_in_any_grouping() -> None:
    task = Task(("a", "b", "c"), 3, True, 0.0)
    y, t = torch.randn(1, 30, 3), torch.randint(0, 3, (30,))
    whole = MetricSet([], task, confusion=True)
    whole.update(y, t, t)
    parts = [MetricSet([], task, confusion=True) for _ in range(3)]
    for i, part in enumerate(parts):
        part.update(y[:, i::3], t[i::3], t[i::3])
    first, second, third = parts
    second.merge(third)
    first.merge(second)
    one, two = whole.confusion(), first.confusion()
    assert one is not None
    assert two is not None
    assert torch.equal(one.counts, two.counts)
    assert MetricSet([], task).confusion() is None


@pytest.mark.parametrize("classes", [2, 20, 40, 41, 100])
def test_the_picture_holds_every_cell(classes: int) -> None:
    counts = torch.arange(2 * classes * classes, dtype=torch.float64).view(2, classes, classes)
    png, width, height = ConfusionMatrix(tuple(f"class {i}" for i in range(classes)), counts).png("test")
    picture = Image.open(io.BytesIO(png))
    assert picture.size == (width, height)
    assert max(width, height) < 4200
    assert min(width, height) > classes * 8
    assert len(np.unique(np.asarray(picture.convert("L")))) > 2  # it is not blank


def test_a_count_is_whole_or_has_four_digits() -> None:
    assert [count_text(v) for v in (0.0, 3.0, 12345.0, 0.25, 1.23456)] == ["0", "3", "12345", "0.25", "1.235"]


def test_a_row_of_no_samples_is_white() -> None:
    png, *_ = ConfusionMatrix(("a", "b"), torch.tensor([[[0.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)).png("test")
    assert png.startswith(b"\x89PNG")
