"""Worker processes that read samples. They hold no state: what a sample is depends on the task that asks for it.

The main process decides the order. It sends each worker the samples of its part of a batch, a few batches ahead, and puts the
parts together in their order. So no bit depends on the number of workers, and a resumed run starts at any batch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError

Arrays = list[Tensor]
Read = Callable[..., Arrays]  # (note, *task) -> the tensors of a task; calls note(i) before it reads sample i
MAX_PIECE = 1024  # samples of a task: two tasks are smaller than the buffer of a pipe, so that no send waits for the other side
IN_FLIGHT = 2  # tasks that a worker has: it reads the second while the main process takes the first
PARENT_SECONDS = 2.0  # after which an idle worker checks whether the main process still lives


class Block:
    """Samples that are being read: one piece per task, and the message of the first piece that failed."""

    def __init__(self, pieces: int) -> None:
        self.pieces: list[Arrays | str | None] = [None] * pieces

    def missing(self) -> bool:
        return any(piece is None for piece in self.pieces)


class Worker:
    """A process, the pipe to it, and its tasks: those it has, and those that wait."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        # Before multiprocessing, at the exit of Python, sends a SIGTERM and waits.
        self.at_exit = Finalize(None, process.kill, exitpriority=1)
        self.sent: deque[tuple[weakref.ref[Block], int]] = deque()
        self.unsent: deque[tuple[weakref.ref[Block], int, tuple[Any, ...]]] = deque()

    def send(self) -> None:
        """Send tasks, up to IN_FLIGHT. Those of a block that no one waits for are dropped."""
        while self.unsent and len(self.sent) < IN_FLIGHT:
            block, piece, task = self.unsent.popleft()
            if block() is not None:
                self.pipe.send(task)
                self.sent.append((block, piece))

    def receive(self) -> None:
        """Receive the result of its first task. Raises EOFError or OSError where the process has died."""
        header = self.pipe.recv()
        result: Arrays | str
        if isinstance(header, str):
            result = header
        else:
            result = [torch.empty(shape, dtype=getattr(torch, dtype)) for dtype, shape in header]
            for tensor in result:
                if tensor.numel():
                    self.pipe.recv_bytes_into(as_bytes(tensor))
        block, piece = self.sent.popleft()
        if (waiting := block()) is not None:
            waiting.pieces[piece] = result
        self.send()


class Workers:
    """`count` processes that call `read` for samples, started at the first task inside of a `with workers.opened()` block.

    name: of the data, for messages. Raises UserError for a sample that cannot be read, and where a worker dies, with the
    sample's index. No process is left when the outermost block ends, or when the main process is killed.
    """

    def __init__(self, read: Read, count: int, name: str) -> None:
        self.read, self.count, self.name = read, count, name
        self.workers: list[Worker] = []
        self.uses = 0
        self.current: Any = ()  # the sample that each worker reads, in shared memory

    @property
    def ready(self) -> bool:
        """Whether tasks go to processes: some are wanted, and a block is open that will end them."""
        return self.count > 0 and self.uses > 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.uses += 1
        try:
            yield
        finally:
            self.uses -= 1
            if not self.uses:
                self._stop()

    def submit(self, length: int, task: Callable[[slice], tuple[Any, ...]]) -> Block:
        """Give `length` samples to the workers, in pieces. task: returns the arguments of `read` for a piece."""
        if not self.workers:
            self._start()
        size = max(1, min(MAX_PIECE, -(-length // self.count)))
        cuts = [slice(i, min(i + size, length)) for i in range(0, length, size)]
        block = Block(len(cuts))
        for piece, cut in enumerate(cuts):
            worker = self.workers[piece % self.count]
            worker.unsent.append((weakref.ref(block), piece, task(cut)))
            self._guarded(worker, worker.send)
        return block

    def collect(self, block: Block) -> Arrays:
        """Wait for a block and return its tensors, each joined from its pieces."""
        while block.missing():
            busy = {w.pipe: w for w in self.workers if w.sent}
            if not busy:
                raise RuntimeError("samples were asked for, and their workers were ended before they arrived")
            ends = {w.process.sentinel: w for w in busy.values()}
            ready = wait([*busy, *ends])
            for worker in {id(w): w for r in ready if (w := busy.get(r) or ends.get(r)) is not None}.values():  # type: ignore[call-overload]
                if worker.pipe.poll():
                    self._guarded(worker, worker.receive)
                else:
                    self._died(worker)
        for piece in block.pieces:
            if isinstance(piece, str):
                raise UserError(piece)
        parts = [piece for piece in block.pieces if not isinstance(piece, (str, type(None)))]
        try:
            return parts[0] if len(parts) == 1 else [torch.cat(same) for same in zip(*parts, strict=True)]
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"data: the samples of {self.name} differ in shape; give all samples one shape ({error})"
            ) from error

    def _guarded(self, worker: Worker, talk: Callable[[], None]) -> None:
        try:
            talk()
        except (EOFError, OSError):
            self._died(worker)

    def _died(self, worker: Worker) -> None:
        worker.process.join(1)
        index, code = self.current[self.workers.index(worker)], worker.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        raise UserError(
            f"data: a worker process ended by {how} while it read sample {index} of {self.name};"
            " read that sample alone to see why, or set workers=0 (SIGKILL often means too little memory)"
        )

    def _start(self) -> None:
        # A fork needs no copy of the dataset and no importable script. The default of macOS is spawn, since its libraries do
        # not survive a fork.
        context: Any = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
        self.current = context.RawArray("q", [-1] * self.count)
        ours: list[Connection] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads: the child starts no torch thread
            for slot in range(self.count):
                mine, its = context.Pipe()
                ours.append(mine)
                forked = ours if context.get_start_method() == "fork" else []
                arguments = its, list(forked), self.read, self.current, slot, os.getpid()
                process = context.Process(target=serve, args=arguments, name=f"trainkit-worker-{slot}", daemon=True)
                try:
                    process.start()
                except Exception as error:  # with spawn the dataset is pickled
                    raise UserError(f"data: {self.name} cannot be sent to a process ({error}); set workers=0") from error
                its.close()
                self.workers.append(Worker(process, mine))

    def _stop(self) -> None:
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.pipe.close()  # an idle worker ends by itself
            worker.at_exit.cancel()
            if worker.sent:
                worker.process.kill()
        for worker in workers:
            worker.process.join(1)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "workers": [], "uses": 0, "current": ()}


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, as they are in memory."""
    array: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def serve(pipe: Connection, others: list[Connection], read: Read, current: Any, slot: int, parent: int) -> None:
    """Read what the main process asks for until it closes the pipe or ends. others: ends of pipes that a fork has copied."""
    for number in (signal.SIGINT, signal.SIGTERM):  # may go to all processes of a group; the main process handles them
        signal.signal(number, signal.SIG_IGN)
    for other in others:
        other.close()  # else this worker would keep its siblings from seeing that the main process has ended
    torch.set_num_threads(1)

    def note(index: int) -> None:
        current[slot] = index

    with suppress(EOFError, OSError):
        while True:
            while not pipe.poll(PARENT_SECONDS):
                if os.getppid() != parent:
                    return
            task = pipe.recv()
            try:
                arrays = [a.contiguous() for a in read(note, *task)]
            except UserError as error:
                pipe.send(str(error))
                continue
            pipe.send([(str(a.dtype).removeprefix("torch."), tuple(a.shape)) for a in arrays])
            for a in arrays:
                if a.numel():
                    pipe.send_bytes(as_bytes(a))
