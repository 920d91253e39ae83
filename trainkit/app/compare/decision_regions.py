"""The classes that nets with two inputs predict over the plane of their samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainkit.data.dataset import Dataset, Split
from trainkit.metrics.classification import predicted_classes
from trainkit.trainer.evaluation import PASS, Metrics, predict
from trainkit.trainer.session import Session

GRID = 201  # points along each side of the plane


@dataclass(frozen=True)
class DecisionRegions:
    """The classes that nets with two inputs predict over the plane, in the data's own units, before scaling.

    train, test: the samples, x (n, 2). classes: their names. boundary: (k, 2), the closed line between the classes, if it is
    known. x, y: the grid's axes. class_shares: (c, len(y), len(x)), the share of the replicas that predict each class there.
    shown: the replica with the median test error. predicted: (n,), its classes of the test samples.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    boundary: Tensor | None
    x: Tensor
    y: Tensor
    class_shares: Tensor
    shown: int
    predicted: Tensor


def decision_regions(session: Session, raw: Dataset, metrics: Metrics) -> DecisionRegions | None:
    """Return the decision regions of a session's nets, or None unless a sample is two numbers and has a class."""
    if raw.classes is None or raw.train.x.shape[1:] != (2,):
        return None
    train = Split(raw.train.x[:], raw.train.t, raw.train.label)  # read into memory: two numbers per sample
    test = train if raw.test is None else Split(raw.test.x[:], raw.test.t, raw.test.label)
    error = metrics["test/error" if raw.test is not None else "train/error"]
    shown = sorted(range(session.replicas), key=lambda r: error[r])[session.replicas // 2]

    def predict_classes(x: Tensor) -> Tensor:
        """Return the classes (r, n) of points in the data's own units."""
        scaled = session.normalizer.apply(Split(x, torch.zeros(len(x)))).to(session.device, session.dtype)
        y = predict(session.net, scaled.x, PASS, session.replicas)
        return predicted_classes(y, session.loss, session.data, session.net.replica_dims).reshape(session.replicas, -1).cpu()

    points = torch.cat([train.x[:], test.x[:]])
    points = points[points.isfinite().all(1)]  # a missing value is NaN
    low, high = points.amin(0), points.amax(0)
    xs, ys = (torch.linspace(float(low[i]), float(high[i]), GRID, dtype=points.dtype) for i in (0, 1))
    grid = torch.cartesian_prod(ys, xs).flip(1)  # row by row: y in the outer loop
    on_grid = predict_classes(grid)
    class_shares = torch.stack([(on_grid == c).double().mean(0).view(GRID, GRID) for c in range(len(raw.classes))])
    return DecisionRegions(
        train, test, raw.classes, raw.true_boundary, xs, ys, class_shares, shown, predict_classes(test.x[:])[shown]
    )
