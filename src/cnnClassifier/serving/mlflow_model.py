"""What MLflow loads a logged model with: image files in, a table of predictions out.

In a logged model this file stands alone, beside an archive of the modules that it needs.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd

_MOST_PIXELS = 50_000_000


class ImageClassifier:
    """Answer for MLflow as the page answers people."""

    def __init__(self, folder: Path) -> None:
        from cnnClassifier.entity.bundle import ModelBundle
        from cnnClassifier.serving.predictor import Predictor

        self._predictor = Predictor(ModelBundle.read(folder), _MOST_PIXELS)

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify the image files in the column `image`.

        Returns:
            A row for each: class, its and the others' probabilities, whether it is unlike the training images.

        Raises:
            ImageError: bytes can't be used as an image.
        """
        said = [self._predictor.predict(data) for data in table["image"]]
        return pd.DataFrame(
            {
                "class": p.class_name,
                **p.probabilities,
                "unfamiliar": p.out_of_distribution,
                "model_id": p.model_id,
            }
            for p in said
        )


def _load_pyfunc(path: str) -> ImageClassifier:
    sys.path.insert(0, str(Path(__file__).with_name("cnnClassifier.zip")))
    return ImageClassifier(Path(path))
