"""Stage data_validation: decide which files are used, and in which split."""

from typing import Any

import numpy as np
import pandas as pd

from cnnClassifier.dataset.feedback import place_feedback, read_feedback
from cnnClassifier.dataset.file_table import read_file_table
from cnnClassifier.dataset.layout import image_files, read_groups
from cnnClassifier.dataset.report import build_report, render_page
from cnnClassifier.dataset.shortcuts import measure_shortcuts
from cnnClassifier.dataset.split import (
    add_reasons,
    assign_groups,
    assign_splits,
    link_duplicates,
    mark_conflicts,
    mark_exact_duplicates,
    name_fractions,
    read_given_splits,
)
from cnnClassifier.entity.config_entity import DataValidationConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.utils.common import atomic_write, save_json, sha256_of
from cnnClassifier.utils.errors import ManifestError
from cnnClassifier.utils.log import logger

_MAX_LISTED = 5  # conflicts in an error message


class DataValidation:
    """Read every file once and write the manifest, from which all later stages work."""

    def __init__(self, config: DataValidationConfig) -> None:
        self.config = config

    def run(self) -> Manifest:
        """Find duplicates and groups, split the files, and write the manifest and the report.

        Returns:
            The manifest as written.

        Raises:
            ManifestError: an image is in two classes, a class has no usable image, or the groups
                can't be split.
        """
        config = self.config
        with config.parallel.connect() as workers:
            table, thumbnails, keypoints = read_file_table(
                config.data_dir,
                image_files(config.data_dir),
                max_pixels=config.max_pixels,
                min_side=config.min_side,
                dicom_options=DicomOptions.parse(config.dicom_window),
                workers=workers,
            )
        is_feedback = table["path"].isin(read_feedback(config.data_dir))
        table["feedback"] = is_feedback
        source = self._split(table[~is_feedback], keypoints[~is_feedback])
        correlation = config.near_duplicate_correlation
        table = place_feedback(source, table[is_feedback], keypoints, correlation)
        is_used = table["split"] != ""
        shortcuts = measure_shortcuts(table[is_used], thumbnails[is_used], config.seed)
        return self._write(table, build_report(table, shortcuts, config))

    def _split(self, table: pd.DataFrame, keypoints: np.ndarray) -> pd.DataFrame:
        """Find duplicates and groups of the source's files, and split them."""
        config = self.config
        fractions = name_fractions(config.shares)
        table = table.assign(given_split="")
        if config.split == "as_given":
            table["given_split"] = read_given_splits(table["path"], fractions)
        table = mark_exact_duplicates(table)
        table = link_duplicates(table, keypoints, config.near_duplicate_correlation)
        table = mark_conflicts(table)
        if config.conflicts == "stop":
            _refuse_conflicts(table)
        groups = read_groups(config.data_dir)
        table["given_group"] = [groups.get(path, "") for path in table["path"]]
        table = assign_groups(table, config.group_pattern)
        table = add_reasons(table)
        return assign_splits(table, fractions, config.seed)

    def _write(self, table: pd.DataFrame, report: dict[str, Any]) -> Manifest:
        """Write three files beside their targets, then rename them; the manifest comes last."""
        config = self.config
        manifest = Manifest.from_table(table)
        html_path = config.report_path.with_suffix(".html")
        with (
            atomic_write(config.manifest_path) as manifest_temp,
            atomic_write(config.report_path) as report_temp,
            atomic_write(html_path) as html_temp,
        ):
            manifest.write(manifest_temp)
            report = {"manifest_sha256": sha256_of(manifest_temp)} | report
            save_json(report_temp, report)
            html_temp.write_text(render_page(table, report, config), encoding="utf-8")
        counts = table["split"].value_counts()
        left_out = [f"{count} {code}" for code, count in report["left_out"].items() if count]
        logger.info(
            "%d images used (%s); left out: %s",
            report["used"],
            ", ".join(f"{split} {counts[split]}" for split in report["splits"]),
            ", ".join(left_out) or "none",
        )
        for warning in report["warnings"]:
            logger.warning("%s", warning)
        logger.info("report with images: %s", html_path)
        return manifest


def _refuse_conflicts(table: pd.DataFrame) -> None:
    conflicts = table[table["conflict_with"] != ""].drop_duplicates("duplicate_set")
    if conflicts.empty:
        return
    pairs = conflicts["path"] + " and " + conflicts["conflict_with"]
    more = f"; {len(pairs) - _MAX_LISTED} more" if len(pairs) > _MAX_LISTED else ""
    raise ManifestError(
        f"one image in two classes: {'; '.join(pairs[:_MAX_LISTED])}{more}; remove the wrong "
        "files, or set data_validation.conflicts to leave_out in config.yaml"
    )
