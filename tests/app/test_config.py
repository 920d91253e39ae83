"""Configurations: merged, overridden, resolved and checked, and nothing but an answer or a UserError comes of any of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.app.config.build import build
from trainkit.app.config.files import DEFAULT_CALLBACKS, compose, diff, override, parse, resolve, to_yaml
from trainkit.core.errors import UserError

GOOD = """\
seed: 0
data: {name: disk, train: 40, test: 10}
model: [{Linear: [2, 4]}, {Dropout: 0.1}, {Linear: {in_features: 4, out_features: 2}}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1}}
trainer: {max_epochs: 1, batch_size: 10}
callbacks: {validation_split: {fraction: 0.2}, lr_scheduler: {StepLR: {step_size: 2}}, early_stopping: {patience: 3}}
"""


def composed(*texts: str, overrides: tuple[str, ...] = (), folder: Path) -> dict[str, Any]:
    files = [folder / f"{i}.yaml" for i in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return resolve(compose(files, overrides))


@pytest.mark.parametrize("time", ['"01:30"', "01:30", '"00:00:90"', '"12:30"', '"1:30.5"'])
def test_a_time_is_a_text_and_stays_one_when_the_configuration_is_saved(time: str) -> None:
    config = parse(f"callbacks: {{timer: {{max_time: {time}}}}}", "conf.yaml")
    assert resolve(config) == {"callbacks": {"timer": {"max_time": time.strip('"')}}}
    assert parse(to_yaml(config), "the saved one") == config


@pytest.mark.parametrize(("number", "decimal"), [("010", "10"), ("08", "8"), ("-012", "-12"), ("00", "0")])
def test_a_number_with_a_leading_zero_is_refused_since_yaml_reads_it_in_base_8(number: str, decimal: str) -> None:
    with pytest.raises(
        UserError, match=f"^c.yaml: {number} is not a decimal number in YAML; write {decimal}, or put it in quotes$"
    ):
        parse(f"seed: {number}", "c.yaml")
    with pytest.raises(UserError, match=f"{number} is not a decimal number"):
        override(parse("seed: 1", "c.yaml"), f"trainer.max_epochs={number}")
    assert resolve(parse(f"seed: '{number}'", "c.yaml")) == {"seed": number}


def test_the_right_file_wins_and_the_command_line_over_it(tmp_path: Path) -> None:
    second = "trainer: {max_epochs: 2}\nseed: 7\n"
    config = composed(GOOD, second, overrides=("seed=9",), folder=tmp_path)
    assert (config["seed"], config["trainer"]) == (9, {"max_epochs": 2, "batch_size": 10})


def test_a_list_replaces_a_list(tmp_path: Path) -> None:
    assert composed(GOOD, "model: [{Linear: [2, 2]}]\n", folder=tmp_path)["model"] == [{"Linear": [2, 2]}]


OVERRIDES: dict[str, tuple[str, Any]] = {
    "trainer.max_epochs=5": ("trainer.max_epochs", 5),
    "optimizer.SGD.lr=1e-3": ("optimizer.SGD.lr", 1e-3),
    "optimizer.SGD.lr=[0.1,0.2]": ("optimizer.SGD.lr", [0.1, 0.2]),
    "loss={HuberLoss: {delta: 2}}": ("loss", {"HuberLoss": {"delta": 2}}),
    "model[1].Dropout=0.2": ("model.1", {"Dropout": 0.2}),
    "model[2].Linear.bias=false": ("model.2", {"Linear": {"in_features": 4, "out_features": 2, "bias": False}}),
    "model[0].Linear[1]=5": ("model.0", {"Linear": [2, 5]}),
    "trainer.batch_size=null": ("trainer.batch_size", None),
    "trainer.device='cpu'": ("trainer.device", "cpu"),
    "data.name=a=b": ("data.name", "a=b"),
    "trainer.max_epochs=${data.train}": ("trainer.max_epochs", 40),
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_an_override_sets_one_value(text: str, tmp_path: Path) -> None:
    before, after = composed(GOOD, folder=tmp_path), composed(GOOD, overrides=(text,), folder=tmp_path)
    path, value = OVERRIDES[text]
    here: Any = after
    for key in path.split("."):
        here = here[int(key)] if isinstance(here, list) else here[key]
    assert here == value
    assert len(diff(before, after)) == 1


def test_dropout_by_its_argument_in_a_list(tmp_path: Path) -> None:
    text = GOOD.replace("{Dropout: 0.1}", "{Dropout: {p: 0.1}}")
    assert composed(text, overrides=("model[1].Dropout.p=0.2",), folder=tmp_path)["model"][1] == {"Dropout": {"p": 0.2}}


OWN = ["validation_split", "lr_scheduler", "early_stopping"]  # the callbacks of GOOD


def test_null_leaves_a_callback_out(tmp_path: Path) -> None:
    def built(*overrides: str) -> list[str]:
        return list(build(composed(GOOD, overrides=overrides, folder=tmp_path)).callbacks)

    assert built("callbacks.early_stopping=null") == [*OWN[:2], *DEFAULT_CALLBACKS]
    assert built("callbacks.tensorboard=null") == [*OWN, "checkpoint", "csv_logger", "progress_bar"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", DEFAULT_CALLBACKS),
        ("callbacks: {}", DEFAULT_CALLBACKS),
        ("callbacks: null", ()),
        ("callbacks: {timer: {max_time: 5}}", ("timer", *DEFAULT_CALLBACKS)),
        ("callbacks: {csv_logger: null, tensorboard: null}", ("checkpoint", "progress_bar")),
        ("callbacks: {best: {Checkpoint: {save_top_k: 2}}}", ("best", "csv_logger", "tensorboard", "progress_bar")),
        ("callbacks: {Checkpoint: {save_top_k: 2}}", ("Checkpoint", "csv_logger", "tensorboard", "progress_bar")),
    ],
)
def test_the_default_callbacks_stay_unless_they_are_left_out_or_replaced(
    text: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    conf = GOOD[: GOOD.index("callbacks")] + text
    assert tuple(build(composed(conf, folder=tmp_path)).callbacks) == names


def test_an_override_of_all_callbacks_replaces_them(tmp_path: Path) -> None:
    assert list(build(composed(GOOD, overrides=("callbacks={timer: {max_time: 5}}",), folder=tmp_path)).callbacks) == ["timer"]


def test_the_defaults_of_one_run_are_not_the_next_ones(tmp_path: Path) -> None:
    composed(GOOD, overrides=("callbacks.checkpoint.save_top_k=3",), folder=tmp_path)
    assert composed(GOOD, folder=tmp_path)["callbacks"]["checkpoint"] == {}


def test_the_configuration_of_a_run_gets_no_further_callbacks(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(GOOD)
    assert list(compose([tmp_path / "config.yaml"], is_complete=True).callbacks) == OWN


def test_a_callback_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    text = GOOD.replace("early_stopping: {patience: 3}", "a: {EarlyStopping: {patience: 3}}, b: {early_stopping: {mode: max}}")
    parts = build(composed(text, folder=tmp_path))
    assert [type(parts.callbacks[n]).__name__ for n in "ab"] == ["EarlyStopping", "EarlyStopping"]


@pytest.mark.parametrize("arguments", ["{}", "{patience: 3}", "{patience: 3, mode: max}"])
def test_a_callback_may_be_named_by_its_class(arguments: str, tmp_path: Path) -> None:
    text = GOOD.replace("early_stopping: {patience: 3}", f"EarlyStopping: {arguments}")
    callbacks = build(composed(text, folder=tmp_path)).callbacks
    assert type(callbacks["EarlyStopping"]).__name__ == "EarlyStopping"


def test_a_reference_is_resolved_and_saved_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("step_size: 2", "step_size: '${trainer.max_epochs}'"))
    config = compose([tmp_path / "a.yaml"], ["trainer.max_epochs=6"])
    assert resolve(config)["callbacks"]["lr_scheduler"] == {"StepLR": {"step_size": 6}}
    assert "${trainer.max_epochs}" in to_yaml(config)
    assert resolve(parse(to_yaml(config), "saved")) == resolve(config)


def test_a_reference_may_name_a_whole_part_and_an_entry_of_a_list(tmp_path: Path) -> None:
    text = GOOD.replace("seed: 0", "seed: '${first.Linear[1]}'").replace("[{Linear: [2, 4]}", "['${first}'")
    config = composed(text + "first: {Linear: [2, 4]}\n", folder=tmp_path)
    assert (config["seed"], config["model"][0]) == (4, {"Linear": [2, 4]})


def test_a_difference_is_a_line() -> None:
    assert diff({"a": {"b": 1}, "c": [1]}, {"a": {"b": 2}, "d": 3}) == ["a.b: 1 -> 2", "c: [1] -> None", "d: None -> 3"]


def test_seeds_of_data_and_split_are_configured_where_they_stand(tmp_path: Path) -> None:
    parts = build(composed(GOOD, overrides=("data.seed=3", "callbacks.validation_split.seed=4"), folder=tmp_path))
    other = build(composed(GOOD, folder=tmp_path))
    assert not parts.data().train.x.equal(other.data().train.x)


PLAIN = resolve(parse(GOOD, "good"))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([10**6, -(2**70), 10**400, 0.5, -0.1, float("nan"), float("inf"), 1e300]),
    st.sampled_from(["", "ReLU", "Linear", "SGD", "os.system", "__init__", "val/loss", "min", "\x00", "${seed}", "Sequential"]),
    st.sampled_from([[], {}, [1, 2], [None], {"a": 1}, {"Linear": [2, 2]}, {"ReLU": []}, [{"Linear": [4, 4]}], {"Adam": {}}]),
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(s for k, v in below for s in spots(v, (*path, k)))]


CHANGES = st.tuples(st.sampled_from(spots(PLAIN)), st.sampled_from(["set", "delete", "rename", "add"]), VALUES)


@settings(max_examples=300, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=3))
def test_whatever_is_changed_it_builds_or_is_refused(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    config = copy.deepcopy(PLAIN)
    for path, what, drawn in changes:
        here: Any = config
        value = copy.deepcopy(drawn)  # a later change may reach into it
        try:
            for key in path[:-1]:
                here = here[key]
            if what == "set":
                here[path[-1]] = value
            elif what == "delete":
                del here[path[-1]]
            elif isinstance(here, list):
                here.insert(path[-1], value)
            elif what == "rename":
                here[f"{path[-1]}x"] = here.pop(path[-1])
            else:
                here[str(value)] = value
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # an earlier change took the place away
    if config.get("trainer") and isinstance(config["trainer"], dict) and config["trainer"].get("replicas") == 10**6:
        return  # a million models are a long wait, not an error
    said = refusal(lambda: build(config))
    assert said is None or (said.strip() and all(": " in line for line in said.splitlines())), said


def refusal(act: Callable[[], object]) -> str | None:
    """The words of the UserError that `act` ends in; None where it goes well. Any other error is the test's failure."""
    try:
        act()
    except UserError as error:
        return str(error)
    return None


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab: {}[]'\"#&*!|>-?%@`\n\t,$0123456789.~é\x00"), max_size=60))
def test_whatever_is_written_it_is_read_or_refused(text: str) -> None:
    said = refusal(lambda: resolve(parse(text, "x.yaml")))
    assert said is None or said.strip()


def test_the_earlier_name_of_a_callback_is_taken_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert dict(parse("callbacks: {csv_log: {}, timer: null}", "old.yaml").callbacks) == {"csv_logger": {}, "timer": None}
    config = parse("callbacks: {csv_logger: {}}", "new.yaml")
    override(config, "callbacks.csv_log=null")
    assert dict(config.callbacks) == {"csv_logger": None}
    assert capsys.readouterr().err == (
        "old.yaml: callbacks.csv_log was renamed; write callbacks.csv_logger\n"
        "callbacks.csv_log: callbacks.csv_log was renamed; write callbacks.csv_logger\n"
    )


def test_a_name_over_another_is_an_error_with_the_way_and_null_removes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^optimizer: has 2 names, SGD, Adam; to replace it, write optimizer=.Adam: .lr: 0.01"):
        build(composed(GOOD, overrides=("optimizer.Adam.lr=0.01",), folder=tmp_path))
    parts = build(composed(GOOD, overrides=("optimizer.SGD=null", "optimizer.Adam.lr=0.01"), folder=tmp_path))
    assert type(parts.optimizer(parts.net)).__name__ == "Adam"
    steps = ("callbacks.lr_scheduler.StepLR=null", "callbacks.lr_scheduler.ExponentialLR.gamma=0.5")
    parts = build(composed(GOOD, overrides=steps, folder=tmp_path))
    assert parts.callbacks["lr_scheduler"].chosen == ("ExponentialLR", {"gamma": 0.5})  # type: ignore[attr-defined]


def test_a_callback_of_a_file_with_another_name_can_be_left_out_and_renamed(tmp_path: Path) -> None:
    named = "callbacks: {mine: {EarlyStopping: {monitor: lr, mode: min}}}\n"
    for end in ((GOOD, named, "callbacks: {mine: null}\n"), (GOOD, named)):
        overrides = () if len(end) == 3 else ("callbacks.mine=null",)
        assert "mine" not in build(composed(*end, overrides=overrides, folder=tmp_path)).callbacks
    overrides = ("callbacks.own.EarlyStopping.monitor=lr", "callbacks.own.EarlyStopping.mode=min")
    assert "own" in build(composed(GOOD, overrides=overrides, folder=tmp_path)).callbacks


def test_a_bare_key_that_leaves_a_callback_out_is_told_and_a_null_that_removes_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = "callbacks:\n  timer:\n  tensorboard:\n  early_stopping:\n"
    assert composed(GOOD, bare, folder=tmp_path)["callbacks"]["timer"] is None
    said = f"{tmp_path / '1.yaml'}: callbacks.timer is null, which leaves it out; write {{}} for its defaults\n"
    assert capsys.readouterr().err == said
