"""What the bits of a run may depend on besides its state: versions, threads, device, dtype, engine."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from trainkit import __version__

from . import threads

if TYPE_CHECKING:
    from .session import Session


def versions() -> dict[str, str]:
    return {"trainkit": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def environment(session: Session) -> dict[str, Any]:
    """Return the environment of a running session, as a checkpoint holds it."""
    return {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "device": session.device.type,
        "dtype": str(session.dtype).removeprefix("torch."),
        "mode": session.engine,
    }


def changed_conditions(session: Session, content: dict[str, Any]) -> list[str]:
    """Return the differences between a checkpoint's environment and that of a session before its first step, one per line."""
    then = {"mode": "eager", **content["environment"]}
    now = {**environment(session), "mode": resumed_engine(session.settings.engine, content)}
    now["threads"] = threads.chosen(session, content)
    return [
        f"{'engine' if key == 'mode' else key}: {then.get(key)} then, {now[key]} now"
        for key in now
        if then.get(key) != now[key]
    ]


def resumed_engine(configured: str, content: dict[str, Any]) -> Any:
    """Return the engine of a resumed run: the configured one, or for auto the checkpoint's if it still exists."""
    if configured != "auto":
        return configured
    return "eager" if (then := engine_of(content)) == "compile" else then


def engine_of(content: dict[str, Any]) -> Any:
    """Return what took the checkpoint's steps: eager, native or graph; compile in a checkpoint of an earlier version."""
    return content["environment"].get("mode", "eager")
