import pytest

from cnnClassifier.components.feedback import Feedback
from cnnClassifier.entity.config_entity import FeedbackConfig
from cnnClassifier.entity.feedback import FeedbackFolder
from cnnClassifier.utils.errors import UserError
from tests.archives import read_files
from tests.entity.test_feedback_folder import record_of

IMAGES = [b"image %d" % n for n in range(4)]
IDS = [record_of(image).id for image in IMAGES]


@pytest.fixture
def received(tmp_path):
    """Store an image flagged as two classes, and three others."""
    folder = FeedbackFolder(tmp_path / "received")
    folder.add(record_of(IMAGES[0], "adenocarcinoma", predicted="normal"), IMAGES[0], 10**6)
    for image in IMAGES:
        folder.add(record_of(image), image, 10**6)
    return folder


@pytest.fixture
def feedback(tmp_path, received):
    return Feedback(FeedbackConfig(received_dir=received.path, accepted_dir=tmp_path / "accepted"))


def exported(tmp_path):
    return set(read_files(tmp_path / "accepted"))


def statuses(folder):
    return {(IDS.index(record.id), record.label): record.status for record in folder.records()}


def test_only_what_is_accepted_is_exported(tmp_path, feedback, received):
    summary = feedback.summary()
    assert summary.startswith("5 pending, 0 accepted, 0 rejected\n")
    assert f"{IDS[1][:12]} 2026-01-31T12:00:00+00:00 adenocarcinoma 0.75" in summary
    assert len(feedback.accept([IDS[1][:8], IDS[2]])) == 2
    assert len(feedback.reject([IDS[3]])) == 1
    assert exported(tmp_path) == {f"normal/{IDS[n]}.png" for n in (1, 2)}
    assert read_files(tmp_path / "accepted")[f"normal/{IDS[1]}.png"] == IMAGES[1]
    images = {path.name for path in received.path.glob("*.png")}
    assert images == {f"{IDS[0]}.png"}  # of the one that is still pending
    assert not received.add(record_of(IMAGES[3]), IMAGES[3], 10**6)  # it isn't reviewed again
    assert statuses(received) == {
        (0, "normal"): "pending",
        (0, "adenocarcinoma"): "pending",
        (1, "normal"): "accepted",
        (2, "normal"): "accepted",
        (3, "normal"): "rejected",
    }
    assert len(feedback.reject(["all"])) == 2
    assert feedback.summary() == "0 pending, 2 accepted, 3 rejected"
    assert exported(tmp_path) == {f"normal/{IDS[n]}.png" for n in (1, 2)}
    feedback.reject([IDS[2]])  # it is withdrawn
    assert exported(tmp_path) == {f"normal/{IDS[1]}.png"}


def test_an_image_is_exported_with_one_class_the_latest(tmp_path, feedback, received):
    name = IDS[0][:12]
    for ids in (["all"], [name]):
        with pytest.raises(UserError, match=f"{name} was flagged as .* such as --accept {name}:"):
            feedback.accept(ids)
    assert exported(tmp_path) == set()
    feedback.accept([f"{name}:normal"])
    assert exported(tmp_path) == {f"normal/{IDS[0]}.png"}
    feedback.accept([f"{name}:adenocarcinoma"])
    assert exported(tmp_path) == {f"adenocarcinoma/{IDS[0]}.png"}
    found = statuses(received)
    assert (found[0, "normal"], found[0, "adenocarcinoma"]) == ("rejected", "accepted")
    assert not (received.path / f"{IDS[0]}.png").exists()


def test_an_error_says_what_to_correct(tmp_path, feedback, received):
    for text, message in (
        ("f00d", "f00d: no pending image has this ID"),
        (f"{IDS[1]}:ill", "no pending image has this ID"),
        ("", "several images have this ID"),
    ):
        with pytest.raises(UserError, match=message):
            feedback.accept([text])
    (received.path / f"{IDS[1]}.png").unlink()
    with pytest.raises(UserError, match="No such file"):
        feedback.accept([IDS[1]])
    config = {"received_dir": received.path, "accepted_dir": tmp_path}
    for missing, key in (("received_dir", "serving"), ("accepted_dir", "data_ingestion")):
        with pytest.raises(UserError, match=rf"{key}\.feedback_dir is null"):
            Feedback(FeedbackConfig(**(config | {missing: None})))
