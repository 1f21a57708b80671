"""Add images that users corrected to a data set, without changing its test split."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cnnClassifier.dataset.layout import SPLITS, SourceImage, list_images
from cnnClassifier.dataset.near_duplicates import find_near_duplicates
from cnnClassifier.dataset.split import CONFLICT, EXACT_DUPLICATE, LEAKAGE, connect
from cnnClassifier.utils.errors import SourceError

CORRECTED = "corrected"  # code of the reason to leave a file out
_FILE = "feedback.csv"  # beside the class folders: the paths of these images
_TEXTS = ["given_split", "duplicate_of", "conflict_with", "given_group", "group", "split"]


def find_feedback(
    folder: Path | None, images: Sequence[SourceImage], data_dir: Path
) -> list[SourceImage]:
    """Return the images of a folder with one folder for each class.

    Args:
        folder: of the accepted images; None or missing: there are none.
        images: of the source.
        data_dir: must not contain the folder.

    Raises:
        SourceError: a class is not one of the source, or the data folder contains the folder.
    """
    if folder is None or not folder.is_dir():
        return []
    if folder.resolve().is_relative_to(data_dir.resolve()):
        raise SourceError(
            f"{folder}: data_ingestion.feedback_dir is inside of data_dir, which is replaced; "
            "change one of them"
        )
    classes = {image.label for image in images}
    # Where the source has splits, the path of each image has one.
    train = [image.split for image in images if SPLITS.get(image.split.lower()) == "train"]
    split = train[0] if train else "train" if images[0].split else ""
    found = []
    for path in list_images(folder):
        label, *rest = path.parts
        if label not in classes or not rest:
            raise SourceError(
                f"{folder / path}: expected a folder for each class ({', '.join(sorted(classes))}) "
                "with its images; rename or remove it"
            )
        name = PurePosixPath("-".join(["feedback", *rest]))
        found.append(SourceImage(path, split, label, name))
    return found


def write_feedback(images: Sequence[SourceImage], data_dir: Path) -> None:
    """List which images of a data folder are feedback; nothing if none are."""
    if images:
        lines = ["path", *(str(image.target) for image in images)]
        (data_dir / _FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_feedback(data_dir: Path) -> set[str]:
    """Return the paths that `write_feedback` listed."""
    path = data_dir / _FILE
    return set(path.read_text(encoding="utf-8").splitlines()[1:]) if path.is_file() else set()


def place_feedback(
    source: pd.DataFrame, feedback: pd.DataFrame, keypoints: np.ndarray, min_correlation: float
) -> pd.DataFrame:
    """Add feedback images to the table of the source's files, whose splits stay as they are.

    A feedback image is a group of its own and in train, unless it or its patient is in the source:
    then it joins that group and its split. It is left out if that is test. Where it shows the same
    image as a file of another class, exact or near-duplicate, its class is right: that file is left
    out.

    Args:
        source: all files of the source, with the columns of all steps of the validation.
        feedback: the feedback images, with the columns of `read_file_table`.
        keypoints: `Keypoints` of each row of both.
        min_correlation: see `find_near_duplicates`.

    Returns:
        Both, in the order of their index, which numbers the rows of `keypoints`.
    """
    if feedback.empty:
        return source
    table = pd.concat([source, feedback.assign(reason=feedback["error"], group_source="feedback")])
    table[_TEXTS] = table[_TEXTS].fillna("")
    valid = table[table["error"] == ""]
    known = valid[~valid["feedback"]]
    patients = valid["patient"][valid["patient"].isin(set(feedback["patient"]) - {""})]
    same_image = [
        _find_pairs(valid, keypoints, min_correlation),
        _link_to_first(valid["sha256"]),
        _link_to_first(known["duplicate_set"]),
    ]
    same_group = [*same_image, _link_to_first(known["group"]), _link_to_first(patients)]
    for column, links in (("duplicate_set", same_image), ("component", same_group)):
        first, second = np.concatenate(links).T
        table[column] = connect(first, second, len(table))[table.index]
    _decide(table)
    _name_groups(table)
    return table.drop(columns="component").sort_index()


def _find_pairs(valid: pd.DataFrame, keypoints: np.ndarray, min_correlation: float) -> np.ndarray:
    """Return pairs of rows, (pairs, 2): near-duplicates of feedback images."""
    candidates = valid[valid["duplicate_of"] == ""]
    rows = candidates.index.to_numpy()
    queries = np.flatnonzero(candidates["feedback"]).tolist()
    found = find_near_duplicates(list(keypoints[rows]), min_correlation, queries)
    return rows[np.array(found, int).reshape(-1, 2)]


def _link_to_first(values: pd.Series) -> np.ndarray:
    """Return pairs of rows, (n, 2): each row with the first one of the same value."""
    rows = values.index.to_series()
    return np.column_stack([rows, rows.groupby(values).transform("first")])


def _decide(table: pd.DataFrame) -> None:
    """Set the split of the feedback images, or the reason why a file is left out."""
    splits = table[table["split"] != ""].groupby("component")["split"].unique()
    valid = table[table["error"] == ""]
    shown = valid["duplicate_set"].isin(valid["duplicate_set"][valid["feedback"]])
    for _, files in valid[shown].groupby("duplicate_set"):
        added, known = files[files["feedback"]], files[files["split"] != ""]
        found = sorted(splits.get(added["component"].iloc[0], ["train"]))
        if "test" in found or len(found) > 1:
            same = known["path"][known["split"] == "test"]
            text = f"its group is in {' and '.join(found)}"
            text = f"same image as {same.iloc[0]}, which is in test" if len(same) else text
            table.loc[added.index, "reason"] = f"{LEAKAGE}: {text}"
        elif added["label"].nunique() > 1:
            for label, rows in added.groupby("label"):
                other = added["path"][added["label"] != label].iloc[0]
                table.loc[rows.index, "conflict_with"] = other
                table.loc[rows.index, "reason"] = f"{CONFLICT}: same image as {other}"
        else:
            table.loc[added.index, "split"] = found[0]
            _correct(table, added, known)


def _correct(table: pd.DataFrame, added: pd.DataFrame, known: pd.DataFrame) -> None:
    """Leave out files of the same image: those of another class, and copies of the same class.

    Args:
        table: all files; it is changed.
        added: the feedback images of one image, all of one class.
        known: the used files of the source that show the same image.
    """
    is_right = known["label"] == added["label"].iloc[0]
    kept = added.drop_duplicates("sha256").set_index("sha256")["path"]
    wrong = known.index[~is_right]
    reason = f"{CORRECTED}: same image as {added['path'].iloc[0]}, whose class is right"
    table.loc[wrong, ["split", "reason"]] = "", reason
    table.loc[wrong, "duplicate_of"] = known["sha256"][wrong].map(kept).fillna("")
    right = known[is_right].set_index("sha256")["path"]
    copies = added.index[added["sha256"].isin(right.index)]
    originals = added["sha256"][copies].map(right).astype(str)
    table.loc[copies, "split"] = ""
    table.loc[copies, "duplicate_of"] = originals
    table.loc[copies, "reason"] = f"{EXACT_DUPLICATE}: same bytes as " + originals


def _name_groups(table: pd.DataFrame) -> None:
    """Name the groups of feedback images, and those that they join, after one of the source."""
    valid = table[table["error"] == ""]
    names = valid["group"].mask(valid["feedback"], valid["path"])
    by_component = names.groupby([valid["feedback"], valid["component"]]).min()
    known, added = (by_component.get(key, pd.Series(dtype=str)) for key in (False, True))
    is_used = valid["feedback"] & (valid["split"] != "")
    rows = valid[valid["feedback"] | valid["component"].isin(valid["component"][is_used])]
    table.loc[rows.index, "group"] = rows["component"].map(known.combine_first(added))
