"""The command line: words to a command, errors to one or a few lines and an exit code. Imports torch only to do something."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from trainkit.core import terminal
from trainkit.core.errors import UserError, near, refusal, shortage

COMMANDS = {
    "fit": "train: fit CONF [CONF ...] [key=value ...]",
    "validate": "evaluate a run on its validation data: validate RUN [key=value ...]",
    "test": "evaluate a run on its test data: test RUN [key=value ...]",
    "predict": "write a run's answers: predict RUN [FILE.csv] [key=value ...]",
    "compare": "train several side by side, table and figures: compare CONF [CONF ...] [--against torch] [--grid key=a,b]",
    "verify-resume": "prove here that resuming is exact, in the time of points + 4 runs: verify-resume CONF [CONF ...]",
    "checkpoint": "look into checkpoint files: checkpoint show FILE, checkpoint verify FILE, checkpoint diff FILE FILE",
    "check": "find all errors of a configuration, and hold each derivative against differences: check CONF",
    "show": "print layers, shapes, costs, hooks and the learning rate over time: show CONF",
}

VERBS = {"checkpoint": ("show", "verify", "diff")}
RUNS = ("validate", "test", "predict")
OPTIONS: dict[str, tuple[tuple[str, ...], object]] = {  # by option: who takes it, and its value where it is not given
    "run_dir": (("fit", *RUNS), None),
    "resume": (("fit",), None),
    "checkpoint": (RUNS, None),
    "out": (("predict", "compare"), None),
    "against": (("compare",), None),
    "grid": (("compare",), []),
    "log": (("compare",), False),
    "points": (("verify-resume",), None),
    "keep": (("verify-resume",), False),
}

DESCRIPTION = """trainkit trains small and medium nets over hand-differentiated modules: fast, exactly, in plain view.

commands:
""" + "\n".join(f"  {name:<15}{text}" for name, text in COMMANDS.items())

EPILOG = """CONF is a YAML file; several are merged left to right, then key=value:
trainer.max_epochs=5 callbacks.tensorboard=null
RUN is a run's folder or one of its checkpoints.
Exit codes: 0 done, 1 failed, 2 a mistake in what was given, 3 numbers were no longer finite (terminate_on_nan), 130 and 143
stopped by a signal."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are ours."""

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file, flush=True)  # argparse's own says nothing of a full disk

    def error(self, message: str) -> NoReturn:
        options = [o for action in self._actions for o in action.option_strings]
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.endswith("expected one argument"):
            raise UserError(f"{message.split()[1].rstrip(':')}: needs a value behind it; see trainkit --help")
        known = message.startswith("unrecognized") and unknown[0].startswith("-")
        raise UserError(f"no option {unknown[0]!r}{near(unknown[0], options)}" if known else message)


def parser() -> Parser:
    p = Parser(
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
        metavar="NAME",
        help="best, last, or another file in checkpoints/ (validate, test, predict); default: the run's final parameters",
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
    p.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="where predict writes its file, default RUN/predictions.csv, or compare its folder, default logs/compare/<time>",
    )
    p.add_argument(
        "--against", metavar="RIVAL", help="train each replica with this one too, from the same weights: torch (compare)"
    )
    p.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="train every combination and rank them by validation (compare): --grid optimizer.SGD.lr=0.1,0.01 --grid seed=0,1",
    )
    p.add_argument("--log", action="store_true", help="losses and errors on a logarithmic axis (compare)")
    p.add_argument(
        "--points",
        type=int,
        metavar="N",
        help="random steps to interrupt at, default 5, beside a validation, a save and an epoch's end (verify-resume)",
    )
    p.add_argument("--keep", action="store_true", help="keep the folder of the runs, for checkpoint diff (verify-resume)")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    p.add_argument("--version", action="store_true", help="print the version")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    terminal.prepare()
    try:
        code = run(words)
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
        if "--debug" in words:
            terminal.say(traceback.format_exc().rstrip())
        return told(error)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            terminal.hush(sys.stderr)


def interrupted(error: BaseException | None) -> bool:
    """Whether an error came of a KeyboardInterrupt: a library that was cleaning up may have raised it instead."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def told(error: Exception) -> int:
    """Say an error on stderr, a line or a few, and return the exit code."""
    if isinstance(error, UserError):
        lines, code = [f"error: {line}" for line in str(error).split("\n")], error.code
    elif (short := shortage(error)) is not None:
        lines, code = [f"error: {short}: the net, the data, the batch or the replicas"], UserError.code
    elif (why := refusal(error)) is not None:
        lines, code = [f"error: {why}"], UserError.code
    else:
        kind = "" if type(error).__name__ == "CallbackError" else f"{type(error).__name__}: "
        lines = [f"error: {kind}{str(error).split(chr(10))[0]}"]
        lines += ["this is a fault in the code, not in what you gave; --debug shows the traceback"]
        code = 1
    terminal.say(*lines)
    return code


def run(words: list[str]) -> int:
    args = parsed(words)
    if args.version:
        from trainkit import __version__

        print(f"trainkit {__version__}")
        return 0
    if not args.words:
        parser().print_help()
        return 0
    if "" not in sys.path and str(Path.cwd()) not in sys.path and args.imports:
        sys.path.insert(0, str(Path.cwd()))
    commands = import_module(".commands", __package__)
    return int(getattr(commands, args.function)(args))


def parsed(words: list[str]) -> argparse.Namespace:
    """The words as options, `paths`, `overrides`, and the `function` of commands.py that is asked for."""
    if any("\0" in word for word in words):
        raise UserError("a NUL among the words; no path and no value has one")
    args = parser().parse_intermixed_args(bare_resume(words))
    if args.version or not args.words:
        return args
    command, *rest = args.words
    if command not in COMMANDS:
        raise UserError(f"no command {command!r}{near(command, COMMANDS)}")
    for option, (users, unused) in OPTIONS.items():
        if command not in users and getattr(args, option) != unused:
            name = "--" + option.replace("_", "-")
            raise UserError(f"{command}: takes no {name}; {', '.join(users)} {'does' if len(users) == 1 else 'do'}")
    args.function = command.replace("-", "_")
    if command in VERBS:
        verb, *rest = rest or [""]
        if verb not in VERBS[command]:
            raise UserError(f"{command}: no {verb!r}{near(verb, VERBS[command])}" if verb else COMMANDS[command])
        args.function += f"_{verb}"
    args.overrides = [w for w in rest if "=" in w and not exists(w)]
    args.paths = [Path(w) for w in rest if w not in args.overrides]
    return args


def exists(word: str) -> bool:
    """Whether a word is a path that is there; no word is too long or too odd to ask."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def bare_resume(words: Sequence[str]) -> list[str]:
    """`--resume` as `--resume=` where the word behind it is no run but a command, a CONF or a key=value."""
    words = list(words)
    for i, (word, after) in enumerate(pairwise(words)):
        conf = after.endswith((".yaml", ".yml")) or ("=" in after and not exists(after))
        if word == "--resume" and (conf or (after in COMMANDS and not any(w in COMMANDS for w in words[:i]))):
            words[i] = "--resume="
    return words
