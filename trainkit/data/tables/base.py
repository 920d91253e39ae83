"""A table: rows with named columns, whatever they are read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trainkit.core.errors import UserError, suggest

Kind = Literal["number", "text"]


class Table(ABC):
    """Rows with named columns. `load` says which columns are needed; then `column` returns each as a pyarrow.ChunkedArray.

    name: how messages name the table, a path or `rows`. names: of its columns, in order. unnamed: the number of columns at the
    end without a name, which are not read. default_missing: the texts that count as missing unless the options say otherwise,
    beside the empty text. decimal: the decimal sign of numbers that are texts.
    """

    is_file = True
    name: str
    names: Sequence[str]
    unnamed: int = 0
    default_missing: tuple[str, ...] = ("",)
    decimal: str = "."

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows, after `load`."""

    @abstractmethod
    def load(self, kinds: Mapping[str, Kind | None], missing_values: Sequence[str]) -> None:
        """Make the columns `kinds` ready, as numbers, as texts in their spelling, or as what they seem to be (None)."""

    @abstractmethod
    def column(self, name: str) -> Any:
        """Return a loaded column."""

    @abstractmethod
    def place(self, row: int) -> str:
        """Return `line 7` or `row 5`, where an editor, or the index of a frame, has the row."""

    def spelled(self, names: Sequence[str]) -> None:  # noqa: B027 (a table with types has nothing to do)
        """Make loaded columns texts as they are written, where reading them as numbers has lost the spelling."""

    def release(self) -> None:  # noqa: B027 (a table that the caller gave stays)
        """Forget the columns, once the tensors have been made."""

    def require(self, name: str, why: str) -> None:
        """Raise UserError if there is no column `name`, or more than one."""
        if (count := list(self.names).count(name)) > 1:
            raise UserError(f"{self.name}: {count} columns are named {name!r}; give each a name of its own")
        if not count:
            raise UserError(f"{why.format(name=name, table=self.name)}{suggest(name, self.names)}")
