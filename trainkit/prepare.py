"""Before the first step: data split, scaled and moved; net replicated; streams seeded; an old run's state restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import snapshot
from .callback import listeners
from .data.dataset import Dataset, Part
from .data.normalize import Normalizer
from .errors import UserError
from .nn.loss import Loss
from .nn.module import Module, evaluating
from .optim.optimizer import Optimizer
from .rng import generator
from .state import State

if TYPE_CHECKING:
    from .trainer import Trainer


def prepare(trainer: Trainer, resume: dict[str, Any] | None, normalizer: Normalizer | None = None) -> None:
    """Make the trainer's net, optimizer and data ready for the next step: the first, or the one after `resume`'s."""
    trainer.call("setup")
    net, o, replicas = trainer.net, trainer.optimizer, trainer.replicas
    if len(trainer.data.train) == 0:
        raise UserError("data: the training part has 0 samples; give it more, or validation_split a smaller fraction")
    if resume is not None:
        normalizer = snapshot.normalizer(resume, trainer.data)
    trainer.normalizer = normalizer or Normalizer.fit(trainer.data)
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
    samples = len(trainer.data.train)
    trainer.step_size = samples if trainer.batch_size is None else min(samples, trainer.batch_size * trainer.accumulate)
    _check_shapes(trainer)
    rates = o.configured * (replicas // len(o.configured))
    trainer.state = State(samples=[0] * replicas, loss_sum=[0.0] * replicas, lr=rates, active=[True] * replicas)
    trainer.metrics, trainer.fresh = {}, set()
    trainer.set_lr(rates)
    if resume is not None:
        snapshot.restore(trainer, resume)


def prepare_to_evaluate(
    trainer: Trainer, net: Module, loss: Loss, optimizer: Optimizer, data: Dataset, content: dict[str, Any] | None
) -> None:
    """The beginning of `fit`, for an evaluation: split, scale, move, check shapes, take `content`'s parameters.

    Callbacks that write into the run's folder are left out.
    """
    trainer.hooks = listeners(trainer, [cb for cb in trainer.callbacks.values() if not cb.writes])
    trainer.net, trainer.loss, trainer.optimizer, trainer.data = net, loss, optimizer, data
    trainer.signal = None
    prepare(trainer, None, None if content is None else snapshot.normalizer(content, data))
    if content is not None:
        snapshot.check_data(content, trainer.data)
        snapshot.load_callbacks(trainer, content)
        net.load_state_dict(content["model"])


def _scaled(trainer: Trainer) -> Dataset:
    """The data as the net takes it: scaled, in the run's dtype, on its device."""
    data = trainer.data
    parts = {"train": data.train, "val": data.val, "test": data.test}
    scaled = {k: None if p is None else trainer.normalizer.apply(p) for k, p in parts.items()}
    return data.with_parts(**{k: None if p is None else p.to(trainer.device, trainer.dtype) for k, p in scaled.items()})


def _check_shapes(trainer: Trainer) -> None:
    """Shapes and types of a batch, and every target, in evaluation mode, with errors that name the place."""
    net, loss, data = trainer.net, trainer.loss, trainer.data
    axis, over = net.lead, (trainer.replicas,) if net.lead else ()
    x = data.train.x[:2]
    with evaluating(net):
        y = net(x.expand(*over, *x.shape))
    if not isinstance(y, Tensor):
        raise UserError(f"model: the net ends in a tuple of {len(y)} tensors; end it in one, with Add or Concat")
    for name in ("train", "val", "test"):
        part: Part | None = getattr(data, name)
        if part is not None and len(part):
            answer = y.narrow(axis, 0, 1).expand(*over, len(part), *y.shape[axis + 1 :])
            try:
                loss.check(answer, part.t.expand(*over, *part.t.shape))
            except UserError as error:
                raise UserError(f"loss, on the {name} part: {error}") from None
