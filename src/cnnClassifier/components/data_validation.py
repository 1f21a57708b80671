"""Stage data_validation: decide which file is what, and which split it belongs to."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from cnnClassifier.dataset.audit import (
    FileFacts,
    byte_copies,
    conflicts,
    group_files,
    join,
    near_copies,
    read_files,
)
from cnnClassifier.dataset.layout import image_files
from cnnClassifier.dataset.report import CONFLICT, COPY, GIVEN, Audited, build_report
from cnnClassifier.dataset.report_page import render_page
from cnnClassifier.dataset.shortcuts import shortcuts
from cnnClassifier.dataset.split import given_splits, keep_given, split_groups
from cnnClassifier.entity.config_entity import DataValidationConfig
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest
from cnnClassifier.utils.common import atomic_write, save_json, sha256_of
from cnnClassifier.utils.errors import ManifestError
from cnnClassifier.utils.log import logger

_NAMED = 5  # conflicts that an error names


class DataValidation:
    """Read every file once and write the manifest, from which all later stages work."""

    def __init__(self, config: DataValidationConfig) -> None:
        self.config = config

    def run(self) -> Manifest:
        """Audit, group and split the files, and write manifest and report, as JSON and as a page.

        Returns:
            The manifest as written.

        Raises:
            ManifestError: one picture stands under two classes, a class has no usable image, or the groups can't be
                split.
        """
        config = self.config
        files = image_files(config.data_dir)
        given = given_splits([path for path, _ in files]) if config.split == "as_given" else None
        facts = read_files(
            config.data_dir,
            files,
            config.max_pixels,
            config.min_side,
            config.joblib_backend,
            DicomOptions.parse(config.dicom_window),
        )
        copies = byte_copies(facts, [-SPLITS.index(split) for split in given] if given else None)
        usable = [place for place, fact in enumerate(facts) if not fact.fault]
        unique = [place for place in usable if place not in copies]
        found = near_copies(
            [facts[place] for place in unique], 8, config.near_duplicate_correlation
        )
        same = [(unique[first], unique[second]) for first, second in found]
        same += [(copy, kept) for copy, kept in copies.items() if not facts[copy].fault]
        pictures = join([fact.path for fact in facts], same)
        if config.conflicts == "stop":
            _refuse_conflicts(facts, same)
        reasons = _reasons(facts, copies, pictures)
        groups = group_files(facts, config.group_pattern, same)
        splits = self._split(facts, groups, reasons, given)
        manifest = Manifest(
            tuple(
                Entry(
                    path=fact.path,
                    label=fact.label,
                    sha256=fact.sha256,
                    phash="" if fact.fault else f"{fact.phash:016x}",
                    size=fact.size,
                    bytes=fact.bytes,
                    mode=fact.mode,
                    group="" if fact.fault else group,
                    split=split,
                    reason=reason,
                )
                for fact, group, split, reason in zip(facts, groups, splits, reasons, strict=True)
            )
        )
        check_disjoint(manifest)
        used = [place for place, split in enumerate(splits) if split]
        reached = shortcuts(
            [facts[place] for place in used], [groups[place] for place in used], config.seed
        )
        self._write(Audited(facts, manifest, copies, pictures, given, reached))
        return manifest

    def _split(
        self,
        facts: Sequence[FileFacts],
        groups: Sequence[str],
        reasons: list[str],
        given: Sequence[str] | None,
    ) -> list[str]:
        """Return each file's split, empty where it is left out; add the reasons that a given split brings."""
        config = self.config
        used = [place for place, reason in enumerate(reasons) if not reason]
        present = {facts[place].label for place in used}
        for place, fact in enumerate(facts):
            if fact.label not in present:
                raise ManifestError(
                    f"class {fact.label} has no usable image: {fact.path}: {reasons[place]}; replace it"
                )
        its_groups, labels = (
            [groups[place] for place in used],
            [facts[place].label for place in used],
        )
        splits = [""] * len(facts)
        if given is None:
            placed = split_groups(its_groups, labels, config.shares, config.seed)
            for place in used:
                splits[place] = placed[groups[place]]
            return splits
        kept = keep_given(
            [given[place] for place in used], its_groups, labels, config.shares, config.seed
        )
        stands = {group: split for group, split in zip(its_groups, kept, strict=True) if split}
        for place, split in zip(used, kept, strict=True):
            splits[place] = split
            if not split:
                reasons[place] = f"{GIVEN} its group stands in {stands[groups[place]]}"
        return splits

    def _write(self, audited: Audited) -> None:
        """Write all three files beside their targets, then put them in place: the manifest last, as others read it."""
        config = self.config
        report = build_report(audited, config)
        with ExitStack() as stack:
            manifest_path = stack.enter_context(atomic_write(config.manifest_path))
            report_path = stack.enter_context(atomic_write(config.report_path))
            page_path = stack.enter_context(atomic_write(config.report_path.with_suffix(".html")))
            audited.manifest.write(manifest_path)
            report = {"manifest_sha256": sha256_of(manifest_path)} | report
            save_json(report_path, report)
            page_path.write_text(render_page(audited, report, config), encoding="utf-8")
        self._tell(report)

    def _tell(self, report: dict[str, Any]) -> None:
        left_out = report["left_out"]
        logger.info(
            "%d images used, %d left out as copies, %d for other reasons; %s",
            report["used"],
            left_out["copies"],
            sum(left_out.values()) - left_out["copies"],
            ", ".join(
                f"{split} {sum(report['splits'][split]['images'].values())}" for split in SPLITS
            ),
        )
        for warning in report["warnings"]:
            logger.warning("%s", warning)
        logger.info(
            "all that was found, with pictures: %s", self.config.report_path.with_suffix(".html")
        )


def _refuse_conflicts(facts: Sequence[FileFacts], same: Sequence[tuple[int, int]]) -> None:
    crossing = [
        " and ".join(sorted((facts[first].path, facts[second].path)))
        for first, second in same
        if facts[first].label != facts[second].label
    ]
    if crossing:
        rest = f"; {len(crossing) - _NAMED} more pairs" if len(crossing) > _NAMED else ""
        raise ManifestError(
            f"the same picture stands under two classes: {'; '.join(sorted(crossing)[:_NAMED])}{rest}; remove the "
            "wrong ones, or set data_validation.conflicts to leave_out in config.yaml"
        )


def _reasons(
    facts: Sequence[FileFacts], copies: dict[int, int], pictures: Sequence[str]
) -> list[str]:
    """Return why each file is left out; empty for those in use."""
    picture_of = {fact.path: picture for fact, picture in zip(facts, pictures, strict=True)}
    reasons = [
        fact.fault or (f"{COPY} {facts[copies[n]].path}" if n in copies else "")
        for n, fact in enumerate(facts)
    ]
    place_of = {fact.path: place for place, fact in enumerate(facts)}
    usable = [fact for fact in facts if not fact.fault]
    for files in conflicts(usable, lambda fact: picture_of[fact.path]):
        for fact in files:
            other = next(other for other in files if other.label != fact.label)
            reasons[place_of[fact.path]] = f"{CONFLICT} the same picture as {other.path}"
    return reasons


def check_disjoint(manifest: Manifest) -> None:
    """Make sure that no content and no group stands in two splits.

    Raises:
        ManifestError: one does.
    """
    for name in ("sha256", "group"):
        seen: dict[str, str] = {}
        for entry in manifest.entries:
            if entry.split and seen.setdefault(getattr(entry, name), entry.split) != entry.split:
                raise ManifestError(f"{name} {getattr(entry, name)} stands in two splits")
