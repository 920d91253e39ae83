"""Before the first step: data split, scaled and moved; net replicated; streams seeded; an old run's state restored."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from . import snapshot, streams
from .callback import listeners
from .data import check
from .data.dataset import Dataset, Part
from .data.fingerprint import fingerprints
from .data.normalize import Normalizer
from .data.statistics import ranges
from .errors import UserError
from .nn.loss import Loss
from .nn.module import Module, evaluating
from .optim.optimizer import Optimizer
from .rng import generator, order
from .state import State

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
        normalizer = snapshot.normalizer(resume, trainer.data)
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
        held = [name for name in ("val", "test") if getattr(trainer.data, name) is not None]
        snapshot.say_changed(trainer, content, held)
        net.load_state_dict(content["model"])


def _checked(
    trainer: Trainer, source: Dataset, given: Normalizer | None, names: tuple[str, ...], resume: dict[str, Any] | None
) -> Normalizer:
    """The normalizer `given`, or that of the training part, once every number of the parts `names` is known to be usable.

    source: the data before it was split, whose rows an error names. UserError: a missing number without a fill; one that is
    infinite in the run's dtype, unless a callback handles such numbers or the run ends before it takes the sample.
    """
    data, dtype = trainer.data, trainer.dtype
    parts: dict[str, Part] = {name: part for name in names if (part := getattr(data, name)) is not None and len(part)}
    spans = {name: ranges(p.x) for name, p in parts.items() if isinstance(p.x, Tensor) or p.x.may_miss()}
    fill = data.fill if given is None else given.fill
    for name, span in spans.items():
        if span.missing and fill is None:
            check.refuse_missing(data, name, source)

    def refuse(name: str, key: Literal["x", "t"], wrong: check.Test, what: str, cure: str = check.MEND) -> None:
        if name == "train" and not _takes(trainer, check.rows(getattr(data.train, key), wrong), resume):
            streams.say(f"data: a number of the training part {what}; the run ends before it takes it")
        else:
            check.refuse(data, name, key, wrong, what, cure, source)

    handled = {"train"} if any(cb.handles_nonfinite for cb in trainer.callbacks.values()) else set()
    kind = str(dtype).removeprefix("torch.")
    for name in [name for name in parts if name not in handled]:
        part = parts[name]
        if name in spans and not spans[name].finite:
            refuse(name, "x", torch.isinf, "is not finite")
        if part.t.is_floating_point() and not part.t.isfinite().all():
            refuse(name, "t", lambda t: ~t.isfinite(), "is not finite")
        elif part.t.is_floating_point() and not part.t.to(dtype).isfinite().all():
            cure = "divide the targets, or set trainer.dtype=float64"
            refuse(name, "t", lambda t: ~t.to(dtype).isfinite(), f"is infinite in {kind}", cure)
    normalizer = given or Normalizer.fit(data, spans.get("train"))
    for name in [name for name in spans if name not in handled]:
        span = spans[name]
        # Scaling is monotonic: every value lies between these.
        ends = normalizer.scale(torch.stack([span.low, span.high]), dtype)
        if span.finite and not ends.isfinite().all():
            cures = ["set data.normalize=feature"] * (data.normalize == "none") + ["set trainer.dtype=float64"] * (
                kind == "float32"
            )
            what, cure = f"is infinite in {kind} once it is scaled", " or ".join(cures) or "divide the numbers"
            refuse(name, "x", lambda x: ~normalizer.scale(x, dtype).isfinite(), what, f"{cure}, or {check.MEND}")
    return normalizer


def _takes(trainer: Trainer, rows: Tensor, resume: dict[str, Any] | None) -> bool:
    """Whether a training step up to max_steps takes one of the training samples `rows`."""
    if trainer.max_steps is None:
        return True
    state = asdict(State()) if resume is None else resume["state"]
    n, size, epoch, batch = len(trainer.data.train), trainer.step_size, state["epoch"], state["batch"]
    left = trainer.max_steps - state["step"]
    while left > 0 and epoch < trainer.max_epochs:
        taken = slice(batch * size, (batch + left) * size)
        if any(torch.isin(order(seed, epoch, n)[taken], rows).any() for seed in trainer.seeds):
            return True
        left, epoch, batch = left - (-(-n // size) - batch), epoch + 1, 0
    return False


def _scaled(trainer: Trainer) -> Dataset:
    """The data as the net takes it: scaled, in the run's dtype, on its device."""
    data = trainer.data
    parts = {"train": data.train, "val": data.val, "test": data.test}
    scaled = {k: None if p is None else trainer.normalizer.apply(p, trainer.dtype) for k, p in parts.items()}
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
