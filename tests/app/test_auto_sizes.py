"""`auto` in a configuration: sizes come from the data and from the layers before, and a checkpoint keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainkit
from trainkit import Dataset, UserError, checkpoint, tensors
from trainkit.app.cli.main import main
from trainkit.app.config import registry
from trainkit.app.config.build import build
from trainkit.app.config.files import compose, resolve
from trainkit.app.config.model import NetBuilder
from trainkit.data.sizes import Sizes
from trainkit.nn.module import Module

TABLE = Sizes((5,), 3, (0, 0, 0, 4, 7))
IMAGE = Sizes((2, 3, 4), 10)


def built(model: list[Any], sizes: Sizes = TABLE) -> str:
    errors: list[str] = []
    net = NetBuilder(errors, sizes).net(model)
    if errors:
        raise UserError("\n".join(errors))
    return repr(net)


@pytest.mark.parametrize(
    ("model", "sizes", "layers"),
    [
        ([{"Linear": ["auto", "auto"]}], TABLE, ["Linear(5, 3)"]),
        (
            [{"Linear": {"out_features": 16, "in_features": "auto"}}, "ReLU", {"Linear": ["auto", "auto"]}],
            TABLE,
            ["Linear(5, 16)", "Linear(16, 3)"],
        ),
        (
            [{"Linear": ["auto", 4, False]}, {"Linear": [4, "auto"]}, "LogSoftmax"],
            TABLE,
            ["Linear(5, 4, bias=False)", "Linear(4, 3)"],
        ),
        (["Flatten", {"Linear": ["auto", 8]}, {"Linear": ["auto", "auto"]}], IMAGE, ["Linear(24, 8)", "Linear(8, 10)"]),
        ([{"Linear": ["auto", 8]}], IMAGE, ["Linear(4, 8)"]),
        (
            [{"Residual": [{"Linear": ["auto", 9]}, "Tanh", {"Linear": ["auto", "auto"]}]}, {"Linear": ["auto", "auto"]}],
            TABLE,
            ["Linear(5, 9)", "Linear(9, 5)", "Linear(5, 3)"],
        ),
        (
            [
                "FanOut",
                {"Parallel": [{"Linear": ["auto", 4]}, {"Sequential": [{"Linear": ["auto", 6]}]}]},
                "Concat",
                {"Linear": ["auto", "auto"]},
            ],
            TABLE,
            ["Linear(5, 4)", "Linear(5, 6)", "Linear(10, 3)"],
        ),
        ([{"Recompute": [{"Linear": ["auto", 4]}, {"Linear": ["auto", "auto"]}]}, "LogSoftmax"], TABLE, ["Linear(4, 3)"]),
        ([{"EmbedColumns": {"dim": 2}}, {"Linear": ["auto", "auto"]}], TABLE, ["EmbedColumns([4, 7], 2)", "Linear(7, 3)"]),
        (["EmbedColumns", {"Linear": ["auto", "auto"]}], TABLE, ["EmbedColumns([4, 7], 8)", "Linear(19, 3)"]),
        ([{"EmbedColumns": ["auto", 1]}, {"Linear": ["auto", 2]}], TABLE, ["EmbedColumns([4, 7], 1)", "Linear(5, 2)"]),
        ([{"EmbedColumns": [[4, 7], 1]}, {"Linear": ["auto", 2]}], TABLE, ["EmbedColumns([4, 7], 1)", "Linear(5, 2)"]),
    ],
)
def test_a_size_is_known_from_the_data_or_from_the_layers_before(model: list[Any], sizes: Sizes, layers: list[str]) -> None:
    text = built(model, sizes)
    for layer in layers:
        assert layer in text


@pytest.mark.parametrize(
    ("model", "sizes", "words"),
    [
        (
            [{"Linear": ["auto", "auto"]}, {"Linear": ["auto", 2]}],
            TABLE,
            "model[0].Linear.out_features: auto is known for the last layer that has one, the number of classes",
        ),
        ([{"Linear": ["auto", "auto"]}], Sizes((5,), None), "model[0].Linear.out_features: auto is known for the last layer"),
        (
            ["FanOut", {"Linear": ["auto", 2]}],
            TABLE,
            "model[1].Linear.in_features: auto is not known, since its input is ((2, 5), (2, 5)); put Flatten, Concat or Add",
        ),
        ([{"Linear": ["auto", 2]}], Sizes((), 3), "model[0].Linear.in_features: auto is not known, since its input is (2,)"),
        (
            [{"Linear": [12, 16]}, {"Linear": ["auto", 2]}],
            TABLE,
            "model[0].Linear: the layers before give (2, 5), it takes (n, 12)",
        ),
        (
            [{"Dropout": "auto"}],
            TABLE,
            "model[0].Dropout.p: auto; only in_features, input_size, in_channels, num_features, out_features, categories can",
        ),
        ([{"Linear": ["auto", 2, "auto"]}], TABLE, "model[0].Linear.bias: auto; only in_features"),
        (
            ["EmbedColumns", {"Linear": ["auto", 2]}],
            IMAGE,
            "model[0].EmbedColumns.categories: auto, but the data has no columns of codes",
        ),
        (
            ["EmbedColumns", {"Linear": ["auto", 2]}],
            Sizes((2,), 3, (4, 0)),
            "categories: auto, but the code columns are not the last ones ([4, 0])",
        ),
        (
            [{"Linear": ["auto", 5]}, "Tanh", {"Linear": [5, 4]}, "EmbedColumns"],
            TABLE,
            "model[3].EmbedColumns.categories: auto, but the layer does not take the data's columns",
        ),
        (
            [{"Parallel": [{"Linear": ["auto", 2]}]}],
            TABLE,
            "model[0].Parallel: the layers before give (2, 5), it Parallel: x is one tensor",
        ),
    ],
)
def test_a_size_that_cannot_be_known_is_one_error_with_the_way(model: list[Any], sizes: Sizes, words: str) -> None:
    with pytest.raises(UserError) as error:
        built(model, sizes)
    lines = str(error.value).split("\n")
    assert len(lines) == 1
    assert words in lines[0]


def test_a_users_own_layer_is_sized_by_its_parameters_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_imported", {"Own": Own})
    assert "Own(2)" in built([{"Own": {"num_features": "auto"}}, "Flatten", {"Linear": ["auto", "auto"]}], IMAGE)


class Own(Module):
    def __init__(self, num_features: int) -> None:
        self.num_features = num_features

    def fwd(self, x: Any) -> Any:
        return x, None

    def extra_repr(self) -> str:
        return str(self.num_features)


@pytest.mark.parametrize(
    ("data", "outputs"),
    [
        (lambda: tensors(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1])), 3),
        (lambda: tensors(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), classes=["a", "b", "c"]), 3),
        (lambda: tensors(torch.zeros(4, 2), torch.zeros(4)), 1),
        (lambda: tensors(torch.zeros(4, 2), torch.zeros(4, 6)), 6),
        (lambda: tensors(torch.zeros(4, 2), torch.zeros(4, 6, 2)), None),
        (lambda: trainkit.disk(10, targets="binary"), 1),
        (lambda: trainkit.disk(10, targets="onehot"), 2),
    ],
)
def test_the_outputs_are_what_the_targets_need(data: Callable[[], Dataset], outputs: int | None) -> None:
    sizes = Sizes.of(data())
    assert sizes == Sizes((2,), outputs)
    assert Sizes.saved(sizes.state_dict()) == sizes


# -- from a file to a trained model --------------------------------------------------------------------------------------------

CONF = """\
data: {name: csv, path: PATH, target: y, test: 0.25}
model: [{Linear: [auto, 6]}, Tanh, {Linear: [auto, auto]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1}}
trainer: {max_epochs: 3, batch_size: 8, device: cpu}
callbacks: {validation_split: {fraction: 0.2}, checkpoint: {}, csv_logger: {}, tensorboard: null, progress_bar: null}
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration over 40 rows of a number and a color, which give 4 features and 2 classes, in the current folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    lines = [
        f"{v!r},{c},{'yes' if v > 0 else 'no'}\n"
        for v, c in zip(draw.normal(size=40).tolist(), 13 * ["red", "green", "blue"] + ["red"], strict=True)
    ]
    (tmp_path / "d.csv").write_text("x,color,y\n" + "".join(lines))
    (tmp_path / "c.yaml").write_text(CONF.replace("PATH", str(tmp_path / "d.csv")))
    return tmp_path / "c.yaml"


def test_show_check_fit_and_predict_take_it(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(conf)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:4]] == ["0.Linear", "1.Tanh", "2.Linear"]
    assert shown[3].split()[1:4] == ["(1,", "2)", "14"]
    assert main(["check", str(conf)]) == 0
    assert main(["fit", str(conf), "--run-dir", "run"]) == 0
    assert "auto" in Path("run/config.yaml").read_text()
    assert checkpoint.load(Path("run/checkpoints/last.pt"))["data"]["sizes"] == {
        "features": [4],
        "outputs": 2,
        "categories": [],
    }


def test_the_data_is_read_once(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    real = trainkit.csv
    monkeypatch.setattr(
        registry, "find", lambda kind, name, find=registry.find: find(kind, name) if kind != "data" else counted
    )

    def counted(path: str, target: str, test: float = 0.2, schema: dict[str, object] | None = None) -> Dataset:
        reads.append(path)
        return real(path, target, test=test, schema=schema)

    parts = build(resolve(compose([conf], [])))
    first = parts.data()
    assert len(reads) == 1
    assert len(first.train) == 30
    parts.data()
    assert len(reads) == 2  # what was read ahead is given away, not kept


def test_a_run_is_loaded_without_its_data_and_resumed_to_the_same_bits(conf: Path) -> None:
    assert main(["fit", str(conf), "--run-dir", "whole"]) == 0
    assert main(["fit", str(conf), "trainer.max_epochs=1", "--run-dir", "part"]) == 0
    assert main(["fit", str(conf), "trainer.max_epochs=3", "--resume", "part"]) == 0
    states = [checkpoint.load(Path(run) / "checkpoints/last.pt")["model"] for run in ("whole", "part")]
    assert all(torch.equal(p, q) for p, q in zip(*(s.values() for s in states), strict=True))
    x = torch.randn(3, 4)
    expected = trainkit.load("whole").predict(x)
    Path("d.csv").unlink()
    assert torch.equal(trainkit.load("whole").predict(x), expected)
    assert main(["predict", "whole", "rows.csv"]) == 2  # no such file, but the net is there


def test_with_auto_the_parameters_are_those_of_the_same_net_with_numbers(conf: Path) -> None:
    numbers = conf.with_name("n.yaml")
    numbers.write_text(conf.read_text().replace("[auto, 6]", "[4, 6]").replace("[auto, auto]", "[6, 2]"))
    states = [build(resolve(compose([path], []))).net.state_dict() for path in (conf, numbers)]
    assert all(torch.equal(p, q) for p, q in zip(*(s.values() for s in states), strict=True))


def test_all_mistakes_of_the_configuration_come_before_the_data_is_read(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(conf), "data.path=nowhere.csv", "optimizer={Adm: {}}", "model.1=Tahn"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "nowhere.csv" not in "".join(lines)


def test_a_wrong_width_is_told_by_the_columns_it_comes_from(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf.write_text(conf.read_text().replace("[auto, 6]", "[2, 6]").replace("[auto, auto]", "[6, 2]"))
    for command in ("show", "check", "fit"):
        assert main([command, str(conf)]) == 2
        words = capsys.readouterr().err
        assert (
            "0.Linear: x is (2, 4), needs (n, 2); 2 columns become 4 features (x, color=blue, color=green, color=red)" in words
        )
        assert "write 4, or auto" in words
