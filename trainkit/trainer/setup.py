"""Before the first step: split, scale and move the data, replicate the net, seed the generators, restore a checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from trainkit.checkpoint.schema import check_types
from trainkit.core import terminal
from trainkit.core.errors import UserError
from trainkit.core.rng import generator
from trainkit.data import check
from trainkit.data.dataset import Dataset
from trainkit.data.fingerprint import fingerprints
from trainkit.data.held_rows import held_rows
from trainkit.data.transforms.augment import Augmenter, augmentations_of, check_fits
from trainkit.data.transforms.normalize import Normalizer
from trainkit.metrics.log import MetricLog

from . import capture, threads
from .callback import check_monitors
from .engines.engine import StepEngine
from .environment import changed_conditions, engine_of, resumed_engine
from .progress import Progress
from .same_data import check_classes, check_held_out, keep_held_out, print_changed
from .session import Session
from .shapes import check_inputs, check_shapes
from .unknown_codes import start_unknown_codes


def begin(session: Session, content: dict[str, Any] | None) -> None:
    """Do everything before the first step, or the first one after the checkpoint `content`, that may raise. Writes nothing."""
    if content is not None:
        check_types(content)
        for line in changed_conditions(session, content):
            terminal.print_stderr(f"resumed under other conditions: {line}; the bits of the result may differ")
    prepare_training(session, content)
    check_monitors(session)
    session.max_threads = session.settings.threads or torch.get_num_threads()
    threads.use(threads.chosen(session, content))
    progress, run = session.progress, session.run
    session.last_is_ahead = content is not None and run is not None and run.is_ahead(progress.step, progress.epoch)
    engine = session.settings.engine if content is None else resumed_engine(session.settings.engine, content)
    with torch.inference_mode():
        session.step_engine = StepEngine(session, engine)
    session.engine = session.step_engine.name
    if content is not None and not session.steps_left:
        session.engine = engine_of(content)  # the engine of the steps, which were all taken
        done = f"{progress.epoch} epochs and {progress.step} steps are done"
        terminal.print_stderr(f"resume: {done}, so no step is left; to train on, raise trainer.max_epochs or max_steps")
    session.call("on_fit_start")
    if content is not None and session.steps_left and not session.stopping and not any(session.progress.active):
        raise UserError(
            "resume: a callback had stopped the training, and its state does not say so, so the steps would change nothing;"
            " keep the list `stopped` in its state, or give the parameters to a new run"
        )
    if any(cb.saves_checkpoints for cb in session.callbacks.values()):
        capture.check_size(session)


def prepare_training(session: Session, content: dict[str, Any] | None) -> None:
    """Prepare the session for the next step: the first, or the one after the checkpoint `content`."""
    start = Progress() if content is None else capture.progress_of(content["state"])
    prepare_data(session, content, tuple(check.SPLITS), start)
    net, o, replicas = session.net.train(), session.optimizer, session.replicas
    o.bind()
    session.augment = _augmenter(session)
    o.check_replicas(replicas)
    session.generators = tuple(generator(seed, "pass", device=session.device) for seed in session.seeds)
    for _, module in net.modules():
        if hasattr(module, "generators"):
            module.generators = session.generators
    check_fit(session)
    rates = o.initial_lrs * (replicas // len(o.initial_lrs))
    session.progress, session.metrics = Progress.start(rates), MetricLog()
    session.set_lr(rates)
    if content is None:
        start_unknown_codes(net, session.data)
    else:
        capture.restore(session, content)


def prepare_evaluation(session: Session, content: dict[str, Any]) -> None:
    """Prepare the session to evaluate its net, that of the checkpoint `content`, on the session's data."""
    prepare_data(session, content, ("val", "test"))
    check_fit(session)
    check_classes(content["data"]["classes"], session.data.classes, "the checkpoint's")
    capture.load_callbacks(session, content)
    check_held_out(session, content)
    print_changed(session, content, [name for name in session.data.parts() if name != "train"])
    session.net.eval()


def check_fit(session: Session) -> None:
    """Raise UserError where net, loss, data and metrics do not fit together; learn the names of the metrics."""
    check_inputs(session.net, session.data, session.data.parts())
    y = check_shapes(session.net, session.loss, session.data, session.data.parts(), session.replicas)
    measured = session.metric_set(y if session.net.replica_dims else y.unsqueeze(0))
    session.maximize = {"loss": False, **measured.maximize}
    if any(split.weight is not None for split in session.data.parts().values()):
        for metric in [m for m in measured.metrics if not m.takes_weights]:
            terminal.print_stderr(f"metrics: {metric.name} takes no argument weight, so all samples count alike in it")


def prepare_data(
    session: Session, content: dict[str, Any] | None, names: tuple[str, ...], start: Progress | None = None
) -> None:
    """Split, check and scale the data, and move data and net to the device. All that an evaluation shares with a training.

    content: a checkpoint, whose normalizer and held-out rows are used; None fits a normalizer to the training split.
    names: the splits whose numbers are checked.
    start: where the steps begin, so that numbers which no step uses are accepted.
    """
    source = session.data
    normalizer = None if content is None else capture.normalizer(content)
    session.saved_callbacks = {} if content is None else content["callbacks"]
    session.call("setup")
    session.saved_callbacks = {}
    if len(session.data.train) == 0:
        raise UserError("data: the training split has 0 samples; give more data, or validation_split a smaller fraction")
    if normalizer is not None:
        capture.check_features(normalizer, session.data)
    session.fingerprints, session.held_out = fingerprints(session.data), held_rows(session.data)
    if content is not None:
        keep_held_out(session, content, trains="train" in names)
    session.normalizer = _checked(session, source, normalizer, names, start or Progress())
    session.data = _scaled(session)
    prepare_net(session)


def prepare_net(session: Session) -> None:
    """Replicate the net, if it is not yet, and move it to the device."""
    net = session.net
    if session.replicas > 1 and not net.replica_dims:
        net.replicate(session.seeds)
    session.loss.replica_dims = net.replica_dims
    net.to(session.device, session.dtype)


def _checked(
    session: Session, source: Dataset, normalizer: Normalizer | None, names: tuple[str, ...], start: Progress
) -> Normalizer:
    """Return `normalizer`, or that of the training split, after a check of every number in the splits `names`.

    source: the data before it was split, whose rows an error names. UserError: see `check.check_raw` and `check.check_scaled`.
    Infinite numbers are accepted where a callback handles them, or where the run ends before it takes their sample.
    """
    data, dtype = session.data, session.dtype
    is_taken = partial(
        check.takes,
        n=len(data.train),
        size=session.step_size,
        seeds=session.seeds,
        epochs=range(start.epoch, session.max_epochs),
        batch=start.batch,
        steps=None if session.settings.max_steps is None else session.settings.max_steps - start.step,
    )
    tolerated = ["train"] if any(cb.handles_nonfinite for cb in session.callbacks.values()) else []
    fill = data.fill if normalizer is None else normalizer.fill
    spans = check.check_raw(data, names, dtype, fill, source, tolerated, is_taken)
    normalizer = normalizer or Normalizer.fit(data, spans.get("train"))
    spans = {name: span for name, span in spans.items() if name not in tolerated}
    check.check_scaled(data, spans, normalizer.scale, dtype, source, is_taken)
    return normalizer


def _augmenter(session: Session) -> Augmenter | None:
    """Return what changes the training samples, or None. Raises UserError for an augmentation that does not fit."""
    train = session.data.train
    if not (made := augmentations_of(session.data.augment)):
        return None
    check_fits(made, train.x.shape[1:], train.t, session.data.categories)
    return Augmenter(made, len(train), session.data.categories)


def _scaled(session: Session) -> Dataset:
    """Return the data as the net takes it: scaled, in the run's dtype, on its device."""
    scaled = {name: session.normalizer.apply(split, session.dtype) for name, split in session.data.parts().items()}
    return session.data.with_parts(**{name: split.to(session.device, session.dtype) for name, split in scaled.items()})
