"""A user's own source of data: found by its name, checked by its signature, exact when resumed with any number of workers."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from trainkit import load
from trainkit.app.cli.main import main
from trainkit.app.verify_resume import interrupt, verify

SOURCE = '''
"""Points whose position is changed at random by the dataset itself, and by a transform."""

import random

import numpy
import torch
import trainkit


class Points:
    def __init__(self, n):
        g = torch.Generator().manual_seed(n)
        self.x = torch.rand(n, 1, 4, 4, generator=g)
        self.t = (self.x.flatten(1).mean(1) > 0.5).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + 0.1 * torch.rand(()) * random.random() * numpy.random.rand(), self.t[i]


def points(n: int = 48, workers: int = 0):
    return trainkit.samples(Points(n), test=Points(9), workers=workers, transform=lambda x: x + 0.01 * torch.randn(1, 4, 4))
'''
CONF = """\
seed: 3
data: {name: points, workers: 0, augment: [{crop: 1}, flip, {noise: 0.05}]}
model: [Flatten, {Linear: [16, 4]}, Tanh, {Dropout: 0.2}, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {Adam: {lr: 0.02}}
trainer: {max_epochs: 2, batch_size: 5, device: cpu}
callbacks: {validation_split: {fraction: 0.2, every_n_steps: 3}, checkpoint: {}, csv_logger: {}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/points.py").write_text(SOURCE)
    Path("a.yaml").write_text(CONF)


def test_a_function_in_data_is_a_source_for_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["check", "a.yaml", "data.workers=1"]) == 0
    assert main(["fit", "a.yaml", "--run-dir", "run"]) == 0
    for command in ("test", "validate", "predict", "show"):
        assert main([command, "a.yaml" if command == "show" else "run"]) == 0
    x = torch.rand(3, 1, 4, 4)
    y = load("run").predict(x)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert torch.equal(load("../run").predict(x), y)
    assert main(["test", "../run"]) == 2
    assert "data: was given in Python; give it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.worker=2"], "data: no argument 'worker'; did you mean 'workers'?"),
        (["data.n=many"], "data.n: 'many'; needs a whole number, not text"),
        (
            ["data.name=point"],
            "data.name: no data 'point'; did you mean 'points'? (disk, idx, npy, csv,",
        ),
        (["data.n=0"], "data: Points has no sample"),
        (["data={name: broken}"], "data.name: broken raised ZeroDivisionError: division by zero; --debug prints where"),
        (["data={name: several}"], "data/several.py: defines the functions a, b; name the one that returns the data 'several'"),
        (["data={name: nothing}"], "data: is None; give a Dataset"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/broken.py").write_text("def broken():\n    1 / 0\n")
    Path("data/several.py").write_text("def a(): pass\ndef b(): pass\n")
    Path("data/nothing.py").write_text("def nothing(): pass\n")
    assert main(["fit", "a.yaml", *words]) == 2
    assert says in capsys.readouterr().err


RETURNS = {
    "arrays": "np.ones((9, 2), 'f4'), np.arange(9) % 2",
    "dataset": "trainkit.tensors(torch.ones(9, 2), torch.arange(9) % 2)",
    "samples": "[([1.0, 2.0], i % 2) for i in range(9)]",
    "loader": "DataLoader(TensorDataset(torch.ones(9, 2), torch.arange(9) % 2), batch_size=3, shuffle=True)",
}


@pytest.mark.parametrize("name", RETURNS)
def test_an_imported_function_may_return_what_a_fit_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    head = "import numpy as np, torch, trainkit\nfrom torch.utils.data import DataLoader, TensorDataset\n"
    Path(f"{name}_file.py").write_text(f"{head}def {name}():\n    return {RETURNS[name]}\n")
    Path("b.yaml").write_text(
        f"data: {{name: {name}}}\nmodel: [{{Linear: [2, 2]}}]\nloss: CrossEntropyLoss\noptimizer: {{SGD: {{lr: 0.1}}}}\n"
        "trainer: {max_epochs: 1, device: cpu}\ncallbacks: {progress_bar: null}\n"
    )
    assert main(["fit", "b.yaml", "--import", f"{name}_file.py", "--run-dir", "run"]) == 0
    err = capsys.readouterr().err
    said = "data: the batch_size 3 of the DataLoader is not used; trainer.batch_size is 32\n"
    assert (said in err) == (name == "loader")
    assert main(["fit", "b.yaml", "--import", f"{name}_file.py", "trainer.batch_size=3"]) == 0
    assert "batch_size" not in capsys.readouterr().err


@pytest.mark.slow
def test_runs_resumed_with_any_number_of_workers_are_exact(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, but for the run that is killed in a save, which is a fork of it. Each resume has other workers."""
    numbers = iter([1, 2, 4, 0, 2, 1])

    def process(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        words = (*words, f"data.workers={next(numbers)}") if module == "trainkit" else words
        if '"phase": "save"' in words[0]:
            if not (child := os.fork()):
                os._exit(interrupt.main(list(words)))
            return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "", "")
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = (main if module == "trainkit" else interrupt.main)(list(words))
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    monkeypatch.setattr(verify, "process", process)
    monkeypatch.setattr(verify, "IGNORED", {**verify.IGNORED, ("config",): "the number of workers"})
    assert main(["verify-resume", "a.yaml", "data.workers=2", "--points", "2"]) == 0, capsys.readouterr().out
    assert "5 of 5 resumed runs are bit-identical" in capsys.readouterr().out


TABLE = """
import trainkit

def mine(n: int = 20, letters: str = "ab", weight: float = 1.0{schema}):
    rows = {{
        "x": [float(i) for i in range(n)],
        "c": [letters[i % len(letters)] for i in range(n)],
        "t": [weight * i for i in range(n)],
    }}
    return trainkit.table(rows, "t", task="regression", test=0.25{passed})
"""
TABLE_CONF = """
data: {name: mine}
model: [{Linear: [auto, auto]}]
loss: MSELoss
optimizer: {SGD: {lr: 0.001}}
trainer: {max_epochs: 2, device: cpu}
callbacks: {checkpoint: {}}
"""


@pytest.mark.parametrize(("schema", "passed"), [("", ""), (", schema=None", ", schema=schema")], ids=["inferred", "given"])
def test_a_run_on_a_table_of_a_users_own_source_can_be_tested_predicted_and_continued(
    schema: str, passed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/mine.py").write_text(TABLE.format(schema=schema, passed=passed))
    Path("t.yaml").write_text(TABLE_CONF)
    Path("new.csv").write_text("c,x\nb,3\na,4\n")
    assert main(["fit", "t.yaml", "--run-dir", "run"]) == 0
    assert main(["test", "run"]) == 0
    assert main(["predict", "run"]) == 0
    assert len(Path("run/predictions.csv").read_text().splitlines()) == 1 + 5
    assert main(["predict", "run", "new.csv", "--out", "new_predictions.csv"]) == 0
    y = load("run").predict([{"c": "b", "x": 3.0}, {"c": "a", "x": 4.0}])
    written = [float(line.split(",")[-1]) for line in Path("new_predictions.csv").read_text().splitlines()[1:]]
    assert written == pytest.approx(y.flatten().tolist(), rel=1e-4)
    assert main(["fit", "t.yaml", "--resume", "run", "trainer.max_epochs=4"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["step"] == 4


def test_a_users_own_table_with_other_categories_than_the_checkpoints_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/mine.py").write_text(TABLE.format(schema="", passed=""))
    Path("t.yaml").write_text(TABLE_CONF)
    assert main(["fit", "t.yaml", "--run-dir", "run"]) == 0
    capsys.readouterr()
    assert main(["test", "run", "data.letters=az"]) == 2
    err = capsys.readouterr().err
    assert "mine returns a table with another schema than the checkpoint's (columns differ)" in err
    assert "let mine take an argument schema=None" in err
