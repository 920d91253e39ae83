"""Compile C++ with the system's compiler. Only code of trainkit's own is compiled: headers, and types made from numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from trainkit.core.errors import UserError

PACKAGE = Path(__file__).parents[3]
FLAGS = (
    "-std=c++17",
    "-O2",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-semantic-interposition",
    "-Wno-psabi",
    "-shared",
    "-fPIC",
    "-pthread",
)


@cache
def compiler() -> tuple[str, str]:
    """Return path and version of the C++ compiler, $CXX or g++. Raises UserError if there is none."""
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    if path is None:
        raise UserError("no C++ compiler was found (install g++, or set CXX)")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return path, version.partition("\n")[0]


def compile_library(text: str, folder: Path, is_stopped: Callable[[], bool] = lambda: False) -> Path:
    """Compile a source into `folder` and return the library.

    is_stopped: asked ten times a second; True ends the compilation. Raises UserError then, and with the compiler's first error.
    """
    (folder / "steps.cpp").write_text(text, encoding="utf-8")
    library = folder / "steps.so"
    words = [compiler()[0], *FLAGS, f"-I{PACKAGE}", str(folder / "steps.cpp"), "-o", str(library)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said = None
        while said is None:
            try:
                said = process.communicate(timeout=0.1)[1]
            except subprocess.TimeoutExpired:
                if is_stopped():
                    process.terminate()
                    raise UserError("a signal ended the compilation") from None
    if process.returncode:
        lines = [line for line in said.splitlines() if "error" in line] or said.splitlines() or ["no message"]
        raise UserError(f"the C++ compiler failed: {lines[0][:200]}")
    return library
