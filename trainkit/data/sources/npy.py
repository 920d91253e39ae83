"""NumPy's `.npy` files, larger than memory or not: an array behind a small header."""

from __future__ import annotations

import ast
import math
import os
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.data.dataset import MOST_DIMS, Dataset, Part, Targets, encode, floating
from trainkit.data.mapped import Rows, Stored

from .tensors import class_names

DTYPES = {
    "b1": torch.bool,
    "u1": torch.uint8,
    "i1": torch.int8,
    "u2": torch.uint16,
    "i2": torch.int16,
    "u4": torch.uint32,
    "i4": torch.int32,
    "i8": torch.int64,
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
}
CURES = {
    "O": "an array of Python objects holds pickled code, which is never run; save numbers: np.save(path, x.astype('f4'))",
    "c": "save real numbers, such as np.stack([x.real, x.imag], -1)",
}
MOST_HEADER = 10_000  # bytes, numpy's own limit


def npy(
    train_x: str,
    train_t: str,
    test_x: str | None = None,
    test_t: str | None = None,
    classes: list[str] | None = None,
    targets: Targets | None = None,
    low: float = 0.0,
    normalize: Literal["none", "feature", "global"] = "none",
    scale: float | None = None,
    stream: bool = True,
) -> Dataset:
    """Arrays saved by `np.save`: x (n, ...) of numbers, t (n,) integer classes, or floats (n,) or (n, k) to regress on.

    x / scale, in the default dtype, or in float64 where that is its own or it has integers of 32 bits or more; `scale` defaults
    to 255 for uint8 pixels, else 1. `targets` default to
    index for integers, real for floats; `low` as in `encode`. `classes` default to "0", "1", ... up to the largest label.
    stream: x stays in its file and is read in blocks while the net trains, to the same bits as from memory; t, some bytes a
    sample, is in memory either way, and so is one batch. false: x is read into memory at once.
    UserError: a file that is absent, cut, or no .npy; of objects, texts or complex numbers; in Fortran order; without a
    sample; counts, shapes and labels that do not fit; a missing number. What may happen to a file in use: see `Rows`.
    Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
    """
    if (test_x is None) != (test_t is None):
        given, absent = ("test_x", "test_t") if test_t is None else ("test_t", "test_x")
        raise UserError(f"data.{absent}: missing; {given} needs it: give both, or neither")
    if scale is not None and not (scale > 0 and math.isfinite(scale)):
        raise UserError(f"data.scale: {scale}; needs a number above 0 to divide by")
    x, t = _pair("train", train_x, train_t, scale)
    if targets is None:
        targets = "real" if t.is_floating_point() else "index"
    if t.is_floating_point() and (targets != "real" or classes is not None):
        what = f"targets: {targets} needs" if targets != "real" else "classes: names need"
        raise UserError(f"data.{what} classes, {train_t} holds {_words(t)}; save integers, or leave it out")
    names = None if targets == "real" else class_names(t, classes, train_t)

    def part(x: Stored, t: Tensor, path: str) -> Part:
        kept = x if stream else x[:]
        if names is None:
            real = t.to(floating(t.dtype))
            return Part(kept, real[:, None] if t.dim() == 1 else real)
        class_names(t, list(names), path)
        return Part(kept, encode(t, len(names), targets, low), t)

    held = None
    if test_x is not None and test_t is not None:
        other, other_t = _pair("test", test_x, test_t, scale)
        for path, train_path, a, b in ((test_x, train_x, other, x), (test_t, train_t, other_t, t)):
            kinds = a.dtype.is_floating_point, b.dtype.is_floating_point
            if a.shape[1:] != b.shape[1:] or kinds[0] != kinds[1]:
                raise UserError(f"{path}: {_words(a)}, {train_path} holds {_words(b)}; only the number of samples may differ")
        held = part(other, other_t, test_t)
    return Dataset(
        train=part(x, t, train_t),
        test=held,
        classes=names,
        threshold=(1.0 + low) / 2 if targets == "binary" else None,
        normalize=normalize,
    )


def _pair(key: str, x_path: str, t_path: str, scale: float | None) -> tuple[Stored, Tensor]:
    """x as it is given to the net before it is normalised, and t, integers as int64; checked against each other."""
    x, rows = open_npy(x_path, f"data.{key}_x"), open_npy(t_path, f"data.{key}_t")
    if len(x.shape) < 2:
        raise UserError(f"{x_path}: {_words(x)}; needs one sample a row, (n, ...): x[:, None] if each is one number")
    if len(x) != len(rows):
        raise UserError(f"{t_path}: {len(rows)} targets for the {len(x)} inputs of {x_path}; needs one for each")
    t = rows.read(slice(None))
    if not rows.dtype.is_floating_point:
        if t.dim() != 1:
            raise UserError(f"{t_path}: {_words(t)}; class indices have shape (n,): t[:, 0]; other targets are floats")
        t = t.long()
    else:
        missing = t.isnan().nonzero()
        if len(missing):
            raise UserError(f"{t_path}: missing number in row {int(missing[0, 0])} ({len(missing)} such); remove these rows")
    return dressed(x, scale), t


def dressed(rows: Rows, scale: float | None = None) -> Stored:
    """Rows as floating inputs (see `floating`), divided by `scale`, which is 255 for uint8 where none is given."""
    dtype = floating(rows.dtype)
    divisor = scale if scale is not None else 255.0 if rows.dtype == torch.uint8 else 1.0
    if not rows.dtype.is_floating_point:  # these are not searched for infinite numbers
        most = 1 if rows.dtype == torch.bool else torch.iinfo(rows.dtype).max
        if not torch.tensor(most, dtype=dtype).div_(divisor).isfinite():
            raise UserError(f"data.scale: {divisor:g}; {_words(rows)} divided by it is infinite; needs a larger number")
    return Stored(rows, dress=(lambda x: x.to(dtype) if divisor == 1 else x.to(dtype).div_(divisor),))


def open_npy(name: str, place: str) -> Rows:
    """The mapped array of a .npy file. UserError, with `place` where there is no such file.

    Bytes: 93 NUMPY; version, two bytes; length of the header, 2 bytes or 4; a Python literal with descr, fortran_order and
    shape; the numbers. Nothing of it is run, and no pickle is read.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"{place}: no file {name!r}; give the path of a .npy file, seen from {Path.cwd()}")
    try:
        with open(path, "rb") as file:
            begin = file.read(12)
            if begin[:6] != b"\x93NUMPY" or len(begin) < 12:
                what = "it is empty" if not begin else "an .npz: unpack it" if begin[:2] == b"PK" else begin[:6].hex(" ")
                raise UserError(f"{path}: begins otherwise than a .npy file, 93 4e 55 4d 50 59 ({what}); write it by np.save")
            if begin[6] not in (1, 2, 3):
                raise UserError(
                    f"{path}: version {begin[6]}.{begin[7]} of the format; 1 to 3 are known: save it again, np.save"
                )
            at = 10 if begin[6] == 1 else 12
            length = int.from_bytes(begin[8:at], "little")
            if length > MOST_HEADER:
                raise UserError(f"{path}: a header of {length:,} bytes; an array of numbers has less than {MOST_HEADER:,}")
            file.seek(at)
            text = file.read(length)
            held = os.fstat(file.fileno()).st_size - at - length
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    if len(text) < length:
        raise UserError(f"{path}: ends inside its header of {at + length} bytes; write it again")
    dtype, shape, swap = _parse(path, text)
    claim = math.prod(shape) * dtype.itemsize
    says = f"{path}: its header says {str(dtype).removeprefix('torch.')} of shape {shape}, {claim:,} bytes"
    if claim == 0:
        raise UserError(f"{says}; needs at least one sample")
    if claim > held:
        raise UserError(f"{says}, the file holds {held:,}; it was cut: write it again")
    return Rows(path, dtype, shape, at + length, swap)


def _parse(path: Path, text: bytes) -> tuple[torch.dtype, tuple[int, ...], bool]:
    """Type, shape, and whether the bytes are to be swapped."""
    try:
        header: Any = ast.literal_eval(text.decode("utf-8").strip())
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        whole = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**63 for n in shape)
        if type(fortran) is not bool or not whole or not isinstance(descr, (str, list)):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: its header is broken; write it again with np.save") from error
    if isinstance(descr, list):
        raise UserError(f"{path}: a table with named columns; save its numbers as one array (n, k)")
    order, code = (descr[0], descr[1:]) if descr[:1] in ("<", ">", "=", "|") else ("=", descr)
    if code not in DTYPES:
        cure = CURES.get(code[:1], f"save it as one of these: {', '.join(DTYPES)}")
        raise UserError(f"{path}: dtype {descr!r}; {cure}")
    if fortran and len(shape) > 1:
        raise UserError(f"{path}: in Fortran order, a sample's numbers lie apart; np.save(path, np.ascontiguousarray(x))")
    if len(shape) > MOST_DIMS:
        raise UserError(f"{path}: an array of {len(shape)} dimensions; at most {MOST_DIMS} can be read: x.reshape(len(x), -1)")
    if not shape:
        raise UserError(f"{path}: a single number, of shape (); needs one sample a row, (n, ...)")
    native = "<" if sys.byteorder == "little" else ">"
    return DTYPES[code], shape, order in "<>" and order != native and DTYPES[code].itemsize > 1


def _words(array: Tensor | Stored | Rows) -> str:
    """`float32 of shape (3, 2)`."""
    return f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}"
