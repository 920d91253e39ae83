"""The command line: parse the arguments, run the command, print an error in a few lines, and return the exit code.

torch is imported only if a command runs. The commands and their options are declared in `options.py`; each has an argparse
parser of its own. The options are separated from the other words here, since argparse's subparsers do not accept options and
words in any order.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from trainkit.core import terminal
from trainkit.core.errors import UserError, suggest
from trainkit.core.files import path_of

from .options import (
    COMMANDS,
    COMMON,
    FIRST_WORDS,
    OPTIONS,
    Command,
    by_name,
    overview,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    terminal.prepare()
    try:
        code = run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        terminal.silence(sys.stdout)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if interrupted(error):
            return 130
        if "--debug" in argv:
            terminal.print_stderr(traceback.format_exc().rstrip())
        return terminal.report_error(error)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            terminal.silence(sys.stderr)


def interrupted(error: BaseException | None) -> bool:
    """Return whether a KeyboardInterrupt caused an error. A library that cleans up may raise another error after it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def run(argv: Sequence[str]) -> int:
    """Run the command, or print the help or the version; return the exit code."""
    args = parse(argv)
    if args.text:
        print(args.text, end="", flush=True)  # argparse would not report a full disk
        return 0
    if "" not in sys.path and str(Path.cwd()) not in sys.path and getattr(args, "imports", []):
        sys.path.insert(0, str(Path.cwd()))
    commands = import_module(".commands", __package__)
    return int(getattr(commands, args.function)(args))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the command's options as attributes, its `paths` and `overrides`, and its `function` of commands.py.

    If the help or the version is requested, `text` is what to print, and no other attribute is set. Otherwise it is empty.
    Raises UserError.
    """
    if any("\0" in word for word in argv):
        raise UserError("an argument contains a NUL character; remove it")
    words, options = split_argv(argv)
    names = [option.partition("=")[0] for option in options]
    if words[:1] == ["help"]:
        words, names = words[1:], [*names, "--help"]
    help_requested = "--help" in names or "-h" in names
    command = next((c for c in COMMANDS.values() if words[: len(c.words)] == c.words), None)
    for name in names:
        check_option(name, command)
    if "--version" in names:
        return argparse.Namespace(text=f"trainkit {version()}\n")
    if command is None:
        check_group(words, names, help_requested)
        return argparse.Namespace(text=overview(" ".join(words)))
    if help_requested:
        return argparse.Namespace(text=command.parser().format_help())
    for option in options:
        check_value(option)
    args = command.parser().parse_args(options)
    rest = words[len(command.words) :]
    args.overrides = [w for w in rest if "=" in w and not exists(w)]
    args.paths = [path_of(w) for w in rest if w not in args.overrides]
    args.function = re.sub("[- ]", "_", command.name)
    args.text = ""
    return args


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words and the options of a command line, an option with its value as `--name=value`.

    The value may be the next word. Everything after `--` is a word.
    """
    words: list[str] = []
    options: list[str] = []
    rest = deque(argv)
    while rest:
        word = rest.popleft()
        if word == "--":
            return [*words, *rest], options
        if not is_option(word):
            words.append(word)
            continue
        option = OPTIONS.get(word)  # None if it is unknown or has the form `--name=value`
        if (
            option
            and not option.is_switch
            and rest
            and not is_option(rest[0])
            and (option.needs_value or is_path_of_resume(rest[0], words))
        ):
            word = f"{word}={rest.popleft()}"
        options.append(word)
    return words, options


def is_option(word: str) -> bool:
    """Return whether a word begins with a hyphen, and is neither `-` nor a negative number."""
    return len(word) > 1 and word[0] == "-" and not re.fullmatch(r"-\d*\.?\d+", word)


def is_path_of_resume(word: str, words: Sequence[str]) -> bool:
    """Return whether the word after `--resume` is its PATH: not a CONF, a `key=value` or, if `words` is empty, the command."""
    if word.endswith((".yaml", ".yml")) or ("=" in word and not exists(word)):
        return False
    return bool(words) or word not in FIRST_WORDS


def exists(word: str) -> bool:
    """Return whether a word is the path of something that exists. A word that is too long or malformed is not."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def check_option(name: str, command: Command | None) -> None:
    """Raise UserError if the command has no such option or, without a command, no command has it."""
    own, place = (command.options, f"{command.name}: ") if command else (OPTIONS, "")
    if name in own:
        return
    owners = owners_of(name)
    if owners:
        raise UserError(f"{place}no option {name}; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it")
    raise UserError(f"{place}no option {name!r}{suggest(name, own)}")


def owners_of(name: str) -> list[str]:
    """Return the names of the commands that have an option."""
    return [c.name for c in COMMANDS.values() if name in c.options]


def check_value(text: str) -> None:
    """Raise UserError if an option, `--name` or `--name=value`, has no value but needs one, or has one but takes none."""
    name, has_value, value = text.partition("=")
    option = OPTIONS[name]
    if option.needs_value and not has_value:
        raise UserError(f"{name}: no value; write {name} {option.settings['metavar']}")
    if option.is_switch and has_value:
        raise UserError(f"{name}: takes no value (got {value!r})")


def check_group(words: Sequence[str], names: Sequence[str], help_requested: bool) -> None:
    """Raise UserError unless `words`, which name no command, are empty or a group (`checkpoint`) with --help."""
    if not words:
        for name in names:
            if name not in by_name(COMMON):
                raise UserError(f"{name}: no command; {', '.join(owners_of(name))} take it")
        return
    if words[0] not in FIRST_WORDS:
        raise UserError(f"no command {words[0]!r}{suggest(words[0], FIRST_WORDS)}")
    verbs = [c.words[1] for c in COMMANDS.values() if c.words[0] == words[0]]
    if len(words) > 1:
        raise UserError(f"{words[0]}: no {words[1]!r}{suggest(words[1], verbs)}")
    if not help_requested:
        raise UserError(f"{words[0]}: needs one of {', '.join(verbs)}; write {words[0]} {verbs[0]} FILE")


def version() -> str:
    """Return the version of trainkit, which is imported only now."""
    from trainkit import __version__

    return __version__
