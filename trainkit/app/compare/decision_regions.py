"""What nets of two inputs say about the plane their samples lie in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainkit.data.dataset import Dataset, Split
from trainkit.metrics.classification import predicted_classes
from trainkit.trainer.evaluation import Metrics, predict
from trainkit.trainer.session import Session

GRID = 201  # points along each side of the plane


@dataclass(frozen=True)
class DecisionRegions:
    """What nets of two inputs say about the plane, in the data's own units, before scaling.

    train, test: the samples, x (n, 2). classes: their names. boundary: (k, 2), the closed line between the classes, where the
    data knows it. x, y: the grid's axes; votes: (c, len(y), len(x)), the share of the replicas that answer each class there.
    shown: the replica whose test error is the median; answer: (n,), its answers on the test samples.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    boundary: Tensor | None
    x: Tensor
    y: Tensor
    class_shares: Tensor
    shown: int
    answer: Tensor


def decision_regions(session: Session, raw: Dataset, metrics: Metrics) -> DecisionRegions | None:
    """What the nets say over the plane of the data, where a sample is two numbers and has a class."""
    if raw.classes is None or raw.train.x.shape[1:] != (2,):
        return None
    train = Split(raw.train.x[:], raw.train.t, raw.train.label)  # two numbers a sample: out of the file, if they are in one
    test = train if raw.test is None else Split(raw.test.x[:], raw.test.t, raw.test.label)
    error = metrics["test/error" if raw.test is not None else "train/error"]
    shown = sorted(range(session.replicas), key=lambda r: error[r])[session.replicas // 2]

    def predict_classes(x: Tensor) -> Tensor:
        """Answers (r, n) to points in the data's own units."""
        part = session.normalizer.apply(Split(x, torch.zeros(len(x)))).to(session.device, session.dtype)
        y = predict(session.net, part.x, 1024, session.replicas)
        return predicted_classes(y, session.loss, session.data, session.net.replica_dims).reshape(session.replicas, -1).cpu()

    points = torch.cat([train.x[:], test.x[:]])
    points = points[points.isfinite().all(1)]  # a missing number is NaN
    low, high = points.amin(0), points.amax(0)
    xs, ys = (torch.linspace(float(low[i]), float(high[i]), GRID, dtype=points.dtype) for i in (0, 1))
    grid = torch.cartesian_prod(ys, xs).flip(1)  # row by row: y in the outer loop
    on_grid = predict_classes(grid)
    class_shares = torch.stack([(on_grid == c).double().mean(0).view(GRID, GRID) for c in range(len(raw.classes))])
    return DecisionRegions(
        train, test, raw.classes, raw.true_boundary, xs, ys, class_shares, shown, predict_classes(test.x[:])[shown]
    )
