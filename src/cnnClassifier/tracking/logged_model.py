"""A bundle as an MLflow model: `mlflow.pyfunc.load_model` and `mlflow models serve` answer as the page does."""

import ast
import io
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from PIL import Image

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.disclaimers import DISCLAIMER

_PACKAGE = Path(__file__).resolve().parents[1]
# Named, not imported: they are copied into the model and run where it is loaded.
_ANSWERS = "cnnClassifier.serving.predictor"
_LOADER = _PACKAGE / "serving/mlflow_model.py"
_UNSAID = ("openvino", "scipy")  # Keras takes them in where it runs on OpenVINO


def build(bundle_dir: Path, folder: Path) -> Path:
    """Make the folder of an MLflow model; the bundle's files stand in it as they are.

    Args:
        bundle_dir: what training left.
        folder: doesn't exist yet.

    Returns:
        `folder`.
    """
    bundle = ModelBundle.read(bundle_dir)
    columns = [ColSpec("string", "class"), *(ColSpec("double", name) for name in bundle.classes)]
    outputs = Schema([*columns, ColSpec("boolean", "unfamiliar"), ColSpec("string", "model_id")])
    modules = dict(_modules_of(_ANSWERS))
    with tempfile.TemporaryDirectory() as scratch:
        # One file instead of twenty: a server takes each in a request of its own.
        code = Path(scratch) / f"{_PACKAGE.name}.zip"
        with zipfile.ZipFile(code, "w") as file:
            for path in modules.values():
                file.write(path, path.relative_to(_PACKAGE.parent))
        mlflow.pyfunc.save_model(
            folder,
            loader_module=_LOADER.stem,
            code_paths=[str(code), str(_LOADER)],
            signature=ModelSignature(Schema([ColSpec("binary", "image")]), outputs),
            input_example=pd.DataFrame({"image": [_grey_picture()]}),
            pip_requirements=_requirements([_LOADER, *modules.values()]),
            metadata={
                "intended_use": DISCLAIMER,
                "synthetic": bundle.synthetic,
                "model_sha256": bundle.model_sha256,
            },
        )
    for name in bundle.parts:
        shutil.copyfile(bundle_dir / name, folder / name)
    return folder


def _modules_of(name: str) -> Iterator[tuple[str, Path]]:
    """Yield every module of this package that a module needs, itself and the packages' own files among them."""
    seen, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        inside = _PACKAGE.joinpath(*module.split(".")[1:])
        path = (
            inside.with_suffix(".py")
            if inside.with_suffix(".py").is_file()
            else inside / "__init__.py"
        )
        if module in seen or not path.is_file():
            continue
        seen.add(module)
        yield module, path
        waiting += [found for found in _imported(path) if found.startswith(f"{_PACKAGE.name}.")]
        if "." in module:
            waiting.append(module.rpartition(".")[0])


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _requirements(paths: Iterable[Path]) -> list[str]:
    """Return the pins of all packages that the modules import, as they are installed here."""
    owners = packages_distributions()
    tops = {name.partition(".")[0] for path in paths for name in _imported(path)}
    names = {owner for top in tops if top in owners for owner in owners[top][:1]} - {_PACKAGE.name}
    return sorted(f"{name}=={version(name)}" for name in {*names, *_UNSAID})


def _grey_picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32), 128, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
