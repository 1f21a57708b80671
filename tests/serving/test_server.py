"""A real server: limits, raw requests, clients that disconnect, and stopping under load."""

import errno
import http.client
import json
import select
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from cnnClassifier.serving import training_jobs, waitress_channel
from cnnClassifier.serving.server import bind, drop_new_connections
from tests.serving.client import post
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[2]

# Predictions wait while the file `hold` exists.
SERVER = """
import json, sys, time
from pathlib import Path
from cnnClassifier.entity.config_entity import ServingConfig
from cnnClassifier.serving import predictor, waitress_channel
from cnnClassifier.serving.app import create_app
from cnnClassifier.serving.model_manager import ModelManager
from cnnClassifier.serving.server import bind, serve, url_of
from cnnClassifier.utils.log import configure_logging

bundle_dir, folder = map(Path, sys.argv[1:3])
constants, settings = map(json.loads, sys.argv[3:])
vars(waitress_channel).update(constants)
decode = predictor.decode

def decode_later(*arguments):
    while (folder / "hold").exists():
        time.sleep(0.02)
    return decode(*arguments)

predictor.decode = decode_later
configure_logging(folder / "log")
limits = {"max_upload_bytes": 3_000_000, "max_pixels": 10**6} | settings
config = ServingConfig(bundle_dir=bundle_dir, host="127.0.0.1", port=0, **limits)
manager = ModelManager(config)
manager.predictor(wait=True)
listener = bind(config.host, config.port)
print(url_of(listener), flush=True)
serve(create_app(config, manager), listener, config)
"""


class Server(subprocess.Popen):
    """The process, and how the test controls it."""

    def __init__(self, bundle_dir, folder, constants, settings):
        arguments = [bundle_dir, folder, json.dumps(constants), json.dumps(settings)]
        super().__init__(
            [sys.executable, "-c", SERVER, *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": "src"},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self.stdout.readline().strip().replace("localhost", "127.0.0.1")
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        self.log = folder / "log"
        self.release = (folder / "hold").unlink

    def connect(self, sent=b""):
        connection = socket.create_connection(self.address, timeout=PATIENCE_S)
        connection.sendall(sent)
        return connection

    def wait_for_requests(self, running, waiting):
        until(lambda: gauges(self.url) == (running, waiting))

    def wait_for_log(self, count):
        """Wait until this many predictions are answered; return their lines."""

        def lines():
            return [line for line in self.log.read_text().splitlines() if '"/predict"' in line]

        until(lambda: len(lines()) >= count)
        assert len(lines()) == count
        return lines()


@pytest.fixture
def start_server(tiny_bundle, tmp_path):
    """Start a server whose predictions wait for `release`."""
    servers = []

    def start(constants=None, hold=True, **settings):
        if hold:
            (tmp_path / "hold").touch()
        defaults = {"max_concurrent_requests": 1, "max_queued_requests": 1}
        settings = defaults | {"request_timeout_s": PATIENCE_S} | settings
        server = Server(tiny_bundle, tmp_path, constants or {}, settings)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()
        server.wait()
        server.stdout.close()


def gauges(url):
    with urllib.request.urlopen(f"{url}/metrics") as response:
        lines = response.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("predict_"))
    return float(values["predict_running"]), float(values["predict_waiting"])


def predict_request(body, content_type="image/png"):
    head = f"POST /predict HTTP/1.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def form(*files):
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--b--\r\n"


FORM_TYPE = "multipart/form-data; boundary=b"


def read_response(connection):
    received = b""
    while data := connection.recv(65536):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), json.loads(body)


def test_the_waitress_version_is_the_tested_one():
    # serving/waitress_channel.py uses internals: check it, then these tests, with a new version.
    assert version("waitress") == "3.0.2"


@pytest.mark.slow
def test_a_full_queue_refuses_at_once_and_health_still_answers(start_server, picture):
    server = start_server(max_concurrent_requests=2, max_queued_requests=3)
    with ThreadPoolExecutor(5) as pool:
        accepted = [pool.submit(post, server.url, picture()) for _ in range(5)]
        server.wait_for_requests(2, 3)
        for _ in range(20):
            status, headers, content = post(server.url, picture())
            assert (status, content["error"]["code"], headers["Retry-After"]) == (503, "busy", "2")
            assert content["request_id"] == headers["X-Request-Id"]
        server.release()
        assert {request.result()[0] for request in accepted} == {200}
    server.wait_for_requests(0, 0)


@pytest.mark.slow
def test_disconnecting_frees_the_place_in_the_queue(start_server, picture):
    server = start_server(max_queued_requests=2)
    request = predict_request(picture())
    with server.connect(request):
        server.wait_for_requests(1, 0)
        waiting = [server.connect(request) for _ in range(2)]
        server.wait_for_requests(1, 2)
        for connection in waiting:
            connection.close()
        server.wait_for_requests(1, 0)
        server.release()
    server.wait_for_requests(0, 0)
    assert sum("status=499" in line for line in server.wait_for_log(3)) == 2


@pytest.mark.slow
def test_images_after_a_disconnect_are_not_processed(start_server, picture):
    server = start_server()
    body = form(*[picture()] * 30)
    with server.connect(predict_request(body, FORM_TYPE)) as connection:
        server.wait_for_requests(1, 0)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""  # the server has noticed
    server.release()
    server.wait_for_requests(0, 0)
    assert "status=499" in server.wait_for_log(1)[0]
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        assert "predictions_total{" not in response.read().decode()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_server_answers_all_requests_that_have_begun(start_server, picture, number):
    constants = {"DRAIN_TIMEOUT_S": PATIENCE_S}
    server = start_server(constants, max_concurrent_requests=2, max_queued_requests=64)
    with ThreadPoolExecutor(50) as pool:
        requests = [pool.submit(post, server.url, picture()) for _ in range(50)]
        server.wait_for_requests(2, 48)
        server.send_signal(number)
        until(lambda: is_closed(server))
        server.release()
        responses = [request.result() for request in requests]
    assert [status for status, _, _ in responses] == [200] * 50
    assert {headers["Connection"] for _, headers, _ in responses} == {"close"}
    assert server.wait(PATIENCE_S) == 0


def is_closed(server):
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_stopping_under_keep_alive_load_answers_every_complete_request(start_server, picture):
    constants = {"DRAIN_TIMEOUT_S": PATIENCE_S, "IDLE_S": PATIENCE_S}
    server = start_server(constants, hold=False, max_queued_requests=64)
    image = picture()
    statuses, lost = [], []

    def send_requests():
        """Send request after request, until the server refuses the connection."""
        while True:
            connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE_S)
            try:
                connection.connect()
            except OSError:
                return
            while connection.sock:  # None after a response with `Connection: close`
                try:
                    connection.request("POST", "/predict", image, {"Content-Type": "image/png"})
                    response = connection.getresponse()
                    response.read()
                    statuses.append(response.status)
                except (OSError, http.client.HTTPException) as error:
                    lost.append(repr(error))
                    return

    clients = [threading.Thread(target=send_requests) for _ in range(20)]
    for client in clients:
        client.start()
    until(lambda: len(statuses) > 50)
    server.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(PATIENCE_S)
    assert server.wait(PATIENCE_S) == 0
    assert (set(statuses), lost) == ({200}, [])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a few connections may be reset")
def test_connections_made_before_the_stop_are_accepted_and_later_ones_refused():
    with bind("127.0.0.1", 0) as listener, socket.socket(listener.family) as late:
        address = listener.getsockname()
        with socket.create_connection(address[:2]) as early:
            drop_new_connections(listener)
            late.setblocking(False)
            assert late.connect_ex(address) == errno.EINPROGRESS
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"answer")
                assert early.recv(10) == b"answer"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
        listener.close()
        select.select([], [late], [], PATIENCE_S)
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.slow
def test_it_stops_within_ten_seconds_whatever_hangs(start_server, picture):
    # The time that Docker grants, a training job that must be killed included.
    limit = waitress_channel.ACCEPT_S + waitress_channel.DRAIN_TIMEOUT_S
    assert limit + 2 * training_jobs.STOP_TIMEOUT_S < 9.5
    server = start_server({"DRAIN_TIMEOUT_S": 2.0}, max_queued_requests=2)
    request = predict_request(picture())
    with server.connect(request), ThreadPoolExecutor(2) as pool:
        server.wait_for_requests(1, 0)
        waiting = [pool.submit(post, server.url, picture()) for _ in range(2)]
        server.wait_for_requests(1, 2)
        server.send_signal(signal.SIGTERM)
        for status, headers, content in (response.result() for response in waiting):
            assert (status, content["error"]["code"]) == (503, "busy")
            assert (headers["Connection"], headers["Retry-After"]) == ("close", "5")
        assert server.wait(PATIENCE_S) == 0
    assert "1 requests unanswered" in server.log.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_large_upload_is_not_written_to_disk(start_server):
    server = start_server()
    body = b"x" * 2_900_000
    with ThreadPoolExecutor(2) as pool:
        requests = [
            pool.submit(post, server.url, body),
            pool.submit(post, server.url, form(body), FORM_TYPE),
        ]
        server.wait_for_requests(1, 1)
        paths = open_files(server.pid)
        server.release()
        codes = [request.result()[2]["error"]["code"] for request in requests]
    assert codes == ["not_an_image"] * 2
    assert not [path for path in paths if "/tmp/" in path and "log" not in path]


def open_files(pid):
    paths = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            paths += [str(link.readlink())] if int(link.name) > 2 else []
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["RECEIVE_TIMEOUT_S", "STALL_TIMEOUT_S"])
def test_a_request_that_does_not_arrive_times_out(start_server, limit):
    server = start_server({limit: 1.0})
    head = b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n"
    continued = b"HTTP/1.1 100 Continue\r\n\r\n"
    connections = [server.connect(sent) for sent in (b"POST /pre", head + b"\r\nabc")]
    connections.append(server.connect(head + b"Expect: 100-continue\r\n\r\n"))
    assert connections[-1].recv(len(continued)) == continued
    for connection in connections:
        with connection:
            status, head, content = read_response(connection)
        assert (status, content["error"]["code"]) == (408, "request_timeout")
        assert f"X-Request-Id: {content['request_id']}" in head


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["length", "chunks", "expect"])
def test_a_body_far_beyond_the_limit_is_read_and_refused(server, kind):
    """The limit is 332,202 bytes; a client that is cut off may see a reset instead."""
    body = b"x" * 20_000_000
    fields = {
        "length": b"Content-Length: %d" % len(body),
        "chunks": b"Transfer-Encoding: chunked",
        "expect": b"Expect: 100-continue\r\nContent-Length: %d" % len(body),
    }
    if kind == "chunks":
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\n" + fields[kind] + b"\r\n\r\n")
        if kind != "expect":  # this client waits for the response
            connection.sendall(body)
        status, head, content = read_response(connection)
    assert (status, content["error"]["code"]) == (413, "too_large")
    assert "Connection: close" in head


@pytest.mark.slow
def test_uploads_beyond_the_memory_limit_are_refused(start_server):
    # The limit is then four of the largest bodies: 32 MB.
    server = start_server({"MAX_BUFFERED_BYTES": 0}, max_queued_requests=40)
    accepted = [server.connect(predict_request(b"x" * 2_900_000)) for _ in range(10)]
    server.wait_for_requests(1, 9)
    with server.connect(predict_request(b"x" * 6_000_000)) as late:
        status, head, content = read_response(late)
    assert (status, content["error"]["code"]) == (503, "busy")
    assert "Retry-After: 5" in head
    server.release()
    for connection in accepted:
        assert connection.recv(100).startswith(b"HTTP/1.1 422")
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"POST /pre"])
def test_idle_connections_do_not_block_the_server(start_server, sent):
    server = start_server()
    idle = [server.connect(sent) for _ in range(450)]
    with urllib.request.urlopen(f"{server.url}/livez", timeout=PATIENCE_S) as response:
        assert response.status == 200
    with suppress(ConnectionResetError):
        assert idle[0].recv(1) == b""  # the oldest is closed
    for connection in idle:
        connection.close()


@pytest.mark.slow
def test_only_a_trusted_proxy_may_name_the_client(start_server):
    for proxy, address in (("127.0.0.1", "203.0.113.9"), (None, "127.0.0.1")):
        server = start_server(trusted_proxy=proxy)
        headers = {"X-Forwarded-For": "203.0.113.9"}
        request = urllib.request.Request(f"{server.url}/nothing", b"", headers)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request)
        assert f"client=address:{address} " in server.log.read_text().splitlines()[-1]


@pytest.mark.slow
def test_a_prediction_is_sent_whole(server, picture):
    """A proxy that has the header alone when the server dies can't ask another replica."""
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        for _ in range(20):
            connection.sendall(predict_request(picture(200)))
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"


CLOSE = b"Connection: close\r\nContent-Type: image/png\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        (b"", b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"Content-Length: 99999999\r\n", b"", 413, "too_large"),
        (b"Content-Length: minus\r\n", b"", 400, "bad_request"),
        (CLOSE, b"", 400, "empty"),
        (CLOSE + b"Expect: 100-continue\r\n", b"", 400, "empty"),
        (CLOSE + CHUNKED, b"zz\r\n", 400, "bad_request"),
        (CLOSE + CHUNKED, b"3\r\nabc\r\n0\r\n\r\n", 422, "not_an_image"),
        (CLOSE + CHUNKED + b"Content-Length: 3\r\n", b"3\r\nabc\r\n0\r\n\r\n", 400, "bad_request"),
    ],
)
def test_raw_requests_are_answered_in_json(server, headers, body, status, code):
    host, port = server.removeprefix("http://").split(":")
    request = b"POST /predict HTTP/1.1\r\n" + headers + b"\r\n" + body if headers else body
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        found, _, content = read_response(connection)
    assert (found, content["error"]["code"]) == (status, code)
