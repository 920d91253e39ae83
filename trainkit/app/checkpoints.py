"""Where the checkpoints of a run are, and the configuration that one holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.checkpoint import list_checkpoints
from trainkit.checkpoint.file import FINAL, LAST
from trainkit.core.errors import UserError
from trainkit.core.files import plain_name

from .config.files import override, parse

if TYPE_CHECKING:
    from omegaconf import DictConfig


def checkpoint_file(run: Path, name: str | None = None) -> Path:
    """Return the checkpoint at a path: a .pt file, or in a run's folder the one called `name` (None: the final parameters)."""
    example = "name a run's folder or a checkpoint, logs/mlp/2026-01-31_12-00-00"
    if run.suffix == ".pt":
        return run
    if not run.is_dir():
        what = "is not a .pt file" if run.is_file() else "no such run"
        raise UserError(f"{run}: {what}; {example}")
    chosen = name or (FINAL if (run / "checkpoints" / FINAL).exists() else LAST)
    file = run / "checkpoints" / plain_name(chosen if chosen.endswith(".pt") else f"{chosen}.pt")
    if file.is_symlink():
        raise UserError(f"{file}: is a link and could lead elsewhere; give its target")
    if not file.exists():
        existing = ", ".join(sorted(p.name for p in list_checkpoints(run / "checkpoints")))
        why = existing or "none; the callback Checkpoint() saves the model of a run, trainer.save(PATH) a fitted one"
        raise UserError(f"{file}: no such checkpoint; there are {why}")
    return file


def run_of(file: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to, by its path; else the checkpoint's own folder."""
    folder = file.parent
    if folder.absolute().name != "checkpoints":
        return folder
    return folder.parent if folder.name else Path("..")


def own_config(content: dict[str, Any], origin: Path, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration in a checkpoint, with overrides."""
    if not content["config"]:
        raise UserError(
            f"{origin}: holds no configuration, since the run was started from Python; load it from Python with net and loss"
        )
    composed = parse(content["config"], f"{origin}, its configuration")
    for text in overrides:
        override(composed, text)
    return composed
