"""The command line, as a user meets it: words in any order, exit codes, files, and what is printed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.app.cli import commands
from trainkit.app.cli.main import main, parse
from trainkit.app.cli.metrics import print_confusion
from trainkit.app.cli.options import COMMANDS, OPTIONS, Command, Option
from trainkit.app.experiment import NOT_FINITE
from trainkit.checkpoint import file as checkpoint
from trainkit.core.errors import UserError
from trainkit.metrics.confusion_matrix import ConfusionMatrix
from trainkit.trainer.signals import exit_code

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

CONF = """\
seed: 3
data: {name: disk, train: 80, test: 20}
model: [{Linear: [2, 8]}, Tanh, {Linear: [8, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.5}}
trainer: {max_epochs: 2, batch_size: 10}
callbacks:
  {validation_split: {fraction: 0.25}, checkpoint: {monitor: val/loss}, csv_logger: {}, tensorboard: null, progress_bar: null}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    Path("conf/a.yaml").write_text(CONF)


def process(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trainkit", *words], capture_output=True, text=True, env=ENVIRONMENT)


def summary(run: str = "run") -> dict[str, object]:
    return dict(json.loads((Path(run) / "summary.json").read_text()))


def printed(text: str) -> dict[str, str]:
    return {line.split()[0]: line.split()[1] for line in text.splitlines() if line.startswith("  ")}


def step_of(name: str) -> int:
    return int(checkpoint.load(Path(name))["state"]["step"])


# -- help --------------------------------------------------------------------------------------------------------------------

HELPS = [[], ["--help"], ["--version"], ["checkpoint", "--help"], *([*c.words, "--help"] for c in COMMANDS.values())]


def printed_by(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("words", [*HELPS, ["fti"], ["fit", "--bogus"]], ids=" ".join)
def test_help_and_mistakes_need_neither_torch_nor_yaml(words: list[str]) -> None:
    code = "import sys\nfrom trainkit.app.cli.main import main\nmain(sys.argv[1:])\n"
    code += "print(*{'torch', 'numpy', 'omegaconf', 'yaml'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_each_help_fits_a_screen_of_80_x_24(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed_by(capsys, *words).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, printed_by(capsys, *words).splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "1")
    assert printed_by(capsys, *words)


def test_the_help_lists_each_command_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = re.findall(r"^  (\w\S*(?: \w+)?)  +(.*)$", printed_by(capsys, "--help"), re.MULTILINE)
    assert rows == [(c.name, c.summary) for c in COMMANDS.values()]
    rows = re.findall(r"^  (checkpoint \w+)  +(.*)$", printed_by(capsys, "checkpoint", "--help"), re.MULTILINE)
    assert rows == [(c.name, c.summary) for c in COMMANDS.values() if c.words[0] == "checkpoint"]
    assert printed_by(capsys) == printed_by(capsys, "help") == printed_by(capsys, "-h") == printed_by(capsys, "--help")


def test_the_help_has_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    codes = {0, 1, UserError.code, NOT_FINITE, *map(exit_code, (signal.SIGINT, signal.SIGTERM))}
    _, _, text = printed_by(capsys, "--help").partition("exit codes:")
    assert set(map(int, re.findall(r"\b\d+\b", text))) == codes


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_help_of_a_command_has_its_summary_its_options_and_an_example(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = printed_by(capsys, *command.words, "--help")
    assert text == printed_by(capsys, "help", *command.words) == printed_by(capsys, "--help", *command.words)
    assert text == printed_by(capsys, *command.words, "-h", "conf/a.yaml")
    assert text.splitlines()[2] == f"{command.summary[0].upper()}{command.summary[1:]}."
    assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", text)) == set(command.options) - {"--version"}
    assert text.splitlines()[-1] == f"example: trainkit {command.example}"
    words = set(re.findall(r"[^][ .]+(?:\.csv)?", command.usage))
    assert {w for w in words if re.search(rf"^  {w} ", text, re.MULTILINE)} == words


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_an_example_is_a_valid_command_line(command: Command) -> None:
    args = parse(command.example.split())
    assert args.function == command.name.replace("-", "_").replace(" ", "_")
    assert callable(getattr(commands, args.function))
    assert args.paths
    assert all((ROOT / path).is_file() for path in args.paths if path.suffix == ".yaml")


def test_a_default_in_the_help_is_the_one_that_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    points = parse(["verify-resume", "conf/a.yaml"]).points
    assert f"default: {points}\n" in printed_by(capsys, "verify-resume", "--help")


def test_help_into_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "trainkit", "fit", "--help"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device (ENOSPC)\n")


# -- words and options ---------------------------------------------------------------------------------------------------------


def spellings(option: Option) -> st.SearchStrategy[list[str]]:
    """The option with a value, if it takes one, in one word or in two."""
    name = option.names[-1]
    if option.is_switch:
        return st.just([name])
    values = st.sampled_from(["0", "-1", "3"] if name == "--points" else ["run", "seed=0,1", "fit", "a b", "x.yaml", ""])
    valued = values.flatmap(lambda v: st.sampled_from([[f"{name}={v}"], [name, v]]))
    return valued if option.needs_value else st.sampled_from([[name], [name, "logs/x"], [f"{name}=fit"]])


def units(draw: st.DrawFn, command: Command) -> dict[str, list[list[str]]]:
    """A command line, as groups of words whose order counts: those of the command itself, those of one repeated option."""
    words = ["conf/a.yaml", "b.yaml", "seed=5", "trainer.max_epochs=2"]
    groups = {"": [[word] for word in [*command.words, *draw(st.lists(st.sampled_from(words), max_size=4))]]}
    for option in command.own:
        most = 2 if option.settings.get("action") == "append" else 1
        groups[option.names[-1]] = draw(st.lists(spellings(option), max_size=most))
    return groups


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@settings(max_examples=50)
@given(data=st.data())
def test_options_may_be_anywhere_among_the_words(command: Command, data: st.DataObject) -> None:
    groups = units(data.draw, command)
    in_order = parse([word for group in groups.values() for unit in group for word in unit])
    order = data.draw(st.permutations([name for name, group in groups.items() for _ in group]))
    rest = {name: iter(group) for name, group in groups.items()}
    assert parse([word for name in order for word in next(rest[name])]) == in_order


def test_an_option_takes_a_value_in_every_command_or_in_none() -> None:
    """Or the command could not be found before it is known what its options are."""
    kinds = {(name, o.is_switch, o.needs_value) for c in COMMANDS.values() for name, o in c.options.items()}
    assert len(kinds) == len({name for name, *_ in kinds})


def refusal_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command line that is refused."""
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "usage" not in err
    return err.removeprefix("error: ").rstrip("\n")


def test_an_option_of_another_command_is_refused_by_the_names_of_those_that_have_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refusal_of(capsys, "test", "run", "--resume") == "test: no option --resume; fit has it"
    assert refusal_of(capsys, "--keep", "fit", "a.yaml") == "fit: no option --keep; verify-resume has it"
    for command in COMMANDS.values():
        for name in OPTIONS.keys() - command.options.keys():
            owners = [c.name for c in COMMANDS.values() if name in c.options]
            said = refusal_of(capsys, *command.words, f"{name}=x")
            assert said == f"{command.name}: no option {name}; {', '.join(owners)} {'has' if owners[1:] == [] else 'have'} it"


MISTAKES = {
    "an unknown option": (["fit", "--run-dri", "x"], "fit: no option '--run-dri'; did you mean '--run-dir'? (--run-dir, "),
    "before the command": (["--run-dri", "x", "fit", "a.yaml"], "no option '--run-dri'; did you mean '--run-dir'? ("),
    "with a value": (["compare", "a.yaml", "--grd=x"], "compare: no option '--grd'; did you mean '--grid'? ("),
    "the beginning of an option": (["fit", "--run", "x"], "fit: no option '--run'; did you mean '--run-dir'? ("),
    "one hyphen": (["fit", "-resume"], "fit: no option '-resume'; did you mean '--resume'? ("),
    "an unknown command": (["tset", "run"], "no command 'tset'; did you mean 'test'? (fit, "),
    "help for it": (["help", "tset"], "no command 'tset'; did you mean 'test'? (fit, "),
    "an unknown command of a group": (["checkpoint", "shwo"], "checkpoint: no 'shwo'; did you mean 'show'? (show, "),
    "a group alone": (["checkpoint"], "checkpoint: needs one of show, verify, diff; write checkpoint show FILE"),
    "an option alone": (["--run-dir", "x"], "--run-dir: no command; fit, validate, test, predict take it"),
    "no value, the end": (["test", "run", "--checkpoint"], "--checkpoint: no value; write --checkpoint NAME"),
    "no value, an option": (["test", "--run-dir", "--import", "a.py"], "--run-dir: no value; write --run-dir DIR"),
    "a value of a switch": (["compare", "a.yaml", "--log=yes"], "--log: takes no value (got 'yes')"),
    "text for a number": (["verify-resume", "--points", "many"], "verify-resume: --points: needs a whole number (got 'many')"),
    "a NUL": (["fit", "a\0.yaml"], "an argument contains a NUL character; remove it"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_without_a_usage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = MISTAKES[name]
    said = refusal_of(capsys, *words)
    assert said.startswith(expected)


def test_after_two_hyphens_all_are_words() -> None:
    args = parse(["fit", "--run-dir", "run", "--", "--odd.yaml", "-", "seed=5", "--resume"])
    assert (args.paths, args.overrides) == ([Path("--odd.yaml"), Path("-"), Path("--resume")], ["seed=5"])
    assert (args.run_dir, args.resume) == (Path("run"), None)


def test_a_word_with_an_equals_sign_is_a_path_if_it_exists() -> None:
    Path("lr=1.yaml").write_text(CONF)
    args = parse(["fit", "lr=1.yaml", "lr=2.yaml", "x" * 5000 + "=1"])
    assert (args.paths, args.overrides) == ([Path("lr=1.yaml")], ["lr=2.yaml", "x" * 5000 + "=1"])


def test_every_conf_of_the_repository_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    from trainkit.app.config.build import build
    from trainkit.app.config.files import compose, resolve
    from trainkit.data.sizes import Sizes

    table = Sizes(features=(14,), outputs=2, categories=(0,) * 6 + (5,) * 8)  # of `auto`, since the data may not be fetched yet
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        build(resolve(compose([path])), sizes=table)


# -- fit -------------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_a_summary_of_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    said = summary()
    keys = "epoch step stop_reason stop_words seed replicas mode params_sha256 metrics wall_s versions"
    assert list(said) == keys.split()
    assert (said["epoch"], said["step"], said["stop_reason"], said["seed"], said["replicas"]) == (2, 12, "max_epochs", 3, 1)
    metrics = said["metrics"]
    assert isinstance(metrics, dict)
    assert {"train/loss", "val/loss", "val/error", "test/loss", "test/error"} <= set(metrics)
    assert all(isinstance(v, float) for v in metrics.values())
    assert len(str(said["params_sha256"])) == 64
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("2 epochs are complete, in ")
    assert out.splitlines()[0].endswith("; run")
    assert printed(out)["test/loss"] == f"{metrics['test/loss']:.4g}"
    names = [str(p.relative_to("run")) for p in sorted(Path("run").rglob("*")) if p.is_file()]
    assert names == [
        ".trainkit-run",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "config.yaml",
        "metrics.csv",
        "summary.json",
    ]


def test_with_replicas_a_metric_is_mean_std_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run", "trainer.replicas=3"]) == 0
    said = summary()
    assert said["replicas"] == 3
    metrics = said["metrics"]
    assert isinstance(metrics, dict)
    loss = metrics["test/loss"]
    assert list(loss) == ["mean", "std", "values"]
    assert loss["mean"] == pytest.approx(sum(loss["values"]) / 3)
    assert len(set(loss["values"])) == 3
    assert " over 3" in capsys.readouterr().out
    assert main(["test", "run"]) == 0
    assert f"{loss['mean']:.4g} ± {loss['std']:.4g} over 3 replicas" in capsys.readouterr().out


def test_options_stand_in_any_place() -> None:
    orders = [
        ["--run-dir", "a", "fit", "conf/a.yaml", "seed=5"],
        ["fit", "--run-dir", "b", "seed=5", "conf/a.yaml"],
        ["fit", "conf/a.yaml", "seed=5", "--run-dir=c"],
        ["fit", "seed=5", "--run-dir", "d", "conf/a.yaml"],
    ]
    assert [main(o) for o in orders] == [0, 0, 0, 0]
    assert len({str(summary(r)["params_sha256"]) for r in "abcd"}) == 1


def test_files_are_merged_left_to_right() -> None:
    Path("conf/b.yaml").write_text("trainer: {max_epochs: 1}\n")
    assert main(["fit", "conf/a.yaml", "conf/b.yaml", "--run-dir", "run"]) == 0
    assert summary()["epoch"] == 1


def test_without_a_folder_the_run_is_in_logs_by_name_and_time() -> None:
    assert main(["fit", "conf/a.yaml"]) == 0
    assert main(["fit", "conf/a.yaml"]) == 0
    runs = sorted(Path("logs/a").iterdir())
    assert len(runs) == 2
    assert all((r / "summary.json").exists() for r in runs)


# -- resume ----------------------------------------------------------------------------------------------------------------

RESUMES = {
    "the folder, behind the configuration": ["fit", "conf/a.yaml", "--resume", "run", "trainer.max_epochs=4"],
    "the folder alone": ["fit", "--resume", "run", "trainer.max_epochs=4"],
    "before the command": ["--resume", "run", "fit", "trainer.max_epochs=4"],
    "a checkpoint": ["fit", "--resume", "run/checkpoints/last.pt", "trainer.max_epochs=4"],
    "no path, then key=value": ["fit", "conf/a.yaml", "--run-dir", "run", "--resume", "trainer.max_epochs=4"],
    "no path, then the configuration": ["fit", "--run-dir", "run", "trainer.max_epochs=4", "--resume", "conf/a.yaml"],
    "no path, then the command": ["--resume", "fit", "conf/a.yaml", "--run-dir", "run", "trainer.max_epochs=4"],
    "no path, at the end": ["fit", "conf/a.yaml", "--run-dir", "run", "trainer.max_epochs=4", "--resume"],
}


@pytest.mark.parametrize("name", RESUMES)
def test_a_run_goes_on_in_its_folder_to_the_same_end(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    assert main(["fit", "conf/a.yaml", "--run-dir", "whole", "trainer.max_epochs=4"]) == 0
    capsys.readouterr()
    assert main(RESUMES[name]) == 0
    out = capsys.readouterr().out
    assert "epoch 2, step 12" in out
    assert "changed since the checkpoint: trainer.max_epochs: 2 -> 4" in out
    assert summary()["params_sha256"] == summary("whole")["params_sha256"]
    assert Path("run/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    assert not Path("logs").exists()


def test_resume_without_a_path_takes_the_newest_run_that_has_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml"]) == 0
    Path("logs/a/9999-empty/checkpoints").mkdir(parents=True)
    capsys.readouterr()
    assert main(["fit", "conf/a.yaml", "--resume", "trainer.max_epochs=3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("resuming logs/a/2")
    assert "3 epochs are complete" in out


def test_a_checkpoint_without_its_folder_carries_its_configuration() -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    Path("elsewhere").mkdir()
    Path("run/checkpoints/last.pt").rename("elsewhere/x.pt")
    assert main(["fit", "--resume", "elsewhere/x.pt", "trainer.max_epochs=3", "--run-dir", "new"]) == 0
    assert summary("new")["epoch"] == 3


def newest(*words: str) -> str:
    """The run that `fit ... --resume` continues."""
    done = io.StringIO()
    with contextlib.redirect_stdout(done):
        assert main(["fit", *words, "--resume", "trainer.max_epochs=3"]) == 0
    return done.getvalue().split()[1].partition("/checkpoints")[0]


def begun(*words: str) -> str:
    """The folder of a new run, which saved last of all."""
    before = set(Path("logs").glob("*/*"))
    assert main(["fit", *words]) == 0
    (made,) = set(Path("logs").glob("*/*")) - before
    for file in made.glob("checkpoints/*"):
        os.utime(file, ns=(time.time_ns(), time.time_ns() + len(before) * 10**9))
    return str(made)


def test_the_newest_run_is_that_of_the_configuration_not_of_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("b", "c"):
        Path(folder).mkdir()
        Path(folder, "a.yaml").write_text(CONF)
    Path("more.yaml").write_text("seed: 4\n")
    runs = {words: begun(*words) for words in [("conf/a.yaml",), ("b/a.yaml",), ("b/a.yaml", "more.yaml")]}
    for words, run in runs.items():
        assert newest(*words) == run
    assert newest("conf/../b/a.yaml") == newest(str(Path("b/a.yaml").absolute())) == runs["b/a.yaml",]
    assert main(["fit", "c/a.yaml", "--resume"]) == 2
    said = capsys.readouterr().err
    assert "resume: logs/a has no run of c/a.yaml with a checkpoint; its newest run, logs/a/" in said
    assert ", is of b/a.yaml more.yaml; give one: --resume RUN" in said
    assert newest("conf/a.yaml") == runs["conf/a.yaml",]


def test_a_run_in_the_default_folder_is_continued_and_new_runs_are_made_beside_it() -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "logs/a"]) == 0
    assert newest("conf/a.yaml") == "logs/a"
    run = begun("conf/a.yaml")
    assert Path(run).parent == Path("logs/a_runs")
    assert newest("conf/a.yaml") == run


def test_a_run_inside_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    assert main(["fit", "conf/a.yaml", "--run-dir", "run/checkpoints/more"]) == 2
    outer = Path("run").absolute()
    said = f"error: run folder run/checkpoints/more: is inside the run {outer}; choose another with --run-dir\n"
    assert capsys.readouterr().err.endswith(said)
    assert not Path("run/checkpoints/more").exists()


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        (
            "~callbacks.validation_split.group",
            "to leave a key of a configuration out, write callbacks.validation_split.group=null",
        ),
        ("~nobody-here/a.yaml", "~nobody-here/a.yaml: there is no such home directory; write the path in full, or ./~"),
    ],
)
@pytest.mark.parametrize("command", ["check", "fit", "test", "predict"])
def test_a_tilde_that_is_no_home_directory_has_one_clear_error(
    command: str, word: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "conf/a.yaml", word]) == 2
    assert advice in capsys.readouterr().err
    assert main(["fit", "conf/a.yaml", "--run-dir", word]) == main(["fit", f"--resume={word}"]) == 2
    assert "fault in the code" not in capsys.readouterr().err


def test_the_newest_run_is_found_after_the_project_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("old").mkdir()
    monkeypatch.chdir("old")
    Path("a.yaml").write_text(CONF)
    run = begun("a.yaml")
    monkeypatch.chdir("..")
    Path("old").rename("new")
    monkeypatch.chdir("new")
    assert newest("a.yaml") == run


@pytest.mark.parametrize("marker", ["", "run folder\n", "configuration: nonsense\n", "configuration: 3\n", "\0" * 100_000])
def test_a_run_that_names_no_configuration_is_continued_and_said(marker: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = begun("conf/a.yaml")
    Path(run, ".trainkit-run").write_text(marker)  # as an earlier version wrote it, or as it may be damaged
    assert newest("conf/a.yaml") == run
    line = f"resume: {run} does not name the file of its configuration; continued as a run of conf/a.yaml"
    assert line in capsys.readouterr().err.splitlines()
    other = begun("conf/a.yaml")
    os.utime(Path(other, "checkpoints/last.pt"), ns=(0, 0))
    assert newest("conf/a.yaml") == other  # one that names the file is preferred, though it is older


# -- validate, test, predict ------------------------------------------------------------------------------------------------


def test_validate_and_test_give_the_summary_s_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    metrics = summary()["metrics"]
    assert isinstance(metrics, dict)
    for command, part, n in (("test", "test", 20), ("validate", "val", 20)):
        for words in (["run"], ["run/checkpoints/last.pt"], ["--run-dir", "run"]):
            capsys.readouterr()
            assert main([command, *words]) == 0
            out = capsys.readouterr().out
            assert out.splitlines()[0] == f"run/checkpoints/last.pt, {n} samples"
            assert printed(out) == {f"{part}/{m}": f"{metrics[f'{part}/{m}']:.4g}" for m in ("accuracy", "error", "loss")}


def confusion(lines: list[str]) -> tuple[str, list[str], dict[str, list[int]]]:
    """The title of a printed confusion matrix, its predicted classes, and the counts of each true class."""
    at = next(i for i, line in enumerate(lines) if line.startswith("confusion matrix"))
    title, head, *rows = lines[at:]
    assert len({len(line) for line in (head, *rows)}) == 1
    return title, head.split()[3:], {row.split()[0]: [int(n) for n in row.split()[1:]] for row in rows}


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_evaluation_prints_the_confusion_matrix(replicas: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run", f"trainer.replicas={replicas}"]) == 0
    assert main(["predict", "run", *(["--replica", "all"] if replicas > 1 else [])]) == 0
    answers = list(csv.DictReader(Path("run/predictions.csv").read_text().splitlines()))
    capsys.readouterr()
    assert main(["test", "run"]) == 0
    title, names, rows = confusion(capsys.readouterr().out.splitlines())
    assert title == ("confusion matrix:" if replicas == 1 else "confusion matrix of 2 replicas together:")
    assert names == list(rows) == ["outside", "inside"]
    pairs = [(row["truth"], row["answer"]) for row in answers]
    assert rows == {true: [pairs.count((true, answer)) for answer in names] for true in names}


def test_the_confusion_matrix_of_many_classes_is_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    print_confusion(ConfusionMatrix(tuple(map(str, range(11))), torch.eye(11, dtype=torch.float64)[None]))
    expected = "confusion matrix: 11 classes; in Python load(RUN).confusion_matrix()\n"
    assert capsys.readouterr().out == expected
    print_confusion(ConfusionMatrix(("a" * 30, "b"), torch.tensor([[[1.5, 0.0], [1e6, 2.0]]])))
    print_confusion(ConfusionMatrix(("a",), torch.ones(2, 1, 1)), weighted=True)
    last = capsys.readouterr().out.splitlines()
    assert last.pop(-3) == "confusion matrix of 2 replicas together, samples counted by their weights:"
    lines = ["confusion matrix:", f"true \\ predicted    {'a' * 17}…  b", f"{'a' * 17}…                 1.5  0"]
    assert last[:3] == lines


def test_another_checkpoint_is_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run", "optimizer.SGD.lr=30", "trainer.max_epochs=4"]) == 0
    for words in (["--checkpoint", "best"], ["--checkpoint", "best.pt"]):
        capsys.readouterr()
        assert main(["test", "run", *words]) == 0
        assert capsys.readouterr().out.startswith("run/checkpoints/best.pt, 20 samples")


def test_an_evaluation_writes_nothing_into_the_run() -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    before = {p: p.stat().st_mtime_ns for p in Path("run").rglob("*")}
    assert main(["test", "run"]) == main(["validate", "run"]) == 0
    assert {p: p.stat().st_mtime_ns for p in Path("run").rglob("*")} == before


def test_predict_writes_outputs_and_answers_of_the_test_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    assert main(["predict", "run"]) == 0
    rows = list(csv.DictReader(Path("run/predictions.csv").read_text().splitlines()))
    assert len(rows) == 20
    assert list(rows[0]) == ["row", "p_outside", "p_inside", "answer", "truth"]
    assert all((float(r["p_inside"]) > float(r["p_outside"])) == (r["answer"] == "inside") for r in rows)
    wrong = sum(r["answer"] != r["truth"] for r in rows) / len(rows)
    assert summary()["metrics"]["test/error"] == wrong  # type: ignore[index]
    assert main(["predict", "run", "--raw"]) == 0
    raw = list(csv.DictReader(Path("run/predictions.csv").read_text().splitlines()))
    assert list(raw[0]) == ["row", "y_outside", "y_inside", "answer", "truth"]
    assert [r["answer"] for r in raw] == [r["answer"] for r in rows]
    assert main(["predict", "run"]) == 0
    assert main(["predict", "run", "--out", "mine.csv"]) == 0
    assert Path("mine.csv").read_bytes() == Path("run/predictions.csv").read_bytes()
    assert main(["predict", "run", "--out", "nowhere/mine.csv"]) == 2
    missing = f"no folder '{Path('nowhere').resolve()}'; make it, or choose another with --out"
    assert f"nowhere/mine.csv: not saved, {missing}" in capsys.readouterr().err


def test_predict_answers_for_the_rows_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(60, 2, generator=draw)
    rows = [f"{a:.6f},{b:.6f},{'high' if a > b else 'low'}" for a, b in x.tolist()]
    Path("train.csv").write_text("\n".join(["a,b,kind", *rows]) + "\n")
    Path("new.csv").write_text("b,note,a\n0.1,x,0.9\n0.9,y,0.1\n")
    Path("conf/c.yaml").write_text(
        CONF.replace("{name: disk, train: 80, test: 20}", "{name: csv, path: train.csv, target: kind}").replace(
            "max_epochs: 2", "max_epochs: 40"
        )
    )
    assert main(["fit", "conf/c.yaml", "--run-dir", "run"]) == 0
    Path("train.csv").unlink()  # the run's folder is all that is needed
    assert main(["predict", "run", "new.csv", "--out", "out.csv"]) == 0
    assert [r["answer"] for r in csv.DictReader(Path("out.csv").read_text().splitlines())] == ["high", "low"]
    assert Path("out.csv").read_text().startswith("row,p_high,p_low,answer\n0,")
    table = Path("new.csv").read_text()
    for name in ("NEW.CSV", "new.txt", "new.tsv", "rows", "run/new.csv"):  # any file that is not a checkpoint holds rows
        Path(name).write_text(table)
        for words in (["run", name], [name, "run"], [name, "--run-dir", "run"]):
            assert main(["predict", *words, "--out", "other.csv"]) == 0
            assert Path("other.csv").read_bytes() == Path("out.csv").read_bytes()
    Path("known.csv").write_text("a,b,kind\n0.9,0.1,high\n0.1,0.9,high\n")
    assert main(["predict", "run", "known.csv", "--out", "out.csv"]) == 0
    known = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [(r["row"], r["answer"], r["truth"]) for r in known] == [("0", "high", "high"), ("1", "low", "high")]
    for target in ("", "new"):  # no truth is needed
        Path("known.csv").write_text(f"a,b,kind\n0.9,0.1,high\n0.1,0.9,{target}\n")
        assert main(["predict", "run", "known.csv", "--out", "out.csv"]) == 0
        assert "; predicted without the truth" in capsys.readouterr().err
        assert Path("out.csv").read_text().startswith("row,p_high,p_low,answer\n0,")
    Path("known.csv").write_text("a,b,kind\n0.9,x,high\n")
    assert main(["predict", "run", "known.csv"]) == 2
    assert "column 'b'" in capsys.readouterr().err
    assert main(["fit", "conf/a.yaml", "--run-dir", "other"]) == 0
    assert main(["predict", "other", "new.csv"]) == 2
    assert "new.csv: the run was not trained on a table" in capsys.readouterr().err


def test_predict_writes_the_ensemble_one_replica_or_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run", "trainer.replicas=3"]) == 0
    found = {}
    for which in (None, "0", "2", "all"):
        assert main(["predict", "run", *(["--replica", which] if which else [])]) == 0
        found[which] = list(csv.DictReader(Path("run/predictions.csv").read_text().splitlines()))
    assert list(found[None][0]) == ["row", "p_outside", "p_inside", "answer", "std", "truth"]
    assert [r for r in found["all"] if r["replica"] == "2"] == [{"replica": "2", **r} for r in found["2"]]
    for i, row in enumerate(found[None]):
        p = [float(r["p_inside"]) for r in found["all"][i::20]]
        assert float(row["p_inside"]) == pytest.approx(sum(p) / 3, abs=1e-15)
        assert float(row["std"]) == pytest.approx(torch.tensor(p, dtype=torch.float64).std().item(), abs=1e-15)
    for text, problem in (
        ("3", "replica: 3; the run has 3, from 0 to 2"),
        ("x", "--replica: 'x'; give the number of a replica"),
    ):
        assert main(["predict", "run", "--replica", text]) == 2
        assert problem in capsys.readouterr().err


# -- check and show ----------------------------------------------------------------------------------------------------------

OWN = '''
from trainkit import Module

class Cube(Module):
    """y = x^3."""

    def fwd(self, x):
        return x**3, x

    def bwd(self, x, dy):
        return dy * FACTOR * x**2
'''


@pytest.mark.parametrize(("factor", "code", "word"), [(3, 0, "ok"), (3.01, 1, "WRONG")])
def test_check_holds_an_own_layer_against_differences(
    factor: float, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(f"own_{code}.py")
    own.write_text(OWN.replace("FACTOR", str(factor)))
    assert main(["check", "conf/a.yaml", "--import", str(own), "model[1]=Cube"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if "Cube" in line] == [word]
    assert lines[0] == "error of each derivative, beyond what rounding explains:"
    assert lines[-1].startswith(f"{4 - code} of 4 derivatives agree")


def test_an_own_layer_is_not_there_without_import(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "conf/a.yaml", "model[1]=Cubus"]) == 2
    assert "no layer 'Cubus'" in capsys.readouterr().err


def test_check_and_show_write_nothing() -> None:
    assert main(["check", "conf/a.yaml"]) == main(["show", "conf/a.yaml"]) == 0
    assert sorted(map(str, Path().rglob("*"))) == ["conf", "conf/a.yaml"]


def test_show_tells_layers_costs_hooks_and_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["callbacks.lr_scheduler={CosineAnnealingLR: {T_max: 2}}", "trainer.replicas=2"]
    assert main(["show", "conf/a.yaml", *words]) == 0
    out = capsys.readouterr().out
    sizes = ("84 parameters in 2 replicas", "train 60, val 20, test 20", "6 steps per epoch")
    for part in ("0.Linear", "2.Linear", *sizes, "on_checkpoint"):
        assert part in out
    assert "12 steps" in out.splitlines()[-1]


def test_show_names_the_callback_that_refuses_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "conf/a.yaml", "callbacks.validation_split.fraction=0.001"]) == 2
    assert "callbacks.validation_split setup, epoch 1, step 0: fraction=0.001 of 80 samples" in capsys.readouterr().err


# -- exit codes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-"])
def test_closed_streams_end_no_run_and_nothing_is_written_into_its_files(closed: str) -> None:
    words = [sys.executable, "-m", "trainkit", "fit", "conf/a.yaml", "--run-dir", "run"]
    shell = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh"]
    assert subprocess.run([*shell, *words], capture_output=True, env=ENVIRONMENT).returncode == 0
    assert Path("run/.trainkit-run").read_text().startswith("run folder of trainkit; ")
    assert Path("run/.trainkit-run").read_text().splitlines()[1:] == ['configuration: "../conf/a.yaml"']
    assert summary()["stop_reason"] == "max_epochs"


def test_a_run_whose_words_nobody_reads_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.TextIOBase):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(["fit", "conf/a.yaml", "--run-dir", "run", "callbacks.progress_bar={every_seconds: 0.001}"]) == 0
    monkeypatch.setattr(sys, "stdout", Gone())
    assert main(["fit", "conf/a.yaml", "--run-dir", "other"]) == 0
    assert main(["show", "conf/a.yaml"]) == 1


def test_the_exit_codes_of_a_process() -> None:
    done = process("fit", "conf/a.yaml", "--run-dir", "run")
    assert (done.returncode, done.stderr) == (0, "")
    done = process("fit", "conf/a.yaml", "--run-dir", "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: run folder run: holds a run already")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143)])
def test_a_signal_saves_and_is_the_exit_code(number: signal.Signals, code: int) -> None:
    words = ["fit", "conf/a.yaml", "--run-dir", "run", "trainer.max_epochs=1000000"]
    run = subprocess.Popen([sys.executable, "-m", "trainkit", *words], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    last, end = Path("run/checkpoints/last.pt"), time.monotonic() + 60
    while not last.exists() and time.monotonic() < end:
        time.sleep(0.02)
    run.send_signal(number)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == code
    assert f"stopped by {number.name}; continue with --resume" in out
    assert step_of("run/checkpoints/last.pt") == summary()["step"]
    assert summary()["stop_reason"] == number.name


def test_debug_shows_the_traceback_and_keeps_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "fit", "conf/a.yaml", "seed=x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.splitlines()[-1] == "error: seed: 'x'; needs a whole number, not text"


def test_a_fault_in_the_code_is_told_apart_from_a_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainkit.app.cli import commands

    def broken(args: object) -> int:
        raise KeyError("x")

    monkeypatch.setattr(commands, "show", broken)
    assert main(["show", "conf/a.yaml"]) == 1
    assert capsys.readouterr().err == (
        "error: KeyError: 'x'\nthis is a fault in the code, not in your input; --debug shows the traceback\n"
    )


def test_a_closed_pipe_is_quiet() -> None:
    line = f"{sys.executable} -m trainkit show conf/a.yaml | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.stdout.split()[0], done.stderr) == ("layer", "")


# -- a run is one thing --------------------------------------------------------------------------------------------------------


def test_a_refused_resume_leaves_the_run_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    wider = ["model[0].Linear=[2,9]", "model[2].Linear=[9,2]", "trainer.max_epochs=3"]
    assert main(["fit", "conf/a.yaml", "--resume", "run", *wider]) == 2
    assert "0.weight: the net has (9, 2), the state (8, 2)" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


def test_restored_parameters_are_in_a_file_and_it_is_what_test_takes(capsys: pytest.CaptureFixture[str]) -> None:
    best = ["callbacks.early_stopping={monitor: val/loss, restore_best: true, patience: 99}", "optimizer.SGD.lr=20"]
    assert main(["fit", "conf/a.yaml", "--run-dir", "run", "trainer.max_epochs=9", *best]) == 0
    after_fit = printed(capsys.readouterr().out)
    assert main(["test", "run"]) == 0
    of_final = printed(capsys.readouterr().out)
    assert main(["test", "run", "--checkpoint", "last"]) == 0
    of_last = printed(capsys.readouterr().out)
    assert of_final["test/loss"] == after_fit["test/loss"] != of_last["test/loss"]
    assert main(["fit", "--resume", "run", "callbacks.early_stopping.restore_best=false", "trainer.max_epochs=10"]) == 0
    assert not Path("run/checkpoints/final.pt").exists()  # the run has moved on


def test_validate_refuses_a_split_that_training_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    assert main(["validate", "run", "callbacks.validation_split.fraction=0.5"]) == 2
    assert "a different validation split" in capsys.readouterr().err
    assert main(["test", "run", "callbacks.validation_split.fraction=0.5"]) == 0


def test_another_file_is_read_as_the_first_was(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    table = "colour,kind\n" + "apple,A\nplum,B\n" * 20
    Path("a.csv").write_text(table)
    Path("b.csv").write_text(table.replace("plum", "aaa"))  # as wide, in another order
    Path("c.csv").write_text(table.replace(",A", ",ja").replace(",B", ",zz"))
    conf = CONF.replace("{name: disk, train: 80, test: 20}", "{name: csv, path: a.csv, target: kind}")
    Path("conf/c.yaml").write_text(conf)
    assert main(["fit", "conf/c.yaml", "--run-dir", "run", "trainer.max_epochs=20"]) == 0
    assert printed(capsys.readouterr().out)["test/error"] == "0"
    for file, unknown in (("b.csv", "aaa"), ("c.csv", "ja")):
        for words in (["test", "run"], ["predict", "run"], ["fit", "--resume", "run", "trainer.max_epochs=21"]):
            assert main([*words, f"data.path={file}"]) == 2
            assert unknown in capsys.readouterr().err


def test_a_resumed_run_may_go_on_in_another_folder() -> None:
    assert main(["fit", "conf/a.yaml", "--run-dir", "run"]) == 0
    before = Path("run/metrics.csv").read_bytes()
    assert main(["fit", "conf/a.yaml", "--resume", "run", "--run-dir", "branch", "trainer.max_epochs=4"]) == 0
    assert Path("run/metrics.csv").read_bytes() == before
    assert main(["fit", "conf/a.yaml", "--resume", "branch", "trainer.max_epochs=5"]) == 0
    epochs = [row["epoch"] for row in csv.DictReader(Path("branch/metrics.csv").read_text().splitlines())]
    assert epochs == ["3", "4", "5"]


def test_one_file_to_predict_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "a.csv", "b.csv.gz"]) == 2
    assert "2 files to predict; give one" in capsys.readouterr().err
