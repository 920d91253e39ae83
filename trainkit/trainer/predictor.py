"""What a trained model predicts, and how well: the trainer and a loaded run have these methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.metrics.confusion_matrix import ConfusionMatrix
from trainkit.metrics.interpretation import Interpretation

if TYPE_CHECKING:
    from .session import Session

PlainMetrics = dict[str, float | list[float]]


class Predictor:
    """The predictions of a trained model, and its metrics. A subclass returns the session of its net.

    Rows are given in the data's own units: a tensor or an array (n, ...), nested lists of numbers, a pandas or polars frame. If
    the model was trained on a table, also a list of dicts, a dict of columns, or the path of a CSV or Parquet file; columns are
    then found by their names in any order, and others are ignored. Rows are scaled as the training data was, and the net runs
    in evaluation mode. Errors: UserError without a trained net, and where the rows have other features or no such column.
    """

    def fitted(self) -> Session:
        """Return the session of the trained net. Raises UserError if nothing is trained yet."""
        raise NotImplementedError

    def session_with(self, name: str | None) -> Session:
        """Return the session that has the split `name` of the run's data; None: one that need not have any."""
        return self.fitted()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of the columns of `predict_proba`; None in regression."""
        return self.fitted().data.classes

    @property
    def positive(self) -> int | None:
        """Of two classes, the index of the one that probabilities and metrics are about; else None."""
        data = self.fitted().data
        if data.multilabel or data.classes is None or len(data.classes) != 2:
            return None
        return 1 if data.positive is None else data.positive

    def predict(self, x: Any, replica: int | None = None) -> Tensor:
        """Return the net's outputs for rows x: (n, ...), with replicas (r, n, ...). In regression in the target's units.

        replica: the outputs of one model, (n, ...); by default those of all.

        Classes have logits, log-probabilities, probabilities or scores, depending on the net and the loss; `predict_proba`
        makes probabilities of them.
        """
        session = self.fitted()
        y = session.predict(x)
        if replica is None:
            return y
        check_replica(replica, session.replicas)
        return y[replica] if session.net.replica_dims else y

    def predict_proba(self, x: Any, replica: int | None = None) -> Tensor:
        """Return the probability of each class for rows x, (n, classes) float64, in the order of `classes`.

        softmax y for CrossEntropyLoss, exp y for NLLLoss, σ(y) for BCEWithLogitsLoss, y for BCELoss; one output y gives the
        columns 1 - p and p. With several outputs and a BCE loss each is a probability of its own.
        replica: that of one model; by default the mean over all replicas.
        Raises UserError in regression, and for a loss that makes no probabilities, such as MSELoss.
        """
        session = self.fitted()
        meaning = Interpretation.of(session.loss, session.data)
        if not meaning.probable:
            name = type(session.loss).__name__
            why = "the data has no classes" if meaning.classes is None else f"{name} makes no probabilities of the outputs"
            raise UserError(f"predict_proba: {why}; use predict")
        return meaning.probabilities(_models(session, x, replica)).mean(0)

    def predict_classes(self, x: Any, replica: int | None = None) -> list[str]:
        """Return the name of the most probable class of each row x. replica: as in `predict_proba`.

        One output predicts class 1 above its threshold: probability 1/2, or the middle of the two targets.
        Raises UserError in regression, and where a row may have several labels.
        """
        session = self.fitted()
        meaning = Interpretation.of(session.loss, session.data)
        if meaning.classes is None:
            raise UserError("predict_classes: the data has no classes; use predict")
        if meaning.multilabel:
            raise UserError("predict_classes: a row may have several labels; compare predict_proba(x) with 0.5")
        return [meaning.class_name(k) for k in meaning.predicted(_models(session, x, replica)).tolist()]

    def validate(self, data: Any = None) -> PlainMetrics:
        """Return `val/loss` and `val/error` of the trained net, on the validation split of the run or on that of `data`.

        `data` is treated as in `test`; ValidationSplit does not split it: `tensors(..., val=(x, t))`.
        """
        return self._evaluated("val", data)

    def test(self, data: Any = None) -> PlainMetrics:
        """Return `test/loss` and `test/error` of the trained net, on the test split of the run or on that of `data`.

        A metric is a number, or a list with one per replica. `data` is not scaled: the fit's normalization is applied to it.
        It may also be what `fit` takes besides a Dataset, such as (x, t), or, for a model of a table, the path of a CSV or
        Parquet file, a frame, a list of dicts or a dict of columns, with the target; all of it is then the split.
        Raises UserError if nothing is trained yet, or where the data has no such split.
        """
        return self._evaluated("test", data)

    def confusion_matrix(self, name: str = "test", data: Any = None) -> ConfusionMatrix:
        """Return how often the trained net predicts each class for samples of each class: `classes`, and `counts` (r, K, K).

        name: train, val or test, of the run's data or of `data`, which is treated as in `test`.
        Raises UserError as `test` does, and unless each sample is of one of at most 100 classes.
        """
        return self.session_with(name if data is None else None).confusion_matrix(name, data)

    def _evaluated(self, name: str, data: Any) -> PlainMetrics:
        return plain_metrics(name, self.session_with(name if data is None else None).evaluate_split(name, data))


def plain_metrics(name: str, values: Mapping[str, list[float]]) -> PlainMetrics:
    """Return `test/loss` and so on: a number each, or a list with one per replica."""
    return {f"{name}/{metric}": v[0] if len(v) == 1 else v for metric, v in values.items()}


def _models(session: Session, x: Any, replica: int | None) -> Tensor:
    """Return the outputs of the chosen models: (r, n, outputs)."""
    y = session.predict(x)
    if not session.net.replica_dims:
        y = y[None]
    if replica is not None:
        check_replica(replica, len(y))
        y = y[replica : replica + 1]
    return y.flatten(2) if y.dim() > 2 else y[..., None]


def check_replica(replica: int, replicas: int) -> None:
    """Raise UserError if there is no such replica."""
    if not 0 <= replica < replicas:
        raise UserError(f"replica: {replica}; the run has {replicas}, from 0 to {replicas - 1}")
