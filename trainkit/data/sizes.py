"""The sizes that data gives to a net: what `auto` means in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .dataset import Dataset


@dataclass(frozen=True)
class Sizes:
    """features: the shape of a sample. outputs: the number of classes or targets, None if a target has several axes.

    categories: the number of categories of each column, 0 for a number; () if no column holds codes.
    """

    features: tuple[int, ...]
    outputs: int | None
    categories: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: Dataset) -> Self:
        """Return the sizes of a dataset. Class indices need an output per class, other targets one per number."""
        t = data.train.t
        outputs = len(data.classes or ()) if not t.is_floating_point() else t.shape[1] if t.dim() == 2 else None
        return cls(tuple(data.train.x.shape[1:]), outputs, data.categories)

    @classmethod
    def saved(cls, state: Mapping[str, Any] | None) -> Self | None:
        """Return the sizes in a checkpoint; None if it holds none."""
        return None if state is None else cls(tuple(state["features"]), state["outputs"], tuple(state["categories"]))

    def state_dict(self) -> dict[str, Any]:
        return {"features": list(self.features), "outputs": self.outputs, "categories": list(self.categories)}
