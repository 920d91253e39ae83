"""The examples of docs/data.md run one after the other, and print what their comments say."""

import re
from pathlib import Path

import pytest
import yaml

from trainkit.data.tables.options import CsvOptions

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_examples_print_what_their_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "data"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        comments = re.findall(r"^print\(.*\)(?:  # (.*))?$", block, re.MULTILINE)
        exec(compile(block, "docs/data.md", "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == len(comments)
        for line, comment in zip(printed, comments, strict=True):
            begin = re.sub(r", \.\.\.$", "", re.sub(r"^labels: ", "", comment))
            begin = begin.partition(": the ")[0] if re.match(r"\d+: the", begin) else begin
            assert line.startswith(begin) or begin.startswith("the "), (line, comment)


def test_each_option_is_explained() -> None:
    for name in CsvOptions.__annotations__:
        assert re.search(rf"\b{name}\b", PAGE), name


def test_the_configurations_are_yaml() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        assert yaml.safe_load(block)["data"]["name"] == "csv"
