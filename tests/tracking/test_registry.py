import shutil
from pathlib import Path

import pytest

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.tracking.connection import TrackingError
from cnnClassifier.tracking.model_poller import ModelPoller, parse_reference
from cnnClassifier.tracking.registry import promote, rollback
from cnnClassifier.tracking.runs import start_run
from cnnClassifier.utils.errors import UserError
from tests.mlflow_server import runs_of


@pytest.fixture
def config(project, local):
    """Return the local database by its absolute path: MLflow keeps a store for each address."""
    return local.model_copy(update={"uri": f"sqlite:///{project / 'mlflow.db'}"})


@pytest.fixture
def log_evaluated(config, write_bundle, tmp_path):
    """Log a bundle as an evaluated run; return the ids of run and model."""

    def log(number, unmet="none"):
        bundle = write_bundle(tmp_path / f"bundle{number}", slope=2.0 + number)
        tags = {
            "gates_not_met": unmet,
            "gate.min_roc_auc": "ROC AUC is 0.600; at least 0.7 is required.",
            "model_sha256": ModelBundle.read(bundle).model_sha256,
        }
        with start_run(config, "r", tags) as run:
            run.log_model(bundle)
        return run.id, tags["model_sha256"][:12]

    return log


def test_promotion_and_rollback_change_the_served_model(config, log_evaluated, project):
    poller = ModelPoller("models:/chest-ct@production", config.uri, project / "cache")
    with pytest.raises(TrackingError, match="models:/chest-ct@production at sqlite"):
        poller.fetch()
    with pytest.raises(TrackingError, match="has no registry of models, or no such run or version"):
        promote(config, None, False, "")
    assert not poller.folder.exists()
    first, first_id = log_evaluated(0)
    second, second_id = log_evaluated(1)
    third, third_id = log_evaluated(2, "min_roc_auc")

    def served():
        poller.fetch()
        assert not poller.fetch()  # only when the alias has moved
        assert list(poller.folder.parent.iterdir()) == [poller.folder]
        return ModelBundle.read(poller.folder).model_id

    assert promote(config, first, False, "") == "1"
    assert served() == first_id
    promote(config, second, False, "better")
    assert served() == second_id
    message = r"isn't promoted: ROC AUC is 0\.600; at least 0\.7 is required\. "
    with pytest.raises(TrackingError, match=message):
        promote(config, third, False, "")
    assert promote(config, third, True, "a demonstration") == "3"
    assert promote(config, third, True, "again") == "3"
    assert served() == third_id
    client, _ = runs_of(config)
    tags = client.get_model_version("chest-ct", "3").tags
    assert (tags["promoted_because"], tags["forced"]) == ("a demonstration", "True")
    assert rollback(config, "it was one") == "2"
    assert served() == second_id
    assert rollback(config, "") == "1"
    assert served() == first_id
    tags = client.get_model_version("chest-ct", "3").tags
    assert tags["rolled_back_because"] == "it was one"
    with pytest.raises(TrackingError, match="no version was in production before"):
        rollback(config, "")


def test_a_run_without_model_or_gates_is_not_promoted(config):
    with start_run(config, "r", {}) as run:
        pass
    with pytest.raises(TrackingError, match="has not been evaluated"):
        promote(config, run.id, False, "")
    with pytest.raises(TrackingError, match="has no model"):
        promote(config, run.id, True, "anyway")
    with pytest.raises(TrackingError, match=f"{'0' * 32}: no such run in sqlite"):
        promote(config, "0" * 32, False, "")


def test_the_candidate_is_the_model_of_the_latest_run(config, log_evaluated):
    from cnnClassifier.tracking.registry import register_candidate
    from cnnClassifier.tracking.store import connect

    first, second = log_evaluated(0)[0], log_evaluated(1)[0]
    with connect(config) as store:
        for run_id in (second, first):
            register_candidate(store, run_id, "chest-ct")
        assert store.client.get_model_version_by_alias("chest-ct", "candidate").run_id == second


def test_a_model_that_is_not_the_logged_one_is_not_served(config, log_evaluated, project):
    (first, first_id), (second, _) = log_evaluated(0), log_evaluated(1)
    promote(config, first, False, "")
    poller = ModelPoller("models:/chest-ct@production", config.uri, project / "cache")
    poller.fetch()
    (model_dir,) = (project / "mlruns").rglob(f"{second}/artifacts/model")
    for name in ("model.keras", "model.json"):
        shutil.copyfile(project / "bundle0" / name, model_dir / name)
    promote(config, second, False, "")
    with pytest.raises(TrackingError, match="its sha256"):
        poller.fetch()
    assert ModelBundle.read(poller.folder).model_id == first_id
    assert ModelPoller(f"runs:/{first}", config.uri, project / "cache").fetch()


def test_references():
    assert parse_reference("models:/chest-ct@production")["alias"] == "production"
    assert parse_reference("models:/chest-ct/12")["version"] == "12"
    pollers = [ModelPoller(f"models:/{name}", "http://a", Path()) for name in ("a-b@c", "a@b-c")]
    assert pollers[0].folder != pollers[1].folder
    assert (
        parse_reference("runs:/abc1/model") == parse_reference("runs:/abc1") == {"run_id": "abc1"}
    )
    for wrong in ("models:/chest-ct", "models:/a/latest", "runs:/", "runs:/a/b"):
        with pytest.raises(UserError, match="expected models:/NAME@ALIAS"):
            parse_reference(wrong)
