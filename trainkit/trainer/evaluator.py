"""A net with its data and their scaling: the metrics of a split, of other data, and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError, suggest
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import short_repr
from trainkit.data import check
from trainkit.data.dataset import Dataset, Split
from trainkit.data.sources.adopt import as_split
from trainkit.data.tables import as_numbers, ignored_columns
from trainkit.data.transforms.normalize import Normalizer
from trainkit.metrics.confusion_matrix import MAX_CLASSES, ConfusionMatrix
from trainkit.metrics.metric_set import MetricSet
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module

from .device import find_device
from .evaluation import OF_CLASSES, PASS, Evaluation, Metrics, evaluate, metric_set, predict_rows
from .progress import Progress
from .same_data import check_classes, check_columns
from .settings import Settings
from .shapes import check_inputs, check_shapes
from .signals import Interrupted


class Evaluator:
    """A net with the data that it is trained on. A session is one that trains.

    data: scaled by `normalizer` and on the device, once the fit or the evaluation is prepared. progress: the steps that the net
    has taken. signal: of the operating system; it ends an evaluation that can be interrupted.
    """

    def __init__(self, settings: Settings, net: Module, loss: Loss, data: Dataset) -> None:
        self.settings, self.net, self.loss, self.data = settings, net, loss, data
        self.device, self.dtype = find_device(settings.device), getattr(torch, settings.dtype)
        self.replicas = settings.replicas
        self.normalizer = Normalizer.identity()
        self.progress = Progress()
        self.signal: int | None = None
        self.maximize: dict[str, bool | None] = {"loss": False}  # the metrics of a split, and whether larger is better
        self.undefined: set[str] = set()  # metrics for which a line has said why they are undefined
        self.table_options: Mapping[str, Any] = {}  # how other rows are read otherwise than those of the training
        self._ignored: set[tuple[str, ...]] = {()}  # columns of rows to predict that a line has named
        self._confusion: dict[str, tuple[int, ConfusionMatrix | None]] = {}  # of each split's last evaluation, with its step

    def evaluate(self, split: Split, interruptible: bool = False) -> Metrics:
        """Return loss and metrics of the net on `split`, which is scaled and on the device. Print once why one is undefined.

        interruptible: leave the evaluation with Interrupted if a signal has arrived. A hook's own evaluation is completed: the
        hooks of a step are not called again in the resumed run.
        """
        return self._evaluated(split, interruptible).metrics

    def measure(self, name: str, split: Split, interruptible: bool = False) -> Metrics:
        """Do what `evaluate` does, and keep the confusion matrix as that of the split `name`."""
        found = self._evaluated(split, interruptible)
        self._confusion[name] = (self.progress.step, found.confusion)
        return found.metrics

    def _evaluated(self, split: Split, interruptible: bool = False) -> Evaluation:
        size = self.evaluation_size(split)
        found = evaluate(
            self.net,
            self.loss,
            self.data,
            split,
            size,
            self.replicas,
            self.settings.made_metrics(),
            self.check_interrupt if interruptible else lambda: None,
            self.normalizer.unscale,
        )
        for name, why in found.undefined.items():
            if name not in self.undefined:
                self.undefined.add(name)
                print_stderr(f"metrics: {name} is nan: {why}")
        return found

    def known_confusion(self, name: str) -> ConfusionMatrix | None:
        """Return the confusion matrix of the split `name` if it was evaluated after the last step and has classes."""
        step, matrix = self._confusion.get(name, (None, None))
        return matrix if step == self.progress.step else None

    def confusion_matrix(self, name: str, data: Dataset | None = None) -> ConfusionMatrix:
        """Return the confusion matrix of the net on the run's split `name`, or on that of `data`, which is not scaled yet.

        Raises UserError as `evaluate_split` does, and unless each sample is of one of at most 100 classes.
        """
        matrix = None if data is not None else self.known_confusion(name)
        if matrix is None:
            matrix = self._evaluated(self._split(name, data)).confusion
        if matrix is None:
            raise UserError(f"confusion matrix: needs one class per sample, of at most {MAX_CLASSES} classes")
        return matrix

    def metric_set(self, y: Tensor) -> MetricSet:
        """Return the metrics of an evaluation, without samples yet, for outputs like y (r, n, ...).

        Raises UserErrors for a metric that does not fit the data.
        """
        return metric_set(self.settings.made_metrics(), self.loss, self.data, y)

    def maximizes(self, metric: str) -> bool | None:
        """Return whether larger values of a metric are better; None if that is not known."""
        known = {"loss": False, **{m.name: m.maximize for m in (*OF_CLASSES, *self.settings.made_metrics())}}
        name = metric.partition("/")[2]
        return known.get(name, known.get(name.partition("/")[0]))  # f1/a is the F1 of class a

    def evaluation_size(self, split: Split) -> int:
        """Return how many samples of `split` an evaluation passes through the net at once."""
        return max(self.settings.batch_size or len(split), PASS)

    def evaluate_split(self, name: str, data: Any = None) -> Metrics:
        """Return loss and metrics on the run's val or test split, or on that of `data`, which is not scaled yet.

        `data` is evaluated as it is given: no callback splits it. The signal that ended the fit does not end an evaluation.
        Raises UserError where there is no such split, or where `data` does not fit the net.
        """
        split = self._split(name, data)
        return self.measure(name, split) if data is None else self.evaluate(split)

    def _split(self, name: str, data: Any) -> Split:
        """Return the run's split `name`, or that of other data, scaled and on the device."""
        if name not in check.SPLITS:
            raise UserError(f"data: no split {short_repr(name)}{suggest(str(name), check.SPLITS)}")
        data = None if data is None else as_split(data, name, self.data, self.table_options)
        split: Split | None = getattr(self.data if data is None else data, name)
        if split is None:
            fix = f"give Dataset({name}=...) or tensors(..., {name}=...)"
            if data is None:
                fix = "train with ValidationSplit()" if name == "val" else "give data with a test split"
            raise UserError(f"data: has no {name} split; {fix}")
        return split if data is None else self._prepared(name, split, data)

    def _prepared(self, name: str, split: Split, data: Dataset) -> Split:
        """Return `split`, the split `name` of other data, checked, scaled and on the device."""
        check_columns(self.data, data, name)
        features = tuple(split.x.shape[1:])
        if self.features not in (None, features):
            raise UserError(
                f"data: a sample of the {name} split is {features}, the fit's is {self.features}; give data of that shape"
            )
        check_classes(self.data.classes, data.classes, "the fit's")
        spans = check.check_raw(data, (name,), self.dtype, self.normalizer.fill, data, (), lambda rows: True)
        check.check_scaled(data, spans, self.normalizer.scale, self.dtype, data, lambda rows: True)
        scaled = self.normalizer.apply(split, self.dtype).to(self.device, self.dtype)
        if len(scaled):
            whole = data.with_parts(**{name: scaled})
            check_inputs(self.net, whole, (name,))
            check_shapes(self.net, self.loss, whole, (name,), self.replicas)
        return scaled

    @property
    def features(self) -> tuple[int, ...] | None:
        """The shape of a sample, or None if it is not known: without data, only a table or a scaling per feature has it."""
        if len(self.data.train):
            return tuple(self.data.train.x.shape[1:])
        if self.data.features:
            return (len(self.data.features),)
        return tuple(self.normalizer.mean.shape) or None

    def predict(self, x: Any) -> Tensor:
        """Return outputs for rows in the data's own units; see `Predictor.predict`."""
        x, ignored = as_numbers(x, self.data.schema, self.table_options)
        if ignored not in self._ignored:  # once: a service asks again and again
            self._ignored.add(ignored)
            print_stderr(*ignored_columns("predict", ignored))
        return predict_rows(self.net, self.normalizer, x, self.features, self.dtype, self.replicas)

    def check_interrupt(self) -> None:
        """Raise Interrupted if a signal has arrived. Called between the batches of an evaluation."""
        if self.signal is not None:
            raise Interrupted(self.signal)
