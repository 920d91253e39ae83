"""Norms of gradients and weights, layer by layer."""

from __future__ import annotations

from trainkit.core.errors import UserError
from trainkit.optim.flat_buffer import norms
from trainkit.trainer.callback import Callback
from trainkit.trainer.session import Session


class GradientNorms(Callback):
    """Euclidean norms `grad_norm/0.weight` and `weight_norm/0.weight` of each parameter at an epoch's end, per replica.

    The gradient is that of the last step as the update used it (clipped, without weight decay). Waits for the device once per
    epoch.
    """

    def on_fit_start(self, session: Session) -> None:
        if not session.optimizer.has_grad_buffer:
            raise UserError("SGD with accumulate_into_momentum has no gradient buffer; remove this callback, or that option")

    def adds_metrics(self, session: Session) -> list[str]:
        return [f"{group}/{name}" for group in ("grad_norm", "weight_norm") for name, _, _ in session.net.named_param()]

    def on_train_epoch_end(self, session: Session) -> None:
        named = list(session.net.named_param())
        for group, tensors in (("grad_norm", [g for _, _, g in named]), ("weight_norm", [p for _, p, _ in named])):
            rows = norms(tensors, session.net.replica_dims).reshape(len(named), -1).tolist()
            for (name, _, _), values in zip(named, rows, strict=True):
                session.log(f"{group}/{name}", values)
