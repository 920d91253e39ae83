"""Checkpoint and the lists of a checkpoint: whatever they say, only files of the run itself are deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted import contents, files, run

from trainkit import Checkpoint, UserError
from trainkit.checkpoint import file as checkpoint


def forge(folder: Path, **lists: Any) -> None:
    path = folder / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["callbacks"]["checkpoint"].update(lists)
    checkpoint.save(content, path)


FOREIGN: dict[str, list[Any]] = {  # file names, with what the list says of them
    "notes": ["notes.txt"],
    "own but last": ["last.pt", "best.pt", "final.pt"],
    "other checkpoints": ["other.pt", "epoch01-step3.pt.pt"],
    "another run's file under a name of the template": ["epoch9-step27.pt"],
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("key", ["kept", "gone"])
def test_a_forged_list_deletes_no_file_that_is_not_the_run_s(name: str, key: str, tmp_path: Path) -> None:
    run(tmp_path / "theirs", [3, 2, 1], Checkpoint("score", "min", save_top_k=3, every_n_epochs=1))
    run(tmp_path / "mine", [3, 2], Checkpoint("score", "min", save_top_k=2, every_n_epochs=1))
    folder = tmp_path / "mine" / "checkpoints"
    for file in FOREIGN[name]:
        if not (folder / file).exists():
            (folder / file).write_bytes((tmp_path / "theirs" / "checkpoints" / "epoch3-step9.pt").read_bytes())
    forge(tmp_path / "mine", **{key: [[score, file, step] for file in FOREIGN[name] for score, step in ((9.0, 3), (9.0, 6))]})
    before = contents(tmp_path / "mine")
    run(tmp_path / "mine", [3, 2, 1, 0.5], Checkpoint("score", "min", save_top_k=1, every_n_epochs=1), resume=True)
    after = contents(tmp_path / "mine")
    written = {"last.pt", "best.pt", "final.pt"}  # the run's own; final.pt is deleted by every run
    assert {f: after.get(f) for f in FOREIGN[name] if f not in written} == {
        f: before[f] for f in FOREIGN[name] if f not in written
    }
    assert {"last.pt", "best.pt"} <= set(after)


def test_a_listed_file_is_told_about_if_it_is_not_the_one_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, [3, 2], Checkpoint("score", "min", save_top_k=2))
    forge(tmp_path, gone=[[3.5, "epoch1-step3.pt", 3]], kept=[[2.0, "epoch2-step6.pt", 6]])  # it has another score
    run(tmp_path, [3, 2, 1], Checkpoint("score", "min", save_top_k=2), resume=True)
    assert "callbacks.checkpoint: not deleted, these are not the files that the checkpoint lists: epoch1-step3.pt" in (
        capsys.readouterr().err
    )
    assert "epoch1-step3.pt" in files(tmp_path)


@pytest.mark.parametrize("entry", [[0.5, "last.pt", 3], [0.5, "epoch1-step3.pt", 3]], ids=["last.pt", "a ranked file"])
@pytest.mark.parametrize("key", ["kept", "gone"])
def test_a_list_of_thousands_costs_no_time(key: str, entry: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, [3, 2], Checkpoint("score", "min", save_top_k=2))
    forge(tmp_path, **{key: [entry] * 20_000})
    read: list[str] = []
    monkeypatch.setattr("trainkit.callbacks.checkpoint.load", lambda path: read.append(path.name) or checkpoint.load(path))
    run(tmp_path, [3, 2, 1], Checkpoint("score", "min", save_top_k=90_000), resume=True)
    assert len(read) <= 3


def test_another_template_on_resume_leaves_the_old_files_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, [3, 2], Checkpoint("score", "min", save_top_k=2))
    run(tmp_path, [3, 2, 1, 0], Checkpoint("score", "min", save_top_k=1, filename="net{epoch}"), resume=True)
    said = capsys.readouterr().err
    assert "no longer ranked, since filename cannot produce these names: epoch1-step3.pt, epoch2-step6.pt" in said
    assert files(tmp_path) == ["best.pt", "epoch1-step3.pt", "epoch2-step6.pt", "last.pt"]


@pytest.mark.parametrize("name", ["../outside.pt", "/etc/x.pt", "a/../../outside.pt", "..", "-x.pt"])
@pytest.mark.parametrize("key", ["kept", "gone"])
def test_a_strangers_checkpoint_deletes_no_file_outside(name: str, key: str, tmp_path: Path) -> None:
    run(tmp_path / "run", [3, 2], Checkpoint("score", "min", save_top_k=2))
    victim = tmp_path / "run" / "outside.pt"
    victim.write_text("mine")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["callbacks"]["checkpoint"][key] = [[9.0, name, 3]]
    checkpoint.save(content, path)
    with pytest.raises(UserError, match="needs a plain name"):
        run(tmp_path / "run", [3, 2, 1, 0], Checkpoint("score", "min", save_top_k=1), resume=True)
    assert victim.read_text() == "mine"
