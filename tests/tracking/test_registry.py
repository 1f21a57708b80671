import shutil

import pytest

from cnnClassifier.entity.bundle import BUNDLE_FILES, ModelBundle
from cnnClassifier.tracking.connection import TrackingError
from cnnClassifier.tracking.model_poller import ModelPoller, Reference
from cnnClassifier.tracking.registry import Registry
from cnnClassifier.utils.errors import UserError


@pytest.fixture
def here(place, local):
    """The local store by its whole path: MLflow keeps a store for each address."""
    return local.model_copy(update={"uri": f"sqlite:///{place / 'mlflow.db'}"})


@pytest.fixture
def registry(here):
    return Registry(here, print)


@pytest.fixture
def logged(registry, write_bundle, tmp_path):
    """Log a bundle as an evaluated run; return the run's id and the bundle's."""
    store, count = registry._store, iter(range(100))

    def log(unmet="none"):
        number = next(count)
        bundle = write_bundle(tmp_path / f"bundle{number}", slope=2.0 + number)
        sha256 = ModelBundle.read(bundle).model_sha256
        tags = {
            "gates_not_met": unmet,
            "gate.min_roc_auc": "ROC AUC is 0.600; at least 0.7 is asked for.",
        }
        store.write(
            [{"what": "open", "run": number, "name": "r", "tags": tags | {"model_sha256": sha256}}]
        )
        for name in BUNDLE_FILES:
            store.client.log_artifact(store.run_ids[number], str(bundle / name), "model")
        return store.run_ids[number], sha256[:12]

    return log


def test_promotion_and_rollback_move_what_is_served(registry, logged, here, place):
    (first, first_id), (second, second_id), (third, third_id) = (
        logged(),
        logged(),
        logged("min_roc_auc"),
    )
    follower = ModelPoller("models:/chest-ct@production", here.uri, place / "cache")
    with pytest.raises(TrackingError, match="models:/chest-ct@production at sqlite"):
        follower.fetch()
    with pytest.raises(TrackingError, match="has no registry of models, or no such run or version"):
        registry.promote(None, False, "")
    assert not follower.folder.exists()

    def served():
        follower.fetch()
        assert not follower.fetch()  # only when it moved
        assert sorted(path.name for path in follower.folder.parent.iterdir()) == [
            follower.folder.name
        ]
        return ModelBundle.read(follower.folder).model_id

    assert registry.promote(first, False, "") == "1"
    assert served() == first_id
    registry.promote(second, False, "better")
    assert served() == second_id
    with pytest.raises(
        TrackingError, match=r"isn't promoted: ROC AUC is 0\.600; at least 0\.7 is asked for\. "
    ):
        registry.promote(third, False, "")
    assert registry.promote(third, True, "a demonstration") == "3"
    assert registry.promote(third, True, "again") == "3"
    assert served() == third_id
    tags = registry._client.get_model_version("chest-ct", "3").tags
    assert (tags["promoted_because"], tags["forced"]) == ("a demonstration", "True")
    assert registry.rollback("it was one") == "2"
    assert served() == second_id
    assert registry.rollback("") == "1"
    assert served() == first_id
    assert (
        registry._client.get_model_version("chest-ct", "3").tags["rolled_back_because"]
        == "it was one"
    )
    with pytest.raises(TrackingError, match="no version was in production before"):
        registry.rollback("")


def test_what_has_no_model_or_no_gates_is_not_promoted(registry, here):
    registry._store.write([{"what": "open", "run": 0, "name": "r", "tags": {}}])
    run_id = registry._store.run_ids[0]
    with pytest.raises(TrackingError, match="has not been evaluated"):
        registry.promote(run_id, False, "")
    with pytest.raises(TrackingError, match="has no model"):
        registry.promote(run_id, True, "anyway")


def test_a_model_that_is_not_what_was_logged_is_not_served(registry, logged, here, place):
    (first, first_id), (second, _) = logged(), logged()
    registry.promote(first, False, "")
    follower = ModelPoller("models:/chest-ct@production", here.uri, place / "cache")
    follower.fetch()
    (stored,) = (place / "mlruns").rglob(f"{second}/artifacts/model")
    shutil.copyfile(place / "bundle0/model.keras", stored / "model.keras")
    registry.promote(second, False, "")
    with pytest.raises(TrackingError, match="its sha256"):
        follower.fetch()
    assert ModelBundle.read(follower.folder).model_id == first_id
    assert ModelPoller(f"runs:/{first}", here.uri, place / "cache").fetch()


def test_references():
    assert Reference.parse("models:/chest-ct@production").alias == "production"
    assert Reference.parse("models:/chest-ct/12").version == "12"
    assert (
        Reference.parse("runs:/abc1/model").run_id == Reference.parse("runs:/abc1").run_id == "abc1"
    )
    for wrong in ("models:/chest-ct", "models:/a/latest", "runs:/", "runs:/a/b"):
        with pytest.raises(UserError, match="expected models:/NAME@ALIAS"):
            Reference.parse(wrong)
