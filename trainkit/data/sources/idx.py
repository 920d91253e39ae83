"""The IDX files of MNIST and similar data sets: an array after a small header, big endian, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import os
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.files import path_of
from trainkit.data.dataset import MAX_DIMS, Dataset, Normalize, Split, Targets, encode, floating
from trainkit.data.mapped import MappedRows, Rows

from .recorded import source
from .tensors import class_names

FIX = "run `make fashion-mnist`, or point data.root at the four MNIST-format files"
DTYPES = {
    0x08: torch.uint8,
    0x09: torch.int8,
    0x0B: torch.int16,
    0x0C: torch.int32,
    0x0D: torch.float32,
    0x0E: torch.float64,
}
MAX_GZIP_RATIO = 1032  # of deflate: 258 bytes from 2 bits (zlib.net/zlib_tech.html)


@source
def idx(
    root: str,
    classes: list[str] | None = None,
    targets: Targets = "index",
    off_value: float = 0.0,
    normalize: Normalize = "global",
    train: int | None = None,
    test: int | None = None,
    stream: bool = False,
) -> Dataset:
    """Read {train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte from the folder `root`.

    Each file may have the suffix .gz, and `.idx3` in place of `-idx3`.
    x (n, 28, 28) in the default dtype, uint8 pixels / 255, other dtypes unscaled (int32 and float64 in float64).
    classes: by default "0", "1", ... up to the largest training label. train, test: how many of the first samples to keep; with
    test=0 the t10k files are not read.
    stream: the images stay in their files, which must not be gzipped, and are read in blocks during training, with the same
    bits as from memory (see `mapped.py`).
    Raises UserError for a file that is absent, cut short, longer than its header declares or not IDX, and for counts and labels
    that do not fit.
    Format: yann.lecun.com/exdb/mnist, section "the IDX file format".
    """
    if (train is not None and train < 1) or (test is not None and test < 0):
        raise UserError(f"data: train={train}, test={test}; train needs at least 1 sample, test at least 0")
    folder = path_of(root)
    if not folder.is_dir():
        raise UserError(f"data.root: no folder {root!r}; {FIX}")

    image, label, place = _load(folder, "train", stream)
    names = class_names(label, classes, place)

    def split(image: Tensor | Rows, label: Tensor, keep: int | None, key: str) -> Split:
        if keep is not None and keep > len(image):
            raise UserError(f"data.{key}: {keep} samples, {folder} holds {len(image)}; give at most that many, or leave it out")
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
                f"{folder}: test images of {tuple(test_image.shape[1:])}, training images of {tuple(image.shape[1:])}; {FIX}"
            )
        held = split(test_image, test_label, test, "test")
    return Dataset(
        train=split(image, label, train, "train"),
        test=held,
        classes=names,
        threshold=(1.0 + off_value) / 2 if targets == "binary" else None,
        normalize=normalize,
    )


def pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers as inputs in `dtype`; uint8 is divided by 255."""
    number = x.to(dtype)
    return number.div_(255) if x.dtype == torch.uint8 else number


def open_idx(path: Path) -> Rows:
    """Return the mapped array of an IDX file that is not gzipped."""
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise UserError(f"{path}: gzipped, its images cannot be read one by one; gunzip it, or set data.stream=false")
            file.seek(0)
            dtype, shape = _header(path, file, most=os.path.getsize(path), exact=True)
            return Rows(path, dtype, shape, file.tell(), swap=sys.byteorder == "little" and dtype.itemsize > 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {FIX}") from error


def read_idx(path: Path) -> Tensor:
    """Return the array of one IDX file, of any of the six dtypes. Gzip is recognized by content, not by name.

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
                return _parse(path, cast(BinaryIO, unzipped), most=size * MAX_GZIP_RATIO, exact=False)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken gzip ({error}); fetch the file again: {FIX}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {FIX}") from error


def _header(path: Path, file: BinaryIO, most: int, exact: bool) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return dtype and shape, and leave `file` at the first number.

    most: an upper bound of the file's bytes, known before anything is allocated. exact: the file has exactly that many.
    """
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] == 0:
        codes = ", ".join(f"{code:02x}" for code in DTYPES)
        found = f"begins with {magic.hex(' ')}" if magic else "is empty"
        raise UserError(
            f"{path}: {found}; an IDX file begins with 00 00, a dtype of ({codes}) and the number of dimensions; {FIX}"
        )
    dtype, dims = DTYPES[magic[2]], magic[3]
    if dims > MAX_DIMS:
        raise UserError(f"{path}: an array of {dims} dimensions; at most {MAX_DIMS} can be read: {FIX}")
    sizes = file.read(4 * dims)
    if len(sizes) < 4 * dims:
        raise UserError(f"{path}: ends inside its header of {4 + 4 * dims} bytes; fetch the file again: {FIX}")
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * dims, 4))
    declared, header = math.prod(shape) * dtype.itemsize, _header_summary(path, dtype, shape)
    held = most - 4 - 4 * dims
    if declared > held or (exact and declared != held):
        raise UserError(f"{header}, the file can hold {max(held, 0):,}; fetch the file again: {FIX}")
    if declared == 0:
        raise UserError(f"{header}; needs at least one sample: {FIX}")
    return dtype, shape


def _header_summary(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{path}: its header declares {dtype} of shape {shape}, {math.prod(shape) * dtype.itemsize:,} bytes"


def _parse(path: Path, file: BinaryIO, most: int, exact: bool) -> Tensor:
    dtype, shape = _header(path, file, most, exact)
    declared, header = math.prod(shape) * dtype.itemsize, _header_summary(path, dtype, shape)
    data = bytearray(declared)
    view, filled = memoryview(data), 0
    while filled < declared and (n := file.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += n
    if filled < declared:
        raise UserError(f"{header}, the file ends after {filled:,}; fetch the file again: {FIX}")
    if file.read(1):  # at the end this also makes gzip check its CRC
        raise UserError(f"{header}, the file is longer; fetch the file again: {FIX}")

    number = torch.frombuffer(data, dtype=torch.uint8)
    if dtype.itemsize > 1:
        number = number.view(-1, dtype.itemsize).flip(1).view(-1)  # big endian to little
    return number.view(dtype).view(shape)


def _load(folder: Path, stem: str, stream: bool) -> tuple[Tensor | Rows, Tensor, str]:
    """Return images (n, ...), in memory or to be streamed, labels (n,) int64 and the labels' file. Their counts are equal."""
    image_file, label_file = _find(folder, f"{stem}-images", "idx3"), _find(folder, f"{stem}-labels", "idx1")
    image: Tensor | Rows = open_idx(image_file) if stream else read_idx(image_file)
    label = read_idx(label_file)
    if len(image.shape) < 2:
        raise UserError(f"{image_file}: shape {tuple(image.shape)}; images need 2 dimensions or more: {FIX}")
    if label.dim() != 1 or label.is_floating_point():
        raise UserError(f"{label_file}: {label.dtype} of shape {tuple(label.shape)}; labels are integers of shape (n,): {FIX}")
    if len(image) != len(label):
        raise UserError(f"{label_file}: {len(label)} labels for the {len(image)} images of {image_file.name}; {FIX}")
    return image, label.long(), str(label_file)


def _find(folder: Path, stem: str, kind: str) -> Path:
    spellings = [f"{stem}{mark}{kind}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in spellings:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"data.root: no {spellings[0]} (nor .gz) in {folder}; {FIX}")
