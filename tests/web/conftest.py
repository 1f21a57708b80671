import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def app_command():
    return [sys.executable, str(ROOT / "app.py")]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """Make a folder to start app.py in, with a configuration that names the given bundle."""

    def make(bundle_dir):
        folder = tmp_path_factory.mktemp("workplace")
        config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
        config["training"]["bundle_dir"] = str(bundle_dir)
        config["serving"]["max_upload_bytes"] = 200_000
        (folder / "config").mkdir()
        (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
        (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        return folder

    return make


@pytest.fixture(scope="session")
def running(app_command, workplace):
    """Run app.py on a free port; yield its URL, first line and process."""

    @contextmanager
    def run(bundle_dir, **environment):
        command = [*app_command, "--port", "0"]
        folder = workplace(bundle_dir)
        with subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            process.folder = folder
            try:
                line = process.stdout.readline()
                yield line.split()[1], line, process
            finally:
                process.terminate()

    return run


@pytest.fixture(scope="session")
def server(running, tiny_bundle):
    """Return the URL of a server that is ready."""
    with running(tiny_bundle) as (url, _, _):
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/readyz")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        else:
            pytest.fail("the server didn't become ready")
        yield url
