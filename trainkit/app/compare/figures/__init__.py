"""The figures of `compare`: loss and error over the epochs, and the decision regions of nets with two inputs.

matplotlib draws them without pyplot, so no global state changes. It is imported when the first figure is made.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from pathlib import Path

from trainkit.app.compare.trial import Trial
from trainkit.core.errors import UserError
from trainkit.core.files import write as write_file

from .epochs import compare_curves, metric_curves
from .panel import png
from .plane import predictions, regions, samples


def draw(trials: Sequence[Trial], log: bool = False) -> dict[str, bytes]:
    """Return PNG files by name: loss, error, against, data (or data-NAME), regions, predictions, where the trials have them.

    log: loss and error on logarithmic axes. Equal trials give equal bytes. Raises UserError if matplotlib is missing.
    """
    planes = [(trial, trial.plane) for trial in trials if trial.plane is not None]
    figures = {
        "loss": metric_curves(trials, "loss", log),
        "error": metric_curves(trials, "error", log),
        "against": compare_curves(trials, log),
        **samples(planes),
        "regions": regions(planes),
        "predictions": predictions(planes),
    }
    return {name: png(figure) for name, figure in figures.items() if figure is not None}


def write(figures: dict[str, bytes], folder: Path) -> None:
    """Write `figures/NAME.png` into `folder`, and all of them as images into a new TensorBoard event file there."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    from trainkit.metrics.event_file import EventFile

    pictures = folder / "figures"
    images = []
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        for name, data in figures.items():
            write_file(data, pictures / f"{name}.png")
            width, height = struct.unpack(">II", data[16:24])  # the header of a PNG file
            image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)  # 3: RGB
            images.append(Summary.Value(tag=f"figures/{name}", image=image))
        events = EventFile(folder)
        try:
            events.add_event(Event(wall_time=time.time(), step=0, summary=Summary(value=images)))
        finally:
            events.close()
    except OSError as error:
        raise UserError(f"{pictures}: cannot be written, {error.strerror}; choose another folder") from error
