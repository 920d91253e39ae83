"""The examples of docs/predictions.md run in its order, and the file begins as the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from trainkit.app.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "predictions.md").read_text(encoding="utf-8")


def test_the_examples_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    blocks = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "python", "python", "sh", "python"]
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, "predictions.md", "exec"), namespace)
            continue
        for line in block.splitlines():
            assert main(shlex.split(line)[1:]) == 0
    out = capsys.readouterr().out
    assert "['leaves', 'stays']" in out
    assert "true \\ predicted" in out
    (shown,) = re.findall(r"```\n(row,.*?)\n(.*?)\n```", PAGE)
    header, first, *_ = Path("run/predictions.csv").read_text().splitlines()
    assert header == shown[0]
    assert (first.split(",")[:2], first.split(",")[4:]) == (shown[1].split(",")[:2], shown[1].split(",")[4:])
    assert Path("answers.csv").read_text().splitlines()[0] == "row,p_leaves,p_stays,answer"
