"""EarlyStopping, driven by scripted metrics in real runs: an epoch is one step of a net with one weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit import (
    SGD,
    Callback,
    Checkpoint,
    CSVLogger,
    Dataset,
    EarlyStopping,
    Linear,
    MSELoss,
    Sequential,
    Trainer,
    UserError,
    tensors,
)
from trainkit.checkpoint import file as checkpoint
from trainkit.checkpoint.plain import to_plain
from trainkit.trainer.session import Session

NAN, INF = math.nan, math.inf


class Script(Callback):
    """Logs `score`: the epoch's entry of the script, a number or one a replica."""

    def __init__(self, script: Sequence[Any]) -> None:
        self.script = script
        self.params: list[list[float]] = []  # at each epoch's end, a replica each

    def on_train_epoch_end(self, session: Session) -> None:
        session.log("score", self.script[session.progress.epoch])
        self.params.append(session.net.param()[0][0].flatten().tolist())


def line() -> Dataset:
    return tensors(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]))


def run(
    script: Sequence[Any],
    stopping: EarlyStopping | None,
    *more: Callback,
    replicas: int = 1,
    resume: dict[str, Any] | None = None,
    first: bool = False,
    **settings: Any,
) -> Trainer:
    """A run of at most len(script) epochs."""
    net = Sequential(Linear(1, 1, bias=False)).initialize(torch.Generator().manual_seed(0))
    if replicas > 1:
        net.replicate(range(replicas))
    stops = [] if stopping is None else [stopping]
    callbacks = [*stops, Script(script)] if first else [Script(script), *stops]
    trainer = Trainer(
        **{"max_epochs": len(script), "batch_size": None, "replicas": replicas, "device": "cpu", "dtype": "float64"} | settings,
        callbacks=[*callbacks, *more],
    )
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), line(), resume=resume)
    return trainer


def stop_epoch(trainer: Trainer) -> int | None:
    """The index of the epoch that a callback ended the run at, None where it went to its end."""
    return trainer.session.progress.epoch - 1 if trainer.summary["stop_reason"] == "early_stopping" else None


# losses, patience, the index of the epoch that is the last one: what Keras and Lightning both give
TABLE = [
    ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 0, 3),
    ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 1, 3),
    ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 2, 4),
    ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 3, 5),
    ([6, 5, 5, 5, 5, 5], 3, 4),
    ([6, 5, 4, 4, 3, 3], 1, 3),
    ([6, 5, 6, 5, 5, 5], 3, 4),
    ([6, 5, 4, 3, 2, 1], 1, None),
    ([5, 6, 4, 6, 3, 6], 2, None),  # each improvement begins the count anew
]


@pytest.mark.parametrize("first", [False, True], ids=["listed_after_the_metric", "listed_before_it"])
@pytest.mark.parametrize(("losses", "patience", "stop"), TABLE)
def test_it_stops_where_keras_and_lightning_do(losses: list[float], patience: int, stop: int | None, first: bool) -> None:
    assert stop_epoch(run(losses, EarlyStopping("score", "min", patience=patience), first=first)) == stop


@pytest.mark.parametrize(("losses", "patience", "stop"), TABLE)
def test_max_mode_is_min_mode_upside_down(losses: list[float], patience: int, stop: int | None) -> None:
    upside_down = [-v for v in losses]
    assert stop_epoch(run(upside_down, EarlyStopping("score", "max", patience=patience))) == stop


LIMITS = [
    # metric, arguments, last epoch, what the reason says
    ([9, 8, 7, 6, 5, 6, 4, 3, 2, 1], {"stopping_threshold": 2.9}, 8, "beyond stopping_threshold 2.9"),
    ([9, 8, 7], {"stopping_threshold": 7}, None, ""),  # beyond, not at
    ([9, 4, 2, 16, 32, 64], {"divergence_threshold": 15.9}, 3, "beyond divergence_threshold 15.9"),
    ([9, 4, 2, 16], {"divergence_threshold": 16}, None, ""),
    ([0.1, 0.5, 0.95], {"mode": "max", "stopping_threshold": 0.9}, 2, "beyond stopping_threshold 0.9"),
    ([0.9, 0.5, 0.05], {"mode": "max", "divergence_threshold": 0.1}, 2, "beyond divergence_threshold 0.1"),
    ([3, NAN, 1], {}, 1, "not finite"),
    ([3, INF, 1], {}, 1, "not finite"),
    ([3, -INF, 1], {}, 1, "not finite"),  # also where it would be the best of all
    ([3, -INF, 1], {"stopping_threshold": 2}, 1, "not finite"),  # finite is asked first
    ([3, NAN, 2, NAN, 1], {"check_finite": False, "patience": 2}, None, ""),  # NaN is a check without improvement
    ([3, NAN, NAN, 1], {"check_finite": False, "patience": 2}, 2, "not improved on 3 (epoch 1) for 2 checks"),
    ([NAN, NAN, 1], {"check_finite": False, "patience": 2}, 1, "not improved"),
    (
        [5, 5, 5, 5],
        {"start_from_epoch": 2, "patience": 1},
        3,
        "not improved on 5 (epoch 3) for 1 checks",
    ),  # the first check is epoch 2
    ([NAN, NAN, 5, 4], {"start_from_epoch": 2}, None, ""),
    ([5, 4.9, 4.8, 4.7], {"min_delta": 0.1, "patience": 1}, 1, "not improved on 5"),  # strictly more than min_delta
    ([5, 4.89, 4.78, 4.67], {"min_delta": 0.1, "patience": 1}, None, ""),
    ([5, 4.95, 4.89, 4.85], {"min_delta": 0.1, "patience": 2}, None, ""),  # measured from the best, not from the last
]


@pytest.mark.parametrize(("metric", "arguments", "stop", "words"), LIMITS)
def test_limits(metric: list[float], arguments: dict[str, Any], stop: int | None, words: str) -> None:
    trainer = run(metric, EarlyStopping("score", **{"mode": "min", "patience": 3, **arguments}))
    assert stop_epoch(trainer) == stop
    assert words in trainer.summary["stop_words"]


RELATIVE = [
    # of |best| = 100 a tenth is 10; a score must pass 90, 110, -110 or -90
    ("min", 100, 89, True),
    ("min", 100, 91, False),
    ("max", 100, 111, True),
    ("max", 100, 109, False),
    ("min", -100, -111, True),
    ("min", -100, -109, False),
    ("max", -100, -89, True),
    ("max", -100, -91, False),
    ("min", 0, -0.001, True),
]


@pytest.mark.parametrize(("mode", "before", "after", "improves"), RELATIVE)
def test_a_relative_threshold_is_a_share_of_the_size_whatever_the_sign(
    mode: Any, before: float, after: float, improves: bool
) -> None:
    stopping = EarlyStopping("score", mode, patience=1, min_delta=0.1, threshold_mode="rel")
    assert (stop_epoch(run([before, after], stopping)) is None) == improves


def test_the_reason_is_for_programs_and_for_people() -> None:
    summary = run([3, 2, 2, 2, 2], EarlyStopping("score", "min", patience=2)).summary
    assert (summary["stop_reason"], summary["epoch"]) == ("early_stopping", 4)
    assert summary["stop_words"] == "score has not improved on 2 (epoch 2) for 2 checks"


def test_with_replicas_the_reason_names_the_replica_and_a_line_the_epochs_that_were_restored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = [[5, 9], [4, 8], [3, 9], [4, 9], [4, 9]]
    summary = run(script, EarlyStopping("score", "min", patience=2, restore_best=True), replicas=2).summary
    assert summary["stop_words"] == "score of replica 0 has not improved on 3 (epoch 3) for 2 checks"
    said = "callbacks.early_stopping: restored the parameters of the best score, of epochs 3, 2, one per replica\n"
    assert capsys.readouterr().err.endswith(said)
    run([3, 2, 2.5], EarlyStopping("score", "min", restore_best=True))
    assert capsys.readouterr().err.endswith("restored the parameters of the best score, of epoch 2\n")


@pytest.mark.parametrize(
    ("metric", "stop"),
    [
        ([5, 6, 6, 6, 6, 6], 3),  # patience is over at epoch 1, min_epochs at 3
        ([5, 6, 6, 4, 3, 2], None),  # it improves in time: nothing has latched
    ],
)
def test_min_epochs_holds_back_and_remembers_nothing(metric: list[float], stop: int | None) -> None:
    assert stop_epoch(run(metric, EarlyStopping("score", "min", patience=1), min_epochs=4)) == stop


def test_nan_before_min_epochs_does_not_stop_later() -> None:
    assert stop_epoch(run([5, NAN, 4, 3], EarlyStopping("score", "min"), min_epochs=3)) is None


def test_a_missing_metric_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(UserError, match=r"callbacks\.early_stopping: no metric 'scor'.*'score'.*train/loss.*ends after step 1"):
        run([1], EarlyStopping("scor", "min"))
    with pytest.raises(UserError, match=r"no metric 'val/loss'.*add the callback validation_split"):
        run([1], EarlyStopping())
    assert run([1, 2, 3], EarlyStopping("scor", "min", patience=1, strict=False)).session.progress.epoch == 3


def test_a_metric_that_comes_now_and_then_is_checked_then() -> None:
    class Seldom(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            if session.progress.epoch % 3 == 0:
                session.log("seldom", 1.0)

    # epochs 0, 3, 6: patience 2 is over at 6
    assert stop_epoch(run([0] * 10, EarlyStopping("seldom", "min", patience=2, strict=False), Seldom())) == 6


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "down"}, {"threshold_mode": "share"}, {"patience": -1}, {"min_delta": -0.1}, {"start_from_epoch": -1}],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        EarlyStopping(**arguments)


# -- the best weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "best"),
    [([3, 1, 2, 2], 1), ([4, 3, 2, 1], 3), ([1, 2, 3, 4], 0), ([3, 1, 1, 2], 1)],  # the first of equal ones
)
def test_restore_best_ends_with_the_best_weights(metric: list[float], best: int) -> None:
    trainer = run(metric, EarlyStopping("score", "min", patience=3, restore_best=True))
    script = trainer.callbacks["script"]
    assert isinstance(script, Script)
    assert trainer.session.net.param()[0][0].flatten().tolist() == script.params[best]
    assert len({w[0] for w in script.params}) == len(script.params)  # each epoch has other weights


def test_restore_best_takes_the_weights_of_a_threshold_too() -> None:
    trainer = run([3, 2, 0.5], EarlyStopping("score", "min", stopping_threshold=1, restore_best=True))
    assert trainer.session.net.param()[0][0].flatten().tolist() == trainer.callbacks["script"].params[2]  # type: ignore[attr-defined]


def test_without_restore_best_the_last_weights_stay() -> None:
    trainer = run([3, 1, 2, 2], EarlyStopping("score", "min"))
    assert trainer.session.net.param()[0][0].flatten().tolist() == trainer.callbacks["script"].params[-1]  # type: ignore[attr-defined]


def test_last_pt_keeps_the_last_weights_where_best_is_restored(tmp_path: Path) -> None:
    trainer = run([3, 1, 2, 2], EarlyStopping("score", "min", restore_best=True), Checkpoint("score", "min"), run_dir=tmp_path)
    params = trainer.callbacks["script"].params  # type: ignore[attr-defined]
    files = {name: checkpoint.load(tmp_path / "checkpoints" / f"{name}.pt")["model"]["0.weight"] for name in ("last", "best")}
    assert files["last"].flatten().tolist() == params[3]
    assert files["best"].flatten().tolist() == params[1] == trainer.session.net.param()[0][0].flatten().tolist()


# -- again, and further --------------------------------------------------------------------------------------------------


def test_a_second_fit_trains_anew() -> None:
    trainer = run([3, 2, 2, 9], EarlyStopping("score", "min", patience=1))
    assert stop_epoch(trainer) == 2
    before = trainer.session.net.param()[0][0].clone()
    trainer.fit(trainer.session.net, trainer.session.loss, trainer.session.optimizer, line())
    assert stop_epoch(trainer) == 2
    assert not torch.equal(trainer.session.net.param()[0][0], before)


def test_a_second_fit_without_the_callback_has_its_rate_again() -> None:
    trainer = run([3, 3], EarlyStopping("score", "min", patience=1))
    assert stop_epoch(trainer) == 1
    before = trainer.session.net.param()[0][0].clone()
    again = Trainer(max_epochs=1, batch_size=None, device="cpu", dtype="float64")
    again.fit(trainer.session.net, trainer.session.loss, trainer.session.optimizer, line())
    assert not torch.equal(trainer.session.net.param()[0][0], before)


RESUMED = [
    # (before: script, patience, epochs) -> (after: arguments, settings), the last epoch
    ([3, 2, 2, 2, 2, 2, 2, 2], {"patience": 2}, {"patience": 4}, {}, 5),  # raised: two checks more
    ([3, 2, 2, 2, 2, 2, 2, 2], {"patience": 2}, {"patience": 2}, {}, 3),  # the same: it stays stopped
    ([3, 2, 2, 2, 1, 2, 2], {"patience": 2}, {"patience": 3}, {}, None),  # it improves in the time it got
    ([3, 2, 2, 2, 2, 2, 2, 2], {"patience": 2}, {"patience": 2}, {"min_epochs": 6}, 5),  # more epochs are wanted now
    ([3, 2, 1, 1, 1], {"stopping_threshold": 2.5}, {"stopping_threshold": 0.5, "patience": 2}, {}, 4),
    ([3, 2, 1, 1, 1], {"stopping_threshold": 2.5}, {"patience": 9}, {}, None),
    ([3, 9, 1, 1, 1], {"divergence_threshold": 5}, {"divergence_threshold": 10}, {}, None),
    ([3, NAN, 1, 1, 1], {}, {"check_finite": False}, {}, None),
    ([3, NAN, 1, 1, 1], {}, {}, {}, 1),
]


@pytest.mark.parametrize(("script", "before", "after", "settings", "stop"), RESUMED)
def test_a_resumed_run_is_judged_by_the_configuration_of_now(
    script: list[float],
    before: dict[str, Any],
    after: dict[str, Any],
    settings: dict[str, Any],
    stop: int | None,
    tmp_path: Path,
) -> None:
    first = run(script, EarlyStopping("score", "min", **{"patience": 3, **before}), Checkpoint(), run_dir=tmp_path)
    assert stop_epoch(first) is not None
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    resumed = run(script, EarlyStopping("score", "min", **{"patience": 3, **after}), resume=content, **settings)
    assert stop_epoch(resumed) == stop
    assert resumed.session.progress.epoch > first.session.progress.epoch or stop == stop_epoch(first)
    if resumed.session.progress.epoch > first.session.progress.epoch:
        assert not torch.equal(
            resumed.session.net.param()[0][0], first.session.net.param()[0][0]
        )  # it trains, not at a rate of 0


def test_patience_lowered_on_resume_stops_at_the_next_check(tmp_path: Path) -> None:
    script = [3, 2, 2, 2, 2, 2, 2]
    run(script, EarlyStopping("score", "min", patience=9), Checkpoint(), run_dir=tmp_path, max_epochs=4)  # two checks waited
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert stop_epoch(run(script, EarlyStopping("score", "min", patience=1), resume=content)) == 4


def test_another_metric_on_resume_begins_its_own_count(tmp_path: Path) -> None:
    run([3, 2, 2, 2], EarlyStopping("score", "min", patience=1), Checkpoint(), run_dir=tmp_path)
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert run([3, 2, 2, 2, 2], EarlyStopping("train/loss", patience=1), resume=content).session.progress.epoch == 5


def test_restore_best_remembers_the_best_over_a_resume(tmp_path: Path) -> None:
    stopping = EarlyStopping("score", "min", patience=9, restore_best=True)
    first = run([3, 1, 2], stopping, Checkpoint(), run_dir=tmp_path)
    best = first.callbacks["script"].params[1]  # type: ignore[attr-defined]
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    resumed = run([3, 1, 2, 2, 2], EarlyStopping("score", "min", patience=9, restore_best=True), resume=content)
    assert resumed.session.net.param()[0][0].flatten().tolist() == best
    plain = run([3, 1, 2, 2, 2], EarlyStopping("score", "min", patience=9), resume=content)  # no longer asked for
    assert plain.session.net.param()[0][0].flatten().tolist() == plain.callbacks["script"].params[-1]  # type: ignore[attr-defined]


# -- replicas ------------------------------------------------------------------------------------------------------------

# a column a replica: the first stops at epoch 2, the second at 4, the third never
COLUMNS = [(5, 9, 9), (6, 8, 8), (6, 7, 7), (1, 7, 6), (1, 7, 5), (1, 1, 4)]


def test_replicas_stop_each_on_their_own() -> None:
    trainer = run(COLUMNS, EarlyStopping("score", "min", patience=2), replicas=3)
    params = trainer.callbacks["script"].params  # type: ignore[attr-defined]
    moved = [[params[e][r] != params[e - 1][r] for e in range(1, 6)] for r in range(3)]
    assert moved == [[True, True, False, False, False], [True, True, True, True, False], [True] * 5]
    assert trainer.summary["metrics"]["score"]["values"] == [6, 7, 4]  # a stopped one keeps the value it had
    assert trainer.summary["stop_reason"] == "max_epochs"
    assert trainer.session.progress.active == [False, False, True]


def test_the_run_ends_when_all_replicas_have_stopped() -> None:
    trainer = run(
        [(1, 3, 3), (2, 4, 2), (2, 4, 2), (2, 4, 2), (2, 4, 2)], EarlyStopping("score", "min", patience=1), replicas=3
    )
    assert stop_epoch(trainer) == 2
    assert trainer.summary["metrics"]["score"]["values"] == [2, 4, 2]


def test_a_stopped_replica_is_the_run_that_stopped_alone() -> None:
    together = run(COLUMNS, EarlyStopping("score", "min", patience=2), replicas=3)
    drawn = Sequential(Linear(1, 1, bias=False)).replicate(range(3)).param()[0][0]
    losses = together.summary["metrics"]["train/loss"]["values"]
    for r, w in enumerate(together.session.net.param()[0][0].flatten().tolist()):
        net = Sequential(Linear(1, 1, bias=False))
        net.param()[0][0].copy_(drawn[r])
        callbacks = [Script([row[r] for row in COLUMNS]), EarlyStopping("score", "min", patience=2)]
        trainer = Trainer(max_epochs=6, batch_size=None, seed=r, device="cpu", dtype="float64", callbacks=callbacks)
        summary = trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), line())
        assert net.param()[0][0].item() == pytest.approx(w, rel=1e-12)
        assert summary["metrics"]["train/loss"] == pytest.approx(losses[r], rel=1e-12)


def test_restore_best_is_each_replicas_own() -> None:
    columns = [(5, 1, NAN), (1, 2, NAN), (2, 3, NAN), (3, 4, NAN)]  # best at epoch 1, 0, and never
    stopping = EarlyStopping("score", "min", patience=9, restore_best=True, check_finite=False)
    trainer = run(columns, stopping, replicas=3)
    params = trainer.callbacks["script"].params  # type: ignore[attr-defined]
    assert trainer.session.net.param()[0][0].flatten().tolist() == [params[1][0], params[0][1], params[3][2]]


@pytest.mark.parametrize(("patience", "epochs"), [(2, [3, 5, 6]), (3, [4, 6, 6])])
def test_replicas_that_have_stopped_stay_so_over_a_resume_unless_patience_grows(
    patience: int, epochs: list[int], tmp_path: Path
) -> None:
    columns = [(5, 9, 9), (6, 8, 8), (6, 7, 7), (6, 7, 6), (6, 7, 5), (6, 7, 4)]
    run(columns, EarlyStopping("score", "min", patience=2), Checkpoint(), replicas=3, run_dir=tmp_path, max_epochs=3)
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert content["state"]["active"] == [False, True, True]
    resumed = run(columns, EarlyStopping("score", "min", patience=patience), replicas=3, resume=content)
    before = [content["model"]["0.weight"].flatten().tolist(), *resumed.callbacks["script"].params]  # type: ignore[attr-defined]
    moved = [3 + sum(before[e][r] != before[e - 1][r] for e in range(1, 4)) for r in range(3)]
    assert moved == epochs


def test_a_stopped_replica_is_left_alone_even_by_infinite_gradients() -> None:
    """Its rate is 0, and 0 times infinity is NaN: a replica that diverged must not lose the weights it stopped with."""

    class Blow(Callback):
        def on_train_epoch_end(self, session: Session) -> None:
            if session.progress.epoch == 1:
                session.net.param()[0][0][0] = 1e308  # y overflows for x = 2, and the gradient with it

    trainer = run([(1, 1), (NAN, 1), (1, 1)], EarlyStopping("score", "min", patience=9), Blow(), replicas=2)
    assert trainer.session.net.param()[0][0].flatten()[0].item() == 1e308
    assert trainer.session.progress.active == [False, True]


def test_monitoring_the_training_loss_waits_for_the_first_epochs_end() -> None:
    from trainkit import ValidationSplit

    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    net = Sequential(Linear(1, 1))
    split = ValidationSplit(fraction=0.2, every_n_steps=1)
    trainer = Trainer(max_epochs=2, batch_size=4, device="cpu", callbacks=[split, EarlyStopping("train/loss", patience=9)])
    assert trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.01), tensors(x, 2 * x))["epoch"] == 2


def test_the_csv_row_of_the_last_epoch_is_written(tmp_path: Path) -> None:
    run([3, 2, 2, 2, 2], EarlyStopping("score", "min", patience=1), CSVLogger(), run_dir=tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3"]


def test_the_best_parameters_of_another_metric_are_not_restored(capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed with the metric turned round, the run ends with the best of what it has seen since."""

    class Keep(Callback):
        def on_checkpoint(self, session: Session) -> None:
            if session.progress.epoch == 3 and not session.progress.batch:
                self.content = to_plain(session.snapshot())

    keep = Keep()
    run([1, 2, 3, 4, 5], EarlyStopping("score", "min", restore_best=True, patience=9), keep)
    capsys.readouterr()
    resumed = run([1, 2, 3, 4, 5], EarlyStopping("score", "max", restore_best=True, patience=9), resume=keep.content)
    script = next(cb for cb in resumed.callbacks.values() if isinstance(cb, Script))
    assert resumed.session.net.param()[0][0].flatten().tolist() == script.params[-1]
    assert "early_stopping: the monitor was min score, now it is max score; its best" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [{"min_delta": NAN}, {"min_delta": INF}, {"stopping_threshold": -INF}, {"divergence_threshold": NAN}]
)
def test_a_limit_that_is_no_number_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(arguments))}="):
        EarlyStopping("score", "min", **arguments)


@pytest.mark.parametrize("replicas", [1, 3])
def test_without_the_callback_that_had_stopped_it_a_resumed_run_trains_on(
    replicas: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = [5, 6, 7, 8, 9, 10]
    run(script, EarlyStopping("score", "min", patience=2), Checkpoint(), replicas=replicas, run_dir=tmp_path)
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert not any(content["state"]["active"])
    resumed = run(script, None, replicas=replicas, resume=content)
    before = [content["model"]["0.weight"].flatten().tolist(), *resumed.callbacks["script"].params]  # type: ignore[attr-defined]
    assert len(before) == 4
    assert all(a != b for now, then in zip(before[1:], before, strict=False) for a, b in zip(now, then, strict=True))
    which = "the run" if replicas == 1 else "replicas 0, 1, 2"
    said = f"resume: callbacks.early_stopping had stopped {which} and is left out now; training goes on\n"
    assert said in capsys.readouterr().err


def test_a_run_that_the_callback_had_ended_says_how_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = [5, 6, 7, 8, 9, 10]
    run(script, EarlyStopping("score", "min", patience=2), Checkpoint(), run_dir=tmp_path)
    content = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    capsys.readouterr()
    assert run(script, EarlyStopping("score", "min", patience=2), resume=content).session.progress.epoch == 3
    null = "callbacks.early_stopping=null"
    fix = f"raise callbacks.early_stopping.patience above 2, or set {null} (in Python, trainkit.load(RUN, '{null}'))"
    assert capsys.readouterr().err == f"callbacks.early_stopping: had ended this run; to train on, {fix}\n"


def test_steps_that_would_change_nothing_are_refused(tmp_path: Path) -> None:
    class Stops(Callback):
        """A user's callback, which stops the only replica and keeps no state about it."""

        def on_train_epoch_end(self, session: Session) -> None:
            session.stop("mine", "enough", [True])

    script = [5, 6, 7, 8]
    run(script, None, Stops(), Checkpoint(), run_dir=tmp_path)
    with pytest.raises(UserError, match="a callback had stopped the training, and its state does not say so"):
        run(script, None, resume=checkpoint.load(tmp_path / "checkpoints" / "last.pt"))
