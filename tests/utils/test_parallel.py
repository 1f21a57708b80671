"""Batches in threads, and on Dask: order, errors, lost workers."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnnClassifier.utils import parallel
from cnnClassifier.utils.errors import ImageError, UserError
from cnnClassifier.utils.parallel import LOCAL, Workers, connect
from tests.waiting import reserved_port

NUMBERS = list(range(50))


def double(batch):
    return [2 * number for number in batch]


def refuse(batch):
    if 40 in batch:
        raise ImageError("corrupt", "the image is cut")
    return batch


def end_once(folder, batch):
    """End the worker that has the number 9 first."""
    if 9 in batch and not (folder / "ended").exists():
        (folder / "ended").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(batch)


def end_always(batch):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster whose two workers are threads of this process."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def workers(scheduler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with connect("dask", scheduler, None) as workers:
        yield workers
    assert list((tmp_path / ".cache").iterdir()) == []


def test_threads_need_no_dask():
    code = "from cnnClassifier.utils.parallel import *; import sys\n"
    code += "with connect('local', None, None) as workers: list(workers.map(list, [1, 2]))\n"
    code += "assert not {'dask', 'distributed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("where", ["threads", "dask"])
def test_results_are_in_order_and_few_batches_are_ahead(monkeypatch, request, where):
    monkeypatch.setattr(parallel, "_cores", lambda: 2)
    workers = LOCAL if where == "threads" else request.getfixturevalue("workers")
    assert list(workers.map(double, NUMBERS, size=4)) == double(NUMBERS)
    seen = []
    if where == "threads":
        results = workers.map(lambda batch: seen.extend(batch) or batch, NUMBERS)
    else:
        submit = workers.client.submit
        counted = lambda *args, **options: seen.append(1) or submit(*args, **options)  # noqa: E731
        monkeypatch.setattr(workers.client, "submit", counted)
        results = workers.map(double, NUMBERS, size=1)
    assert next(results) == 0
    results.close()
    assert len(seen) < 10
    assert list(workers.map(double, [])) == []


@pytest.mark.parametrize("where", ["threads", "dask"])
def test_an_error_of_the_user_arrives_unchanged(request, where):
    workers = LOCAL if where == "threads" else request.getfixturevalue("workers")
    with pytest.raises(ImageError, match=r"^the image is cut$") as raised:
        list(workers.map(refuse, NUMBERS, size=4))
    assert raised.value.code == "corrupt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_dir": Path("/no/such/folder")}, "has no folder /no/such/folder; project, data"),
        ({"code_sha256": "0"}, "runs other code than this process; restart it"),
        ({"versions": (("Python", "2.7"),)}, "this process 2.7; install the same requirements"),
    ],
)
def test_a_worker_that_differs_is_refused(workers, changes, message):
    environment = workers.environment._replace(**changes)
    with pytest.raises(UserError, match=message) as raised:
        list(Workers(workers.client, environment).map(double, NUMBERS))
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "_CONNECT_TIMEOUT_S", 1)
    monkeypatch.setattr(parallel, "_WORKER_TIMEOUT_S", 1)
    with (
        reserved_port() as port,
        pytest.raises(UserError, match=f"tcp://127.0.0.1:{port} doesn't answer; start `dask"),
        connect("dask", f"tcp://127.0.0.1:{port}", None),
    ):
        pass
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as cluster,
        pytest.raises(
            UserError, match=f"no worker; start `dask worker {cluster.scheduler_address}"
        ),
        connect("dask", cluster.scheduler_address, None),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UserError, match=r"run `pip install -r requirements-scale\.txt`"),
        connect("dask", None, None),
    ):
        pass


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_batches_of_a_lost_worker_run_again(tmp_path, monkeypatch):
    from dask import config

    monkeypatch.chdir(tmp_path)
    with (
        config.set({"distributed.scheduler.allowed-failures": 1}),
        connect("dask", None, 2) as workers,
    ):
        function = functools.partial(end_once, tmp_path)
        assert list(workers.map(function, NUMBERS, size=4)) == double(NUMBERS)
        assert (tmp_path / "ended").exists()
        with pytest.raises(UserError, match="2 workers ended during one batch"):
            list(workers.map(end_always, NUMBERS, size=25))
