"""What holds for the source as a whole: layers, imports without effects, and DVC's list of what a stage depends on."""

import ast
import copy
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from cnnClassifier.config.configuration import ConfigurationManager
from tests.config.test_configuration import OTHER, SHIPPED
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts): path
    for path in sorted(SRC.glob("cnnClassifier/**/*.py"))
    if path.name != "__init__.py"
}

# Which layers the modules of a layer may import; each also its own.
LAYERS = {
    "utils": set(),
    "entity": {"utils"},
    "config": {"entity", "utils"},
    "imaging": {"entity", "utils"},
    "dataset": {"entity", "imaging", "utils"},
    "network": {"entity", "utils"},
    "evaluation": {"entity", "utils"},
    "tracking": {"entity", "utils"},
    "tuning": {"entity", "utils"},
    "components": {
        "evaluation",
        "dataset",
        "entity",
        "imaging",
        "network",
        "tracking",
        "tuning",
        "utils",
    },
    "pipeline": {"evaluation", "components", "config", "entity", "tracking", "utils"},
    "serving": {"entity", "evaluation", "imaging", "network", "tracking", "utils"},
}
HEAVY = ("tensorflow", "keras")

# Stands in a file of its own, so that `dvc repro` without a target leaves it alone.
CROSSVALIDATION = ROOT / "config/crossvalidation/dvc.yaml"
STAGES = {
    "data_ingestion": "s1_data_ingestion",
    "data_validation": "s1_data_validation",
    "prepare_base_model": "s2_prepare_base_model",
    "training": "s3_training",
    "evaluation": "s4_evaluation",
}
# Keys that reach a stage's entity and yet aren't among its params: they say where things lie, how long to wait, or how
# much may be taken, and leave what comes out as it is. Paths between stages stand in dvc.yaml as deps and outs.
NO_PARAM = {
    "data_ingestion": {
        "data_ingestion.download_dir",
        "data_ingestion.max_unpacked_bytes",
        "data_ingestion.connect_timeout_s",
        "data_ingestion.read_timeout_s",
        "data_ingestion.retries",
    },
    "data_validation": {"data_ingestion.data_dir"},
    "prepare_base_model": set(),
    "training": {
        "data_ingestion.data_dir",
        "data_validation.manifest_path",
        "prepare_base_model.updated_base_model_path",
        "training.cache_dir",
    },
    "evaluation": {
        "data_ingestion.data_dir",
        "data_validation.manifest_path",
        "data_validation.report_path",
        "training.bundle_dir",
    },
}


@cache
def imports(name, lazily=True):
    """Every module of the project that a module imports: at its top, or anywhere in it."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if lazily else tree.body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


def foreign(name):
    """Top packages of others that a module imports at its top."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    names = [
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    ]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {found for found in names if not found.startswith("cnnClassifier")}


@cache
def closure(name):
    found, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports(module)
    return found


def layer(name):
    return name.split(".")[1]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards_and_never_round(name):
    assert layer(name) in LAYERS
    for imported in imports(name):
        assert layer(imported) in LAYERS[layer(name)] | {layer(name)}, imported
        assert name not in closure(imported), f"{imported} imports {name} in turn"
    if layer(name) == "serving":
        assert not [
            module
            for module in closure(name)
            if layer(module) in {"components", "dataset", "config"}
        ]


def test_the_layers_themselves_have_an_order():
    below = {name: set(names) for name, names in LAYERS.items()}
    while below:
        ground = {name for name, names in below.items() if not names & set(below)}
        assert ground, f"a circle among {sorted(below)}"
        below = {name: names for name, names in below.items() if name not in ground}


IMPORT_ALL = """
import importlib, os, sys
for name in {foreign!r}:
    importlib.import_module(name)
environment, seen = dict(os.environ), []

def watch(event, arguments):
    # A file opened for writing, anything made or removed, a variable set, a connection, another process.
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in {watched!r} or event.startswith(("socket.", "subprocess.")):
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
WATCHED = [
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.putenv",
    "os.unsetenv",
    "subprocess.Popen",
    "os.system",
]


def test_importing_has_no_effect_and_brings_no_tensorflow(tmp_path):
    others = sorted(set().union(*(foreign(name) for name in MODULES)) - {"__future__"})
    script = IMPORT_ALL.format(foreign=others, modules=list(MODULES), watched=WATCHED, heavy=HEAVY)
    command = [
        sys.executable,
        "-B",
        "-c",
        f"import sys; sys.path.insert(0, {str(SRC)!r})\n{script}",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def dvc():
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def params_of(stage):
    """Keys of each file that DVC watches for a stage."""
    found = {"params": set(), "config": set()}
    for item in stage["params"]:
        if isinstance(item, str):
            found["params"].add(item)
        else:
            for path, keys in item.items():
                found[Path(path).stem] |= set(keys)
    return found


def test_the_stages_are_those_of_the_command_line(dvc):
    assert list(dvc) == list(STAGES)
    assert [stage["cmd"] for stage in dvc.values()] == [
        f"python main.py --only {name}" for name in STAGES
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_that_it_runs_and_no_other(dvc, stage):
    listed = {path for path in dvc[stage]["deps"] if path.startswith("src/cnnClassifier/")}
    modules = {MODULES[name] for name in closure(f"cnnClassifier.pipeline.{STAGES[stage]}")}
    pages = {
        module.with_suffix(".html") for module in modules if module.with_suffix(".html").exists()
    }
    if any(module.name == "model_card.py" for module in modules):
        pages |= set(SRC.glob("cnnClassifier/evaluation/*.j2"))
    assert listed == {str(path.relative_to(ROOT)) for path in modules | pages}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_keys_that_it_is_handed_and_no_other(
    dvc, stage, tmp_path, monkeypatch
):
    for name in ("MLFLOW_TRACKING_URI", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)

    def entity(which=None, key=None):
        for name, shipped in SHIPPED.items():
            content = copy.deepcopy(shipped)
            if name == which:
                section, _, leaf = key.rpartition(".")
                (content[section] if section else content)[leaf] = OTHER[which][key]
            (tmp_path / name).write_text(yaml.safe_dump(content), encoding="utf-8")
        found = getattr(ConfigurationManager(tmp_path / "config", tmp_path / "params"), stage)()
        if stage == "evaluation":
            # That it logs all of params.yaml makes it depend on none: what they change comes with the bundle.
            found = replace(found, tracking=replace(found.tracking, params={}))
        return asdict(found)

    plain = entity()
    watched = params_of(dvc[stage])
    for which, values in OTHER.items():
        reaching = {key for key in values if key != "INCLUDE_TOP" and entity(which, key) != plain}
        listed = {
            key
            for key in values
            if key in watched[which] or (key.partition(".")[0] in watched[which] and "." in key)
        }
        if stage == "prepare_base_model":
            listed.discard("INCLUDE_TOP")  # has one valid value, and stands there for the reader
        assert listed | (NO_PARAM[stage] & set(values)) == reaching
        assert not listed & NO_PARAM[stage]
        for key in watched[which]:
            assert key in values or any(other.startswith(f"{key}.") for other in values), (
                f"no such key: {key}"
            )


RERUN = {
    "LEARNING_RATE": ["training", "evaluation"],
    "EPOCHS": ["training", "evaluation"],
    "HEAD": ["prepare_base_model", "training", "evaluation"],
    "SPLIT": ["data_validation", "training", "evaluation"],
    "FOLDS": [],
    "data_ingestion.source_URL": ["data_ingestion", "data_validation", "training", "evaluation"],
    "gates.min_roc_auc": ["evaluation"],
    "serving.port": [],
}


def test_dvc_sees_a_key_change_for_the_stages_that_list_it(dvc, dvc_repo, tmp_path, monkeypatch):
    import networkx
    from dvc.dependency.param import ParamsDependency

    monkeypatch.chdir(tmp_path)
    for path in [
        path
        for stage in dvc.values()
        for path in (*stage["deps"], *(next(iter(o)) for o in stage["outs"]))
    ]:
        Path(path).mkdir(parents=True, exist_ok=True)  # what stands there is of no matter
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    files = {"params": Path("params.yaml"), "config": Path("config/config.yaml")}
    files["config"].parent.mkdir()

    def write(which, content):
        files[which].write_text(yaml.safe_dump(content), encoding="utf-8")

    for which, content in SHIPPED.items():
        write(which, content)
    dvc_repo.init(no_scm=True)
    with dvc_repo() as repo:
        repo.commit(force=True)
    with dvc_repo() as repo:
        watching = [
            (stage, dep)
            for stage in repo.index.stages
            for dep in stage.deps
            if isinstance(dep, ParamsDependency)
        ]
        assert not [stage.name for stage, dep in watching if dep.status()]
        for which, values in OTHER.items():
            for key, value in values.items():
                section, _, leaf = key.rpartition(".")
                content = copy.deepcopy(SHIPPED[which])
                (content[section] if section else content)[leaf] = value
                write(which, content)
                changed = {stage for stage, dep in watching if dep.status()}
                listed = {name for name in dvc if {key, section} & params_of(dvc[name])[which]}
                assert {stage.name for stage in changed} == listed, key
                if key in RERUN:
                    after = changed.union(
                        *(networkx.ancestors(repo.index.graph, stage) for stage in changed)
                    )
                    assert [
                        name for name in dvc if name in {stage.name for stage in after}
                    ] == RERUN[key]
            write(which, SHIPPED[which])


def test_paths_between_the_stages_are_the_configurations(dvc):
    config = SHIPPED["config"]
    data, manifest = (
        config["data_ingestion"]["data_dir"],
        config["data_validation"]["manifest_path"],
    )
    base = [
        config["prepare_base_model"][key] for key in ("base_model_path", "updated_base_model_path")
    ]
    bundle, evaluation = config["training"]["bundle_dir"], config["evaluation"]["root_dir"]
    outs = {name: [next(iter(out)) for out in stage["outs"]] for name, stage in dvc.items()}
    assert outs == {
        "data_ingestion": [data],
        "data_validation": [str(Path(manifest).parent)],
        "prepare_base_model": base,
        "training": [bundle],
        "evaluation": [evaluation],
    }
    report = config["data_validation"]["report_path"]
    assert Path(report).parent == Path(manifest).parent
    deps = {
        name: [path for path in stage["deps"] if not path.startswith("src/")]
        for name, stage in dvc.items()
    }
    assert deps == {
        "data_ingestion": [],
        "data_validation": [data],
        "prepare_base_model": [],
        "training": [data, manifest, base[1]],
        "evaluation": [data, report, manifest, bundle],
    }


def test_crossvalidation_depends_on_what_training_does_and_on_its_folds(dvc):
    stage = yaml.safe_load(CROSSVALIDATION.read_text(encoding="utf-8"))["stages"]["crossvalidation"]
    modules = {MODULES[name] for name in closure("cnnClassifier.pipeline.crossvalidation")}
    pages = {path.with_suffix(".html") for path in modules if path.with_suffix(".html").exists()}
    listed = {path for path in stage["deps"] if path.startswith("src/")}
    assert listed == {str(path.relative_to(ROOT)) for path in modules | pages}
    training = params_of(dvc["training"])["params"] - {"MIN_SENSITIVITY", "OOD_QUANTILE"}
    assert params_of(stage)["params"] == training | {"FOLDS", "FOLD_SEEDS"}
    assert (CROSSVALIDATION.parent / stage["wdir"]).resolve() == ROOT
