"""The states of all random generators that a pass or a callback may draw from: as plain values, and their restoration."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from trainkit.core.errors import UserError


def random_states(generators: Sequence[torch.Generator], device: torch.device) -> dict[str, Any]:
    """Return the states of all these generators: Python's, torch's, the CUDA devices', and those of the passes."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, torch.tensor(internal), gauss],
        "torch": torch.get_rng_state(),
        "passes": torch.stack([g.get_state() for g in generators]),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_states(generators: Sequence[torch.Generator], device: torch.device, state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    torch.set_rng_state(state["torch"])
    for g, saved in zip(generators, state["passes"], strict=True):
        g.set_state(saved.clone())  # a copy: for a row of a tensor torch reads the wrong memory, or crashes
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state_all(state["cuda"])


def check_random_states(device: torch.device, state: dict[str, Any]) -> None:
    """Raise UserError for random states that cannot be set here, before one of them is set."""
    version, internal, gauss = state["python"]
    try:
        random.Random().setstate((version, tuple(internal.tolist()), gauss))
        torch.Generator().set_state(state["torch"])
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            "resume: the checkpoint's random state cannot be set; resume from another checkpoint of the run"
        ) from error
    cuda = state.get("cuda", []) if device.type == "cuda" else []
    if len(cuda) > torch.cuda.device_count():
        raise UserError(f"resume: the checkpoint has {len(cuda)} CUDA devices, this machine has {torch.cuda.device_count()}")
    try:
        for saved in [*state["passes"], *cuda]:
            torch.Generator(device).set_state(saved.clone())
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"resume: the checkpoint's random state is of another type of device than {device}; resume on that type"
        ) from error
