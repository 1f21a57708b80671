import os
import signal
import subprocess
import sys

import pytest
import yaml

from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.tokens import new_token, read_tokens
from cnnClassifier.serving.training_jobs import Jobs, JobsError
from tests.waiting import PATIENCE_S, until

QUICK = "print('one\\rtwo'); print('https://jane:hunter2@example.org/', __import__('os').environ.get('API_TOKENS'))"
SLOW = "import time; print('at work', flush=True); time.sleep(3600)"


@pytest.fixture
def make_jobs(tmp_path):
    made = []

    def make(script):
        made.append(Jobs(tmp_path, tmp_path / "jobs", (sys.executable, "-c", script)))
        return made[-1]

    yield make
    for jobs in made:
        jobs.stop()


@pytest.fixture
def make_client(tmp_path):
    """Make a client whose default token has the given rights."""

    def make(jobs, may_train=True):
        token, entry = new_token("someone", may_train)
        config = ServingConfig(
            bundle_dir=tmp_path,
            host="127.0.0.1",
            port=0,
            max_upload_bytes=10_000,
            max_pixels=10_000,
        )
        client = create_app(config, tokens=read_tokens(entry), jobs=jobs).test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        return client

    return make


def ended(jobs, identifier):
    until(lambda: jobs.get(identifier).state != "running")
    return jobs.get(identifier)


def test_a_training_is_started_once_and_followed(make_jobs, make_client, monkeypatch):
    monkeypatch.setenv("API_TOKENS", "secret-entry")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "tok-123456")
    jobs = make_jobs(QUICK + "; print('tok-123456'); raise SystemExit(3)")
    client = make_client(jobs)
    answer = client.post("/train")
    assert (answer.status_code, answer.json["state"]) == (202, "running")
    where = answer.headers["Location"]
    job = ended(jobs, answer.json["id"])
    status = client.get(where).json
    assert (status["state"], status["exit_code"], status["finished"] >= status["started"]) == (
        "failed",
        3,
        True,
    )
    assert status["log"] == ["one", "two", "https://***@example.org/ None", "***"]
    again = Jobs(jobs._root, jobs._log_dir)  # another start of the server
    assert again.get(job.id) == job


def test_one_at_a_time_and_it_ends_with_the_server(make_jobs, make_client, monkeypatch):
    monkeypatch.setattr(
        "cnnClassifier.serving.training_jobs._PATIENCE_S", PATIENCE_S
    )  # so that SIGTERM is enough on a busy machine
    jobs = make_jobs(SLOW)
    client = make_client(jobs)
    first = client.post("/train").json["id"]
    second = client.post("/train")
    assert (second.status_code, second.json["error"]["code"]) == (409, "already_running")
    assert first in second.json["error"]["message"]
    assert second.headers["Location"] == f"/train/{first}"
    group = jobs._process.pid
    assert (
        Jobs(jobs._root, jobs._log_dir).get(first).state == "failed"
    )  # to a server that starts anew it isn't running
    jobs.stop()
    assert ended(jobs, first).exit_code == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert client.post("/train").status_code == 202


def test_only_a_token_with_the_right_may_train(make_jobs, make_client, tmp_path):
    jobs = make_jobs(QUICK)
    reader = make_client(jobs, may_train=False)
    for answer in (reader.post("/train"), reader.get("/train/20260101-000000-abcdef")):
        assert (answer.status_code, answer.json["error"]["code"]) == (403, "no_right")
    open_to_all = create_app(
        ServingConfig(
            bundle_dir=tmp_path, host="127.0.0.1", port=0, max_upload_bytes=1, max_pixels=1
        ),
        jobs=jobs,
    ).test_client()
    answer = open_to_all.post("/train")
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "training_off")
    hint = open_to_all.get("/train")
    assert (hint.status_code, hint.headers["Allow"], "POST" in hint.json["error"]["message"]) == (
        405,
        "POST",
        True,
    )
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    "identifier", ["20260101-000000-abcdef", "..%2f..%2fetc", "x", "%00", "٢٠٢٦٠١٠١-٠٠٠٠٠٠-abcdef"]
)
def test_jobs_that_are_none_are_not_found(make_jobs, make_client, identifier):
    answer = make_client(make_jobs(QUICK)).get(f"/train/{identifier}")
    assert answer.status_code == 404


def test_where_nothing_can_be_trained_it_says_so(make_client, tmp_path, monkeypatch):
    jobs = Jobs(tmp_path, tmp_path / "jobs")
    with pytest.raises(JobsError, match=r"no dvc\.yaml"):
        jobs.start()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for client in (make_client(jobs), make_client(None)):
        answer = client.post("/train")
        assert (answer.status_code, answer.json["error"]["code"]) == (501, "training_unavailable")


def test_the_tail_is_short_however_long_the_log(make_jobs):
    jobs = make_jobs("print('x' * 5000); [print(f'line {number}' * 50) for number in range(5000)]")
    job = ended(jobs, jobs.start().id)
    tail = jobs.tail(job.id)
    assert (job.state, len(tail), tail[-1][:9]) == ("succeeded", 100, "line 4999")


@pytest.mark.slow
def test_a_job_runs_the_stages_of_dvc_with_the_servers_own_python(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True
    )
    stage = "python -c \"import sys; print('run by', sys.prefix); open('model', 'w').write('new')\""
    (tmp_path / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"train": {"cmd": stage, "outs": ["model"]}}})
    )
    jobs = Jobs(tmp_path, tmp_path / "jobs")
    job = ended(jobs, jobs.start().id)
    tail = jobs.tail(job.id)
    assert (job.state, job.exit_code) == ("succeeded", 0), tail
    assert f"run by {sys.prefix}" in tail
    assert (tmp_path / "model").read_text() == "new"
