"""NumPy's `.npy` files, even if larger than memory: an array after a small header."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.files import path_of
from trainkit.data.dataset import Dataset, Normalize, Split, Targets, encode, floating
from trainkit.data.mapped import MappedRows, Rows

from .recorded import source
from .tensors import class_names

DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32", "float64")
REAL = "real numbers, such as np.stack([x.real, x.imag], -1)"
FIX = "save its numbers with np.save(path, x)"


@source
def npy(
    train_x: str,
    train_t: str,
    test_x: str | None = None,
    test_t: str | None = None,
    classes: list[str] | None = None,
    targets: Targets | None = None,
    off_value: float = 0.0,
    normalize: Normalize = "none",
    scale: float | None = None,
    stream: bool = True,
    normalize_target: bool = False,
) -> Dataset:
    """Read arrays saved by `np.save`: x (n, ...) numbers; t (n,) integer classes, or floats (n,) or (n, k) for a regression.

    The inputs are x / scale, in float64 if x is float64 or has integers of 32 bits or more, else in the default dtype.
    scale: by default 255 for uint8 pixels, else 1. targets: by default index for integers, real for floats. off_value: as in
    `encode`. classes: by default "0", "1", ... up to the largest label.
    stream: x stays in its file and is read in blocks during training, with the same bits as from memory; t and one batch are in
    memory. With false, x is read into memory at once.
    normalize_target: scale each target of a regression to mean 0 and standard deviation 1; see `Dataset`.
    Raises UserError for a file that is absent, cut short or not a .npy file; for objects, texts or complex numbers; for Fortran
    order; without a sample; for counts, shapes and labels that do not fit; for a missing number. For a file that changes while
    it is in use, see `Rows`.
    """
    if (test_x is None) != (test_t is None):
        present, absent = ("test_x", "test_t") if test_t is None else ("test_t", "test_x")
        raise UserError(f"data.{absent}: missing; {present} needs it: give both, or neither")
    if scale is not None and not (scale > 0 and math.isfinite(scale)):
        raise UserError(f"data.scale: {scale}; needs a number above 0 to divide by")
    x, t = _pair("train", train_x, train_t, scale)
    if targets is None:
        targets = "real" if t.is_floating_point() else "index"
    if t.is_floating_point() and (targets != "real" or classes is not None):
        what = f"targets: {targets} needs" if targets != "real" else "classes: names need"
        raise UserError(f"data.{what} classes, {train_t} holds {_summary(t)}; save integers, or leave it out")
    names = None if targets == "real" else class_names(t, classes, train_t)

    def split(x: MappedRows, t: Tensor, path: str) -> Split:
        kept = x if stream else x[:]
        if names is None:
            real = t.to(floating(t.dtype))
            return Split(kept, real[:, None] if t.dim() == 1 else real)
        class_names(t, list(names), path)
        return Split(kept, encode(t, len(names), targets, off_value), t)

    held = None
    if test_x is not None and test_t is not None:
        other, other_t = _pair("test", test_x, test_t, scale)
        for path, train_path, a, b in ((test_x, train_x, other, x), (test_t, train_t, other_t, t)):
            kinds = a.dtype.is_floating_point, b.dtype.is_floating_point
            if a.shape[1:] != b.shape[1:] or kinds[0] != kinds[1]:
                raise UserError(
                    f"{path}: {_summary(a)}, {train_path} holds {_summary(b)}; only the number of samples may differ"
                )
        held = split(other, other_t, test_t)
    return Dataset(
        train=split(x, t, train_t),
        test=held,
        classes=names,
        threshold=(1.0 + off_value) / 2 if targets == "binary" else None,
        normalize=normalize,
        normalize_target=normalize_target,
    )


def _pair(key: str, x_path: str, t_path: str, scale: float | None) -> tuple[MappedRows, Tensor]:
    """Return x, as in `as_inputs`, and t, with integers as int64. Their counts are equal."""
    x, rows = open_npy(x_path, f"data.{key}_x"), open_npy(t_path, f"data.{key}_t")
    if len(x.shape) < 2:
        raise UserError(f"{x_path}: {_summary(x)}; needs one sample per row, (n, ...): x[:, None] if each is one number")
    if len(x) != len(rows):
        raise UserError(f"{t_path}: {len(rows)} targets for the {len(x)} inputs of {x_path}; needs one for each")
    t = rows.read(slice(None))
    if not rows.dtype.is_floating_point:
        if t.dim() != 1:
            raise UserError(f"{t_path}: {_summary(t)}; class indices have shape (n,): t[:, 0]; other targets are floats")
        t = t.long()
    else:
        missing = t.isnan().nonzero()
        if len(missing):
            raise UserError(
                f"{t_path}: missing number in row {int(missing[0, 0])} ({len(missing)} in total); remove these rows"
            )
    return as_inputs(x, scale), t


def as_inputs(rows: Rows, scale: float | None = None) -> MappedRows:
    """Return rows as floating inputs (see `floating`), divided by `scale` (None: 255 for uint8, else 1)."""
    dtype = floating(rows.dtype)
    divisor = scale if scale is not None else 255.0 if rows.dtype == torch.uint8 else 1.0
    if not rows.dtype.is_floating_point:  # integers are not searched for infinite numbers
        most = 1 if rows.dtype == torch.bool else torch.iinfo(rows.dtype).max
        if not torch.tensor(most, dtype=dtype).div_(divisor).isfinite():
            raise UserError(f"data.scale: {divisor:g}; {_summary(rows)} divided by it is infinite; needs a larger number")
    return MappedRows(rows, transforms=(lambda x: x.to(dtype) if divisor == 1 else x.to(dtype).div_(divisor),))


def open_npy(name: str, place: str) -> Rows:
    """Return the mapped array of a .npy file, big or little endian. No pickle is read.

    Raises UserError at `place` if there is no such file; at the file for errors of np.load, dtypes that torch does not have,
    named columns, Fortran order, or no sample.
    """
    path = path_of(name)
    if not path.is_file():
        raise UserError(f"{place}: no file {name!r}; give the path of a .npy file, absolute or relative to {Path.cwd()}")
    array = _mapped(path)
    if array.dtype.names is not None:
        raise UserError(f"{path}: a table with named columns; save its numbers as one array (n, k)")
    if array.dtype.name not in DTYPES:
        fix = REAL if array.dtype.kind == "c" else f"one of: {', '.join(DTYPES)}"
        raise UserError(f"{path}: dtype {array.dtype.str!r}; save {fix}")
    if not array.shape:
        raise UserError(f"{path}: a single number, of shape (); needs one sample per row, (n, ...)")
    if array.size == 0:
        raise UserError(f"{path}: {array.dtype.name} of shape {array.shape}; needs at least one sample")
    if not array.flags.c_contiguous:
        raise UserError(
            f"{path}: is in Fortran order, so a sample's numbers are not contiguous; np.save(path, np.ascontiguousarray(x))"
        )
    # Rows maps the file by itself: it keeps the file open, detects changes, and also serves `idx`.
    return Rows(path, getattr(torch, array.dtype.name), array.shape, array.offset, swap=not array.dtype.isnative)


def _mapped(path: Path) -> np.memmap[Any, Any]:
    try:
        with open(path, "rb") as file:
            begin, size = file.read(6), os.fstat(file.fileno()).st_size
        if begin != np.lib.format.MAGIC_PREFIX:  # np.load would try to read an archive or a pickle
            what = "it is empty" if not begin else "an .npz: unpack it" if begin[:2] == b"PK" else begin.hex(" ")
            raise UserError(f"{path}: does not begin as a .npy file does, with 93 4e 55 4d 50 59 ({what}); write it by np.save")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns if a size exceeds 64 bits and wraps around
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a broken header may raise any of ValueError, TypeError, MemoryError, tokenize.TokenError
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(f"{path}: {reason} (the file has {size:,} bytes); {FIX}") from error


def _summary(array: Tensor | MappedRows | Rows) -> str:
    """Return `float32 of shape (3, 2)`."""
    return f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}"
