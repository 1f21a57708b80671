"""Rules for the source as a whole: layers, imports without effects, and dvc.yaml."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from cnnClassifier.cli import STAGES
from cnnClassifier.config.configuration import USERS
from cnnClassifier.entity import config_entity
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
MODULES = {}
for path in sorted(SRC.glob("*/**/*.py")):
    name = ".".join(path.relative_to(SRC).with_suffix("").parts)
    if path.name != "__init__.py" or not name.startswith("cnnClassifier"):
        MODULES[name.removesuffix(".__init__")] = path
# Packages of synthetic images, which a project may delete.
GENERATORS = [name for name in ("ct_phantom", "image_patterns") if (SRC / name).is_dir()]
# The layers that each layer may import besides itself.
LAYERS = {
    "utils": set(),
    "entity": {"utils"},
    "config": {"entity", "utils"},
    "imaging": {"entity", "utils"},
    "dataset": {"entity", "imaging", "utils", *GENERATORS},
    "network": {"entity", "utils"},
    "evaluation": {"entity", "utils"},
    "tracking": {"entity", "utils"},
    "tuning": {"entity", "utils"},
    "components": {
        *("dataset", "entity", "evaluation", "imaging", "network", "tracking", "tuning", "utils")
    },
    "pipeline": {"components", "config"},
    "cli": {"components", "config", "evaluation", "pipeline", "tracking", "utils"},
    "serving": {"entity", "evaluation", "imaging", "network", "tracking", "utils"},
    **{name: set() for name in GENERATORS},
}
BACKENDS = ("tensorflow", "jax", "torch")
HEAVY = (*BACKENDS, "keras")

DVC_STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MODULE_OF = {stage: f"cnnClassifier.pipeline.{name}" for stage, name in STAGES.items()}
# Layers that can't change the outputs of a stage: the values of the configuration are watched as
# params, and MLflow receives copies of the outputs.
NOT_WATCHED = {"config", "tracking"}
PARALLEL = config_entity.ParallelConfig.fields_by_key()
# Settings that can't change the outputs of a stage: paths (dvc.yaml has them as deps and outs),
# timeouts,
# limits and where the work runs.
NO_PARAMS = {
    "data_ingestion": {
        "data_ingestion.download_dir",
        "data_ingestion.max_unpacked_bytes",
        "data_ingestion.connect_timeout_s",
        "data_ingestion.read_timeout_s",
        "data_ingestion.retries",
    },
    "data_validation": {"data_ingestion.data_dir", *PARALLEL},
    "prepare_base_model": set(),
    "training": {
        "data_ingestion.data_dir",
        "data_validation.manifest_path",
        "prepare_base_model.updated_base_model_path",
        "training.cache",
        "training.cache_dir",
        *PARALLEL,
        "distributed.processes",
        "distributed.process",
        "distributed.coordinator",
        "distributed.connect_timeout_s",
    },
    "evaluation": {
        "data_ingestion.data_dir",
        "data_validation.manifest_path",
        "data_validation.report_path",
        "training.bundle_dir",
        *PARALLEL,
    },
}


def layer(name):
    """The package of a module: a generator, or one below `cnnClassifier`."""
    return name.removeprefix("cnnClassifier.").split(".")[0]


@cache
def syntax_tree(name):
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported_names(nodes):
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@cache
def imports(name):
    """The project's modules that a module imports, at its top or inside of a function."""
    return imported_names(ast.walk(syntax_tree(name))) & set(MODULES)


@cache
def reachable(name):
    found, pending = {name}, [name]
    while pending:
        new = imports(pending.pop()) - found
        found |= new
        pending += new
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_layers_and_have_no_cycles(name):
    assert layer(name) in LAYERS
    for imported in imports(name):
        assert layer(imported) in LAYERS[layer(name)] | {layer(name)}, imported
        assert name not in reachable(imported), f"{imported} imports {name} in turn"
    if layer(name) == "serving":
        layers = {layer(module) for module in reachable(name)}
        assert layers.isdisjoint({"components", "config", "dataset"})
        allowed = {"cnnClassifier.tracking.model_poller", "cnnClassifier.tracking.connection"}
        assert {used for used in imports(name) if layer(used) == "tracking"} <= allowed


def test_one_module_knows_keras_backends():
    users = set()
    for name in MODULES:
        packages = {used.split(".")[0] for used in imported_names(ast.walk(syntax_tree(name)))}
        if packages & set(BACKENDS):
            users.add(name)
    assert users == {"cnnClassifier.network.backend"}


@pytest.mark.parametrize("generator", GENERATORS)
def test_synthetic_images_are_imported_in_one_place(generator):
    names = [name for name in MODULES if layer(name) != generator]
    assert sum(any(layer(used) == generator for used in imports(name)) for name in names) <= 1


IMPORT_ALL = """
import contextlib, importlib, os, sys
for name in {foreign!r}:
    with contextlib.suppress(ModuleNotFoundError):  # a class or a function
        importlib.import_module(name)
environment, seen = dict(os.environ), []
changes = ["os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.putenv", "os.unsetenv"]

def watch(event, arguments):
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & writing
    if opened or event in changes or event.startswith(("socket.", "subprocess.", "os.system")):
        seen.append((event, str(arguments)))

sys.addaudithook(watch)
for name in {modules!r}:
    before = len(seen)
    importlib.import_module(name)
    assert seen[before:] == [], (name, seen[before:])
assert dict(os.environ) == environment
heavy = [name for name in {heavy!r} if name in sys.modules]
assert not heavy, heavy
"""


def test_imports_have_no_effects_and_load_no_tensorflow(tmp_path):
    foreign = set()
    for name in MODULES:
        foreign |= imported_names(syntax_tree(name).body)
    foreign = sorted(name for name in foreign if not name.startswith(("cnn", "__", *GENERATORS)))
    script = IMPORT_ALL.format(foreign=foreign, modules=list(MODULES), heavy=HEAVY)
    script = f"import sys; sys.path.insert(0, {str(SRC)!r})\n{script}"
    command = [sys.executable, "-B", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_used():
    """A field that no code reads would be a parameter without an effect."""
    names = set()
    for path in (*MODULES.values(), ROOT / "app.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Dict):  # the gates are read by their names
                names |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    for entity in vars(config_entity).values():
        if not isinstance(entity, type) or not issubclass(entity, config_entity.Settings):
            continue
        unused = entity.model_fields.keys() - names
        # INCLUDE_TOP has one valid value; `views` and `stops` are computed from these two.
        assert unused <= {"include_top", "enabled", "on_failure"}, entity


@pytest.mark.parametrize("stage", DVC_STAGES)
def test_a_stage_lists_the_code_that_it_runs_and_no_other(stage):
    expected = set()
    for name in reachable(MODULE_OF[stage]):
        path = MODULES[name].relative_to(ROOT)
        if layer(name) in ("components", "pipeline"):
            expected.add(str(path))
        elif layer(name) not in NOT_WATCHED:
            expected.add("/".join(path.parts[: 2 if layer(name) in GENERATORS else 3]))
    listed = {path for path in DVC_STAGES[stage]["deps"] if path.startswith("src/")}
    assert listed == expected, f"dvc.yaml: add {expected - listed}, remove {listed - expected}"


@pytest.mark.parametrize("stage", DVC_STAGES)
def test_a_stage_lists_the_settings_that_it_uses_and_no_other(stage):
    keys = next(entity for name, entity in USERS if name == stage).fields_by_key().keys()
    expected = keys - NO_PARAMS[stage]
    listed = set()
    for item in DVC_STAGES[stage]["params"]:
        for name in [item] if isinstance(item, str) else next(iter(item.values())):
            # A section stands for all of its keys that the stage uses.
            listed |= {key for key in keys if key.startswith(f"{name}.")} or {name}
    assert listed == expected, f"dvc.yaml: add {expected - listed}, remove {listed - expected}"


def test_stages_exchange_the_files_that_the_configuration_names():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    manifest, report, base, updated = (
        config[section][key]
        for section, key in (
            ("data_validation", "manifest_path"),
            ("data_validation", "report_path"),
            ("prepare_base_model", "base_model_path"),
            ("prepare_base_model", "updated_base_model_path"),
        )
    )
    feedback = config["data_ingestion"]["feedback_dir"]
    assert (ROOT / feedback).is_dir()  # DVC fails where a dependency is missing
    data, bundle = config["data_ingestion"]["data_dir"], config["training"]["bundle_dir"]
    validation = str(Path(manifest).parent)
    assert validation == str(Path(report).parent)
    actual = {}
    for name, stage in DVC_STAGES.items():
        inputs = [path for path in stage["deps"] if not path.startswith("src/")]
        actual[name] = (inputs, [next(iter(out)) for out in stage["outs"]])
    assert actual == {  # dependencies and outputs
        "data_ingestion": ([feedback], [data]),
        "data_validation": ([data], [validation]),
        "prepare_base_model": ([manifest], [base, updated]),
        "training": ([data, manifest, updated], [bundle]),
        "evaluation": ([data, validation, bundle], [config["evaluation"]["root_dir"]]),
    }


def test_dvc_runs_the_commands_of_the_command_line():
    commands = {name: f"python main.py --only {name}" for name in STAGES}
    assert {name: stage["cmd"] for name, stage in DVC_STAGES.items()} == commands
