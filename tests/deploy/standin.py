"""Stand in for `docker` and `aws`: the commands that the scripts use, with state in a JSON file.

A running container is a real process on the real port, so the scripts send it real requests.
Run as `standin.py docker …` or `standin.py aws …`; STANDIN names the folder of the state.
STANDIN_MAY lists the IAM actions that the caller has; others are refused as AWS would. A version
with the fault `fails_on_the_port` isn't ready there while the folder has no file `enough`; then it
crashes.
"""

import fcntl
import json
import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HOME = Path(os.environ.get("STANDIN", "/nonexistent"))
ACCOUNT = "123456789012"
PULL = {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
PUSH = {
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
}
VALUED = (
    "--name",
    "--publish",
    "--env-file",
    "--label",
    "--tmpfs",
    "--cap-drop",
    "--security-opt",
    "--restart",
)
VALUED += (
    "--log-driver",
    "--log-opt",
    "--format",
    "--tail",
    "--build-arg",
    "--tag",
    "-t",
    "--username",
)


class Refused(Exception):
    pass


def empty():
    return {"images": {}, "tags": {}, "registry": {}, "containers": {}, "logins": []}


@contextmanager
def state():
    """Yield the state, alone; write it back."""
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = HOME / "state.json"
        content = json.loads(file.read_text()) if file.exists() else empty()
        try:
            yield content
        finally:
            scratch = HOME / "state.new"
            scratch.write_text(json.dumps(content, indent=1))
            scratch.replace(file)


def may(*actions):
    missing = set(actions) - set(os.environ.get("STANDIN_MAY", "").split())
    if missing:
        raise Refused(f"AccessDenied: not authorized to perform: {', '.join(sorted(missing))}")


def parse(words):
    """Split into options, which may repeat, and the rest."""
    options, rest = {}, []
    words = list(words)
    while words:
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        if not word.startswith("-") or rest:
            rest.append(word)
        elif name in VALUED:
            options.setdefault(name, []).append(value if has_value else words.pop(0))
        else:
            options.setdefault(name, []).append("")
    return options, rest


# ---- images


def build(content, options, rest):
    arguments = dict(item.split("=", 1) for item in options["--build-arg"])
    identity = f"sha256:{time.time_ns()}"
    content["images"][identity] = {
        "labels": arguments,
        "fault": os.environ.get("STANDIN_FAULT", ""),
    }
    for tag in options["--tag"]:
        content["tags"][tag] = identity


def image(content, name):
    found = name if name in content["images"] else content["tags"].get(name)
    if found not in content["images"]:
        raise Refused(f"No such image: {name}")
    return found


def logged_in(content, name):
    if name.partition("/")[0] not in content["logins"]:
        raise Refused("no basic auth credentials")


def push(content, options, rest):
    (name,) = rest
    logged_in(content, name)
    may(*PUSH)
    identity, there = image(content, name), content["registry"].get(name)
    if there and there["id"] != identity and not name.endswith(":latest"):
        raise Refused(
            "tag invalid: the image tag already exists and cannot be overwritten "
            "because the tag is immutable"
        )
    content["registry"][name] = {"id": identity, **content["images"][identity]}


def pull(content, options, rest):
    (name,) = rest
    logged_in(content, name)
    may(*PULL)
    if name not in content["registry"]:
        raise Refused(f"manifest for {name} not found: manifest unknown: Requested image not found")
    there = dict(content["registry"][name])
    identity = there.pop("id")
    content["images"][identity] = there
    content["tags"][name] = identity


def image_command(content, options, rest):
    verb, *rest = rest
    _, rest = parse(rest)
    if verb == "inspect":
        print(image(content, rest[0]))
    elif verb == "ls":
        for tag, identity in content["tags"].items():
            if tag.rpartition(":")[0] == rest[0]:
                print(identity)
    elif verb == "rm":
        identity = image(content, rest[0])
        users = [name for name, box in content["containers"].items() if box["image"] == identity]
        if users:
            raise Refused(f"conflict: image is being used by {users}")
        del content["images"][identity]
        content["tags"] = {
            tag: found for tag, found in content["tags"].items() if found != identity
        }
    else:
        raise Refused(f"image {verb}")


# ---- containers


def alive(box):
    try:
        status = Path(f"/proc/{box['pid']}/stat").read_text()
    except (OSError, KeyError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def end(box, number):
    os.kill(box["pid"], number)
    while alive(box):
        time.sleep(0.01)


def container(content, name):
    if name not in content["containers"]:
        raise Refused(f"No such container: {name}")
    return content["containers"][name]


def create(content, options, rest):
    (name,) = options["--name"]
    if name in content["containers"]:
        raise Refused(f'Conflict. The container name "/{name}" is already in use')
    address, _, port = options["--publish"][0].removesuffix(":8080").rpartition(":")
    env = []
    for file in options.get("--env-file", []):
        env += Path(file).read_text().split()
    content["containers"][name] = {
        "image": image(content, rest[0]),
        "ref": rest[0],
        "address": address or "0.0.0.0",
        "port": int(port or 0),
        "env": env,
        "options": {
            key: value for key, value in options.items() if key not in ("--name", "--env-file")
        },
        "starts": 0,
    }


def start(content, options, rest):
    import subprocess  # here and below only where it is needed: the scripts call this program often

    (name,) = rest
    box = container(content, name)
    if alive(box):
        return
    number = len(list(HOME.glob("*.log")))
    box |= {
        "starts": box["starts"] + 1,
        "log": str(HOME / f"{number}.log"),
        "ended": str(HOME / f"{number}.code"),
    }
    made = content["images"][box["image"]]
    fault = made["fault"]
    if fault == "fails_on_the_port" and box["address"] == "127.0.0.1":
        fault = ""
    command = [sys.executable, "-I", "-S", __file__, "serve", str(box["port"])]
    with Path(box["log"]).open("w") as log:
        process = subprocess.Popen(
            [*command, fault, made["labels"].get("REVISION", ""), box["ended"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    box["pid"] = process.pid
    line = process.stdout.readline().decode().split()  # the port, once it listens
    if not line and fault != "crashes":
        raise Refused(
            f"driver failed programming external connectivity: {Path(box['log']).read_text()}"
        )
    box["bound"] = int(line[0]) if line else 0


def stop(content, options, rest):
    box = container(content, rest[0])
    if alive(box):
        end(
            box, signal.SIGTERM
        )  # unlike Docker's its patience has no end: a busy machine is no fault


def run(content, options, rest):
    create(content, options, rest)
    start(content, {}, options["--name"])


def remove(content, options, rest):
    box = container(content, rest[0])
    if alive(box):
        end(box, signal.SIGKILL)
    del content["containers"][rest[0]]


def rename(content, options, rest):
    old, new = rest
    box = container(content, old)
    if new in content["containers"]:
        raise Refused(f'Conflict. The container name "/{new}" is already in use')
    del content["containers"][old]
    content["containers"][new] = box


def inspect(content, options, rest):
    options, rest = parse(rest[1:])
    box = container(content, rest[0])
    known = {
        ".State.Running": str(alive(box)).lower(),
        ".State.ExitCode": (
            Path(box["ended"]).read_text() if Path(box["ended"]).exists() else "137"
        ),
        ".Image": box["image"],
        ".Config.Image": box["ref"],
        ".Config.Labels.settings": dict(
            item.split("=", 1) for item in box["options"].get("--label", [])
        ).get("settings", "<no value>"),
    }
    print(re.sub(r"\{\{(.*?)\}\}", lambda match: known[match[1]], options["--format"][0]))


def logs(content, options, rest):
    print(Path(container(content, rest[0])["log"]).read_text())


def port(content, options, rest):
    box = container(content, rest[0])
    print(f"{box['address']}:{box['bound']}")


def execute(content, options, rest):
    assert rest[1:] == ["id", "-u"]
    print(
        "0"
        if content["images"][container(content, rest[0])["image"]]["fault"] == "root"
        else "10001"
    )


def login(content, options, rest):
    (registry,) = rest
    if options["secret"] != "secret-of-" + registry.split(".")[3]:
        raise Refused("unauthorized: incorrect username or password")
    content["logins"] = sorted({*content["logins"], registry})


def tag(content, options, rest):
    content["tags"][rest[1]] = image(content, rest[0])


DOCKER = {
    "build": build,
    "push": push,
    "pull": pull,
    "image": image_command,
    "create": create,
    "start": start,
    "stop": stop,
    "run": run,
    "rm": remove,
    "rename": rename,
    "container": inspect,
    "logs": logs,
    "port": port,
    "exec": execute,
    "login": login,
    "tag": tag,
}


# ---- aws


def aws(content, words):
    given = {key: words[at + 1] for at, key in enumerate(words) if key.startswith("--")}
    if words[:2] == ["sts", "get-caller-identity"]:  # needs no permission
        print(ACCOUNT)
    elif words[:2] == ["ecr", "get-login-password"]:
        may("ecr:GetAuthorizationToken")
        print(f"secret-of-{given['--region']}")
    elif words[:2] == ["ecr", "describe-images"]:
        may("ecr:DescribeImages")
        registry = f"{ACCOUNT}.dkr.ecr.{given['--region']}.amazonaws.com"
        tag = given["--image-ids"].removeprefix("imageTag=")
        name = f"{registry}/{given['--repository-name']}:{tag}"
        if name not in content["registry"]:
            raise Refused("ImageNotFoundException")
    else:
        raise Refused(f"no such command: {words}")


# ---- what runs in a container


def serve(port, fault, revision, ended):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    if fault == "crashes":
        sys.exit("this version crashes")

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(
                503 if fault in ("never_ready", "fails_on_the_port") else 200,
                {"revision": revision},
            )

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(
                500 if fault == "no_prediction" else 200,
                [{"probability": 1.0}] if fault != "mute" else [],
            )

        def log_message(self, *words):
            pass

    def leave(*_):
        Path(ended).write_text("1" if fault == "stops_badly" else "0")
        os._exit(0)

    class Server(ThreadingHTTPServer):
        def service_actions(self):  # between requests, and twice a second
            if fault == "fails_on_the_port" and (HOME / "enough").exists():
                os._exit(1)

    server = Server(("127.0.0.1", int(port)), Handler)
    signal.signal(signal.SIGTERM, leave)
    print("this version is", revision, fault, file=sys.stderr, flush=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def main():
    program, *words = sys.argv[1:]
    if program == "serve":
        serve(*words)
        return
    options, rest = parse(words[1:])
    if (
        "--password-stdin" in words
    ):  # before the state is held: whoever writes it needs the state too
        options["secret"] = sys.stdin.read().strip()
    try:
        with state() as content:
            if program == "aws":
                aws(content, words)
            else:
                DOCKER[words[0]](content, options, rest)
    except Refused as error:
        sys.exit(f"{program}: {error}")


if __name__ == "__main__":
    main()
