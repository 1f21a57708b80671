"""A real Dask cluster on this machine."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.project import ROOT
from tests.waiting import until

# The conditions under which features and model are the same bytes: docs/how-to/cluster.md.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@contextmanager
def dask_cluster(folder, **environment):
    """Run a scheduler with two workers of one thread; yield a client."""
    from distributed import Client

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
    environment.pop("PYTEST_CURRENT_TEST", None)
    dask = str(Path(sys.executable).with_name("dask"))
    file = folder / "scheduler.json"
    commands = [[dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address"]]
    commands[0] += ["127.0.0.1:0", "--scheduler-file", str(file)]
    for number in range(2):
        commands.append([dask, "worker", "--scheduler-file", str(file), "--nthreads", "1"])
        commands[-1] += ["--no-dashboard", "--local-directory", str(folder / str(number))]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "cluster.log").open("w"))
        for command in commands:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        until(file.exists)
        client = stack.enter_context(Client(json.loads(file.read_text())["address"]))
        client.wait_for_workers(2)
        yield client
