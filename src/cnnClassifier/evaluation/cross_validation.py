"""The metrics of predictions by heads that haven't seen the image, next to the baseline's."""

from typing import Any

from cnnClassifier.evaluation.metrics import (
    LabeledPredictions,
    bootstrap_metrics,
    compute_metrics,
    count_images_and_groups,
    metric_intervals,
    percentile_intervals,
)
from cnnClassifier.evaluation.scores import METRIC_LABELS

_FEW_GROUPS = 20  # of a class: with fewer, chance decides on the metrics of a split


def compare_with_baseline(
    model: LabeledPredictions, baseline: LabeledPredictions, samples: int, seed: int
) -> dict[str, Any]:
    """Compute the metrics of a model and of its baseline on the same images.

    Args:
        model: predictions by heads that haven't seen the image.
        baseline: those of the linear heads alone.
        samples: number of bootstrap samples of the groups.
        seed: of the bootstrap.

    Returns:
        `n`, `n_groups` and `min_class_groups`; `metrics` and `intervals` of the model, and the same
        of `baseline`; in `loss_difference` the log loss of the model minus the baseline's, with its
        95% interval from `low` to `high`, and `better`: whether that is below 0.
    """
    model_samples = bootstrap_metrics(model, samples, seed)
    baseline_samples = bootstrap_metrics(baseline, samples, seed)  # the same groups
    columns = [name for name in METRIC_LABELS if name in model_samples]
    metrics, baseline_metrics = compute_metrics(model), compute_metrics(baseline)
    intervals = percentile_intervals(model_samples[columns] - baseline_samples[columns])
    low, high = intervals.get("loss", (None, None))
    images, groups = count_images_and_groups(model.groups)
    return {
        "n": images,
        "n_groups": groups,
        "min_class_groups": min_class_groups(model),
        "metrics": metrics,
        "intervals": metric_intervals(model, model_samples),
        "baseline": {
            "metrics": baseline_metrics,
            "intervals": metric_intervals(baseline, baseline_samples),
        },
        "loss_difference": {
            "value": round(metrics["loss"] - baseline_metrics["loss"], 6),
            "low": low,
            "high": high,
            "better": high is not None and high < 0,
        },
    }


def min_class_groups(predictions: LabeledPredictions) -> int:
    """Return the number of groups of the class with the fewest."""
    labels, groups = predictions.labels, predictions.groups
    return min(len(set(groups[labels == label])) for label in set(labels))


def reliability_note(test_groups: int | None, cross_validation: dict[str, Any]) -> str:
    """Say which of two estimates is more reliable: the test split's or the cross-validated one.

    Args:
        test_groups: groups in the test split, of the class with the fewest; None: there is none.
        cross_validation: from `compare_with_baseline`.
    """
    groups = cross_validation["min_class_groups"]
    too_good = (
        "a little too good: their images also decided when to stop training, and on weights, "
        "temperature and threshold."
    )
    if test_groups is None:
        return f"There is no test split. The cross-validated metrics are {too_good}"
    if test_groups < _FEW_GROUPS and groups > test_groups:
        is_fixed = cross_validation["fixed_validation_split"]
        return (
            f"The {'validation' if is_fixed else 'cross-validated'} metrics are more reliable: the "
            f"class with the fewest groups has {test_groups} in the test split, and {groups} "
            f"outside it. Still they are {too_good}"
        )
    return (
        "The test split's metrics are more reliable: its images decided nothing, not even when to "
        "stop training."
    )


def heads_note(cross_validation: dict[str, Any]) -> str:
    """Say what the model combines, such as `local (conv_max) 0.6, linear 0.4; 5 heads each`."""
    kinds = []
    for kind, weight in cross_validation["weights"].items():
        name = kind if kind == "linear" else f"local ({kind})"
        kinds.append(f"{name} {weight:g}")
    count = cross_validation["heads"]
    return f"{', '.join(kinds)}; {count} {'head' if count == 1 else 'heads'} each"


def baseline_note(cross_validation: dict[str, Any]) -> str:
    """Say whether the model is better than its baseline, by log loss."""
    difference = cross_validation["loss_difference"]
    if difference["low"] is None:
        return "There are too few groups to compare the model with its baseline."
    numbers = (
        f"log loss {difference['value']:+.3f}, 95% interval {difference['low']:+.3f} to "
        f"{difference['high']:+.3f}"
    )
    if difference["better"]:
        return f"The model is significantly better than its baseline: {numbers}."
    return f"The model is not significantly better than its baseline: {numbers}."
