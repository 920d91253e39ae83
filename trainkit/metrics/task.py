"""What a metric knows about the outputs of a net, and a batch of them with the quantities that several metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trainkit.core.errors import UserError

SUM_TOLERANCE = 1e-3  # how far from 1 the probabilities of a sample may add up


@dataclass(frozen=True)
class Task:
    """The meaning of the outputs y (r, n, outputs) of a net.

    classes: names of the classes, or of the labels of a multilabel task; None in regression.
    outputs: the number of outputs per sample. One output with classes is the output of class 1.
    from_logits: True if softmax (one output, and multilabel: sigmoid) of y gives the probabilities, so also for
        log-probabilities; False if y itself holds them. It comes from the loss, never from the values of y.
    threshold: y above it predicts class 1 of one output, or a label; in the units of y, so 0 for logits.
    positive: of two classes, the index of the one that auc, average_precision, brier and the average `binary` are about.
    multilabel: True if the targets are 0 or 1 for each of the outputs, and independent of each other.
    independent: True if each of several outputs gives a probability of its own, and these need not add up to 1: of a multilabel
        task, and of one with a class per sample whose loss is binary, such as BCEWithLogitsLoss.
    targets: names of the targets of a regression; without them, their indices.
    indices: True if the targets are class indices, not numbers.
    """

    classes: tuple[str, ...] | None
    outputs: int
    from_logits: bool
    threshold: float
    positive: int = 1
    multilabel: bool = False
    independent: bool = False
    targets: tuple[str, ...] = ()
    indices: bool = False

    def __post_init__(self) -> None:
        if self.multilabel and len(self.classes or ()) != self.outputs:
            raise UserError(
                f"multilabel: {self.outputs} outputs, {len(self.classes or ())} labels; each label needs one output"
            )
        if self.classes is not None and not self.multilabel and not 0 <= self.positive < self.number_of_classes:
            raise UserError(f"positive: class index {self.positive}; the classes are 0 to {self.number_of_classes - 1}")

    @property
    def number_of_classes(self) -> int:
        """The number K of classes: of their names or of the outputs, whichever is larger; 2 or more, unless multilabel."""
        return self.outputs if self.multilabel else max(len(self.classes or ()), self.outputs, 2)

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names; a class without a name is named by its index."""
        names = self.classes or ()
        return (*names, *(str(i) for i in range(len(names), self.number_of_classes)))

    @property
    def is_binary(self) -> bool:
        """Whether each sample is of one of two classes."""
        return self.classes is not None and not self.multilabel and self.number_of_classes == 2


def probabilities(y: Tensor, from_logits: bool, independent: bool = False) -> Tensor:
    """Return the probabilities of the classes for outputs y (..., K): (..., K) float64; for one output (..., 2).

    from_logits: softmax y, also of log-probabilities; for one output σ(-y) and σ(y). Otherwise y, for one output 1 - y and y.
    independent: σ(y) or y of each output on its own. They need not add up to 1: a sample may have several labels.
    """
    z = y.double()
    if independent:
        return torch.sigmoid(z) if from_logits else z
    if z.shape[-1] > 1:
        return torch.softmax(z, -1) if from_logits else z
    return torch.cat([torch.sigmoid(-z), torch.sigmoid(z)] if from_logits else [1 - z, z], -1)


@dataclass(frozen=True)
class Batch:
    """n samples of r models: outputs y (r, n, K) or (r, n), targets t (n, ...), class indices label (n,), weight (n,).

    Weights are not negative. A sample of weight 0 is left out, even if its outputs are NaN; its label must be a class index.
    Each property is computed once, on y's device, without waiting for it.
    """

    y: Tensor
    t: Tensor
    label: Tensor | None
    weight: Tensor | None
    task: Task

    @cached_property
    def outputs(self) -> Tensor:
        """y as (r, n, outputs)."""
        return self.y[..., None] if self.y.dim() == 2 else self.y.flatten(2)

    @cached_property
    def targets(self) -> Tensor:
        """t as (n, targets)."""
        return self.t[:, None] if self.t.dim() == 1 else self.t.flatten(1)

    @cached_property
    def labels(self) -> Tensor:
        """label (n,). Raises UserError if there are none."""
        if self.label is None:
            raise UserError("metrics: the data has no class indices, which a metric of classes needs")
        return self.label

    @cached_property
    def predicted(self) -> Tensor:
        """Class indices (r, n): the largest output, the first of equal ones; of one output 1 above the threshold. Multilabel:
        (r, n, K) of 0 and 1."""
        if self.task.multilabel:
            return (self.outputs > self.task.threshold).long()
        if self.outputs.shape[2] > 1:
            return self.outputs.argmax(2)
        return (self.outputs[..., 0] > self.task.threshold).long()

    @cached_property
    def probabilities(self) -> Tensor:
        """(r, n, K) float64: softmax y, or y; of one output [1 - p, p]; independent: of each output on its own."""
        return probabilities(self.outputs, self.task.from_logits, self._separate)

    @property
    def _separate(self) -> bool:
        """Whether the probabilities need not add up to 1."""
        return self.task.multilabel or self.task.independent

    @cached_property
    def invalid(self) -> Tensor:
        """(r, n) bool: whether the probabilities are NaN, outside [0, 1], or, unless they are independent, do not add up to 1
        (`SUM_TOLERANCE`)."""
        if self.task.from_logits:
            z = self.outputs
            return z.isnan().any(2) if self._separate or z.shape[2] == 1 else ~z.amax(2).isfinite()
        p = self.probabilities
        valid = ((p >= 0) & (p <= 1)).all(2)
        if not self._separate:
            valid &= (p.sum(2) - 1).abs() <= SUM_TOLERANCE
        return ~valid

    @cached_property
    def weights(self) -> Tensor:
        """weight (n,) float64, or ones."""
        if self.weight is None:
            return torch.ones(self.y.shape[1], dtype=torch.float64, device=self.y.device)
        return self.weight.double()

    def total(self, values: Tensor) -> Tensor:
        """Return Σ weight · values over the samples, float64: values (r, n, ...) gives (r, ...)."""
        values = values.double()
        if self.weight is not None:
            w = self.weights.view(1, -1, *[1] * (values.dim() - 2))
            values = torch.where(w > 0, values * w, 0.0)
        return values.sum(1)
