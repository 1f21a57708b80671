"""Three replicas behind a real nginx, with the configuration that compose.yaml uses."""

import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.project import ROOT, write_project
from tests.serving.client import post
from tests.waiting import PATIENCE_S, reserved_port, until, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.skipif(not shutil.which("nginx"), reason="nginx isn't installed"),
]
CLIENTS = 4
RESPONSES = int(os.environ.get("RESPONSES", "200"))  # after each event, before the next


@contextmanager
def nginx(tmp_path, ports):
    """Run nginx on the shipped configuration with other addresses; yield its URL."""
    text = (ROOT / "deploy/nginx.conf").read_text(encoding="utf-8")
    (upstream,) = [line for line in text.splitlines() if "replica:8080" in line]
    replicas = [upstream.replace("replica:8080", f"127.0.0.1:{port}") for port in ports]
    with reserved_port() as port:
        text = text.replace(upstream, "\n".join(replicas))
        text = text.replace("listen 8080", f"listen 127.0.0.1:{port}")
        text = text.replace("/tmp/", f"{tmp_path}/")
        path = tmp_path / "nginx.conf"
        path.write_text(text, encoding="utf-8")
        command = ["nginx", "-p", str(tmp_path), "-c", str(path), "-g", "daemon off;"]
        with subprocess.Popen(command) as process:
            try:
                wait_for(f"http://127.0.0.1:{port}/livez", process, refusal=True)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


@pytest.fixture
def start_replica(app_command, tmp_path, tiny_bundle):
    """Run app.py on a given port until it is ready."""
    changes = {"training.bundle_dir": str(tiny_bundle), "serving.rate_limit": None}
    with ExitStack() as stack:

        def start(port, **settings):
            serving = {f"serving.{name}": value for name, value in settings.items()}
            workdir = write_project(tmp_path / f"replica-{port}", changes | serving)
            process = stack.enter_context(
                subprocess.Popen(
                    [*app_command, "--port", str(port)],
                    cwd=workdir,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.kill)
            wait_for(f"http://127.0.0.1:{port}/readyz", process)
            return process

        yield start


def test_clients_notice_neither_a_killed_replica_nor_a_replaced_one(
    tmp_path, start_replica, picture
):
    image = picture(200)
    with ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in range(3)]
        replicas = [start_replica(port) for port in ports]
        url = stack.enter_context(nginx(tmp_path, ports))
        statuses = []
        stopped = threading.Event()

        def send_requests():
            while not stopped.is_set():
                statuses.append(post(url, image)[0])

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(send_requests) for _ in range(CLIENTS)]

            def see_responses():
                count = len(statuses)
                until(lambda: len(statuses) >= count + RESPONSES or any(c.done() for c in clients))

            try:
                see_responses()
                replicas[0].kill()
                see_responses()
                replicas[1].terminate()
                assert replicas[1].wait(PATIENCE_S) == 0
                replicas[1] = start_replica(ports[1])
                see_responses()
            finally:
                stopped.set()
        for client in clients:
            client.result()
        print(f"{len(statuses)} responses")
        assert set(statuses) == {200}


def test_too_many_requests_are_refused_by_the_app_and_never_by_nginx(
    tmp_path, start_replica, picture
):
    image = picture(200)
    with ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in range(3)]
        for port in ports:
            start_replica(port, max_concurrent_requests=1, max_queued_requests=1)
        url = stack.enter_context(nginx(tmp_path, ports))
        with ThreadPoolExecutor(12) as pool:
            statuses = Counter(status for status, *_ in pool.map(partial(post, url), 600 * [image]))
    assert statuses.keys() == {200, 503}, statuses


def test_only_predictions_are_repeated_on_another_replica(tmp_path):
    received = []

    class BreaksOff(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            received.append(self.path)
            self.close_connection = True

        def log_message(self, *args):
            pass

    with ExitStack() as stack:
        ports = []
        for _ in range(3):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff))
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.02,)).start()
            ports.append(server.server_port)
        url = stack.enter_context(nginx(tmp_path, ports))
        for path in ("/train", "/feedback", "/predict", "/v1/predict"):
            request = urllib.request.Request(f"{url}{path}", b"{}")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=PATIENCE_S)
            refused.value.close()
            assert refused.value.code == 502
    assert Counter(received) == {"/train": 1, "/feedback": 1, "/predict": 3, "/v1/predict": 3}
