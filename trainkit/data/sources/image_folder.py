"""Images in folders, one folder per class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainkit.core.errors import UserError, suggest
from trainkit.core.files import path_of
from trainkit.core.rng import generator
from trainkit.core.terminal import print_stderr
from trainkit.data.dataset import Dataset, Normalize, Targets
from trainkit.data.map_style import Reader, pixels
from trainkit.data.split import held_out, others

from .recorded import source
from .samples import dataset_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
FIX = "give the path of a folder with a folder of images per class: root/cat/1.png, root/dog/1.png"


@source
def image_folder(
    root: str,
    val: str | float | None = None,
    test: str | float | None = None,
    train: str | None = None,
    size: int | list[int] | None = None,
    color: Literal["rgb", "gray"] = "rgb",
    targets: Targets = "index",
    off_value: float = 0.0,
    normalize: Normalize = "global",
    stream: bool = True,
    workers: int = 0,
) -> Dataset:
    """Read the images under `root`: root/CLASS/any/where.png, or root/train/CLASS/..., root/val/CLASS/..., root/test/CLASS/...

    x (n, c, h, w) from 0 to 1 in the default dtype, c = 3, or 1 with color=gray. The classes are the names of the folders of
    the training split, sorted; so are the files. Needs Pillow.
    train, val, test: a subfolder of root (by default train, val and test, where there are such), or for val and test a share of
    the training images, of each class alike, the same in every run. No class can be called val or test; a folder train that
    holds images but no folders is a class. A line names the folders of root that are not read.
    size: [h, w], or one number for both, to which images are resized (bilinear); by default all must have one size.
    stream: images stay in their files and are decoded in each epoch, by `workers` processes (0: by this one). With false they
    are decoded once, into memory.
    Files that are not images by their suffix are skipped, and a line says how many. Raises UserError for an absent or empty
    folder, a class without training images, a file that Pillow cannot read, and images of different sizes, by path.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UserError("data: image_folder needs Pillow to read images; install it: pip install pillow") from error
    shape = _shape(size)
    folder = path_of(root)
    if not folder.is_dir():
        raise UserError(f"data.root: no folder {root!r}; {FIX}")
    places = _places(folder, {"train": train, "val": val, "test": test})
    reserved = {folder / name for name in ("train", "val", "test") if name != "train" or _folders(folder / name)}
    inside = _folders(places["train"])
    classes = [p.name for p in inside if p not in reserved and p not in places.values()]
    if not classes:
        raise UserError(f"{places['train']}: has no folder per class; {FIX}")
    read = {*places.values(), *(places["train"] / name for name in classes)}
    if unread := [p.name for p in _folders(folder) if not any(p == q or p in q.parents for q in read)]:
        print_stderr(f"data: {folder}: folders that are not read: {', '.join(unread)}")
    for place in (place for name, place in places.items() if name != "train"):
        if unknown := [p.name for p in _folders(place) if p.name not in classes]:
            raise UserError(f"{place}: {unknown[0]!r} is not a class of the training split; they are {', '.join(classes)}")
    files = {name: _files(place, classes) for name, place in places.items()}
    known = {name: torch.tensor([label for _, label in found]) for name, found in files.items()}
    if absent := [c for i, c in enumerate(classes) if i not in known["train"]]:
        raise UserError(f"{places['train']}: no image of the class {absent[0]!r}; add some, or remove the folder")
    for name, part in (("test", test), ("val", val)):
        if isinstance(part, float):
            n = len(files["train"])
            held = held_out(n, part, generator(0, "image_folder", name, n), known["train"])
            for split, index in ((name, held), ("train", others(n, held))):
                files[split], known[split] = [files["train"][i] for i in index.tolist()], known["train"][index]
            if not len(held):
                raise UserError(f"data.{name}: {part} of {n} images leaves none; give a larger share")
    readers: dict[str, Reader] = {}
    for name, found in files.items():
        images = Images([path for path, _ in found], shape, color)
        readers[name] = Reader(images if stream else images.decoded(), has_t=False)
    return dataset_of(readers, known, classes, targets, off_value, normalize, workers)


def _places(folder: Path, given: Mapping[str, str | float | None]) -> dict[str, Path]:
    """Return the folder of each split that has one; `folder` itself for train by default.

    given: the subfolder of each split, or a share, or None for the subfolder of its name where there is one.
    """
    places: dict[str, Path] = {}
    for name, part in given.items():
        if isinstance(part, str):
            if not (folder / part).is_dir():
                raise UserError(
                    f"data.{name}: no folder {part!r} in {folder}{suggest(part, [p.name for p in _folders(folder)])}"
                )
            places[name] = folder / part
        elif part is not None and not 0 < part < 1:
            raise UserError(f"data.{name}: {part}; needs the name of a subfolder, or a share above 0 and below 1")
        elif part is None and (folder / name).is_dir() and (name != "train" or _folders(folder / name)):
            places[name] = folder / name  # a folder train of images alone is a class
    places.setdefault("train", folder)
    return places


def _folders(place: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, sorted; [] if it does not exist."""
    if not place.is_dir():
        return []
    return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))


def _shape(size: int | list[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else size
    if len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise UserError(f"data.size: {size}; needs [h, w], or one number for both")
    return sides[0], sides[1]


def _files(place: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Return the images of each class and its index, sorted. Prints a line where other files are skipped."""
    found, skipped = [], []
    for label, name in enumerate(classes):
        for path in sorted(p for p in (place / name).rglob("*") if p.is_file()):
            if path.suffix.lower() in SUFFIXES:
                found.append((path, label))
            else:
                skipped.append(path)
    if skipped:
        kinds = ", ".join(sorted({p.suffix or p.name for p in skipped})[:5])
        print_stderr(f"data: {place}: skipped {len(skipped)} files that are not images ({kinds})")
    if not found:
        raise UserError(f"{place}: no image ({', '.join(SUFFIXES)}); {FIX}")
    return found


@dataclass(frozen=True)
class Images:
    """The images at `paths`, decoded when they are indexed: (c, h, w) from 0 to 1."""

    paths: list[Path]
    shape: tuple[int, int] | None
    color: str

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        from PIL import Image

        path = self.paths[i]
        try:
            with Image.open(path) as file:
                image: Any = file.convert("L" if self.color == "gray" else "RGB")
        except Exception as error:  # of a broken file: OSError, SyntaxError, ValueError, struct.error, DecompressionBombError
            reason = "is not an image" if type(error).__name__ == "UnidentifiedImageError" else f"cannot be read ({error})"
            raise UserError(f"{path}: {reason}; replace or remove it") from error
        if self.shape is None and i and image.size != (first := self._size()):
            raise UserError(
                f"{path}: is {image.size[1]} x {image.size[0]}, {self.paths[0]} is {first[1]} x {first[0]}; set data.size"
            )
        if self.shape is not None and image.size != self.shape[::-1]:
            image = image.resize(self.shape[::-1], Image.Resampling.BILINEAR)
        return pixels(image)

    def _size(self) -> tuple[int, int]:
        """Return (w, h) of the first image, from its header."""
        from PIL import Image

        with Image.open(self.paths[0]) as file:
            return file.size

    def decoded(self) -> Tensor:
        """Return all images, in memory."""
        return torch.stack([self[i] for i in range(len(self))])
