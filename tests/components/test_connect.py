"""The command connect, with a server on loopback and the real configuration files of DVC."""

import json
import os
import stat
import subprocess
import sys

import git
import pytest
import yaml

from cnnClassifier.components.connect import Connect
from cnnClassifier.tracking.connection import credentials
from cnnClassifier.utils.errors import UserError
from tests.loopback import Site, serving
from tests.project import ROOT, write_project
from tests.waiting import PATIENCE_S

TOKEN = "0123456789abcdef"
USER = json.dumps({"username": "ann", "login": "ann"}).encode()


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch, dvc_repo):
    """A project in git and DVC, without credentials."""
    for name in list(os.environ):
        if name.startswith(("DAGSHUB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 - nobody is at the terminal
    git.Repo.init(tmp_path).close()
    dvc_repo.init(str(tmp_path)).close()
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    (tmp_path / "config/config.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def dagshub(monkeypatch):
    """A host that knows the token's user, which is set."""
    with serving(Site(USER)) as site:
        site.url = site.url.rpartition("/")[0]
        monkeypatch.setenv("DAGSHUB_CLIENT_HOST", site.url)
        monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
        yield site


@pytest.fixture
def connect(project):
    return Connect(project / "config/config.yaml").run


@pytest.fixture
def error_of(connect, project):
    """Return the message of an error, after which all files are as before."""

    def run(*words):
        before = {path: path.read_bytes() for path in project.glob("*[!g]*/config*")}
        with pytest.raises(UserError) as raised:
            connect(*words)
        assert {path: path.read_bytes() for path in project.glob("*[!g]*/config*")} == before
        assert "\n" not in str(raised.value)
        assert TOKEN not in str(raised.value)
        return str(raised.value)

    return run


def changed_lines(project):
    before = (ROOT / "config/config.yaml").read_text(encoding="utf-8").splitlines()
    after = (project / "config/config.yaml").read_text(encoding="utf-8").splitlines()
    return [new.strip() for old, new in zip(before, after, strict=True) if old != new]


def test_dagshub_gets_the_runs_and_is_the_storage_of_dvc(connect, dagshub, project, dvc_repo):
    (project / ".dvc/config").write_text("[core]\n    analytics = false\n")
    secrets = connect("dagshub", "ann/birds")
    assert dagshub.authorization == [f"Bearer {TOKEN}"]
    assert changed_lines(project) == [f"mlflow_uri: {dagshub.url}/ann/birds.mlflow"]
    with dvc_repo(str(project)) as repo:
        assert repo.config["core"] == repo.config["core"] | {
            "remote": "dagshub",
            "analytics": False,
        }
        remote = repo.config["remote"]["dagshub"]
    assert remote["url"] == f"{dagshub.url}/ann/birds.dvc"
    assert (remote["auth"], remote["user"], remote["password"]) == ("basic", "ann", TOKEN)
    local = project / ".dvc/config.local"
    assert stat.S_IMODE(local.stat().st_mode) == 0o600
    assert TOKEN not in (project / ".dvc/config").read_text()
    tracked = git.Repo(project).git.ls_files("--others", "--exclude-standard", "--cached")
    assert ".dvc/config.local" not in tracked
    assert secrets.keys() == {"MLFLOW_TRACKING_URI", "DAGSHUB_USER_TOKEN"}
    assert TOKEN not in str(secrets)


def test_runs_use_the_token_that_connect_has_stored(connect, dagshub, monkeypatch):
    uri = f"{dagshub.url}/ann/birds.mlflow"
    connect("dagshub", "ann/birds")
    monkeypatch.delenv("DAGSHUB_USER_TOKEN")
    assert credentials(uri)["MLFLOW_TRACKING_PASSWORD"] == TOKEN
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="connect dagshub USER/REPO"):
        credentials("http://127.0.0.1:9/ann/birds.mlflow")  # another host gets no token


def test_an_older_file_with_credentials_becomes_private(connect, dagshub, project):
    local = project / ".dvc/config.local"
    local.write_text("['remote \"other\"']\n    url = https://there.org\n    password = x\n")
    local.chmod(0o644)
    for _ in range(2):
        connect("dagshub", "ann/birds")
    assert stat.S_IMODE(local.stat().st_mode) == 0o600
    assert "other" in local.read_text()


@pytest.mark.parametrize(
    ("statuses", "address", "message"),
    [
        ([401], "ann/birds", "the token is refused (401); create another one at"),
        ([503], "ann/birds", "HTTP Error 503"),
        ([], "birds", "expected USER/REPO"),
        ([], "https://dagshub.com/ann/birds", "expected USER/REPO"),
        ([], "../birds", "expected USER/REPO"),
    ],
)
def test_errors_of_dagshub_change_nothing(error_of, dagshub, statuses, address, message):
    dagshub.statuses = statuses
    assert message in error_of("dagshub", address)


def test_a_host_that_answers_otherwise_or_not_at_all(error_of, dagshub, monkeypatch):
    dagshub.content = b"<html>"
    assert "check the network" in error_of("dagshub", "ann/birds")
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "http://127.0.0.1:9")
    assert "Connection refused" in error_of("dagshub", "ann/birds")


def test_without_a_token_nothing_waits_for_a_browser(error_of, dagshub, monkeypatch):
    def get_token(host, fail_if_no_token=False):
        assert fail_if_no_token, "this would open a browser"
        raise RuntimeError("No valid tokens found")

    monkeypatch.setattr("dagshub.auth.get_token", get_token)
    monkeypatch.delenv("DAGSHUB_USER_TOKEN")
    message = error_of("dagshub", "ann/birds")
    assert "run `dagshub login`, or set DAGSHUB_USER_TOKEN" in message
    assert dagshub.requested == []


def test_a_folder_without_dvc_or_git_is_refused(error_of, dagshub, project, monkeypatch):
    (project / ".dvc/config").write_text("['remote \"x\"']\n    password = x\n")
    assert "expected 'url'" in error_of("dagshub", "ann/birds")
    (project / ".dvc/config").write_text("")
    (project / ".dvc/.gitignore").unlink()
    assert "git doesn't ignore .dvc/config.local" in error_of("dagshub", "ann/birds")
    (project / ".git").rename(project / "no-git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert "run `git init` first" in error_of("dagshub", "ann/birds")
    (project / ".dvc").rename(project / "no-dvc")
    assert "no folder .dvc here" in error_of("dagshub", "ann/birds")


def test_an_mlflow_server(connect, error_of, project):
    with serving(Site(b"OK")) as site:
        url = site.url.rpartition("/")[0]
        secrets = connect("mlflow", url)
    assert changed_lines(project) == [f"mlflow_uri: {url}"]
    assert secrets["MLFLOW_TRACKING_URI"] == url
    assert "MLFLOW_TRACKING_PASSWORD" in secrets
    assert not (project / ".dvc/config.local").exists()
    assert "refused" in error_of("mlflow", "http://127.0.0.1:9")
    assert "expected http://HOST:PORT" in error_of("mlflow", "sqlite:///mlflow.db")
    message = error_of("mlflow", f"http://ann:{TOKEN}@127.0.0.1:9")
    assert "leave out user and password" in message


@pytest.mark.slow
def test_the_command_takes_the_stored_login_and_prints_the_secrets(project, dagshub, tmp_path):
    """In a process of its own: the package reads its settings when it is imported."""
    cache = tmp_path / "tokens"
    token = {"token_type": "app-token", "access_token": TOKEN, "expiry": "never"}
    cache.write_text(yaml.safe_dump({"version": "1", dagshub.url: [token]}))
    environment = {
        **os.environ,
        "DAGSHUB_CLIENT_TOKENS_CACHE": str(cache),
        "DAGSHUB_CLIENT_HOST": dagshub.url,
    }
    del environment["DAGSHUB_USER_TOKEN"]
    command = [sys.executable, str(ROOT / "main.py"), "connect", "dagshub", "ann/birds"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "DAGSHUB_USER_TOKEN        a token from" in done.stderr
    assert TOKEN not in done.stderr + done.stdout
    assert TOKEN not in (project / "logs/running.log").read_text(encoding="utf-8")
    assert f"password = {TOKEN}" in (project / ".dvc/config.local").read_text()
