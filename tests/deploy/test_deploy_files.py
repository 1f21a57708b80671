"""Workflow, Dockerfile, CloudFormation, compose file, policies, pins: what no program here runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy import policies

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".md"
)
BASH = [str(path) for path in SCRIPTS if "env bash" in path.read_text() or path.suffix == ".sh"]
MANIFESTS = [
    str(path)
    for path in sorted((ROOT / "deploy/kubernetes").iterdir())
    if path.name != "kustomization.yaml"
]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/main.yaml").read_text(encoding="utf-8"))
STEPS = [(name, step) for name, job in WORKFLOW["jobs"].items() for step in job["steps"]]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("actionlint", []),
        ("hadolint", ["Dockerfile"]),
        ("cfn-lint", ["infra/aws.yaml"]),
        ("kubernetes-validate", ["--quiet", "--strict", "-k", "1.33", *MANIFESTS]),
        ("shellcheck", ["-x", *BASH]),
    ],
)
def test_its_linter_finds_nothing(tool, arguments):
    beside = Path(sys.executable).with_name(tool)
    program = str(beside) if beside.exists() else shutil.which(tool)
    assert program, f"{tool} is in requirements-dev.txt"
    path = f"{beside.parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, env={"PATH": path}
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_scripts_are_executable_and_tell_their_usage():
    for path in SCRIPTS:
        assert path.suffix in (".sh", ".md") or (
            path.stat().st_mode & 0o111 and f"scripts/{path.name}" in path.read_text()
        )


# ---- the workflow


def test_the_workflow_has_the_three_jobs_in_their_order():
    jobs = WORKFLOW["jobs"]
    assert list(jobs) == ["integration", "build-and-push-ecr-image", "Continuous-Deployment"]
    assert [job.get("needs") for job in jobs.values()] == [
        None,
        "integration",
        "build-and-push-ecr-image",
    ]
    assert jobs["integration"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "self-hosted" in jobs["Continuous-Deployment"]["runs-on"]
    triggers = WORKFLOW[True]  # YAML reads `on` so
    assert all(triggers[event]["paths-ignore"] == ["**.md"] for event in ("push", "pull_request"))


def test_rights_are_given_a_job_at_a_time_and_no_more():
    given = {name: job["permissions"] for name, job in WORKFLOW["jobs"].items()}
    assert WORKFLOW["permissions"] == {}
    assert given == {
        "integration": {"contents": "read", "pull-requests": "write"},
        "build-and-push-ecr-image": {"contents": "read", "id-token": "write"},
        "Continuous-Deployment": {"contents": "read"},
    }


def test_actions_are_pinned_to_commits_of_releases():
    text = (ROOT / ".github/workflows/main.yaml").read_text(encoding="utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert used
    for line in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert "set-output" not in text


def test_no_keys_of_aws_reach_the_machine():
    deployment = yaml.safe_dump(WORKFLOW["jobs"]["Continuous-Deployment"])
    assert "KEY" not in deployment
    assert "configure-aws-credentials" not in deployment


def test_steps_call_make_and_scripts_that_exist():
    targets = set(
        re.findall(
            r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE
        )
    )
    commands = [step["run"] for _, step in STEPS if "run" in step]
    assert commands
    for command in commands:
        first, *words = command.split()
        if first == "make":
            assert words[0] in targets
        elif first.startswith("scripts/"):
            assert (ROOT / first).is_file()
        else:
            assert first in {"command", "gh"}, command


# ---- the image


def test_the_image_takes_in_what_it_needs_and_runs_as_a_user():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    *_, serving = re.findall(r"^FROM \S+ AS (\S+)", text, flags=re.MULTILINE)
    assert serving == "serving"
    *_, user = re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)
    assert user == "10001:10001"
    allowed = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for copied in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text, flags=re.MULTILINE):
        for path in copied.split():
            assert path == "." or any(
                entry == path or entry.startswith(f"{path}/") for entry in allowed
            ), path
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")
    assert all((ROOT / path).exists() or path.startswith("artifacts/") for path in allowed)


# ---- AWS


@pytest.fixture(scope="module")
def template():
    class Loader(yaml.SafeLoader):
        pass

    def short(loader, tag, node):
        if isinstance(node, yaml.ScalarNode):
            return f"!{tag} {node.value}"
        construct = (
            loader.construct_sequence
            if isinstance(node, yaml.SequenceNode)
            else loader.construct_mapping
        )
        return {f"!{tag}": construct(node, deep=True)}

    Loader.add_multi_constructor("!", short)
    return yaml.load((ROOT / "infra/aws.yaml").read_text(encoding="utf-8"), Loader)["Resources"]


@pytest.mark.parametrize(
    ("role", "policy"),
    [("BuildRole", policies.BUILD_POLICY), ("InstanceRole", policies.INSTANCE_POLICY)],
)
def test_the_template_grants_what_the_documentation_prints(template, role, policy):
    (granted,) = template[role]["Properties"]["Policies"]
    assert policies.actions(granted["PolicyDocument"]) == policies.actions(policy)
    for document in (granted["PolicyDocument"], policy):
        for statement in document["Statement"]:
            everywhere = policies.actions({"Statement": [statement]}) == {
                "ecr:GetAuthorizationToken"
            }
            assert (statement["Resource"] == "*") == everywhere


def test_only_main_of_one_repository_may_take_the_build_role(template):
    (made,) = template["BuildRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    (printed,) = policies.TRUST_POLICY["Statement"]
    assert made["Action"] == printed["Action"]
    asked = {
        key: value.removeprefix("!Sub ").replace("${GitHubRepository}", "OWNER/NAME")
        for key, value in made["Condition"]["StringEquals"].items()
    }
    assert asked == printed["Condition"]["StringEquals"]


def test_the_machine_is_closed_but_for_one_port_and_keeps_its_role_to_itself(template):
    (rule,) = template["SecurityGroup"]["Properties"]["SecurityGroupIngress"]
    assert (rule["FromPort"], rule["ToPort"]) == (8080, 8080)
    metadata = template["Instance"]["Properties"]["MetadataOptions"]
    assert metadata == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert "token" not in str(template["Instance"]["Properties"]["UserData"]).lower()


def test_the_documentation_names_every_secret_of_the_workflow():
    text = (ROOT / ".github/workflows/main.yaml").read_text(encoding="utf-8")
    secrets = set(re.findall(r"secrets\.(\w+)", text)) | set(re.findall(r"vars\.(\w+)", text))
    documented = set(re.findall(r"`([A-Z_]+)`", policies.TEXT))
    assert {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "ECR_REPOSITORY_NAME",
    } < secrets
    assert secrets <= documented


# ---- compose


def test_the_compose_file_runs_the_app_alone_and_with_a_tracking_server_on_demand():
    content = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    services = content["services"]
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert profiles == {
        "app": None,
        "replica": ["replicas"],
        "nginx": ["replicas"],
        "mlflow": ["tracking"],
        "pipeline": ["training"],
    }
    assert services["replica"]["ports"] == []  # nginx has the app's port
    app, mlflow = services["app"], services["mlflow"]
    assert app["read_only"] is True
    assert app["ports"] == ["8080:8080"]
    address = f"http://mlflow:{mlflow['ports'][0].split(':')[-1]}"
    assert services["pipeline"]["environment"]["MLFLOW_TRACKING_URI"] == address
    assert app["environment"]["MLFLOW_TRACKING_URI"].endswith(f":-{address}}}")
    named = {
        mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])
    }
    assert {name for name in named if not name.startswith(".")} == set(content["volumes"])


# ---- Kubernetes


def test_the_manifests_agree_with_image_and_server():
    manifests = {}
    for path in MANIFESTS:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        manifests[content["kind"]] = content
    listed = yaml.safe_load((ROOT / "deploy/kubernetes/kustomization.yaml").read_text())
    assert sorted(listed["resources"]) == [Path(path).name for path in MANIFESTS]
    template = manifests["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    for kind, path in {
        "Deployment": ("selector", "matchLabels"),
        "Service": ("selector",),
        "PodDisruptionBudget": ("selector", "matchLabels"),
        "NetworkPolicy": ("podSelector", "matchLabels"),
    }.items():
        selector = manifests[kind]["spec"]
        for key in path:
            selector = selector[key]
        assert selector == labels, kind
    (container,) = template["spec"]["containers"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (port,) = container["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in dockerfile
    assert f"USER {template['spec']['securityContext']['runAsUser']}:" in dockerfile
    probes = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness")}
    assert probes == {"/readyz"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    (pods,) = [
        metric["pods"]["metric"]["name"]
        for metric in manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
        if metric["type"] == "Pods"
    ]
    assert f'"{pods}"' in (ROOT / "src/cnnClassifier/serving/monitoring.py").read_text()


# ---- pins


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_every_package_is_pinned_by_hash(name):
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[\w.\[\],-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line[:100]


def test_what_is_served_is_what_was_trained_with():
    def pinned(name):
        return set(
            re.findall(
                r"^([\w.\[\],-]+==[^ ]+)",
                (ROOT / name).read_text(encoding="utf-8"),
                flags=re.MULTILINE,
            )
        )

    assert (
        pinned("requirements-serve.txt")
        < pinned("requirements.txt")
        < pinned("requirements-dev.txt")
    )
