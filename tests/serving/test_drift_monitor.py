import io
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.drift import FEATURES
from cnnClassifier.evaluation.drift import build_reference
from cnnClassifier.serving import drift_monitor
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.drift_monitor import DriftMonitor
from tests.serving.client import error_of, make_config

ct_phantom = pytest.importorskip("ct_phantom.dataset")
PATIENTS = 30
LUNG, MEDIASTINAL = (-600, 1500), (40, 400)  # centre and width in HU


class Clock(datetime):
    """A clock that stands still."""

    time = datetime(2030, 1, 31, 9, 59, tzinfo=UTC)

    @classmethod
    def now(cls, tz=None):
        return cls.time.astimezone(tz)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(drift_monitor, "datetime", Clock)
    monkeypatch.setattr("cnnClassifier.evaluation.drift_report.datetime", Clock)
    monkeypatch.setattr(Clock, "time", Clock.time)
    return Clock


@pytest.fixture(scope="module")
def slices():
    """Return a function that makes PNG files: two slices of each patient, in a window."""
    from ct_phantom.options import PhantomOptions
    from ct_phantom.scanner import scan_slice

    def render(first_patient, center, width):
        files = []
        for number in range(first_patient, first_patient + PATIENTS):
            patient = ct_phantom.make_patient(PhantomOptions(seed=5), number)
            for index in range(2):
                hu = scan_slice(patient, index, 64, lesion=number % 2 == 0)
                pixels = np.clip((hu - center) / width + 0.5, 0, 1) * 255
                buffer = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
                files.append(buffer.getvalue())
        return files

    return render


def post(client, files):
    """Classify files in one request each."""
    results = []
    for data in files:
        results += client.post("/predict", data=data, content_type="image/png").json
    return results


@pytest.fixture(scope="module")
def bundle_dir(write_bundle, tmp_path_factory, slices):
    """Write a bundle whose training images are slices in the lung window."""
    folder = write_bundle(tmp_path_factory.mktemp("drift") / "bundle")
    bundle = ModelBundle.read(folder)
    results = post(create_app(make_config(folder)).test_client(), slices(1, *LUNG))
    features = {name: np.array([result[name] for result in results]) for name in FEATURES}
    predicted = np.array([bundle.classes.index(result["class"]) for result in results])
    reference = build_reference(features, predicted, 2, np.arange(len(results)) // 2)
    bundle.model_copy(update={"drift_reference": reference}).write(folder)
    return folder


@pytest.mark.parametrize("window", [LUNG, MEDIASTINAL])
def test_slices_of_other_patients_are_reported_in_another_window_only(bundle_dir, slices, window):
    client = create_app(make_config(bundle_dir)).test_client()
    client.get("/model")  # loads it
    assert "/drift" not in client.get("/about").text
    page = client.get("/drift").text
    assert "No images were served" in page
    assert '<b aria-current="page">24 hours</b><a href="/drift?hours=168">7 days</a>' in page
    post(client, slices(1000, *window))
    assert 'href="/drift"' in client.get("/about").text
    response = client.get("/drift?hours=48")
    assert "style-src 'unsafe-inline'" in response.headers["Content-Security-Policy"]
    page = " ".join(re.sub("<[^>]+>", " ", response.text).split())
    for text in (
        "60 images served since",
        "Not a medical device",
        "metrics say nothing about real",
    ):
        assert text in page
    if window == LUNG:
        assert "No drift was found." in page
    else:
        assert "The served images differ from the training images: " in page
        assert "Mean intensity is lower: " in page
        assert "another display window" in page


def test_the_page_refuses_other_periods_and_names_a_model_without_a_reference(tiny_bundle, picture):
    client = create_app(make_config(tiny_bundle)).test_client()
    post(client, [picture()])
    for hours in ("0", "x", "1000000", "-1", ""):
        assert error_of(client.get(f"/drift?hours={hours}")) == (400, "bad_option"), hours
    page = client.get("/drift").text
    assert ">Model " in page
    assert " has no distribution of its training images, because an older version trained" in page
    assert page.count("Not a medical device") == 1
    assert "/drift" not in client.get("/about").text


def test_the_metrics_have_histograms(bundle_dir, picture):
    client = create_app(make_config(bundle_dir)).test_client()
    post(client, [picture(100, (40, 30)), picture(200, (40, 30))])
    counts = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.labels.keys() == {"le"}:
                counts[family.name, sample.labels["le"]] = sample.value
    assert counts["image_mean_intensity", "96.0"] == 0
    assert counts["image_mean_intensity", "112.0"] == 1
    for name in ("prediction_probability", "prediction_distance", "image_width_pixels"):
        assert counts[name, "+Inf"] == 2
    assert counts["image_height_pixels", "64.0"] == 2


def result(mean_intensity=100.0):
    features = {"probability": 0.9, "distance": 1.0, "width": 64, "height": 64}
    return features | {"class": "normal", "mean_intensity": mean_intensity}


@pytest.fixture
def bundle(bundle_dir):
    return ModelBundle.read(bundle_dir)


def hours_ago(count):
    return Clock.time - timedelta(hours=count)


def test_servers_share_a_folder(bundle_dir, bundle, clock, tmp_path):
    config = make_config(bundle_dir, drift_dir=tmp_path / "drift")
    monitors = [DriftMonitor(config) for _ in range(2)]
    for monitor in monitors:
        monitor.count([result()] * 3, bundle)
        clock.time += timedelta(hours=1)
        monitor.count([result(), result(200)], bundle)
        clock.time -= timedelta(hours=1)
    assert monitors[0].served(bundle, hours_ago(0)).class_counts.tolist() == [0, 5]
    for monitor in monitors:
        monitor.write()
        monitor.count([result()], bundle)
    names = sorted(path.name[:13] for path in config.drift_dir.iterdir())
    assert names == ["2030-01-31T09", "2030-01-31T09", "2030-01-31T10", "2030-01-31T10"]
    served = monitors[0].served(bundle, hours_ago(0))
    assert served.class_counts.tolist() == [0, 11]  # its own, and what the other one wrote
    assert served.squared_sizes == 9 + 4 + 1 + 9 + 4
    assert monitors[1].served(bundle, hours_ago(-1)).class_counts.tolist() == [0, 4]
    another = bundle.model_copy(update={"model_sha256": "0" * 64})
    assert not monitors[0].has_images(another)
    assert DriftMonitor(config).has_images(bundle)  # after a restart
    assert DriftMonitor(config).served(bundle, hours_ago(0)).class_counts.tolist() == [0, 10]


def test_old_hours_are_forgotten_and_other_files_stay(
    bundle_dir, bundle, clock, tmp_path, monkeypatch
):
    stale = tmp_path / f".2030-01-01T00-{bundle.model_id}-0123abcd.json.unfinished-x"
    stale.mkdir()
    (tmp_path / "1 note.txt").write_text("mine")
    monitor = DriftMonitor(make_config(bundle_dir, drift_dir=tmp_path, drift_hours=3))
    for _ in range(5):
        monitor.count([result()], bundle)
        monitor.write()
        clock.time += timedelta(hours=1)
    names = sorted(path.name[:13] for path in tmp_path.iterdir())
    assert names == ["1 note.txt", "2030-01-31T11", "2030-01-31T12", "2030-01-31T13"]
    assert monitor.served(bundle, hours_ago(9)).class_counts.sum() == 3
    monkeypatch.setattr(drift_monitor, "_MAX_FILES", 2)
    monitor.count([result()], bundle)
    monitor.write()
    assert len(list(tmp_path.glob("*.json"))) == 2
    monkeypatch.setattr(drift_monitor, "_MAX_COUNTS", 1)
    in_memory = DriftMonitor(make_config(bundle_dir))
    for _ in range(2):
        in_memory.count([result()], bundle)
        clock.time += timedelta(hours=1)
    assert in_memory.served(bundle, hours_ago(9)).class_counts.sum() == 1


def test_a_folder_that_cannot_be_written_is_logged_once(bundle_dir, bundle, tmp_path, monkeypatch):
    (tmp_path / "drift").write_text("a file")
    warnings = []
    monkeypatch.setattr(drift_monitor.logger, "warning", lambda *text: warnings.append(text))
    monitor = DriftMonitor(make_config(bundle_dir, drift_dir=tmp_path / "drift"))
    for _ in range(2):
        monitor.count([result()], bundle)
        monitor.write()
    assert len(warnings) == 1
    (tmp_path / "drift").unlink()
    monitor.write()
    assert len(list((tmp_path / "drift").iterdir())) == 1


@pytest.mark.parametrize("content", ["[", "[]", '{"squared_sizes": 1}', "{}", None])
def test_damaged_files_are_left_out_with_a_warning(
    bundle_dir, bundle, tmp_path, monkeypatch, content
):
    warnings = []
    logger = "cnnClassifier.evaluation.drift_report.logger.warning"
    monkeypatch.setattr(logger, lambda text, *values: warnings.append(text % values))
    monitor = DriftMonitor(make_config(bundle_dir, drift_dir=tmp_path))
    monitor.count([result()], bundle)
    monitor.write()
    (path,) = tmp_path.iterdir()
    damaged = path.with_name(path.name.replace(bundle.model_id, f"{bundle.model_id}-other"))
    text = path.read_text().replace("[\n", "[1,\n", 1) if content is None else content
    damaged.write_text(text)
    assert DriftMonitor(make_config(bundle_dir, drift_dir=tmp_path)).served(
        bundle, hours_ago(10**5)
    ).class_counts.tolist() == [0, 1]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{damaged}: left out: ")
