"""The text of `show`: data, loss, optimizer, hooks, and a plot of the learning rate."""

from __future__ import annotations

import math

from trainkit.app.config.build import Parts
from trainkit.data.check import SPLITS
from trainkit.trainer.session import Session
from trainkit.trainer.setup import prepare_data
from trainkit.trainer.shapes import check_inputs, check_shapes


def planned(parts: Parts) -> Session:
    """Return a session with the data of the configured run, split, checked and scaled, that no step can be taken with."""
    session = Session(parts.settings, parts.net, parts.loss, parts.optimizer(parts.net), parts.data(), parts.callbacks)
    prepare_data(session, None, tuple(SPLITS))
    check_inputs(session.net, session.data, session.data.parts())
    check_shapes(session.net, session.loss, session.data, session.data.parts(), session.replicas)
    return session


def outline(parts: Parts, session: Session) -> str:
    """Return data, loss, optimizer, hooks, and the learning rate over the run, as text."""
    data = session.data
    sizes = ", ".join(
        f"{n} {len(p)}" for n, p in (("train", data.train), ("val", data.val), ("test", data.test)) if p is not None
    )
    length = f"{session.steps_per_epoch} steps per epoch, {session.max_epochs} epochs"
    lines = [
        "",
        f"data: {sizes}; {length} on {session.device.type} in {str(session.dtype).removeprefix('torch.')}",
        f"loss: {parts.loss}; optimizer: {session.optimizer}",
        "",
        "hooks, in the order of a run:",
        session.show_hooks(),
    ]
    scheduler = next((cb for cb in parts.callbacks.values() if hasattr(cb, "curve")), None)
    if scheduler is not None and session.max_epochs * session.steps_per_epoch > MAX_DRAWN_STEPS:
        lines += ["", f"learning rate over the run: not drawn, since the run has over {MAX_DRAWN_STEPS:,} steps"]
    elif scheduler is not None:
        rates = scheduler.curve(session.optimizer.initial_lrs[0], session.max_epochs, session.steps_per_epoch)
        lines += ["", "learning rate over the run:", curve(rates)]
    return "\n".join(lines)


MAX_DRAWN_STEPS = 200_000  # since the learning rates are computed one by one


def curve(values: list[float], width: int = 60, height: int = 8) -> str:
    """Return a plot in characters. Each column shows the mean over a range of steps."""
    if not values:
        return "  (no steps)"
    if not all(map(math.isfinite, values)):
        return f"  (not finite from step {[*map(math.isfinite, values)].index(False) + 1} on)"
    columns = min(width, len(values))
    means = [
        sum(v) / len(v) for v in (values[i * len(values) // columns : (i + 1) * len(values) // columns] for i in range(columns))
    ]
    top, low = max(means), min(means)
    span = top - low or 1.0
    levels = [round((m - low) / span * (height - 1)) for m in means]
    lines = []
    for h in range(height - 1, -1, -1):
        label = f"{top:.3g}" if h == height - 1 else f"{low:.3g}" if h == 0 else ""
        lines.append(f"  {label:>9} |{''.join('*' if level == h else ' ' for level in levels)}")
    return "\n".join([*lines, f"  {'':>9} +{'-' * columns} {len(values)} steps"])
