import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cnnClassifier.entity.config_entity import Between, Choice
from cnnClassifier.tuning.study import SharedStudy, finished_trials
from cnnClassifier.utils.errors import UserError
from tests.waiting import PATIENCE_S, reserved_port, until

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "rate": Between(0.0001, 0.01, True, None, False),
    "fraction": Between(0.0, 0.6, False, 0.1, False),
    "size": Between(2, 8, False, 2, True),
    "head": Choice(("a", "b")),
    "block": Choice((None,)),
}
FINITE = {
    "fraction": Between(0.0, 0.1, False, 0.1, False),
    "size": Between(2, 4, False, None, True),
    "head": Choice(("a", "b")),
}
FIRST = {"rate": 0.001, "fraction": 0.3, "size": 4, "head": "b", "block": None, "other": 1}
URLS = ("sqlite:///{}/study.db", "journal:///{}/study.log")
POSTGRESQL = "postgresql"
PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=str)  # Debian's


@pytest.fixture(params=URLS)
def open_study(request, tmp_path):
    """Open the study of this test, as each process does."""
    if request.param == POSTGRESQL:
        url = request.getfixturevalue("postgresql")
    else:
        url = request.param.format(tmp_path)

    def open_(name="a", space=SPACE, stale_after_s=60.0, first=FIRST):
        return SharedStudy(url, name, True, space, first, 1, stale_after_s)

    open_.url = url
    return open_


@pytest.fixture
def postgresql():
    """Run a PostgreSQL of our own with a password; return the URL of its database.

    It refuses to run as root, and is then run as its own user; so its folder isn't in pytest's.
    """
    pytest.importorskip("psycopg")
    if PROGRAMS is None:
        pytest.skip("PostgreSQL isn't installed")
    is_root = os.geteuid() == 0
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if is_root else []
    with tempfile.TemporaryDirectory() as folder, reserved_port() as port:
        data = Path(folder) / "data"
        password = Path(folder) / "password"
        password.write_text("secret", encoding="utf-8")
        if is_root:
            shutil.chown(folder, "postgres")
            shutil.chown(password, "postgres")
        command = [*user, PROGRAMS / "initdb", "-D", data, "-U", "me", "-A", "scram-sha-256"]
        subprocess.run(
            [*command, "--no-sync", f"--pwfile={password}"], check=True, capture_output=True
        )
        options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        command = [*user, PROGRAMS / "postgres", "-D", data]
        command += [f"--{name}={value}" for name, value in options.items()]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                until(lambda: answers(port) or server.poll() is not None)
                yield f"postgresql://me:secret@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)  # without waiting for its clients


def answers(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S):
        return True
    return False


def loss(params):
    return params["fraction"] + params.get("rate", 0) + params["size"] * (params["head"] == "a")


def evaluate(trial):
    trial.report(loss(trial.params), 5)  # the first epochs prune nothing
    return None if trial.should_prune() else loss(trial.params)


def search(study, max_trials):
    """Do trials, and return the parameters of all that are finished."""
    study.run(evaluate, max_trials, time.monotonic() + PATIENCE_S)
    return [trial.params for trial in finished_trials(study.study)]


def interrupt(trial):
    raise KeyboardInterrupt


def test_an_interrupted_search_tries_the_same_as_another_one(open_study):
    whole = search(open_study("whole"), 12)  # from the eleventh on by TPE
    assert search(open_study("parts"), 3) == whole[:3]
    with pytest.raises(KeyboardInterrupt):
        open_study("parts").run(interrupt, 12, time.monotonic() + PATIENCE_S)
    assert search(open_study("parts"), 12) == whole
    assert search(open_study("parts"), 12) == whole
    assert whole[0] == {name: FIRST[name] for name in SPACE}
    assert all(params["rate"] == float(f"{params['rate']:.3g}") for params in whole)
    assert search(open_study("other", first=FIRST | {"head": "c"}), 1) != whole[:1]


def test_a_small_space_is_searched_completely_and_nothing_twice(open_study):
    study = open_study(space=FINITE)
    assert study.size == 2 * 3 * 2
    tried = search(study, study.size)
    assert len({tuple(params.items()) for params in tried}) == len(tried) == study.size


def test_a_trial_that_another_process_took_over_counts_once(open_study, monkeypatch):
    # Without heartbeats, as if the process were dead.
    monkeypatch.setattr(SharedStudy, "_send_heartbeats", lambda self, trial, stop: None)
    other = open_study(stale_after_s=0.2)
    taken_over = []

    def evaluate_slowly(trial):
        taken_over.append(trial.params in search(other, 2))
        return 0.5

    open_study(stale_after_s=0.2).run(evaluate_slowly, 2, time.monotonic() + PATIENCE_S)
    assert taken_over == [True]
    finished = finished_trials(other.study)
    assert [trial.value for trial in finished] == [loss(trial.params) for trial in finished]
    assert len(finished) == 2


def test_a_trial_that_always_ends_its_process_is_repeated_twice(open_study):
    study = open_study()
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            study.run(interrupt, 1, time.monotonic() + PATIENCE_S)
    study.run(evaluate, 1, time.monotonic() + PATIENCE_S)
    trials = study.study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert [trial.params for trial in trials[:3]] == 3 * [{name: FIRST[name] for name in SPACE}]


# Opens the study and starts its work each after a line on stdin.
WORKER = """
import sys, time
from tests.tuning.test_study import FIRST, SPACE, loss
from cnnClassifier.tuning.study import SharedStudy

def evaluate(trial):
    print(trial.number, flush=True)
    time.sleep(float(sys.argv[3]))
    return loss(trial.params)

print("ready", flush=True)
sys.stdin.readline()
study = SharedStudy(sys.argv[1], "a", True, SPACE, FIRST, 1, 3.0)
print("open", flush=True)
sys.stdin.readline()
study.run(evaluate, int(sys.argv[2]), time.monotonic() + 3600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "open_study",
    [
        pytest.param(URLS[0], marks=pytest.mark.full),
        URLS[1],
        pytest.param(POSTGRESQL, marks=pytest.mark.full),
    ],
    indirect=True,
)
def test_processes_share_a_study_and_one_is_killed(open_study):
    def start(seconds):
        command = [sys.executable, "-c", WORKER, open_study.url, "12", str(seconds)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)

    def proceed(worker):
        worker.stdin.write("\n")
        worker.stdin.flush()

    workers = [start(3600), start(0.2), start(0.2)]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 3
        for worker in workers:
            proceed(worker)
        assert [worker.stdout.readline() for worker in workers] == ["open\n"] * 3
        proceed(workers[0])
        lost = int(workers[0].stdout.readline())  # this trial will not be finished
        for worker in workers[1:]:
            proceed(worker)
            int(worker.stdout.readline())
        workers[0].send_signal(signal.SIGKILL)
        for worker in workers[1:]:
            _, errors = worker.communicate(timeout=PATIENCE_S)
            assert worker.returncode == 0, errors
            assert "secret" not in errors
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    study = open_study().study
    finished = [trial.params for trial in finished_trials(study)]
    assert len({tuple(params.items()) for params in finished}) == len(finished) == 12
    assert study.trials[lost].state.name == "FAIL"
    assert study.trials[lost].params in finished
    assert {trial.state.name for trial in study.trials} <= {"FAIL", "PRUNED", "COMPLETE"}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///{folder}/study.db",
        "postgresql+pg8000://me:secret@127.0.0.1:1/studies",
        "postgresql://127.0.0.1:1/studies?user=me&password=secret",
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(tmp_path, monkeypatch, url):
    (tmp_path / "study.db").write_text("something else" * 100)
    monkeypatch.setitem(sys.modules, "pg8000", None)  # not installed
    with pytest.raises(UserError, match=r"search\.storage: .* can't be opened: ") as caught:
        SharedStudy(url.format(folder=tmp_path), "a", True, SPACE, FIRST, 1, 60)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
