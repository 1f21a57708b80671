#!/usr/bin/env python3
"""Make a project of your own from this template: another name, other classes, other images.

    python scripts/new_project.py ../birds --name bird-id --title "Bird identification" \
        --package bird_id --classes crow,magpie,jay --source ~/Pictures/birds

Copies the files that git tracks, renames the package and the project, writes its configuration and
README, and commits the result. The template stays as it is. What isn't given is asked for.

To take over later changes of the template: `python scripts/new_project.py ../birds --update` in an
updated clone of it, then `git merge template` in the project.
"""

import argparse
import json
import keyword
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, NAME, TITLE = "cnnClassifier", "chest-ct", "Chest CT classifier"
ANSWERS = ".template.json"  # what the project was made with, for --update
BRANCH = "template"
MAX_PACKAGE_LENGTH = 24  # longer names would make lines of more than 100 characters
# What only the template has, and what only a project with medical images has.
TEMPLATE_FILES = (
    "CHANGELOG.md",
    "benchmarks/README.md",
    "docs/page.png",
    "scripts/new_project.py",
    "scripts/project_readme.md",
    "tests/test_how_to.py",
    "tests/test_new_project.py",
)
MEDICAL_FILES = (
    "src/ct_phantom",
    "tests/ct_phantom",
    "templates/static/examples",
    "docs/phantom.png",
    "benchmarks/drift_phantoms.py",
    "benchmarks/gpu.py",
    "benchmarks/pictures.py",
)
# Between such comments, in Markdown <!-- begin: … -->, is what only some projects have.
MARKED = r"^[ \t]*(?:<!-- |# )begin: {0}(?: -->)?\n(.*?)^[ \t]*(?:<!-- |# )end: {0}(?: -->)?\n"
# Their weights come from the package index, those of the others from Keras's storage.
BACKBONES_OFFLINE = ("VGG16", "EfficientNetLite0")
WEIGHTS_STORAGE = "https://storage.googleapis.com/tensorflow/keras-applications"


class ProjectError(Exception):
    """A wrong answer; the message says what was expected."""


def main() -> None:
    """Make or update a project."""
    arguments = parse_arguments()
    try:
        if arguments.update:
            update(arguments.target)
        else:
            create(arguments)
    except (ProjectError, OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", "") or ""
        sys.exit(f"new_project: {error} {output}".strip())


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path, help="folder of the new project")
    parser.add_argument("--name", help="of container, experiment, registered model and repository")
    parser.add_argument("--title", help="of page, API and README")
    parser.add_argument("--package", help="name of the Python package")
    parser.add_argument("--classes", help="names, or NAME=FOLDER-PATTERN, separated by commas")
    parser.add_argument(
        "--source",
        help="URL, archive or folder of the images; until it is there, the project generates "
        "images of its classes (patterns:)",
    )
    parser.add_argument("--domain", choices=("medical", "general"), default="general")
    parser.add_argument("--backbone", default="VGG16", help="default: VGG16")
    parser.add_argument("--image-term", default="image", help="what one image is, such as photo")
    parser.add_argument("--group-term", default="group", help="what groups images, such as plant")
    parser.add_argument("--group-pattern", help="regular expression for file names, or none")
    parser.add_argument(
        "--update", action="store_true", help="bring the branch template up to date"
    )
    return parser.parse_args()


def create(arguments: argparse.Namespace) -> None:
    """Write the project, and commit it.

    Raises:
        ProjectError: an answer is missing or invalid, or the folder has files.
    """
    target: Path = arguments.target.resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ProjectError(f"{target}: exists and isn't empty; choose another folder")
    if target.is_relative_to(ROOT):
        raise ProjectError(
            f"{target}: inside of the template; choose a folder outside, such as ../birds"
        )
    answers = complete(vars(arguments))
    answers["is_available"] = is_available(answers["source"])
    has_weights = answers["backbone"] in BACKBONES_OFFLINE or is_available(WEIGHTS_STORAGE)
    answers["has_weights"] = has_weights
    write_project(target, answers)
    git(target, "init", "--quiet", "--initial-branch=main")
    commit(target, f"Begin {answers['title']} from the template {template_commit()}")
    git(target, "branch", BRANCH)
    print(f"{target}: {answers['title']}, package {answers['package']}, one commit")
    if not answers["is_available"]:
        print(
            f"{answers['source'] or 'no source'}: not available yet; until then config/config.yaml "
            "has patterns:, which generates images of the same classes"
        )
    if not answers["has_weights"]:
        print(
            f"{answers['backbone']}: its ImageNet weights can't be downloaded here; params.yaml "
            "has WEIGHTS: null (random), which gives a poor model: set it to imagenet where "
            f"{WEIGHTS_STORAGE} can be reached"
        )
    print(f"Next: cd {arguments.target} && make pipeline && make serve")


def update(project: Path) -> None:
    """Commit the template's current files, with the project's names, to its branch `template`.

    Raises:
        ProjectError: the folder was not made by this script.
    """
    path = project / ANSWERS
    if not path.is_file():
        raise ProjectError(f"{project}: no {ANSWERS}; --update needs a project of this script")
    answers = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temp_dir:
        tree = Path(temp_dir, "tree")
        git(project, "worktree", "add", "--quiet", str(tree), BRANCH)
        try:
            git(tree, "rm", "-r", "--quiet", ".")
            write_project(tree, answers)
            git(tree, "add", "--all")
            if git(tree, "status", "--porcelain"):
                commit(tree, f"Update from the template {template_commit()}")
                print(f"{project}: branch {BRANCH} is up to date; next: git merge {BRANCH}")
            else:
                print(f"{project}: nothing has changed in the template")
        finally:
            git(project, "worktree", "remove", "--force", str(tree))


def complete(answers: dict) -> dict:
    """Ask for what is missing, and check all answers.

    Raises:
        ProjectError: an answer is invalid, or missing without a person at a terminal.
    """
    default = re.sub(r"[^a-z0-9]+", "-", answers["target"].name.lower()).strip("-")
    answers = {key: answers[key] for key in answers if key not in ("target", "update")}
    questions = {
        "name": ("Name of container and experiment", default),
        "title": ("Title of the page", (answers["name"] or default).replace("-", " ").capitalize()),
        "package": ("Python package", (answers["name"] or default).replace("-", "_")),
        "classes": ("Classes, separated by commas", ""),
    }
    if sys.stdin.isatty():
        questions["source"] = ("Source of the images, or nothing", "")
    for key, (question, suggestion) in questions.items():
        if answers[key] is None:
            answers[key] = ask(key, question, suggestion)
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", answers["name"]):
        raise ProjectError(
            f"--name {answers['name']}: expected lower-case letters, digits and hyphens"
        )
    package = answers["package"]
    taken = (
        package in sys.stdlib_module_names or keyword.iskeyword(package) or package in installed()
    )
    if not package.isidentifier() or not package.isascii() or taken:
        raise ProjectError(
            f"--package {package}: expected a name of letters, digits and _ that isn't taken"
        )
    if len(package) > MAX_PACKAGE_LENGTH:
        raise ProjectError(f"--package {package}: expected at most {MAX_PACKAGE_LENGTH} characters")
    backbones = re.findall(
        r'Backbone\(\s*"(\w+)"', (ROOT / f"src/{PACKAGE}/entity/backbones.py").read_text()
    )
    if answers["backbone"] not in backbones:
        raise ProjectError(
            f"--backbone {answers['backbone']}: expected one of {', '.join(backbones)}"
        )
    if len(class_patterns(answers["classes"])) < 2:
        raise ProjectError(f"--classes {answers['classes']}: expected two or more different names")
    return answers


def ask(key: str, question: str, suggestion: str) -> str:
    """Ask a person; without one, the answer has to be an option."""
    if not sys.stdin.isatty():
        raise ProjectError(f"--{key} is missing: {question.lower()}")
    hint = f" [{suggestion}]" if suggestion else ""
    return input(f"{question}{hint}: ").strip() or suggestion


def installed() -> set[str]:
    """Return the packages that the template requires, by the names in its pins."""
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return {name.replace("-", "_").lower() for name in names} | {"tests", "benchmarks", "src"}


def class_patterns(text: str) -> dict[str, str]:
    """Return each class with the pattern of its folders: by default the folders that begin so."""
    given = [item.strip() for item in text.split(",") if item.strip()]
    names = [item.partition("=")[0].strip() for item in given]
    patterns = {}
    for item, name in zip(given, names, strict=True):
        is_prefix = any(other != name and other.lower().startswith(name.lower()) for other in names)
        patterns[name] = item.partition("=")[2].strip() or (name if is_prefix else f"{name}*")
    return patterns


def write_project(target: Path, answers: dict) -> None:
    """Copy the template's files under the new names, and write configuration and README."""
    is_medical = answers["domain"] == "medical"
    left_out = TEMPLATE_FILES if is_medical else TEMPLATE_FILES + MEDICAL_FILES
    for name in git(ROOT, "ls-files", "-z").split("\0"):
        source = ROOT / name
        if not source.is_file() or any(
            name == path or name.startswith(f"{path}/") for path in left_out
        ):
            continue
        path = target / name.replace(PACKAGE, answers["package"])
        path.parent.mkdir(parents=True, exist_ok=True)
        data = source.read_bytes()
        if b"\0" not in data:
            data = rename(data.decode(), answers, is_medical).encode()
        path.write_bytes(data)
        path.chmod(source.stat().st_mode)
    readme = (ROOT / "scripts/project_readme.md").read_text(encoding="utf-8")
    notice = (
        "> **Not a medical device.** For research and teaching only, never for a diagnosis.\n\n"
    )
    classes = ", ".join(class_patterns(answers["classes"]))
    for key, value in (
        answers | {"classes": classes, "notice": notice if is_medical else ""}
    ).items():
        readme = readme.replace(f"{{{key}}}", str(value))
    (target / "README.md").write_text(readme, encoding="utf-8", newline="\n")
    for name, settings in configuration(answers).items():
        path = target / name
        text = path.read_text(encoding="utf-8")
        for key, value in settings.items():
            text = set_value(text, key, value)
        path.write_text(text, encoding="utf-8", newline="\n")
    (target / ANSWERS).write_text(
        json.dumps(answers, indent=2) + "\n", encoding="utf-8", newline="\n"
    )
    format_code(target)
    imports = run(target, sys.executable, "scripts/import_graph.py")  # without removed packages
    path = target / "docs/architecture-imports.md"
    path.write_text(imports, encoding="utf-8", newline="\n")


def rename(text: str, answers: dict, is_medical: bool) -> str:
    """Return a file's text with the project's names, without what only the template has."""
    text = re.sub(MARKED.format("the template"), "", text, flags=re.DOTALL | re.MULTILINE)
    kept = r"\1" if is_medical else ""
    text = re.sub(MARKED.format("medical projects"), kept, text, flags=re.DOTALL | re.MULTILINE)
    if not is_medical:
        text = re.sub(r"^.*src/ct_phantom/.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("phantom:[key=value,…] | ", "")
    for old, new in ((PACKAGE, "package"), (TITLE, "title"), (NAME, "name")):
        text = text.replace(old, answers[new])
    # The response that docs/serving.md shows.
    first, second = list(class_patterns(answers["classes"]))[:2]
    label = first[:1].upper() + first[1:]
    text = text.replace(
        '"image": "Normal", "class": "normal"', f'"image": "{label}", "class": "{first}"'
    )
    return text.replace('"adenocarcinoma": 0.02, "normal"', f'"{second}": 0.02, "{first}"')


def configuration(answers: dict) -> dict[str, dict[str, str]]:
    """Return the keys to set in config.yaml and params.yaml, with their values as YAML."""
    patterns = class_patterns(answers["classes"])
    available = answers["is_available"]
    generated = f"patterns:classes={'|'.join(map(escape, patterns))}"
    group_pattern = answers["group_pattern"] if available else r"^(?P<group>group\d+)_"
    config = {
        "name": answers["name"],
        "title": quote(answers["title"]),
        "image_term": quote(answers["image_term"]),
        "group_term": quote(answers["group_term"]),
        "domain": answers["domain"],
        "source_URL": quote(answers["source"] if available else generated),
        "classes": json.dumps(patterns, ensure_ascii=False),
        "group_pattern": quote(group_pattern) if group_pattern else "null",
    }
    params = {"CLASSES": str(len(patterns)), "BACKBONE": answers["backbone"]}
    if not answers["has_weights"]:
        params["WEIGHTS"] = "null"
    return {"config/config.yaml": config, "params.yaml": params}


def is_available(source: str | None) -> bool:
    """Return whether a source can be reached now; other schemes than http aren't tried."""
    if not source:
        return False
    if not source.startswith(("http://", "https://")):
        return ":" in source[2:] or Path(source).expanduser().exists()
    try:
        with urlopen(Request(source, method="HEAD"), timeout=10):  # noqa: S310
            return True
    except HTTPError as error:
        return error.code in (400, 403, 405)  # the server answers, but doesn't like HEAD
    except (OSError, ValueError):
        return False


def escape(name: str) -> str:
    """Return a class name as the URL of `patterns:` takes it."""
    return name.replace("%", "%25").replace(",", "%2C").replace("|", "%7C")


def quote(text: str) -> str:
    """Return a text as YAML."""
    return "'" + text.replace("'", "''") + "'"


def set_value(text: str, key: str, value: str) -> str:
    """Set a key of a YAML file, and keep its comment."""
    pattern = re.compile(
        rf"^( *{key}:)(?: +(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s#][^#\n]*?))?( +#.*)?$", re.MULTILINE
    )
    text, count = pattern.subn(lambda match: f"{match[1]} {value}{match[2] or ''}", text, count=1)
    if not count:
        raise ProjectError(f"the template's configuration has no key {key}")
    return text


def format_code(target: Path) -> None:
    """Sort imports and wrap lines again: both depend on the name of the package."""
    ruff = shutil.which("ruff")
    for folder in ("bin", "Scripts"):
        for path in (ROOT / ".venv" / folder).glob("ruff*"):
            ruff = str(path)
    with tempfile.TemporaryDirectory() as temp_dir:
        ruff = ruff or install_ruff(temp_dir)
        run(target, ruff, "check", "--quiet", "--fix", "--exit-zero", ".")
        run(target, ruff, "format", "--quiet", ".")


def install_ruff(folder: str) -> str:
    """Install the pinned ruff into a folder; return its program's path."""
    pinned = re.search(r"^ruff==[\d.]+", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    options = ("--quiet", "--disable-pip-version-check", "--target", folder)
    run(ROOT, sys.executable, "-m", "pip", "install", *options, pinned[0])
    return str(next(path for path in Path(folder, "bin").iterdir() if path.stem == "ruff"))


def commit(folder: Path, message: str) -> None:
    """Commit all files; with a neutral author where git has none."""
    git(folder, "add", "--all")
    identity = []
    if not git(folder, "config", "--default", "", "user.email"):
        identity = ["-c", "user.name=new_project", "-c", "user.email=new_project@localhost"]
    git(folder, *identity, "commit", "--quiet", "--message", message)


def template_commit() -> str:
    """Return the commit of the template, abbreviated."""
    return git(ROOT, "rev-parse", "--short", "HEAD").strip()


def git(folder: Path, *command: str) -> str:
    """Run git in a folder, and return what it prints."""
    return run(folder, "git", *command)


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder, and return what it prints."""
    result = subprocess.run(command, cwd=folder, check=True, capture_output=True, encoding="utf-8")
    return result.stdout


if __name__ == "__main__":
    main()
