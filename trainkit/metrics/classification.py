"""Which class an output predicts."""

from __future__ import annotations

from torch import Tensor

from trainkit.data.dataset import Dataset
from trainkit.nn.losses import Loss


def predicted_classes(y: Tensor, loss: Loss, data: Dataset, replica_dims: int = 0) -> Tensor:
    """Return the class that y predicts: the largest of several outputs; of one, 1 above the threshold (0 for logits)."""
    if y.dim() > 1 + replica_dims and y.shape[1 + replica_dims] > 1:
        return y.argmax(1 + replica_dims)
    return (y.flatten(replica_dims + 1).squeeze(-1) > threshold_of(loss, data)).long()


def threshold_of(loss: Loss, data: Dataset) -> float:
    """Return the value of one output above which it predicts class 1."""
    return 0.0 if loss.from_logits else 0.5 if data.threshold is None else data.threshold
