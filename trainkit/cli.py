"""The command line: words to a command, errors to one or a few lines and an exit code. Imports torch only to do something."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from .errors import UserError, near

COMMANDS = {
    "fit": "train: fit CONF [CONF ...] [key=value ...]",
    "validate": "evaluate a run on its validation data: validate RUN [key=value ...]",
    "test": "evaluate a run on its test data: test RUN [key=value ...]",
    "predict": "write a run's answers: predict RUN [FILE.csv] [key=value ...]",
    "check": "find all errors of a configuration, and hold each derivative against differences: check CONF",
    "show": "print layers, shapes, costs, hooks and the learning rate over time: show CONF",
}

DESCRIPTION = """trainkit trains small and medium nets over hand-differentiated modules: fast, exactly, in plain view.

commands:
""" + "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())

EPILOG = """CONF is a YAML file; several are merged left to right, then key=value: trainer.max_epochs=5 callbacks.tensorboard=null
RUN is a run's folder or one of its checkpoints. Exit codes: 0 done, 1 failed, 2 a mistake in what was given, 130 and 143 stopped by a signal."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="trainkit",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("words", nargs="*", metavar="COMMAND [CONF | RUN] [key=value]", help=argparse.SUPPRESS)
    p.add_argument("--run-dir", type=Path, metavar="DIR", help="the run's folder (fit); default logs/<conf name>/<time>")
    p.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="continue a run: its folder or a checkpoint; without PATH the newest run of CONF",
    )
    p.add_argument(
        "--checkpoint",
        default="last",
        metavar="NAME",
        help="last, best, or another file in checkpoints/ (validate, test, predict)",
    )
    p.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="run FILE and allow its classes by name",
    )
    p.add_argument("--out", type=Path, metavar="FILE", help="where predict writes; default RUN/predictions.csv")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    p.add_argument("--version", action="store_true", help="print the version")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        return run(words)
    except UserError as error:
        if debug:
            raise
        print("\n".join(f"error: {line}" for line in str(error).split("\n")), file=sys.stderr)
        return error.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's own flush is quiet
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            raise
        print(
            f"error: {error if type(error).__name__ == 'CallbackError' else f'{type(error).__name__}: {error}'}",
            file=sys.stderr,
        )
        print("this is a fault in the code, not in what you gave; --debug shows the traceback", file=sys.stderr)
        return 1


def run(words: list[str]) -> int:
    p = parser()
    args = p.parse_intermixed_args(words)
    if args.version:
        from . import __version__

        print(f"trainkit {__version__}")
        return 0
    if not args.words:
        p.print_help()
        return 0
    command, *rest = args.words
    if command not in COMMANDS:
        raise UserError(f"no command {command!r}{near(command, COMMANDS)}")
    if args.resume and not Path(args.resume).exists() and ("=" in args.resume or args.resume.endswith((".yaml", ".yml"))):
        rest, args.resume = [*rest, args.resume], ""  # it was no path but the next word
    args.overrides = [w for w in rest if "=" in w and not Path(w).exists()]
    args.paths = [Path(w) for w in rest if w not in args.overrides]
    if "" not in sys.path and str(Path.cwd()) not in sys.path and args.imports:
        sys.path.insert(0, str(Path.cwd()))
    commands = import_module(".commands", __package__)
    return int(getattr(commands, command)(args))
