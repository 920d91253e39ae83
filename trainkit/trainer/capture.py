"""The state of a run as plain values, as a checkpoint holds it; and its restoration."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainkit.checkpoint.plain import to_plain
from trainkit.checkpoint.safe_pickle import MAX_OPCODES, opcodes
from trainkit.checkpoint.schema import FORMAT, check_types
from trainkit.core.errors import UserError, UserErrors
from trainkit.core.terminal import print_stderr
from trainkit.data.dataset import Dataset
from trainkit.data.sizes import Sizes
from trainkit.data.transforms.normalize import Normalizer
from trainkit.metrics.log import MetricLog

from .callback import Callback, known_metrics
from .environment import environment
from .progress import Progress
from .random_states import check_random_states, random_states, set_random_states
from .same_data import check_classes, check_same

if TYPE_CHECKING:
    from .session import Session


def capture(session: Session) -> dict[str, Any]:
    """Return the whole state of a run between two steps. Its tensors are on the CPU; later steps do not change it."""
    # Callbacks at the end of an epoch, GradientNorms for one, may read the gradient of its last step.
    keeps_gradient = session.progress.batch == session.steps_per_epoch and session.optimizer.has_grad_buffer
    return {
        "format": FORMAT,
        "config": session.config,
        "state": _as_state(session.progress),
        "model": to_plain(session.net.state_dict(), copy=False),
        "optimizer": to_plain(session.optimizer.state_dict(), copy=False),
        "gradient": to_plain(session.optimizer.g) if keeps_gradient else None,
        "normalizer": session.normalizer.state_dict(),
        "data": {
            "train": len(session.data.train),
            "batch": session.step_size,
            "classes": None if session.data.classes is None else list(session.data.classes),
            "threshold": session.data.threshold,
            **({} if session.data.positive is None else {"positive": session.data.positive}),
            "schema": session.data.schema,
            "fingerprints": session.fingerprints,
            "sizes": Sizes.of(session.data).state_dict(),
            **({"multilabel": True} if session.data.multilabel else {}),
            **({"held_out": dict(session.held_out)} if session.held_out else {}),
        },
        "callbacks": {name: to_plain(cb.state_dict(), f".callbacks.{name}") for name, cb in session.callbacks.items()},
        "rng": random_states(session.generators, session.device),
        "metrics": {name: list(values) for name, values in session.metrics.items()},
        "environment": environment(session),
    }


def _as_state(progress: Progress) -> dict[str, Any]:
    """Return the progress under the keys of the file format: without `weight` if the samples have none."""
    state = {name: value for name, value in asdict(progress).items() if name != "weight" or value is not None}
    return {"pending" if name == "validation_pending" else name: value for name, value in state.items()}


def progress_of(state: dict[str, Any]) -> Progress:
    """Return the progress in a checkpoint, copied: the steps change its lists."""
    state = deepcopy(state)
    return Progress(validation_pending=state.pop("pending"), **state)


def check_size(session: Session) -> None:
    """Raise UserError where a checkpoint of the run would hold more values than a file may. Copies no tensor."""
    columns: dict[str, Any] = session.data.schema or {}
    replicas = session.replicas
    final = [f"{split}/{name}" for split in ("train", "test") for name in session.maximize]
    metrics = len({*known_metrics(session), *final, *session.metrics})
    schema = opcodes([columns, session.data.classes or (), session.data.categories])
    rest = opcodes([p for _, p, _ in session.net.named_param()]) + opcodes([session.optimizer.p] * len(session.optimizer.slots))
    rest += opcodes(_as_state(session.progress)) + metrics * (replicas + 4)
    for cb in session.callbacks.values():
        with suppress(Exception):  # a callback may have no state before the first step; a save reports what is wrong
            rest += opcodes(cb.state_dict())
    if (total := schema + rest) > MAX_OPCODES:
        if replicas > 1 and rest > schema:
            fix = f"use {replicas * max(0, MAX_OPCODES - schema) // rest:,} replicas or fewer, not {replicas:,}"
        elif columns:
            n_columns = len(columns.get("columns", ()))
            fix = f"use {n_columns * max(0, MAX_OPCODES - rest) // schema:,} columns or fewer, not {n_columns:,}"
        else:
            fix = "keep long lists of numbers as tensors"
        raise UserError(f"checkpoint: it would hold {total:,} values (a file can hold {MAX_OPCODES:,}); {fix}")


def restore(session: Session, content: dict[str, Any]) -> None:
    """Put a checkpoint's state into a prepared session, once everything has been checked. The random states come last."""
    check_types(content)
    state = content["state"]
    replicas = len(state["active"])
    wrong = []
    if replicas != session.replicas:
        wrong.append(f"resume: the checkpoint has {replicas} replicas, trainer.replicas is {session.replicas}; they must agree")
    else:
        wrong += [f"resume: {m}" for m in session.net.state_errors(content["model"])]
        wrong += [f"resume: {m}" for m in session.optimizer.state_errors(content["optimizer"])]
    gradient = content["gradient"]
    if not wrong and gradient is not None and gradient.shape != session.optimizer.g.shape:
        wrong.append(f"resume: the checkpoint's gradient does not have {session.optimizer.g.numel()} elements")
    for key, now in (("train", len(session.data.train)), ("batch", session.step_size)):
        then = content["data"][key]
        if state["batch"] and now != then:
            what = {"train": "training samples", "batch": "samples per step"}[key]
            problem = f"the checkpoint is inside an epoch of {then} {what}, now there are {now}"
            wrong.append(f"resume: {problem}; keep them, or resume from an epoch's end")
    if wrong:
        raise UserErrors(wrong)
    check_classes(content["data"]["classes"], session.data.classes, "the checkpoint's")
    check_random_states(session.device, content["rng"])
    load_callbacks(session, content)  # before the rest, since a callback may refuse its state too
    check_same(session, content)
    session.progress = progress_of(state)
    _release(session, content)
    session.net.load_state_dict(content["model"])
    session.optimizer.load_state_dict(content["optimizer"])
    if gradient is not None and session.optimizer.has_grad_buffer:
        session.optimizer.g.copy_(gradient)
    session.metrics = MetricLog({name: list(values) for name, values in content["metrics"].items()})
    session.set_lr(session.lr)  # again, since it is known now which replicas have stopped
    set_random_states(session.generators, session.device, content["rng"])


def _release(session: Session, content: dict[str, Any]) -> None:
    """Let replicas train again that were stopped by a callback which the run no longer has; print which."""
    active = session.progress.active
    for name, state in content["callbacks"].items():
        stopped = state.get("stopped") if name not in session.callbacks else None
        if isinstance(stopped, list) and len(stopped) == len(active):
            released = [r for r, reason in enumerate(stopped) if reason and not active[r]]
            if released:
                which = "the run" if len(active) == 1 else f"replicas {', '.join(map(str, released))}"
                print_stderr(f"resume: callbacks.{name} had stopped {which} and is left out now; training goes on")
            for r in released:
                active[r] = True


def load_callbacks(session: Session, content: dict[str, Any]) -> None:
    """Restore the state of each callback, found by its name in the configuration."""
    for name, cb in session.callbacks.items():
        if name in content["callbacks"]:
            _load(cb, content["callbacks"][name])


def _load(cb: Callback, state: dict[str, Any]) -> None:
    try:
        cb.load_state_dict(state)
    except UserError as error:
        raise UserErrors(f"resume: callbacks.{cb.name}: {line}" for line in str(error).split("\n")) from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"resume: callbacks.{cb.name} cannot load its state from the checkpoint ({what}); rename it") from error


def normalizer(content: dict[str, Any]) -> Normalizer:
    """Return the checkpoint's normalizer."""
    check_types(content)
    return Normalizer.from_state(content["normalizer"])


def check_features(normalizer: Normalizer, data: Dataset) -> None:
    """Raise UserError where the data has other features or targets than the checkpoint's normalizer."""
    features = tuple(data.train.x.shape[1:])
    for name in ("mean", "std", "fill"):
        value = getattr(normalizer, name)
        if value is not None and value.dim() and tuple(value.shape) != features:
            shape = tuple(value.shape)
            raise UserError(
                f"data: a sample is {features}, the checkpoint's normalizer.{name} is {shape}; use the original data"
            )
    targets, scaled = tuple(data.train.t.shape[1:]), normalizer.target_mean
    if scaled is not None and tuple(scaled.shape) != targets:
        had = tuple(scaled.shape)
        raise UserError(f"data: a target is {targets}, the checkpoint's normalizer.target_mean is {had}; use the original data")
