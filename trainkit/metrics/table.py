"""The metrics by the names that a configuration uses, and metrics made from what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from trainkit.core.errors import UserError, UserErrors, suggest
from trainkit.core.validation import check_value, short_repr

from . import agreement, confusion, per_sample, ranking, regression
from .metric import Metric
from .own import is_own, own

METRICS: dict[str, type[Metric]] = {
    metric.key: metric
    for metric in (
        confusion.Accuracy,
        confusion.Error,
        confusion.BalancedAccuracy,
        confusion.Precision,
        confusion.Recall,
        confusion.F1,
        confusion.Jaccard,
        confusion.Hamming,
        agreement.CohenKappa,
        agreement.MCC,
        ranking.AUC,
        ranking.AveragePrecision,
        per_sample.TopK,
        per_sample.LogLoss,
        per_sample.Perplexity,
        per_sample.Brier,
        per_sample.CalibrationError,
        regression.MSE,
        regression.RMSE,
        regression.MAE,
        regression.R2,
        regression.MAPE,
    )
}

# What other libraries call them: the error for an unknown name says ours.
OTHER_NAMES = {
    "acc": "accuracy",
    "accuracy_score": "accuracy",
    "subset_accuracy": "accuracy",
    "zero_one_loss": "error",
    "balanced_accuracy_score": "balanced_accuracy",
    "precision_score": "precision",
    "recall_score": "recall",
    "sensitivity": "recall",
    "f1_score": "f1",
    "dice": "f1",
    "jaccard_score": "jaccard",
    "jaccard_index": "jaccard",
    "iou": "jaccard",
    "hamming_loss": "hamming",
    "hamming_distance": "hamming",
    "cohen_kappa_score": "cohen_kappa",
    "kappa": "cohen_kappa",
    "matthews_corrcoef": "mcc",
    "matthews_corr_coef": "mcc",
    "roc_auc": "auc",
    "roc_auc_score": "auc",
    "auroc": "auc",
    "average_precision_score": "average_precision",
    "pr_auc": "average_precision",
    "top_k_accuracy": "top_k",
    "top_k_accuracy_score": "top_k",
    "cross_entropy": "log_loss",
    "nll": "log_loss",
    "brier_score": "brier",
    "brier_score_loss": "brier",
    "ece": "calibration_error",
    "expected_calibration_error": "calibration_error",
    "mean_squared_error": "mse",
    "root_mean_squared_error": "rmse",
    "mean_absolute_error": "mae",
    "r2_score": "r2",
    "mean_absolute_percentage_error": "mape",
}


def make(spec: Any) -> Metric:
    """Return the metric that `spec` describes: a name, {name: options}, a `Metric`, or a user's class, object or function.

    Raises UserError for an unknown name, UserErrors for unknown or invalid options, and UserError as `own` does.
    """
    if isinstance(spec, Metric):
        return spec
    if not isinstance(spec, (str, Mapping)) and is_own(spec):
        return own(spec)
    if isinstance(spec, Mapping):
        if len(spec) != 1:
            raise UserError(f"metrics: {short_repr(dict(spec))}; needs one name with its options, {{top_k: {{k: 5}}}}")
        ((name, options),) = spec.items()
    else:
        name, options = spec, {}
    if (ours := OTHER_NAMES.get(str(name).lower())) is not None:
        raise UserError(f"metrics: no metric {name!r}; its name is {ours!r}")
    if not isinstance(name, str) or name not in METRICS:
        raise UserError(f"metrics: no metric {short_repr(name)}{suggest(str(name), METRICS)}")
    return METRICS[name](**_checked(name, {} if options is None else options))


def spec(given: Any) -> Any:
    """Return what `make` made a metric from, or a metric itself, as a configuration writes it: a name, or {name: options}.

    Raises UserError for a user's own metric, which a file cannot hold.
    """
    metric: Any = make(given)
    if metric.key not in METRICS or type(metric) is not METRICS[metric.key]:
        raise UserError(f"metrics: {metric.name} is your own, which a file cannot hold")
    options: Any = METRICS[metric.key]
    chosen = {f.name: getattr(metric, f.name) for f in fields(options) if getattr(metric, f.name) != f.default}
    return {metric.key: chosen} if chosen else metric.key


def _checked(name: str, options: Any) -> dict[str, Any]:
    """Return the options of a metric. Raises UserErrors for unknown, missing and invalid ones."""
    place = f"metrics.{name}"
    if not isinstance(options, Mapping):
        raise UserError(f"{place}: {short_repr(options)}; needs its options as a mapping")
    cls: Any = METRICS[name]
    known, hints = {f.name: f for f in fields(cls)}, get_type_hints(cls)
    errors = [f"{place}: no option {short_repr(k)}{suggest(str(k), known)}" for k in options if k not in known]
    errors += [f"{place}: needs {k}" for k, f in known.items() if f.default is MISSING and k not in options]
    for key, value in options.items():
        if key in known:
            errors += check_value(value, hints[key], f"{place}.{key}")
    if errors:
        raise UserErrors(errors)
    return dict(options)
