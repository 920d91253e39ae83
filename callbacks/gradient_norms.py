"""How large gradients and weights are, layer by layer."""

from __future__ import annotations

from trainkit.core.errors import UserError
from trainkit.optim.flat_buffer import norms
from trainkit.trainer.callback import Callback
from trainkit.trainer.session import Session


class GradientNorms(Callback):
    """Logs `grad_norm/0.weight` and `weight_norm/0.weight` for each parameter at an epoch's end, a replica each.

    Euclidean norms, of the last step's gradient as the update used it (clipped, without weight decay). Waits for the device
    once an epoch.
    """

    def on_fit_start(self, session: Session) -> None:
        if not session.optimizer.has_grad_buffer:
            raise UserError("SGD with accumulate_into_momentum holds no gradient; leave out this callback, or that")

    def adds_metrics(self, session: Session) -> list[str]:
        return [f"{group}/{name}" for group in ("grad_norm", "weight_norm") for name, _, _ in session.net.named_param()]

    def on_train_epoch_end(self, session: Session) -> None:
        named = list(session.net.named_param())
        for group, tensors in (("grad_norm", [g for _, _, g in named]), ("weight_norm", [p for _, p, _ in named])):
            for (name, _, _), values in zip(
                named, norms(tensors, session.net.replica_dims).reshape(len(named), -1).tolist(), strict=True
            ):
                session.log(f"{group}/{name}", values)
