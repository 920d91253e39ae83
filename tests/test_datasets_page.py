"""docs/datasets.md: its Python runs as it stands, and its table of augmentations is complete."""

import re
from pathlib import Path

import pytest

from trainkit.app.cli.main import main
from trainkit.data.transforms.augmentations import AUGMENTATIONS

PAGE = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["loader", "map-style", "augmentation", "own source"])
def test_an_example_runs_as_it_stands(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "datasets.md", "exec"), {"__name__": "page"})


def test_the_own_source_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/parity.py").write_text(BLOCKS[-1])
    Path("a.yaml").write_text(
        "data: {name: parity, bits: 6}\nmodel: [{Linear: [6, 2]}]\nloss: CrossEntropyLoss\n"
        "optimizer: {SGD: {lr: 0.1}}\ntrainer: {max_epochs: 1}\ncallbacks: {progress_bar: null}\n"
    )
    assert main(["fit", "a.yaml", "--run-dir", "run"]) == 0


def test_the_table_names_every_augmentation():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(AUGMENTATIONS)
