"""What a type checker knows of the public names: a user's script passes `mypy --strict`, wrong arguments do not."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from stubs import ROOT, STUBS, formatted

import trainkit

# One statement that uses each public name, as a user would.
USES = {
    "Add": "Add()",
    "Adagrad": "Adagrad(net.param(), lr=0.1)",
    "Adam": "Adam(net.param(), lr=0.1, betas=(0.9, 0.99))",
    "AdamW": "AdamW(net.param(), weight_decay=0.1)",
    "BCELoss": "BCELoss()",
    "BCEWithLogitsLoss": "BCEWithLogitsLoss(pos_weight=2.0)",
    "CSVLogger": "CSVLogger()",
    "Callback": "Callback()",
    "Checkpoint": 'Checkpoint("val/loss", mode="min", save_top_k=2)',
    "Concat": "Concat(dim=1)",
    "CrossEntropyLoss": "CrossEntropyLoss(label_smoothing=0.1)",
    "Dataset": "data",
    "Dropout": "Dropout(0.5)",
    "ELU": "ELU(alpha=1.0)",
    "EarlyStopping": 'EarlyStopping("val/loss", patience=3)',
    "EmbedColumns": "EmbedColumns([9, 16], dim=4)",
    "Experiment": "trainkit.load('run')",
    "FanOut": "FanOut(2)",
    "Flatten": "Flatten()",
    "GELU": 'GELU(approximate="tanh")',
    "GradientNorms": "GradientNorms()",
    "HuberLoss": "HuberLoss(delta=2.0)",
    "Identity": "Identity()",
    "L1Loss": 'L1Loss(reduction="sum")',
    "LRScheduler": 'LRScheduler(CosineAnnealingLR={"T_max": 10})',
    "LeakyReLU": "LeakyReLU(0.1)",
    "Linear": "Linear(2, 3, bias=False)",
    "LogSoftmax": "LogSoftmax(dim=1)",
    "Loss": "trainkit.MSELoss()",
    "MSELoss": "MSELoss()",
    "Module": "net",
    "NLLLoss": "NLLLoss(weight=[0.5, 1.0])",
    "Optimizer": "trainkit.SGD(net.param())",
    "Parallel": "Parallel(trainkit.ReLU(), trainkit.Tanh())",
    "ProgressBar": "ProgressBar()",
    "RMSprop": "RMSprop(net.param(), alpha=0.9)",
    "ReLU": "ReLU()",
    "Recompute": "Recompute(trainkit.ReLU())",
    "Residual": "Residual(trainkit.ReLU())",
    "SGD": "SGD(net.param(), lr=[0.1, 0.2], momentum=0.9)",
    "Sequential": "Sequential(trainkit.Linear(2, 3), trainkit.ReLU())",
    "Session": "trainkit.Trainer().fitted()",
    "SiLU": "SiLU()",
    "Sigmoid": "Sigmoid()",
    "SignSGD": "SignSGD(net.param())",
    "Softmax": "Softmax()",
    "Softplus": "Softplus(beta=2.0)",
    "Split": "data.train",
    "Tanh": "Tanh()",
    "TensorBoard": "TensorBoard()",
    "TerminateOnNaN": "TerminateOnNaN()",
    "Timer": 'Timer("00:10:00")',
    "Trainer": 'Trainer(max_epochs=3, engine="auto", callbacks=[trainkit.Timer(3)])',
    "UserError": 'UserError("text")',
    "ValidationSplit": "ValidationSplit(0.2, stratify=True)",
    "csv": 'csv("data.csv", target="class", delimiter=";", drop=["id"], missing="median")',
    "disk": "disk(100, 10)",
    "gradcheck": "gradcheck(net, x)",
    "idx": 'idx("folder")',
    "image_folder": 'image_folder("folder", test=0.2, size=[28, 28], color="gray")',
    "load": 'load("run", "trainer.max_epochs=3", checkpoint="best")',
    "npy": 'npy("x.npy", "t.npy")',
    "parquet": 'parquet("data.parquet", ["a", "b"], encode="codes", weight="w")',
    "samples": 'samples([(x[0], 1)], workers=2, classes=["a", "b"])',
    "table": 'table({"a": [1, 2], "t": [0, 1]}, "t", test=0.5, positive="1")',
    "tensors": 'tensors(x, t, normalize="feature")',
}
FUNCTIONS = {"csv", "disk", "gradcheck", "idx", "image_folder", "load", "npy", "parquet", "samples", "table", "tensors"}
RESULTS = {"gradcheck": "list[object]", "load": "trainkit.Experiment"}
HEAD = """\
import torch

import trainkit

x = torch.rand(4, 2)
t = torch.tensor([0, 1, 0, 1])
net: trainkit.Module = trainkit.Sequential(trainkit.Linear(2, 3))
data: trainkit.Dataset = trainkit.tensors(x, t, weight=torch.ones(len(x)))
"""
TAIL = """\
from trainkit.callbacks import EarlyStopping as A
from trainkit.nn import Linear as B
from trainkit.optim import SGD as C
from trainkit.data import tensors as D


class Mine(trainkit.Callback):
    def on_train_epoch_end(self, session: trainkit.Session) -> None:
        session.log("mine", session.metrics["val/loss"])
        if session.progress.epoch > 3:
            session.stop("mine", "enough")


trainer = trainkit.Trainer(callbacks={"mine": Mine()})
summary: dict[str, object] = trainer.fit(net, trainkit.MSELoss(), C(net.param()), D(x, t), resume="run")
y: torch.Tensor = trainer.predict(x)
p: torch.Tensor = trainer.predict_proba(x, replica=0)
answers: list[str] = trainer.predict_classes(x)
tested: dict[str, float | list[float]] = trainer.test()
validated: dict[str, float | list[float]] = trainer.validate(data)
rows: list[dict[str, object]] = [dict(row) for row in trainer.history]
model: trainkit.Experiment = trainkit.load("run")
again: torch.Tensor = model.predict(x)
of_rows: torch.Tensor = model.predict_proba([{"a": 1.0, "color": "red"}])
names: tuple[str, ...] | None = model.classes
positive: int | None = model.positive
parts: tuple[trainkit.Module, dict[str, object]] = model.net, model.fit(max_epochs=3)
"""
WRONG = {
    'trainkit.Trainer(max_epochs="many")': "arg-type",
    'trainkit.Linear("2", 3)': "arg-type",
    "trainkit.Linear(2)": "call-arg",
    "trainkit.Lineer(2, 3)": "attr-defined",
    'trainkit.csv("data.csv", "t", dropp=["a"])': "call-arg",
    'trainkit.parquet("data.parquet", "t", drop="a")': "arg-type",
    'trainkit.Trainer(engine="fast")': "arg-type",
    "trainkit.EarlyStopping(patience=[1])": "arg-type",
    "trainkit.SGD(net.param(), rate=0.1)": "call-arg",
    "trainkit.Trainer().fit(net, trainkit.MSELoss(), data, data)": "arg-type",
}


def right() -> str:
    """A script that uses every public name."""
    lines = []
    for i, (name, use) in enumerate(USES.items()):
        made = f"trainkit.{use}" if use.startswith(f"{name}(") else use
        kind = RESULTS.get(name, "trainkit.Dataset") if name in FUNCTIONS else f"trainkit.{name}"
        lines.append(f"v{i}: {kind} = {f'list({made})' if name == 'gradcheck' else made}")
    return HEAD + "\n".join(lines) + "\n" + TAIL + "print(A, B, trainkit.__version__)\n"


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `mypy --strict` says of two scripts of a user, `right.py` and `wrong.py`, in a folder of their own.

    The settings are those of pyproject.toml, strict as well, so that what `python tests` has read of torch is not read again.
    """
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "right.py").write_text(right())
    (folder / "wrong.py").write_text(HEAD + "\n".join(WRONG) + "\n")
    if (ROOT / ".mypy_cache").exists():
        shutil.copytree(ROOT / ".mypy_cache", folder / "cache")
    settings = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", "cache"]
    words = ["-m", "mypy", *settings, "right.py", "wrong.py"]
    environment = {"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environment)
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.mark.parametrize("name", STUBS)
def test_a_stub_says_what_the_source_has(name: str) -> None:
    """`python tests/public/stubs.py` writes them anew."""
    assert (ROOT / name).read_text(encoding="utf-8") == formatted(STUBS[name]())


@pytest.mark.slow
def test_a_script_with_every_public_name_is_typed(complaints: list[str]) -> None:
    assert sorted(USES) == sorted(set(trainkit.__all__) - {"__version__"})
    assert [line for line in complaints if not line.startswith("wrong.py")] == []


@pytest.mark.slow
def test_wrong_arguments_and_names_are_found(complaints: list[str]) -> None:
    first = HEAD.count("\n") + 1
    found = {int(c.split(":")[1]): c.rsplit("[", 1)[1].rstrip("]") for c in complaints if c.startswith("wrong.py")}
    assert found == {first + i: code for i, code in enumerate(WRONG.values())}
