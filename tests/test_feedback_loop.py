"""From a wrong prediction to a better model: flag, accept, `dvc repro`, and the server has it."""

import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
import requests
from PIL import Image

from cnnClassifier.entity.manifest import Manifest
from tests.project import write_project
from tests.test_pipeline import copy_repository, run
from tests.waiting import PATIENCE_S, app_in, until

pytestmark = [pytest.mark.slow, pytest.mark.full]

LABEL = "normal"
WINDOW = (40, 400)  # HU; the images of the source have windows of the lung


class Client:
    """Requests to a server, as a program sends them."""

    def __init__(self, url):
        self.url = url

    def predict(self, image):
        answer = requests.post(f"{self.url}/predict", files={"file": image}, timeout=PATIENCE_S)
        return answer.json()[0]

    def flag(self, image, label):
        form = {"files": {"file": image}, "data": {"label": label}}
        answer = requests.post(f"{self.url}/feedback", **form, timeout=PATIENCE_S)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def model(self):
        return requests.get(f"{self.url}/readyz", timeout=PATIENCE_S).json()["model"]


@contextmanager
def serving(folder):
    """Run app.py in a folder; yield a client."""
    with app_in(folder) as url:
        yield Client(url)


def draw_slices(count):
    """Return slices of new patients without a lesion, in another window, as PNG."""
    import ct_phantom
    from ct_phantom.scanner import scan_slice

    options = ct_phantom.parse_phantom("phantom:size=128,seed=77")
    images = []
    for number in range(1, count + 1):
        hu = scan_slice(ct_phantom.make_patient(options, number), 0, options.size, lesion=False)
        center, width = WINDOW
        levels = (np.clip((hu - center) / width + 0.5, 0, 1) * 255).round().astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images


def entries_of(folder):
    manifest = Manifest.read(folder / "artifacts/data_validation/manifest.csv")
    return {entry.path: entry for entry in manifest.entries}


def test_flagged_images_are_trained_on_and_the_server_takes_the_new_model(tmp_path):
    pytest.importorskip("ct_phantom")
    folder = copy_repository(tmp_path)
    write_project(
        folder,
        config={
            "data_ingestion.source_URL": "phantom:patients=60,slices=1,size=128,seed=5",
            "evaluation.bootstrap_samples": 100,
            "training.int8": False,
            "serving.feedback_dir": "data/feedback",
        },
        params={"IMAGE_SIZE": [128, 128, 3], "EPOCHS": 8, "FOLDS": 3, "REPEATS": 1},
    )
    run(folder, "dvc", "repro")
    source = entries_of(folder)
    first, *others, last, rejected = draw_slices(22)

    def retrain(client):
        """Run the pipeline, and wait until the server has the model that it made."""
        run(folder, "dvc", "repro")
        content = json.loads((folder / "artifacts/training/model.json").read_text("utf-8"))
        until(lambda: client.model() == content["model_sha256"][:12])

    def probability(client, image):
        return client.predict(image)["probabilities"][LABEL]

    with serving(folder) as client:
        before = [probability(client, image) for image in (first, *others, last)]
        assert client.predict(last)["class"] != LABEL
        digest = client.flag(first, LABEL)
        client.flag(rejected, LABEL)
        assert "2 pending" in run(folder, "python", "main.py", "feedback").stdout
        run(folder, "python", "main.py", "feedback", "--accept", digest)
        run(folder, "python", "main.py", "feedback", "--reject", "all")
        retrain(client)
        path = f"{LABEL}/feedback-{digest}.png"
        entries = entries_of(folder)
        assert entries.keys() - source.keys() == {path}  # nothing that was rejected
        assert (entries[path].label, entries[path].split) == (LABEL, "train")
        assert {path: entries[path] for path in source} == source
        assert probability(client, first) > before[0]

        for image in others:
            client.flag(image, LABEL)
        run(folder, "python", "main.py", "feedback", "--accept", "all")
        retrain(client)
        added = entries_of(folder).keys() - source.keys()
        assert len(added) == 1 + len(others) == 20
        assert client.predict(last)["class"] == LABEL
        after = [probability(client, image) for image in (first, *others, last)]
        assert all(new > old for new, old in zip(after, before, strict=True))
        card = (folder / "artifacts/evaluation/MODEL_CARD.md").read_text("utf-8")
        assert "20 of the training images are feedback of users" in card
