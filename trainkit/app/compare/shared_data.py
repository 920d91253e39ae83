"""The data of several trials: those of the same data share one dataset, so that it is read once."""

from __future__ import annotations

from typing import Any

from trainkit.app.config.build import Parts, build
from trainkit.core.yaml_text import inline
from trainkit.data.dataset import Dataset
from trainkit.data.sizes import Sizes


class SharedData:
    """Builds configurations and reads their data: it keeps the dataset that was read last, and the sizes of each.

    Configurations have the same data if `data` and `seed` are equal: a user's own source may draw random numbers.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, Sizes] = {}
        self._last: tuple[str, Dataset] | None = None

    def build(self, config: dict[str, Any]) -> Parts:
        """Return the parts of a configuration. The data is read only for sizes that are `auto` and not known yet."""
        key = _key(config)
        parts = build(config, sizes=self._sizes.get(key))
        if parts.sizes is not None and key not in self._sizes:
            self._sizes[key] = parts.sizes
            self._last = None  # frees it before the next one is kept
            self._last = key, parts.data()  # read by `build`
        return parts

    def read(self, config: dict[str, Any], parts: Parts) -> Dataset:
        """Return the data of a configuration, whose `parts` read it if it is not the data that was read last."""
        key = _key(config)
        if self._last is None or self._last[0] != key:
            self._last = None  # frees it before the next one is read
            self._last = key, parts.data()
        return self._last[1]


def _key(config: dict[str, Any]) -> str:
    return inline([config.get("seed", 0), config.get("data")])
