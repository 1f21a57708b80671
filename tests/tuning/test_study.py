import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnClassifier.entity.config_entity import Between, Choice
from cnnClassifier.tuning.search_space import grid_size
from cnnClassifier.tuning.study import SearchError, SharedStudy
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "rate": Between(0.0001, 0.01, True, None, False),
    "share": Between(0.0, 0.6, False, 0.1, False),
    "size": Between(2, 8, False, 2, True),
    "head": Choice(("a", "b")),
    "block": Choice((None,)),
}
FINITE = {
    "share": Between(0.0, 0.2, False, 0.1, False),
    "size": Between(2, 4, False, None, True),
    "head": Choice(("a", "b")),
}
FIRST = {"rate": 0.001, "share": 0.3, "size": 4, "head": "b", "block": None, "other": 1}
URLS = ("sqlite:///{}/study.db", "journal:///{}/study.log")


@pytest.fixture(params=URLS)
def opened(request, tmp_path):
    """Open the study of this test, as each process does."""

    def open_(name="a", space=SPACE, stale_after_s=60.0, first=FIRST):
        return SharedStudy(
            request.param.format(tmp_path), name, True, space, first, 1, stale_after_s
        )

    open_.url = request.param.format(tmp_path)
    return open_


def loss(params):
    return params["share"] + params.get("rate", 0) + params["size"] * (params["head"] == "a")


def work(study, most, seconds=PATIENCE_S):
    """Do trials until there are `most`, and return the parameters of all that are finished."""
    while True:
        with study.next_trial(most, time.monotonic() + seconds) as trial:
            if trial is None:
                return [trial.params for trial in study.finished()]
            trial.report(loss(trial.params), 1)
            study.finish(trial, None if trial.should_prune() else loss(trial.params))


def test_one_that_was_stopped_tries_the_same_as_one_that_was_not(opened):
    whole = work(opened("whole"), 16)
    assert work(opened("parts"), 3) == whole[:3]
    study = opened("parts")
    with pytest.raises(KeyboardInterrupt), study.next_trial(16, time.monotonic() + 60):
        raise KeyboardInterrupt
    assert len(study.finished()) == 3
    assert work(opened("parts"), 16) == whole
    assert work(opened("parts"), 16) == whole
    assert whole[0] == {name: FIRST[name] for name in SPACE}
    assert all(params["rate"] == float(f"{params['rate']:.3g}") for params in whole)
    assert work(opened("elsewhere", first=FIRST | {"head": "c"}), 1) != whole[:1]


def test_a_small_space_is_tried_to_its_end_and_nothing_twice(opened):
    study = opened(space=FINITE)
    assert (study.size, grid_size(SPACE)) == (3 * 3 * 2, float("inf"))
    tried = work(study, study.size)
    assert len({tuple(params.items()) for params in tried}) == len(tried) == study.size


def test_what_comes_back_from_a_lost_process_is_counted_once(opened):
    slow, other = opened(stale_after_s=0.2), opened(stale_after_s=0.2)
    slow._send_heartbeats = lambda trial, stop: None  # as if it were dead, or the machine asleep
    with slow.next_trial(2, time.monotonic() + 60) as trial:
        params = trial.params
        assert params in work(other, 2)
        assert slow.finish(trial, 0.5) is False
    assert len(other.finished()) == 2
    assert {trial.value for trial in other.finished()} == {loss(p.params) for p in other.finished()}


def test_what_ends_its_process_every_time_is_left_alone(opened):
    study = opened()
    for _ in range(3):
        with pytest.raises(MemoryError), study.next_trial(1, time.monotonic() + 60) as trial:
            assert trial.params == {name: FIRST[name] for name in SPACE}
            raise MemoryError
    with study.next_trial(1, time.monotonic() + 60) as trial:
        study.finish(trial, 1.0)
    assert [trial.state.name for trial in study.study.trials] == [
        "FAIL",
        "FAIL",
        "FAIL",
        "COMPLETE",
    ]


# Opens the study and begins its work each when it is told to.
WORKER = """
import sys, time
from tests.tuning.test_study import FIRST, SPACE, loss
from cnnClassifier.tuning.study import SharedStudy
print("ready", flush=True)
sys.stdin.readline()
study = SharedStudy(sys.argv[1], "a", True, SPACE, FIRST, 1, 3.0)
print("open", flush=True)
sys.stdin.readline()
while True:
    with study.next_trial(int(sys.argv[2]), time.monotonic() + 3600) as trial:
        if trial is None:
            break
        print(trial.number, flush=True)
        time.sleep(float(sys.argv[3]))
        study.finish(trial, loss(trial.params))
"""


@pytest.mark.slow
def test_processes_at_once_do_nothing_twice_and_lose_nothing_when_one_is_killed(opened):
    def start(seconds):
        command = [sys.executable, "-c", WORKER, opened.url, "12", str(seconds)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)

    def tell(worker):
        worker.stdin.write("go on\n")
        worker.stdin.flush()

    workers = [start(3600), start(0.2), start(0.2)]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 3
        for worker in workers:
            tell(worker)
        assert [worker.stdout.readline() for worker in workers] == ["open\n"] * 3
        tell(workers[0])
        lost = int(workers[0].stdout.readline())  # it has begun a trial that it won't finish
        for worker in workers[1:]:
            tell(worker)
            int(worker.stdout.readline())
        workers[0].send_signal(signal.SIGKILL)
        for worker in workers[1:]:
            _, said = worker.communicate(timeout=PATIENCE_S)
            assert worker.returncode == 0, said
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    study = opened()
    finished = study.finished()
    assert len(finished) == 12
    assert len({tuple(trial.params.items()) for trial in finished}) == 12
    trials = study.study.trials
    assert trials[lost].state.name == "FAIL"
    assert trials[lost].params in [trial.params for trial in finished]
    assert not [trial for trial in trials if trial.state.name in ("RUNNING", "WAITING")]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///{folder}/study.db", "can't be opened: "),
        (
            "postgresql://me:secret@127.0.0.1:1/studies",
            'needs a driver; pip install "psycopg[binary]"',
        ),
        (
            "postgresql+pg8000://me:secret@127.0.0.1:1/studies",
            'needs a driver; pip install "pg8000"',
        ),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(
    tmp_path, monkeypatch, url, said
):
    (tmp_path / "study.db").write_text("something else" * 100)
    for driver in ("psycopg", "pg8000"):
        monkeypatch.setitem(sys.modules, driver, None)  # as where it isn't installed
    with pytest.raises(SearchError, match=re.escape(said)) as caught:
        SharedStudy(url.format(folder=tmp_path), "a", True, SPACE, FIRST, 1, 60)
    assert "secret" not in str(caught.value)
