"""From an image file's bytes to a prediction."""

from pathlib import Path

import numpy as np

from cnnClassifier.entity.bundle import ModelBundle
from cnnClassifier.entity.dicom_options import DicomOptions
from cnnClassifier.entity.prediction import Prediction
from cnnClassifier.imaging.decode import decode
from cnnClassifier.imaging.prepare import resize
from cnnClassifier.network.engine import Engine

_DEFAULT_OPTIONS = DicomOptions()


class Predictor:
    """A trained model, ready for image files.

    Args:
        bundle_dir: a folder with `model.keras` and `model.json`.
        max_pixels: limit for each image.
        evaluation_dir: with the evaluation's decision on int8; None never uses int8.

    Raises:
        BundleError: there is no usable model.
    """

    def __init__(
        self, bundle_dir: Path, max_pixels: int, evaluation_dir: Path | None = None
    ) -> None:
        bundle = ModelBundle.read(bundle_dir)
        self._engine = Engine(bundle_dir, int8=bundle.accepts_int8(evaluation_dir))
        self._max_pixels = max_pixels

    @property
    def bundle(self) -> ModelBundle:
        """Return the description of the model."""
        return self._engine.bundle

    @property
    def engine(self) -> str:
        """Return what computes: `keras-openvino` or `int8`."""
        return self._engine.name

    def predict(self, data: bytes, options: DicomOptions = _DEFAULT_OPTIONS) -> Prediction:
        """Classify one image file.

        Args:
            data: a PNG, JPEG, BMP, GIF, TIFF, WebP or DICOM file.
            options: window and frame of a DICOM file; `auto` is the window of the training data.

        Raises:
            ImageError: the bytes can't be used as an image.
        """
        bundle = self.bundle
        decoded = decode(data, self._max_pixels, options.or_window(bundle.dicom_window))
        image = resize(decoded.pixels, bundle.image_size)
        result = self._engine.inspect(image[np.newaxis])
        probabilities = dict(zip(bundle.classes, result.probabilities[0].tolist(), strict=True))
        class_name = bundle.called(list(probabilities.values()))
        distance = float(result.distances[0])
        return Prediction(
            label=bundle.label(class_name),
            class_name=class_name,
            probabilities=probabilities,
            model_id=bundle.model_id,
            unfamiliar=distance > bundle.unfamiliar_limit,
            distance=distance,
            unfamiliar_limit=bundle.unfamiliar_limit,
            map=result.maps[0],
            dicom=decoded.dicom,
            pixels=decoded.pixels,
        )
