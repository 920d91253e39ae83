"""`callbacks/` at the top level: found in a checkout, an editable install and a wheel, one identity each."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import trainkit
import trainkit.callbacks
import trainkit.interop

ROOT = Path(__file__).parents[1]
CALLBACKS = sorted(p.stem for p in (ROOT / "callbacks").glob("*.py"))

CONF = """\
data: {name: disk, train: 40, test: 10}
model: [{Linear: [2, 4]}, ReLU, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1}}
trainer: {max_epochs: 1, batch_size: 10}
callbacks:
  {validation_split: {}, early_stopping: {}, mine: {word: hello}, checkpoint: null, tensorboard: null, progress_bar: null}
"""

MINE = """\
from trainkit import Callback


class Mine(Callback):
    def __init__(self, word: str) -> None:
        self.word = word

    def on_fit_end(self, session):
        print("mine says", self.word, "after", session.progress.step, "steps")
"""

TRAP = "raise SystemExit('a file that nobody named was imported')\n"

IDENTITY = """
import sys, trainkit, trainkit.callbacks, trainkit.interop
from trainkit.callbacks import EarlyStopping
assert trainkit.EarlyStopping is EarlyStopping is trainkit.callbacks.EarlyStopping
assert EarlyStopping.__module__ == "trainkit.callbacks.early_stopping", EarlyStopping.__module__
assert all(getattr(trainkit, n) is getattr(trainkit.callbacks, n) for n in trainkit.callbacks.__all__)
reference = trainkit.interop.find("torch")
assert sys.modules["trainkit.interop.torch_reference"] is reference
assert not {"callbacks", "rivals", "benchmarks"} & set(sys.modules)
print(sys.modules[EarlyStopping.__module__].__file__)
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder of somebody who has an own callback, an unfinished one, and one that bears a name of trainkit's."""
    folder = tmp_path / "user"
    (folder / "callbacks").mkdir(parents=True)
    (folder / "conf.yaml").write_text(CONF)
    (folder / "callbacks" / "mine.py").write_text(MINE)
    (folder / "callbacks" / "unfinished.py").write_text(TRAP)
    (folder / "callbacks" / "early_stopping.py").write_text(TRAP)
    (folder / "callbacks" / "__init__.py").write_text(TRAP)
    return folder


def python(*words: str, path: Path | None, folder: Path, interpreter: str = sys.executable) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([interpreter, *words], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def works_for(user: Path, path: Path | None, callbacks: Path, interpreter: str = sys.executable) -> None:
    """`python -m trainkit` trains with the user's own callback; trainkit's are from this folder."""
    said = python("-m", "trainkit", "fit", "conf.yaml", "--run-dir", "run", path=path, folder=user, interpreter=interpreter)
    assert "mine says hello after 4 steps" in said
    assert sorted(p.name for p in (user / "run").iterdir() if p.is_file()) == [
        ".trainkit-run",
        "config.yaml",
        "metrics.csv",
        "summary.json",
    ]
    files = python("-c", IDENTITY, path=path, folder=user, interpreter=interpreter).splitlines()
    assert [Path(f).resolve() for f in files] == [(callbacks / "early_stopping.py").resolve()]


def test_a_checkout_works_from_another_folder(user: Path) -> None:
    works_for(user, ROOT, ROOT / "callbacks")


def test_a_checkout_has_one_identity_of_each_callback() -> None:
    assert trainkit.EarlyStopping is trainkit.callbacks.EarlyStopping
    assert trainkit.callbacks.EarlyStopping.__module__ == "trainkit.callbacks.early_stopping"


def test_the_table_lists_the_files_that_are_there() -> None:
    assert sorted(trainkit.callbacks.TABLE) == CALLBACKS
    assert trainkit.callbacks.__all__ == sorted(trainkit._PUBLIC["callbacks"])
    for name, cls in trainkit.callbacks.TABLE.items():
        assert getattr(trainkit.callbacks, cls).__module__ == f"trainkit.callbacks.{name}"


def test_a_file_that_no_configuration_names_is_not_imported(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainkit.app.cli.main import main

    monkeypatch.chdir(user)
    for name in ("unfinish", "../callbacks/unfinished", "callbacks.unfinished", "Unfinished", "__init__", "mine.unfinished"):
        (user / "stranger.yaml").write_text(CONF.replace("mine: {word: hello}", f'"{name}": {{}}'))
        assert main(["show", "stranger.yaml"]) == 2
    (user / "stranger.yaml").write_text(CONF.replace(", mine: {word: hello}", ""))
    assert main(["show", "stranger.yaml"]) == 0


BROKEN = {
    "a mistake in it": ("import nothing_there\n", "callbacks/own.py: ModuleNotFoundError"),
    "no callback in it": ("x = 1\n", "callbacks/own.py: defines none; a file in callbacks/ defines exactly one subclass"),
    "two callbacks in it": (
        "from trainkit import Callback\nclass A(Callback): pass\nclass B(Callback): pass\n",
        "callbacks/own.py: defines A, B;",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_own_callback_is_told_by_its_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainkit.app.cli.main import main

    monkeypatch.chdir(tmp_path)
    Path("callbacks").mkdir()
    text, expected = BROKEN[name]
    Path("callbacks/own.py").write_text(text)
    Path("conf.yaml").write_text(CONF.replace("mine: {word: hello}", "own: {}"))
    assert main(["show", "conf.yaml"]) == 2
    assert f"error: callbacks.own: {expected}" in capsys.readouterr().err


# -- what is built -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it, without any network.

    They are made from a checkout in which a user has a callback of their own.
    """
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("built")
    checkout = tmp_path_factory.mktemp("checkout") / "trainkit"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "__pycache__", "logs", "dist"))
    (checkout / "callbacks" / "mine.py").write_text(MINE)
    words = ["-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", str(out), str(checkout)]
    python(*words, path=None, folder=out)
    return out


@pytest.fixture(scope="module")
def target(built: Path) -> Path:
    """The wheel, unpacked into an empty folder as an installer does with a pure one."""
    (wheel,) = built.glob("*.whl")
    folder = built / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_puts_nothing_but_trainkit_at_the_top(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"trainkit", f"trainkit-{trainkit.__version__}.dist-info"}
    assert sorted(Path(n).stem for n in names if n.startswith("trainkit/callbacks/") and n.endswith(".py")) == sorted(
        ["__init__", *CALLBACKS]
    )
    assert len(names) == len(set(names))
    assert not [n for n in names if "__pycache__" in n or "/tests/" in n]


def test_the_sdist_has_what_the_wheel_and_a_reader_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert {
        "callbacks/early_stopping.py",
        "trainkit/callbacks/__init__.py",
        "conf/mlp.yaml",
        "pyproject.toml",
        "README.md",
    } <= names
    assert sorted(Path(n).stem for n in names if n.startswith("callbacks/")) == CALLBACKS
    assert not [n for n in names if n.startswith((".data", "logs/", ".git/", ".venv"))]


def test_the_wheel_works_from_another_folder(target: Path, user: Path) -> None:
    works_for(user, target, target / "trainkit" / "callbacks")


@pytest.mark.slow
def test_an_editable_install_works_from_another_folder(user: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    pytest.importorskip("editables", reason="hatchling makes editable installs with it")
    python("-m", "venv", str(tmp_path / "venv"), path=None, folder=tmp_path)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "theirs.pth").write_text("\n".join(site.getsitepackages()) + "\n")  # torch is not installed again
    interpreter = str(tmp_path / "venv" / "bin" / "python")
    words = ["-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-index", "-e", str(ROOT)]
    python(*words, path=None, folder=tmp_path, interpreter=interpreter)
    works_for(user, None, ROOT / "callbacks", interpreter)
    script = tmp_path / "venv" / "bin" / "trainkit"
    assert subprocess.run([script, "--version"], capture_output=True, text=True).stdout == f"trainkit {trainkit.__version__}\n"
