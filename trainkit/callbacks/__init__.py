"""The callbacks that come with trainkit: `from trainkit.callbacks import EarlyStopping`.

Each has a file in `callbacks/` at the top of the repository. A wheel holds these files in this folder. A checkout, and an
editable install of it, find them two levels up. In both cases they are modules of this package, so each class exists once.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainkit.trainer.callback import Callback

TABLE = {
    "csv_logger": "CSVLogger",
    "checkpoint": "Checkpoint",
    "early_stopping": "EarlyStopping",
    "gradient_norms": "GradientNorms",
    "lr_scheduler": "LRScheduler",
    "progress_bar": "ProgressBar",
    "tensorboard": "TensorBoard",
    "terminate_on_nan": "TerminateOnNaN",
    "timer": "Timer",
    "validation_split": "ValidationSplit",
}
_FILES = {cls: name for name, cls in TABLE.items()}
__all__ = sorted(_FILES)

_here = Path(__file__).parent
if not (_here / "early_stopping.py").exists():
    __path__.append(str(_here.parents[1] / "callbacks"))


def __getattr__(name: str) -> type[Callback]:
    if name not in _FILES:
        raise AttributeError(f"module 'trainkit.callbacks' has no attribute {name!r}")
    value: Any = getattr(import_module(f".{_FILES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
