"""A run's state as plain values, and back: what a checkpoint holds."""

from __future__ import annotations

import hashlib
import platform
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit import __version__
from trainkit.checkpoint.content import FORMAT, check_types
from trainkit.checkpoint.plain import plain
from trainkit.checkpoint.safe_pickle import MOST as MOST_OPCODES
from trainkit.checkpoint.safe_pickle import opcodes
from trainkit.core import terminal
from trainkit.core.errors import MOST, UserError, UserErrors
from trainkit.core.validation import shown
from trainkit.data.check import PARTS
from trainkit.data.dataset import Dataset
from trainkit.data.transforms.normalize import Normalizer
from trainkit.nn.module import Module

from . import threads
from .callback import Callback, known_metrics
from .progress import State

if TYPE_CHECKING:
    from .trainer import Trainer


def take(trainer: Trainer) -> dict[str, Any]:
    """The whole state of a run between two steps. Its tensors are on the CPU, and nothing in it moves on with the run."""
    # who looks at an epoch's end may look at its last gradient
    looked_at = trainer.state.batch == trainer.steps_per_epoch and trainer.optimizer.holds_gradient
    return {
        "format": FORMAT,
        "config": trainer.config,
        "state": asdict(trainer.state),
        "model": plain(trainer.net.state_dict(), copy=False),
        "optimizer": plain(trainer.optimizer.state_dict(), copy=False),
        "gradient": plain(trainer.optimizer.g) if looked_at else None,
        "normalizer": trainer.normalizer.state_dict(),
        "data": {
            "train": len(trainer.data.train),
            "batch": trainer.step_size,
            "classes": None if trainer.data.classes is None else list(trainer.data.classes),
            "threshold": trainer.data.threshold,
            "schema": trainer.data.schema,
            "fingerprints": trainer.fingerprints,
        },
        "callbacks": {name: plain(cb.state_dict(), f".callbacks.{name}") for name, cb in trainer.callbacks.items()},
        "rng": rng(trainer),
        "metrics": {name: list(values) for name, values in trainer.metrics.items()},
        "environment": environment(trainer),
    }


FINAL = {"train/error", "test/loss", "test/error"}  # metrics that come after the last step


def check_room(trainer: Trainer) -> None:
    """Raise UserError for a run whose checkpoints would have more values than a file may hold; copies no tensor."""
    columns: dict[str, Any] = trainer.data.schema or {}
    replicas = trainer.replicas
    metrics = len({*known_metrics(trainer), *FINAL, *trainer.metrics})
    schema = opcodes([columns, trainer.data.classes or ()])
    rest = opcodes([p for _, p, _ in trainer.net.named_param()]) + opcodes([trainer.optimizer.p] * len(trainer.optimizer.slots))
    rest += opcodes(asdict(trainer.state)) + metrics * (replicas + 4)
    for cb in trainer.callbacks.values():
        with suppress(Exception):  # of one that has no state before the first step; a save says what is wrong with it
            rest += opcodes(cb.state_dict())
    if (n := schema + rest) > MOST_OPCODES:
        if replicas > 1 and rest > schema:
            cure = f"use {replicas * max(0, MOST_OPCODES - schema) // rest:,} replicas or fewer, not {replicas:,}"
        elif columns:
            n_columns = len(columns.get("columns", ()))
            cure = f"use {n_columns * max(0, MOST_OPCODES - rest) // schema:,} columns or fewer, not {n_columns:,}"
        else:
            cure = "keep long lists of numbers as tensors"
        raise UserError(f"checkpoint: it would hold {n:,} parts, a file can hold {MOST_OPCODES:,}; {cure}")


def restore(trainer: Trainer, content: dict[str, Any]) -> None:
    """Put a checkpoint's state into a prepared trainer, after everything has been found to fit. Random state comes last."""
    check_types(content)
    state = content["state"]
    replicas = len(state["active"])
    wrong = []
    if replicas != trainer.replicas:
        wrong.append(f"resume: the checkpoint has {replicas} replicas, trainer.replicas is {trainer.replicas}; they must agree")
    else:
        wrong += [f"resume: {m}" for m in trainer.net.mismatches(content["model"])]
        wrong += [f"resume: {m}" for m in trainer.optimizer.mismatches(content["optimizer"])]
    gradient = content["gradient"]
    if not wrong and gradient is not None and gradient.shape != trainer.optimizer.g.shape:
        wrong.append(f"resume: the checkpoint's gradient is none of {trainer.optimizer.g.numel()} numbers")
    for key, now in (("train", len(trainer.data.train)), ("batch", trainer.step_size)):
        then = content["data"][key]
        if state["batch"] and now != then:
            what = {"train": "training samples", "batch": "samples a step"}[key]
            stands = f"the checkpoint is inside an epoch of {then} {what}, now there are {now}"
            wrong.append(f"resume: {stands}; keep them, or resume from an epoch's end")
    if wrong:
        raise UserErrors(wrong)
    check_data(content, trainer.data)
    check_rng(trainer, content["rng"])
    load_callbacks(trainer, content)  # first, since they may refuse too
    check_same(trainer, content)
    trainer.state = State(**deepcopy(state))  # the steps move its lists on
    trainer.net.load_state_dict(content["model"])
    trainer.optimizer.load_state_dict(content["optimizer"])
    if gradient is not None and trainer.optimizer.holds_gradient:
        trainer.optimizer.g.copy_(gradient)
    trainer.metrics = {name: list(values) for name, values in content["metrics"].items()}
    trainer.fresh = set()
    trainer.set_lr(trainer.lr)
    set_rng(trainer, content["rng"])


def rng(trainer: Trainer) -> dict[str, Any]:
    """Every random state a pass or a callback may draw from: python's, torch's, the devices', the passes' own."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, torch.tensor(internal), gauss],
        "torch": torch.get_rng_state(),
        "passes": torch.stack([g.get_state() for g in trainer.generators]),
    }
    if trainer.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng(trainer: Trainer, state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    torch.set_rng_state(state["torch"])
    for g, saved in zip(trainer.generators, state["passes"], strict=True):
        g.set_state(saved.clone())  # a row of a tensor: torch reads from the beginning of its memory, or crashes
    if "cuda" in state and trainer.device.type == "cuda":
        torch.cuda.set_rng_state_all(state["cuda"])


def check_rng(trainer: Trainer, state: dict[str, Any]) -> None:
    """Refuse random states that nothing here could have made, before one is set."""
    version, internal, gauss = state["python"]
    try:
        random.Random().setstate((version, tuple(internal.tolist()), gauss))
        torch.Generator().set_state(state["torch"])
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise UserError("resume: the checkpoint's random state is none; take another checkpoint of the run") from error
    cuda = state.get("cuda", []) if trainer.device.type == "cuda" else []
    if len(cuda) > torch.cuda.device_count():
        raise UserError(f"resume: the checkpoint has {len(cuda)} CUDA devices, here are {torch.cuda.device_count()}")
    try:
        for saved in [*state["passes"], *cuda]:
            torch.Generator(trainer.device).set_state(saved.clone())
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"resume: the checkpoint's random state is of another kind of device than {trainer.device}; resume on that kind"
        ) from error


def check_data(content: dict[str, Any], data: Dataset) -> None:
    """Refuse data with other classes than the checkpoint's: its outputs would be read as something else."""
    had, has = content["data"]["classes"], data.classes
    if had != (None if has is None else list(has)):
        raise UserError(f"data: the checkpoint's classes are {listed(had)}, the data's {listed(has)}; keep the data")


def changed(trainer: Trainer, content: dict[str, Any], keys: Sequence[str] = ("x", "t")) -> list[str]:
    """The parts of the data whose numbers are not those that the checkpoint's run had, or that it did not have."""
    then, now = content["data"]["fingerprints"], trainer.fingerprints
    return [name for name in PARTS if any(now.get(f"{name}.{key}") != then.get(f"{name}.{key}") for key in keys)]


def check_same(trainer: Trainer, content: dict[str, Any]) -> None:
    """Refuse data of which samples may have moved from the training part to another; say in a line which part has changed.

    A training part that has changed alone is taken, inside an epoch too: a row may have been mended after a NaN.
    """
    other = changed(trainer, content, ["x"])
    held = [PARTS[name] for name in other if name != "train" and name in trainer.data.parts()]
    if "train" in other and held:
        raise UserError(
            f"data: the training and the {' and '.join(held)} part have changed since the checkpoint"
            f" (or data.scale was changed), so the {' and '.join(held)} part may hold rows that were trained on;"
            " keep the data as it was, or start a new run"
        )
    say_changed(trainer, content, PARTS)


def say_changed(trainer: Trainer, content: dict[str, Any], names: Iterable[str]) -> None:
    """A line on stderr for each of the parts `names` that has changed since the checkpoint."""
    for name in changed(trainer, content):
        if name in names:
            why = "other numbers, rows or order, or data.scale was changed"
            terminal.say(f"data: the {PARTS[name]} part has changed since the checkpoint ({why})")


def load_callbacks(trainer: Trainer, content: dict[str, Any]) -> None:
    """Each callback's state, by its name in the configuration."""
    for name, cb in trainer.callbacks.items():
        if name in content["callbacks"]:
            _load(cb, content["callbacks"][name])


def _load(cb: Callback, state: dict[str, Any]) -> None:
    try:
        cb.load_state_dict(state)
    except UserError as error:
        raise UserErrors(f"resume: callbacks.{cb.name}: {line}" for line in str(error).split("\n")) from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"resume: callbacks.{cb.name} cannot take its state from the checkpoint ({what}); rename it") from error


def normalizer(content: dict[str, Any], data: Dataset) -> Normalizer:
    """The checkpoint's normaliser. Raises UserError where the data has other features."""
    check_types(content)
    found, features = Normalizer.from_state(content["normalizer"]), tuple(data.train.x.shape[1:])
    for name in ("mean", "std", "fill"):
        value = getattr(found, name)
        if value is not None and value.dim() and tuple(value.shape) != features:
            shape = tuple(value.shape)
            raise UserError(f"data: a sample is {features}, the checkpoint's normalizer.{name} {shape}; keep the data")
    return found


def listed(classes: Sequence[str] | None) -> str:
    names = [shown(c, "") for c in classes or ()]
    return ", ".join(names[:MOST]) + (f", and {len(names) - MOST} more" if len(names) > MOST else "") or "none"


def environment(trainer: Trainer) -> dict[str, Any]:
    """What bits may depend on beside the state."""
    return {
        "versions": {"trainkit": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "device": trainer.device.type,
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "mode": trainer.running,
    }


def differences(trainer: Trainer, content: dict[str, Any]) -> list[str]:
    """What differs between the environment a checkpoint was made in and this one."""
    then, now = content["environment"], environment(trainer)
    now |= {"mode": mode(trainer, content), "threads": threads.chosen(trainer, content)}
    then = {"mode": "eager", **then}
    return [f"{key}: {then.get(key)} then, {now[key]} now" for key in now if then.get(key) != now[key]]


def mode(trainer: Trainer, content: dict[str, Any]) -> Any:
    """The trainer's mode; auto goes on with what it chose then."""
    return mode_of(content) if trainer.mode == "auto" else trainer.mode


def mode_of(content: dict[str, Any]) -> Any:
    """eager, compile or graph, as the checkpoint's steps were run."""
    return content["environment"].get("mode", "eager")


def digest(net: Module) -> str:
    """SHA-256 over each parameter's name, type, shape and bytes, in order."""
    return digest_of((name, p) for name, p, _ in net.named_param())


def digest_of(named: Iterable[tuple[str, Tensor]]) -> str:
    h = hashlib.sha256()
    for name, p in named:
        value = p.detach().cpu().contiguous()
        h.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        h.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()
