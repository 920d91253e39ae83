"""A run's folder: used by one trainer at a time; replaces no file of another run; each file is replaced as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainkit.checkpoint.file import BEFORE_NAN, BEST, FINAL, LAST, Unreadable, list_checkpoints, load
from trainkit.core.errors import UserError
from trainkit.core.files import check_writable, kind_of, plain_name, remove_temporaries, write
from trainkit.core.folder import Folder
from trainkit.core.terminal import print_stderr

# The names in a run's folder that are a run's even without the callback that writes them: commands look for these files.
# `open` adds the other files of the callbacks. A folder comes before the files in it.
RUN_FILES = (
    "config.yaml",
    "summary.json",
    BEFORE_NAN,
    "checkpoints",
    *(f"checkpoints/{name}" for name in (LAST, BEST, FINAL)),
)

CONFIGURATION, MAX_MARKER_BYTES = "configuration: ", 1 << 16


class RunFolder(Folder):
    """The folder `path` of a run. `open` checks it and writes nothing; `begin` makes it ready for writing.

    `opened` is entered once, by the outermost caller that has the folder; the functions that it calls only use the folder.

    new: the folder must not hold a run, even if the fit resumes from a checkpoint (of another folder).
    configurations: the files that describe the run. The marker names them, relative to the folder, so that the newest run of a
    configuration can be found: two files of one name in different folders are different configurations.
    from_python: whether messages name Python's arguments, in place of the command line's options.
    """

    kind, worker, option, marker = "run folder", "another trainer", "--run-dir", ".trainkit-run"

    def __init__(
        self,
        path: Path,
        new: bool = False,
        numbered: bool = False,
        configurations: Sequence[Path] = (),
        from_python: bool = False,
    ) -> None:
        super().__init__(path, numbered)
        if from_python:
            self.option = "run_dir=..."
        self._to_continue = f"trainkit.load({str(path)!r}).fit(...)" if from_python else f"--resume {path}"
        self._configurations = [os.path.realpath(file) for file in configurations]
        self.new = new or numbered
        self.continues = False  # the fit continues the run that has saved here
        self._names: tuple[str, ...] = RUN_FILES

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def note(self) -> str:
        here = os.path.realpath(self.path)
        return "".join(f"{CONFIGURATION}{json.dumps(os.path.relpath(file, here))}\n" for file in self._configurations)

    def configurations(self) -> list[str] | None:
        """Return the absolute paths of the files that the marker names; None if it names none, or none that exists.

        Earlier versions named none. A run that was copied, or whose file was moved, names one that does not exist.
        """
        try:
            with open(self.path / self.marker, "rb") as file:
                lines = file.read(MAX_MARKER_BYTES).decode(errors="replace").splitlines()
            named = [json.loads(line.removeprefix(CONFIGURATION)) for line in lines if line.startswith(CONFIGURATION)]
            here = os.path.realpath(self.path)
            paths = [os.path.realpath(os.path.join(here, name)) for name in named if isinstance(name, str)]
        except (OSError, ValueError):
            return None
        return paths if paths and all(map(os.path.isfile, paths)) else None

    @contextmanager
    def opened(self, going_on: bool = False) -> Iterator[RunFolder]:
        """Open the folder, and close it at the end of the block. An error before `keep` removes it, if `begin` made it."""
        try:
            self.open(going_on)
            yield self
        except BaseException:
            self.discard()
            raise
        finally:
            self.close()

    def open(self, going_on: bool = False) -> None:
        """Check that the run can write into its folder. Lock it if `going_on` and it holds the run that the fit continues.

        Raises UserError where the folder holds another run or is inside one, where a file that is not a run's has a name that
        the run writes, or where another trainer uses the folder.
        """
        self._names = RUN_FILES
        self.continues = going_on and not self.new and self.marked and self.is_used()
        if self.continues:
            self.lock()
        else:
            self._check_outside()
        if not self.numbered:
            self._check()
            if self._lock is None:
                self._check_unused()

    def reserve(self, files: Iterable[str]) -> None:
        """Add the names that the callbacks write. Raises UserError where a file that is not a run's has one of them."""
        self._names = tuple(dict.fromkeys([*RUN_FILES, *files]))
        if not self.numbered:
            self._check()

    def begin(self) -> None:
        """Create and lock the folder, and remove temporary files. Called when every check of the fit has passed."""
        try:
            if self._lock is None:
                starts_over = not self.numbered and self.marked
                super().begin()
                self._check()  # again, as the lock is held only now
                self._check_unused()
                if starts_over:
                    print_stderr(f"run folder {self.path}: the run in it has saved nothing; started over")
            remove_temporaries(self.path)
            remove_temporaries(self.checkpoints)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            self.undo()
            raise self.refusal(error) from error
        except BaseException:
            self.undo()
            raise

    def is_used(self) -> bool:
        """Return whether the folder holds a checkpoint or the summary of a run."""
        return bool(list_checkpoints(self.checkpoints)) or os.path.lexists(self.path / "summary.json")

    def is_ahead(self, step: int, epoch: int) -> bool:
        """Return whether `last.pt` is later than (`step`, `epoch`): an epoch's end is later than its last step."""
        try:
            state = load(self.checkpoints / LAST)["state"]
        except Unreadable:
            raise
        except UserError:
            return False
        return bool((state["step"], state["epoch"]) > (step, epoch))

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name` by `text`, atomically."""
        write(text.encode(), self.file(name))

    def keep(self) -> None:
        """Keep the folder even if the fit fails from here on: steps have been taken."""
        self._made = []

    def discard(self) -> None:
        """Remove the folder and its files after a failed fit, if `begin` made it and it holds no checkpoint."""
        if self.path in self._made and not list_checkpoints(self.checkpoints):
            shutil.rmtree(self.path, ignore_errors=True)
            self.undo()

    def file(self, name: str) -> Path:
        """Return the path of a plain file name in this folder. Raises UserError for a name that could lead elsewhere."""
        return self.path / plain_name(name)

    def _check(self) -> None:
        """Raise UserError for what blocks a file of the run: a file that is not a run's, or a link, pipe or device."""
        ours = self.marked
        for name in self.there(self._names if ours else (self.marker, *self._names)):
            if not ours:
                raise UserError(
                    f"run folder {self.path}: holds {name}, which is not a run's; choose another with {self.option}"
                )
            path, expected = self.path / name, "a folder" if name == "checkpoints" else "a file"
            if (found := kind_of(path)) != expected:
                problem = f"{name} is {found}{' and could lead elsewhere' if found == 'a link' else ''}, not {expected}"
                raise UserError(f"run folder {self.path}: {problem}; remove it")
        try:
            for folder in (self.path, self.checkpoints) if ours else ():
                if folder.is_dir():
                    check_writable(folder)
        except OSError as error:
            raise self.refusal(error) from error

    def _check_outside(self) -> None:
        """Raise UserError if the folder is inside another run's, which commands would then read as one run."""
        outer = next((folder for folder in self.path.absolute().parents if RunFolder(folder).marked), None)
        if outer is not None:
            raise UserError(f"run folder {self.path}: is inside the run {outer}; choose another with {self.option}")

    def _check_unused(self) -> None:
        if self.marked and self.is_used():
            fix = f"continue it, {self._to_continue}, or choose another with {self.option}"
            raise UserError(f"run folder {self.path}: holds a run already; {fix}")
