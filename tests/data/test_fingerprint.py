"""A resumed run notices that its data have changed, and refuses them where rows may have moved to another part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainkit import SGD, Callback, Dataset, Linear, MSELoss, Sequential, Trainer, UserError, ValidationSplit, npy, tensors
from trainkit.app.cli.main import main
from trainkit.checkpoint.plain import to_plain
from trainkit.data import fingerprint as fingerprint_file
from trainkit.data.fingerprint import fingerprint
from trainkit.data.sources.npy import as_inputs, open_npy
from trainkit.trainer.session import Session

N = 40
X = torch.rand(N, 3, generator=torch.Generator().manual_seed(0))
T, HELD = X.sum(1), torch.rand(10, 3, generator=torch.Generator().manual_seed(1))
MIXED = torch.randperm(N, generator=torch.Generator().manual_seed(2))


class Keep(Callback):
    def __init__(self) -> None:
        self.snapshots: list[dict[str, Any]] = []

    def on_checkpoint(self, session: Session) -> None:
        self.snapshots.append(to_plain(session.snapshot()))


def data(x: torch.Tensor = X, t: torch.Tensor = T, test: torch.Tensor | None = HELD) -> Dataset:
    return tensors(x, t, test=None if test is None else (test, test.sum(1)))


def fit(on: Dataset, split: bool = True, resume: dict[str, Any] | None = None, epochs: int = 2) -> list[dict[str, Any]]:
    keep = Keep()
    net = Sequential(Linear(3, 1)).initialize(torch.Generator().manual_seed(0))
    callbacks = [*([ValidationSplit(0.25)] if split else []), keep]
    trainer = Trainer(max_epochs=epochs, batch_size=8, device="cpu", callbacks=callbacks)
    trainer.fit(net, MSELoss(), SGD(net.param(), 0.1), on, resume=resume)
    return keep.snapshots


REFUSED: dict[str, tuple[Callable[[], Dataset], bool, str]] = {
    "a training row that is a test row now": (lambda: data(X[1:], T[1:], X[:1]), False, "training and test split"),
    "other data throughout": (
        lambda: data(X + 1, T, HELD + 1),
        True,
        "is not the data of the training, it has for the validation split 0 of the 10 rows held out then; use the original",
    ),
    "other data throughout, of given splits": (lambda: data(X + 1, T, HELD + 1), False, "training and test split"),
}


@pytest.mark.parametrize(("changed", "split", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_resume_refuses_data_of_which_rows_may_have_moved(changed: Callable[[], Dataset], split: bool, says: str) -> None:
    content = fit(data(), split)[-1]
    with pytest.raises(UserError, match=says):
        fit(changed(), split, resume=content, epochs=3)


TOLD: dict[str, tuple[Callable[[], Dataset], list[str]]] = {
    "nothing": (data, []),
    "the same in float64": (lambda: data(X.double(), T.double()), []),
    "training rows": (lambda: data(X[MIXED], T[MIXED]), ["training"]),
    "training targets": (lambda: data(t=T + 1), ["training"]),
    "test rows": (lambda: data(test=HELD + 1), ["test"]),
    "no test part": (lambda: data(test=None), ["test"]),
}


@pytest.mark.parametrize(("changed", "parts"), TOLD.values(), ids=TOLD.keys())
def test_another_change_is_said_in_a_line_that_names_the_part(
    changed: Callable[[], Dataset], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    content = fit(data(), split=False)[-1]
    capsys.readouterr()
    fit(changed(), split=False, resume=content, epochs=3)
    why = "other numbers, rows or order, or data.scale was changed"
    lines = [f"data: the {part} split has changed since the checkpoint ({why})" for part in parts]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_fingerprint_is_the_content_s_in_memory_in_a_file_and_by_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    stored = as_inputs(open_npy(str(tmp_path / "x.npy"), "x"))
    for size in (1 << 24, 10 * 3 * 8):  # all rows, and 10 of the 40
        monkeypatch.setattr(fingerprint_file, "BYTES", size)
        assert fingerprint(X) == fingerprint(X.double()) == fingerprint(stored) == fingerprint(stored.subset(torch.arange(N)))
        others = [X[MIXED], X[:-1], X + 1, X.view(N, 3, 1), torch.cat([X[:-1], HELD[:1]]), torch.cat([HELD[:1], X[1:]])]
        assert len({fingerprint(x) for x in (X, *others)}) == 7


CONF = """
data: {name: npy, train_x: x.npy, train_t: t.npy, test_x: tx.npy, test_t: tt.npy}
model: [{Linear: [3, 1]}]
loss: MSELoss
optimizer: {SGD: {lr: 0.1}}
trainer: {max_epochs: 2, batch_size: 8, device: cpu}
callbacks: {validation_split: {}, checkpoint: {}}
"""


def test_an_evaluation_of_changed_data_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONF)
    for name, array in (("x", X), ("t", T), ("tx", HELD), ("tt", HELD.sum(1))):
        np.save(f"{name}.npy", array.numpy())
    assert main(["fit", "c.yaml", "--run-dir", "r"]) == 0
    capsys.readouterr()
    for command in ("validate", "test", "predict"):
        assert main([command, "r"]) == 0
        assert main([command, "r", "data.stream=false"]) == 0
    assert capsys.readouterr().err == ""
    np.save("x.npy", X[MIXED].numpy())
    np.save("t.npy", T[MIXED].numpy())
    np.save("tx.npy", HELD.numpy() + 1)
    assert main(["validate", "r"]) == 0
    assert "the validation split the 4 rows held out then are held out again" in capsys.readouterr().err
    assert main(["test", "r"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "data: the test split has changed since the checkpoint (other numbers, rows or order, or data.scale was changed)"
    ]
    assert main(["fit", "--resume", "r", "trainer.max_epochs=3"]) == 2
    assert "the training and test splits, or data.scale, differ" in capsys.readouterr().err


def test_a_streamed_run_resumes_from_one_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    np.save(tmp_path / "t.npy", T.numpy())
    both = [npy(str(tmp_path / "x.npy"), str(tmp_path / "t.npy"), stream=stream) for stream in (True, False)]
    content = fit(both[0])[3]
    fit(both[1], resume=content)
