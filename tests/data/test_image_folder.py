"""Images in folders: their numbers, classes and splits, and errors that name a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainkit import UserError, image_folder
from trainkit.data.mapped import MappedRows

Image = pytest.importorskip("PIL.Image")
COLORS = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3)).astype("u1")


def save(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(40):
        save(tmp_path / ("cat" if i % 4 else "ant") / f"{i:02}.png", COLORS[i])
    return tmp_path


ORDER = [i for i in range(40) if i % 4 == 0] + [i for i in range(40) if i % 4]  # ant, then cat; each by name
EXPECTED = torch.from_numpy(COLORS).permute(0, 3, 1, 2)[ORDER] / 255


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"stream": False}])
def test_the_numbers_are_the_pixels_and_the_classes_the_sorted_folders(root: Path, options: Any) -> None:
    data = image_folder(str(root), **options)
    assert (data.classes, data.normalize) == (("ant", "cat"), "global")
    assert torch.equal(data.train.x[:], EXPECTED)
    assert data.train.t.tolist() == [0] * 10 + [1] * 30
    assert isinstance(data.train.x, MappedRows) == options.get("stream", True)


def test_gray_images_and_other_sizes_are_pillow_s(root: Path) -> None:
    data = image_folder(str(root), color="gray", size=[3, 2])
    first = Image.fromarray(COLORS[0]).convert("L").resize((2, 3), Image.Resampling.BILINEAR)
    assert torch.equal(data.train.x[:1], torch.from_numpy(np.asarray(first).copy())[None, None] / 255)
    assert image_folder(str(root), size=7).train.x.shape == (40, 3, 7, 7)


def test_shares_are_of_each_class_and_the_same_in_every_run(root: Path) -> None:
    data, again = (image_folder(str(root), val=0.2, test=0.1, targets="onehot") for _ in range(2))
    assert data.val is not None
    assert data.test is not None
    assert again.val is not None
    counts = [split.label.bincount().tolist() for split in (data.train, data.val, data.test)]  # type: ignore[union-attr]
    assert counts == [[7, 22], [2, 5], [1, 3]]
    assert torch.equal(data.val.x[:], again.val.x[:])
    rows = torch.cat([split.x[:] for split in data.parts().values()]).flatten(1)
    assert sorted(rows.tolist()) == sorted(EXPECTED.flatten(1).tolist())
    assert data.train.t.shape == (29, 2)


def test_subfolders_are_splits(tmp_path: Path) -> None:
    for i, (name, kind) in enumerate((s, k) for s in ("train", "test", "extra") for k in ("a", "b")):
        save(tmp_path / name / kind / "deep" / "0.png", COLORS[i])
    data = image_folder(str(tmp_path))
    assert list(data.parts()) == ["train", "test"]
    named = image_folder(str(tmp_path), val="extra")
    assert named.val is not None
    assert torch.equal(named.val.x[:], torch.from_numpy(COLORS[4:6]).permute(0, 3, 1, 2) / 255)
    assert named.source == {"name": "image_folder", "root": str(tmp_path), "val": "extra"}


@pytest.mark.parametrize("val", [0.25, "extra"])
def test_the_folder_val_is_not_a_class_where_another_val_is_given(
    root: Path, val: float | str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(root / "val" / "cat" / "0.png", COLORS[0])
    if isinstance(val, str):
        save(root / val / "cat" / "0.png", COLORS[0])
    data = image_folder(str(root), val=val)
    assert data.classes == ("ant", "cat")
    assert [len(split) for split in data.parts().values()] == ([40, 1] if isinstance(val, str) else [30, 10])
    assert capsys.readouterr().err == f"data: {root}: folders that are not read: val\n"


def test_a_folder_train_of_images_alone_is_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, name in enumerate(("bus", "train", "test/bus", "test/train")):
        save(tmp_path / name / "0.png", COLORS[i])
    data = image_folder(str(tmp_path))
    assert data.classes == ("bus", "train")
    assert [len(split) for split in data.parts().values()] == [2, 2]
    assert capsys.readouterr().err == ""


def test_folders_beside_those_of_the_splits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, name in enumerate(("train/a", "train/b", "old/a", ".cache/a")):
        save(tmp_path / name / "0.png", COLORS[i])
    assert image_folder(str(tmp_path)).classes == ("a", "b")
    assert capsys.readouterr().err == f"data: {tmp_path}: folders that are not read: old\n"


def test_other_files_are_skipped_and_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / ".DS_Store").write_text("x")
    assert len(image_folder(str(root)).train) == 40
    assert capsys.readouterr().err == f"data: {root}: skipped 2 files that are not images (.DS_Store, .txt)\n"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(root: Path, workers: int) -> None:
    whole = (root / "cat" / "07.png").read_bytes()
    for content, says in ((b"no image", "is not an image"), (whole[:-30], r"cannot be read \(.*\)")):
        (root / "cat" / "07.png").write_bytes(content)
        data = image_folder(str(root), workers=workers)
        with pytest.raises(UserError, match=rf"cat/07.png: {says}; replace or remove it"):
            list(data.train.x.each([slice(0, 40)]))  # type: ignore[union-attr]


def test_another_size_is_named(root: Path) -> None:
    save(root / "cat" / "99.png", COLORS[0][:3])
    with pytest.raises(UserError, match=r"cat/99.png: is 3 x 4, .*ant/00.png is 5 x 4; set data.size"):
        image_folder(str(root)).train.x[:]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "root": ({"root": "nowhere"}, "data.root: no folder 'nowhere'; give the path"),
    "a subfolder": ({"val": "cet"}, "data.val: no folder 'cet' in .*did you mean 'cat'"),
    "a share": ({"test": 1.5}, "data.test: 1.5; needs the name of a subfolder, or a share"),
    "a size": ({"size": [3]}, r"data.size: \[3\]; needs \[h, w\]"),
    "no classes": ({"train": "cat"}, "cat: has no folder per class"),
    "workers": ({"workers": -1}, "data.workers: -1"),
}


@pytest.mark.parametrize(("options", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named(root: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        image_folder(**{"root": str(root), **options})


def test_a_class_without_images_and_a_class_of_the_test_split_alone_are_named(root: Path) -> None:
    save(root / "test" / "dog" / "0.png", COLORS[0])
    with pytest.raises(UserError, match=r"test: 'dog' is not a class of the training split; they are ant, cat"):
        image_folder(str(root))
    (root / "bee").mkdir()
    (root / "test" / "dog").rename(root / "test" / "ant")
    with pytest.raises(UserError, match=r"no image of the class 'bee'"):
        image_folder(str(root))
