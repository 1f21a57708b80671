"""Feedback of users: images with the class that they say is correct, until someone reviews it."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cnnClassifier.utils.common import atomic_write, save_json
from cnnClassifier.utils.errors import StorageError

PENDING: Literal["pending"] = "pending"
ACCEPTED: Literal["accepted"] = "accepted"
REJECTED: Literal["rejected"] = "rejected"


class FeedbackFullError(Exception):
    """The folder has reached its size limit."""


class FeedbackRecord(BaseModel):
    """What is stored of one correction; nothing identifies who sent it.

    Attributes:
        id: sha256 of the image's bytes.
        format: of the image, such as `PNG`.
        label: the class that is correct, as its folder is named.
        predicted: the class that was predicted.
        probabilities: by class name.
        model_sha256: of the model that predicted it.
        time: UTC, ISO 8601.
        status: what the review decided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str = Field(pattern="^[0-9a-f]{64}$")
    format: str = Field(pattern="^[A-Z0-9]+$")
    label: str = Field(min_length=1)
    predicted: str
    probabilities: dict[str, float]
    model_sha256: str
    time: str
    status: Literal["pending", "accepted", "rejected"] = PENDING

    @property
    def image_name(self) -> str:
        """File name of the image, here and in the data set."""
        return f"{self.id}.{self.format.lower()}"

    @property
    def record_name(self) -> str:
        """File name of the record: an image may have several, with different classes."""
        return f"{self.id}-{hashlib.sha256(self.label.encode()).hexdigest()[:8]}.json"


class FeedbackFolder:
    """Images and their records, one file each; several processes may use it.

    A file is complete from the moment that it has its name, and an image's name is its content, so
    that processes that store the same at once write the same.

    Args:
        path: created when something is stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, record: FeedbackRecord, image: bytes, max_bytes: int) -> bool:
        """Store an image and its record, unless this image has one with this class.

        Args:
            record: of the image.
            image: the bytes of its file.
            max_bytes: limit of all files together.

        Returns:
            Whether it is new.

        Raises:
            FeedbackFullError: the limit is reached.
            OSError: the files can't be written.
        """
        if (self.path / record.record_name).exists():
            return False
        if self._size() + len(image) > max_bytes:
            raise FeedbackFullError
        # The image comes first: a record always has one.
        with atomic_write(self.path / record.image_name) as temp_path:
            temp_path.write_bytes(image)
        self.write_record(record)
        return True

    def records(self) -> list[FeedbackRecord]:
        """Return all records, the oldest first.

        Raises:
            StorageError: a record is damaged.
        """
        records = []
        for path in self.path.glob("*.json"):
            try:
                records.append(FeedbackRecord.model_validate_json(path.read_bytes()))
            except ValidationError:
                raise StorageError(f"{path}: damaged; delete it") from None
        return sorted(records, key=lambda record: (record.time, record.record_name))

    def write_record(self, record: FeedbackRecord) -> None:
        """Write a record, or replace it by one with another status."""
        save_json(self.path / record.record_name, record.model_dump())

    def _size(self) -> int:
        total = 0
        for path in self.path.glob("*"):
            with suppress(FileNotFoundError):  # another process has just removed it
                total += path.stat().st_size
        return total
