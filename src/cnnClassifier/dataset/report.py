"""Summarize the table of files: numbers, findings with advice, and a self-contained page."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cnnClassifier.dataset.feedback import CORRECTED
from cnnClassifier.dataset.file_table import UNUSUAL_PROPERTIES
from cnnClassifier.dataset.shortcuts import MAX_IMAGES, SHORTCUTS
from cnnClassifier.dataset.split import CONFLICT, EXACT_DUPLICATE, LEAKAGE, name_fractions
from cnnClassifier.entity.config_entity import NO_GROUPS, DataValidationConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.imaging.decode import decode
from cnnClassifier.utils.images import image_data_uri
from cnnClassifier.utils.page import render_template_file
from cnnClassifier.utils.source_files import read_bytes

_MAX_FRACTION_GAP = 0.05  # a class fraction further from its target is a warning
_MIN_GROUPS = 5  # in each split but train; fewer are a warning
_MAX_NAMED = 10  # classes in one warning
_MAX_GROUP_FRACTION = 0.2  # of all images in one group; more is a warning
_SHORTCUT_ADVICE = {
    "file_properties": "Export all classes with the same program and settings; check whether they "
    "come from one source.",
    "size": "Crop or pad all classes to one geometry at the source: resizing hides the size, not "
    "the distortion.",
    "gray": "Export all classes with the same mapping to gray levels, and check whether they come "
    "from one source; don't rely on scores from this data alone.",
    "border": "Crop frames, captions and edges from all classes alike, or mask the background.",
    "thumbnail": "This AUC needs no details: compare the model's AUC with it, and test on data "
    "from another source.",
}
# Limits that keep the page small.
_PAGE_SETS, _PAGE_IMAGES, _PAGE_ERRORS = 12, 8, 50
_IMAGE_SIZE = 200  # pixels of an image's longer side on the page


def build_report(
    table: pd.DataFrame, shortcuts: dict[str, dict[str, float]], config: DataValidationConfig
) -> dict[str, Any]:
    """Return the content of `data_report.json`.

    Args:
        table: one row per file, with the columns of all steps of the validation.
        shortcuts: result of `measure_shortcuts`.
        config: limits and settings that the findings name.
    """
    is_given = config.split == "as_given"
    used = table[table["split"] != ""]
    by_class = used.groupby("label")
    codes = table["reason"].str.split(":").str[0]
    errors = table[table["error"] != ""]
    left_out = {}
    for code in (EXACT_DUPLICATE, CONFLICT, LEAKAGE, CORRECTED):
        left_out[code] = int((codes == code).sum())
    properties = table["properties"].str.get_dummies(" ").sum()
    report: dict[str, Any] = {
        "synthetic": is_synthetic(config.source_URL),
        "files": len(table),
        "used": len(used),
        "left_out": left_out | {"error": len(errors)},
        "errors": dict(zip(errors["path"], errors["reason"], strict=True)),
        "unusual": {
            name: {"files": int(properties[name]), "handling": text}
            for name, text in UNUSUAL_PROPERTIES.items()
            if name in properties
        },
        "near_duplicates": _count_sets(_near_duplicate_sets(table)),
        "conflicts": _count_sets(_conflict_sets(table)),
        "images": by_class.size().to_dict(),
        "groups": by_class["group"].nunique().to_dict(),
        "largest_group": int(used["group"].value_counts().max()),
        "sizes": _describe_sizes(used),
        "splits": _describe_splits(used, config),
        "given_split": _describe_given_split(table, config) if is_given else None,
        "feedback": _describe_feedback(table),
        "shortcuts": shortcuts,
        "shortcut_warning_auc": config.shortcut_warning_auc,
    }
    findings = [
        *_content_findings(report),
        *_feedback_findings(report),
        *_group_findings(table, report, config),
        *_split_findings(report, config),
        *_shortcut_findings(report),
    ]
    warnings = [finding["text"] for finding in findings if finding["level"] == "warning"]
    return report | {"warnings": warnings, "findings": findings}


def _near_duplicate_sets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the near-duplicates, without exact duplicates and conflicts, sorted into sets."""
    is_other = table["error"].ne("") | table["duplicate_of"].ne("") | table["conflict_with"].ne("")
    return _sort_into_sets(table[~is_other].assign(order=0), "duplicate_set")


def _conflict_sets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the files whose image is in several classes, sorted into sets.

    One file of each class comes first, so that they are side by side however large the set is.
    """
    conflicts = table[table["conflict_with"] != ""]
    rank_in_class = conflicts.groupby(["duplicate_set", "label"]).cumcount()
    return _sort_into_sets(conflicts.assign(order=rank_in_class > 0), "duplicate_set")


def _sort_into_sets(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Keep rows that share their value of a column with others, the largest sets first.

    Args:
        rows: with the column `order`, which sorts the rows of a set; then they are sorted by path.
        column: equal values make a set.

    Returns:
        The rows with the column `set_name`, the first path in the set.
    """
    by_set = rows.groupby(column)["path"]
    size = by_set.transform("size")
    rows = rows.assign(set_name=by_set.transform("min"), rank=-size)[size > 1]
    return rows.sort_values(["rank", "set_name", "order", "path"])


def _count_sets(rows: pd.DataFrame) -> dict[str, int]:
    return {"sets": rows["set_name"].nunique(), "files": len(rows)}


def _describe_sizes(used: pd.DataFrame) -> dict[str, Any]:
    """Count sizes, and find outliers of width, height or aspect ratio (Tukey's "far out")."""
    aspect_ratio = used["width"] / used["height"]
    features = np.log(np.column_stack([used["width"], used["height"], aspect_ratio]))
    low, high = np.percentile(features, (25, 75), axis=0)
    margin = 3 * np.maximum(high - low, np.log(1.1))
    is_outlier = ((features < low - margin) | (features > high + margin)).any(1)
    names = used["width"].astype(str) + "×" + used["height"].astype(str)
    return {
        "distinct": names.nunique(),
        "most_common": names.value_counts().head().to_dict(),
        "width": [int(used["width"].min()), int(used["width"].max())],
        "height": [int(used["height"].min()), int(used["height"].max())],
        "outliers": dict(zip(used["path"][is_outlier], names[is_outlier], strict=True)),
    }


def _describe_splits(used: pd.DataFrame, config: DataValidationConfig) -> dict[str, dict[str, Any]]:
    images = pd.crosstab(used["label"], used["split"])
    groups = used.groupby(["label", "split"])["group"].nunique().unstack()
    # Feedback is never in test: it would seem to move the split away from its target.
    source = used[~used["feedback"]]
    fractions = pd.crosstab(source["label"], source["split"], normalize="index").round(4)
    result = {}
    for split, target in name_fractions(config.shares).items():
        result[split] = {
            "target": target if config.split == "grouped" else None,
            "fraction": round(float(images[split].sum()) / len(used), 4),
            "images": images[split].to_dict(),
            "groups": groups[split].astype(int).to_dict(),
            "class_fractions": fractions[split].to_dict(),
        }
    return result


def _describe_feedback(table: pd.DataFrame) -> dict[str, Any] | None:
    """Count the images that users corrected; None if there are none."""
    files = table[table["feedback"]]
    if files.empty:
        return None
    used = files[files["split"] != ""]
    in_test = files["reason"].str.startswith(f"{LEAKAGE}:")
    return {
        "files": len(files),
        "used": len(used),
        "images": used["label"].value_counts().sort_index().to_dict(),
        "in_test": int(in_test.sum()),
        "corrected": int(table["reason"].str.startswith(f"{CORRECTED}:").sum()),
    }


def _describe_given_split(table: pd.DataFrame, config: DataValidationConfig) -> dict[str, Any]:
    splits = list(name_fractions(config.shares))
    valid = table[table["error"] == ""]
    images = valid["given_split"].value_counts().reindex(splits, fill_value=0)
    set_in_split = valid.set_index("given_split")["duplicate_set"]
    leaked = set_in_split.loc[["test"]].isin(set_in_split.loc[["train"]])
    return {
        "images": images.to_dict(),
        "test_images_with_duplicate_in_train": int(leaked.sum()),
        "validation_taken_from_train": "validation" in set(splits) - set(table["given_split"]),
    }


def _finding(level: str, text: str, advice: str = "") -> dict[str, str]:
    """Return a finding; its level is `good`, `note` or `warning`."""
    return {"level": level, "text": text, "advice": advice}


def _content_findings(report: dict[str, Any]) -> Iterator[dict[str, str]]:
    left_out, conflicts = report["left_out"], report["conflicts"]
    near_duplicates, outliers = report["near_duplicates"], report["sizes"]["outliers"]
    images = pd.Series(report["images"])
    if conflicts["sets"]:
        yield _finding(
            "warning",
            f"More than one class for {_count(conflicts['sets'], 'image')}; all "
            f"{conflicts['files']} files with a conflict are left out.",
            "Find out which class is right, and remove the other files at the source.",
        )
    if left_out["error"]:
        yield _finding(
            "note",
            f"{_count(left_out['error'], 'file')} can't be used.",
            "The reasons are listed below: replace the files, or remove them.",
        )
    if left_out[EXACT_DUPLICATE]:
        yield _finding(
            "note",
            f"Left out as exact duplicates: {_count(left_out[EXACT_DUPLICATE], 'file')}. "
            "One of each is kept.",
            "Nothing to do. Many duplicates mean that the data is smaller than it looks.",
        )
    if near_duplicates["sets"]:
        yield _finding(
            "note",
            f"{near_duplicates['files']} images are near-duplicates, in "
            f"{_count(near_duplicates['sets'], 'set')}: encoded again, resized, cropped or drawn "
            "on. Each set stays in one split.",
            "Look at them below. If a set contains different images, raise "
            "data_validation.near_duplicate_correlation in config.yaml.",
        )
    if outliers:
        examples = ", ".join(f"{path} ({size})" for path, size in list(outliers.items())[:3])
        more = f" and {len(outliers) - 3} more" if len(outliers) > 3 else ""
        yield _finding(
            "note",
            f"Unusual size of {_count(len(outliers), 'image')}: {examples}{more}.",
            "Check whether they show the same kind of content; remove overviews and screenshots.",
        )
    if images.max() >= 2 * images.min():
        yield _finding(
            "note",
            f"{images.idxmax()} has {images.max() / images.min():.1f} times as many images as "
            f"{images.idxmin()}.",
            "CLASS_WEIGHTS: balanced in params.yaml compensates for this in training; compare "
            "models by balanced accuracy and AUC.",
        )


def _feedback_findings(report: dict[str, Any]) -> Iterator[dict[str, str]]:
    feedback = report["feedback"]
    if feedback is None:
        return
    counts = ", ".join(f"{label} {count}" for label, count in feedback["images"].items())
    yield _finding(
        "note",
        f"Feedback of users: {feedback['used']} of {_count(feedback['files'], 'image')} "
        f"{'is' if feedback['used'] == 1 else 'are'} trained on{f' ({counts})' if counts else ''}. "
        f"Left out because they or their group are in test: {feedback['in_test']}. Images of the "
        f"source whose class feedback corrects: {feedback['corrected']}.",
        "The reasons are in manifest.csv. The test split is the same as without feedback.",
    )


def _group_findings(
    table: pd.DataFrame, report: dict[str, Any], config: DataValidationConfig
) -> Iterator[dict[str, str]]:
    sources = table["group_source"][table["error"] == ""].value_counts()
    if "dicom" in sources:
        yield _finding(
            "note",
            f"Grouped by the DICOM header: {_count(int(sources['dicom']), 'file')}, by a hash of "
            "the patient's ID, or else of the study's or series' UID.",
            "The manifest contains this pseudonym. Whoever has the IDs can resolve it: protect the "
            "manifest like the images.",
        )
    if config.group_pattern != NO_GROUPS and "name" not in sources and "file" in sources:
        problem = "matches no file name" if config.group_pattern else "isn't set"
        yield _finding(
            "warning",
            f"data_validation.group_pattern {problem}: only near-duplicates are kept together, and "
            f"images of one {config.project.group_term} may be in both train and test.",
            f"If file names contain the {config.project.group_term}, describe it in group_pattern; "
            "if all files are unrelated, set it to none.",
        )
    if report["largest_group"] > _MAX_GROUP_FRACTION * report["used"]:
        yield _finding(
            "warning",
            f"One group has {report['largest_group']} of {report['used']} images.",
            "Check data_validation.group_pattern: it may match a part that isn't the "
            f"{config.project.group_term}.",
        )


def _split_findings(
    report: dict[str, Any], config: DataValidationConfig
) -> Iterator[dict[str, str]]:
    splits = report["splits"]
    if report["given_split"]:
        yield _given_split_finding(report)
    elif "test" in splits:
        yield _fraction_finding(report)
    else:
        yield _finding(
            "note",
            "No test split: the metrics will be those of the out-of-fold predictions.",
            "Set SPLIT to [0.8, 0.2] in params.yaml for metrics of images that training doesn't "
            "use at all.",
        )
    small = []
    for split, content in splits.items():
        for label, group_count in content["groups"].items():
            if split != "train" and group_count < _MIN_GROUPS:
                small.append(f"{label} has {group_count} in {split}")
    if small:
        more = f", {len(small) - _MAX_NAMED} more" if len(small) > _MAX_NAMED else ""
        yield _finding(
            "warning",
            f"Few groups for evaluation: {', '.join(small[:_MAX_NAMED])}{more}. Scores depend on "
            "which ones they are.",
            f"Read the intervals of the scores; add {config.project.groups}.",
        )


def _given_split_finding(report: dict[str, Any]) -> dict[str, str]:
    given = report["given_split"]
    leaked = given["test_images_with_duplicate_in_train"]
    held_out = "test or validation" if "validation" in report["splits"] else "test"
    text = (
        f"In the split of the data source, {leaked} of {given['images']['test']} test images have "
        f"a duplicate or near-duplicate in train. Left out because their group is in {held_out}: "
        f"{_count(report['left_out'][LEAKAGE], 'file')}."
    )
    if given["validation_taken_from_train"]:
        text += " The validation split is taken from train, in whole groups."
    if not leaked:
        return _finding(
            "good",
            text,
        )
    return _finding(
        "warning",
        text,
        "Scores published for the original split may be too high; this pipeline reports scores for "
        "the corrected one.",
    )


def _fraction_finding(report: dict[str, Any]) -> dict[str, str]:
    splits = report["splits"]
    fractions = pd.DataFrame({name: content["class_fractions"] for name, content in splits.items()})
    targets = pd.Series({name: content["target"] for name, content in splits.items()})
    gaps = (fractions - targets).abs()
    split = str(gaps.max().idxmax())
    label = str(gaps[split].idxmax())
    gap = gaps[split].max()
    if gap > _MAX_FRACTION_GAP:
        return _finding(
            "warning",
            f"The split misses its target: {split} has {fractions[split][label]:.1%} of {label}; "
            f"the target is {targets[split]:.1%}.",
            "The groups allow no better split: add groups, or change SPLIT in params.yaml.",
        )
    points = max(0.1, 100 * gap)
    return _finding("good", f"All class shares are within {points:.1f} points of the target.")


def _shortcut_findings(report: dict[str, Any]) -> Iterator[dict[str, str]]:
    limit, shortcuts = report["shortcut_warning_auc"], report["shortcuts"]
    if not shortcuts:
        yield _finding(
            "note",
            "Shortcuts aren't measured: a class has fewer than two groups.",
        )
        return
    for name, score in shortcuts.items():
        if score["auc"] >= limit:
            yield _finding(
                "warning",
                f"{SHORTCUTS[name][0].upper()}{SHORTCUTS[name][1:]} alone: AUC {score['auc']:.2f} "
                f"(95% interval {score['low']:.2f} to {score['high']:.2f}; limit {limit:.2f}). A "
                "model may learn this instead of the content.",
                _SHORTCUT_ADVICE[name],
            )
    strongest = max(shortcuts, key=lambda name: shortcuts[name]["auc"])
    if shortcuts[strongest]["auc"] < limit:
        yield _finding(
            "good",
            f"No shortcut reaches AUC {limit:.2f}; the strongest is {SHORTCUTS[strongest]}.",
        )
    if report["used"] > MAX_IMAGES:
        yield _finding(
            "note",
            f"Shortcuts are measured on a sample of {MAX_IMAGES:,} images, drawn with SEED.",
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def render_page(table: pd.DataFrame, report: dict[str, Any], config: DataValidationConfig) -> str:
    """Return `data_report.html`; equal data gives equal bytes.

    Args:
        table: as for `build_report`.
        report: result of `build_report`, with `manifest_sha256`.
        config: where the images are, and the limits that the page names.
    """
    valid = table[table["error"] == ""]
    # The kept file of each set comes first.
    by_content = _sort_into_sets(valid.assign(order=valid["duplicate_of"] != ""), "sha256")
    return render_template_file(
        "cnnClassifier.dataset",
        "report.html",
        report=report,
        config=config,
        classes=list(report["images"]),
        splits=list(report["splits"]),
        shortcut_names=SHORTCUTS,
        conflicts=_gallery(_conflict_sets(table), config),
        near_duplicates=_gallery(_near_duplicate_sets(table), config),
        exact_duplicates=_gallery(by_content, config, max_images=1),
        errors=list(report["errors"].items())[:_PAGE_ERRORS],
    )


def _gallery(
    rows: pd.DataFrame, config: DataValidationConfig, max_images: int = _PAGE_IMAGES
) -> dict[str, Any]:
    """Return the first sets as the page's template takes them; further files have no image."""
    names = rows["set_name"].unique()
    sets = []
    for name in names[:_PAGE_SETS]:
        in_set = rows[rows["set_name"] == name]
        files = in_set.head(_PAGE_IMAGES).to_dict("records")
        for file in files[:max_images]:
            file["image"] = _small_image(file["path"], config)
        sets.append({"files": files, "count": len(in_set), "more": len(in_set) - len(files)})
    return {"sets": sets, "more": len(names) - len(sets)}


def _small_image(path: str, config: DataValidationConfig) -> str:
    """Return a small JPEG as a data URI; only these few files are read again, to save memory."""
    data = read_bytes(config.data_dir, path)
    options = DicomOptions.parse(config.dicom_window)
    image = Image.fromarray(decode(data, config.max_pixels, options).pixels)
    image.thumbnail((_IMAGE_SIZE, _IMAGE_SIZE))
    return image_data_uri(np.asarray(image), quality=80)
