"""A checkpoint file is the old one or the new one, whole, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickletools
import re
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import SGD, Linear, MSELoss, Sequential, Trainer
from trainkit.checkpoint import file as checkpoint
from trainkit.checkpoint.plain import to_plain
from trainkit.checkpoint.safe_pickle import opcodes
from trainkit.core.errors import UserError
from trainkit.core.files import plain_name, write
from trainkit.core.validation import OneOf, mismatches
from trainkit.data.sources.tensors import tensors
from trainkit.trainer.run_folder import RunFolder


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """What a small run would save after its last step."""
    trainer = Trainer(max_epochs=1, batch_size=2)
    net = Sequential(Linear(2, 1))
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.1, momentum=0.9), tensors(torch.ones(4, 2), torch.ones(4, 1)))
    return trainer.session.snapshot()


def at_step(whole: dict[str, Any], step: int) -> dict[str, Any]:
    return {**whole, "state": {**whole["state"], "step": step}}


def test_a_file_holds_what_was_saved(whole: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(whole, tmp_path / "a.pt")
    again = checkpoint.load(tmp_path / "a.pt")
    assert again["state"] == whole["state"]
    assert all(torch.equal(again["model"][k], v) for k, v in whole["model"].items())
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_equal_states_give_equal_bytes(whole: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(whole, tmp_path / "a.pt")
    checkpoint.save(checkpoint.load(tmp_path / "a.pt"), tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_a_view_is_saved_without_the_buffer_it_looks_into(whole: dict[str, Any]) -> None:
    assert len(checkpoint.dump({"x": torch.zeros(100_000)[:2]})) < 3000


WATCHED = ("open", "fsync", "replace", "unlink")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The calls of os that saving makes, in their order."""
    made: list[tuple[str, Any]] = []
    for name in WATCHED:
        real = getattr(os, name)

        def watched(*args: Any, _name: str = name, _real: Any = real, **kw: Any) -> Any:
            target = os.readlink(f"/proc/self/fd/{args[0]}") if _name == "fsync" else str(args[0])
            made.append((_name, Path(target).name))
            return _real(*args, **kw)

        monkeypatch.setattr(os, name, watched)
    return made


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc which file a handle means")
def test_the_order_is_write_fsync_replace_fsync_the_folder(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    calls.clear()
    write(b"new", folder / "a.pt")
    temporary = calls[0][1]
    assert re.fullmatch(r"\.tmp-[0-9a-f]{16}-a\.pt", temporary)
    assert calls[:5] == [
        ("open", temporary),
        ("fsync", temporary),
        ("replace", temporary),
        ("open", "folder"),
        ("fsync", "folder"),
    ]


@pytest.mark.parametrize("failing", ["open", "fsync", "replace", "write"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_save_keeps_the_old_file_and_leaves_no_temporary(
    failing: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(b"old", tmp_path / "a.pt")

    def fail(*args: Any, **kw: Any) -> Any:
        raise OSError(number, os.strerror(number))

    if failing == "write":
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: Full(handle, number))
    else:
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(UserError) as error:
        write(b"new", tmp_path / "a.pt")
    monkeypatch.undo()
    assert str(tmp_path / "a.pt") in str(error.value)
    assert f"{os.strerror(number)} ({errno.errorcode[number]})" in str(error.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.pt": b"old"}


class Full:
    """A file on a full disk."""

    def __init__(self, handle: int, number: int) -> None:
        self.handle, self.number = handle, number

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.handle)

    def write(self, data: bytes) -> None:
        os.write(self.handle, data[:1])
        raise OSError(self.number, os.strerror(self.number))


def test_a_folder_that_cannot_be_synced_is_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("trainkit.core.files.sync_folder", fail)
    with pytest.raises(UserError, match=r"a\.pt: written, but its folder cannot be synced, .*EIO"):
        write(b"new", tmp_path / "a.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags, mode=0: real("/dev/full", os.O_WRONLY) if flags & os.O_EXCL else real(path, flags)
    )
    with pytest.raises(UserError, match=r"a\.pt: not saved, No space left on device \(ENOSPC\)"):
        write(b"x" * 10, tmp_path / "a.pt")


def test_a_temporary_that_is_there_or_a_link_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    (tmp_path / "precious").write_text("keep")
    (tmp_path / f".tmp-{'00' * 8}-a.pt").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="EEXIST"):
        write(b"new", tmp_path / "a.pt")
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_temporary_that_a_killed_process_has_left_hinders_none_of_its_id(tmp_path: Path) -> None:
    for name in (f".tmp-{os.getpid()}-a.pt", f".tmp-{os.getpid()}"):
        (tmp_path / name).write_text("stale")
    write(b"new", tmp_path / "a.pt")
    write(b"newer", tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == b"newer"


TARGETS: dict[str, Callable[[Path], None]] = {
    "link": lambda path: path.symlink_to(path.with_name("precious")),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.filterwarnings("ignore:unclosed.*socket")
def test_what_is_no_regular_file_is_not_replaced(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    Path("precious").write_text("keep")
    TARGETS[kind](Path("a.pt"))
    before = sorted((p.name, p.lstat().st_mode, p.lstat().st_mtime_ns) for p in Path().iterdir())
    for act in (lambda: write(b"new", Path("a.pt")), lambda: checkpoint.save({"a": 1}, Path("a.pt"))):
        with pytest.raises(UserError, match=f"a.pt: not saved, there is a {kind.split()[0]}, not a regular file; remove it"):
            act()
    assert sorted((p.name, p.lstat().st_mode, p.lstat().st_mtime_ns) for p in Path().iterdir()) == before
    assert Path("precious").read_text() == "keep"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027, 0])
def test_a_file_has_the_mode_that_the_umask_says(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write(b"x", tmp_path / "a.pt")
    finally:
        os.umask(before)
    assert (tmp_path / "a.pt").stat().st_mode & 0o777 == 0o644 & ~umask


def test_a_run_that_begins_sweeps_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".tmp-99-last.pt", "last.pt", "my.tmp-file"):
        (tmp_path / "checkpoints" / name).write_text("x")
    (tmp_path / ".tmp-99-config.yaml").write_text("x")
    (tmp_path / RunFolder.marker).touch()
    before = sorted(tmp_path.rglob("*"))
    run = RunFolder(tmp_path)
    run.open(going_on=True)
    assert sorted(tmp_path.rglob("*")) == before
    run.begin()
    run.close()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [RunFolder.marker, "last.pt", "my.tmp-file"]


def test_one_trainer_to_a_folder(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.open()
    second.open()
    assert not (tmp_path / "run").exists()
    first.begin()
    for act in (second.begin, second.lock):
        with pytest.raises(UserError, match="in use by another trainer"):
            act()
    first.close()
    second.begin()
    second.close()


def test_without_last_the_newest_is_the_valid_one_of_most_steps_and_the_others_are_named(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    for name, step in {"a.pt": 3, "b.pt": 7, "z.pt": 9}.items():
        checkpoint.save(at_step(whole, step), tmp_path / name)
    data = (tmp_path / "z.pt").read_bytes()
    (tmp_path / "z.pt").write_bytes(data[: len(data) // 2])
    file, content, skipped = checkpoint.load_latest(tmp_path)
    assert (file.name, content["state"]["step"]) == ("b.pt", 7)
    assert len(skipped) == 1
    assert "z.pt: damaged or cut short" in skipped[0]


def test_a_file_ahead_of_last_is_of_a_save_that_was_not_completed(whole: dict[str, Any], tmp_path: Path) -> None:
    for name, step in {"best.pt": 5, "last.pt": 5, "z.pt": 6}.items():
        checkpoint.save(at_step(whole, step), tmp_path / name)
    assert checkpoint.load_latest(tmp_path)[0].name == "last.pt"


def test_no_valid_checkpoint_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no valid checkpoint in .*\n.* has no \.pt file"):
        checkpoint.load_latest(tmp_path)
    (tmp_path / "last.pt").write_text("hello")
    with pytest.raises(UserError, match=r"no valid checkpoint in .*\n.*last\.pt: is not a checkpoint \(5 bytes"):
        checkpoint.load_latest(tmp_path)


@pytest.mark.parametrize("value", [{1.5: 1}, {"a": object()}, [b"x"], {"a": [{"b": {1, 2}}]}, {"a": Path()}])
def test_what_a_safe_load_would_refuse_is_refused_when_saved(value: Any) -> None:
    with pytest.raises(UserError, match="checkpoint"):
        checkpoint.dump(value if isinstance(value, dict) else {"x": value})


@pytest.mark.parametrize("name", ["", "..", ".x", "-x", "a/b", "a\\b", "a\0b", "../x", "a..b"])
def test_a_name_that_could_lead_elsewhere_is_no_file_name(name: str) -> None:
    with pytest.raises(UserError, match="file name"):
        plain_name(name)


PATTERNS = {
    "a type": (1, int, []),
    "another type": ("x", int, ["p: 'x'; needs a whole number"]),
    "a bool is no int": (True, int, ["p: True; needs a whole number"]),
    "an int is a float": (1, float, []),
    "in a range": (3, range(4), []),
    "out of a range": (4, range(4), ["p: 4; needs a whole number from 0 to 3"]),
    "a constant": ("a", "a", []),
    "another constant": ("b", "a", ["p: 'b'; needs 'a'"]),
    "a list": ([1, "x"], [int], ["p[1]: 'x'; needs a whole number"]),
    "a list of two": ([1], (int, int), ["p: a list of 1; needs a list of 2"]),
    "a mapping": ({"a": 1, "b": 2.5}, {str: int}, ["p.b: 2.5; needs a whole number"]),
    "a record": ({"a": 1, "c": 1}, {"a": int, "b": int}, ["p: has no b", "p: c is not known"]),
    "either": (None, OneOf(None, int), []),
    "neither": ("x", OneOf(None, int), ["p: 'x'; needs None or a whole number"]),
    "a dtype": (torch.zeros(2), torch.float64, ["p: a tensor of float32 (2,); needs a tensor of float64"]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_value_is_told_from_a_pattern(name: str) -> None:
    value, pattern, expected = PATTERNS[name]
    assert mismatches(value, pattern, "p") == expected


def test_a_temporary_that_a_killed_save_has_left_is_no_checkpoint(whole: dict[str, Any], tmp_path: Path) -> None:
    """Be it whole: it may list files of the same save that were never written."""
    checkpoint.save(at_step(whole, 1), tmp_path / "last.pt")
    checkpoint.save(at_step(whole, 2), tmp_path / ".tmp-99-last.pt")
    assert checkpoint.load_latest(tmp_path)[0].name == "last.pt"
    assert checkpoint.list_checkpoints(tmp_path) == [tmp_path / "last.pt"]


def test_a_streamed_file_has_the_bytes_of_a_whole_archive(whole: dict[str, Any], tmp_path: Path) -> None:
    """With tensors above and below the block that is passed on at once."""
    content = {**whole, "x": [torch.arange(n, dtype=torch.uint8) for n in (0, 1, 22, 1 << 20, (1 << 20) + 1, 3 << 20)]}
    buffer = io.BytesIO()
    torch.save(to_plain(content), buffer)
    head = buffer.getvalue()[:-2] + struct.pack("<H", checkpoint.COMMENT_BYTES)
    expected = head + checkpoint.CHECKSUM_PREFIX + hashlib.sha256(head).hexdigest().encode()
    checkpoint.save(content, tmp_path / "a.pt")
    assert checkpoint.dump(content) == expected == (tmp_path / "a.pt").read_bytes()


def test_one_tensor_at_two_places_is_saved_twice(whole: dict[str, Any], tmp_path: Path) -> None:
    x = torch.ones(3)
    views = torch.zeros(4)
    checkpoint.save({**whole, "callbacks": {"a": {"x": x, "y": x, "z": [views[:2], views[2:], views]}}}, tmp_path / "a.pt")
    again = checkpoint.load(tmp_path / "a.pt")["callbacks"]["a"]
    assert [t.tolist() for t in (again["x"], again["y"], *again["z"])] == [[1.0] * 3] * 2 + [[0.0] * 2] * 2 + [[0.0] * 4]


def raw(content: dict[str, Any]) -> bytes:
    """A sealed file of a content as torch saves it, views and all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    head = buffer.getvalue()[:-2] + struct.pack("<H", checkpoint.COMMENT_BYTES)
    return head + checkpoint.CHECKSUM_PREFIX + hashlib.sha256(head).hexdigest().encode()


@pytest.mark.parametrize("dimensions", [65, 200, 5000])
def test_a_tensor_of_more_than_64_dimensions_is_refused(dimensions: int, whole: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(raw({**whole, "model": {"x": torch.zeros([1] * dimensions)}}))
    with pytest.raises(UserError, match=f"model.x: a tensor of {dimensions} dimensions; needs 64 or fewer"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_random_state_inside_a_larger_memory_is_refused(whole: dict[str, Any], tmp_path: Path) -> None:
    """torch crashes on it, without an exception."""
    state = torch.cat([torch.zeros(8, dtype=torch.uint8), torch.get_rng_state()])[8:]
    (tmp_path / "a.pt").write_bytes(raw({**to_plain(whole), "rng": {**whole["rng"], "torch": state}}))
    with pytest.raises(UserError, match=r"rng.torch: a tensor of uint8 \(5056,\) does not match its bytes in the file"):
        checkpoint.load(tmp_path / "a.pt")


def test_the_parts_of_a_content_are_counted_as_a_pickle_has_them(whole: dict[str, Any]) -> None:
    content = {**whole, "x": [0.5, "a", "a", True, None, 3, (1, 2), {"a": 1}, 10**12] * 500}
    with zipfile.ZipFile(io.BytesIO(checkpoint.dump(content))) as archive:
        actual = sum(1 for _ in pickletools.genops(archive.read("archive/data.pkl")))
    assert actual <= opcodes(to_plain(content)) <= 1.05 * actual


def test_a_load_that_runs_out_of_memory_does_not_call_the_file_damaged(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(whole, tmp_path / "a.pt")

    def fail(*args: Any, **kw: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(checkpoint.Unreadable, match="bytes do not fit into memory"):
        checkpoint.load(tmp_path / "a.pt")
