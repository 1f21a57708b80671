"""Load a logged model in MLflow: image files in, a table of predictions out.

In a logged model this file is on its own, beside an archive of the modules that it needs.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd

_MAX_PIXELS = 25_000_000


class ImageClassifier:
    """The pyfunc model; it predicts as the web page does.

    Args:
        model_dir: holds the bundle.
    """

    def __init__(self, model_dir: Path) -> None:
        from cnnClassifier.entity.bundle import ModelBundle
        from cnnClassifier.serving.predictor import Predictor

        self._predictor = Predictor(ModelBundle.read(model_dir), _MAX_PIXELS)

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify the image files in the column `image`.

        Returns:
            One row for each: class, probability of each class, whether the image is
            out-of-distribution, and the id of the model.

        Raises:
            ImageError: a file can't be read as an image.
        """
        rows = []
        for data in table["image"]:
            prediction = self._predictor.predict(data)
            row = {"class": prediction.class_name, **prediction.probabilities}
            row |= {"unfamiliar": prediction.out_of_distribution, "model_id": prediction.model_id}
            rows.append(row)
        return pd.DataFrame(rows)


def _load_pyfunc(path: str) -> ImageClassifier:
    sys.path.insert(0, str(Path(__file__).with_name("cnnClassifier.zip")))
    return ImageClassifier(Path(path))
