"""What the outputs of a net mean: probabilities of classes, scores of classes, or predictions of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from trainkit.data.dataset import Dataset
from trainkit.nn.losses import Loss

from .classification import threshold_of
from .task import Task, probabilities


@dataclass(frozen=True)
class Interpretation:
    """The meaning of outputs y (..., outputs), which follows from the loss and the data, never from the values of y.

    classes: names of the classes or, if multilabel, of the labels; None in regression. targets: names of regression targets.
    probable: the loss makes probabilities of y; otherwise y holds scores, of which only the largest has a meaning.
    threshold: one output above it predicts class 1. positive: of two classes, the index of the one that metrics are about.
    indices: the targets are class indices, not numbers. The other fields are those of `task.probabilities`.
    """

    classes: tuple[str, ...] | None
    targets: tuple[str, ...]
    probable: bool
    from_logits: bool
    independent: bool
    multilabel: bool
    threshold: float
    positive: int = 1
    indices: bool = False

    @classmethod
    def of(cls, loss: Loss, data: Dataset) -> Self:
        """Return the meaning of the outputs of a net that is trained with `loss` on `data`."""
        named = data.schema.get("target", ())
        targets = (named,) if isinstance(named, str) else tuple(named)  # type: ignore[arg-type]
        probable = data.classes is not None and (loss.from_logits or loss.from_probabilities)
        return cls(
            classes=data.classes,
            targets=targets,
            probable=probable,
            from_logits=loss.from_logits,
            independent=loss.independent,
            multilabel=data.multilabel,
            threshold=threshold_of(loss, data),
            positive=1 if data.positive is None else data.positive,
            indices=data.classes is not None and data.train.t.dim() == 1 and not data.train.t.is_floating_point(),
        )

    def task(self, outputs: int) -> Task:
        """Return what metrics know about this many outputs per sample. Raises UserError if they do not fit the labels."""
        return Task(
            classes=self.classes,
            outputs=outputs,
            from_logits=self.from_logits,
            threshold=self.threshold,
            positive=self.positive,
            multilabel=self.multilabel,
            independent=self.multilabel or (self.independent and outputs > 1),
            indices=self.indices,
            targets=self.targets if self.classes is None and len(self.targets) == outputs else (),
        )

    def probabilities(self, y: Tensor) -> Tensor:
        """Return those of y (..., outputs), float64: (..., classes); one output gives two classes, unless it is one label."""
        return probabilities(y, self.from_logits, self.multilabel or (self.independent and y.shape[-1] > 1))

    def values(self, y: Tensor, raw: bool = False) -> Tensor:
        """Return the columns `names` for y (..., outputs): probabilities, or y itself if there are none or if `raw`."""
        return self.probabilities(y) if self.probable and not raw else y

    def predicted(self, y: Tensor) -> Tensor:
        """Return the class index (n,) that r models predict together, y (r, n, outputs).

        One model: its largest output; of one output, 1 above the threshold. Several: the same of the mean of their `values`.
        """
        if y.shape[2] > 1:
            return (y[0] if len(y) == 1 else self.values(y).mean(0)).argmax(1)
        if len(y) == 1 or not self.probable:
            return (y.mean(0)[:, 0] > self.threshold).long()
        return (self.values(y).mean(0)[:, -1] > (0.5 if self.from_logits else self.threshold)).long()

    def names(self, outputs: int, raw: bool = False) -> list[str]:
        """Return the names of the columns of `values`.

        `p_yes`, the probability of class yes; `score_yes`, its score, if the loss makes no probabilities; with `raw` `y_yes`.
        One score or raw output is that of class 1. In regression the names of the targets, or y0, y1, ... without names.
        """
        if self.classes is None:
            return self.columns(outputs)
        prefix = "y_" if raw else "p_" if self.probable else "score_"
        if outputs == 1 and not self.multilabel:
            return [prefix + self.class_name(i) for i in ((0, 1) if prefix == "p_" else (1,))]
        return [prefix + name for name in self.columns(outputs)]

    def columns(self, outputs: int) -> list[str]:
        """Return the name of the class, the label or the target of each output."""
        if self.classes is not None:
            return [self.class_name(i) for i in range(outputs)]
        return list(self.targets) if len(self.targets) == outputs else [f"y{i}" for i in range(outputs)]

    def class_name(self, i: int) -> str:
        """Return the name of class i, or i itself: a net may have more outputs than there are names."""
        names = self.classes or ()
        return names[i] if i < len(names) else str(i)
