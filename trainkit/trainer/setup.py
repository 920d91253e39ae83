"""Before the first step: data split, scaled and moved; net replicated; streams seeded; an old run's state restored."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.rng import generator
from trainkit.data import check
from trainkit.data.dataset import Dataset
from trainkit.data.fingerprint import fingerprints
from trainkit.data.transforms.normalize import Normalizer
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module, evaluating
from trainkit.optim.optimizer import Optimizer

from . import capture
from .callback import listeners
from .progress import State

if TYPE_CHECKING:
    from .trainer import Trainer


def prepare(trainer: Trainer, resume: dict[str, Any] | None, normalizer: Normalizer | None = None) -> None:
    """Make the trainer's net, optimizer and data ready for the next step: the first, or the one after `resume`'s."""
    source, evaluates = trainer.data, normalizer is not None
    trainer.call("setup")
    net, o, replicas = trainer.net, trainer.optimizer, trainer.replicas
    if len(trainer.data.train) == 0:
        raise UserError("data: the training part has 0 samples; give it more, or validation_split a smaller fraction")
    if resume is not None:
        normalizer = capture.normalizer(resume, trainer.data)
    trainer.fingerprints = fingerprints(trainer.data)
    samples = len(trainer.data.train)
    trainer.step_size = samples if trainer.batch_size is None else min(samples, trainer.batch_size * trainer.accumulate)
    used = ("val", "test") if evaluates else ("train", "val", "test")
    trainer.normalizer = _checked(trainer, source, normalizer, used, resume)
    trainer.data = _scaled(trainer)
    if replicas > 1 and not net.lead:
        net.replicate(trainer.seeds)
    trainer.loss.lead = net.lead
    net.to(trainer.device, trainer.dtype).train()
    o.bind()
    if len(o.configured) not in (1, replicas):
        raise UserError(f"optimizer: {len(o.configured)} values of lr for {replicas} replicas; needs one, or one for each")
    trainer.generators = tuple(generator(seed, "pass", device=trainer.device) for seed in trainer.seeds)
    for _, module in net.modules():
        if hasattr(module, "generators"):
            module.generators = trainer.generators
    _check_shapes(trainer)
    rates = o.configured * (replicas // len(o.configured))
    trainer.state = State(samples=[0] * replicas, loss_sum=[0.0] * replicas, lr=rates, active=[True] * replicas)
    trainer.metrics, trainer.fresh = {}, set()
    trainer.set_lr(rates)
    if resume is not None:
        capture.restore(trainer, resume)


def prepare_to_evaluate(
    trainer: Trainer, net: Module, loss: Loss, optimizer: Optimizer, data: Dataset, content: dict[str, Any] | None
) -> None:
    """The beginning of `fit`, for an evaluation: split, scale, move, check shapes, take `content`'s parameters.

    Callbacks that write into the run's folder are left out.
    """
    trainer.hooks = listeners(trainer, [cb for cb in trainer.callbacks.values() if not cb.writes])
    trainer.net, trainer.loss, trainer.optimizer, trainer.data = net, loss, optimizer, data
    trainer.signal = None
    prepare(trainer, None, None if content is None else capture.normalizer(content, data))
    if content is not None:
        capture.check_data(content, trainer.data)
        capture.load_callbacks(trainer, content)
        held = [name for name in trainer.data.parts() if name != "train"]
        capture.say_changed(trainer, content, held)
        net.load_state_dict(content["model"])


def _checked(
    trainer: Trainer, source: Dataset, normalizer: Normalizer | None, names: tuple[str, ...], resume: dict[str, Any] | None
) -> Normalizer:
    """Return the normalizer given, or that of the training part, once every number of the parts `names` is known to be usable.

    source: the data before it was split, whose rows an error names. UserError: see `check.check_raw` and `check.check_scaled`.
    Infinite numbers are left to a callback that handles them, and to a run that ends before it takes the sample.
    """
    data, dtype = trainer.data, trainer.dtype
    state = asdict(State()) if resume is None else resume["state"]
    is_taken = partial(
        check.takes,
        n=len(data.train),
        size=trainer.step_size,
        seeds=trainer.seeds,
        epochs=range(state["epoch"], trainer.max_epochs),
        batch=state["batch"],
        steps=None if trainer.max_steps is None else trainer.max_steps - state["step"],
    )
    tolerated = ["train"] if any(cb.handles_nonfinite for cb in trainer.callbacks.values()) else []
    fill = data.fill if normalizer is None else normalizer.fill
    spans = check.check_raw(data, names, dtype, fill, source, tolerated, is_taken)
    normalizer = normalizer or Normalizer.fit(data, spans.get("train"))
    spans = {name: span for name, span in spans.items() if name not in tolerated}
    check.check_scaled(data, spans, normalizer.scale, dtype, source, is_taken)
    return normalizer


def _scaled(trainer: Trainer) -> Dataset:
    """The data as the net takes it: scaled, in the run's dtype, on its device."""
    scaled = {name: trainer.normalizer.apply(part, trainer.dtype) for name, part in trainer.data.parts().items()}
    return trainer.data.with_parts(**{name: part.to(trainer.device, trainer.dtype) for name, part in scaled.items()})


def _check_shapes(trainer: Trainer) -> None:
    """Shapes and types of a batch, and every target, in evaluation mode, with errors that name the place."""
    net, loss, data = trainer.net, trainer.loss, trainer.data
    axis, over = net.lead, (trainer.replicas,) if net.lead else ()
    x = data.train.x[:2]
    with evaluating(net):
        y = net(x.expand(*over, *x.shape))
    if not isinstance(y, Tensor):
        raise UserError(f"model: the net ends in a tuple of {len(y)} tensors; end it in one, with Add or Concat")
    for name, part in data.parts().items():
        if len(part):
            answer = y.narrow(axis, 0, 1).expand(*over, len(part), *y.shape[axis + 1 :])
            try:
                loss.check(answer, part.t.expand(*over, *part.t.shape))
            except UserError as error:
                raise UserError(f"loss, on the {name} part: {error}") from None
    t = data.train.t[:2]
    _check_sum(loss, y, t.expand(*over, *t.shape))


def _check_sum(loss: Loss, y: Tensor, t: Tensor) -> None:
    """Refuse a loss whose sum is not its mean times its batch weight: parts and batches are put together from these."""
    if loss.reduction != "mean":
        return
    values = loss.fwd(y, t)[0], loss.summed().fwd(y, t)[0], loss.batch_weight(t)
    mean, total, weight = (torch.as_tensor(v).detach().cpu().double() for v in values)
    known = mean.isfinite() & total.isfinite() & (weight != 0)
    if known.any() and not torch.allclose(total[known], (mean * weight)[known], rtol=1e-3, atol=1e-6):
        raise UserError(
            f"loss: {type(loss).__name__} with reduction=sum gives {total.tolist()}, its mean times its batch weight is"
            f" {(mean * weight).tolist()}; compute with self.reduce and self.reduction_factor, or override batch_weight"
        )
