"""The command line: words to a command, errors to one or a few lines and an exit code. Imports torch only to do something.

Each command is declared once, in COMMANDS, with its options; each has an argparse parser of its own, which prints its help and
reads its options. Which words are options is decided here: argparse cannot mix the words and options of a subparser freely.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from trainkit.core import terminal
from trainkit.core.errors import UserError, near


class Option:
    """An option: its names, and the settings that argparse needs to print and read it."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names, self.settings = names, settings
        self.is_switch = settings.get("action") == "store_true"
        self.needs_value = not self.is_switch and settings.get("nargs") != "?"


@dataclass(frozen=True)
class Command:
    """A command: its name, the words it takes (WORDS explains them), what it does, an example, and its own options."""

    name: str
    usage: str
    summary: str
    example: str
    own: tuple[Option, ...] = ()

    @property
    def options(self) -> dict[str, Option]:
        """The command's own options and those of every command, by name."""
        return by_name([*self.own, *COMMON])

    @property
    def words(self) -> list[str]:
        """Its name as the words of a command line."""
        return self.name.split()

    def parser(self) -> Parser:
        """Return a parser of its options. Its positional arguments are for the help alone: `parse` never passes words."""
        p = Parser(
            prog=f"trainkit {self.name}",
            usage=fill(f"trainkit {self.name} {self.usage} [options]", columns() - len("usage: "), subsequent_indent="  "),
            description=f"{self.summary[0].upper()}{self.summary[1:]}.",
            epilog=f"example: trainkit {self.example}",
            formatter_class=partial(argparse.HelpFormatter, width=columns()),
            allow_abbrev=False,
            add_help=False,
        )
        for word in dict.fromkeys(re.findall(r"[^][ ]+", self.usage)):
            if word in WORDS:
                p.add_argument(word, nargs="*", help=WORDS[word])
        for option in (*self.own, *COMMON):
            p.add_argument(*option.names, **option.settings)
        return p


def by_name(options: Iterable[Option]) -> dict[str, Option]:
    """Return options by each of their names."""
    return {name: option for option in options for name in option.names}


def whole_number(text: str) -> int:
    """Return the value of an option as an int; raise ArgumentTypeError with our words, not argparse's, if it is not one."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a whole number (got {text!r})") from None


WORDS = {  # the help of the words in a usage
    "CONF": "a YAML file; several are merged from left to right",
    "RUN": "a run's folder, or one checkpoint file (.pt)",
    "FILE.csv": "predict the rows of this file; default: the run's test data",
    "FILE": "a checkpoint file (.pt)",
    "key=value": "set a key of the configuration: trainer.max_epochs=5 callbacks.tensorboard=null",
}

COMMON = (
    Option("-h", "--help", action="store_true", help="print this help"),
    Option("--debug", action="store_true", help="print the traceback of an error too"),
    Option("--version", action="store_true", help=argparse.SUPPRESS),  # `trainkit --help` has it
)
IMPORT = Option(
    "--import",
    dest="imports",
    action="append",
    default=[],
    type=Path,
    metavar="FILE",
    help="run this Python file first; the configuration may name its classes; repeatable",
)
OF_RUN = (
    Option("--run-dir", type=Path, metavar="DIR", help="the run's folder, in place of RUN"),
    Option(
        "--checkpoint",
        metavar="NAME",
        help="best, last or another file in the run's checkpoints/; default: final if there is one, else last",
    ),
    IMPORT,
)

COMMANDS = {
    command.name: command
    for command in (
        Command(
            "fit",
            "CONF [CONF ...] [key=value ...]",
            "train a network, or continue a run",
            "fit conf/mlp.yaml trainer.max_epochs=20 --run-dir logs/first",
            (
                Option("--run-dir", type=Path, metavar="DIR", help="the run's folder; default: logs/<name of CONF>/<time>"),
                Option(
                    "--resume",
                    nargs="?",
                    const="",
                    metavar="PATH",
                    help="continue the run of this folder or checkpoint file, with its own configuration if there is no CONF;"
                    " without PATH: the newest run of CONF",
                ),
                IMPORT,
            ),
        ),
        Command(
            "validate",
            "RUN [key=value ...]",
            "print a run's metrics on its validation data",
            "validate logs/first --checkpoint best",
            OF_RUN,
        ),
        Command(
            "test",
            "RUN [key=value ...]",
            "print a run's metrics on its test data",
            "test logs/first --checkpoint best",
            OF_RUN,
        ),
        Command(
            "predict",
            "RUN [FILE.csv] [key=value ...]",
            "write a run's predictions as CSV",
            "predict logs/first new.csv --out predictions.csv",
            (
                Option("--out", type=Path, metavar="PATH", help="the file to write; default: RUN/predictions.csv"),
                *OF_RUN,
            ),
        ),
        Command(
            "compare",
            "CONF [CONF ...] [key=value ...]",
            "train several configurations; print a table, draw figures",
            "compare conf/mlp.yaml --grid optimizer.SGD.lr=0.03,0.1,0.3",
            (
                Option(
                    "--grid",
                    action="append",
                    default=[],
                    metavar="KEY=A,B",
                    help="train with each value of this key, and rank the runs by validation; repeatable: all combinations",
                ),
                Option(
                    "--against",
                    metavar="NAME",
                    help="train each network also in another library, from the same weights and batches: torch",
                ),
                Option("--log", action="store_true", help="draw losses and errors on logarithmic axes"),
                Option("--out", type=Path, metavar="DIR", help="the folder to write; default: logs/compare/<time>"),
                IMPORT,
            ),
        ),
        Command(
            "verify-resume",
            "CONF [CONF ...] [key=value ...]",
            "test that a resumed run ends with the same bits",
            "verify-resume conf/mlp.yaml trainer.max_epochs=2 --points 2",
            (
                Option(
                    "--points",
                    type=whole_number,
                    default=5,
                    metavar="N",
                    help="number of random steps to interrupt at, besides a validation, a save and the end of an epoch; takes"
                    " the time of N + 4 runs; default: %(default)s",
                ),
                Option("--keep", action="store_true", help="keep the folders of the runs, to be compared by checkpoint diff"),
                IMPORT,
            ),
        ),
        Command(
            "checkpoint show",
            "FILE",
            "print what a checkpoint file holds",
            "checkpoint show logs/first/checkpoints/last.pt",
        ),
        Command(
            "checkpoint verify",
            "FILE",
            "check that a checkpoint file is complete and valid",
            "checkpoint verify logs/first/checkpoints/last.pt",
        ),
        Command(
            "checkpoint diff",
            "FILE FILE",
            "print what differs between two checkpoint files",
            "checkpoint diff a/checkpoints/last.pt b/checkpoints/last.pt",
        ),
        Command(
            "check",
            "CONF [CONF ...] [key=value ...]",
            "find all errors of a configuration; test its derivatives",
            "check conf/mlp.yaml --import my_layers.py",
            (IMPORT,),
        ),
        Command(
            "show",
            "CONF [CONF ...] [key=value ...]",
            "print layers, shapes, costs, hooks and the learning rate",
            "show conf/mlp.yaml trainer.replicas=10",
            (IMPORT,),
        ),
    )
}
OPTIONS = {name: option for command in COMMANDS.values() for name, option in command.options.items()}
FIRST_WORDS = tuple(dict.fromkeys(command.words[0] for command in COMMANDS.values()))
EXIT_CODES = (
    "exit codes: 0 done; 1 failed, or a check found a difference; 2 mistake in the command line, the configuration or a file;"
    " 3 non-finite values (terminate_on_nan); 130 SIGINT; 143 SIGTERM"
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError in place of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('trainkit ')}: {message.removeprefix('argument ')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    terminal.prepare()
    try:
        code = run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        terminal.hush(sys.stdout)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if interrupted(error):
            return 130
        if "--debug" in argv:
            terminal.say(traceback.format_exc().rstrip())
        return terminal.report_error(error)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            terminal.hush(sys.stderr)


def interrupted(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt caused an error: a library that was cleaning up may have raised another one."""
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

    If the help or the version is asked for, `text` is what to print, and there is nothing else; otherwise it is empty.
    Raises UserError.
    """
    if any("\0" in word for word in argv):
        raise UserError("an argument contains a NUL character; remove it")
    words, options = split_argv(argv)
    names = [option.partition("=")[0] for option in options]
    if words[:1] == ["help"]:
        words, names = words[1:], [*names, "--help"]
    wants_help = "--help" in names or "-h" in names
    command = next((c for c in COMMANDS.values() if words[: len(c.words)] == c.words), None)
    for name in names:
        check_option(name, command)
    if "--version" in names:
        return argparse.Namespace(text=f"trainkit {version()}\n")
    if command is None:
        check_group(words, names, wants_help)
        return argparse.Namespace(text=overview(" ".join(words)))
    if wants_help:
        return argparse.Namespace(text=command.parser().format_help())
    for option in options:
        check_value(option)
    args = command.parser().parse_args(options)
    rest = words[len(command.words) :]
    args.overrides = [w for w in rest if "=" in w and not exists(w)]
    args.paths = [Path(w) for w in rest if w not in args.overrides]
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
    """Whether a word begins with a hyphen, and is neither `-` nor a negative number."""
    return len(word) > 1 and word[0] == "-" and not re.fullmatch(r"-\d*\.?\d+", word)


def is_path_of_resume(word: str, words: Sequence[str]) -> bool:
    """Whether the word after `--resume` is its PATH: not a CONF, a `key=value` or, if `words` has none yet, the command."""
    if word.endswith((".yaml", ".yml")) or ("=" in word and not exists(word)):
        return False
    return bool(words) or word not in FIRST_WORDS


def exists(word: str) -> bool:
    """Whether a word is the path of something that exists. A word that is too long or malformed is not."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def check_option(name: str, command: Command | None) -> None:
    """Raise UserError if the command has no such option or, where no command is named, none has it."""
    own, place = (command.options, f"{command.name}: ") if command else (OPTIONS, "")
    if name in own:
        return
    owners = owners_of(name)
    if owners:
        raise UserError(f"{place}no option {name}; {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it")
    raise UserError(f"{place}no option {name!r}{near(name, own)}")


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


def check_group(words: Sequence[str], names: Sequence[str], wants_help: bool) -> None:
    """Raise UserError unless `words`, which name no command, are none or a group (`checkpoint`) whose help is wanted."""
    if not words:
        for name in names:
            if name not in by_name(COMMON):
                raise UserError(f"{name}: no command; {', '.join(owners_of(name))} take it")
        return
    if words[0] not in FIRST_WORDS:
        raise UserError(f"no command {words[0]!r}{near(words[0], FIRST_WORDS)}")
    verbs = [c.words[1] for c in COMMANDS.values() if c.words[0] == words[0]]
    if len(words) > 1:
        raise UserError(f"{words[0]}: no {words[1]!r}{near(words[1], verbs)}")
    if not wants_help:
        raise UserError(f"{words[0]}: needs one of {', '.join(verbs)}; write {words[0]} {verbs[0]} FILE")


def overview(group: str = "") -> str:
    """Return the help of all commands, or of those of a group, with one line each."""
    wrap = partial(fill, width=columns(), subsequent_indent="  ", break_on_hyphens=False)
    commands = [c for c in COMMANDS.values() if c.words[0] == (group or c.words[0])]
    width = max(len(c.name) for c in commands)
    indent = " " * (width + 4)
    rows = [wrap(f"  {c.name:<{width}}  {c.summary}", subsequent_indent=indent) for c in commands]
    if group:
        return "\n".join([f"usage: trainkit {group} COMMAND FILE ...", "", "commands:", *rows, ""])
    lines = [
        wrap("usage: trainkit COMMAND [CONF ... | RUN | FILE ...] [key=value ...] [options]"),
        "",
        wrap("Train small and medium networks: fast, exact, in plain view."),
        "",
        "commands:",
        *rows,
        "",
        wrap("more: trainkit COMMAND --help, trainkit --version"),
        wrap(EXIT_CODES),
        "",
    ]
    return "\n".join(lines)


def columns() -> int:
    """Return the width of the help: the terminal's, but at most 80, since longer lines are hard to read."""
    return max(20, min(80, shutil.get_terminal_size().columns))


def version() -> str:
    from trainkit import __version__

    return __version__
