"""In the kernel of a notebook the progress bar is one of widgets; without ipywidgets, and in a terminal, it is as before."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from trainkit import SGD, CrossEntropyLoss, Linear, ProgressBar, Sequential, Trainer, ValidationSplit, disk


class WidgetBar:
    """What the callback uses of tqdm's bar of widgets."""

    made: list[WidgetBar] = []

    def __init__(self, total: int, initial: int, **options: Any) -> None:
        self.total, self.n, self.options = total, initial, options
        self.description = self.postfix = ""
        self.closed = False
        type(self).made.append(self)

    def set_description_str(self, text: str, refresh: bool) -> None:
        self.description = text

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.postfix = text

    def update(self, steps: int) -> None:
        self.n += steps

    def refresh(self) -> None: ...

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to run in a kernel with ipywidgets."""
    WidgetBar.made = []
    widgets: Any = ModuleType("tqdm.notebook")
    widgets.IProgress, widgets.tqdm_notebook = object, WidgetBar
    monkeypatch.setitem(sys.modules, "tqdm.notebook", widgets)
    monkeypatch.setitem(sys.modules, "IPython", ipython({"IPKernelApp": {}}))


def ipython(config: dict[str, Any]) -> Any:
    return SimpleNamespace(get_ipython=lambda: SimpleNamespace(config=config))


def fit() -> None:
    net = Sequential(Linear(2, 2)).initialize(torch.Generator().manual_seed(0))
    trainer = Trainer(max_epochs=4, batch_size=5, device="cpu", callbacks=[ValidationSplit(0.5), ProgressBar()])
    trainer.fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), disk(30))


def test_a_notebook_has_a_bar_of_widgets_that_ends_full(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    (bar,) = WidgetBar.made
    assert (bar.n, bar.total, bar.closed) == (12, 12, True)
    assert bar.description == "epoch 4/4"
    assert "val/loss" in bar.postfix
    assert bar.options["bar_format"].count("{bar}") == 1  # tqdm replaces this field by the widget
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lacks", ["ipywidgets", "a kernel", "IPython"])
def test_elsewhere_there_are_plain_lines(
    lacks: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if lacks == "ipywidgets":
        monkeypatch.setattr(sys.modules["tqdm.notebook"], "IProgress", None)
    elif lacks == "a kernel":
        monkeypatch.setitem(sys.modules, "IPython", ipython({"TerminalIPythonApp": {}}))
    else:
        monkeypatch.delitem(sys.modules, "IPython")
    fit()
    assert WidgetBar.made == []
    assert capsys.readouterr().err.startswith("epoch 1/4, step 3: train/loss ")
