"""The data of a run as MLflow's inputs: each split with its digest and counts."""

import hashlib
from collections import Counter
from pathlib import Path

from cnnClassifier.entity.disclaimers import is_synthetic
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.tracking.tracker import Tracker
from cnnClassifier.utils.common import sha256_of


def data_tags(manifest_path: Path, source: str) -> dict[str, str]:
    """Return the tags that say which data a run is of, and whether they are the phantom's."""
    return {"manifest_sha256": sha256_of(manifest_path), "synthetic": str(is_synthetic(source))}


def log_splits(tracker: Tracker, manifest: Manifest, source: str, *splits: str) -> None:
    """Log the splits that a run uses.

    Args:
        tracker: of the run.
        manifest: all images.
        source: where the data came from.
        splits: of `train`, `validation`, `test`; one without images isn't logged.
    """
    for split in splits:
        entries = [entry for entry in manifest.entries if entry.split == split]
        if not entries:
            continue
        digest = hashlib.sha256(
            "".join(f"{entry.sha256}{entry.label}" for entry in entries).encode()
        ).hexdigest()
        profile = {
            "images": len(entries),
            "groups": len({entry.group for entry in entries}),
            "classes": dict(sorted(Counter(entry.label for entry in entries).items())),
        }
        tracker.dataset(split, digest, source, profile)
