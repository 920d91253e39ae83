"""The device of a run."""

from __future__ import annotations

import torch

from trainkit.core.errors import UserError


def find_device(name: str) -> torch.device:
    """Return the device `name`; auto is cuda where there is one. Raises UserError for a device that is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"trainer.device: {name!r}; choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"trainer.device: {name!r}; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise UserError(
            f"trainer.device: {name!r} is not available ({torch.cuda.device_count()} CUDA devices); choose auto or cpu"
        )
    return device
