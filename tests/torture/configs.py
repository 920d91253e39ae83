"""Foreign configurations: bombs, tags, names that try to import; and thousands that are made by random mutation."""

from __future__ import annotations

import copy
import os
import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from trainkit.app.config.build import build
from trainkit.app.config.files import compose, resolve
from trainkit.core.errors import UserError

from .kills import ROOT
from .poison import CONF, HARMLESS, MERGING, REFUSED, UNFOLDING, fire
from .tally import Tally, TooLong, inside, status, watched

GOOD = CONF.replace("  tensorboard: {}\n", "")


def but(old: str, new: str) -> str:
    assert old in GOOD, old
    return GOOD.replace(old, new)


CHAIN = "".join(f"v{i}: {{a: '${{v{i + 1}}}', b: '${{v{i + 1}}}'}}\n" for i in range(40)) + "v40: 1\n"
WIDE = "".join(f"w{i}: [" + ", ".join([f"'${{w{i + 1}}}'"] * 99) + "]\n" for i in range(20)) + "w20: 1\n"
CODE = [
    "!!python/object/apply:os.system ['touch RAN']", "!!python/object/new:os.system ['touch RAN']", "!!python/name:os.system",
    "!!python/module:antigravity", "!!python/object:trainkit.trainer.run_folder.RunFolder {path: x}", "!!python/tuple [1, 2]",
    "!!python/bytes aGk=", "!!python/object/apply:builtins.exec [\"open('RAN', 'w')\"]",
    "!!python/object/apply:subprocess.run [[touch, RAN]]", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]",
    "!!timestamp 2001-01-01", "2001-12-14t21:59:43.10-05:00", "!x y", "!!str [1]", "!!int x", "!!float x", "!!null x",
    "!!bool x", "!!map [1]", "!!seq {a: 1}", "!<tag:x> y", "%TAG", "${oc.env:HOME}", "${oc.env:HOME,x}", "${oc.decode:x}",
    "${oc.create:x}", "${oc.dict.keys:data}", "${env:HOME}", "${python:os.system}", "${eval:1}", "${hydra:runtime}",
    "${a:${b}}", "${.}", "${..}", "${..x}", "${}", "$${x}", "\\${x}", "${seed", "{_target_: os.system, command: touch RAN}",
    "{_target_: trainkit.app.cli.main.main}", "<<: *x", "*nothing", "&a *a",
]  # fmt: skip
NAMES = [
    "os.system", "os", "trainkit.app.cli.main", "trainkit.app.cli.main.main", "../x", "callbacks.x",
    "__import__('os').system('touch RAN')",
    "eval", "builtins.eval", "__class__", "__init__", "__builtins__", "Module", "Trainer", "Optimizer", "Callback", "load",
    "checkpoint", "torch.nn.Linear", "numpy", "tensors", "SGD", "Linear", "", " ", "\x00", "\x1b[2J", "é", "Linear\n",
    "x" * 100_000, "-x", "~", "%s", "{0}", "{epoch.__class__}", "${seed}", "???", "nan", "LambdaLR",
]  # fmt: skip
NUMBERS = [
    ".nan", ".inf", "-.inf", "1e308", "1e-308", "-1", "0", "-0.0", "1e400", "9" * 30, "9" * 4000, "9" * 5000,
    "0x" + "f" * 5000, "0o7", "0b1", "1_000", "12:30", "12:30:45.5", "+1", "1e3", "'1'", "true", "yes", "null", "~", "[]",
    "[1, 2]", "{}", "{a: 1}", "x", "9007199254740991", "9007199254740992", "9223372036854775808", "1" * 309 + ".0",
]  # fmt: skip
PLACES = {
    "seed": ("seed: 0", "seed: {}"),
    "data.name": ("name: disk", "name: {}"),
    "data.train": ("train: 40", "train: {}"),
    "a layer": ("ReLU", "{}"),
    "a layer's argument": ("Dropout: 0.1", "Dropout: {}"),
    "a layer's size": ("[2, 4]", "[2, {}]"),
    "the loss": ("CrossEntropyLoss", "{}"),
    "the optimizer": ("optimizer: {SGD: {lr: 0.1, momentum: 0.9}}", "optimizer: {}"),
    "lr": ("lr: 0.1", "lr: {}"),
    "trainer.max_epochs": ("max_epochs: 2", "max_epochs: {}"),
    "trainer.batch_size": ("batch_size: 10", "batch_size: {}"),
    "a callback": ("validation_split: {}", "x: {}"),
    "a callback's class": ("validation_split: {}", "x: {{{}: {{}}}}"),
    "patience": ("patience: 5", "patience: {}"),
    "a scheduler": ("ReduceLROnPlateau", "{}"),
    "a scheduler's number": ("patience: 0", "patience: {}"),
    "max_time": ("max_time: 1000", "max_time: {}"),
    "monitor": ("val/loss", "{}"),
}
PATHS = [
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    "/etc/shadow",
    "pipe",
    ".",
    "/",
    "nowhere",
    "\\0",
    "",
    "x/" * 3000,
    "~root/x",
]
BOMBS: dict[str, str | bytes] = {
    "aliases that unfold": GOOD + UNFOLDING,
    "merges that unfold": GOOD + MERGING,
    "an alias in itself": GOOD + "x: &x [*x]\n",
    "a merge of itself": GOOD + "x: &x {<<: *x}\n",
    "references that unfold": GOOD + CHAIN,
    "references that unfold widely": GOOD + WIDE,
    "references in a ring": but("seed: 0", "seed: ${trainer.max_epochs}").replace("max_epochs: 2", "max_epochs: '${seed}'"),
    "a chain of 3000 references": GOOD + "".join(f"r{i}: ${{r{i + 1}}}\n" for i in range(3000)) + "r3000: 1\n",
    "51 levels": GOOD + f"a: {'[' * 51}{']' * 51}\n",
    "3000 levels": GOOD + f"a: {'[' * 3000}{']' * 3000}\n",
    "half a million levels": GOOD + f"a: {'[' * 500_000}",
    "half a million mappings": GOOD + f"a: {'{a: ' * 200_000}",
    "levels by indentation": GOOD + "".join(f"{' ' * i}a:\n" for i in range(1000)),
    "levels by dashes": GOOD + "a:\n  " + "- " * 100_000 + "1\n",
    "Residuals in Residuals": but("ReLU", "{Residual: [" * 40 + "ReLU" + "]}" * 40),
    "1000 Residuals": but("ReLU", "{Residual: [" * 1000 + "ReLU" + "]}" * 1000),
    "900 kB of keys": GOOD + "".join(f"k{i}: 1\n" for i in range(90_000)),
    "900 kB of a list": GOOD + "a: [" + "1," * 450_000 + "]\n",
    "900 kB of one word": GOOD + "a: " + "x" * 900_000 + "\n",
    "900 kB of spaces": GOOD + "a: " + " " * 900_000 + "x\n",
    "900 kB of a comment": GOOD + "#" * 900_000,
    "900 kB of quotes": GOOD + 'a: "' + "\\n" * 450_000 + '"\n',
    "900 kB of dollars": GOOD + 'a: "' + "${" * 450_000 + '"\n',
    "900 kB of colons": GOOD + "a: " + "1:2" * 300_000 + "\n",
    "900 kB of anchors": GOOD + "".join(f"- &a{i} 1\n" for i in range(80_000)),
    "900 kB of documents": "---\n" * 225_000,
    "9,000 keys": GOOD + "".join(f"k{i}: 1\n" for i in range(9000)),
    "19,000 numbers": GOOD + "a: [" + "1," * 19_000 + "]\n",
    "19,000 references": GOOD + "a: ['" + "${seed}','" * 19_000 + "']\n",
    "1,900 references": GOOD + "a: ['" + "${seed}','" * 1900 + "']\n",
    "${ 400 times": GOOD + 'a: "' + "${" * 400 + '"\n',
    "${ and 480 letters": GOOD + 'a: "${' + "x" * 480 + '"\n',
    "10,000 layers": but("ReLU", ", ".join(["ReLU"] * 10_000)),
    "over 1 MiB": GOOD + "#" * (1 << 20),
    "a file of zeros": bytes(500_000),
    "UTF-16": GOOD.encode("utf-16"),
    "not UTF-8": GOOD.encode() + b"\xff",
    "a byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "control characters": GOOD + 'a: "\x07"\n',
    "duplicate keys": GOOD + "seed: 1\n",
    "keys that are not text": GOOD + "z: {1: 2, null: 3, true: 4, 1.5: 5}\n",
    "keys that are not text, in the trainer": but("max_epochs: 2", "1: 2, null: 3, true: 4, 1.5: 5"),
    "a key that is a list": GOOD + "z: {[a, b]: 1}\n",
    "keys of a million": GOOD + "x" * 900_000 + ": 1\n",
}


def poison(folder: Path, every: int = 1) -> list[Tally]:
    bombs = Tally("configurations that unfold, nest, repeat or are not text", REFUSED)
    code = Tally("tags, resolvers and names that would import or run, at each place", HARMLESS)
    numbers = Tally("odd numbers at each place", HARMLESS)
    paths = Tally("devices, pipes and odd paths as data", REFUSED)
    with inside(folder), bounded():
        Path("pipe").unlink(missing_ok=True)
        os.mkfifo("pipe")
        conf = Path("conf.yaml")
        conf.write_text(GOOD)
        warm = Tally("", "")
        fire(warm, "", ("check", conf), ("show", conf), codes=(0,))
        assert not [w for w in warm.failures if " took " not in w], warm.failures
        for name, text in list(BOMBS.items())[:: 1 + every // 10]:
            conf.write_bytes(text if isinstance(text, bytes) else text.encode())
            fire(bombs, name, ("check", conf), ("show", conf), codes=(0, 2) if name in FINE else (2,))
        for tally, odd in ((code, CODE + [yaml.dump(n).split("\n...")[0].strip() for n in NAMES]), (numbers, NUMBERS)):
            for place, (old, new) in PLACES.items():
                for value in odd[::every]:
                    conf.write_bytes(but(old, new.format(value)).encode("utf-8", "surrogatepass"))
                    for command in ("check", "show"):
                        fire(tally, f"{place}: {value[:40]!r}", (command, conf), codes=(0, 1, 2))
        for value in PATHS[:: 1 + every // 10]:
            for data in (
                f'{{name: csv, path: "{value}", target: x}}',
                f'{{name: npy, train_x: "{value}", train_t: "{value}"}}',
                f'{{name: idx, root: "{value}"}}',
                f'{{name: idx, root: "{value}", stream: true}}',
            ):
                conf.write_text(but("{name: disk, train: 40, test: 10}", data))
                fire(paths, data[:60], ("check", conf))
            if value not in ("pipe", "/dev/stdin"):  # the command line's own files, which are waited for
                fire(paths, f"CONF {value[:20]}", ("check", value.replace("\\0", "\0") or "x"))
        for value in [*CODE, *NUMBERS][::every]:
            conf.write_text(GOOD)
            fire(code, f"override {value[:40]!r}", ("check", conf, f"seed={value}"), codes=(0, 2))
            fire(code, f"override of {value[:40]!r}", ("check", conf, f"{value}=1"), codes=(0, 2))
    return [bombs, code, numbers, paths]


FINE = {"a byte order mark", "900 kB of a comment", "Residuals in Residuals"}


@contextmanager
def bounded(more: float = 2048) -> Iterator[None]:
    """Limit the address space to `more` further megabytes, so that a huge allocation is refused."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = status("VmSize")
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (int(now + more) << 20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# -- mutations -------------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 5, 64, 1000, 2**53 - 1, 2**53, -(2**70), 10**400, 0.5, -0.1, float("nan"),
    float("inf"), 1e300, "", "x", "ReLU", "Linear", "SGD", "Sequential", "os.system", "__init__", "val/loss", "min", "\x00",
    "${seed}", "${data.name}", "${oc.env:HOME}", "???", "../x", "1e3", "cuda:99", "cpu", "float64", "native", [], {}, [1, 2],
    [None], [[]], {"a": 1}, {"ReLU": []}, {"Linear": [2, 2]}, [{"Linear": [4, 4]}], {"Adam": {}},
    {"StepLR": {"step_size": 0}}, {1: 2}, {"": {}},
]  # fmt: skip


def fuzz(folder: Path, n: int, seed: int = 0) -> list[Tally]:
    """Mutate configurations of conf/ up to six times with pieces of others, n in all; build each as `check` does."""
    tally = Tally(
        "random mutations of the configurations of conf/",
        "built or refused; no other exception; no foreign code runs; at most 2 s of CPU time",
    )
    draw = random.Random(seed)
    seeds = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf").rglob("*.yaml"))]
    built = 0
    with inside(folder), bounded():
        while tally.runs < n:
            config = copy.deepcopy(draw.choice(seeds))
            for _ in range(draw.choice([1, 1, 2, 2, 3, 6])):
                mutate(config, seeds, draw)
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=draw.random() < 0.5)
            if draw.random() < 0.1:
                text = garbled(text, draw)
            if "replicas" in text and has_many_replicas(config):
                continue  # a million models take long, but are not an error
            Path("conf.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
            wrong = None
            with watched() as took:
                try:
                    build(resolve(compose([Path("conf.yaml")])))
                    built += 1
                except UserError as error:
                    wrong = None if str(error).strip() else "refused without a message"
                except TooLong:
                    wrong = "does not end"
                except BaseException as error:
                    wrong = repr(error)[:300]
            wrong = wrong or tally.measure(took[0], 0)
            if Path("RAN").exists():
                wrong = "FOREIGN CODE RAN"
            if wrong:
                shutil.copy("conf.yaml", f"failed{len(tally.failures)}.yaml")
            tally.count(wrong)
    tally.case += f" ({built} of them could be built)"
    return [tally]


def has_many_replicas(config: Any) -> bool:
    """Return whether a configuration has more than a thousand replicas."""
    trainer = config.get("trainer") if isinstance(config, dict) else None
    replicas = trainer.get("replicas") if isinstance(trainer, dict) else None
    return (isinstance(replicas, (int, float)) and replicas > 1000) or isinstance(replicas, str)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(s for k, v in below for s in spots(v, (*path, k)))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutate(config: dict[str, Any], seeds: list[Any], draw: random.Random) -> None:
    """Make one change at a random place: another value, removed, doubled, nested, or a piece of another configuration."""
    there = spots(config)
    if not there:
        return
    path = draw.choice(there)
    holder, key = at(config, path[:-1]), path[-1]
    what = draw.choice(["replace", "remove", "double", "nest", "splice", "swap"])
    if what == "remove":
        del holder[key]
    elif what == "double":
        if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[
                draw.choice([f"{key}x", key if isinstance(key, int) else f"{key}"[:-1], draw.choice(["a", 1, True, None])])
            ] = copy.deepcopy(holder[key])
    elif what == "nest":
        inner = holder[key]
        holder[key] = draw.choice(
            [[inner], {"Residual": [inner]}, {"Sequential": [inner]}, {"a": inner}, str(inner), [inner, inner]]
        )
    elif what == "splice":
        other = draw.choice(seeds)
        holder[key] = copy.deepcopy(at(other, draw.choice(spots(other))))
    elif what == "swap":
        second = draw.choice(there)
        a, b = copy.deepcopy(holder[key]), copy.deepcopy(at(config, second))
        holder[key] = b
        with suppress(KeyError, IndexError, TypeError):  # it was inside the first
            at(config, second[:-1])[second[-1]] = a
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))


def garbled(text: str, draw: random.Random) -> str:
    """Return the text with a few characters removed, doubled or replaced."""
    letters = list(text)
    for _ in range(draw.randrange(1, 6)):
        i = draw.randrange(len(letters))
        letters[i] = draw.choice(["", letters[i] * 2, draw.choice("{}[]:,&*#?|-<>=!%@`'\"\\\t\n \x00\x7fé\u2028")])
    return "".join(letters)
