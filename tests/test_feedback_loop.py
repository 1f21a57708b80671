"""From a wrong prediction on the page to a better model: flag, accept, `dvc repro`, look again."""

import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from cnnClassifier.entity.manifest import Manifest
from tests.browser import as_file, card, wait_for_card
from tests.project import write_project
from tests.test_pipeline import copy_repository, run
from tests.waiting import app_in

pytestmark = [pytest.mark.slow, pytest.mark.full]

LABEL = "normal"
WINDOW = (40, 400)  # HU; the images of the source have windows of the lung


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


def show(page, images):
    """Upload images instead of those on the page; return the probability of LABEL of each."""
    if page.locator(".card").count():
        page.get_by_role("button", name="Clear all").click()
    page.set_input_files("#file", [as_file(data, name) for name, data in images.items()])
    probabilities = []
    for name in images:
        bars = wait_for_card(page, name).locator(".bars li").all_text_contents()
        text = next(bar for bar in bars if bar.lower().startswith(LABEL))
        probabilities.append(float(re.search(r"([\d.]+) %$", text)[1]))
    return probabilities


def flag(page, name):
    """Flag a result as wrong; of two classes, the other one is the correct one."""
    found = card(page, name)
    found.get_by_role("button", name="Flag as wrong").click()
    page.get_by_role("dialog").get_by_role("button", name="Send").click()
    found.locator(".flagged").get_by_text(f"Correct class: {LABEL}").wait_for()


def test_flagged_images_are_trained_on_and_the_server_takes_the_new_model(tmp_path, open_page):
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
    images = {f"{number}.png": image for number, image in enumerate(draw_slices(22))}
    first, *others, last, rejected = images
    digest = hashlib.sha256(images[first]).hexdigest()

    def retrain(page):
        """Run the pipeline, and wait until the page shows the model that it made."""
        run(folder, "dvc", "repro")
        content = json.loads((folder / "artifacts/training/model.json").read_text("utf-8"))
        page.locator("#facts").get_by_text(content["model_sha256"][:12]).wait_for()

    with app_in(folder) as url:
        page = open_page(url)
        before = show(page, images)
        assert max(before) < 50
        for name in (first, *others, rejected):
            flag(page, name)
        assert "21 pending" in run(folder, "python", "main.py", "feedback").stdout
        run(folder, "python", "main.py", "feedback", "--accept", digest)
        rejected_digest = hashlib.sha256(images[rejected]).hexdigest()
        run(folder, "python", "main.py", "feedback", "--reject", rejected_digest)
        retrain(page)
        path = f"{LABEL}/feedback-{digest}.png"
        entries = entries_of(folder)
        assert entries.keys() - source.keys() == {path}  # nothing that isn't accepted
        assert (entries[path].label, entries[path].split) == (LABEL, "train")
        assert {path: entries[path] for path in source} == source
        assert show(page, {first: images[first]})[0] > before[0]

        run(folder, "python", "main.py", "feedback", "--accept", "all")
        retrain(page)
        added = entries_of(folder).keys() - source.keys()
        assert len(added) == 1 + len(others) == 20
        images.pop(rejected)
        after = show(page, images)
        assert all(new > old for new, old in zip(after, before[:-1], strict=True))
        assert card(page, last).locator(".label").text_content().lower() == LABEL
        assert page.errors == []
    card_text = (folder / "artifacts/evaluation/MODEL_CARD.md").read_text("utf-8")
    assert "20 of the training images are feedback of users" in card_text
