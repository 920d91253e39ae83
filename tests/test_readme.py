"""The README's promises: its Python runs as it stands, its links lead somewhere, its commands exist."""

import random
import re
from pathlib import Path

import pytest

from trainkit.app.cli.main import main
from trainkit.app.cli.options import COMMANDS
from trainkit.metrics.table import METRICS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) == 6


def is_of_the_table(block):
    return "logs/customers" in block


def customers(n, cities, last):
    """Rows of a table as the README describes it, whose column `churn`, if it is there, follows from the others."""
    draw = random.Random(n)
    lines = ["id,age,city,income,signed_up" + (",churn" if last else "")]
    for i in range(n):
        age, income = draw.randint(18, 80), draw.choice(["", *range(20_000, 90_000, 500)])
        row = [f"c{i}", age, draw.choice(cities), income, f"20{draw.randint(10, 25)}-0{draw.randint(1, 9)}-15"]
        lines.append(",".join(map(str, [*row, *(["yes" if age > 65 else "no"] if last else [])])))
    return "\n".join(lines) + "\n"


def test_the_path_of_a_table_runs_as_it_stands(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (conf,) = re.findall(r"```yaml\n(data:\n  name: csv\n.*?)```", README, re.DOTALL)
    Path("customers.yaml").write_text(conf)
    Path("customers.csv").write_text(customers(200, ["Rome", "Oslo", ""], last=True))
    Path("new_customers.csv").write_text(customers(9, ["Rome", "Lima"], last=False))
    (commands,) = re.findall(r"```sh\n(trainkit fit customers.yaml.*?)```", README, re.DOTALL)
    for line in commands.splitlines():
        assert main(line.split()[1:]) == 0, capsys.readouterr().err
    header, *lines = Path("predictions.csv").read_text().splitlines()
    assert len(lines) == 9
    assert header == "row,id,p_no,p_yes,answer"
    assert "(of class 'yes')" in capsys.readouterr().out
    (service,) = filter(is_of_the_table, BLOCKS)
    exec(compile(service, "README.md", "exec"), {"__name__": "readme"})
    assert "('no', 'yes')" in capsys.readouterr().out


EXAMPLES = [block for block in BLOCKS if not is_of_the_table(block)]


@pytest.mark.parametrize("block", EXAMPLES, ids=["trainer", "metrics", "by hand", "layer", "callback"])
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
