"""`checkpoint show`, `verify`, `diff`: what a file holds, whether it is whole, what differs; a stranger's file does no harm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import Adam, CSVLogger, Linear, MSELoss, Sequential, Trainer
from trainkit.app.cli.main import main
from trainkit.checkpoint import file as checkpoint
from trainkit.checkpoint.plain import to_plain
from trainkit.core.diff import by_size, differences
from trainkit.data.sources.tensors import tensors


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a small run saves after its last step; the file is a.pt."""
    monkeypatch.chdir(tmp_path)
    config = "seed: 3\nloss: MSELoss\n"
    trainer = Trainer(max_epochs=1, batch_size=2, run_dir="run", callbacks=[CSVLogger()], config=config, device="cpu")
    net = Sequential(Linear(2, 1))
    trainer.fit(net, MSELoss(), Adam(net.param()), tensors(torch.ones(4, 2), torch.ones(4, 1)))
    content = to_plain(trainer.session.snapshot())
    checkpoint.save(content, Path("a.pt"))
    content["params_sha256"] = trainer.summary["params_sha256"]
    return content


def changed(whole: dict[str, Any], **parts: Any) -> Path:
    content = {k: v for k, v in whole.items() if k != "params_sha256"}
    checkpoint.save({**content, **parts}, Path("b.pt"))
    return Path("b.pt")


# -- show ------------------------------------------------------------------------------------------------------------------


def test_show_tells_what_is_in_a_file(whole: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", "a.pt"]) == 0
    out = capsys.readouterr().out
    norm = float(whole["model"]["0.weight"].double().norm())
    for part in (
        f"a.pt: format 2, {Path('a.pt').stat().st_size:,} bytes",
        "position: epoch 1, step 2, batch 0, replicas 1",
        "configuration: seed 3, data None, loss MSELoss",
        f"parameters: 3 numbers, sha256 {whole['params_sha256']}",
        f"  0.weight  float32 (1, 2), norm {norm:.6g}",
        "optimizer: after 2 steps",
        "  m  float32 (3,)",
        "  csv_logger  rows 1, step 2, at_step 1, tail ",
        "  train/loss  [",
        "written with trainkit",
        "threads 1, device cpu, dtype float32",
    ):
        assert part in out, part


def test_what_a_stranger_wrote_is_escaped_and_bounded(whole: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[31mred\n" * 50
    metrics = {f"{evil}{i}": [0.5] for i in range(1000)}
    callbacks = {evil: {evil: evil, **{f"k{i}": 0 for i in range(10_000)}}}
    config = f'seed: 0\nloss: "{evil.encode("unicode_escape").decode()}"'
    changed(whole, metrics=metrics, callbacks=callbacks, config=config)
    for words in (["show", "b.pt"], ["verify", "b.pt"], ["diff", "a.pt", "b.pt"]):
        main(["checkpoint", *words])
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert max(map(len, out.splitlines())) < 1100
        assert len(out.splitlines()) < 120


# -- verify ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("whole")
def test_verify_names_every_check_of_a_whole_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", "a.pt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [*(f"ok         {check}" for check in checkpoint.CHECKS), "a.pt: valid"]


def zeroed(data: bytes) -> bytes:
    at = data.index(b"0.weight")
    return data[:at] + b"9" + data[at + 1 :]


@pytest.mark.parametrize(
    ("harm", "fails", "reason"),
    [
        (lambda data: b"hello" + data, 1, "begins with b'hell'"),
        (lambda data: data[:-100], 2, "cut short"),
        (lambda data: data[:-30] + b"x" * 30, 5, "its SHA-256 differs"),
        (zeroed, 4, "CRC of"),
    ],
    ids=["other", "cut", "checksum", "bit"],
)
def test_verify_says_which_check_a_damaged_file_fails(
    harm: Any, fails: int, reason: str, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b.pt").write_bytes(harm(Path("a.pt").read_bytes()))
    assert main(["checkpoint", "verify", "b.pt"]) == 1
    out, err = capsys.readouterr()
    words = [line[:11].strip() for line in out.splitlines()[: len(checkpoint.CHECKS)]]
    rest = ["not run"] * (len(checkpoint.CHECKS) - fails - 1)
    assert words == ["ok"] * fails + ["FAILED"] + rest
    assert reason in out
    assert err == ""


def test_verify_fails_what_does_not_agree(whole: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    changed(whole, metrics={"val/loss": [1.0, 2.0]})
    assert main(["checkpoint", "verify", "b.pt"]) == 1
    out = capsys.readouterr().out
    assert f"FAILED     {checkpoint.CHECKS[-1]}" in out
    assert "metrics.val/loss: 2 values, state.active has 1" in out


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "none.pt"], "checkpoint none.pt: is not a file"),
        (["diff", "a.pt"], "checkpoint diff: 1 files; needs 2"),
        (["shwo", "a.pt"], "checkpoint: no 'shwo'; did you mean 'show'?"),
        ([], "checkpoint show FILE"),
    ],
)
def test_a_mistake_in_the_words_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", *words]) == 2
    assert said in capsys.readouterr().err


# -- diff ------------------------------------------------------------------------------------------------------------------


def test_diff_of_equal_files_is_nothing(whole: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    changed(whole)
    assert main(["checkpoint", "diff", "a.pt", "b.pt"]) == 0
    assert capsys.readouterr().out == "no bit differs\n"


def test_diff_goes_part_by_part_the_largest_first(whole: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = {k: v.clone() for k, v in whole["model"].items()}
    model["0.weight"][0, 1] += 0.25
    model["0.bias"] += 0.5
    changed(whole, model=model, config="seed: 3\nloss: L1Loss\n", metrics={"train/loss": whole["metrics"]["train/loss"]})
    assert main(["checkpoint", "diff", "a.pt", "b.pt"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "config: 1 difference"
    assert lines[1] == "  config: line 2: 'loss: MSELoss' and 'loss: L1Loss'"
    assert lines[2] == "model: 2 differences"
    assert lines[3].startswith("  model.0.bias: 1 of 1 differ, by up to 0.5, first at [0]: ")
    assert lines[4].startswith("  model.0.weight: 1 of 2 differ, by up to 0.25, first at [0, 1]: ")
    assert lines[5] == "metrics: 1 difference"
    assert lines[6] == "  metrics.lr: only in the first: a list of 1"
    assert lines[7] == "3 of 12 entries differ"


# -- gaps ------------------------------------------------------------------------------------------------------------------

ONE = torch.tensor([1.0, math.nan, 0.0])


@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [
        (math.nan, math.nan, []),
        (0.0, -0.0, [0.0]),
        (1, 1.0, [0.0]),
        (1, True, [0.0]),
        (1.0, math.nan, [math.inf]),
        ("a", "b", [math.inf]),
        ([1, 2], [1, 4], [2.0]),
        ([1], [1, 2], [math.inf]),
        ({"x": 1}, {"y": 1}, [math.inf, math.inf]),
        (ONE, ONE.clone(), []),
        (ONE, ONE.double(), [math.inf]),
        (ONE, torch.tensor([1.5, math.nan, 0.0]), [0.5]),
        (ONE, torch.tensor([1.0, math.nan, -0.0]), [0.0]),
        (ONE, torch.tensor([1.0, 2.0, 0.0]), [math.inf]),
        (torch.tensor(3), torch.tensor(5), [2.0]),
        (torch.tensor(True), torch.tensor(False), [1.0]),
        (torch.ones(2, dtype=torch.complex64), torch.zeros(2, dtype=torch.complex64), [math.inf]),
        (torch.zeros(2, dtype=torch.uint8).view(torch.bits8), torch.ones(2, dtype=torch.uint8).view(torch.bits8), [math.inf]),
        (torch.zeros(0), torch.zeros(0), []),
        (ONE, [1.0], [math.inf]),
        (None, None, []),
    ],
)
def test_bits_are_compared_and_the_size_is_told(a: Any, b: Any, sizes: list[float]) -> None:
    assert [gap.size for gap in differences(a, b, "here")] == sizes


def test_the_largest_gap_comes_first() -> None:
    found = by_size(differences({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.5, "b": 3.0, "c": 1.0}))
    assert [(gap.place, gap.size) for gap in found] == [("b", 2.0), ("a", 0.5)]
