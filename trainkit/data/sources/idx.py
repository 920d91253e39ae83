"""The files of MNIST and its kin: IDX, an array behind a small header, big endian, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import os
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, cast

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import MAX_DIMS, Dataset, Split, Targets, encode, floating
from trainkit.data.mapped import MappedRows, Rows
from trainkit.data.source import source

from .tensors import class_names

CURE = "run `make fashion-mnist`, or point data.root at the four MNIST-format files"
DTYPES = {
    0x08: torch.uint8,
    0x09: torch.int8,
    0x0B: torch.int16,
    0x0C: torch.int32,
    0x0D: torch.float32,
    0x0E: torch.float64,
}
DEFLATE = 1032  # deflate's best ratio: 258 bytes from 2 bits (zlib.net/zlib_tech.html)


@source
def idx(
    root: str,
    classes: list[str] | None = None,
    targets: Targets = "index",
    off_value: float = 0.0,
    normalize: Literal["none", "feature", "global"] = "global",
    train: int | None = None,
    test: int | None = None,
    stream: bool = False,
) -> Dataset:
    """{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte in the folder `root`, each with or without .gz;
    `.idx3` for `-idx3` is read too.

    x (n, 28, 28) in the default dtype, uint8 pixels / 255, other dtypes as they are (int32 and float64 in float64). `classes`
    default to "0", "1", ... up to the largest training label. `train`, `test`: how many samples to keep, the first ones; with
    test=0 the t10k files are not read.
    stream: the images stay in their files, which are then not gzipped, and are read in blocks while the net trains, to the
    same bits as from memory (see `stored.py`).
    UserError: a file that is absent, cut, longer than its header says or not IDX; counts and labels that do not fit.
    Format: yann.lecun.com/exdb/mnist, section "the IDX file format".
    """
    if (train is not None and train < 1) or (test is not None and test < 0):
        raise UserError(f"data: train={train}, test={test}; train needs at least 1 sample, test at least 0")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.root: no folder {root!r}; {CURE}")

    image, label, place = _load(folder, "train", stream)
    names = class_names(label, classes, place)

    def part(image: Tensor | Rows, label: Tensor, keep: int | None, key: str) -> Split:
        if keep is not None and keep > len(image):
            raise UserError(
                f"data.{key}: {keep} samples, {folder} holds {len(image)}; ask for at most that many, or leave it out"
            )
        label = label[:keep]
        inputs = partial(pixels, dtype=floating(image.dtype))
        x = inputs(image[:keep]) if isinstance(image, Tensor) else MappedRows(image, transforms=(inputs,)).first(len(label))
        return Split(x, encode(label, len(names), targets, off_value), label)

    held = None
    if test != 0:
        test_image, test_label, place = _load(folder, "t10k", stream)
        class_names(test_label, list(names), place)
        if test_image.shape[1:] != image.shape[1:]:
            raise UserError(
                f"{folder}: test images of {tuple(test_image.shape[1:])}, training images of {tuple(image.shape[1:])}; {CURE}"
            )
        held = part(test_image, test_label, test, "test")
    return Dataset(
        train=part(image, label, train, "train"),
        test=held,
        classes=names,
        threshold=(1.0 + off_value) / 2 if targets == "binary" else None,
        normalize=normalize,
    )


def pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers as inputs: in `dtype`, uint8 / 255."""
    number = x.to(dtype)
    return number.div_(255) if x.dtype == torch.uint8 else number


def open_idx(path: Path) -> Rows:
    """The mapped array of an IDX file that is not gzipped."""
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise UserError(f"{path}: gzipped, its images cannot be read one by one; gunzip it, or say data.stream=false")
            file.seek(0)
            dtype, shape = _header(path, file, most=os.path.getsize(path), exact=True)
            return Rows(path, dtype, shape, file.tell(), swap=sys.byteorder == "little" and dtype.itemsize > 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {CURE}") from error


def read_idx(path: Path) -> Tensor:
    """The array of one IDX file, of any of its six dtypes; gzip is known by its content, not by its name.

    Bytes: 0, 0, dtype code, number of dimensions; each dimension as uint32; the numbers. All big endian.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not zipped:
                return _parse(path, file, most=size, exact=True)
            with gzip.open(file) as unzipped:
                return _parse(path, cast(BinaryIO, unzipped), most=size * DEFLATE, exact=False)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken gzip ({error}); fetch the file again: {CURE}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {CURE}") from error


def _header(path: Path, file: BinaryIO, most: int, exact: bool) -> tuple[torch.dtype, tuple[int, ...]]:
    """Type and shape; `file` then stands before the first number.

    most: the bytes that the file can hold at all, known before anything is allocated; exact: it holds just these.
    """
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] == 0:
        codes = ", ".join(f"{code:02x}" for code in DTYPES)
        raise UserError(
            f"{path}: begins {magic.hex(' ') or 'nowhere: it is empty'}; an IDX file begins 00 00, a dtype of ({codes}), "
            f"the number of dimensions; {CURE}"
        )
    dtype, dims = DTYPES[magic[2]], magic[3]
    if dims > MAX_DIMS:
        raise UserError(f"{path}: an array of {dims} dimensions; at most {MAX_DIMS} can be read: {CURE}")
    sizes = file.read(4 * dims)
    if len(sizes) < 4 * dims:
        raise UserError(f"{path}: ends inside its header of {4 + 4 * dims} bytes; fetch the file again: {CURE}")
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * dims, 4))
    claim, says = math.prod(shape) * dtype.itemsize, _says(path, dtype, shape)
    held = most - 4 - 4 * dims
    if claim > held or (exact and claim != held):
        raise UserError(f"{says}, the file can hold {max(held, 0):,}; fetch the file again: {CURE}")
    if claim == 0:
        raise UserError(f"{says}; needs at least one sample: {CURE}")
    return dtype, shape


def _says(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{path}: its header says {dtype} of shape {shape}, {math.prod(shape) * dtype.itemsize:,} bytes"


def _parse(path: Path, file: BinaryIO, most: int, exact: bool) -> Tensor:
    dtype, shape = _header(path, file, most, exact)
    claim, says = math.prod(shape) * dtype.itemsize, _says(path, dtype, shape)
    data = bytearray(claim)
    view, filled = memoryview(data), 0
    while filled < claim and (n := file.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += n
    if filled < claim:
        raise UserError(f"{says}, the file ends after {filled:,}; fetch the file again: {CURE}")
    if file.read(1):  # at the end this also makes gzip check its CRC
        raise UserError(f"{says}, the file goes on; fetch the file again: {CURE}")

    number = torch.frombuffer(data, dtype=torch.uint8)
    if dtype.itemsize > 1:
        number = number.view(-1, dtype.itemsize).flip(1).view(-1)  # big endian to little
    return number.view(dtype).view(shape)


def _load(folder: Path, stem: str, stream: bool) -> tuple[Tensor | Rows, Tensor, str]:
    """Images (n, ...), in memory or to be streamed, labels (n,) int64 and the labels' file, checked against each other."""
    image_file, label_file = _find(folder, f"{stem}-images", "idx3"), _find(folder, f"{stem}-labels", "idx1")
    image: Tensor | Rows = open_idx(image_file) if stream else read_idx(image_file)
    label = read_idx(label_file)
    if len(image.shape) < 2:
        raise UserError(f"{image_file}: shape {tuple(image.shape)}; images need 2 dimensions or more: {CURE}")
    if label.dim() != 1 or label.is_floating_point():
        raise UserError(f"{label_file}: {label.dtype} of shape {tuple(label.shape)}; labels are integers of shape (n,): {CURE}")
    if len(image) != len(label):
        raise UserError(f"{label_file}: {len(label)} labels for the {len(image)} images of {image_file.name}; {CURE}")
    return image, label.long(), str(label_file)


def _find(folder: Path, stem: str, kind: str) -> Path:
    spellings = [f"{stem}{mark}{kind}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in spellings:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"data.root: no {spellings[0]} (nor .gz) in {folder}; {CURE}")
