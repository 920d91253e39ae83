"""`fit` in a cell of a Jupyter kernel that is interrupted: control returns, and the net is usable."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from .tally import Tally, inside
from .terminals import variables_of

BEGIN = """
import time, torch
from trainkit import *
from trainkit.checkpoint import file as checkpoint
class Slow(Callback):
    def on_train_batch_end(self, session): time.sleep(SECONDS)
x = torch.rand(100, 2); t = (x.sum(1) > 1).long()
net = Sequential(Linear(2, 4), ReLU(), Linear(4, 2)).initialize(torch.Generator().manual_seed(0))
def fit(resume=None, epochs=10**6):
    callbacks = [ValidationSplit(0.2), Checkpoint("val/loss"), CSVLogger(), ProgressBar(), Slow()]
    trainer = Trainer(max_epochs=epochs, batch_size=10, run_dir="run", callbacks=callbacks)
    return trainer, trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), 0.1), tensors(x, t), resume=resume)
"""
USABLE = "assert net(x).shape == (100, 2) and net(x).isfinite().all()"
AGAIN = """
content = checkpoint.load(__import__("pathlib").Path("run/checkpoints/last.pt"))
SECONDS = 0
trainer, summary = fit(content, content["state"]["epoch"] + 2)
assert summary["stop_reason"] == "max_epochs", summary
"""


def notebook(folder: Path) -> list[Tally]:
    """Interrupt a cell once, and twice."""
    tally = Tally(
        "a Jupyter kernel interrupted in a cell that runs fit, once and twice",
        "once: fit returns; twice: KeyboardInterrupt; the next cells use the net, and resume the run from last.pt",
    )
    try:
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import KernelManager
    except ImportError:
        tally.case += ": skipped, jupyter_client is not installed"
        return [tally]
    for times, seconds in ((1, 0.01), (1, 0.2), (2, 2.0)):
        with inside(folder / f"{times}-{seconds}"):
            words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            manager: Any = KernelManager()
            manager._kernel_spec = KernelSpec(argv=words, display_name="this", language="python")
            manager.start_kernel(env=variables_of({"PYTHONPATH": ":".join([variables_of({})["PYTHONPATH"], *sys.path])}))
            try:
                client = manager.client()
                client.start_channels()
                client.wait_for_ready(60)
                wrong = cell(client, BEGIN.replace("SECONDS", str(seconds)) + "SECONDS = 0")
                stop = "trainer, summary = fit()\nassert summary['stop_reason'] == 'SIGINT'"
                wrong = wrong or cell(client, stop, manager, times, "KeyboardInterrupt" if times == 2 else "")
                again = BEGIN.replace("SECONDS", "0").split("x = ")[0] + AGAIN
                tally.count(wrong or cell(client, USABLE) or (cell(client, again) if times == 1 else None))
            finally:
                manager.shutdown_kernel(now=True)
    return [tally]


def cell(client: Any, code: str, manager: Any = None, times: int = 0, wanted: str = "") -> str | None:
    """Run a cell and interrupt it `times` times. Return its error, unless that is `wanted`."""
    request = client.execute(code)
    for _ in range(times):
        time.sleep(0.5)
        manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=60)
    while reply["parent_header"].get("msg_id") != request:
        reply = client.get_shell_msg(timeout=60)
    error = reply["content"].get("ename", "")
    return None if error == wanted else f"{error}: {reply['content'].get('evalue')}"
