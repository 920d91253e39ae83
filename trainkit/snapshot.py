"""A run's state as plain values, and back: what a checkpoint holds."""

from __future__ import annotations

import hashlib
import platform
import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from . import __version__
from .checkpoint import FORMAT
from .errors import UserError, UserErrors
from .nn.module import Module

if TYPE_CHECKING:
    from .trainer import Trainer


def take(trainer: Trainer) -> dict[str, Any]:
    """The whole state of a run between two steps."""
    return {
        "format": FORMAT,
        "config": trainer.config,
        "state": asdict(trainer.state),
        "model": trainer.net.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "normalizer": trainer.normalizer.state_dict(),
        "data": {
            "train": len(trainer.data.train),
            "batch": trainer._step_size,
            "classes": None if trainer.data.classes is None else list(trainer.data.classes),
            "schema": trainer.data.schema,
        },
        "callbacks": {name: cb.state_dict() for name, cb in trainer.callbacks.items()},
        "rng": rng(trainer),
        "metrics": {name: list(values) for name, values in trainer.metrics.items()},
        "environment": environment(trainer),
    }


def restore(trainer: Trainer, content: dict[str, Any]) -> None:
    """Put a checkpoint's state into a prepared trainer, after everything has been found to fit. Random state comes last."""
    state = content["state"]
    replicas = len(state["active"])
    wrong = []
    if replicas != trainer.replicas:
        wrong.append(f"resume: the checkpoint has {replicas} replicas, trainer.replicas is {trainer.replicas}; they must agree")
    else:
        wrong += [f"resume: {m}" for m in trainer.net.mismatches(content["model"])]
        wrong += [f"resume: {m}" for m in trainer.optimizer.mismatches(content["optimizer"])]
    for key, now in (("train", len(trainer.data.train)), ("batch", trainer._step_size)):
        then = content["data"][key]
        if state["batch"] and now != then:
            what = {"train": "training samples", "batch": "samples a step"}[key]
            wrong.append(
                f"resume: the checkpoint stands inside an epoch of {then} {what}, now there are {now}; keep them, or resume from an epoch's end"
            )
    if wrong:
        raise UserErrors(wrong)
    from .trainer import State

    for name, cb in trainer.callbacks.items():  # first, since they may refuse too
        if name in content["callbacks"]:
            cb.load_state_dict(content["callbacks"][name])
    trainer.state = State(**state)
    trainer.net.load_state_dict(content["model"])
    trainer.optimizer.load_state_dict(content["optimizer"])
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
        "passes": [g.get_state() for g in trainer.generators],
    }
    if trainer.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng(trainer: Trainer, state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    torch.set_rng_state(state["torch"])
    for g, saved in zip(trainer.generators, state["passes"], strict=True):
        try:
            g.set_state(saved)
        except RuntimeError:
            raise UserError(
                f"resume: the checkpoint's random state is of another kind of device than {trainer.device}; resume on that kind"
            ) from None
    if "cuda" in state and trainer.device.type == "cuda":
        torch.cuda.set_rng_state_all(state["cuda"])


def environment(trainer: Trainer) -> dict[str, Any]:
    """What bits may depend on beside the state."""
    return {
        "versions": {"trainkit": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "device": trainer.device.type,
        "dtype": str(trainer.dtype).removeprefix("torch."),
    }


def differences(trainer: Trainer, content: dict[str, Any]) -> list[str]:
    """What differs between the environment a checkpoint was made in and this one."""
    then, now = content["environment"], environment(trainer)
    return [f"{key}: {then.get(key)} then, {now[key]} now" for key in now if then.get(key) != now[key]]


def digest(net: Module) -> str:
    """SHA-256 over each parameter's name, type, shape and bytes, in order."""
    h = hashlib.sha256()
    for name, p, _ in net.named_param():
        value = p.detach().cpu().contiguous()
        h.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        h.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()
