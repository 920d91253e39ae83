"""File names from a template with fields, `epoch{epoch}-{val/loss:.3f}`, and the test whether a name comes from it."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Callable, Container

from trainkit.core.errors import UserError
from trainkit.core.files import plain_name

SUFFIX = ".pt"
MAX_NAME_BYTES = 200  # most file systems allow 255; a temporary's prefix and the step need the rest
_SPEC = re.compile(r"0?\d{0,2}(\.\d{1,2})?[deEfFgG]?")
_WHOLE = r" *+-?\d++"
_NUMBER = r" *+-?(?:\d++(?:\.\d++)?+(?:[eE][-+]\d++)?+|inf|nan|INF|NAN)"  # possessive quantifiers: linear time
_SAMPLES = (0.0, 1.0, 12.0, -0.5, 1.5e-7, 1234.5)
COUNTERS = ("epoch", "step")


class Template:
    """Makes and recognizes file names. Fields are epoch, step and metrics; the step is appended to a name that is in use.

    Raises UserError for a template that leads out of the folder, or whose names cannot be recognized.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise self._wrong(str(error)) from None
        pattern = ""
        for literal, field, spec, conversion in parts:
            pattern += re.escape(literal)
            if field is None:
                continue
            if not re.fullmatch(r"[\w/.-]+", field) or not _SPEC.fullmatch(spec or "") or conversion:
                raise self._wrong(f"field {{{field}:{spec}}}; needs names like {{epoch}} or {{val/loss:.3f}}")
            whole = field in COUNTERS and not re.search(r"[.eEfFgG]", spec or "")
            pattern += _WHOLE if whole else _NUMBER
        if parts and not parts[0][0] and parts[0][1] not in COUNTERS:
            raise self._wrong("begins with a metric, so a negative value gives a name that begins with -; begin it with text")
        self.parts = [(literal, field, spec or "") for literal, field, spec, _ in parts]
        self.pattern = re.compile(rf"{pattern}(?:-step\d++)?+{re.escape(SUFFIX)}", re.ASCII)
        for sample in _SAMPLES:
            self._try(sample)

    def make(self, value: Callable[[str], float], taken: Container[str] = ()) -> str:
        """Return the name for the fields' values, with the step appended if the name is in `taken`."""
        text = ""
        for literal, field, spec in self.parts:
            text += literal
            text += "" if field is None else format(value(field), spec)
        return plain_name(f"{text}-step{value('step')}{SUFFIX}" if text + SUFFIX in taken else text + SUFFIX)

    def makes(self, name: str) -> bool:
        """Return whether this template can make `name`."""
        return len(name) <= MAX_NAME_BYTES + 30 and self.pattern.fullmatch(name) is not None

    def _try(self, sample: float) -> None:
        try:
            name = self.make(lambda field: int(max(sample, 0)) if field in COUNTERS else sample)
            size = len(os.fsencode(name))
        except UserError as error:
            raise self._wrong(str(error)) from None
        except ValueError as error:
            raise self._wrong(str(error)) from None
        if size > MAX_NAME_BYTES:
            raise self._wrong(f"makes a name of {size} bytes; needs {MAX_NAME_BYTES} or fewer")
        if not self.makes(name):
            raise self._wrong(f"the numbers in {name!r} cannot be separated; put text without digits between the fields")

    def _wrong(self, why: str) -> UserError:
        return UserError(f"Checkpoint: filename={self.text!r}: {why}")
