"""What TensorBoard shows of a run besides its curves. Each function returns the summary of an event."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainkit.core.terminal import print_stderr
from trainkit.nn.module import eval_mode
from trainkit.nn.summary import layers

from .description import hyperparameters
from .evaluation import with_replicas

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

    from .session import Session


def preformatted(tag: str, content: str) -> Summary:
    """Return text that keeps its lines and columns."""
    from torch.utils.tensorboard.summary import text

    made: Summary = text(tag, "\n".join(f"    {line}" for line in content.splitlines()))
    return made


def net_table(session: Session) -> str:
    """Return the layers of the net with their shapes and parameters, as `trainkit show` prints them."""
    net = session.net
    with eval_mode(net):
        sample = with_replicas(net, session.data.train.x[:1], session.replicas)
        return layers(net, sample, len(session.optimizer.slots), session.replicas)


def charts(session: Session) -> Summary:
    """Return the layout of the tab Custom Scalars: a chart per metric, with its curves of all splits."""
    from torch.utils.tensorboard.summary import custom_scalars

    splits = list(session.data.parts())
    of_metrics = {name: ["Multiline", [_exactly(f"{split}/{name}") for split in splits]] for name in session.maximize}
    of_steps = {"loss of a step": ["Multiline", [_exactly("train/loss_step")]], "lr": ["Multiline", [_exactly("lr")]]}
    made: Summary = custom_scalars({"metrics, training beside validation": of_metrics, "steps": of_steps})
    return made


def _exactly(tag: str) -> str:
    return f"^{re.escape(tag)}$"


def hparams(session: Session) -> Iterator[Summary]:
    """Yield the configuration's scalars, beside which TensorBoard shows the last point of each curve.

    The summary of the whole experiment is left out: with it TensorBoard shows the parameters of one run alone, in the order of
    the alphabet. Without it, it shows those of all runs, first those that differ.
    """
    from torch.utils.tensorboard.summary import hparams

    _, *of_the_run = hparams(hyperparameters(session), {})
    yield from of_the_run


def confusion_picture(session: Session, name: str) -> Summary | None:
    """Return the confusion matrix of the split `name` as a picture, or None if the split has none."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    matrix = session.known_confusion(name)
    if matrix is None:
        return None
    try:
        import PIL  # noqa: F401
    except ImportError:
        print_stderr("tensorboard: no picture of the confusion matrix, since Pillow is not installed; pip install pillow")
        return None
    png, width, height = matrix.png(f"{name}: {len(session.data.parts()[name]):,} samples, step {session.progress.step:,}")
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=f"{name}/confusion", image=image)])


def histograms(session: Session) -> Iterator[Summary]:
    """Yield the finite weights and gradients of each parameter, in the 30 bins that TensorBoard shows."""
    from torch.utils.tensorboard.summary import histogram

    for name, p, g in session.net.named_param():
        for group, tensor in (("weights", p), ("gradients", g))[: 1 + session.optimizer.has_grad_buffer]:
            finite: Any = tensor[tensor.isfinite()].cpu().double().numpy()
            if finite.size:
                yield histogram(f"{group}/{name}", finite, bins=30)
