"""Stage data_validation: decide which file is what, and which split it belongs to."""

from collections import Counter
from typing import Any

from cnnClassifier.dataset.audit import byte_copies, conflicts, group_files, near_copies, read_files
from cnnClassifier.dataset.layout import image_files
from cnnClassifier.dataset.split import split_groups
from cnnClassifier.entity.config_entity import DataValidationConfig
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest
from cnnClassifier.utils.common import save_json
from cnnClassifier.utils.errors import ManifestError
from cnnClassifier.utils.log import logger


class DataValidation:
    """Read every file once and write the manifest, from which all later stages work."""

    def __init__(self, config: DataValidationConfig) -> None:
        self.config = config

    def run(self) -> Manifest:
        """Audit, group and split the files, and write manifest and report.

        Returns:
            The manifest as written.

        Raises:
            ManifestError: one picture stands under two classes, a class has no usable image, or the groups can't be
                split.
        """
        config = self.config
        facts = read_files(config.data_dir, image_files(config.data_dir), config.max_pixels)
        for files in conflicts([fact for fact in facts if not fact.fault], lambda fact: fact.sha256):
            raise ManifestError(
                f"the same picture stands under two classes: {' and '.join(fact.path for fact in files)}; "
                "remove the wrong one"
            )
        copies = byte_copies(facts)
        used = [number for number, fact in enumerate(facts) if not fact.fault and number not in copies]
        kept = [facts[number] for number in used]
        usable = {fact.label for fact in kept}
        for fact in facts:
            if fact.label not in usable:
                raise ManifestError(f"class {fact.label} has no usable image: {fact.path}: {fact.fault}; replace it")
        pairs = near_copies(kept, config.near_copy_bits, config.near_copy_correlation)
        groups = group_files(kept, config.group_pattern, pairs)
        group_of = dict(zip(used, groups, strict=True))
        splits = split_groups(groups, [fact.label for fact in kept], config.shares, config.seed)
        entries = []
        for number, fact in enumerate(facts):
            group = group_of.get(copies.get(number, number), "")
            reason = fact.fault or (f"copy of {facts[copies[number]].path}" if number in copies else "")
            entries.append(
                Entry(
                    path=fact.path,
                    label=fact.label,
                    sha256=fact.sha256,
                    phash="" if fact.fault else f"{fact.phash:016x}",
                    size=fact.size,
                    bytes=fact.bytes,
                    mode=fact.mode,
                    group=group,
                    split="" if reason else splits[group],
                    reason=reason,
                )
            )
        manifest = Manifest(tuple(entries))
        check_disjoint(manifest)
        manifest.write(config.manifest_path)
        report = summary(manifest, len(pairs), config.shares)
        save_json(config.report_path, report)
        logger.info(
            "%d images used, %d left out as copies, %d for other reasons; %s",
            len(used),
            report["left_out"]["copies"],
            report["left_out"]["other"],
            ", ".join(f"{split} {sum(report['splits'][split]['images'].values())}" for split in SPLITS),
        )
        return manifest


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


def summary(manifest: Manifest, near_pairs: int, shares: tuple[float, float, float]) -> dict[str, Any]:
    """Count what the manifest holds: by class and split, what was left out, and wished and reached shares."""
    used = [entry for entry in manifest.entries if entry.split]
    copies = sum(entry.reason.startswith("copy of") for entry in manifest.entries)
    return {
        "files": len(manifest.entries),
        "used": len(used),
        "left_out": {"copies": copies, "other": len(manifest.entries) - len(used) - copies},
        "faults": {e.path: e.reason for e in manifest.entries if e.reason and not e.reason.startswith("copy of")},
        "near_copy_pairs": near_pairs,
        "images": dict(sorted(Counter(entry.label for entry in used).items())),
        "groups": {label: len({e.group for e in used if e.label == label}) for label in manifest.classes},
        "splits": {
            split: {
                "wished_share": share,
                "share": round(sum(e.split == split for e in used) / len(used), 4),
                "images": {
                    label: sum(e.split == split and e.label == label for e in used) for label in manifest.classes
                },
                "groups": {
                    label: len({e.group for e in used if e.split == split and e.label == label})
                    for label in manifest.classes
                },
            }
            for split, share in zip(SPLITS, shares, strict=True)
        },
    }
