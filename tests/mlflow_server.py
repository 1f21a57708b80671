"""A real MLflow server on loopback, shaped like DagsHub's: basic auth and a path prefix.

A proxy before it hides what old or small servers lack.
"""

import http.client
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.waiting import PATIENCE_S, reserved_port, wait_for

PREFIX = "/me/repo.mlflow"
LACKING = re.compile(r"/mlflow/(logged-models|registered-models|model-versions)")


@dataclass
class Server:
    """Address and login of a server, and whether a proxy before it hides anything."""

    uri: str
    user: str = "admin"
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    hides: bool = True

    @property
    def environment(self):
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE_S),  # what is slow here is this machine
        }


@contextmanager
def mlflow_server(folder) -> Iterator[Server]:
    """Run a server; its database and artifacts are in a folder."""
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        "auth_cache_ttl_seconds = 600\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with reserved_port() as port:
        server = Server(f"http://127.0.0.1:{port}{PREFIX}")
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
            *("--static-prefix", PREFIX, "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"),
            *("--artifacts-destination", f"{folder}/store"),
        ]
        environment = {
            **os.environ,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(12),
            "MLFLOW_AUTH_ADMIN_PASSWORD": server.password,
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (
            (folder / "server.log").open("w") as log,
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log
            ) as process,
        ):
            try:
                wait_for(f"http://127.0.0.1:{port}/health", process, refusal=True)
                yield server
            finally:
                process.terminate()


@contextmanager
def without(pattern: re.Pattern[str], server: Server, status: int = 404) -> Iterator[Server]:
    """Pass on to a server all requests but those that match, which get an error."""
    behind = urlsplit(server.uri)

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if visible.hides and pattern.search(self.path):
                self.answer(status, {"Content-Type": "text/plain"}, b"page not found")
                return
            connection = http.client.HTTPConnection(
                behind.hostname, behind.port, timeout=PATIENCE_S
            )
            headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            kept = {
                key: value
                for key, value in answer.getheaders()
                if key.lower() in ("content-type", "location")
            }
            self.answer(answer.status, kept, answer.read())
            connection.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def answer(self, status, headers, body):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    visible = Server(f"http://127.0.0.1:{proxy.server_port}{PREFIX}", server.user, server.password)
    thread.start()
    try:
        yield visible
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def runs_of(config):
    """Return a client and all runs of an experiment, the oldest first."""
    from mlflow import MlflowClient

    uri = config.uri
    if uri.startswith("sqlite:///"):  # MLflow keeps a store for each address
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(config.experiment)
    order = ["attributes.start_time ASC"]
    return client, client.search_runs([experiment.experiment_id], order_by=order)
