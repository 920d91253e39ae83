"""`compare`: what the table says, what a grid and a rival are held to, and that nothing trained is lost."""

from __future__ import annotations

import csv
import json
import math
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import Split, UserError
from trainkit.app.cli.main import main
from trainkit.app.compare import command, figures, grid, reference, tables, trial
from trainkit.app.compare.reference import max_difference, max_or_nan
from trainkit.app.compare.shared_data import SharedData
from trainkit.app.compare.timed_fit import Clock, TimedFit, failures, train
from trainkit.app.compare.trial import Curves, Trial
from trainkit.app.config.build import build
from trainkit.app.config.files import compose, resolve
from trainkit.metrics.statistics import summarize
from trainkit.trainer.callback import without_folder

CONF = """\
seed: 3
data: {name: disk, train: 60, test: 20}
model: [{Linear: [2, 6]}, Tanh, {Linear: [6, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.5, momentum: 0.5}}
trainer: {max_epochs: 3, batch_size: 10, dtype: float64}
callbacks: {validation_split: {fraction: 0.25}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a.yaml and b.yaml; no figures are drawn, they have tests of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "draw", lambda trials, log: {})
    monkeypatch.setattr(figures, "write", lambda drawn, folder: None)
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text(CONF)


def config(*overrides: str) -> dict[str, Any]:
    return resolve(compose([Path("a.yaml")], overrides))


def ran(*overrides: str, against: str | None = None) -> Trial:
    return trial.run("a", config(*overrides), against)


def written(folder: str = "out") -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "compare.json").read_text()))


def made_up(name: str, **metrics: list[float]) -> Trial:
    """A trial with these metrics, `val_error=[0.1, 0.2]`, that trained nothing."""
    values = {k.replace("_", "/"): v for k, v in metrics.items()}
    outcome = TimedFit("trainkit", values, 10, 1.0, list(range(len(next(iter(values.values()))))))
    return Trial(name, "CrossEntropyLoss()", [outcome], Curves())


# -- the table -------------------------------------------------------------------------------------------------------------


def test_the_table_has_loss_and_error_of_each_part_and_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a.yaml", "b.yaml", "trainer.replicas=2", "--out", "out"]) == 0
    said = capsys.readouterr().out
    head = "trial, by, metric, mean ± std, median, min to max, failed, seconds, µs per step and model"
    assert [c.strip() for c in said.splitlines()[0].strip("|").split("|")] == head.split(", ")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in said.splitlines()[2:20]]
    assert [row[2] for row in rows] == [*tables.METRICS] * 2
    assert [row[0] for row in rows if row[0]] == ["a", "b"]
    assert " ± " in rows[0][3]
    assert " to " in rows[0][5]
    assert " of 2" in rows[0][6]
    assert float(rows[0][7]) >= 0  # seconds, two digits
    assert float(rows[0][8]) > 0


def test_markdown_csv_and_json_tell_the_same_numbers() -> None:
    assert main(["compare", "a.yaml", "trainer.replicas=3", "--out", "out"]) == 0
    text = (Path("out") / "compare.md").read_text()
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    with (Path("out") / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    (outcome,) = written()["trials"][0]["outcomes"]
    assert tuple(rows[0]) == tables.COLUMNS
    assert [r["metric"] for r in rows] == [line[2] for line in lines]
    assert {r["metric"] for r in rows} == set(outcome["metrics"])
    for row, line in zip(rows, lines, strict=True):
        stored = outcome["metrics"][row["metric"]]
        assert stored["mean"] == pytest.approx(sum(stored["values"]) / 3, rel=1e-12)
        for key in ("mean", "std", "median", "min", "max"):
            assert float(row[key]) == stored[key]
        s = {k: float(row[k]) for k in ("mean", "std", "median", "min", "max")}
        assert line[3:6] == [
            tables.mean(s),
            tables.four_digits(s["median"]),
            f"{tables.four_digits(s['min'])} to {tables.four_digits(s['max'])}",
        ]
        assert (int(row["models"]), int(row["failed"])) == (3, len(outcome["failed"]))
        assert (float(row["seconds"]), float(row["us_a_step"])) == (outcome["seconds"], outcome["us_a_step"])


def test_a_spread_with_nan_has_no_mean_but_a_median() -> None:
    s = summarize([0.3, math.nan, 0.1])
    assert (s["median"], s["min"], s["max"]) == (0.3, 0.1, math.inf)
    assert math.isnan(s["mean"])
    assert math.isnan(s["std"])
    assert tables.four_digits(s["mean"]) == "not finite"
    assert summarize([2.0]) == {"mean": 2.0, "std": 0.0, "median": 2.0, "min": 2.0, "max": 2.0}


def test_json_has_null_where_a_value_is_not_finite() -> None:
    t = made_up("a", val_loss=[0.5, math.nan])
    content = json.loads(tables.as_json([t]), parse_constant=lambda word: pytest.fail(word))
    assert content["trials"][0]["outcomes"][0]["metrics"]["val/loss"]["values"] == [0.5, None]


def test_a_bar_in_a_name_does_not_end_its_cell() -> None:
    lines = tables.markdown([made_up("a|b", val_loss=[0.5])]).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines} == {10}


def test_trials_are_ranked_by_validation_never_by_test() -> None:
    better = made_up("better", val_error=[0.1], test_error=[0.9], val_loss=[9.0])
    worse = made_up("worse", val_error=[0.2], test_error=[0.0], val_loss=[0.0])
    lost = made_up("lost", val_error=[math.nan], test_error=[0.0], val_loss=[0.0])
    assert [t.name for t in tables.ranked([lost, worse, better])] == ["better", "worse", "lost"]
    assert tables.of_grid([worse, better]).splitlines()[2].startswith("| **better**")
    only = [made_up("a", train_loss=[0.1], test_loss=[0.0]), made_up("b", train_loss=[0.0], test_loss=[1.0])]
    assert tables.chooser(only) == "train/loss"


FAILURES: dict[str, tuple[list[float], list[float], list[int] | None, list[bool]]] = {  # losses, errors, classes, who failed
    "below the commonest class's error": ([0.1, 0.1], [0.1, 0.39], [0, 0, 0, 1, 1], [False, False]),
    "not below it": ([0.1, 0.1], [0.4, 0.6], [0, 0, 0, 1, 1], [True, True]),
    "a good model of a rare class": ([0.3], [0.15], [0, 0, 0, 0, 1], [False]),
    "a loss that is no number": ([math.nan, 0.1], [0.0, 0.0], [0, 1], [True, False]),
    "a loss without end": ([0.1, math.inf], [0.0, 0.0], [0, 1], [False, True]),
    "no classes": ([5.0, math.nan], [], None, [False, True]),
}


@pytest.mark.parametrize("case", FAILURES)
def test_who_learned_nothing(case: str) -> None:
    losses, errors, classes, failed = FAILURES[case]
    label = None if classes is None else torch.tensor(classes)
    n = 5 if label is None else len(label)
    metrics = {"train/loss": losses, **({"train/error": errors} if errors else {})}
    assert failures(metrics, Split(torch.zeros(n, 2), torch.zeros(n, 1), label)) == failed


# -- looking ---------------------------------------------------------------------------------------------------------------


def test_curves_begin_with_the_untrained_net_and_end_with_the_outcome() -> None:
    t = ran("trainer.replicas=2")
    untrained = ran("trainer.replicas=2", "trainer.max_epochs=0").outcomes[0].metrics
    assert t.curves.epochs == [0, 1, 2, 3]
    for name, rows in t.curves.values.items():
        assert rows[0] == untrained[name]
        assert rows[-1] == t.outcomes[0].metrics[name]


def test_looking_does_not_change_the_training() -> None:
    parts = build(config("callbacks.early_stopping={patience: 1}"))
    looked = train(parts, parts.data(), trial.CurveRecorder())
    alone = build(config("callbacks.early_stopping={patience: 1}"))
    alone.trainer(without_folder(alone.callbacks)[0]).fit(alone.net, alone.loss, alone.optimizer(alone.net), alone.data())
    theirs = alone.net.state_dict()
    assert all(torch.equal(p, theirs[name]) for name, p in looked.net.state_dict().items())


def test_a_run_that_steps_end_is_looked_at_all_the_way() -> None:
    assert ran("trainer.max_epochs=1000000", "trainer.max_steps=12").curves.epochs == [0, 1, 2, 2.4]


def test_the_votes_over_the_plane_sum_to_one() -> None:
    plane = ran("trainer.replicas=3", "trainer.max_epochs=1").plane
    assert plane is not None
    assert plane.boundary is not None
    assert plane.class_shares.shape == (2, len(plane.y), len(plane.x))
    torch.testing.assert_close(plane.class_shares.sum(0), torch.ones_like(plane.class_shares[0]))
    assert len(plane.predicted) == len(plane.test) == 20


# -- a grid ----------------------------------------------------------------------------------------------------------------


def test_a_grid_of_rates_is_one_training_that_equals_the_separate_ones() -> None:
    axes = [grid.axis("optimizer.SGD.lr=0.5,0.1"), grid.axis("trainer.batch_size=5,10")]
    plans = grid.planned(Path("a.yaml"), ["trainer.replicas=2"], axes, several=False)
    assert [p.name for p in plans] == ["lr=0.5,0.1 batch_size=5", "lr=0.5,0.1 batch_size=10"]
    trials = [t for p in plans for t in p.run(None)]
    points = [(lr, size) for size in (5, 10) for lr in (0.5, 0.1)]
    assert [t.name for t in trials] == [f"lr={lr} batch_size={size}" for lr, size in points]
    for t, (lr, size) in zip(trials, points, strict=True):
        separate = ran("trainer.replicas=2", f"optimizer.SGD.lr={lr}", f"trainer.batch_size={size}")
        assert t.outcomes[0].seeds == separate.outcomes[0].seeds == [3, 4]
        assert t.outcomes[0].failed == separate.outcomes[0].failed
        for name, values in separate.outcomes[0].metrics.items():
            assert t.outcomes[0].metrics[name] == pytest.approx(values, rel=0, abs=1e-12)


@pytest.mark.parametrize("rates", ["0.5", "0.5,0.1"])
def test_rates_train_apart_where_the_net_takes_no_replicas_or_there_is_one(rates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainkit.Tanh.can_replicate", False)
    plans = grid.planned(Path("a.yaml"), [], [grid.axis(f"optimizer.SGD.lr={rates}")], several=False)
    assert [p.name for p in plans] == [f"lr={r}" for r in rates.split(",")]
    assert [t.name for p in plans for t in p.run(None)] == [p.name for p in plans]


SOURCE = """
import torch
import trainkit

reads = []

def own(n: int = 40):
    reads.append(n)
    return trainkit.tensors(torch.randn(n, 3), torch.arange(n) % 2)
"""


@pytest.mark.parametrize("sizes", ["auto", "3"])
@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (["a.yaml", "--grid", "optimizer.SGD.lr=0.1,0.2", "--grid", "trainer.batch_size=5,10"], [40]),
        (["a.yaml", "b.yaml"], [40]),
        (["a.yaml", "--against", "torch"], [40]),
        (["a.yaml", "--grid", "data.n=30,40"], None),  # what is read for a size is not kept beside another dataset
    ],
    ids=["grid", "files", "against", "data"],
)
def test_data_that_trials_share_is_read_once(words: list[str], reads: list[int] | None, sizes: str) -> None:
    Path("data").mkdir()
    Path("data/own.py").write_text(SOURCE)
    text = CONF.replace("{name: disk, train: 60, test: 20}", "{name: own}").replace("Linear: [2", f"Linear: [{sizes}")
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text(text)
    assert main(["compare", *words, "--out", "out"]) == 0
    found = sys.modules["trainkit_user_own"].reads
    if reads is None:
        assert found == ([30, 40, 30, 40] if sizes == "auto" else [30, 40])
    else:
        assert found == reads


def test_points_whose_keys_end_alike_are_told_apart() -> None:
    axes = [grid.axis("data.train=40,60"), grid.axis("optimizer.SGD.lr=0.1"), grid.axis("callbacks.validation_split.train=1")]
    assert list(grid.axis_labels(axes).values()) == ["data.train", "lr", "callbacks.validation_split.train"]


# -- against a rival -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [["trainer.seeds=[9, 2]"], ["optimizer.SGD.lr=[0.5, 0.1]"], ["trainer.replicas=1"]], ids=str)
def test_torch_agrees_for_every_replica(how: list[str]) -> None:
    t = ran("trainer.replicas=2", *how, against="torch")
    whole, alone, rival = t.outcomes
    assert (whole.difference is None) == (whole.models == 1)
    assert whole.difference is None or whole.difference < 1e-9
    assert rival.difference is not None
    assert rival.difference < 1e-9
    for name, values in whole.metrics.items():
        assert alone.metrics[name] == pytest.approx(values, abs=1e-9)
        assert rival.metrics[name] == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize(
    "how", ["model[1]={Dropout: 0.3}", "callbacks.early_stopping={patience: 1, restore_best: true}"], ids=["masks", "best"]
)
def test_no_difference_is_told_to_a_rival_that_draws_other_masks_or_keeps_no_best_weights(how: str) -> None:
    whole, _, rival = ran("trainer.replicas=2", "trainer.max_epochs=20", how, against="torch").outcomes
    assert whole.difference is not None
    assert whole.difference < 1e-9
    assert rival.difference is None


def test_a_difference_that_is_no_number_is_not_passed_over() -> None:
    nan, zero = torch.tensor([math.nan]), torch.zeros(1)
    for a in ({"w": nan, "b": zero}, {"b": zero, "w": nan}):
        assert math.isnan(max_difference(a, {"w": zero, "b": zero}))
    assert math.isnan(max_or_nan([0.0, math.nan]))
    o = made_up("a", train_loss=[0.1]).outcomes[0]
    text = tables.markdown([replace(made_up("a", train_loss=[0.1]), outcomes=[replace(o, difference=math.nan)])])
    assert text.splitlines()[2].endswith("| not finite         |")


def test_steps_are_those_that_each_model_took() -> None:
    stop = "callbacks.early_stopping={patience: 1, min_delta: 0.03}"
    whole, alone, rival = ran("trainer.replicas=4", "trainer.max_epochs=30", stop, against="torch").outcomes
    each = [build({**config("trainer.max_epochs=30", stop), "seed": s}) for s in (3, 4, 5, 6)]
    steps = [train(parts, parts.data(), Clock()).progress.step for parts in each]
    assert len(set(steps)) > 1
    assert whole.steps == max(steps)
    assert alone.steps == rival.steps == sum(steps) / 4


# -- seeds -----------------------------------------------------------------------------------------------------------------


def test_named_seeds_train_the_replicas_of_a_wider_run() -> None:
    some, wide = ran("trainer.replicas=2", "trainer.seeds=[3, 5]"), ran("trainer.replicas=3")
    assert (some.outcomes[0].seeds, wide.outcomes[0].seeds) == ([3, 5], [3, 4, 5])
    for name, values in wide.outcomes[0].metrics.items():
        assert some.outcomes[0].metrics[name] == pytest.approx([values[0], values[2]], abs=1e-12)


# -- signals and errors ----------------------------------------------------------------------------------------------------


def at_call(function: Callable[..., Any], n: int, do: Callable[[], Any]) -> Callable[..., Any]:
    """`function`, with something done before its n-th call."""
    calls = 0

    def counting(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            do()
        return function(*args, **more)

    return counting


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("where", "call"), [("measured", 8), ("measured", 9), ("measured", 10), ("read", 2), ("decision_regions", 2)]
)
def test_a_signal_keeps_the_finished_trials(number: int, where: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the second training's looks, of its last ones, and between two trainings."""
    owner = SharedData if where == "read" else trial
    monkeypatch.setattr(owner, where, at_call(getattr(owner, where), call, lambda: signal.raise_signal(number)))
    assert main(["compare", "a.yaml", "b.yaml", "--out", "out"]) == 128 + number
    assert [t["name"] for t in written()["trials"]] == ["a"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_while_the_rival_trains_keeps_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "pair", at_call(reference.pair, 2, lambda: signal.raise_signal(signal.SIGINT)))
    assert main(["compare", "a.yaml", "--against", "torch", "--out", "out"]) == 130
    assert [o["by"] for o in written()["trials"][0]["outcomes"]] == ["trainkit"]


def test_an_error_keeps_the_finished_trials_and_names_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("b.yaml").write_text(CONF.replace("name: disk, train: 60, test: 20", "name: csv, path: none.csv, target: t"))
    assert main(["compare", "a.yaml", "b.yaml", "--out", "out"]) == 2
    assert [t["name"] for t in written()["trials"]] == ["a"]
    said = capsys.readouterr()
    assert "| a " in said.out
    assert said.err.splitlines()[-1].startswith("error: b: ")


MISTAKES = {
    "a key that is none": (["a.yaml", "--grid", "foo=1,2"], "foo: no such key; (seed, "),
    "a rate that is no number": (["a.yaml", "--grid", "optimizer.SGD.lr=0.1,x"], "lr: x; a learning rate is a number"),
    "a rate below 0": (["a.yaml", "--grid", "optimizer.SGD.lr=0.1,-1"], "lr=-1; needs a finite number of at least 0"),
    "another optimizer's rate": (["a.yaml", "--grid", "optimizer.Adam.lr=1,2"], "the optimizer is {'SGD': "),
    "a schedule with rates of its own": (
        [
            "a.yaml",
            "--grid",
            "optimizer.SGD.lr=1,2",
            "callbacks.lr_scheduler={OneCycleLR: {max_lr: 0.1, total_steps: 50}}",
        ],
        "OneCycleLR sets the rate itself, so all points would be equal; try callbacks.lr_scheduler.OneCycleLR.max_lr",
    ),
    "a schedule with rates of its own, under another name": (
        [
            "a.yaml",
            "--grid",
            "optimizer.SGD.lr=1,2",
            "callbacks.mine={LRScheduler: {OneCycleLR: {max_lr: 0.1, total_steps: 50}}}",
        ],
        "OneCycleLR sets the rate itself, so all points would be equal; try callbacks.mine.LRScheduler.OneCycleLR.max_lr",
    ),
    "an option without its value": (["a.yaml", "--grid"], "--grid: no value; write --grid KEY=A,B"),
    "two axes of one key": (
        ["a.yaml", "--grid", "seed=1", "--grid", "seed=2"],
        "--grid seed: the key is given twice; write all",
    ),
    "a value twice": (["a.yaml", "--grid", "seed=1,1"], "--grid seed=1,1: a value is given twice"),
    "an axis without values": (["a.yaml", "--grid", "seed"], "--grid seed: not a key with values; write key=value,value"),
    "a seed that is text": (["a.yaml", "--grid", "optimizer.SGD.lr=1,2", "seed=x"], "seed: 'x'; needs a whole number"),
    "seeds that are no list": (["a.yaml", "--grid", "optimizer.SGD.lr=1,2", "trainer.seeds=5"], "trainer.seeds: 5; needs a li"),
    "seeds that are texts": (["a.yaml", "trainer.seeds=[x]"], "trainer.seeds: ['x']; needs a list of whole numbers"),
    "too many seeds": (["a.yaml", "trainer.seeds=[1, 2]"], "trainer.seeds: 2 seeds for 1 replicas; needs one for each"),
    "no such reference": (
        ["a.yaml", "--against", "tourch"],
        "no reference implementation 'tourch'; did you mean 'torch'? (torch)",
    ),
    "what the rival has not": (["a.yaml", "--against", "torch", "optimizer=SignSGD"], "SignSGD: torch has no such optimizer"),
    "a rival and a grid": (["a.yaml", "--against", "torch", "--grid", "seed=1"], "--grid and --against cannot be combined"),
    "a file twice": (["a.yaml", "a.yaml"], "a.yaml is given twice; give each CONF once"),
    "the second file's mistake": (["a.yaml", "bad.yaml"], "bad.yaml: loss: no loss 'Cross'"),
    "a folder that is a file": (
        ["a.yaml", "--out", "a.yaml"],
        "a.yaml: cannot be made or written (Not a directory); choose another",
    ),
    "a folder that is taken": (["a.yaml", "--out", "taken"], "taken: holds compare.json already; choose another"),
    "no file": ([], "compare: no CONF; give YAML files"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_trained(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bad.yaml").write_text(CONF.replace("CrossEntropyLoss", "Cross"))
    Path("taken").mkdir()
    Path("taken/compare.json").write_text("{}")
    monkeypatch.setattr(trial, "CurveRecorder", lambda: pytest.fail("it trains"))
    words, told = MISTAKES[case]
    assert main(["compare", *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not list(Path("logs").rglob("2*"))


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    assert command.names([Path("x/a.yaml"), Path("y/a.yaml"), Path("b.yaml")]) == ["x/a.yaml", "y/a.yaml", "b"]


def test_without_matplotlib_the_table_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(trials: Any, log: bool) -> Any:
        raise UserError("matplotlib is missing; install it")

    monkeypatch.setattr(figures, "draw", missing)
    assert main(["compare", "a.yaml", "--out", "out"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "no figures: matplotlib is missing; install it"
    assert said.out.splitlines()[-1] == "out: compare.md, compare.csv, compare.json"
