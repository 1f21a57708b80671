"""Command feedback: review the images that users flagged as wrong."""

import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from cnnClassifier.entity.config_entity import FeedbackConfig
from cnnClassifier.entity.feedback import (
    ACCEPTED,
    PENDING,
    REJECTED,
    FeedbackFolder,
    FeedbackRecord,
)
from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.storage import disk_errors, exclusive_lock

ALL = "all"
_ID_LENGTH = 12  # digits of an ID that the table shows


class Feedback:
    """List, accept and reject what the server stored in `config.received_dir`.

    Accepting exports: the image moves to the folder of its class in `config.accepted_dir`, which
    data_ingestion reads. Rejecting deletes the image. The records stay, so that the same correction
    isn't reviewed twice.

    Raises:
        UserError: one of these folders isn't configured.
    """

    def __init__(self, config: FeedbackConfig) -> None:
        if config.received_dir is None:
            raise UserError("serving.feedback_dir is null in config.yaml: set it to a folder")
        if config.accepted_dir is None:
            raise UserError(
                "data_ingestion.feedback_dir is null in config.yaml: set it to feedback"
            )
        self._folder = FeedbackFolder(config.received_dir)
        self._accepted_dir = config.accepted_dir

    def summary(self) -> str:
        """Return how many corrections there are, and a table of those that wait for a review."""
        records = self._folder.records()
        counts = Counter(record.status for record in records)
        lines = [
            ", ".join(f"{counts[status]} {status}" for status in (PENDING, ACCEPTED, REJECTED))
        ]
        rows = []
        for record in records:
            if record.status == PENDING:
                predicted = f"{record.predicted} {record.probabilities[record.predicted]:.2f}"
                rows.append((record.id[:_ID_LENGTH], record.time, predicted, record.label))
        if rows:
            table = pd.DataFrame(rows, columns=["ID", "time", "predicted", "correct class"])
            lines += [table.to_string(index=False), f"The images are {self._folder.path}/ID…"]
        return "\n\n".join(lines)

    def accept(self, ids: Sequence[str]) -> list[FeedbackRecord]:
        """Export pending images, each with its class.

        Args:
            ids: first digits of IDs, followed by `:CLASS` where an image was flagged with several;
                or `all`.

        Returns:
            Their records.

        Raises:
            UserError: an ID is unknown, or an image would get two classes.
            StorageError: a file can't be moved.
        """
        with disk_errors(self._folder.path), exclusive_lock(self._folder.path / "review"):
            records = self._folder.records()
            accepted = _select(ids, records, {PENDING})
            _refuse_two_classes(accepted)
            for record in accepted:
                same_image = [other for other in records if other.id == record.id]
                # An image has one class: the latest decision holds.
                for other in same_image:
                    if other.status == ACCEPTED:
                        self._decide(other, REJECTED, same_image)
                with atomic_write(self._exported_path(record)) as temp_path:
                    shutil.copyfile(self._folder.path / record.image_name, temp_path)
                self._decide(record, ACCEPTED, same_image)
        return accepted

    def reject(self, ids: Sequence[str]) -> list[FeedbackRecord]:
        """Delete pending images, or accepted ones that are named; otherwise as `accept`."""
        with disk_errors(self._folder.path), exclusive_lock(self._folder.path / "review"):
            records = self._folder.records()
            statuses = {PENDING} if list(ids) == [ALL] else {PENDING, ACCEPTED}
            rejected = _select(ids, records, statuses)
            names = {record.record_name for record in rejected}
            remaining = [record for record in records if record.record_name not in names]
            for record in rejected:
                self._decide(record, REJECTED, remaining)
        return rejected

    def _decide(
        self,
        record: FeedbackRecord,
        status: Literal["accepted", "rejected"],
        others: Sequence[FeedbackRecord],
    ) -> None:
        """Record a decision; delete the image unless another correction of it is pending."""
        self._folder.write_record(record.model_copy(update={"status": status}))
        if status == REJECTED:
            self._exported_path(record).unlink(missing_ok=True)
        is_needed = any(
            other.id == record.id and other.status == PENDING and other != record
            for other in others
        )
        if not is_needed:
            (self._folder.path / record.image_name).unlink(missing_ok=True)

    def _exported_path(self, record: FeedbackRecord) -> Path:
        return self._accepted_dir / record.label / record.image_name


def _select(
    ids: Sequence[str], records: Sequence[FeedbackRecord], statuses: Collection[str]
) -> list[FeedbackRecord]:
    """Return the records with these IDs, of those with one of the statuses."""
    candidates = [record for record in records if record.status in statuses]
    if list(ids) == [ALL]:
        return candidates
    selected: dict[str, FeedbackRecord] = {}
    for text in ids:
        digits, _, label = text.partition(":")
        found = [r for r in candidates if r.id.startswith(digits) and label in ("", r.label)]
        if len({record.id for record in found}) != 1:
            problem = (
                "several images have" if found else f"no {' or '.join(sorted(statuses))} image has"
            )
            raise UserError(f"{text}: {problem} this ID; `python main.py feedback` lists them")
        selected |= {record.record_name: record for record in found}
    return list(selected.values())


def _refuse_two_classes(records: Sequence[FeedbackRecord]) -> None:
    labels: dict[str, str] = {}
    for record in records:
        name = record.id[:_ID_LENGTH]
        other = labels.setdefault(name, record.label)
        if other != record.label:
            raise UserError(
                f"{name} was flagged as {other} and as {record.label}: accept one, such as "
                f"--accept {name}:{record.label}"
            )
