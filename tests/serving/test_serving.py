import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnnClassifier.serving.tokens import find, read_tokens
from tests.waiting import PATIENCE_S


def post(url, data, **headers):
    request = urllib.request.Request(
        f"{url}/predict", data, headers={"Content-Type": "image/png", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, [one | {"ms": 0} for one in json.load(answer)]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_help_loads_nothing_heavy(app_command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *app_command[1:], "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "--port" in done.stdout
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
    }
    assert "argparse" in imported
    assert not imported & {"keras", "openvino", "tensorflow", "numpy", "flask", "yaml", "PIL"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--port", "{taken}"], 1, "is in use"),
        (["--host", "192.0.2.1"], 1, "can't listen on 192.0.2.1"),
        (["--port", "70000"], 2, "0 to 65535"),
        (["--config", "nowhere.yaml"], 1, "nowhere.yaml: no such file"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    app_command, workplace, tmp_path, arguments, code, message
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*app_command, *(argument.format(taken=port) for argument in arguments)]
        done = subprocess.run(
            command, cwd=workplace(tmp_path), capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert code == 2 or len(done.stderr.splitlines()) == 1


def test_a_new_token_is_shown_once_with_its_entry(app_command, tmp_path):
    command = [*app_command, "--new-token", "ci", "--may-train"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    _, token, _, entry = (line.strip() for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert find(read_tokens(entry), token).rights == {"predict", "train"}
    command[-2] = "no name"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, "token name 'no name'" in done.stderr) == (1, "", True)


def test_a_malformed_entry_stops_the_start(app_command, workplace, tmp_path):
    done = subprocess.run(
        [*app_command, "--port", "0"],
        cwd=workplace(tmp_path),
        env={**os.environ, "API_TOKENS": "letmein"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: environment: API_TOKENS: entry 1: expected name:sha256")
    assert "letmein" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "tokens", "warned"),
    [("0.0.0.0", "", True), ("0.0.0.0", "a:" + "0" * 64, False), ("127.0.0.1", "", False)],
)
def test_open_to_everyone_is_warned_of(app_command, workplace, tmp_path, host, tokens, warned):
    environment = {**os.environ, "API_TOKENS": tokens, "HOST": host, "PORT": "0"}
    with subprocess.Popen(
        app_command,
        cwd=workplace(tmp_path / "none"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().split()[1]
        urllib.request.urlopen(f"{url}/livez").close()  # all that it says at its start is said
        process.terminate()
        said = process.stderr.read()
    assert ("warning: whoever reaches 0.0.0.0" in said) is warned


@pytest.mark.slow
def test_without_a_model_it_starts_and_stops(running, tmp_path):
    with running(tmp_path / "none") as (url, line, process):
        assert "python main.py" in line
        with urllib.request.urlopen(f"{url}/livez") as answer:
            assert answer.status == 200
            assert "Server" not in answer.headers
        assert post(url, b"x")[1]["error"]["code"] == "no_model"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_concurrent_requests_get_their_own_answers(server, picture):
    bodies = [picture(level) for level in (0, 255, 90, 180)] * 12
    alone = [post(server, body) for body in bodies[:4]] * 12
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: post(server, body), bodies))
    assert {status for status, _ in together} == {200}
    assert together == alone
    assert len({json.dumps(answer) for _, answer in alone}) == 4


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_the_server_process_maps_openvino_and_no_tensorflow(ready, tiny_bundle, picture):
    with ready(tiny_bundle) as (url, line, process):
        assert "tiny, trained on synthetic images of Adenocarcinoma, Normal" in line
        assert post(url, picture())[0] == 200
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "openvino" in maps
    assert "site-packages/tensorflow/" not in maps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413, "too_large"),
        (b"POST /predict HTTP/1.1\r\nContent-Length: minus\r\n\r\n", 400, "bad_request"),
        (
            b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\nzz\r\n",
            400,
            "bad_request",
        ),
        (
            b"POST /predict HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: image/png\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            422,
            "not_an_image",
        ),
        (
            b"POST /predict HTTP/1.1\r\nConnection: close\r\nContent-Type: image/png\r\n\r\n",
            400,
            "empty",
        ),
    ],
)
def test_raw_requests_are_answered_in_json(server, sent, status, code):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["error"]["code"] == code
