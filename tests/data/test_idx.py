"""The MNIST format: what is written is read, and nothing else is taken for it."""

from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.sources.idx import DTYPES, idx, read_idx

PACK = {
    0x08: "B",
    0x09: "b",
    0x0B: "h",
    0x0C: "i",
    0x0D: "f",
    0x0E: "d",
}  # struct's letters: a reading of the format of its own


def written(code: int, shape: tuple[int, ...], numbers: list[float]) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I{len(numbers)}{PACK[code]}", 0, 0, code, len(shape), *shape, *numbers)


def images(n: int, side: int = 2) -> bytes:
    return written(0x08, (n, side, side), [i % 256 for i in range(n * side * side)])


def labels(*label: int) -> bytes:
    return written(0x08, (len(label),), list(label))


GOOD = {
    "train-images-idx3-ubyte": images(3),
    "train-labels-idx1-ubyte": labels(0, 2, 1),
    "t10k-images-idx3-ubyte": images(2),
    "t10k-labels-idx1-ubyte": labels(1, 0),
}


def folder(root: Path, **changed: bytes | None) -> str:
    """The four good files, but those that `changed` names (`train_images=...`) as it says, or left out."""
    for name, content in GOOD.items():
        stem = "_".join(name.split("-")[:2])
        if (content := changed.get(stem, content)) is not None:
            (root / name).write_bytes(content)
    return str(root)


def test_the_four_files_make_a_dataset(tmp_path: Path) -> None:
    data = idx(folder(tmp_path))
    assert data.train.x.shape == (3, 2, 2)
    assert data.train.x.dtype == torch.float32
    assert torch.equal(data.train.x.flatten(), torch.arange(12) / 255)
    assert data.train.t.tolist() == [0, 2, 1]
    assert data.test is not None
    assert data.test.t.tolist() == [1, 0]
    assert data.classes == ("0", "1", "2")
    assert data.normalize == "global"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_each_spelling_of_the_names_is_found_and_gzip_is_known_by_content(
    tmp_path: Path, mark: str, end: str, zipped: bool
) -> None:
    for name, content in GOOD.items():
        spelled = name.replace("-idx", f"{mark}idx") + end
        (tmp_path / spelled).write_bytes(gzip.compress(content) if zipped else content)
    assert idx(str(tmp_path)).train.label.tolist() == [0, 2, 1]  # type: ignore[union-attr]


@given(code=st.sampled_from(sorted(DTYPES)), shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), draw=st.data())
def test_any_array_of_any_dtype_is_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, code: int, shape: list[int], draw: st.DataObject
) -> None:
    dtype = DTYPES[code]
    if dtype.is_floating_point:
        number = st.floats(width=32, allow_nan=False)
    else:
        number = st.integers(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    count = math.prod(shape)
    numbers = draw.draw(st.lists(number, min_size=count, max_size=count))
    content = written(code, tuple(shape), numbers)
    for form in (content, gzip.compress(content)):
        path = tmp_path_factory.getbasetemp() / "array"
        path.write_bytes(form)
        array = read_idx(path)
        assert array.dtype == dtype
        assert array.shape == tuple(shape)
        assert array.flatten().tolist() == numbers


@given(st.binary(max_size=40) | st.binary(max_size=30).map(lambda tail: b"\0\0\x08\x02" + tail))
def test_any_bytes_are_an_array_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    for form in (content, gzip.compress(content), gzip.compress(content)[:-5]):
        path = tmp_path_factory.getbasetemp() / "bytes"
        path.write_bytes(form)
        with suppress(UserError):
            assert isinstance(read_idx(path), Tensor)


def test_other_dtypes_than_bytes_are_not_scaled(tmp_path: Path) -> None:
    numbers = [0.5, -1.0, 300.0, 2.0]
    root = folder(tmp_path, train_images=written(0x0E, (1, 2, 2), numbers), train_labels=written(0x0C, (1,), [1]))
    assert idx(root, test=0).train.x.flatten().tolist() == numbers


def test_train_and_test_keep_the_first_samples_and_all_classes(tmp_path: Path) -> None:
    data = idx(folder(tmp_path), train=1, test=1)
    assert data.train.label.tolist() == [0]  # type: ignore[union-attr]
    assert data.test is not None
    assert len(data.test) == 1
    assert data.classes == ("0", "1", "2")


def test_no_test_part_needs_no_test_files(tmp_path: Path) -> None:
    assert idx(folder(tmp_path, t10k_images=None, t10k_labels=None), test=0).test is None


def test_targets_are_encoded_and_classes_named(tmp_path: Path) -> None:
    data = idx(folder(tmp_path), classes=["shirt", "bag", "boot"], targets="onehot", off_value=-1)
    assert data.train.t.tolist() == [[1, -1, -1], [-1, -1, 1], [-1, 1, -1]]
    assert data.classes == ("shirt", "bag", "boot")


BAD: dict[str, tuple[dict[str, bytes | None], str]] = {
    "a file is absent": ({"t10k_labels": None}, r"no t10k-labels-idx1-ubyte \(nor .gz\) in .*; run `make fashion-mnist`"),
    "an empty file": ({"train_images": b""}, r"train-images.* is empty; an IDX file begins"),
    "another magic": (
        {"train_images": b"PK\x03\x04" + images(3)[4:]},
        r"train-images.* begins with 50 4b 03 04; an IDX file begins",
    ),
    "an unknown dtype": ({"train_labels": b"\0\0\x0a\x01" + labels(0, 2, 1)[4:]}, r"train-labels.* begins with 00 00 0a 01"),
    "no dimension": ({"train_labels": b"\0\0\x08\0"}, r"train-labels.* begins with 00 00 08 00"),
    "a cut header": ({"train_images": images(3)[:9]}, r"train-images.* ends inside its header of 16 bytes"),
    "a cut file": (
        {"train_images": images(3)[:-1]},
        r"declares torch.uint8 of shape \(3, 2, 2\), 12 bytes, the file can hold 11",
    ),
    "a longer file": ({"train_images": images(3) + b"\0"}, r"12 bytes, the file can hold 13"),
    "no sample": ({"train_images": images(0)}, r"shape \(0, 2, 2\), 0 bytes; needs at least one sample"),
    "a cut gzip": ({"train_images": gzip.compress(images(3))[:-9]}, r"train-images.*broken gzip"),
    "a flipped bit": ({"train_labels": gzip.compress(labels(0, 2, 1))[:-8] + b"\1" * 8}, r"train-labels.*broken gzip \(CRC"),
    "a gzip cut before packing": ({"train_images": gzip.compress(images(3)[:-1])}, r"12 bytes, the file ends after 11"),
    "a gzip with more in it": ({"train_images": gzip.compress(images(3) + b"\0")}, r"12 bytes, the file is longer"),
    "labels for images": ({"train_images": labels(0, 2, 1)}, r"train-images.* shape \(3,\); images need 2 dimensions"),
    "images for labels": (
        {"train_labels": images(3)},
        r"train-labels.* shape \(3, 2, 2\); labels are integers of shape \(n,\)",
    ),
    "broken labels": ({"train_labels": written(0x0D, (3,), [0, 1, 2])}, r"train-labels.* torch.float32 .* labels are integers"),
    "fewer labels": ({"train_labels": labels(0, 2)}, r"train-labels.*: 2 labels for the 3 images of train-images"),
    "a label below 0": (
        {"train_labels": written(0x09, (3,), [0, -1, 1])},
        r"train-labels.*: label -1 at index 1 is outside 0 to 1",
    ),
    "a huge label": ({"train_labels": written(0x0C, (3,), [0, 2**31 - 1, 1])}, r"label 2147483647 at index 1"),
    "a test label of its own": ({"t10k_labels": labels(1, 3)}, r"t10k-labels.*: label 3 at index 1 is outside 0 to 2"),
    "another image size": ({"t10k_images": images(2, side=3)}, r"test images of \(3, 3\), training images of \(2, 2\)"),
}


@pytest.mark.parametrize(("changed", "says"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named_with_file_value_and_cure(tmp_path: Path, changed: dict[str, bytes | None], says: str) -> None:
    with pytest.raises(UserError, match=says):
        idx(folder(tmp_path, **changed))


WRONG: dict[str, tuple[Callable[[str], object], str]] = {
    "root": (lambda root: idx(root + "/nowhere"), r"data.root: no folder .*nowhere'; run `make fashion-mnist`"),
    "train": (lambda root: idx(root, train=0), r"train=0, test=None; train needs at least 1"),
    "test": (lambda root: idx(root, test=-1), r"test=-1"),
    "more than there are": (lambda root: idx(root, train=4), r"data.train: 4 samples, .* holds 3"),
    "too few names": (
        lambda root: idx(root, classes=["a", "b"]),
        r"train-labels.*: label 2 at index 1 is outside 0 to 1; give each class",
    ),
    "binary": (lambda root: idx(root, targets="binary"), r"data.targets: binary needs 2 classes, the data has 3"),
}


@pytest.mark.parametrize(("call", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_is_named(tmp_path: Path, call: Callable[[str], object], says: str) -> None:
    root = folder(tmp_path)
    with pytest.raises(UserError, match=says):
        call(root)


def test_a_gzip_that_unfolds_past_its_header_is_left_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(images(3) + bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="the file is longer"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_header_beyond_what_gzip_can_hold_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "claim.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x02" + b"\xff" * 8))
    with pytest.raises(UserError, match="18,446,744,065,119,617,025 bytes, the file can hold"):
        read_idx(path)
