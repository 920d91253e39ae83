"""The README's promises: its Python runs as it stands, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest

from trainkit.app.cli.options import COMMANDS
from trainkit.metrics.table import METRICS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("block", BLOCKS, ids=["trainer", "metrics", "by hand", "layer", "callback"])
def test_an_example_runs_as_it_stands(block, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_commands_exist():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    commands = re.findall(r"^(?:.*/)?trainkit (\S+) ", shell, re.MULTILINE)
    assert len(commands) > 8
    assert set(commands) <= set(COMMANDS)


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_table_names_every_metric():
    (row,) = re.findall(r"^\| metrics \| (.*) \|$", README, re.MULTILINE)
    assert sorted(re.split(r"[,;] ", row)) == sorted(METRICS)
