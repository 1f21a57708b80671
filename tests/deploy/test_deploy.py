"""The scripts and the workflow's steps against stand-ins for `docker` and `aws` that keep state."""

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.deploy import policies, standin
from tests.waiting import PATIENCE_S, reserved_port, until

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/chest-ct"
pytestmark = pytest.mark.slow


class World:
    """A machine with Docker, AWS behind it, and a name of its own for its containers."""

    def __init__(self, folder, port, side_port):
        self.folder = folder
        self.place = ROOT
        self.port = port
        self.name = f"test-{folder.name}-{os.getpid()}"
        tools = folder / "tools"
        tools.mkdir()
        for program in ("docker", "aws"):
            standin_path = Path(__file__).with_name("standin.py")
            command = f'"{sys.executable}" -I -S "{standin_path}" {program} "$@"'
            (tools / program).write_text(f"#!/bin/sh\nexec {command}\n")
            (tools / program).chmod(0o755)
        self.environment = {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "STANDIN": str(folder),
            "AWS_REGION": "eu-central-1",
            "ECR_REPOSITORY_NAME": "chest-ct",
            "NAME": self.name,
            "PORT": str(self.port),
            "SIDE_PORT": str(side_port),
            "READY_TIMEOUT": str(PATIENCE_S),
            "ENV_FILE": str(folder / "settings.env"),
        }

    def start(self, *words, may=policies.INSTANCE, **environment):
        return subprocess.Popen(
            words,
            cwd=self.place,
            env=self.environment | {"STANDIN_MAY": " ".join(may)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words, code=0, **options):
        return self.end(self.start(*words, **options), code)

    @staticmethod
    def end(process, code=0):
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, out + err
        return err

    def deploy(self, *words, **options):
        return self.run("scripts/deploy", *words, **options)

    def publish(self, version, fault=""):
        """Put an image into ECR; how the scripts do that is tested below."""
        file = self.folder / "state.json"
        state = json.loads(file.read_text()) if file.exists() else standin.empty()
        made = {"labels": {"REVISION": version}, "fault": fault}
        state["registry"][f"{REGISTRY}:{version}"] = {"id": f"sha256:{version}", **made}
        file.write_text(json.dumps(state))

    @property
    def state(self):
        return json.loads((self.folder / "state.json").read_text())

    def containers(self):
        """Return version and port of each container, by role; None for a stopped one."""
        roles = {}
        for name, box in self.state["containers"].items():
            role = name.removeprefix(self.name).removeprefix("-") or "serving"
            version = box["ref"].rpartition(":")[2]
            roles[role] = (version, box["port"] if self.runs(box) else None)
        return roles

    @staticmethod
    def runs(box):
        try:
            status = Path(f"/proc/{box.get('pid')}/stat").read_text()
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] != "Z"

    def images(self):
        """Versions whose image this machine holds under its ECR name."""
        return {
            tag.rpartition(":")[2] for tag in self.state["tags"] if tag.startswith(f"{REGISTRY}:")
        } - {"latest"}

    def answers(self):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE_S
        ) as answer:
            return json.load(answer)["revision"]


@contextmanager
def watched(world):
    """Ask the page again and again; yield the versions that answer, None where nobody does.

    The first answer is there at the beginning, and one requested after the block at the end.
    """
    seen, done = [], threading.Event()

    def ask():
        last = False
        while not last:
            last = done.wait(0.01)
            try:
                seen.append(world.answers())
            except (OSError, http.client.HTTPException):  # refused, or cut off within the answer
                seen.append(None)

    client = threading.Thread(target=ask)
    client.start()
    try:
        until(lambda: seen)
        yield seen
    finally:
        done.set()
        client.join()


@pytest.fixture
def world(tmp_path):
    with reserved_port() as port, reserved_port() as side_port:
        made = World(tmp_path, port, side_port)
        yield made
        if (tmp_path / "state.json").exists():
            for box in made.state["containers"].values():
                if World.runs(box):
                    os.kill(box["pid"], signal.SIGKILL)
    Path(f"/tmp/{made.name}.lock").unlink(missing_ok=True)


@pytest.fixture
def two_versions(world):
    for version in ("one", "two"):
        world.publish(version)
        world.deploy(version)
    return world


def test_the_first_version_serves_and_a_second_leaves_it_for_rollback(world):
    world.publish("one")
    assert "serves on port" in world.deploy("one")
    assert world.containers() == {"serving": ("one", world.port)}
    world.publish("two")
    world.deploy("two")
    assert world.containers() == {"serving": ("two", world.port), "previous": ("one", None)}
    assert world.answers() == "two"
    options = world.state["containers"][world.name]["options"]
    assert options["--restart"] == ["unless-stopped"]
    assert {"--read-only", "--cap-drop", "--security-opt", "--tmpfs"} <= options.keys()


def test_the_same_version_again_changes_nothing(two_versions):
    before = two_versions.state
    assert "serves already" in two_versions.deploy("two")
    assert two_versions.state["containers"] == before["containers"]
    assert two_versions.deploy("two") == two_versions.deploy(f"{REGISTRY}:two")


def test_other_settings_are_another_version(two_versions):
    Path(two_versions.environment["ENV_FILE"]).write_text("API_TOKEN=1\n")
    two_versions.deploy("two")
    assert two_versions.containers() == {
        "serving": ("two", two_versions.port),
        "previous": ("two", None),
    }
    assert two_versions.state["containers"][two_versions.name]["env"] == ["API_TOKEN=1"]


def test_aws_keys_never_reach_the_container(two_versions):
    Path(two_versions.environment["ENV_FILE"]).write_text("API_TOKEN=1\nAWS_SECRET_ACCESS_KEY=x\n")
    assert "holds AWS keys" in two_versions.deploy("two", code=1, AWS_SECRET_ACCESS_KEY="y")
    Path(two_versions.environment["ENV_FILE"]).unlink()
    two_versions.publish("three")
    two_versions.deploy("three", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")
    assert two_versions.state["containers"][two_versions.name]["env"] == []


@pytest.mark.parametrize("fault", ["never_ready", "crashes", "fails_on_the_port"])
def test_a_broken_version_leaves_the_old_one_serving(two_versions, fault):
    before = two_versions.containers()
    two_versions.publish("broken", fault)
    with watched(two_versions) as seen:
        patience = {"READY_TIMEOUT": "2"} if fault == "never_ready" else {}
        process = two_versions.start("scripts/deploy", "broken", **patience)
        if fault == "fails_on_the_port":
            until(lambda: None in seen)
            (two_versions.folder / "enough").touch()
        said = two_versions.end(process, code=1)
    assert set(seen) == ({"two"} if fault != "fails_on_the_port" else {"two", None})
    assert "this version" in said  # its log
    assert "error: " in said.splitlines()[-1]
    assert two_versions.containers() == before
    assert two_versions.images() == {"one", "two", "broken"}
    assert two_versions.answers() == "two"
    two_versions.publish("three")
    two_versions.deploy("three")
    assert two_versions.images() == {"two", "three"}


@pytest.mark.parametrize("fault", ["never_ready", "crashes", "fails_on_the_port"])
def test_a_broken_first_version_leaves_nothing(world, fault):
    world.publish("broken", fault)
    (world.folder / "enough").touch()
    patience = {"READY_TIMEOUT": "2"} if fault == "never_ready" else {}
    world.deploy("broken", code=1, **patience)
    assert world.containers() == {}


def test_a_tag_that_is_not_there_changes_nothing(two_versions):
    before = two_versions.containers()
    assert "can't be pulled" in two_versions.deploy("nowhere", code=1)
    assert two_versions.containers() == before


def test_a_taken_port_is_said_and_nothing_is_left(world):
    world.publish("one")
    with socket.create_server(("127.0.0.1", world.port)):
        assert "driver failed" in world.deploy("one", code=1)
    assert world.containers() == {}
    world.deploy("one")
    assert world.answers() == "one"


def test_only_the_last_two_versions_stay(two_versions):
    for version in ("three", "four"):
        two_versions.publish(version)
        two_versions.deploy(version)
    assert two_versions.containers() == {
        "serving": ("four", two_versions.port),
        "previous": ("three", None),
    }
    assert two_versions.images() == {"three", "four"}


def test_rollback_brings_the_version_before_back_and_a_second_undoes_it(two_versions):
    for present, before in (("one", "two"), ("two", "one")):
        assert f":{present} serves" in two_versions.run("scripts/rollback", may=())
        assert two_versions.containers() == {
            "serving": (present, two_versions.port),
            "previous": (before, None),
        }
        assert two_versions.answers() == present


def test_rollback_without_a_version_before_changes_nothing(world):
    world.publish("one")
    world.deploy("one")
    assert "no version before" in world.run("scripts/rollback", code=1)
    assert world.containers() == {"serving": ("one", world.port)}


@pytest.mark.parametrize("end", ["crashes", "is given up"])
def test_rollback_to_a_version_that_is_broken_by_now_returns(two_versions, end):
    state = two_versions.state
    state["images"][state["containers"][f"{two_versions.name}-previous"]["image"]]["fault"] = (
        "fails_on_the_port"
    )
    (two_versions.folder / "state.json").write_text(json.dumps(state))
    before = two_versions.containers()
    process = two_versions.start("scripts/rollback")
    until(lambda: two_versions.containers()["previous"][1])
    if end == "crashes":
        (two_versions.folder / "enough").touch()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    assert "the present one serves on" in two_versions.end(process, code=1)
    assert two_versions.containers() == before
    assert two_versions.answers() == "two"


def test_two_deploys_at_once_run_one_after_the_other(world):
    for version in ("one", "two", "three"):
        world.publish(version)
    world.deploy("one")
    together = {version: world.start("scripts/deploy", version) for version in ("two", "three")}
    for process in together.values():
        world.end(process)
    serving, previous = (world.containers()[role] for role in ("serving", "previous"))
    assert {serving[0], previous[0]} == {"two", "three"}
    assert (serving[1], previous[1]) == (world.port, None)
    assert world.answers() == serving[0]
    assert world.images() == {"two", "three"}


def test_a_deploy_that_waits_too_long_gives_up(two_versions):
    two_versions.publish("three")
    with Path(f"/tmp/{two_versions.name}.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another deploy still runs" in two_versions.deploy("three", code=1, LOCK_WAIT="0")
    assert two_versions.answers() == "two"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_deploy_killed_in_the_switch_is_undone(two_versions, how):
    two_versions.publish("broken", "fails_on_the_port")
    process = two_versions.start("scripts/deploy", "broken")
    until(lambda: two_versions.containers().get("next", (0, None))[1])
    os.killpg(process.pid, how)
    process.communicate(timeout=PATIENCE_S)
    if how == signal.SIGKILL:
        assert two_versions.containers()["serving"] == ("two", None)  # nobody was left to undo it
        assert "serves already" in two_versions.deploy("two")
    assert two_versions.containers() == {
        "serving": ("two", two_versions.port),
        "previous": ("one", None),
    }


@pytest.mark.parametrize("command", ["deploy", "rollback"])
def test_a_kill_between_two_renames_is_healed(two_versions, command):
    world, name = two_versions, two_versions.name
    if command == "deploy":
        world.run("docker", "rename", name, f"{name}-next")  # two serves, one is the previous
    else:
        world.run("docker", "stop", name)
        world.run("docker", "start", f"{name}-previous")
        world.run(
            "docker", "rename", name, f"{name}-next"
        )  # one serves again, two is to be the previous
    serving, previous = ("two", "one") if command == "deploy" else ("one", "two")
    assert "can't be pulled" in world.deploy("nowhere", code=1)
    assert world.containers() == {"serving": (serving, world.port), "previous": (previous, None)}
    assert world.answers() == serving


def test_who_asks_during_the_switch_gets_one_version_or_the_other(two_versions):
    two_versions.publish("three")
    with watched(two_versions) as seen:
        two_versions.deploy("three")
    order = [version for at, version in enumerate(seen) if at == 0 or version != seen[at - 1]]
    assert [version for version in order if version] == [
        "two",
        "three",
    ]  # never back, never a version that isn't ready


# ---- the workflow's own steps


def steps(job):
    workflow = yaml.safe_load((ROOT / ".github/workflows/main.yaml").read_text(encoding="utf-8"))
    return [
        step["run"]
        for step in workflow["jobs"][job]["steps"]
        if step.get("run", "").startswith("scripts/")
    ]


@pytest.fixture
def bundled(world):
    """Run the scripts in a copy of the repository with a bundle in it."""
    clone = world.folder / "clone"
    for name in ("scripts", "docs"):
        (clone / name).mkdir(parents=True)
    for path in (*(ROOT / "scripts").iterdir(), ROOT / "docs/patterns.png"):
        if path.is_file():
            target = clone / path.relative_to(ROOT)
            target.write_bytes(path.read_bytes())
            target.chmod(0o755)
    (clone / "artifacts/training").mkdir(parents=True)
    (clone / "artifacts/training/model.json").write_text(
        json.dumps({"model_sha256": "f" * 64}, indent=2)
    )
    subprocess.run(["git", "init", "-q", clone], check=True)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(
        ["git", "-C", clone, *author, "commit", "-q", "--allow-empty", "-m", "one"], check=True
    )
    world.place = clone
    commit = ["git", "-C", clone, "rev-parse", "HEAD"]
    return world, subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()


def test_the_workflows_steps_build_test_push_and_deploy(bundled):
    world, commit = bundled
    build = steps("build-and-push-ecr-image")
    for step in build:
        world.run("bash", "-e", "-c", step, may=policies.BUILD, GITHUB_SHA=commit)
    assert len(build) == 3
    for tag in (commit, "latest"):
        assert world.state["registry"][f"{REGISTRY}:{tag}"]["labels"] == {
            "REVISION": commit,
            "MODEL_SHA256": "f" * 64,
        }
    assert world.containers() == {}
    (deploy,) = steps("Continuous-Deployment")
    world.run("bash", "-e", "-c", deploy, GITHUB_SHA=commit)
    assert world.containers() == {"serving": (commit, world.port)}
    for step in build[:1] + build[2:]:  # run again: the tag that was tested stays
        world.run("bash", "-e", "-c", step, may=policies.BUILD, GITHUB_SHA=commit)
    assert "serves already" in world.run("bash", "-e", "-c", deploy, GITHUB_SHA=commit)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("never_ready", "not ready within"),
        ("crashes", "not ready within"),
        ("root", "runs as root"),
        ("no_prediction", "no prediction"),
        ("mute", "without a probability"),
        ("stops_badly", "exit code 1"),
    ],
)
def test_the_smoke_test_stops_an_image_that_is_broken(bundled, fault, said):
    world, commit = bundled
    world.run("scripts/build-image", commit, STANDIN_FAULT=fault)
    patience = {"READY_TIMEOUT": "2"} if fault == "never_ready" else {}
    assert said in world.run("scripts/smoke-test", f"chest-ct:{commit}", code=1, **patience)
    assert world.containers() == {}


@pytest.mark.parametrize("action", policies.BUILD)
def test_pushing_needs_every_permission_of_its_policy(world, action):
    world.run("docker", "build", "--build-arg", "REVISION=one", "--tag", "chest-ct:one", ".")
    if (
        action == "ecr:DescribeImages"
    ):  # without it an image that is there isn't seen, and the push is refused
        world.publish("one")
    said = world.run("scripts/push-image", "one", may=sorted({*policies.BUILD} - {action}), code=1)
    assert action in said or "immutable" in said
    world.run("scripts/push-image", "one", may=policies.BUILD)


@pytest.mark.parametrize("action", policies.INSTANCE)
def test_deploying_needs_every_permission_of_its_policy(world, action):
    world.publish("one")
    assert action in world.deploy("one", may=sorted({*policies.INSTANCE} - {action}), code=1)
    assert world.containers() == {}
