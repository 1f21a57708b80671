import os
import signal
import subprocess
import sys

import pytest
import yaml

from cnnClassifier.serving import training_jobs
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.auth import create_token, parse_tokens
from cnnClassifier.serving.errors import RequestError
from cnnClassifier.serving.training_jobs import TrainingJobs
from tests.serving.client import error_of, make_config
from tests.waiting import PATIENCE_S, until

PRINT_SECRETS = """
import os
print('one\\rtwo')
print('https://jane:hunter2@example.org/', repr(os.environ['API_TOKENS']))
print(os.environ['DAGSHUB_USER_TOKEN'])
raise SystemExit(3)
"""
WAIT = "import time; time.sleep(3600)"


@pytest.fixture
def make_jobs(tmp_path):
    created = []

    def make(script):
        jobs = TrainingJobs(tmp_path, tmp_path / "jobs", (sys.executable, "-c", script))
        created.append(jobs)
        return jobs

    yield make
    for jobs in created:
        jobs.stop()


@pytest.fixture
def make_client(tmp_path):
    """Make a client that sends a token."""

    def make(jobs, may_train=True):
        token, entry = create_token("someone", may_train)
        tokens = parse_tokens(entry)
        client = create_app(make_config(tmp_path), tokens=tokens, jobs=jobs).test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return client

    return make


def wait_for_end(jobs, job_id):
    until(lambda: jobs.get(job_id).state != "running")
    return jobs.get(job_id)


def test_a_job_is_started_and_followed_without_secrets(
    make_jobs, make_client, tmp_path, monkeypatch
):
    monkeypatch.setenv("API_TOKENS", "secret-entry")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "tok-123456")
    jobs = make_jobs(PRINT_SECRETS)
    client = make_client(jobs)
    response = client.post("/train")
    assert (response.status_code, response.json["state"]) == (202, "running")
    job = wait_for_end(jobs, response.json["id"])
    status = client.get(response.headers["Location"]).json
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert status["finished"] >= status["started"]
    assert status["log"] == ["one", "two", "https://example.org/ ''", "***"]
    restarted = TrainingJobs(tmp_path, tmp_path / "jobs")
    assert restarted.get(job.id) == job


def test_one_job_runs_at_a_time_and_ends_with_the_server(
    make_jobs, make_client, tmp_path, monkeypatch
):
    # So that SIGTERM is enough on a busy machine.
    monkeypatch.setattr(training_jobs, "STOP_TIMEOUT_S", PATIENCE_S)
    jobs = make_jobs(WAIT)
    client = make_client(jobs)
    first = client.post("/train").json["id"]
    second = client.post("/train")
    assert error_of(second) == (409, "already_running")
    assert first in second.json["error"]["message"]
    assert second.headers["Location"] == f"/train/{first}"
    restarted = TrainingJobs(tmp_path, tmp_path / "jobs")
    assert restarted.get(first).state == "failed"  # it was stopped with the earlier server
    process_group = jobs._process.pid
    jobs.stop()
    assert wait_for_end(jobs, first).exit_code == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(process_group, 0)
    assert client.post("/train").status_code == 202


def test_training_requires_a_token_with_the_permission(make_jobs, make_client, tmp_path):
    jobs = make_jobs("")
    reader = make_client(jobs, may_train=False)
    for response in (reader.post("/train"), reader.get("/train/20260101-000000-abcdef")):
        assert error_of(response) == (403, "no_right")
    anonymous = create_app(make_config(tmp_path), jobs=jobs).test_client()
    assert error_of(anonymous.post("/train")) == (403, "training_off")
    assert error_of(anonymous.get("/train")) == (405, "method_not_allowed")
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    "identifier", ["20260101-000000-abcdef", "..%2f..%2fetc", "x", "%00", "٢٠٢٦٠١٠١-٠٠٠٠٠٠-abcdef"]
)
def test_unknown_jobs_are_not_found(make_jobs, make_client, identifier):
    assert make_client(make_jobs("")).get(f"/train/{identifier}").status_code == 404


def test_an_installation_that_cannot_train_says_so(make_client, tmp_path, monkeypatch):
    jobs = TrainingJobs(tmp_path, tmp_path / "jobs")
    with pytest.raises(RequestError, match=r"no dvc\.yaml"):
        jobs.start()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert error_of(make_client(jobs).post("/train")) == (501, "training_unavailable")


def test_the_log_tail_is_limited(make_jobs):
    jobs = make_jobs("print('x' * 5000); [print(f'line {number}' * 50) for number in range(5000)]")
    job = wait_for_end(jobs, jobs.start().id)
    tail = jobs.log_tail(job.id)
    assert (job.state, len(tail), tail[-1][:9]) == ("succeeded", 100, "line 4999")


@pytest.mark.slow
def test_a_job_runs_dvc_repro_with_the_python_of_the_server(tmp_path):
    dvc_init = [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"]
    subprocess.run(dvc_init, cwd=tmp_path, check=True)
    command = (
        "python -c \"import sys; print('run by', sys.prefix); open('model', 'w').write('new')\""
    )
    stages = {"stages": {"train": {"cmd": command, "outs": ["model"]}}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(stages))
    jobs = TrainingJobs(tmp_path, tmp_path / "jobs")
    job = wait_for_end(jobs, jobs.start().id)
    assert f"run by {sys.prefix}" in jobs.log_tail(job.id)
    assert (job.state, job.exit_code) == ("succeeded", 0)
    assert (tmp_path / "model").read_text() == "new"
