"""Compile C++ with the system's compiler. Only code of trainkit's own is compiled: headers, and types made from numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from trainkit.core.errors import UserError

PACKAGE = Path(__file__).parents[3]
FLAGS = (
    "-std=c++17",
    "-O3",
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


def compile_library(text: str, folder: Path) -> Path:
    """Compile a source into `folder` and return the library. Raises UserError with the compiler's first error."""
    (folder / "steps.cpp").write_text(text, encoding="utf-8")
    library = folder / "steps.so"
    words = [compiler()[0], *FLAGS, f"-I{PACKAGE}", str(folder / "steps.cpp"), "-o", str(library)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        raise UserError(f"the C++ compiler failed: {lines[0][:200]}")
    return library
