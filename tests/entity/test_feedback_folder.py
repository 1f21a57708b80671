import hashlib
import os
import subprocess
import sys

import pytest

from cnnClassifier.entity.feedback import FeedbackFolder, FeedbackFullError, FeedbackRecord
from cnnClassifier.utils.errors import StorageError
from tests.waiting import PATIENCE_S

STORE = """
import sys
from pathlib import Path
from tests.entity.test_feedback_folder import record_of
from cnnClassifier.entity.feedback import FeedbackFolder
folder = FeedbackFolder(Path(sys.argv[1]))
for n in range(40):
    image = b"%d" % n * 50_000
    folder.add(record_of(image), image, 10**9)
    folder.records()
"""


def record_of(image, label="normal", **changes):
    """Return the record of an image that was predicted as something else."""
    values = {
        "id": hashlib.sha256(image).hexdigest(),
        "format": "PNG",
        "label": label,
        "predicted": "adenocarcinoma",
        "probabilities": {"adenocarcinoma": 0.75, "normal": 0.25},
        "model_sha256": "0" * 64,
        "time": "2026-01-31T12:00:00+00:00",
    }
    return FeedbackRecord(**(values | changes))


def test_an_image_is_stored_once_for_each_class_within_the_limit(tmp_path):
    folder = FeedbackFolder(tmp_path / "new/feedback")
    assert folder.records() == []
    record, other = record_of(b"image"), record_of(b"image", "adenocarcinoma")
    assert folder.add(record, b"image", 2000)
    assert not folder.add(record_of(b"image", time="2027-01-01T12:00:00+00:00"), b"image", 2000)
    assert folder.add(other, b"image", 2000)
    size = sum(path.stat().st_size for path in folder.path.iterdir())
    with pytest.raises(FeedbackFullError):
        folder.add(record_of(b"another"), b"another", size + len(b"another") - 1)
    assert sorted(folder.records(), key=lambda r: r.label) == [other, record]
    files = {path.name for path in folder.path.iterdir()}
    assert files == {record.image_name, record.record_name, other.record_name}
    (folder.path / record.record_name).write_text("{")
    with pytest.raises(StorageError, match=r"json: damaged; delete it"):
        folder.records()


def test_processes_share_a_folder(tmp_path):
    command = [sys.executable, "-c", STORE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0]
    records = FeedbackFolder(tmp_path).records()
    assert len(records) == 40
    for record in records:
        image = (tmp_path / record.image_name).read_bytes()
        assert hashlib.sha256(image).hexdigest() == record.id
    assert len(list(tmp_path.iterdir())) == 80  # nothing unfinished is left
