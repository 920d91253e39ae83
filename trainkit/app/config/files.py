"""Configurations: YAML files merged left to right, then `key=value` overrides. Their size is bounded, and resolvers are off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from yaml import (
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    ScalarToken,
    SequenceEndEvent,
    SequenceStartEvent,
    YAMLError,
)

from trainkit.core.errors import UserError
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import short_repr

from .registry import TABLE, callback_entry, check_callback

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 20_000
MAX_REFERENCES = 1_000  # per file
MAX_REFERENCE = 500  # characters of one
MAX_BITS = 14_000  # about 4,200 digits: Python converts no larger integer to text
READER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

DEFAULT_CALLBACKS = ("checkpoint", "csv_logger", "tensorboard", "progress_bar")


def compose(files: Sequence[Path], overrides: Sequence[str] = (), is_complete: bool = False) -> DictConfig:
    """Return the configuration of `files` and `overrides`, unresolved, with the default callbacks that `files` do not mention.

    A file leaves a default callback out by `tensorboard: null`, and all of them by `callbacks: null`.
    is_complete: the files are a run's own configuration, which has all of its callbacks.
    """
    config = OmegaConf.create({})
    for path in files:
        read = _read(path)
        if not is_complete:
            _print_nulls(read, config, path)
        config.merge_with(read)
    if not is_complete:
        _add_default_callbacks(config)
    for text in overrides:
        override(config, text)
    return config


def _add_default_callbacks(config: DictConfig) -> None:
    """Add each default callback, after those of the configuration, that has no entry of its name or class there."""
    given = OmegaConf.to_container(config, resolve=False).get("callbacks", {})  # type: ignore[union-attr]
    if isinstance(given, dict):
        classes = {callback_entry(str(name), value)[0] for name, value in given.items()}
        default: dict[str, dict[str, Any]] = {
            name: {} for name in DEFAULT_CALLBACKS if name not in given and TABLE[name] not in classes
        }
        config.callbacks = {**given, **default}


def _print_nulls(read: DictConfig, before: DictConfig, path: Path) -> None:
    """Print which callbacks a bare key leaves out. (A bare `Adam:` means its defaults.) Null that removes one is meant.

    Raises UserError if there is no callback of that name.
    """
    own, earlier = (OmegaConf.to_container(c, resolve=False).get("callbacks") or {} for c in (read, before))  # type: ignore[union-attr]
    for name, value in own.items() if isinstance(own, dict) else ():
        if value is None and name not in earlier and name not in DEFAULT_CALLBACKS:
            check_callback(str(name), f"{path}: callbacks.{name}")
            print_stderr(f"{path}: callbacks.{name} is null, which leaves it out; write {{}} for its defaults")


def override(config: DictConfig, text: str) -> None:
    """Apply an override `key=value`, such as `trainer.max_epochs=5` or `model[1].Dropout.p=0.2`. Raises UserError."""
    key, equals, value = text.partition("=")
    if key.split(".")[:2] == ["callbacks", EARLIER_NAME]:
        print_stderr(f"{short_repr(key, '')}: callbacks.{EARLIER_NAME} was renamed; write callbacks.csv_logger")
        key = key.replace(EARLIER_NAME, "csv_logger", 1)
    if not equals or not re.fullmatch(r"[\w.\[\]/-]+", key) or not all(re.split(r"[.\[\]]+", key.rstrip("]"))):
        raise UserError(
            f"{short_repr(text)}: is not an override; write key=value, trainer.max_epochs=5 or model[1].Dropout.p=0.2"
        )
    if len(text) > MAX_BYTES:
        raise UserError(f"{short_repr(text)}: over {MAX_BYTES >> 20} MiB; write long values into a file")
    try:
        _check_size(value, short_repr(text))
        _refuse_other_bases(value, short_repr(text))
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=False)
        _check_callback(config, key.split("."), parsed["value"])
        OmegaConf.update(config, key, parsed["value"], merge=False, force_add=True)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{short_repr(text)}: nested too deep; at most {MAX_DEPTH} levels") from None
    except IndexError:
        raise UserError(f"{short_repr(text)}: the list has no such entry; the first is [0]") from None
    except Exception as error:
        raise UserError(f"{short_repr(text)}: {_explain(error)}") from error


def _check_callback(config: DictConfig, key: list[str], value: Any) -> None:
    """Raise UserError where an override sets an argument of a callback that does not exist, or leaves one out."""
    if key[0] != "callbacks" or len(key) < 2 or key[1] in (config.get("callbacks") or ()):
        return
    if value is None or len(key) > 2:
        check_callback(key[1], f"callbacks.{key[1]}", "".join(key[2:3]))


def parse(text: str, origin: str) -> DictConfig:
    """Return one YAML text as a configuration. Raises UserError naming `origin`."""
    if len(text.encode()) > MAX_BYTES:
        raise UserError(f"{origin}: over {MAX_BYTES >> 20} MiB; a configuration is small")
    try:
        _check_size(text, origin)
        _refuse_other_bases(text, origin)
        config = OmegaConf.create(text)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{origin}: nested too deep; at most {MAX_DEPTH} levels") from None
    except AssertionError:
        raise UserError(f"{origin}: holds one value; {NEEDED}") from None
    except Exception as error:  # raised by the YAML reader, by OmegaConf, or in their calls
        mark = getattr(error, "problem_mark", None) if isinstance(error, YAMLError) else None
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise UserError(f"{origin}{where}: {_explain(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{origin}: holds a list; {NEEDED}")
    if set(config) == {text.strip()}:
        raise UserError(f"{origin}: holds one value; {NEEDED}")
    callbacks = OmegaConf.to_container(config, resolve=False).get("callbacks")  # type: ignore[union-attr]
    if isinstance(callbacks, dict) and EARLIER_NAME in callbacks and "csv_logger" not in callbacks:
        print_stderr(f"{origin}: callbacks.{EARLIER_NAME} was renamed; write callbacks.csv_logger")
        config.callbacks = {"csv_logger" if name == EARLIER_NAME else name: value for name, value in callbacks.items()}
    return config


EARLIER_NAME = "csv_log"  # of csv_logger, in configurations and checkpoints of earlier versions
NEEDED = "needs keys: data, model, loss, optimizer, and optionally trainer, callbacks, seed"


def _check_size(text: str, origin: str) -> None:
    """Refuse a text that is nested too deeply or too large, before OmegaConf reads it.

    OmegaConf's reader recurses in C, which can crash the process, and its parser of references takes hours for a long text of
    `${`.
    """
    depth = nodes = references = 0
    for event in yaml.parse(text, Loader=READER):
        depth += isinstance(event, (MappingStartEvent, SequenceStartEvent))
        depth -= isinstance(event, (MappingEndEvent, SequenceEndEvent))
        nodes += isinstance(event, NodeEvent)
        if depth > 2 * MAX_DEPTH:  # up to this depth `resolve` reports the place
            raise UserError(f"{origin}: nested too deep; at most {MAX_DEPTH} levels")
        if nodes > 2 * MAX_NODES:  # a key counts as a node
            raise UserError(f"{origin}: over {MAX_NODES:,} values; a configuration is small")
        if isinstance(event, ScalarEvent) and "${" in event.value:
            references += 1
            if references > MAX_REFERENCES or len(event.value) > MAX_REFERENCE or event.value.count("${") > 2:
                where = f", line {event.start_mark.line + 1}" if event.start_mark is not None else ""
                raise UserError(f"{origin}{where}: {short_repr(event.value)}; {REFERENCE}")


# Not 01:30, which YAML reads as a text.
BASE_60 = re.compile(r"[-+]?([1-9][\d_]*(:[0-5]?\d)+|\d[\d_]*(:[0-5]?\d)+\.[\d_]*)")


BASE_8 = re.compile(r"[-+]?0[0-9_]+")


def _refuse_other_bases(text: str, origin: str) -> None:
    """Refuse an unquoted 12:30, which YAML reads as 750, and 010, which it reads as 8 (and 08, which it reads as a text)."""
    if not re.search(r"\d:[0-5]?\d|\b0\d", text):
        return
    for token in yaml.scan(text, Loader=READER):
        if not (isinstance(token, ScalarToken) and token.plain):
            continue
        where = f"{origin}, line {token.start_mark.line + 1}" if "\n" in text else origin
        if BASE_60.fullmatch(token.value):
            raise UserError(f"{where}: {short_repr(token.value, '')} is a number in base 60 in YAML; put it in quotes")
        if BASE_8.fullmatch(token.value):
            decimal = re.sub(r"0[0_]*(?=\d)", "", token.value, count=1)
            raise UserError(f"{where}: {token.value} is not a decimal number in YAML; write {decimal}, or put it in quotes")


def _read(path: Path) -> DictConfig:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)  # bounded, since a device may never end
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: over {MAX_BYTES >> 20} MiB; a configuration is small")
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a YAML file, for example conf/mlp.yaml") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read, {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    config = parse(text, str(path))
    if not config:
        raise UserError(f"{path}: empty; {NEEDED}")
    return config


REFERENCE = "a reference is a whole value and names a key, ${trainer.max_epochs}; resolvers are off"
_REFERENCE = re.compile(r"\$\{([\w.\[\]-]+)\}")


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return plain values, with each `${a.b}` replaced by the value of a.b.

    A reference is a whole value and names a key. Resolvers are off (`${oc.env:HOME}` could write secrets into logs), and so is
    text around a reference. The result has at most MAX_DEPTH levels and MAX_NODES values. Raises UserError otherwise.
    """
    root = OmegaConf.to_container(config, resolve=False)
    nodes = 0

    def resolved(value: Any, place: str, depth: int, followed: tuple[str, ...] = ()) -> Any:
        nonlocal nodes
        nodes += 1
        if depth > MAX_DEPTH:
            raise UserError(
                f"{short_repr(place, '')}: nested more than {MAX_DEPTH} levels deep after following references; flatten it"
            )
        if nodes > MAX_NODES:
            raise UserError(
                f"{short_repr(place, '')}: over {MAX_NODES:,} values after following references; a configuration is small"
            )
        if isinstance(value, dict):
            return {str(k): resolved(v, f"{place}.{k}" if place else str(k), depth + 1, followed) for k, v in value.items()}
        if isinstance(value, list):
            return [resolved(v, f"{place}[{i}]", depth + 1, followed) for i, v in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            match = _REFERENCE.fullmatch(value)
            if match is None:
                raise UserError(f"{place}: {short_repr(value)}; {REFERENCE}")
            if match[1] in followed:
                raise UserError(f"{place}: ${{{' -> '.join((*followed, match[1]))}}} refers to itself")
            return resolved(value_at(match[1], place), place, depth + 1, (*followed, match[1]))
        if type(value) is int and value.bit_length() > MAX_BITS:
            raise UserError(f"{place}: {short_repr(value)}; a number has at most {MAX_BITS:,} bits")
        if value == "???":
            raise UserError(f"{place}: has no value yet; give it on the command line, {place}=...")
        return value

    def value_at(key: str, place: str) -> Any:
        found: Any = root
        for part in re.split(r"[.\[\]]+", key.rstrip("]")):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UserError(f"{place}: ${{{short_repr(key, '')}}} is not a key of the configuration") from None
        return found

    result = resolved(root, "", 0)
    assert isinstance(result, dict)
    return result


def to_yaml(config: DictConfig) -> str:
    """Return the configuration as it is saved: composed, not resolved."""
    return OmegaConf.to_yaml(config, resolve=False)


def diff(then: Any, now: Any, place: str = "") -> list[str]:
    """Return the differences of two plain configurations, one line each: `trainer.max_epochs: 5 -> 12`."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*then, *now]))
        return [line for k in keys for line in diff(then.get(k), now.get(k), f"{place}.{k}" if place else str(k))]
    return [] if then == now else [f"{place}: {then} -> {now}"]


def _explain(error: Exception) -> str:
    """Return an error of the YAML reader or of OmegaConf as a message for the user."""
    text = str(getattr(error, "problem", None) or error).strip().split("\n", 1)[0] or type(error).__name__
    if "node expansion exceeds" in text:
        return "over 10,000 values after expanding aliases (&, *); a configuration is small, write the values out"
    if "for the tag" in text:
        tag = text.split("'")[1].replace("tag:yaml.org,2002:", "!!")
        return f"{short_repr(tag, '')} is not allowed; a configuration has plain values only"
    if "cannot start any token" in text:
        return "a tab, or a character that must be quoted; indent by spaces"
    if "another document" in text:
        return "a second document begins here; one file is one configuration"
    if type(error).__name__ == "GrammarParseError":
        return f"{text}; {REFERENCE}"
    return f"is not valid YAML, {text}" if isinstance(error, YAMLError) else f"is not a valid configuration, {text}"


def in_one_line(text: str) -> str:
    """Summarize the experiment in one line: `seed 0, data disk, loss CrossEntropyLoss, optimizer SGD`."""
    if not text:
        return "none, the run was started from Python"
    try:
        config = resolve(parse(text, "the configuration"))
    except UserError as error:
        return f"cannot be read, {error}"
    named = {k: next(iter(v), "") if isinstance(v, dict) else v for k, v in config.items() if k in ("loss", "optimizer")}
    data = config.get("data")
    named = {"seed": config.get("seed", 0), "data": data.get("name") if isinstance(data, dict) else data, **named}
    return ", ".join(f"{k} {short_repr(v, '')}" for k, v in named.items())


def unresolved(composed: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, with its references unresolved."""
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    return dict(plain)
