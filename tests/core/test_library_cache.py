"""Compiled libraries are built once, by one user, whole; whatever else lies in the cache is built again."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from trainkit.core.library_cache import cache_folder, is_own, library


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The folders in which `build` was called; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return []


def build(builds: list[Path]):  # type: ignore[no-untyped-def]
    def write(folder: Path) -> Path:
        builds.append(folder)
        (folder / "abc.cpp").write_text("source")
        (folder / "abc.so").write_text("code")
        (folder / "other").mkdir()
        return folder / "abc.so"

    return write


def test_a_library_is_built_once_and_only_it_is_kept(builds: list[Path]) -> None:
    first = library(("key", 1), build(builds))
    assert library(("key", 1), build(builds)) == first
    assert first.read_text() == "code"
    assert {p.name for p in first.parent.iterdir()} == {"library.so", "sha256"}
    assert [p.name for p in cache_folder().iterdir()] == [first.parent.name]
    assert library(("key", 2), build(builds)) != first
    assert len(builds) == 2


@pytest.mark.parametrize("mask", [0o002, 0o000, 0o077])
def test_a_library_is_kept_with_any_umask(mask: int, builds: list[Path]) -> None:
    before = os.umask(mask)
    try:
        library("key", build(builds))
        library("key", build(builds))
    finally:
        os.umask(before)
    assert len(builds) == 1


@pytest.mark.parametrize("what", ["changed", "cut", "missing", "no digest", "a link", "writable by others", "one more file"])
def test_a_library_that_is_damaged_or_that_others_can_write_is_built_again(
    what: str, builds: list[Path], tmp_path: Path
) -> None:
    path = library("key", build(builds))
    if what == "changed":
        path.write_text("CODE")
    elif what == "cut":
        path.write_text("")
    elif what == "missing":
        path.unlink()
    elif what == "no digest":
        (path.parent / "sha256").write_bytes(b"\xff")
    elif what == "a link":
        path.rename(tmp_path / "code")
        path.symlink_to(tmp_path / "code")
    elif what == "writable by others":
        path.chmod(0o622)
    else:
        (path.parent / "library.txt").write_text("")
    assert library("key", build(builds)) == path
    assert path.read_text() == "code"
    assert is_own(path)
    assert len(builds) == 2
    library("key", build(builds))
    assert len(builds) == 2


@pytest.mark.parametrize("what", ["a file is in its place", "writable by others"])
def test_a_cache_that_cannot_be_used_is_named_and_the_library_is_built_elsewhere(
    what: str, builds: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cache_folder()
    folder.parent.mkdir()
    if what == "writable by others":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.write_text("")
    path = library("key", build(builds))
    assert path.read_text() == "code"
    assert folder not in path.parents
    assert capsys.readouterr().err.startswith(f"{folder}: compiled code is not kept, ")


def test_a_build_that_fails_leaves_nothing(builds: list[Path]) -> None:
    def fails(folder: Path) -> Path:
        (folder / "half.so").write_text("")
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        library("key", fails)
    assert list(cache_folder().iterdir()) == []
    assert library("key", build(builds)).exists()


def test_two_that_build_at_once_keep_one_library(builds: list[Path]) -> None:
    both, paths = threading.Barrier(2), []

    def slow(folder: Path) -> Path:
        both.wait(10)
        return build(builds)(folder)  # type: ignore[no-any-return]

    threads = [threading.Thread(target=lambda: paths.append(library("key", slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 2
    assert paths[0] == paths[1]
    assert paths[0].read_text() == "code"
    assert len(list(cache_folder().iterdir())) == 1
