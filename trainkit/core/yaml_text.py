"""Write plain values as YAML text, for a configuration made from Python objects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NEED_QUOTES = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # YAML does not read these words as text


def to_yaml(value: Mapping[str, Any]) -> str:
    """Return a mapping as YAML with one line per key, also in its mappings and lists; deeper values are in one line."""
    lines = []
    for key, v in value.items():
        if isinstance(v, Mapping) and v:
            lines += [f"{_text(key)}:", *(f"  {_text(k)}: {inline(x)}" for k, x in v.items())]
        elif isinstance(v, list) and any(isinstance(x, (list, Mapping)) for x in v):
            lines += [f"{_text(key)}:", *(f"  - {inline(x)}" for x in v)]
        else:
            lines.append(f"{_text(key)}: {inline(v)}")
    return "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    """Return a value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(k)}: {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        text = repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")  # YAML reads 1e-05 as text
    return _text(value) if isinstance(value, str) else str(value)


def _text(text: str) -> str:
    return text if WORD.fullmatch(text) and text.lower() not in NEED_QUOTES else json.dumps(text)
