import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from pyarrow import fs

from cnnClassifier.utils import object_store
from cnnClassifier.utils.errors import SourceError
from cnnClassifier.utils.object_store import RemoteFolder

SECRET_URL = "s3://id:topsecret@clinic/scans?scheme=http"


def test_files_are_written_listed_and_read(memory_store):
    folder = pickle.loads(pickle.dumps(RemoteFolder("memory://clinic/scans")))
    assert folder.list_files() == {}
    values = np.arange(6, dtype=np.float16)
    folder.write("a/values.gz", values)  # the suffix means nothing
    assert {path: info.size for path, info in folder.list_files().items()} == {"a/values.gz": 12}
    assert folder.read("a/values.gz") == values.tobytes()
    assert folder.read("a/values.gz", 4) == values.tobytes()[:4]
    found = np.empty((2, 2), np.float16)
    folder.read_into("a/values.gz", found, 4)
    assert found.tolist() == [[2, 3], [4, 5]]
    with pytest.raises(OSError, match="reshape"):
        folder.read_into("a/values.gz", found, 6)
    with pytest.raises(FileNotFoundError) as raised:
        folder.read("a/absent")
    assert raised.value.strerror == "No such file or directory"
    assert raised.value.filename == "memory://clinic/scans/a/absent"


@pytest.mark.parametrize("kind", ["refused", "gone", "down"])
def test_a_file_that_cannot_be_read_is_told_from_a_store_that_is_down(monkeypatch, kind):
    def fail(*path, **options):
        raise OSError(f"AWS Error ACCESS_DENIED\n at {SECRET_URL}")

    types = {"refused": fs.FileType.Directory, "gone": fs.FileType.NotFound}
    store = SimpleNamespace(open_input_stream=fail, get_file_info=fail)
    if kind != "down":
        store.get_file_info = lambda path: fs.FileInfo(path, types[kind])
    monkeypatch.setattr(object_store, "_open_store", lambda *key: (store, "clinic/scans"))
    with pytest.raises(OSError if kind == "refused" else SourceError) as raised:
        RemoteFolder(SECRET_URL).read("a.png")
    message = str(raised.value)
    assert "topsecret" not in message
    assert "\n" not in message
    if kind == "refused":
        assert raised.value.filename == "s3://clinic/scans/a.png"
        assert "ACCESS_DENIED" in raised.value.strerror
    else:
        assert message.startswith("s3://clinic/scans?…: ")
        assert "AWS_ACCESS_KEY_ID" in message
