"""A validation split, taken from the training data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainkit.core.errors import UserError, suggest
from trainkit.core.rng import generator
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import OneOf, require
from trainkit.data.dataset import Dataset, Split
from trainkit.data.held_rows import drawn
from trainkit.data.split import group_codes, group_keys, held_out, others, times
from trainkit.trainer.callback import Callback
from trainkit.trainer.session import Session

SETTINGS = {"fraction": float, "seed": int, "stratify": bool, "group": OneOf(None, str), "time": OneOf(None, str)}


class ValidationSplit(Callback):
    """A random `fraction` of the training samples as validation split: a function of (seed, n), and of classes if stratified.

    stratify: take the same fraction of each class, rounded down or up; one sample of each class always stays to train.
    group: a column; all samples with the same value in it are on one side. auto is the group of the data (`data.group`), if it
    has one and neither stratify nor time is given; None lets groups be on both sides. time: a column of numbers or ISO 8601
    dates; the last samples are taken. A column is one that a table lists in `ids` (`Split.ids`), or its group.
    every_n_epochs, every_n_steps: validate at an epoch's end, inside it, or both.
    The seed is independent of the run's, so that runs with other seeds, and all replicas, have the same validation samples.
    Errors: UserError where either split would be empty, or where the checkpoint has a different split.
    """

    def __init__(
        self,
        fraction: float = 0.1,
        seed: int = 0,
        stratify: bool = False,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        group: str | None = "auto",
        time: str | None = None,
    ) -> None:
        if not 0 < fraction < 1:
            raise UserError(f"ValidationSplit: fraction={fraction}; needs a share above 0 and below 1")
        if every_n_epochs < 1 or (every_n_steps is not None and every_n_steps < 1):
            raise UserError(f"ValidationSplit: every_n_epochs={every_n_epochs}, every_n_steps={every_n_steps}; need at least 1")
        by_group = None if group == "auto" else group
        if len(ways := [key for key, way in (("stratify", stratify), ("group", by_group), ("time", time)) if way]) > 1:
            raise UserError(f"ValidationSplit: {' and '.join(ways)}; give one of them")
        self.fraction, self.seed, self.stratify = fraction, seed, stratify
        self.group, self.time = group, time
        self._group = by_group  # the column that is used, once the data is known
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps

    def setup(self, session: Session) -> None:
        if session.data.val is not None:
            raise UserError("the data has a validation split already; leave this callback out")
        self._group = self._group_of(session)
        data = self._with_keys(session.data)
        samples = data.train
        if self.stratify and samples.label is None:
            raise UserError("stratify needs classes, but the data has none; set stratify=false")
        group = None if self._group is None else group_codes(samples.keys["val"].tolist())
        time = None if self.time is None else samples.keys["val"]
        val = self.indices(len(samples), samples.label if self.stratify else None, group, time)
        train = others(len(samples), val)
        if len(val) == 0 or len(train) == 0:
            raise UserError(
                f"fraction={self.fraction} of {len(samples)} samples leaves {len(train)} to train and {len(val)} to validate"
            )
        data = data.with_parts(train=samples.subset(train), val=samples.subset(val))
        session.data = replace(data, drawn=(*drawn(session.data), "val"))
        session.split_settings[self.name] = self._settings
        session.validate_every_n_epochs, session.validate_every_n_steps = self.every_n_epochs, self.every_n_steps
        self.positions = val

    def _group_of(self, session: Session) -> str | None:
        """Return the column whose groups are kept together. Print a line if those of the data are not."""
        own = session.data.group
        if self.group != "auto" or own is None:
            return None if self.group == "auto" else self.group
        if self.name in session.saved_callbacks:  # a run of an earlier version did not know the group of the data
            then = session.saved_callbacks[self.name].get("settings")
            group, why = then.get("group") if isinstance(then, dict) else None, "as in the checkpoint"
        else:
            apart = [key for key in ("stratify", "time") if getattr(self, key)]
            group, why = None if apart else own, f"since {' and '.join(apart)} is given"
        if group is None:
            what = f"rows of one {own!r} (data.group) may be in training and in validation"
            print_stderr(f"callbacks.{self.name}: {what}, {why}; group=null says that this is meant")
        return group if isinstance(group, str) else None

    def _with_keys(self, data: Dataset) -> Dataset:
        """Return the data with the group or the time of each sample that a later run may draw: those of a drawn test too."""
        if (name := self._group or self.time) is None:
            return data

        def key(split: Split) -> Tensor:
            if self._group is None:
                return times(_column(split, name), f"id column {name!r}")
            return split.keys["group"] if name == data.group else group_keys(_column(split, name))

        splits = {part: data.parts()[part] for part in ("train", *drawn(data))}
        keys = {part: {**split.keys, "val": key(split)} for part, split in splits.items()}
        return data.with_parts(**{part: replace(split, keys=keys[part]) for part, split in splits.items()})

    def indices(self, n: int, label: Tensor | None = None, group: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """Return the sorted indices of the validation samples among n, as `held_out` does with label, group or time."""
        return held_out(n, self.fraction, generator(self.seed, "validation_split", n), label, group, time)

    @property
    def _settings(self) -> dict[str, Any]:
        """The arguments on which the split depends, besides the data."""
        return {**{key: getattr(self, key) for key in SETTINGS}, "group": self._group}

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raise UserError for other settings. Other data is found by the fingerprints of its rows (`data/held_rows.py`)."""
        if "sha256" in state:  # of an earlier version, without fingerprints of rows
            require(state, {"sha256": str}, "state")
            same = state["sha256"] == hashlib.sha256(",".join(map(str, self.positions.tolist())).encode()).hexdigest()
        else:
            require(state, {"settings": SETTINGS}, "state")
            same = state["settings"] == self._settings
        if not same:
            raise UserError(
                "the checkpoint has a different validation split (other fraction, seed or data); restore these settings,"
                " otherwise training samples would be used for validation"
            )


def _column(samples: Split, name: str) -> Sequence[str]:
    """Return the id column `name` of the samples. Raises UserError if there is none, or if a value is empty."""
    if name not in samples.ids:
        near = suggest(name, samples.ids)
        others = near if near.startswith("; did") else f", now{near[1:]}"
        raise UserError(f"the data has no id column {name!r}; list it in data.ids{others}")
    values = samples.ids[name]
    if "" in values:
        raise UserError(f"id column {name!r}: the value of sample {list(values).index('')} is missing; correct it")
    return values
