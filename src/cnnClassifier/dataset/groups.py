"""Find duplicates, conflicts between classes, and groups that mustn't be divided between splits."""

import re
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cnnClassifier.dataset.near_duplicates import find_near_duplicates
from cnnClassifier.entity.manifest import SPLITS

EXACT_DUPLICATE, CONFLICT = "exact_duplicate", "conflict"  # codes of reasons to leave a file out


def mark_exact_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Add `duplicate_of`: of files with equal bytes, the path of the one that is kept.

    Kept is the one in test, else in validation, where the data comes with a split; among those the
    one with the shortest name, then the first path.

    Args:
        table: of the columns `path`, `sha256`, `error` and `given_split`.

    Returns:
        The table with `duplicate_of`, which is empty where the file is kept or has an error.
    """
    valid = table[table["error"] == ""]
    ordered = valid.assign(
        split_order=-valid["given_split"].map(["", *SPLITS].index),
        name_length=valid["path"].str.split("/").str[-1].str.len(),
    ).sort_values(["split_order", "name_length", "path"])
    kept = ordered.groupby("sha256")["path"].transform("first")
    duplicate_of = kept.where(kept != ordered["path"], "")
    return table.assign(duplicate_of=duplicate_of.reindex(table.index, fill_value=""))


def link_duplicates(
    table: pd.DataFrame, keypoints: np.ndarray, min_correlation: float
) -> pd.DataFrame:
    """Add `duplicate_set`: a number, equal for all exact and near-duplicates of one image.

    Args:
        table: of the columns `path`, `error` and `duplicate_of`; its index counts the rows.
        keypoints: `Keypoints` of each row.
        min_correlation: see `find_near_duplicates`.
    """
    rows = np.flatnonzero((table["error"] == "") & (table["duplicate_of"] == ""))
    found = find_near_duplicates(list(keypoints[rows]), min_correlation)
    pairs = np.array(found, int).reshape(-1, 2)
    duplicates = np.flatnonzero(table["duplicate_of"] != "")
    originals = pd.Index(table["path"]).get_indexer(table["duplicate_of"].iloc[duplicates])
    first = np.concatenate([rows[pairs[:, 0]], duplicates])
    second = np.concatenate([rows[pairs[:, 1]], originals])
    return table.assign(duplicate_set=_components(first, second, len(table)))


def mark_conflicts(table: pd.DataFrame) -> pd.DataFrame:
    """Add `conflict_with`: where an image is in several classes, the first file in another class.

    Args:
        table: of the columns `path`, `label`, `error` and `duplicate_set`.
    """
    valid = table[table["error"] == ""].reset_index(names="row")
    first_of_class = valid.drop_duplicates(["duplicate_set", "label"])
    pairs = valid.merge(first_of_class, on="duplicate_set", suffixes=("", "_other"))
    conflicts = pairs[pairs["label"] != pairs["label_other"]].drop_duplicates("row")
    conflict_with = conflicts.set_index("row")["path_other"]
    return table.assign(conflict_with=conflict_with.reindex(table.index, fill_value=""))


def assign_groups(table: pd.DataFrame, pattern: str | None) -> pd.DataFrame:
    """Add `group` and `group_source`: files that must stay in one split have equal groups.

    A group is what the pattern finds in the file's name, else the patient's pseudonym in a DICOM
    header, else the file itself; duplicates join groups.

    Args:
        table: of the columns `path`, `patient`, `error` and `duplicate_set`.
        pattern: a regular expression with a group `group`, searched in the file's name.

    Returns:
        The table with `group`, the alphabetically first of the names that were joined (empty where
        there is an error), and `group_source`, `name`, `dicom` or `file`.
    """
    names, sources = [], []
    for path, patient in zip(table["path"], table["patient"], strict=True):
        match = re.search(pattern, PurePosixPath(path).name) if pattern else None
        name = (match["group"] or "").strip() if match else ""
        sources.append("name" if name else "dicom" if patient else "file")
        names.append(name or patient or path)
    # A graph whose nodes are names and sets of duplicates; each file links one of either.
    name_codes, unique_names = pd.factorize(np.array(names, object))
    set_codes, unique_sets = pd.factorize(table["duplicate_set"])
    count = len(unique_names) + len(unique_sets)
    components = _components(name_codes, len(unique_names) + set_codes, count)
    groups = pd.Series(names, table.index).groupby(components[name_codes]).transform("min")
    return table.assign(
        group=groups.where(table["error"] == "", ""), group_source=pd.Series(sources, table.index)
    )


def add_reasons(table: pd.DataFrame) -> pd.DataFrame:
    """Add `reason`: why a file is left out, `<code>: <text>`, or empty."""
    duplicate = f"{EXACT_DUPLICATE}: same bytes as " + table["duplicate_of"]
    conflict = f"{CONFLICT}: same image as " + table["conflict_with"]
    reason = table["error"].mask(table["duplicate_of"] != "", duplicate)
    return table.assign(reason=reason.mask(table["conflict_with"] != "", conflict))


def _components(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Return the number of the connected component of each of `count` nodes."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
