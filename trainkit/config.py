"""Configurations: YAML files merged left to right, then `key=value` overrides; bounded, and resolved without resolvers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .errors import UserError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 20_000

DEFAULT_CALLBACKS = {"checkpoint": {}, "csv_log": {}, "tensorboard": {}, "progress_bar": {}}


def compose(files: Sequence[Path], overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of `files` and `overrides`, unresolved. Without a `callbacks` key it has the default ones."""
    config = OmegaConf.create({})
    for path in files:
        config.merge_with(_read(path))
    if "callbacks" not in config:
        config.callbacks = DEFAULT_CALLBACKS
    for text in overrides:
        override(config, text)
    return config


def override(config: DictConfig, text: str) -> None:
    """Set what `key=value` says: `trainer.max_epochs=5`, `model[1].Dropout.p=0.2`. Raises UserError."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.\[\]/-]+", key):
        raise UserError(f"{text!r}: no override; write key=value, trainer.max_epochs=5")
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=False)
        OmegaConf.update(config, key, parsed["value"], merge=False, force_add=True)  # type: ignore[index, call-overload]
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{text!r}: {_line(error)}") from error


def parse(text: str, origin: str) -> DictConfig:
    """One YAML text as a configuration. Raises UserError naming `origin`."""
    if len(text.encode()) > MAX_BYTES:
        raise UserError(f"{origin}: over {MAX_BYTES >> 20} MiB; a configuration is small")
    try:
        config = OmegaConf.create(text)
    except RecursionError:
        raise UserError(f"{origin}: nested too deep; at most {MAX_DEPTH} levels") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise UserError(f"{origin}{where}: no valid YAML, {getattr(error, 'problem', None) or _line(error)}") from error
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{origin}: no valid configuration, {_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(
            f"{origin}: a {type(config).__name__.removesuffix('Config').lower()}; needs keys like data, model, loss, optimizer"
        )
    return config


def _read(path: Path) -> DictConfig:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: over {MAX_BYTES >> 20} MiB; a configuration is small")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read, {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return parse(text, str(path))


_REFERENCE = re.compile(r"\$\{([\w.\[\]-]+)\}")


def resolve(config: DictConfig) -> dict[str, Any]:
    """Plain values, with each `${a.b}` replaced by what stands at a.b.

    A reference is a whole value and names a key: no resolvers (`${oc.env:HOME}` would carry secrets into logs), no text around it,
    at most 50 deep and 20,000 values. Raises UserError.
    """
    root = OmegaConf.to_container(config, resolve=False)
    nodes = 0

    def plain(value: Any, place: str, depth: int) -> Any:
        nonlocal nodes
        nodes += 1
        if depth > MAX_DEPTH:
            raise UserError(f"{place}: nested or referring to itself more than {MAX_DEPTH} levels deep")
        if nodes > MAX_NODES:
            raise UserError(f"{place}: the configuration has over {MAX_NODES} values")
        if isinstance(value, dict):
            return {str(k): plain(v, f"{place}.{k}" if place else str(k), depth + 1) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v, f"{place}[{i}]", depth + 1) for i, v in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            match = _REFERENCE.fullmatch(value)
            if match is None:
                raise UserError(
                    f"{place}: {value[:60]!r}; a reference is a whole value and names a key, ${{trainer.max_epochs}}; resolvers are off"
                )
            return plain(look_up(match[1], place), place, depth + 1)
        if value == "???":
            raise UserError(f"{place}: has no value yet; give it on the command line, {place}=...")
        return value

    def look_up(key: str, place: str) -> Any:
        here: Any = root
        for part in re.split(r"[.\[\]]+", key.rstrip("]")):
            try:
                here = here[int(part)] if isinstance(here, list) else here[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UserError(f"{place}: ${{{key}}} names no key of the configuration") from None
        return here

    result = plain(root, "", 0)
    assert isinstance(result, dict)
    return result


def to_yaml(config: DictConfig) -> str:
    """As it is saved: composed, not resolved."""
    return OmegaConf.to_yaml(config, resolve=False)


def diff(then: Any, now: Any, place: str = "") -> list[str]:
    """What two plain configurations say differently, a line each: `trainer.max_epochs: 5 -> 12`."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*then, *now]))
        return [line for k in keys for line in diff(then.get(k), now.get(k), f"{place}.{k}" if place else str(k))]
    return [] if then == now else [f"{place}: {then} -> {now}"]


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
