"""Make an MLflow model of a bundle, for `mlflow.pyfunc.load_model` and `mlflow models serve`."""

import io
import shutil
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from PIL import Image

from cnnClassifier.entity.bundle import ModelBundle

_PACKAGE_DIR = Path(__file__).resolve().parents[1]
# Named, not imported: it is copied into the model and runs where that is loaded.
_LOADER = _PACKAGE_DIR / "serving/mlflow_model.py"
# What loader and predictor import. Keras imports SciPy on OpenVINO.
_REQUIREMENTS = (
    *("ensure", "keras", "numpy", "openvino", "pandas", "pillow", "pydantic", "pydicom"),
    *("python-box", "pyyaml", "scipy"),
)


def build(bundle_dir: Path, model_dir: Path, disclaimer: str) -> Path:
    """Make the folder of an MLflow model, with the files of the bundle and the code to load it.

    Args:
        bundle_dir: output of training.
        model_dir: doesn't exist yet.
        disclaimer: of the project.

    Returns:
        `model_dir`.
    """
    bundle = ModelBundle.read(bundle_dir)
    probabilities = [ColSpec("double", name) for name in bundle.classes]
    more = (ColSpec("boolean", "unfamiliar"), ColSpec("string", "model_id"))
    outputs = Schema([ColSpec("string", "class"), *probabilities, *more])
    image = io.BytesIO()
    Image.new("L", (32, 32), 128).save(image, "PNG")
    with tempfile.TemporaryDirectory() as temp_dir:
        # One archive: a server receives each file in a request of its own.
        archive_path = Path(temp_dir) / f"{_PACKAGE_DIR.name}.zip"
        with zipfile.ZipFile(archive_path, "w") as archive:
            for path in sorted(_PACKAGE_DIR.rglob("*.py")):
                archive.write(path, path.relative_to(_PACKAGE_DIR.parent))
        mlflow.pyfunc.save_model(
            model_dir,
            loader_module=_LOADER.stem,
            code_paths=[str(archive_path), str(_LOADER)],
            signature=ModelSignature(Schema([ColSpec("binary", "image")]), outputs),
            input_example=pd.DataFrame({"image": [image.getvalue()]}),
            pip_requirements=[f"{name}=={version(name)}" for name in _REQUIREMENTS],
            metadata={
                "intended_use": disclaimer,
                "synthetic": bundle.synthetic,
                "model_sha256": bundle.model_sha256,
            },
        )
    for name in bundle.parts:
        shutil.copyfile(bundle_dir / name, model_dir / name)
    return model_dir
