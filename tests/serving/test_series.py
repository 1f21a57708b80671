import io

import numpy as np
import pytest

from cnnClassifier.imaging.dicom_header import read_series_pseudonym
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.series import find_series
from tests.archives import zip_of
from tests.dicoms import NAME, dicom, lungs
from tests.serving.client import error_of, make_config

PATTERN = r"^(?P<group>patient\d+)_"
ZIP = "application/zip"


@pytest.fixture(scope="module")
def client(tiny_bundle):
    return create_app(make_config(tiny_bundle, group_pattern=PATTERN)).test_client()


def log_odds(probabilities):
    return np.log(probabilities["adenocarcinoma"] / probabilities["normal"])


def upload(client, files):
    """Send a form with these file names, as a page that sends a folder does."""
    parts = [(io.BytesIO(data), name) for name, data in files.items()]
    return client.post("/predict", data={"file": parts, "series": "true"})


def test_a_zip_gives_a_prediction_for_each_folder_and_group(client, picture):
    files = {
        "p1/a.png": picture(200),
        "p1/b.png": picture(90),
        "p2/c.png": picture(0),
        "p2/damaged.png": b"x",
        "patient3_1.png": picture(255),
        "patient3_2.png": picture(10),
    }
    data = zip_of(files)
    response = client.post("/predict?series=1", data=data, content_type=ZIP)
    assert response.status_code == 200
    images, series = response.json["images"], response.json["series"]
    assert [image["file"] for image in images] == [f"archive/{path}" for path in sorted(files)]
    assert [image.get("series") for image in images] == [
        *("archive/p1", "archive/p1", "archive/p2", None, "patient3", "patient3")
    ]
    assert images[3]["error"]["code"] == "not_an_image"
    first, second, third = series
    counts = [(item["series"], item["images"], item["unfamiliar_images"]) for item in series]
    assert counts == [("archive/p1", 2, 0), ("archive/p2", 1, 0), ("patient3", 2, 0)]
    expected = np.mean([log_odds(image["probabilities"]) for image in images[:2]])
    assert log_odds(first["probabilities"]) == pytest.approx(expected)
    assert (first["class"], first["image"]) == ("adenocarcinoma", "Adenocarcinoma")
    assert first["probability"] == first["probabilities"]["adenocarcinoma"]
    assert second["probability"] == pytest.approx(images[2]["probability"])
    assert (second["class"], second["threshold"]) == ("normal", 0.5)
    assert [item["uncertain"] for item in series] == [False, False, True]
    assert "series" not in third["probabilities"]
    plain = client.post("/predict", data=data, content_type=ZIP).json
    assert [image.get("class") for image in plain] == [image.get("class") for image in images]
    assert "file" not in plain[0], "without the option the answer is as ever"


def test_results_of_several_requests_give_the_same_series(client, picture):
    files = {f"s{number % 2}/{number}.png": picture(40 * number) for number in range(6)}
    together = upload(client, files).json
    images = []
    for name, data in files.items():
        images += upload(client, {name: data}).json["images"]
    response = client.post("/series", json={"images": [*images, {"error": {"code": "corrupt"}}]})
    assert response.json == {"series": together["series"]}
    assert [item["images"] for item in together["series"]] == [3, 3]


def test_dicom_files_are_grouped_by_their_series(client):
    def scan(seed, **elements):
        return dicom(lungs(seed, side=32), **elements)

    files = {
        "x/1.dcm": scan(1, SeriesInstanceUID="1.2.1"),
        "y/2.dcm": scan(2, SeriesInstanceUID="1.2.1"),
        "y/3.dcm": scan(3, SeriesInstanceUID="1.2.2"),
        "y/4.dcm": scan(4),
    }
    response = upload(client, files)
    names = [image["series"] for image in response.json["images"]]
    assert names[0] == names[1] == read_series_pseudonym(files["x/1.dcm"])
    assert names[2] not in (names[0], "y")
    assert names[3] == "y"
    assert len(response.json["series"]) == 3
    assert "1.2.1" not in response.text
    assert NAME not in response.text


@pytest.mark.parametrize(
    ("path", "pattern", "series"),
    [
        ("", PATTERN, None),
        ("a.png", PATTERN, None),
        ("patient1_2.png", PATTERN, "patient1"),
        ("folder/patient1_2.png", PATTERN, "patient1"),
        ("folder/patient1_2.png", "none", "folder"),
        ("folder/patient1_2.png", None, "folder"),
        ("C:\\scans\\p1\\a.png", None, "C:/scans/p1"),
        ("/a.png", None, None),
        ("./a.png", None, None),
        ("x" * 999 + "patient1_", r"(?P<group>patient1)_", None),
        ("a.png", r"^(?P<group>z)?a", None),
    ],
)
def test_a_series_is_a_group_in_the_name_or_a_folder(path, pattern, series):
    assert find_series(b"not DICOM", path, pattern) == series


def test_without_series_the_list_is_empty(client, picture):
    response = client.post("/predict?series=true", data=picture(), content_type="image/png")
    assert response.json["series"] == []
    assert (response.json["images"][0]["series"], response.json["images"][0]["file"]) == (None, "")


GOOD = {"series": "a", "probabilities": {"adenocarcinoma": 0.25, "normal": 0.75}}


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, {"images": []}, {"images": [{}]}, {"images": [1]}),
        {"images": [GOOD | {"series": 7}]},
        {"images": [GOOD | {"probabilities": {"normal": 1.0}}]},
        {"images": [GOOD | {"probabilities": {"adenocarcinoma": 0.25, "other": 0.75}}]},
        {"images": [GOOD | {"probabilities": {"adenocarcinoma": 0.5, "normal": 0.75}}]},
        {"images": [GOOD | {"probabilities": {"adenocarcinoma": -0.5, "normal": 1.5}}]},
        {"images": [GOOD, {"series": "a"}]},
    ],
)
def test_results_of_another_form_are_refused(client, content):
    assert client.post("/series", json={"images": [GOOD]}).status_code == 200
    assert error_of(client.post("/series", json=content)) == (400, "bad_series")


def test_a_long_list_of_results_is_refused(tiny_bundle):
    client = create_app(make_config(tiny_bundle, max_upload_bytes=2_000_000)).test_client()
    assert client.post("/series", json={"images": [GOOD] * 10_000}).status_code == 200
    response = client.post("/series", json={"images": [GOOD] * 10_001})
    assert error_of(response) == (400, "bad_series")
    response = client.post("/series", data=b" " * 2_000_001)
    assert error_of(response) == (413, "too_large")
    assert error_of(client.post("/series", data=b"{")) == (400, "bad_series")
