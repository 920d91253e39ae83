"""What a checkpoint holds, entry by entry, and whether the entries agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserErrors
from trainkit.core.validation import COUNTER, OneOf, mismatches, short_repr

FORMAT = 2


CONTENT: dict[str, Any] = {
    "format": FORMAT,
    "config": str,
    "state": {
        "epoch": COUNTER,
        "batch": COUNTER,
        "step": COUNTER,
        "samples": [COUNTER],
        "loss_sum": [float],
        "lr": [float],
        "pending": bool,
        "active": [bool],
        "first_nonfinite_epoch": OneOf(None, COUNTER),
    },
    "model": {str: Tensor},
    "optimizer": {str: Any},  # checked by the optimizer itself
    "gradient": OneOf(None, Tensor),
    "normalizer": {"mean": torch.float64, "std": torch.float64, "fill": OneOf(None, torch.float64)},
    "data": {
        "train": COUNTER,
        "batch": COUNTER,
        "classes": OneOf(None, [str]),
        "threshold": OneOf(None, float),
        "schema": {str: Any},
        "fingerprints": {str: str},
    },
    "callbacks": {str: {str: Any}},
    "rng": {
        "python": (int, torch.int64, OneOf(None, float)),
        "torch": torch.uint8,
        "passes": torch.uint8,  # one row per replica
    },
    "metrics": {str: [float]},
    "environment": {"versions": {str: str}, "threads": COUNTER, "device": str, "dtype": str},
}

# Entries of newer files, and of runs that need them.
OPTIONAL: dict[str, dict[str, Any]] = {
    "rng": {"cuda": [torch.uint8]},
    "environment": {"mode": OneOf("eager", "compile", "graph", "native")},
    "normalizer": {"quantiles": torch.float64, "target_mean": torch.float64, "target_std": torch.float64},
    "state": {"weight": [float]},
    "data": {
        "positive": COUNTER,
        "multilabel": bool,
        "held_out": {str: torch.int64},
        "sizes": {"features": [COUNTER], "outputs": OneOf(None, COUNTER), "categories": [COUNTER]},
    },
}


def check_types(content: dict[str, Any]) -> None:
    """Check that every entry is present, has its type and agrees with the others. Raises UserErrors."""
    pattern = dict(CONTENT)
    for key, patterns in OPTIONAL.items():
        held = content.get(key)
        if isinstance(held, dict):
            pattern[key] = {**pattern[key], **{name: p for name, p in patterns.items() if name in held}}
    wrong = mismatches(content, pattern, "content")
    if not wrong:
        state, data = content["state"], content["data"]
        replicas = len(state["active"])
        passes = content["rng"]["passes"]
        per_replica = {f"state.{key}": state[key] for key in ("samples", "loss_sum", "lr", "weight") if key in state}
        per_replica |= {"rng.passes": passes if passes.dim() == 2 else []}
        per_replica |= {f"metrics.{short_repr(k, '')}": v for k, v in content["metrics"].items()}
        wrong += [f"{k}: {len(v)} values, state.active has {replicas}" for k, v in per_replica.items() if len(v) != replicas]
        wrong += [
            f"model.{short_repr(k, '')}: {short_repr(v)}; needs floating-point numbers"
            for k, v in content["model"].items()
            if not v.is_floating_point()
        ]
        if not (replicas and data["train"] and data["batch"]):
            wrong.append(f"{replicas} replicas, data.train={data['train']}, data.batch={data['batch']}; each needs at least 1")
        wrong += _wrong_scales(content["normalizer"])
        seen, most = min(state["batch"] * data["batch"], data["train"]), max(state["samples"], default=0)
        if state["batch"] and data["train"] and data["batch"] and not 0 < most <= seen:  # fewer if a replica has stopped
            wrong.append(f"state: {state['batch']} batches of {data['batch']} out of {data['train']} samples are not {most}")
        elif data["batch"] and state["batch"] > -(-data["train"] // data["batch"]):
            wrong.append(f"state.batch: {state['batch']}; an epoch has {-(-data['train'] // data['batch'])}")
        least = state["epoch"] + state["batch"]  # only a lower bound: earlier epochs may have had other batch sizes
        if state["step"] < least or (state["epoch"] == 0 and state["step"] != least):
            bound = f"{'at least ' if state['epoch'] else ''}{least}"
            wrong.append(
                f"state.step: {state['step']}; needs {bound}, after {state['epoch']} epochs and {state['batch']} batches"
            )
    if wrong:
        raise UserErrors(line.removeprefix("content.").removeprefix("content: ") for line in wrong)


def _wrong_scales(state: dict[str, Tensor]) -> list[str]:
    """Return what is wrong with the statistics of a normalizer, one line each."""
    lines = []
    for prefix in ("", "target_"):
        mean, std = state.get(f"{prefix}mean"), state.get(f"{prefix}std")
        if mean is None and std is None:
            continue
        if mean is None or std is None:
            lines.append(f"normalizer: {prefix}mean and {prefix}std; has only one of them")
        elif mean.shape != std.shape or not (mean.isfinite().all() and (std > 0).all() and std.isfinite().all()):
            lines.append(
                f"normalizer: {prefix}mean {short_repr(mean)}, {prefix}std {short_repr(std)}; needs one shape, finite means, "
                "standard deviations above 0"
            )
    q = state.get("quantiles")
    if q is not None:
        shaped = q.dim() == state["mean"].dim() + 1 and q.shape[1:] == state["mean"].shape and len(q) >= 2
        unscaled = q.isnan().all(0)  # of codes
        if not shaped or not ((q.isfinite() | unscaled).all() and ((q.diff(dim=0) >= 0) | unscaled).all()):
            lines.append(f"normalizer: quantiles {short_repr(q)}; needs (q, ...) ascending finite numbers for each feature")
    return lines
