"""The commands. Each is declared once, in COMMANDS, with its usage, its options and its help."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from typing import Any, NoReturn

from trainkit.core.errors import UserError
from trainkit.core.files import path_of


class Option:
    """An option: its names, and the settings that argparse needs to print and read it."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names, self.settings = names, settings
        self.is_switch = settings.get("action") == "store_true"
        self.needs_value = not self.is_switch and settings.get("nargs") != "?"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError in place of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('trainkit ')}: {message.removeprefix('argument ')}")


@dataclass(frozen=True)
class Command:
    """A command: its name, its arguments (explained in WORDS), what it does, an example, and its own options."""

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
        """Return a parser of its options. The positional arguments appear in the help only; `main.parse` reads them."""
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
                p.add_argument(word, nargs="*", help=WORDS.get(f"{self.name} {word}", WORDS[word]))
        for option in (*self.own, *COMMON):
            p.add_argument(*option.names, **option.settings)
        return p


def by_name(options: Iterable[Option]) -> dict[str, Option]:
    """Return options by each of their names."""
    return {name: option for option in options for name in option.names}


def whole_number(text: str) -> int:
    """Return the value of an option as an int. Raises ArgumentTypeError, with our message in place of argparse's."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a whole number (got {text!r})") from None


WORDS = {  # the arguments of a usage, with their help; an entry with a command's name is for that command
    "CONF": "a YAML file; several are merged from left to right",
    "compare CONF": "a YAML file; each file is one configuration to compare",
    "RUN": "a run's folder, or one checkpoint file (.pt)",
    "FILE.csv": "predict the rows of this file; default: the run's test data",
    "FILE": "a checkpoint file (.pt)",
    "key=value": "set a key of the configuration: trainer.max_epochs=5 callbacks.tensorboard=null",
}


COMMON = (
    Option("-h", "--help", action="store_true", help="print this help"),
    Option("--debug", action="store_true", help="also print the traceback of an error"),
    Option("--version", action="store_true", help=argparse.SUPPRESS),  # listed by `trainkit --help`
)


IMPORT = Option(
    "--import",
    dest="imports",
    action="append",
    default=[],
    type=path_of,
    metavar="FILE",
    help="run this Python file first; the configuration may name its classes; repeatable",
)


OF_RUN = (
    Option("--run-dir", type=path_of, metavar="DIR", help="the run's folder, in place of RUN"),
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
                Option("--run-dir", type=path_of, metavar="DIR", help="the run's folder; default: logs/<name of CONF>/<time>"),
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
                Option("--out", type=path_of, metavar="PATH", help="the file to write; default: RUN/predictions.csv"),
                Option(
                    "--replica",
                    metavar="N",
                    help="predict with this replica, from 0, or with each (all); default: their mean",
                ),
                Option("--raw", action="store_true", help="write the net's outputs, not probabilities"),
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
                    help="train with each value of this key, and rank the runs by validation; if repeated: all combinations",
                ),
                Option(
                    "--against",
                    metavar="NAME",
                    help="also train each network in this other library (torch), from the same weights over the same batches",
                ),
                Option("--log", action="store_true", help="draw losses and errors on logarithmic axes"),
                Option("--out", type=path_of, metavar="DIR", help="the folder to write; default: logs/compare/<time>"),
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
                    help="number of random steps to interrupt at, besides a validation, a save and the end of an epoch;"
                    " the test takes the time of N + 4 runs; default: %(default)s",
                ),
                Option(
                    "--keep",
                    action="store_true",
                    help="keep the folders of the runs, so that you can compare them with checkpoint diff",
                ),
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
    "exit codes: 0 success; 1 failed, or a check found a difference; 2 mistake in the command line, configuration or a file;"
    " 3 non-finite values (terminate_on_nan); 130 SIGINT; 143 SIGTERM"
)


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
        wrap("Train small and medium neural networks."),
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
