import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnnClassifier.serving.auth import Token, hash_token, parse_tokens
from tests.serving.client import post
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def run_app(app_command, tmp_path):
    """Run app.py to its end."""

    def run(*arguments, cwd=tmp_path, **environment):
        return subprocess.run(
            [*app_command, *arguments],
            cwd=cwd,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    return run


def test_help_imports_nothing_heavy(app_command, tmp_path):
    command = [sys.executable, "-X", "importtime", *app_command[1:], "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--port" in done.stdout
    modules = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    packages = {module.partition(".")[0] for module in modules}
    assert "argparse" in packages
    assert not packages & {"keras", "openvino", "tensorflow", "numpy", "flask", "yaml", "PIL"}


@pytest.mark.parametrize(
    ("arguments", "tokens", "exit_code", "message"),
    [
        (["--port", "{taken}"], "", 1, "is in use"),
        (["--host", "192.0.2.1"], "", 1, "can't listen on 192.0.2.1"),
        (["--port", "70000"], "", 2, "0 to 65535"),
        (["--config", "nowhere.yaml"], "", 1, "nowhere.yaml: No such file"),
        ([], "letmein", 1, "environment: API_TOKENS: entry 1: expected name:sha256"),
    ],
)
def test_an_error_at_the_start_is_one_line(
    run_app, make_workdir, tmp_path, arguments, tokens, exit_code, message
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = [argument.format(taken=port) for argument in arguments]
        done = run_app(*arguments, cwd=make_workdir(tmp_path), API_TOKENS=tokens)
    assert done.returncode == exit_code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "letmein" not in done.stderr
    assert exit_code == 2 or len(done.stderr.splitlines()) == 1


def test_a_new_token_is_printed_with_its_entry(run_app, tmp_path):
    done = run_app("--new-token", "ci", "--may-train", "--may-give-feedback")
    _, token, _, entry = (line.strip() for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert parse_tokens(entry)[hash_token(token)] == Token("ci", True, True)
    done = run_app("--new-token", "no name")
    assert (done.returncode, done.stdout) == (1, "")
    assert "token name 'no name'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "tokens", "warned"),
    [("0.0.0.0", "", True), ("0.0.0.0", "a:" + "0" * 64, False), ("127.0.0.1", "", False)],
)
def test_a_public_server_without_tokens_is_warned_of(
    app_command, make_workdir, tmp_path, host, tokens, warned
):
    with subprocess.Popen(
        app_command,
        cwd=make_workdir(tmp_path / "none"),
        env=os.environ | {"API_TOKENS": tokens, "HOST": host, "PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().split()[1]
        urllib.request.urlopen(f"{url}/livez").close()  # the start is complete
        process.terminate()
        stderr = process.stderr.read()
    assert ("warning: everyone who can reach 0.0.0.0" in stderr) is warned


@pytest.mark.slow
def test_it_starts_and_stops_without_a_model(start_app, tmp_path):
    with start_app(tmp_path / "none", ready=False) as (url, process):
        with urllib.request.urlopen(f"{url}/livez") as response:
            assert response.status == 200
            assert "Server" not in response.headers
        assert post(url, b"x")[2]["error"]["code"] == "no_model"
        log = process.workdir / "logs/running.log"
        until(lambda: "run `dvc repro` or `python main.py`" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_it_stops_while_the_model_is_loading(start_app, tiny_bundle):
    with start_app(tiny_bundle, ready=False) as (url, process):
        urllib.request.urlopen(f"{url}/livez").close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_concurrent_requests_get_their_own_results(server, picture):
    images = [picture(level) for level in (0, 255, 90, 180)]

    def predict(image):
        status, _, (result,) = post(server, image)
        return status, result["probabilities"]["adenocarcinoma"]

    expected = list(map(predict, images))
    assert len(set(expected)) == 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predict, images * 12)) == expected * 12


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_the_process_maps_openvino_but_not_tensorflow(start_app, tiny_bundle, picture):
    with start_app(tiny_bundle) as (url, process):
        assert post(url, picture())[0] == 200
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        log = (process.workdir / "logs/running.log").read_text()
    assert "tiny, trained on synthetic images of Adenocarcinoma, Normal; ready in" in log
    assert "openvino" in maps
    assert "site-packages/tensorflow/" not in maps
