"""A refused command changes nothing: neither the run to resume, nor folders with the user's files."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from trainkit.checkpoint import file as checkpoint
from trainkit.trainer.run_folder import RunFolder

from .crash import checkpoints_of, digest
from .folders import folder_for, link, pipe_for
from .poison import stored
from .tally import Tally, inside, shot

CONF = """\
seed: 0
data: {name: disk, train: 40, test: 10}
model: [{Linear: [2, 4]}, ReLU, {Dropout: 0.1}, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1, momentum: 0.9}}
trainer: {max_epochs: 3, batch_size: 10}
callbacks:
  validation_split: {}
  early_stopping: {patience: 9, restore_best: true}
  lr_scheduler: {StepLR: {step_size: 2}}
  checkpoint: {monitor: val/loss, save_top_k: 2, every_n_steps: 1}
  tensorboard: {}
  csv_logger: {}
"""
REFUSE = """\
from trainkit import Callback, UserError

class Refuse(Callback):
    '''Raises at the last moment.'''

    def on_fit_start(self, session):
        raise UserError("not today")
"""
LAST = Path("run/checkpoints/last.pt")

OVERRIDES = {  # of a resume inside an epoch
    "other replicas": ["trainer.replicas=2"],
    "a wider net": ["model[0].Linear=[2,5]", "model[3].Linear=[5,2]"],
    "a layer more": ["model=[{Linear: [2, 4]}, ReLU, {Linear: [4, 4]}, {Linear: [4, 2]}]"],
    "a net that takes other inputs": ["model[0].Linear=[3,4]"],
    "another optimizer": ["optimizer={Adam: {lr: 0.1}}"],
    "no momentum": ["optimizer={SGD: {lr: 0.1}}"],
    "no such optimizer": ["optimizer={Sgd: {lr: 0.1}}"],
    "a bad schedule": ["callbacks.lr_scheduler={LinearLR: {end_factor: 2}}"],
    "a schedule that is none": ["callbacks.lr_scheduler={Step: {step_size: 2}}"],
    "a split of another size": ["callbacks.validation_split.fraction=0.5"],
    "another split": ["callbacks.validation_split.seed=1"],
    "a split of nothing": ["callbacks.validation_split.fraction=0.001"],
    "other data": ["data.train=50"],
    "missing data": ["data={name: csv, path: none.csv, target: t}"],
    "other targets": ["data.targets=binary", "loss=BCEWithLogitsLoss", "model[3].Linear=[4,1]"],
    "another batch": ["trainer.batch_size=7"],
    "a wrong type": ["trainer.max_epochs=many"],
    "a wrong type in a list": ["model[0].Linear=[2,x]"],
    "an engine that is none": ["trainer.engine=fast"],
    "no such device": ["trainer.device=cuda:99"],
    "too many threads": ["trainer.threads=100000"],
    "an unknown key": ["trainer.epochs=5"],
    "an unknown callback": ["callbacks.x={}"],
    "a callback that refuses": ["callbacks.last={Refuse: {}}", "--import", "refuse.py"],
    "a callback named for a terminal": ['callbacks={"\\e[31m": {Timer: {max_time: 5}}}'],
    "two that write one file": ["callbacks.again={CSVLogger: {}}"],
    "a file name that leads out": ["callbacks.checkpoint.filename=../x"],
    "another run's folder": ["--run-dir", "whole"],
    "a folder of the user's": ["--run-dir", "mine"],
    "a file for a folder": ["--run-dir", "conf.yaml/x"],
}


def forge(change: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
    """Return a function that changes the content of last.pt and gives it a valid checksum."""

    def make() -> None:
        content = checkpoint.load(LAST)
        change(content)
        LAST.write_bytes(stored(content))

    return make


def damage() -> None:
    data = bytearray(LAST.read_bytes())
    data[len(data) // 2] ^= 1
    LAST.write_bytes(data)


LAYOUTS: dict[str, Callable[[], None]] = {  # changes to the run before it is resumed from its last.pt
    "damaged": damage,
    "cut short": lambda: os.truncate(LAST, LAST.stat().st_size - 9),
    "empty": lambda: os.truncate(LAST, 0),
    "another format": forge(lambda c: c.update(format=1)),
    "a part left out": forge(lambda c: c.pop("rng")),
    "another model": forge(lambda c: c["model"].pop("0.weight")),
    "another optimizer": forge(lambda c: c["optimizer"].clear()),
    "a negative step": forge(lambda c: c["state"].update(step=-1)),
    "two replicas": forge(lambda c: c["state"].update(active=[True, True])),
    "files that lead out": forge(lambda c: c["callbacks"]["checkpoint"].update(gone=["../config.yaml"])),
    "a state of a wrong type": forge(lambda c: c["callbacks"]["early_stopping"].update(best="x")),
    "a random state that is none": forge(lambda c: c["rng"].update(torch=c["rng"]["torch"][:9].clone())),
    "the marker gone": lambda: Path("run", RunFolder.marker).unlink(),
    "the marker a link": link(RunFolder.marker, "mine/keep"),
    "checkpoints a link": lambda: (shutil.move("run/checkpoints", "moved"), link("checkpoints", "moved")())[1],
    "last.pt a link": link("checkpoints/last.pt", "whole/checkpoints/last.pt"),
    "best.pt a link": link("checkpoints/best.pt", "mine/keep"),
    "last.pt a pipe": pipe_for("checkpoints/last.pt"),
    "last.pt a folder": folder_for("checkpoints/last.pt"),
    "config.yaml a pipe": pipe_for("config.yaml"),
    "config.yaml a link": link("config.yaml", "conf.yaml"),
    "summary.json a pipe": pipe_for("summary.json"),
    "metrics.csv a pipe": pipe_for("metrics.csv"),
    "metrics.csv a link": link("metrics.csv", "mine/keep"),
    "metrics.csv a folder": folder_for("metrics.csv"),
    "an event file that is a pipe": pipe_for("events.out.tfevents.1.x"),
    "an event file that is /dev/zero": link("events.out.tfevents.1.x", "/dev/zero"),
}


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return type, time and content of every path in a folder."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        held: object = None
        if stat.S_ISREG(status.st_mode):
            held = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            held = os.readlink(path)
        if "__pycache__" not in path.parts:
            found[str(path)] = (status.st_mode, status.st_ino, status.st_rdev, status.st_mtime_ns, held)
    return found


def changed(before: dict[str, tuple[object, ...]], folder: Path) -> str | None:
    after = tree(folder)
    differ = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    return f"changed: {', '.join(differ[:5])}" if differ else None


def prepare() -> None:
    """Make `whole`, an uninterrupted run; `made`, the same run stopped inside an epoch; and the user's files in `mine`."""
    Path("conf.yaml").write_text(CONF)
    Path("refuse.py").write_text(REFUSE)
    Path("mine").mkdir(exist_ok=True)
    Path("mine/config.yaml").write_text("# notes\n")
    Path("mine/keep").write_text("keep")
    for name, more in (("whole", []), ("made", ["trainer.max_steps=5"])):
        if not Path(name).exists():
            made = shot("fit", "conf.yaml", "--run-dir", name, *more)
            assert made.code == 0, made.err
    fresh()


def fresh() -> None:
    for name in ("run", "moved"):
        shutil.rmtree(name, ignore_errors=True)
    shutil.copytree("made", "run", symlinks=True)


@contextmanager
def locked() -> Iterator[None]:
    other = RunFolder(Path("run"))
    other.lock()
    try:
        yield
    finally:
        other.close()


def resumes(folder: Path, n: int, seed: int = 0) -> list[Tally]:
    """Refuse n resumes, each for a random cause. A run that the cause leaves intact is then resumed."""
    tally = Tally(
        "a refused resume: configurations, forged and damaged checkpoints, links and pipes, a locked folder",
        "exit 2, no traceback; the bytes, names and times of the folder are unchanged; the resumed run ends with the bits of an"
        " uninterrupted one",
    )
    causes = [*OVERRIDES, *(f"the run: {name}" for name in LAYOUTS), "locked"]
    random.Random(seed).shuffle(causes)
    with inside(folder):
        prepare()
        for cause in islice(cycle(causes), n):
            tally.count(refused(cause))
    return [tally]


def refused(cause: str) -> str | None:
    """Return what is wrong with how one cause is refused."""
    fresh()
    words: list[str] = ["fit", "conf.yaml", "--resume", "run", *OVERRIDES.get(cause, [])]
    if cause.startswith("the run: "):
        LAYOUTS[cause.removeprefix("the run: ")]()
        words[3] = str(LAST)
    before = tree(Path())
    if cause == "locked":
        with locked():
            seen = shot(*words)
    else:
        seen = shot(*words)
    wrong = seen.wrong(2) or changed(before, Path())
    if not wrong and not cause.startswith("the run: "):
        wrong = shot("fit", "conf.yaml", "--resume", "run").wrong(0)
        ends = (digest, checkpoints_of, lambda run: Path(run, "metrics.csv").read_text())
        if not wrong and any(end("run") != end("whole") for end in ends):
            wrong = "resumed afterwards, the run ends differently"
    return f"{cause}: {wrong}" if wrong else None


def mknod(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
    except PermissionError:
        os.mkfifo(path)


def checkpoints_of_mine(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "mine.pt").write_text("mine")


USERS: dict[str, Callable[[Path], object]] = {  # the content of the user's folder
    "config.yaml": lambda f: (f / "config.yaml").write_text("# notes\n"),
    "metrics.csv": lambda f: (f / "metrics.csv").write_text("x,y,t\n1,2,3\n"),
    "summary.json": lambda f: (f / "summary.json").write_text("{}"),
    "predictions.csv": lambda f: (f / "predictions.csv").write_text("sample,y0,mine\n0,1,2\n"),
    "events": lambda f: (f / "events.out.tfevents.1.x").write_text("mine"),
    "links": lambda f: [
        (f / n).symlink_to("../mine/keep") for n in ("config.yaml", "predictions.csv", "compare.md", ".tmp-1-x")
    ],
    "links to nothing": lambda f: [(f / n).symlink_to("../mine/new") for n in ("summary.json", "compare.csv")],
    "pipes": lambda f: [os.mkfifo(f / n) for n in ("metrics.csv", "predictions.csv", "compare.json")],
    "devices": lambda f: [mknod(f / n) for n in ("config.yaml", "predictions.csv", "figures")],
    "another run": lambda f: shutil.copytree("whole", f, dirs_exist_ok=True),
    "checkpoints": checkpoints_of_mine,
    "a comparison": lambda f: [(f / n).write_text("mine") for n in ("compare.md", "compare.csv", "compare.json")],
    "figures": lambda f: (f / "figures").mkdir(),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "fit": ("fit", "conf.yaml", "--run-dir", "theirs"),
    "resume a lone checkpoint": ("fit", "--resume", "theirs.pt", "--run-dir", "theirs"),
    "resume a run elsewhere": ("fit", "--resume", "made", "--run-dir", "theirs"),
    "resume the folder": ("fit", "--resume", "theirs", "trainer.max_epochs=4"),
    "predict": ("predict", "theirs/theirs.pt"),
    "compare": ("compare", "conf.yaml", "--out", "theirs", "trainer.max_epochs=1"),
}


def users(folder: Path, n: int) -> list[Tally]:
    """Run n fits, predictions and comparisons into folders with the user's files."""
    tally = Tally(
        "fit, resume, predict and compare into a folder with the user's files, links, pipes, devices, another run",
        "refused, or written beside them: exit 0 or 2, no traceback; type, content and time of the earlier files unchanged",
    )
    cases = [case for case in product(USERS, COMMANDS) if case != ("another run", "resume the folder")]  # that one is allowed
    cases += [(u, f"--out {name}") for u in USERS for name in ("predictions.csv", "metrics.csv")]
    random.Random(1).shuffle(cases)
    with inside(folder):
        prepare()
        shutil.copy("made/checkpoints/last.pt", "theirs.pt")
        for user, command in cases[:n]:
            tally.count(beside(user, command))
    return [tally]


def beside(user: str, command: str) -> str | None:
    shutil.rmtree("theirs", ignore_errors=True)
    Path("theirs").mkdir()
    USERS[user](Path("theirs"))
    if command == "predict":
        shutil.copy("theirs.pt", "theirs/theirs.pt")
    out = command.removeprefix("--out ")
    words = COMMANDS.get(command, ("predict", "made", "--out", f"theirs/{out}"))
    mine = {**tree(Path("theirs")), **tree(Path("mine")), **tree(Path("made"))}
    seen = shot(*words)
    wrong = seen.wrong(0, 2)
    now = {**tree(Path("theirs")), **tree(Path("mine")), **tree(Path("made"))}
    if seen.code == 0:
        del mine["theirs"]  # a new file changes the folder's time
    if not wrong and (differ := sorted(k for k in mine if now.get(k) != mine[k])):
        wrong = f"exit {seen.code}, changed: {', '.join(differ[:5])}"
    if not wrong and seen.code == 2 and now.keys() != mine.keys():
        wrong = f"refused, but wrote {sorted(now.keys() - mine.keys())[:5]}"
    return f"{command}, {user}: {wrong}" if wrong else None
