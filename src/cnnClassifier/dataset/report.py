"""What the audit found, in figures and in sentences."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from cnnClassifier.dataset.audit import HANDLING, FileFacts
from cnnClassifier.dataset.shortcuts import MOST_IMAGES, SHORTCUTS, Reach
from cnnClassifier.entity.config_entity import DataValidationConfig
from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.manifest import SPLITS, Entry, Manifest

COPY, CONFLICT, GIVEN = (
    "copy of",
    "conflict:",
    "given split:",
)  # how reasons to leave out usable files begin
_FAR_SHARE = 0.05  # a split that misses its share by more is warned of
_FEW_GROUPS = 5
_REMEDIES = {
    "file_facts": "Export all classes with the same program and settings; check whether they come from one source.",
    "size": "Crop or pad all classes to one geometry at the source: resizing hides the size, not the distortion.",
    "grey": "Export all classes with one window (the same Hounsfield range), and check whether they come from one "
    "source; don't trust scores on this data alone.",
    "border": "Crop frames, captions and table edges from all classes alike, or mask what lies outside the body.",
    "thumbnail": "So much takes no detail: compare the model's AUC with it, and test on data from another source.",
}


@dataclass(frozen=True)
class Audited:
    """All that the report tells of.

    Attributes:
        facts: one for each file.
        manifest: one entry for each file, in the same order.
        copies: place of each byte copy -> place of the file that is kept.
        pictures: for each file the picture that it shows: equal for byte copies and for what near-copies connect.
        given: the split of each file as its folder says, or None.
        reached: what each shortcut reaches.
    """

    facts: Sequence[FileFacts]
    manifest: Manifest
    copies: dict[int, int]
    pictures: Sequence[str]
    given: Sequence[str] | None
    reached: dict[str, Reach]


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        level: `good`, `note` or `warning`.
        text: what is so, a sentence.
        advice: what to do about it; may be empty.
    """

    level: str
    text: str
    advice: str


def build_report(audited: Audited, config: DataValidationConfig) -> dict[str, Any]:
    """Return the content of `data_report.json`."""
    entries = audited.manifest.entries
    used = [entry for entry in entries if entry.split]
    kinds = Counter(_kind(entry) for entry in entries if entry.reason)
    report: dict[str, Any] = {
        "synthetic": is_synthetic(config.source_URL),
        "files": len(entries),
        "used": len(used),
        "left_out": {kind: kinds[kind] for kind in ("copies", "conflicts", "given_split", "other")},
        "faults": {entry.path: entry.reason for entry in entries if _kind(entry) == "other"},
        "unusual": _unusual(audited.facts),
        "near_copies": _counted(near_sets(audited)),
        "conflicts": _counted(conflict_sets(audited)),
        "images": dict(sorted(Counter(entry.label for entry in used).items())),
        "groups": {
            label: len({e.group for e in used if e.label == label})
            for label in audited.manifest.classes
        },
        "largest_group": max(Counter(entry.group for entry in used).values()),
        "sizes": _sizes(used),
        "splits": _splits(audited.manifest, config.shares if audited.given is None else None),
        "given_split": _given(audited),
        "shortcuts": {name: asdict(reach) for name, reach in audited.reached.items()},
        "shortcut_warning_auc": config.shortcut_warning_auc,
    }
    findings = list(_findings(audited, config, report))
    report["warnings"] = [finding.text for finding in findings if finding.level == "warning"]
    report["findings"] = [asdict(finding) for finding in findings]
    return report


def near_sets(audited: Audited) -> list[list[int]]:
    """Return the sets of near-copies, byte copies and conflicts aside, as places in `facts`; the largest first."""
    entries = audited.manifest.entries
    return _sets(
        audited, [place for place, e in enumerate(entries) if _kind(e) in ("", "given_split")]
    )


def copy_sets(audited: Audited) -> list[list[int]]:
    """Return the sets of byte copies as places in `facts`, the kept one first; the largest set first."""
    found: dict[int, list[int]] = defaultdict(list)
    for copy, kept in audited.copies.items():
        if not audited.facts[copy].fault:
            found[kept].append(copy)
    sets = [[kept, *sorted(copies)] for kept, copies in found.items()]
    return sorted(sets, key=lambda places: (-len(places), places))


def conflict_sets(audited: Audited) -> list[list[int]]:
    """Return the sets of files left out because their picture stands under more than one class, as places in `facts`.

    One file of each class comes first, so that they stand side by side however large the set is.
    """
    found = []
    for places in _sets(
        audited, [p for p, e in enumerate(audited.manifest.entries) if _kind(e) == "conflicts"]
    ):
        heads = {audited.facts[place].label: place for place in reversed(places)}.values()
        found.append([*sorted(heads), *(place for place in places if place not in heads)])
    return found


def _sets(audited: Audited, places: Sequence[int]) -> list[list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for place in places:
        found[audited.pictures[place]].append(place)
    return sorted(
        (same for same in found.values() if len(same) > 1), key=lambda same: (-len(same), same)
    )


def _counted(sets: Sequence[Sequence[int]]) -> dict[str, int]:
    return {"sets": len(sets), "files": sum(len(places) for places in sets)}


def _kind(entry: Entry) -> str:
    if not entry.reason:
        return ""
    for kind, start in (("copies", COPY), ("conflicts", CONFLICT), ("given_split", GIVEN)):
        if entry.reason.startswith(start):
            return kind
    return "other"


def _unusual(facts: Sequence[FileFacts]) -> dict[str, dict[str, Any]]:
    found = Counter(name for fact in facts for name in fact.unusual)
    return {
        name: {"files": found[name], "handled": text}
        for name, text in HANDLING.items()
        if found[name]
    }


def _sizes(used: Sequence[Entry]) -> dict[str, Any]:
    """Describe sizes; unfamiliar is what lies far outside the usual widths, heights or aspects (Tukey's far out)."""
    sides = np.array([entry.size.split("x") for entry in used], float)
    figures = np.log(np.column_stack([sides, sides[:, 0] / sides[:, 1]]))
    low, high = np.percentile(figures, (25, 75), axis=0)
    reach = 3 * np.maximum(high - low, np.log(1.1))
    far = ((figures < low - reach) | (figures > high + reach)).any(1)
    sizes = Counter(entry.size for entry in used)
    return {
        "distinct": len(sizes),
        "most_common": dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:5]),
        "width": [int(sides[:, 0].min()), int(sides[:, 0].max())],
        "height": [int(sides[:, 1].min()), int(sides[:, 1].max())],
        "unfamiliar": {
            entry.path: entry.size for entry, is_far in zip(used, far, strict=True) if is_far
        },
    }


def _splits(manifest: Manifest, shares: Sequence[float] | None) -> dict[str, dict[str, Any]]:
    classes = manifest.classes
    totals = Counter(entry.label for entry in manifest.entries if entry.split)
    found = {}
    for number, split in enumerate(SPLITS):
        entries = manifest.of(split)
        images = Counter(entry.label for entry in entries)
        groups = {label: len({e.group for e in entries if e.label == label}) for label in classes}
        found[split] = {
            "wished_share": shares[number] if shares else None,
            "share": round(len(entries) / totals.total(), 4),
            "images": {label: images[label] for label in classes},
            "groups": groups,
            "class_shares": {label: round(images[label] / totals[label], 4) for label in classes},
        }
    return found


def _given(audited: Audited) -> dict[str, Any] | None:
    if audited.given is None:
        return None
    readable = [place for place, fact in enumerate(audited.facts) if not fact.fault]
    learnt = {audited.pictures[place] for place in readable if audited.given[place] == "train"}
    test = [place for place in readable if audited.given[place] == "test"]
    return {
        "images": {
            split: sum(audited.given[place] == split for place in readable) for split in SPLITS
        },
        "test_images_with_copy_in_train": sum(audited.pictures[place] in learnt for place in test),
        "validation_taken_from_train": "validation" not in audited.given,
    }


def _findings(
    audited: Audited, config: DataValidationConfig, report: dict[str, Any]
) -> Iterator[Finding]:
    yield from _content_findings(report)
    yield from _group_findings(audited, config, report)
    yield from _split_findings(report)
    yield from _shortcut_findings(report)


def _content_findings(report: dict[str, Any]) -> Iterator[Finding]:
    conflicts, left_out, near = report["conflicts"], report["left_out"], report["near_copies"]
    if conflicts["sets"]:
        yield Finding(
            "warning",
            f"{_count(conflicts['sets'], 'picture')} stand{_s(conflicts['sets'])} under more than one class; all "
            f"{conflicts['files']} files of them are left out.",
            "Find out which class is right and remove the other files at the source.",
        )
    if left_out["other"]:
        yield Finding(
            "note",
            f"{_count(left_out['other'], 'file')} can't be used.",
            "The reasons stand below: replace the files, or remove them.",
        )
    if left_out["copies"]:
        yield Finding(
            "note",
            f"{_count(left_out['copies'], 'file')} repeat{_s(left_out['copies'])} another's bytes and "
            f"{'is' if left_out['copies'] == 1 else 'are'} left out; one of each is kept.",
            "Nothing needs doing. Many copies mean that the data is smaller than it looks.",
        )
    if near["sets"]:
        yield Finding(
            "note",
            f"{near['files']} images are near-copies in {_count(near['sets'], 'set')}: re-encoded, resized, cropped "
            "or drawn on. Each set stays in one split.",
            "Look at them below. If a set holds different pictures, raise data_validation.near_duplicate_correlation.",
        )
    if unfamiliar := report["sizes"]["unfamiliar"]:
        yield Finding(
            "note",
            f"{_count(len(unfamiliar), 'image')} of unfamiliar size: {_listed(unfamiliar)}.",
            "Look whether they are what the others are; remove scouts, montages and screenshots.",
        )
    images = report["images"]
    most, least = max(images, key=images.__getitem__), min(images, key=images.__getitem__)
    if images[most] >= 2 * images[least]:
        yield Finding(
            "note",
            f"{most} has {images[most] / images[least]:.1f} times as many images as {least}.",
            "CLASS_WEIGHTS: balanced in params.yaml makes up for it in training; judge by balanced accuracy and AUC.",
        )


def _group_findings(
    audited: Audited, config: DataValidationConfig, report: dict[str, Any]
) -> Iterator[Finding]:
    pattern = config.group_pattern
    unnamed = [
        f for f in audited.facts if not (pattern and re.search(pattern, PurePosixPath(f.path).name))
    ]
    told = sum(bool(fact.patient) for fact in unnamed)
    if told:
        yield Finding(
            "note",
            f"{_count(told, 'DICOM file')} whose name doesn't match group_pattern: grouped by a hash of the patient's "
            "ID in the header, or of the study's or series' UID.",
            "The manifest holds that pseudonym, which who has the IDs can resolve: keep it like the images.",
        )
    if len(unnamed) == len(audited.facts) and told < report["files"] - len(report["faults"]):
        why = "matches no file's name" if pattern else "isn't set"
        yield Finding(
            "warning",
            f"data_validation.group_pattern {why}: only near-copies are kept together, and images of one patient may "
            "stand in train and in test.",
            "If the names tell the patient or the series, say how in group_pattern.",
        )
    if report["largest_group"] > 0.2 * report["used"]:
        yield Finding(
            "warning",
            f"One group holds {report['largest_group']} of {report['used']} images.",
            "Check data_validation.group_pattern: it may take a part of the name that says nothing of the patient.",
        )


def _split_findings(report: dict[str, Any]) -> Iterator[Finding]:
    given, splits = report["given_split"], report["splits"]
    if given:
        crossing, total = given["test_images_with_copy_in_train"], given["images"]["test"]
        left_out = report["left_out"]["given_split"]
        source = (
            " Validation is taken from train, in whole groups."
            if given["validation_taken_from_train"]
            else ""
        )
        yield Finding(
            "warning" if crossing else "good",
            f"As given, {crossing} of {total} test images have a copy or near-copy in train; "
            f"{_count(left_out, 'file')} whose group stands in test or validation "
            f"{'is' if left_out == 1 else 'are'} left out.{source}",
            "Scores published on this split may be too high; those of this pipeline are of the mended one."
            if crossing
            else "",
        )
    else:
        gap, split, label = max(
            (abs(share - content["wished_share"]), split, label)
            for split, content in splits.items()
            for label, share in content["class_shares"].items()
        )
        yield Finding(
            "warning" if gap > _FAR_SHARE else "good",
            f"No class's share of a split is further from the wished one than {100 * gap:.1f} points ({label} in "
            f"{split}: {splits[split]['class_shares'][label]:.1%} for {splits[split]['wished_share']:.0%}).",
            "The groups allow no better: add groups, or change SPLIT in params.yaml."
            if gap > _FAR_SHARE
            else "",
        )
    few = [
        f"{label} {count} in {split}"
        for split in SPLITS[1:]
        for label, count in splits[split]["groups"].items()
        if count < _FEW_GROUPS
    ]
    if few:
        yield Finding(
            "warning",
            f"Few groups to judge by: {', '.join(few)}. The scores will depend on which ones they are.",
            "Read their intervals, not the figures alone; add patients.",
        )


def _shortcut_findings(report: dict[str, Any]) -> Iterator[Finding]:
    limit, reached = report["shortcut_warning_auc"], report["shortcuts"]
    high = [name for name in reached if reached[name]["auc"] >= limit]
    for name in high:
        reach = reached[name]
        yield Finding(
            "warning",
            f"{SHORTCUTS[name][:1].upper()}{SHORTCUTS[name][1:]} alone: AUC {reach['auc']:.2f} (95 % interval "
            f"{reach['low']:.2f} to {reach['high']:.2f}; limit {limit:.2f}). A model may learn that instead.",
            _REMEDIES[name],
        )
    if reached and not high:
        best = max(reached, key=lambda name: reached[name]["auc"])
        yield Finding(
            "good", f"No shortcut reaches AUC {limit:.2f}; {SHORTCUTS[best]} comes nearest.", ""
        )
    if not reached:
        yield Finding("note", "Shortcuts aren't measured: a class has fewer than two groups.", "")
    elif report["used"] > MOST_IMAGES:
        yield Finding(
            "note", f"Shortcuts are measured on {MOST_IMAGES} images, drawn with SEED.", ""
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _s(number: int) -> str:
    return "s" if number == 1 else ""


def _listed(names: dict[str, str], most: int = 3) -> str:
    shown = ", ".join(f"{path} ({size})" for path, size in list(names.items())[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
