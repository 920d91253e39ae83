"""What a clumsy or hostile user gives, and what he is told: place, value, cure; exit 2; no traceback; nothing lost."""

from __future__ import annotations

import copy
import fcntl
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit.app.cli.main import main
from trainkit.checkpoint import file as checkpoint
from trainkit.checkpoint.plain import check_plain
from trainkit.checkpoint.schema import check_types
from trainkit.core.errors import UserError

GOOD = """\
seed: 0
data: {name: disk, train: 40, test: 10}
model: [{Linear: [2, 4]}, ReLU, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1, momentum: 0.9}}
trainer: {max_epochs: 1, batch_size: 10}
callbacks: {checkpoint: {}}
"""


def but(old: str, new: str) -> str:
    assert old in GOOD, old
    return GOOD.replace(old, new)


def model(layer: str) -> str:
    return but("ReLU", layer)


def with_callbacks(text: str) -> str:
    return but("{checkpoint: {}}", text)


ALIASES = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
CHAIN = "".join(f"v{i}: {{a: '${{v{i + 1}}}', b: '${{v{i + 1}}}'}}\n" for i in range(40)) + "v40: 1\n"

# name: (the file, None for none; words behind it; what the message says)
CONFIGS: dict[str, tuple[str | bytes | None, list[str], list[str]]] = {
    "unknown key": (GOOD + "optimiser: 1\n", [], ["optimiser: no such key", "did you mean 'optimizer'?"]),
    "unknown argument": (but("lr:", "lrr:"), [], ["optimizer.SGD: no argument 'lrr'; did you mean 'lr'?", "momentum"]),
    "text for a number": (but("max_epochs: 1", "max_epochs: many"), [], ["trainer.max_epochs: 'many'; needs a whole number"]),
    "float for an int": (but("max_epochs: 1", "max_epochs: 1e3"), [], ["trainer.max_epochs: 1000.0", "whole", "write 1000"]),
    "bool for an int": (but("max_epochs: 1", "max_epochs: yes"), [], ["trainer.max_epochs: true", "YAML reads yes, no"]),
    "a number in quotes": (but("lr: 0.1", "lr: '1e-3'"), [], ["optimizer.SGD.lr: '1e-3'", "without quotes", "0.001"]),
    "no for a word": (but("batch_size: 10", "device: no"), [], ["trainer.device: false; needs text", "put words in quotes"]),
    "12:30 is 750": (but("lr: 0.1", "lr: 12:30"), [], ["conf.yaml, line 5: 12:30 is a number in base 60", "quotes"]),
    "not a number": (but("lr: 0.1", "lr: .nan"), [], ["optimizer.SGD.lr: nan; needs a number"]),
    "a number of 400 digits": (but("lr: 0.1", f"lr: 1{'0' * 400}"), [], ["optimizer.SGD.lr: a number of 1329 bits"]),
    "a number of 5000 digits": (but("seed: 0", f"seed: {'9' * 5000}"), [], ["conf.yaml: ", "4300 digits"]),
    "null for a number": (but("lr: 0.1", "lr: null"), [], ["optimizer.SGD.lr: null; needs a number"]),
    "the same key twice": (GOOD + "seed: 1\n", [], ["conf.yaml, line 8, column 1", "duplicate key seed"]),
    "tabs": (GOOD + "\tx: 1\n", [], ["conf.yaml, line 8", "indent by spaces"]),
    "not UTF-8": (GOOD.encode() + b"# \xff\n", [], ["conf.yaml: not UTF-8", "save it as UTF-8"]),
    "UTF-16": (GOOD.encode("utf-16"), [], ["conf.yaml: not UTF-8 (byte 0)"]),
    "empty": ("", [], ["conf.yaml: empty; needs keys: data, model, loss, optimizer"]),
    "only a comment": ("# soon\n", [], ["conf.yaml: empty"]),
    "a list": ("- 1\n", [], ["conf.yaml: holds a list; needs keys"]),
    "a word": ("hello\n", [], ["conf.yaml: holds one value; needs keys"]),
    "a number": ("42\n", [], ["conf.yaml: holds one value; needs keys"]),
    "two documents": (GOOD + "---\nseed: 1\n", [], ["conf.yaml, line 8", "a second document"]),
    "no such file": (None, [], ["conf.yaml: no such file; give a YAML file"]),
    "over 1 MiB": (GOOD + "#" * (1 << 20), [], ["conf.yaml: over 1 MiB"]),
    "alias bomb": (
        GOOD + "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + ALIASES,
        [],
        ["conf.yaml", "aliases", "write the values out"],
    ),
    "alias of itself": (GOOD + "x: &x [*x]\n", [], ["conf.yaml, line 8", "recursive"]),
    "interpolations that double": (GOOD + CHAIN, [], ["after following references"]),
    "interpolation of itself": (but("seed: 0", "seed: ${seed}"), [], ["seed: ${seed -> seed} refers to itself"]),
    "interpolations in a ring": (
        but("seed: 0", "seed: ${trainer.max_epochs}").replace("max_epochs: 1", "max_epochs: '${seed}'"),
        [],
        ["${trainer.max_epochs -> seed -> trainer.max_epochs} refers to itself"],
    ),
    "interpolation of nothing": (but("seed: 0", "seed: ${sead}"), [], ["seed: ${sead} is not a key"]),
    "interpolation half written": (but("name: disk", "name: '${a'"), [], ["${a", "a reference is a whole value"]),
    "the environment": (but("name: disk", "name: '${oc.env:HOME}'"), [], ["data.name: '${oc.env:HOME}'", "resolvers are off"]),
    "60 levels": (GOOD + f"a: {'[' * 60}{']' * 60}\n", [], ["a[0][0]", "50 levels"]),
    "3000 levels": (f"a: {'[' * 3000}{']' * 3000}\n", [], ["conf.yaml: nested too deep; at most 50"]),
    "a python object": (
        GOOD + "x: !!python/object/apply:os.system ['touch RAN']\n",
        [],
        ["conf.yaml, line 8", "!!python/object/apply:os.system is not allowed"],
    ),
    "layer os.system": (model("os.system"), [], ["model[1]: no layer 'os.system'", "Linear"]),
    "layer __class__": (model("__class__"), [], ["model[1]: no layer '__class__'"]),
    "layer trainkit.app.cli.main.main": (
        model("trainkit.app.cli.main.main"),
        [],
        ["model[1]: no layer 'trainkit.app.cli.main.main'"],
    ),
    "layer Module": (model("Module"), [], ["model[1]: no layer 'Module'"]),
    "layer Trainer": (model("Trainer"), [], ["model[1]: no layer 'Trainer'"]),
    "layer misspelt": (model("Rellu"), [], ["model[1]: no layer 'Rellu'; did you mean 'ReLU'?"]),
    "layer with a bell": (model('"\\a\\e[2J"'), [], [r"model[1]: no layer '\x07\x1b[2J'"]),
    "layer inside a layer": (model("{Residual: [{Linear: [4, 4]}, Foo]}"), [], ["model[1].Residual[1]: no layer 'Foo'"]),
    "layer null": (model("null"), [], ["model[1]: null; write a name"]),
    "loss Loss": (but("CrossEntropyLoss", "Loss"), [], ["loss: no loss 'Loss'", "MSELoss"]),
    "loss SGD": (but("CrossEntropyLoss", "SGD"), [], ["loss: no loss 'SGD'"]),
    "optimizer Optimizer": (but("SGD", "Optimizer"), [], ["optimizer: no optimizer 'Optimizer'"]),
    "optimizer misspelt": (but("{SGD: {lr: 0.1, momentum: 0.9}}", "Adamm"), [], ["optimizer: no optimizer 'Adamm'", "'Adam'"]),
    "two optimizers": (but("0.9}}", "0.9}, Adam: {}}"), [], ["optimizer: ", "has 2 names, SGD, Adam; to replace it"]),
    "data misspelt": (but("name: disk", "name: disc"), [], ["data.name: no data 'disc'; did you mean 'disk'?"]),
    "data without a name": (but("name: disk, ", ""), [], ["data: ", "needs a name"]),
    "data that only Python has": (but("name: disk", "name: tensors"), [], ["data.name: no data 'tensors'"]),
    "callback misspelt": (with_callbacks("{early_stoping: {}}"), [], ["callbacks.early_stoping", "'early_stopping'"]),
    "callback misspelt with an argument": (
        with_callbacks("{early_stoping: {monitor: lr}}"),
        [],
        ["callbacks.early_stoping: no callback 'early_stoping'; did you mean 'early_stopping'?"],
    ),
    "callback misspelt and left out": (
        with_callbacks("{early_stoping: null}"),
        [],
        ["callbacks.early_stoping: no callback 'early_stoping'; did you mean 'early_stopping'?"],
    ),
    "callback misspelt and left out by an override": (
        GOOD,
        ["callbacks.early_stoping=null"],
        ["callbacks.early_stoping: no callback 'early_stoping'; did you mean 'early_stopping'?"],
    ),
    "argument of a callback misspelt": (
        GOOD,
        ["callbacks.early_stoping.monitor=lr"],
        ["callbacks.early_stoping: no callback 'early_stoping'; did you mean 'early_stopping'?"],
    ),
    "inner class misspelt": (
        GOOD,
        ["callbacks.mine={EarlyStoping: {monitor: lr}}"],
        ["callbacks.mine: no callback 'EarlyStoping'; did you mean 'early_stopping'?"],
    ),
    "callback by path": (with_callbacks("{../x: {}}"), [], ["callbacks: '../x' is not a callback's name"]),
    "callback Callback": (with_callbacks("{x: {Callback: {}}}"), [], ["callbacks.x: no callback 'Callback'"]),
    "callback without a mapping": (with_callbacks("{checkpoint: 5}"), [], ["callbacks.checkpoint: 5", "{} for none"]),
    "callbacks a list": (with_callbacks("[checkpoint]"), [], ["callbacks: ['checkpoint']; needs a mapping"]),
    "trainer a list": (but("{max_epochs: 1, batch_size: 10}", "[]"), [], ["trainer: []; needs a mapping"]),
    "a key is missing": ("seed: 0\n", [], ["data, model, loss, optimizer: missing"]),
    "too few for a layer": (but("[2, 4]", "[2]"), [], ["model[0].Linear: needs out_features"]),
    "too many for a layer": (but("[2, 4]", "[2, 4, true, he, 1, 6]"), [], ["model[0].Linear: 6 values; takes at most 5"]),
    "negative layer": (but("[2, 4]", "[-2, 4]"), [], ["model[0].Linear: in_features=-2"]),
    "layer over memory": (but("[2, 4]", "[2, 4000000000000]"), [], ["model[0]: not enough memory", "make it smaller"]),
    "layer over 2^53": (but("[2, 4]", f"[2, {10**27}]"), [], ["model[0].Linear.out_features: ", "nearer to 0"]),
    "a clash inside the net": (but("[4, 2]", "[5, 2]"), [], ["2.Linear: x is (2, 4), needs (n, 5)"]),
    "a clash with the data": (but("[2, 4]", "[3, 4]"), [], ["0.Linear: x is (2, 2), needs (n, 3)"]),
    "a clash at the loss": (
        but("CrossEntropyLoss", "MSELoss"),
        [],
        ["loss, on the train split: MSELoss: y is (40, 2), t is (40,)"],
    ),
    "too few outputs": (but("[4, 2]", "[4, 1]"), [], ["loss, on the train split: CrossEntropyLoss: class index 1"]),
    "negative batch": (but("batch_size: 10", "batch_size: -1"), [], ["trainer.batch_size: -1; needs at least 1"]),
    "no samples": (but("train: 40", "train: 0"), [], ["data: train=0"]),
    "samples over memory": (but("train: 40", "train: 99999999999999"), [], ["not enough memory", "the data"]),
    "a rate too many": (
        but("lr: 0.1", "lr: [0.1, 0.2]"),
        [],
        ["optimizer.SGD: 2 values of lr for 1 replica;", "trainer.replicas"],
    ),
    "rates without a number": (but("lr: 0.1", "lr: []"), [], ["optimizer.SGD: 0 values of lr"]),
    "rate below 0": (but("lr: 0.1", "lr: -1"), [], ["optimizer.SGD: lr=-1"]),
    "fraction 1": (with_callbacks("{validation_split: {fraction: 1.0}}"), [], ["callbacks.validation_split", "fraction=1.0"]),
    "fraction of nothing": (with_callbacks("{validation_split: {fraction: 0.001}}"), [], ["validation_split", "0 to validate"]),
    "no GPU": (but("batch_size: 10", "device: 'cuda:99'"), [], ["trainer.device: 'cuda:99' is not available", "auto or cpu"]),
    "no device": (but("batch_size: 10", "device: tpu"), [], ["trainer.device: 'tpu'; choose auto, cpu, cuda"]),
    "the run's folder in YAML": (but("batch_size: 10", "run_dir: /x"), [], ["trainer: no argument 'run_dir'"]),
    "nothing to monitor": (
        with_callbacks("{early_stopping: {}}"),
        [],
        ["callbacks.early_stopping", "'val/loss'", "validation_split"],
    ),
    "another metric": (
        with_callbacks("{checkpoint: {monitor: lss}}"),
        [],
        ["callbacks.checkpoint", "no metric 'lss'", "train/loss"],
    ),
    "a function for a scheduler": (
        with_callbacks("{lr_scheduler: {LambdaLR: {lr_lambda: 'lambda e: e'}}}"),
        [],
        ["callbacks.lr_scheduler: LambdaLR: lr_lambda is a function, which only Python can give"],
    ),
    "a scheduler misspelt": (with_callbacks("{lr_scheduler: {StepLRR: {}}}"), [], ["'StepLRR'; did you mean 'StepLR'?"]),
    "a scheduler's step of 0": (
        with_callbacks("{lr_scheduler: {StepLR: {step_size: 0}}}"),
        [],
        ["callbacks.lr_scheduler", "StepLR"],
    ),
    "a scheduler's step of a": (
        with_callbacks("{lr_scheduler: {StepLR: {step_size: a}}}"),
        [],
        ["callbacks.lr_scheduler", "StepLR"],
    ),
    "a path for a file name": (
        with_callbacks("{checkpoint: {monitor: train/loss, save_top_k: 2, filename: ../x}}"),
        [],
        ["callbacks.checkpoint", "file name '../x.pt'"],
    ),
    "an attribute in a file name": (
        with_callbacks("{checkpoint: {monitor: train/loss, save_top_k: 2, filename: '{epoch.__class__}'}}"),
        [],
        ["callbacks.checkpoint", "epoch.__class__"],
    ),
    "no key=value": (GOOD, ["=5"], ["'=5': is not an override; write key=value"]),
    "no such entry": (GOOD, ["model[9].ReLU=1"], ["'model[9].ReLU=1': the list has no such entry"]),
    "half a list": (GOOD, ["trainer.max_epochs=[1"], ["'trainer.max_epochs=[1': "]),
    "2000 brackets": (GOOD, ["seed=" + "[" * 2000], ["'seed=[[["]),
    "a word of 5000 letters": (GOOD, ["x" * 5000 + "=1"], ["xxx: no such key"]),
    "a python object as value": (GOOD, ["seed=!!python/object/apply:os.system ['touch RAN']"], ["is not allowed"]),
    "no such option": (GOOD, ["--run-dri", "x"], ["fit: no option '--run-dri'; did you mean '--run-dir'?"]),
    "an option of another command": (GOOD, ["--out", "x.csv"], ["fit: no option --out; predict, compare have it"]),
    "resume of nothing": (GOOD, ["--resume", "nowhere"], ["resume: no nowhere; give a run's folder or a checkpoint"]),
    "resume without a run": (GOOD, ["--resume"], ["resume: logs/conf has no run of conf.yaml with a checkpoint"]),
    "resume of a folder that is not a run": (
        GOOD,
        ["--resume", "."],
        ["resume: . is not a run's folder, it has no file .trainkit-run"],
    ),
    "import of nothing": (GOOD, ["--import", "nowhere.py"], ["--import nowhere.py: no such file"]),
    "import of a YAML": (GOOD, ["--import", "conf.yaml"], ["conf.yaml: cannot be imported; needs a .py file"]),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("RAN").exists(), "a stranger's code ran"


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path, lines: int = 12) -> str:
    """What `trainkit words` says when it refuses: a few lines, exit 2."""
    capsys.readouterr()
    code = main([*map(str, words)])
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.strip(), "no message"
    assert "Traceback" not in said
    assert "fault in the code" not in said
    for line in said.splitlines():
        assert line.startswith(("error: ", "skipped: ", "epoch ")), line
        assert line.replace("\t", "").isprintable(), line
        assert "None" not in line or "=None" in line, line  # YAML says null
    assert len(said.splitlines()) <= lines, said
    return said


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_configuration_is_told_by_place_value_and_cure(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, words, expected = CONFIGS[name]
    if text is not None:
        Path("conf.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(capsys, "fit", "conf.yaml", *words, *([] if "--resume" in words else ["--run-dir", "run"]))
    assert [e for e in expected if e not in said] == [], said
    assert not list(Path().rglob("*.pt")), "a run that never began has checkpoints"


SHOTS = {
    "no command": (["fti", "conf.yaml"], "no command 'fti'; did you mean 'fit'?"),
    "no configuration": (["fit"], "fit: no CONF; give a YAML file"),
    "a folder for a configuration": (["fit", "."], ".: cannot be read, Is a directory"),
    "nothing to show": (["show"], "no CONF"),
    "no run": (["test"], "no RUN; give a run's folder or a checkpoint"),
    "no such run": (["test", "nowhere"], "nowhere: no such run"),
    "a configuration for a run": (["validate", "conf.yaml"], "conf.yaml: is not a .pt file"),
    "no such checkpoint": (["test", "nowhere.pt"], "checkpoint nowhere.pt: is not a file"),
    "a folder without checkpoints": (["predict", "."], "no such checkpoint; there are none"),
    "two runs": (["test", "a", "b"], "a, b: one RUN at a time"),
    "a path for a checkpoint": (["test", ".", "--checkpoint", "../../x"], "file name '../../x.pt'"),
    "an option with no use": (["show", "conf.yaml", "--resume"], "show: no option --resume; fit has it"),
    "an option without its value": (["fit", "conf.yaml", "--run-dir"], "--run-dir: no value; write --run-dir DIR"),
}


@pytest.mark.parametrize("name", SHOTS)
def test_a_bad_command_line_is_told_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf.yaml").write_text(GOOD)
    words, expected = SHOTS[name]
    assert expected in refused(capsys, *words, lines=1)


def test_all_errors_are_told_in_one_go(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        but("lr: 0.1", "lr: a")
        .replace("ReLU", "Rellu")
        .replace("train: 40", "trian: 40")
        .replace("max_epochs: 1", "max_epochs: x, min_epochs: -3, threads: 0, clip_norm: 0")
    )
    text = text.replace("CrossEntropyLoss", "Foo").replace("{checkpoint: {}}", "{chekpoint: {}, timer: {}}") + "x: 1\n"
    Path("conf.yaml").write_text(text)
    said = refused(capsys, "fit", "conf.yaml")
    for place in (
        "x:",
        "data:",
        "model[1]:",
        "loss:",
        "optimizer.SGD.lr:",
        "trainer.max_epochs:",
        "trainer.min_epochs:",
        "trainer.threads:",
        "trainer.clip_norm:",
        "callbacks.chekpoint:",
        "callbacks.timer:",
    ):
        assert f"error: {place}" in said
    assert len(said.splitlines()) == 11


def test_a_run_that_never_began_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf.yaml").write_text(but("[4, 2]", "[5, 2]"))
    refused(capsys, "fit", "conf.yaml")
    assert not [p for p in Path().rglob("*") if p.is_file() and p.name != "conf.yaml"]


# -- folders ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with conf.yaml and its finished run of two epochs in `run`, with all callbacks that keep a state."""
    folder = tmp_path_factory.mktemp("made")
    callbacks = (
        "{validation_split: {}, early_stopping: {patience: 5, restore_best: true}, csv_logger: {}, timer: {max_time: 1000},"
        " lr_scheduler: {ReduceLROnPlateau: {}}, checkpoint: {monitor: val/loss, save_top_k: 2, every_n_epochs: 1}}"
    )
    (folder / "conf.yaml").write_text(with_callbacks(callbacks).replace("max_epochs: 1", "max_epochs: 2"))
    assert main(["fit", str(folder / "conf.yaml"), "--run-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be spoilt."""
    for name, data in tree(made).items():
        target = tmp_path / Path(name).relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return Path("run")


def test_a_taken_folder_is_refused_and_stays_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(run)
    assert "holds a run already; continue it, --resume run" in refused(capsys, "fit", "conf.yaml", "--run-dir", run)
    assert tree(run) == before


def test_a_folder_at_work_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(run)
    with open(run / ".trainkit-run") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "run folder run: in use by another trainer" in refused(capsys, "fit", "--resume", run)
        assert tree(run) == before
    assert main(["fit", "--resume", str(run), "trainer.max_epochs=3"]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf.yaml").write_text(GOOD)
    Path("shut").mkdir(mode=0o500)
    assert "run folder shut/run: cannot be made" in refused(capsys, "fit", "conf.yaml", "--run-dir", "shut/run")


def test_a_file_for_a_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf.yaml").write_text(GOOD)
    said = refused(capsys, "fit", "conf.yaml", "--run-dir", "conf.yaml/run")
    assert "run folder conf.yaml/run: cannot be made or written (Not a directory); choose another with --run-dir" in said


def test_a_folder_whose_checkpoints_lead_elsewhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf.yaml").write_text(GOOD)
    Path("elsewhere").mkdir()
    Path("elsewhere/.tmp-mine").write_text("keep")
    Path("run").mkdir()
    Path("run/checkpoints").symlink_to(Path("elsewhere").resolve())
    assert "holds checkpoints, which is not a run's" in refused(capsys, "fit", "conf.yaml", "--run-dir", "run")
    Path("run/.trainkit-run").touch()
    assert "checkpoints is a link and could lead elsewhere" in refused(capsys, "fit", "conf.yaml", "--run-dir", "run")
    assert "checkpoints is a link and could lead elsewhere" in refused(capsys, "fit", "--resume", "run")
    assert os.listdir("elsewhere") == [".tmp-mine"]
    assert tree(Path("elsewhere")) == {"elsewhere/.tmp-mine": b"keep"}


# -- checkpoints -----------------------------------------------------------------------------------------------------------

LAST = Path("run/checkpoints/last.pt")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch RAN",)


def sealed(data: bytes) -> bytes:
    """`data` with trainkit's mark and checksum: what someone forges who has read the source."""
    import hashlib

    head = data[:-2] + struct.pack("<H", checkpoint.COMMENT_BYTES)
    return head + checkpoint.CHECKSUM_PREFIX + hashlib.sha256(head).hexdigest().encode()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return sealed(buffer.getvalue())


def deflated(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return sealed(out.getvalue())


def changed(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    content = torch.load(io.BytesIO(data), weights_only=True)
    change(content)
    return saved(content)


def flipped(data: bytes, at: int) -> bytes:
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


def ring() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def doubling(n: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(n):
        value = [value, value]
    return value


def deep(n: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(n):
        value = [value]
    return value


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is not a checkpoint (0 bytes"),
    "garbage": (lambda data: b"hello" * 100, "is not a checkpoint (500 bytes, begins with b'hell')"),
    "a picture": (lambda data: b"\x89PNG" + data[4:], "begins with b'\\x89PNG'"),
    "cut short": (lambda data: data[: len(data) // 2], "damaged or cut short"),
    "cut by a byte": (lambda data: data[:-1], "damaged"),
    "a byte more": (lambda data: data + b"x", ""),
    "deflated": (deflated, "compressed or overlap"),
    "from torch.save alone": (lambda data: data[: -checkpoint.COMMENT_BYTES - 2] + b"\0\0", "no trainkit checksum"),
    "another's checksum": (lambda data: data[:-1] + (b"0" if data[-1:] != b"0" else b"1"), "SHA-256 differs"),
    "a pickle": (lambda data: pickle.dumps(Evil()), "is not a checkpoint"),
    "code in a checkpoint": (lambda data: saved({"format": 1, "x": Evil()}), "something other than plain values"),
    "a whole module": (lambda data: saved(torch.nn.Linear(2, 2)), "something other than plain values"),
    "a list": (lambda data: saved([1]), "format a list of 1, this trainkit reads format 2"),
    "no format": (lambda data: saved({}), "format 'missing'"),
    "format 1": (lambda data: changed(data, lambda c: c.update(format=1)), "format 1, this trainkit reads format 2"),
    "format true": (lambda data: changed(data, lambda c: c.update(format=True)), "format True"),
    "format a tensor": (lambda data: changed(data, lambda c: c.update(format=torch.zeros(3))), "format a tensor"),
    "a stride bomb": (
        lambda data: changed(data, lambda c: c["model"].update({"0.weight": torch.zeros(1).expand(10**9)})),
        "model.0.weight: a tensor of float32 (1000000000,) does not match its bytes",
    ),
    "a tensor that wants gradients": (
        lambda data: changed(data, lambda c: c["model"]["0.weight"].requires_grad_()),
        "model.0.weight",
    ),
    "a parameter of torch.nn": (
        lambda data: changed(data, lambda c: c["model"].update({"0.bias": torch.nn.Parameter(torch.zeros(4))})),
        "something other than plain values",
    ),
    "a tensor without memory": (
        lambda data: changed(data, lambda c: c["model"].update({"0.weight": torch.zeros(4, 2, device="meta")})),
        "",
    ),
    "a list in itself": (lambda data: changed(data, lambda c: c["callbacks"].update(x=ring())), "occurs at several places"),
    "2^60 lists": (lambda data: changed(data, lambda c: c["callbacks"].update(x=doubling(60))), "occurs at several places"),
    "400 lists deep": (lambda data: changed(data, lambda c: c["callbacks"].update(x=deep(400))), ""),
    "a key that moves the cursor": (
        lambda data: changed(data, lambda c: c["model"].update({"\x1b[2Jx": 1})),
        r"model.\x1b[2Jx: 1; needs a tensor",
    ),
    "a number of 5000 digits": (
        lambda data: changed(data, lambda c: c["state"].update(step=10**5000)),
        "",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_forged_checkpoint_is_refused(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, expected = FILES[name]
    LAST.write_bytes(spoil(LAST.read_bytes()))
    for other in set(LAST.parent.iterdir()) - {LAST}:
        other.unlink()
    before = tree(run)
    said = refused(capsys, "test", run)
    assert str(LAST) in said
    assert expected in said
    assert "no valid checkpoint in run/checkpoints" in refused(capsys, "fit", "--resume", run, lines=14)
    assert tree(run) == before


def test_every_flipped_bit_is_noticed(made: Path, tmp_path: Path) -> None:
    data = (made / LAST).read_bytes()
    draw, path = random.Random(0), tmp_path / "x.pt"
    places = {draw.randrange(8 * len(data)) for _ in range(200)} | set(range(8 * (len(data) - 90), 8 * len(data), 7))
    for at in places:
        path.write_bytes(flipped(data, at))
        with pytest.raises(UserError):
            checkpoint.load(path)


ODD = [None, -1, 10**17, float("nan"), "x", True, [], {}, [None], torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for k in value:
            yield from places(value[k], (*path, k))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from places(value[i], (*path, i))


@pytest.mark.parametrize(
    "part", ["state", "model", "optimizer", "normalizer", "data", "rng", "metrics", "environment", "callbacks"]
)
def test_a_wrong_value_anywhere_is_refused_or_harmless(
    part: str, made: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value of a checkpoint, replaced by something odd or left out: a resume or an evaluation goes well or refuses."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # three hundred runs
    whole = checkpoint.load(made / LAST)
    draw = random.Random(part)
    for at in [p for p in places(whole) if p[0] == part]:
        for odd in [*draw.sample(ODD, 1), "leave out"]:
            content = copy.deepcopy(whole)
            holder: Any = content
            for k in at[:-1]:
                holder = holder[k]
            if isinstance(holder, tuple):
                continue
            if odd == "leave out":
                del holder[at[-1]]
            else:
                holder[at[-1]] = odd
            try:
                check_plain(content, "", set())
                check_types(content)
            except UserError:
                continue
            LAST.write_bytes(checkpoint.dump(content))
            for words in (["fit", "--resume", str(LAST), "trainer.max_epochs=3"], ["test", str(LAST)]):
                code = main(words)
                said = capsys.readouterr().err
                assert code in (0, 2), (at, odd, said)
                assert "Traceback" not in said


def state(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda c: c["state"].update(values)


CONTENTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "negative epoch": (state(epoch=-1), "state.epoch: -1; needs a whole number from 0"),
    "epoch as text": (state(epoch="3"), "state.epoch: '3'; needs a whole number"),
    "more batches than an epoch has": (state(batch=99, samples=[36]), "state.batch: 99; an epoch has 4"),
    "samples that do not add up": (state(batch=2, samples=[0]), "are not 0"),
    "too many replicas": (state(active=[True, True]), "state.active has 2"),
    "no replicas": (state(active=[], loss_sum=[]), "0 replicas"),
    "too many sums": (state(loss_sum=[0.0, 1.0]), "state.loss_sum: 2 values"),
    "a key more": (state(evil=1), "state: evil is not known"),
    "config a number": (lambda c: c.update(config=5), "config: 5; needs text"),
    "config that is none": (lambda c: c.update(config="a: [", state={**c["state"]}), "its configuration, line 2"),
    "config that imports": (lambda c: c.update(config=model("os.system")), "model[1]: no layer 'os.system'"),
    "config of Python": (lambda c: c.update(config=""), "holds no configuration"),
    "integer weights": (lambda c: c["model"].update({"0.bias": torch.zeros(4).long()}), "model.0.bias: a tensor of int64 (4,)"),
    "a deviation of 0": (lambda c: c["normalizer"].update(std=torch.zeros(2).double()), "normalizer"),
    "a mean of NaN": (lambda c: c["normalizer"].update(mean=torch.full((2,), torch.nan).double()), "normalizer"),
    "statistics of other data": (
        lambda c: c["normalizer"].update(mean=torch.zeros(3).double(), std=torch.ones(3).double()),
        "a sample is (2,), the checkpoint's normalizer.mean is (3,)",
    ),
    "no part callbacks": (lambda c: c.pop("callbacks"), "has no callbacks"),
    "a metric of many": (lambda c: c["metrics"].update(lr=[0.1, 0.2]), "metrics.lr: 2 values"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_checkpoint_of_plain_but_wrong_values_is_refused(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, expected = CONTENTS[name]
    LAST.write_bytes(changed(LAST.read_bytes(), change))
    said = refused(capsys, "test", run, "--checkpoint", "last")
    assert "last.pt" in said or "normalizer" in said or "model" in said
    assert expected in said


RESUMED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a count below 0": (lambda c: c["optimizer"].update(t=-5), "resume: optimizer: "),
    "a slot of another size": (lambda c: c["optimizer"].update(m=torch.zeros(3)), "optimizer: m has 3 numbers, the net 22"),
    "random numbers of another size": (
        lambda c: c["rng"].update(torch=torch.zeros(7, dtype=torch.uint8)),
        "random state cannot be set",
    ),
    "python's of another size": (
        lambda c: c["rng"].update(python=[3, torch.zeros(7).long(), None]),
        "random state cannot be set",
    ),
    "a stream of another size": (
        lambda c: c["rng"].update(passes=torch.zeros(1, 9, dtype=torch.uint8)),
        "another type of device",
    ),
    "a waited of text": (
        lambda c: c["callbacks"]["early_stopping"].update(waited=["x"]),
        "early_stopping: state.waited[0]: 'x'",
    ),
    "a best too many": (lambda c: c["callbacks"]["early_stopping"].update(best=[0.0, 1.0]), "early_stopping: state.best"),
    "parameters of another net": (
        lambda c: c["callbacks"]["early_stopping"].update(best_params={"9.weight": torch.zeros(2)}),
        "9.weight: in the state, not in the net",
    ),
    "files outside": (
        lambda c: c["callbacks"]["checkpoint"].update(kept=[[9.0, "../../conf.yaml", 4], [9.5, "../../conf.yaml", 8]]),
        "resume: callbacks.checkpoint: file name '../../conf.yaml'",
    ),
    "rows of text": (lambda c: c["callbacks"]["csv_logger"].update(rows="x"), "callbacks.csv_logger: state.rows: 'x'"),
    "a plateau of text": (
        lambda c: c["callbacks"]["lr_scheduler"].update(plateaus="x"),
        "callbacks.lr_scheduler: state.plateaus",
    ),
    "another split": (
        lambda c: c["callbacks"]["validation_split"]["settings"].update(seed=1),
        "has a different validation split",
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_lost(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = RESUMED[name]
    LAST.write_bytes(changed(LAST.read_bytes(), change))
    before = tree(Path())
    assert expected in refused(capsys, "fit", "--resume", LAST, "trainer.max_epochs=3")
    after = tree(Path())
    assert {k: v for k, v in after.items() if "config.yaml" not in k} == {
        k: v for k, v in before.items() if "config.yaml" not in k
    }


OTHER = {
    "another net": ("model[0].Linear=[2,5]", "model[2].Linear=[5,2]", "0.weight: the net has (5, 2), the state (4, 2)"),
    "another optimizer": ("optimizer={Adam: {}}", "seed=0", "the state has m, Adam needs m, v"),
    "other replicas": ("trainer.replicas=3", "seed=0", "the checkpoint has 1 replicas, trainer.replicas is 3"),
    "another fraction": ("callbacks.validation_split.fraction=0.5", "seed=0", "has a different validation split"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_resume_with_what_does_not_fit_names_it(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *words, expected = OTHER[name]
    assert expected in refused(capsys, "fit", "conf.yaml", "--resume", run, "trainer.max_epochs=3", *words)


def test_a_link_among_the_checkpoints_is_not_followed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAST.rename("outside.pt")
    LAST.symlink_to(Path("outside.pt").resolve())
    assert "last.pt: is a link" in refused(capsys, "test", run, "--checkpoint", "last")
    before = tree(Path())
    assert "last.pt is a link and could lead elsewhere" in refused(capsys, "fit", "--resume", run)
    assert tree(Path()) == before


def test_a_terminal_obeys_no_message(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (run / "config.yaml").read_text().replace("max_epochs: 2", 'max_epochs: "\\e]0;owned\\a"')
    LAST.write_bytes(changed(LAST.read_bytes(), lambda c: c.update(config=text)))
    assert main(["fit", "conf.yaml", "--resume", str(run)]) == 0
    said = capsys.readouterr()
    assert r"changed since the checkpoint: trainer.max_epochs: \x1b]0;owned\x07 -> 2" in said.out
    assert "\x1b" not in said.out + said.err


# -- the same from outside --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["fti"], ["fit", "conf.yaml", "seed=a"]])
def test_a_process_exits_2_with_its_words_on_stderr(words: list[str]) -> None:
    Path("conf.yaml").write_text(GOOD)
    done = subprocess.run([sys.executable, "-m", "trainkit", *words], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
