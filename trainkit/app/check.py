"""The first half of `check`: every derivative of a configuration against central differences. `rehearsal` is the other."""

from __future__ import annotations

import torch
from torch import Tensor

from trainkit.nn.gradcheck import TOLERANCE, gradcheck, gradcheck_loss
from trainkit.nn.layers.container import Container
from trainkit.nn.tracing import trace
from trainkit.trainer.evaluation import with_replicas
from trainkit.trainer.session import Session

Derivative = tuple[str, str, float]  # place, name of the differentiated value, error


def derivatives(session: Session) -> list[Derivative]:
    """Return the worst derivative of each module, then that of the loss, on 4 training samples. Moves the net to the CPU."""
    x, t = sample(session, 4)
    net, loss = session.net.to("cpu", torch.float64), session.loss
    found: list[Derivative] = []
    calls = trace(net, x)
    for call in calls:
        if isinstance(call.module, Container) and type(call.module).__module__.startswith("trainkit."):
            continue  # its modules are checked one by one; the tests check the container itself
        worst = max(gradcheck(call.module, call.given, elements=64), key=lambda result: result.error)
        found.append((call.place, worst.name, worst.error))
    return [*found, (f"loss.{type(loss).__name__}", "y", gradcheck_loss(loss, calls[-1].gave, t).error)]


def is_right(derivative: Derivative) -> bool:
    """Return whether the error is within the tolerance. That of NaN is not."""
    return derivative[2] <= TOLERANCE


def sample(session: Session, n: int) -> tuple[Tensor, Tensor]:
    """Return the first n training samples on the CPU in float64, with the replica axis if the net has one."""
    train = session.data.train.to(torch.device("cpu"), torch.float64)
    return with_replicas(session.net, train.x[:n], session.replicas), with_replicas(session.net, train.t[:n], session.replicas)
