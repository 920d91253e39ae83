"""Random configurations, valid ones and ones with one error that `fit` would meet later, by torch's documented ranges."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .tally import Shot, Tally, inside, shot

Config = dict[str, Any]
EPOCHS, STEPS = 2, 8  # of every run: 32 samples in batches of 8
RATE = 0.1


# -- valid -----------------------------------------------------------------------------------------------------------------


def monitored(metric: str) -> Config:
    """Return a monitor. Losses and errors know their direction; others need it."""
    return {"monitor": metric} if metric.endswith(("/loss", "/error")) else {"monitor": metric, "mode": "min"}


def good(draw: random.Random) -> Config:
    """Return a configuration that trains: data, loss, optimizer, schedule, monitors and file names that are compatible."""
    classes, split, momentum = draw.random() < 0.7, draw.random() < 0.8, draw.random() < 0.5
    config: Config = {
        "seed": draw.randrange(99),
        "data": {"name": "disk", "train": 40 if split else 32, "test": 10, **({} if classes else {"targets": "binary"})},
        "model": [{"Linear": [2, 4]}, draw.choice(["Tanh", "ReLU", "Sigmoid"]), {"Linear": [4, 2 if classes else 1]}],
        "loss": "CrossEntropyLoss" if classes else "MSELoss",
        "optimizer": draw.choice(optimizers(momentum)),
        "trainer": {"max_epochs": EPOCHS, "batch_size": 8, "device": "cpu"},
        "callbacks": {"validation_split": {"fraction": 0.2}} if split else {},
    }
    if draw.random() < 0.2:
        config["trainer"]["replicas"] = 2
    metrics = ["train/loss", "lr", *(["val/loss", "val/error"] if split else [])]
    callbacks = config["callbacks"]
    if draw.random() < 0.6:
        callbacks["early_stopping"] = {**monitored(draw.choice(metrics)), "patience": draw.choice([5, 10**9])}
    if draw.random() < 0.6:
        callbacks["checkpoint"] = {**monitored(draw.choice(metrics)), "save_top_k": draw.randrange(1, 4)}
        if draw.random() < 0.5:
            callbacks["checkpoint"]["filename"] = draw.choice(["e{epoch}", "{epoch:02d}-{train/loss:.3f}", "s{step}-{lr:g}"])
    if draw.random() < 0.2:
        callbacks["gradient_norms"] = {}
        norm = draw.choice(["grad_norm/0.weight", "weight_norm/2.bias"])
        callbacks["early_stopping"] = {**monitored(norm), "patience": 9}
    if draw.random() < 0.3:
        callbacks["csv_logger"] = {}
    interval = draw.choice(["epoch", "step"])
    name = draw.choice(list(SCHEDULES))
    scheduler: Config = {"interval": interval, name: schedule(name, draw, STEPS if interval == "step" else EPOCHS)}
    if name == "ReduceLROnPlateau":
        scheduler["monitor"] = draw.choice(metrics)
    if draw.random() < 0.2:
        scheduler["warmup_steps"] = draw.choice([1, 5, 100])
    callbacks["lr_scheduler"] = scheduler
    return config


def optimizers(momentum: bool) -> list[Config]:
    """Return valid optimizers, with a momentum that a schedule may change or without one."""
    if not momentum:
        return [{"SGD": {"lr": RATE}}, {"RMSprop": {"lr": 0.01}}, {"Adagrad": {"lr": 0.01}}, {"SignSGD": {"lr": 0.01}}]
    sgd = {"lr": RATE, "momentum": 0.9}
    return [
        {"SGD": sgd},
        {"SGD": {**sgd, "nesterov": True}},
        {"Adam": {"lr": 0.01}},
        {"AdamW": {"lr": 0.01, "betas": [0.8, 0.9]}},
    ]


def schedule(name: str, draw: random.Random, updates: int) -> Config:
    return SCHEDULES[name](draw, updates)


def several(draw: random.Random, updates: int, n: int) -> list[Config]:
    names = ["StepLR", "ConstantLR", "LinearLR", "ExponentialLR", "CosineAnnealingLR", "PolynomialLR"]
    return [{name: schedule(name, draw, updates)} for name in draw.sample(names, n)]


def count(draw: random.Random) -> int:
    return draw.choice([1, 2, 3, 5, 8, 1000])


SCHEDULES: dict[str, Callable[[random.Random, int], Config]] = {
    "StepLR": lambda d, n: {"step_size": count(d), "gamma": d.choice([0.1, 0.5, 1, 1.5])},
    "MultiStepLR": lambda d, n: {"milestones": sorted(d.choices(range(1, 12), k=d.randrange(4))), "gamma": 0.5},
    "ConstantLR": lambda d, n: {"factor": d.choice([0.1, 0.5, 1]), "total_iters": count(d)},
    "LinearLR": lambda d, n: {
        "start_factor": d.choice([0.1, 1.0]),
        "end_factor": d.choice([0, 0.5, 1]),
        "total_iters": count(d),
    },
    "ExponentialLR": lambda d, n: {"gamma": d.choice([0, 0.5, 0.99, 1, 1.1])},
    "PolynomialLR": lambda d, n: {"total_iters": count(d), "power": d.choice([0.5, 1, 2])},
    "CosineAnnealingLR": lambda d, n: {"T_max": count(d), "eta_min": d.choice([0, 0.001])},
    "CosineAnnealingWarmRestarts": lambda d, n: {"T_0": count(d), "T_mult": d.choice([1, 2, 3])},
    "CyclicLR": lambda d, n: {
        "base_lr": 0.001,
        "max_lr": 0.1,
        "step_size_up": count(d),
        "mode": d.choice(["triangular", "triangular2", "exp_range"]),
    },
    "OneCycleLR": lambda d, n: {
        "max_lr": 0.1,
        "total_steps": n + d.choice([0, 0, 1, 100]),
        "anneal_strategy": d.choice(["cos", "linear"]),
        "pct_start": d.choice([0, 0.3, 0.45]),
    },
    "ReduceLROnPlateau": lambda d, n: {
        "patience": d.choice([0, 1, 10]),
        "factor": d.choice([0.1, 0.5]),
        "mode": d.choice(["min", "max"]),
        "cooldown": d.choice([0, 2]),
        "min_lr": d.choice([0, 0.001]),
    },
    "SequentialLR": lambda d, n: {"schedulers": several(d, n, 3), "milestones": sorted(d.sample(range(1, 9), 2))},
    "ChainedScheduler": lambda d, n: {"schedulers": several(d, n, 2)},
}


# -- invalid ---------------------------------------------------------------------------------------------------------------

COUNTS = [("StepLR", "step_size"), ("ConstantLR", "total_iters"), ("LinearLR", "total_iters"), ("PolynomialLR", "total_iters")]
COUNTS += [("CosineAnnealingLR", "T_max"), ("CosineAnnealingWarmRestarts", "T_0"), ("CyclicLR", "step_size_up")]
NUMBERS = [("StepLR", "gamma"), ("ConstantLR", "factor"), ("LinearLR", "start_factor"), ("ExponentialLR", "gamma")]
NUMBERS += [("PolynomialLR", "power"), ("CosineAnnealingLR", "eta_min"), ("CyclicLR", "max_lr"), ("OneCycleLR", "max_lr")]
NUMBERS += [("OneCycleLR", "div_factor"), ("ReduceLROnPlateau", "threshold"), ("MultiStepLR", "gamma")]
NUMBERS += [("CyclicLR", "base_momentum"), ("ReduceLROnPlateau", "factor"), ("OneCycleLR", "pct_start")]
BAD_COUNTS: list[Any] = [0, -1, 2.5, "3", "x", True, None, [2], {"a": 1}, float("nan"), 10**30]
BAD_NUMBERS: list[Any] = [-0.1, "0.1", "x", True, None, [[1]], {}, float("nan"), float("inf")]
BAD_METRICS = ["val_loss", "val/acc", "train/error", "test/loss", "loss", "", "x" * 500, "\x1b[2J", "val/loss "]
BAD_SCHEDULES: dict[str, Config] = {  # schedules that torch's documentation excludes
    "a factor above 1": {"ConstantLR": {"factor": 2}},
    "an end above 1": {"LinearLR": {"end_factor": 2}},
    "a start of 0": {"LinearLR": {"start_factor": 0}},
    "a plateau that rises": {"ReduceLROnPlateau": {"factor": 1.0}},
    "a plateau of another mode": {"ReduceLROnPlateau": {"mode": "auto"}},
    "a plateau of another threshold": {"ReduceLROnPlateau": {"threshold_mode": "share"}},
    "least rates for two groups": {"ReduceLROnPlateau": {"min_lr": [0.1, 0.2, 0.3]}},
    "rates that overflow": {"ExponentialLR": {"gamma": 1e40}},
    "rates that overflow later": {"interval": "step", "StepLR": {"step_size": 7, "gamma": 1e40}},
    "a divisor of 0": {"OneCycleLR": {"max_lr": 0.1, "total_steps": 100, "div_factor": 0}},
    "a last divisor of 0": {"OneCycleLR": {"max_lr": 0.1, "total_steps": 100, "final_div_factor": 0}},
    "a beginning above 1": {"OneCycleLR": {"max_lr": 0.1, "total_steps": 100, "pct_start": 1.5}},
    "another curve": {"OneCycleLR": {"max_lr": 0.1, "total_steps": 100, "anneal_strategy": "exp"}},
    "a length too short": {"interval": "step", "OneCycleLR": {"max_lr": 0.1, "total_steps": STEPS - 1}},
    "a length of epochs too short": {"OneCycleLR": {"max_lr": 0.1, "total_steps": EPOCHS - 1}},
    "a length of products too short": {"interval": "step", "OneCycleLR": {"max_lr": 0.1, "epochs": 2, "steps_per_epoch": 3}},
    "no length": {"OneCycleLR": {"max_lr": 0.1}},
    "half a length": {"OneCycleLR": {"max_lr": 0.1, "epochs": 9}},
    "rates for three": {"OneCycleLR": {"max_lr": [0.1, 0.1, 0.1], "total_steps": 100}},
    "no such cycle": {"CyclicLR": {"base_lr": 0.1, "max_lr": 0.2, "mode": "square"}},
    "no such schedule": {"CosineLR": {"T_max": 3}},
    "no such argument": {"StepLR": {"step_size": 3, "gama": 0.1}},
    "torch's own count": {"StepLR": {"step_size": 3, "last_epoch": 2}},
    "nothing of what is needed": {"CyclicLR": {}},
    "two schedules": {"StepLR": {"step_size": 3}, "ExponentialLR": {"gamma": 0.9}},
    "no schedule": {"interval": "epoch"},
    "another interval": {"interval": "batch", "StepLR": {"step_size": 3}},
    "a warm-up below 0": {"warmup_steps": -1},
    "a function": {"LambdaLR": {"lr_lambda": "lambda e: e"}},
    "a number for arguments": {"StepLR": 3},
    "milestones descending": {"MultiStepLR": {"milestones": [5, 2]}},
    "a milestone of text": {"MultiStepLR": {"milestones": [1, "2"]}},
    "one milestone that is not a list": {"MultiStepLR": {"milestones": 3}},
    "a sequence without milestones": {"SequentialLR": {"schedulers": [{"StepLR": {"step_size": 1}}]}},
    "a milestone too many": {"SequentialLR": {"schedulers": [{"StepLR": {"step_size": 1}}], "milestones": [1]}},
    "a sequence of nothing": {"SequentialLR": {"schedulers": [], "milestones": []}},
    "a chain of names": {"ChainedScheduler": {"schedulers": ["StepLR"]}},
    "a plateau in a chain": {"ChainedScheduler": {"schedulers": [{"ReduceLROnPlateau": {}}]}},
    "a mistake inside a sequence": {
        "SequentialLR": {"schedulers": [{"StepLR": {"step_size": 0}}, {"StepLR": {"step_size": 1}}], "milestones": [1]}
    },
    "a failure inside a sequence": {
        "interval": "step",
        "SequentialLR": {
            "schedulers": [{"StepLR": {"step_size": 1}}, {"ExponentialLR": {"gamma": 1e40}}],
            "milestones": [3],
        },
    },
    "a momentum above 1": {"CyclicLR": {"base_lr": 0.1, "max_lr": 0.2, "max_momentum": 1.5, "cycle_momentum": True}},
}
PLAIN = {"lr": RATE}
INTO = {"SGD": {"lr": RATE, "momentum": 0.9, "accumulate_into_momentum": True}}
CYCLE = {"CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": True}}
BAD_KEYS: dict[str, dict[str, Any]] = {  # keys of the configuration and their new values
    "no gradient to clip": {"optimizer": INTO, "trainer.clip_norm": 1.0},
    "no gradient to clamp": {"optimizer": INTO, "trainer.clip_value": 1.0},
    "no gradient to measure": {"optimizer": INTO, "callbacks.gradient_norms": {}},
    "into no momentum": {"optimizer": {"SGD": {**PLAIN, "accumulate_into_momentum": True}}},
    "into nesterov's": {"optimizer": {"SGD": {**INTO["SGD"], "nesterov": True}}},
    "into a dampened one": {"optimizer": {"SGD": {**INTO["SGD"], "dampening": 0.1}}},
    "upwards into it": {"optimizer": {"SGD": {**INTO["SGD"], "maximize": True}}},
    "nesterov without momentum": {"optimizer": {"SGD": {**PLAIN, "nesterov": True}}},
    "nesterov dampened": {"optimizer": {"SGD": {**PLAIN, "momentum": 0.9, "dampening": 0.1, "nesterov": True}}},
    "a momentum to move": {"optimizer": {"SGD": PLAIN}, "callbacks.lr_scheduler": CYCLE},
    "a momentum to move, of Adagrad": {"optimizer": {"Adagrad": PLAIN}, "callbacks.lr_scheduler": CYCLE},
    "one beta": {"optimizer": {"Adam": {"betas": [0.9]}}},
    "a beta of 1": {"optimizer": {"Adam": {"betas": [1.0, 0.9]}}},
    "a rate below 0": {"optimizer": {"Adam": {"lr": -0.1}}},
    "a rate of text": {"optimizer": {"Adam": {"lr": "0.1"}}},
    "rates without replicas": {"optimizer": {"SGD": {"lr": [0.1, 0.2]}}, "trainer.replicas": 1},
    "two rates for three": {"optimizer": {"SGD": {"lr": [0.1, 0.2]}}, "trainer.replicas": 3},
    "parts of everything": {"trainer.batch_size": None, "trainer.accumulate": 2},
    "a path as a file name": {"callbacks.checkpoint": {"monitor": "train/loss", "save_top_k": 2, "filename": "../x"}},
    "an option as a file name": {"callbacks.checkpoint": {"monitor": "train/loss", "save_top_k": 2, "filename": "-{epoch}"}},
    "half a field": {"callbacks.checkpoint": {"monitor": "train/loss", "save_top_k": 2, "filename": "{epoch"}},
    "a field that is not a metric": {
        "callbacks.checkpoint": {"monitor": "train/loss", "save_top_k": 2, "filename": "e{val/acc:g}"}
    },
    "an attribute of a field": {"callbacks.checkpoint": {"monitor": "train/loss", "save_top_k": 2, "filename": "{epoch.real}"}},
    "a name that is taken": {"callbacks.checkpoint": {"monitor": "train/loss", "save_top_k": 2, "filename": "last"}},
    "fewer than no files": {"callbacks.checkpoint": {"save_top_k": -1}},
    "every 0 steps": {"callbacks.checkpoint": {"every_n_steps": 0}},
    "a patience of text": {"callbacks.early_stopping": {"monitor": "train/loss", "patience": "3"}},
    "a patience of true": {"callbacks.early_stopping": {"monitor": "train/loss", "patience": True}},
    "a patience below 0": {"callbacks.early_stopping": {"monitor": "train/loss", "patience": -1}},
    "a NaN to improve by": {"callbacks.early_stopping": {"monitor": "train/loss", "min_delta": float("nan")}},
    "an infinity to improve by": {"callbacks.early_stopping": {"monitor": "train/loss", "min_delta": float("inf")}},
    "an infinite threshold": {"callbacks.early_stopping": {"monitor": "train/loss", "stopping_threshold": float("-inf")}},
    "another direction": {"callbacks.early_stopping": {"monitor": "train/loss", "mode": "auto"}},
    "all for validation": {"callbacks.validation_split": {"fraction": 1.0}},
    "nothing for validation": {"callbacks.validation_split": {"fraction": 0.001}},
}


def with_error(config: Config, draw: random.Random) -> str:
    """Make one error in a valid configuration; return what was changed."""
    kind = draw.choice(["count", "number", "schedule", "schedule", "monitor", "monitor", "key", "key"])
    callbacks = config["callbacks"]
    if kind in ("count", "number"):
        table, values = (COUNTS, BAD_COUNTS) if kind == "count" else (NUMBERS, BAD_NUMBERS)
        (name, argument), value = draw.choice(table), draw.choice(values)
        callbacks["lr_scheduler"] = {name: {**schedule(name, draw, STEPS), argument: value}}
        return f"{name}.{argument}={value!r}"
    if kind == "schedule":
        what = draw.choice(list(BAD_SCHEDULES))
        callbacks["lr_scheduler"] = {"monitor": "train/loss", **BAD_SCHEDULES[what]}
        if "cycle_momentum" in str(BAD_SCHEDULES[what]):
            config["optimizer"] = {"Adam": {"lr": 0.01}}
        return what
    if kind == "monitor":
        metric = draw.choice([*BAD_METRICS, "val/loss", "val/error"])
        if metric in ("val/loss", "val/error"):
            for name in ("validation_split", "early_stopping", "checkpoint", "lr_scheduler"):
                callbacks.pop(name, None)
        name = draw.choice(["early_stopping", "checkpoint", "lr_scheduler"])
        more = {"ReduceLROnPlateau": {}} if name == "lr_scheduler" else {}
        callbacks[name] = {"monitor": metric, **more}
        return f"{name}.monitor={metric!r}"
    what = draw.choice(list(BAD_KEYS))
    for key, value in BAD_KEYS[what].items():
        part, _, name = key.partition(".")
        if name:
            config[part][name] = value
        else:
            config[part] = value
    return what


def checks(folder: Path, n: int, seed: int = 0) -> list[Tally]:
    """Run `check` and `fit` on n valid configurations and on n with an error."""
    fine = Tally("valid configurations", "`check` exits 0 and leaves no file; `fit` trains its 2 epochs")
    wrong = Tally(
        "configurations with one error: schedules, monitors, file names, options",
        "`check` and `fit` exit 2 and leave no folder",
    )
    draw = random.Random(seed)
    with inside(folder):
        for tally, code in ((fine, 0), (wrong, 2)):
            for _ in range(n):
                config = good(draw)
                what = "" if tally is fine else with_error(config, draw)
                Path("conf.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
                if why := trial(code):
                    shutil.copy("conf.yaml", f"failed{len(fine.failures) + len(wrong.failures)}.yaml")
                    why = f"{what or config['callbacks']['lr_scheduler']}: {why}"
                tally.count(why)
    return [fine, wrong]


def trial(code: int) -> str | None:
    """Return what is wrong with `check` and `fit` of conf.yaml, which must exit with `code`."""
    before = {p.name for p in Path().iterdir()}
    shots: dict[str, Shot] = {"check": shot("check", "conf.yaml")}
    left = {p.name for p in Path().iterdir()} - before
    shots["fit"] = shot("fit", "conf.yaml", "--run-dir", "r")
    summary = Path("r", "summary.json")
    epochs = json.loads(summary.read_text())["epoch"] if summary.exists() else None
    there = Path("r").exists()
    shutil.rmtree("r", ignore_errors=True)
    for name, done in shots.items():
        if wrong := done.wrong(code):
            return f"{name}: {wrong}"
        if code == 2 and len(done.err.strip().splitlines()) > 3:
            return f"{name} prints too much: {done.err[:300]}"
    if left:
        return f"check left {', '.join(left)}"
    if code == 2:
        return "fit left its folder" if there else None
    return None if epochs == EPOCHS else f"fit trained {epochs} epochs"
